"""``before_sql`` and ``after_sql``: in the transaction of the scan, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import retl
from retl import events
from retl.connectors import DuckDB, LocalFiles
from tests.support import Command, Database, Recorder, Warehouse

LOG = "CREATE TABLE log (what TEXT, rows INTEGER)"
BEFORE = "INSERT INTO log SELECT 'before', COUNT(*) FROM orders"
AFTER = "INSERT INTO log SELECT 'after', COUNT(*) FROM orders"
ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT, updated_at TIMESTAMP)"


def pipeline(source: Any, target: Any, **words: Any) -> retl.Pipeline:
    table = retl.Table("orders", **{"before_sql": BEFORE, "after_sql": [AFTER], **words})
    return retl.Pipeline("orders", source=source.source(), target=target, tables=[table])


@pytest.fixture
def log(app: Database) -> Database:
    app.run(LOG, ORDERS, "INSERT INTO orders VALUES (99, 'old', '2020-01-01')")
    return app


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap", "mirror"])
async def test_they_see_the_table_before_and_after(warehouse: Warehouse, log: Database, pre_action: str) -> None:
    report = await pipeline(warehouse, log.target(), pre_action=pre_action).run_once()
    assert report.ok
    kept = 1 if pre_action == "none" else 0
    assert log.run("SELECT * FROM log") == [("before", 1), ("after", 10 + kept)]


@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap", "mirror"])
async def test_one_that_fails_undoes_what_it_belongs_to(warehouse: Warehouse, log: Database, pre_action: str) -> None:
    words = {"pre_action": pre_action, "max_rejects": 5}
    for word in ("before_sql", "after_sql"):
        job = pipeline(warehouse, log.target(), **words, **{word: [AFTER, "INSERT INTO nothing VALUES (1)"]})
        with pytest.raises(retl.TargetError, match=rf"{word}\[1\] failed: .*nothing.*correct the statement"):
            await job.run_once()
        if pre_action in ("swap", "mirror") or word == "before_sql":
            assert log.rows("orders", "id") == [(99,)], (pre_action, word)
    assert ("after", 10) not in log.run("SELECT * FROM log")
    await pipeline(warehouse, log.target(), **words).run_once()
    assert log.run("SELECT MIN(id), COUNT(*) FROM orders") == [(0, 10)]


async def test_each_scan_that_writes_ends_with_them_and_one_that_finds_nothing_new_does_not(
    warehouse: Warehouse, log: Database
) -> None:
    words = {"cursor": "updated_at", "before_sql": None}
    await pipeline(warehouse, log.target(), **words).run_once()
    await pipeline(warehouse, log.target(), **words).run_once()
    warehouse.run("INSERT INTO orders VALUES (10, 'new', TIMESTAMP '2024-02-01')")
    await pipeline(warehouse, log.target(), **words).run_once()
    for _ in range(3):  # the row at the watermark is written once more: then it is known
        await pipeline(warehouse, log.target(), **words).run_once()
    assert log.run("SELECT rows FROM log") == [(11,), (11,), (12,), (12,)]


async def test_what_a_scan_left_undone_the_next_one_does(warehouse: Warehouse, log: Database) -> None:
    """The last slice is committed, the end is not: the next scan finds nothing new, and ends it."""
    words = {"cursor": "updated_at", "before_sql": None, "slice_rows": 4}
    job = pipeline(warehouse, log.target(), **words, after_sql=[AFTER, "INSERT INTO nothing VALUES (1)"])
    with pytest.raises(retl.TargetError, match="nothing"):
        await job.run_once()
    assert (len(log.rows("orders")), log.run("SELECT * FROM log")) == (11, [])
    await pipeline(warehouse, log.target(), **words).run_once()
    assert log.run("SELECT * FROM log") == [("after", 11)]


async def test_so_it_is_where_nothing_new_is_left_to_read(app: Database, tmp_path: Path) -> None:
    """Of files: the file is in the manifest, so that the next scan has no slice at all."""
    app.run("CREATE TABLE log (what TEXT, rows INTEGER)")
    (tmp_path / "sales.csv").write_text("id,city\n1,Bern\n2,Rom\n")

    def job(*after: str) -> retl.Pipeline:
        table = retl.Table(
            "*.csv", to="sales", key="id", after_sql=["INSERT INTO log SELECT 'after', COUNT(*) FROM sales", *after]
        )
        return retl.Pipeline("sales", source=LocalFiles(str(tmp_path)), target=app.target(), tables=[table])

    with pytest.raises(retl.TargetError, match="nothing"):
        await job("INSERT INTO nothing VALUES (1)").run_once()
    assert (len(app.rows("sales")), app.run("SELECT * FROM log")) == (2, [])
    for _ in range(2):
        assert [scan.rows for scan in (await job().run_once()).scans] == [0]
        assert app.run("SELECT * FROM log") == [("after", 2)]


async def test_a_window_that_was_written_and_not_ended_is_not_taken_for_the_one_before(
    warehouse: Warehouse, log: Database
) -> None:
    async def scan(after: str = AFTER) -> None:
        words = {"cursor": "updated_at", "before_sql": None, "after_sql": after}
        await pipeline(warehouse, log.target(), **words).run_once()

    async def broken_off(city: str) -> None:
        warehouse.run(f"UPDATE orders SET city = '{city}' WHERE id = 9")
        with pytest.raises(retl.TargetError, match="nothing"):
            await scan("INSERT INTO nothing VALUES (1)")
        assert log.run("SELECT city FROM orders WHERE id = 9") == [(city,)]

    for _ in range(3):  # from now on what the window holds is known
        await scan()
    before = len(log.run("SELECT * FROM log"))
    await broken_off("other")
    await scan()
    assert len(log.run("SELECT * FROM log")) == before + 1
    for _ in range(2):
        await scan()
    await broken_off("third")
    warehouse.run("UPDATE orders SET city = 'other' WHERE id = 9")
    await scan()
    assert log.run("SELECT city FROM orders WHERE id = 9") == [("other",)]


async def test_a_scan_that_is_stopped_runs_none_and_the_one_that_ends_it_does(
    warehouse: Warehouse, log: Database
) -> None:
    job = pipeline(warehouse, log.target(), cursor="updated_at", slice_rows=3)
    Recorder(job).when(events.SliceCommitted, lambda _: job.stop())
    assert [scan.status for scan in (await job.run_once()).scans] == ["stopped"]
    stopped = len(log.rows("orders"))
    await pipeline(warehouse, log.target(), cursor="updated_at", slice_rows=3).run_once()
    assert 1 < stopped < 11
    assert log.run("SELECT * FROM log") == [("before", 1), ("before", stopped), ("after", 11)]


async def test_duckdb_runs_them_too(log: Database, tmp_path: Any) -> None:
    target = Warehouse(tmp_path / "target.duckdb")
    target.run(LOG, ORDERS)
    await pipeline(log, DuckDB(str(target.path)), pre_action="swap").run_once()
    assert target.run("SELECT * FROM log") == [("before", 0), ("after", 1)]
    job = pipeline(
        log, DuckDB(str(target.path)), pre_action="swap", before_sql=None, after_sql=[AFTER, "DROP TABLE nothing"]
    )
    log.run("INSERT INTO orders VALUES (1, 'new', '2024-01-01')")
    with pytest.raises(retl.TargetError, match=r"after_sql\[1\] failed"):
        await job.run_once()
    assert (target.run("SELECT id FROM orders"), len(target.run("SELECT * FROM log"))) == ([(99,)], 2)


def test_plan_shows_them_and_a_target_without_sql_refuses_them(
    warehouse: Warehouse, log: Database, command: Command, tmp_path: Any
) -> None:
    words = 'pre_action = "swap", before_sql = "DELETE FROM log", after_sql = ["SELECT 1; SELECT 2"]'
    text = (
        '[pipelines.shop]\nsource = { type = "duckdb", path = "warehouse.duckdb" }\n'
        f'target = {{ type = "sqlite", path = "app.db" }}\ntables = [{{ name = "orders", {words} }}]\n'
    )
    file = tmp_path / "jobs.toml"
    file.write_text(text)
    assert "more than one statement" in command("plan", code=2)
    file.write_text(text.replace("; SELECT 2", ""))
    shown = command("plan")
    assert shown.index("DELETE FROM log") < shown.index("CREATE TABLE") < shown.index("SELECT 1")


async def test_a_function_runs_no_sql(warehouse: Warehouse) -> None:
    from retl.connectors import FunctionTarget

    job = retl.Pipeline(
        "orders",
        source=warehouse.source(),
        target=FunctionTarget(lambda batch: None),
        state=retl.MemoryStore(),
        tables=[retl.Table("orders", after_sql=AFTER)],
    )
    heard = Recorder(job)
    with pytest.raises(retl.UnsupportedError, match="a function target runs no SQL"):
        await job.run_once()
    assert len(heard.of(events.RunFailed)) == 1
