"""A scan whose window holds only what it held the last time writes nothing, and misses nothing."""

from __future__ import annotations

import pytest

import retl
from tests.acceptance.test_scan_rules import expected, pipeline
from tests.support import Database, Warehouse

pytestmark = pytest.mark.anyio


def saved(app: Database) -> list[tuple[object, ...]]:
    """The checkpoints, and when they were saved: each commit leaves its trace here."""
    return app.run("SELECT table_name, body, updated_at FROM retl_checkpoints")


async def settled(
    warehouse: Warehouse, app: Database, table: retl.Table | None = None, **words: object
) -> retl.Pipeline:
    """A pipeline after a scan that brought rows, and one that brought none."""
    job = pipeline(warehouse, app, table, **words)
    await job.run_once()
    await job.run_once()
    return job


async def test_what_was_written_before_is_not_written_again(warehouse: Warehouse, app: Database) -> None:
    job = await settled(warehouse, app)
    before = saved(app)
    (report,) = (await job.run_once()).scans
    assert (report.status, report.rows, report.changed, report.unchanged) == ("done", 1, 0, 1)
    assert saved(app) == before and app.rows("orders") == expected(0, 9)


async def test_a_row_that_ties_with_the_watermark_is_still_seen(warehouse: Warehouse, app: Database) -> None:
    job = await settled(warehouse, app)
    warehouse.run("INSERT INTO orders VALUES (10, 'late', '2024-01-01 00:00:09')")
    (report,) = (await job.run_once()).scans
    assert (report.changed, report.unchanged) == (1, 1)
    assert app.rows("orders") == sorted([*expected(0, 9), (10, "late", "2024-01-01 00:00:09.000000")], key=repr)


@pytest.mark.parametrize("lookback", ["0s", "5s"])
async def test_a_row_that_changes_within_the_window_is_still_seen(
    warehouse: Warehouse, app: Database, lookback: str
) -> None:
    job = await settled(warehouse, app, retl.Table("orders", cursor="updated_at", lookback=lookback))
    warehouse.run("UPDATE orders SET city = 'changed' WHERE id = 9")
    (report,) = (await job.run_once()).scans
    assert report.changed == 1
    assert app.rows("orders", "id, city") == sorted([*((i, f"city {i}") for i in range(9)), (9, "changed")], key=repr)


async def test_another_process_goes_on_with_the_same_memory(warehouse: Warehouse, app: Database) -> None:
    await settled(warehouse, app)
    before = saved(app)
    await pipeline(warehouse, app).run_once()
    assert saved(app) == before


async def test_new_columns_and_a_new_choice_are_written(warehouse: Warehouse, app: Database) -> None:
    job = await settled(warehouse, app)
    warehouse.run("ALTER TABLE orders ADD COLUMN note VARCHAR DEFAULT 'x'")
    await job.run_once()
    assert app.run("SELECT note FROM orders WHERE id = 9") == [("x",)]
    table = retl.Table("orders", cursor="updated_at", expressions={"city": "upper(city)"})
    await pipeline(warehouse, app, table).run_once()
    assert app.run("SELECT city FROM orders WHERE id = 9") == [("CITY 9",)]


async def test_a_row_that_was_rejected_is_tried_again(warehouse: Warehouse, app: Database) -> None:
    app.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT CHECK (city <> 'city 9'), updated_at TIMESTAMP)")
    job = await settled(warehouse, app, max_rejects=1)
    (report,) = (await job.run_once()).scans
    assert (report.rejects, report.unchanged) == (1, 0)
    app.run("DROP TABLE orders", "CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT, updated_at TIMESTAMP)")
    app.run("INSERT INTO orders VALUES (1, 'city 1', '2024-01-01 00:00:01.000000')")
    await job.run_once()
    assert app.run("SELECT city FROM orders WHERE id = 9") == [("city 9",)]


async def test_a_window_that_cannot_be_compared_is_written_as_before(warehouse: Warehouse, app: Database) -> None:
    warehouse.run(
        "CREATE TABLE many AS SELECT i AS id, DATE '2024-01-01' AS day FROM range(1200) AS t(i)",
        "ALTER TABLE many ADD PRIMARY KEY (id)",
    )
    job = await settled(warehouse, app, retl.Table("many", cursor="day"))
    before = saved(app)
    (report,) = (await job.run_once()).scans
    assert (report.rows, report.unchanged) == (1200, 1200) and saved(app) != before


async def test_what_a_blacklist_held_back_is_written_once_it_is_lifted(warehouse: Warehouse, app: Database) -> None:
    await pipeline(warehouse, app).run_once()
    warehouse.run("UPDATE orders SET city = 'changed' WHERE id = 9")
    await settled(warehouse, app, blacklist=["UPDATE"])
    assert app.rows("orders") == expected(0, 9)
    await pipeline(warehouse, app).run_once()
    assert app.run("SELECT city FROM orders WHERE id = 9") == [("changed",)]
