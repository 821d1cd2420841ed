"""A backfill reads a range of the cursor again: exactly its rows, resumable, and the watermark does not move."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import ConfigError, events
from retl.connectors import IteratorSource
from tests.support import Database, Recorder, Row, Warehouse, running

DAY = [f"2024-01-{day:02d} 12:00:00" for day in range(1, 31)]


@pytest.fixture
def shop(tmp_path: Path) -> Database:
    """Three rows a day; the first of each day changed at noon, as the other two did."""
    shop = Database(tmp_path / "shop.db")
    shop.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, ts DATETIME NOT NULL, n INTEGER, v TEXT)")
    for number in range(90):
        shop.run("INSERT INTO orders VALUES (?, ?, ?, 'old')", values=(number, DAY[number // 3], number // 3))
    return shop


def pipeline(shop: Database, app: Database, **words: Any) -> retl.Pipeline:
    words = {"cursor": "ts", "slice_rows": 6, **words}
    return retl.Pipeline(
        "shop", source=shop.source(), target=app.target(), tables=[retl.Table("orders", **words)], interval="manual"
    )


async def loaded(shop: Database, app: Database, **words: Any) -> retl.Pipeline:
    """A pipeline that has scanned everything; since then every row has changed at the source, but for its cursor."""
    job = pipeline(shop, app, **words)
    await job.run_once()
    shop.run("UPDATE orders SET v = 'new'")
    return job


def new(app: Database) -> list[int]:
    return [key for (key,) in app.run("SELECT id FROM orders WHERE v = 'new' ORDER BY id")]


async def state(job: retl.Pipeline) -> tuple[str | None, Any]:
    checkpoint = (await job._store.load("shop"))["orders"]
    await job.aclose()
    return checkpoint.watermark, checkpoint.backfill


@pytest.mark.parametrize(
    ("since", "until", "first", "last"),
    [
        (DAY[9], DAY[12], 27, 35),
        ("2024-01-10", "2024-01-13", 27, 35),
        ("2024-01-10T12:00", "2024-01-10 12:00:01", 27, 29),
        (date(2024, 1, 10), datetime.fromisoformat(DAY[12]), 27, 35),
        (None, "2024-01-02", 0, 2),
        ("2024-01-29", None, 84, 89),
        ("2024-01-01", "2099-01-01", 0, 89),
    ],
    ids=str,
)
async def test_the_rows_of_a_range_are_read_again_and_no_other(
    shop: Database, app: Database, since: Any, until: Any, first: int, last: int
) -> None:
    job = await loaded(shop, app)
    report = await job.backfill("orders", since=since, until=until)
    assert new(app) == list(range(first, last + 1))
    (scan,) = report.scans
    assert (scan.mode, scan.rows, scan.changed) == ("backfill", last - first + 1, last - first + 1)
    assert scan.slices == -(-scan.rows // 6)
    assert (scan.watermark, await state(job)) == (DAY[29], (DAY[29], None))
    assert (await job.history())[0] == scan
    assert (await job.run_once()).scans[0].mode == "incremental"


async def test_a_cursor_of_numbers_is_read_by_numbers(shop: Database, app: Database) -> None:
    job = await loaded(shop, app, cursor="n")
    await job.backfill("orders", since=3, until=5)
    assert (new(app), await state(job)) == (list(range(9, 15)), ("29", None))
    with pytest.raises(ConfigError, match=r"shop / orders.*since is 'x', not a value.*give a whole number"):
        await job.backfill("orders", since="x", until=5)


async def test_a_backfill_that_is_interrupted_goes_on_where_it_stopped(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    Recorder(job).when(events.SliceCommitted, lambda _: job.stop())
    (scan,) = (await job.backfill("orders", since="2024-01-05", until="2024-01-15")).scans
    assert (scan.status, scan.rows, new(app)) == ("stopped", 6, list(range(12, 18)))
    watermark, backfill = await state(job)
    assert (watermark, backfill.done) == (DAY[29], DAY[5])
    shop.run("UPDATE orders SET v = 'newer'")
    # A scan in between leaves it alone, and another range takes its place.
    assert (await job.run_once()).scans[0].rows == 3
    assert (await state(job))[1] == backfill
    (rest,) = (await job.backfill("orders", since="2024-01-05", until="2024-01-15")).scans
    assert (rest.rows, new(app), (await state(job))[1]) == (24, list(range(12, 18)), None)
    assert app.run("SELECT COUNT(*) FROM orders WHERE v = 'newer'") == [(27,)]
    (whole,) = (await job.backfill("orders", since="2024-01-05", until="2024-01-15")).scans
    assert whole.rows == 30  # one that has ended begins anew


KILLED = """
import asyncio, os, sys
import retl
from retl import events
from retl.connectors import SQLite

job = retl.Pipeline("shop", source=SQLite(sys.argv[1]), target=SQLite(sys.argv[2]), interval="manual",
                    tables=[retl.Table("orders", cursor="ts", slice_rows=6)])
seen = []
def heed(event):
    seen.append(event)
    if sum(isinstance(one, events.SliceCommitted) for one in seen) == int(sys.argv[3]):
        os._exit(9)
job.subscribe(heed)
asyncio.run(job.backfill("orders", since="2024-01-05", until="2024-01-15"))
"""


async def test_a_backfill_that_is_killed_goes_on_where_it_was_committed(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    command = [sys.executable, "-c", KILLED, str(shop.path), str(app.path)]
    for kill, rows in ((2, 12), (1, 18), (9, 30)):  # each goes on behind the last one
        done = await anyio.run_process([*command, str(kill)], check=False)
        assert (done.returncode, done.stderr.decode()) == (0 if kill == 9 else 9, "")
        assert new(app) == list(range(12, 12 + rows))
        shop.run(f"UPDATE orders SET v = 'newer' WHERE id < {12 + rows}")
    assert await state(job) == (DAY[29], None)
    assert (await job.history())[0].rows == 12
    await job.aclose()


async def test_another_range_gives_up_the_one_that_was_interrupted(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    Recorder(job).when(events.SliceCommitted, lambda _: job.stop())
    await job.backfill("orders", since="2024-01-05", until="2024-01-15")
    (scan,) = (await job.backfill("orders", since="2024-01-05", until="2024-01-14")).scans
    said = "the backfill since 2024-01-05 until 2024-01-15 was not finished, and is given up for this one."
    assert (scan.rows, scan.warnings, (await state(job))[1]) == (27, (said,), None)


async def test_a_million_rows_of_one_moment_are_cut_and_resumed_too(shop: Database, app: Database) -> None:
    shop.run(f"UPDATE orders SET ts = '{DAY[3]}' WHERE n < 10")
    job = await loaded(shop, app)
    heard = Recorder(job)
    heard.when(events.SliceCommitted, lambda _: heard.when(events.SliceCommitted, lambda _: job.stop()))
    await job.backfill("orders", since=DAY[3], until=DAY[10])
    position = (await state(job))[1].position
    assert position is not None and 0 < len(new(app)) < 30
    seen = len(new(app))
    (rest,) = (await job.backfill("orders", since=DAY[3], until=DAY[10])).scans
    assert (rest.rows, new(app)) == (30 - seen, list(range(30)))


async def test_a_range_without_rows_writes_nothing_and_ends_what_was_interrupted(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    assert (await job.backfill("orders", since="1999-01-01", until="1999-02-01")).scans[0].rows == 0
    Recorder(job).when(events.SliceCommitted, lambda _: job.stop())
    await job.backfill("orders", since="2024-01-05", until="2024-01-15")
    shop.run("DELETE FROM orders WHERE n BETWEEN 6 AND 20")
    (scan,) = (await job.backfill("orders", since="2024-01-05", until="2024-01-15")).scans
    assert (scan.status, scan.rows, await state(job)) == ("done", 0, (DAY[29], None))
    assert app.run("SELECT COUNT(*) FROM orders") == [(90,)]


async def test_a_plan_of_a_backfill_shows_what_it_reads_and_writes_nothing(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    plan = await job.plan_backfill("orders", since="2024-01-10", until="2024-01-13")
    window = plan.source.window
    assert window is not None
    assert (window.lower, window.upper, plan.source.rows, len(plan.source.slices)) == (
        "2024-01-10 00:00:00",
        DAY[11],
        9,
        2,
    )
    assert (new(app), await state(job)) == ([], (DAY[29], None))
    with pytest.raises(ConfigError, match=r"the pipeline has no table 'ordes'\. What to do: it has orders"):
        await job.plan_backfill("ordes", since="2024-01-10")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"cursor": None}, r"no cursor, and every scan reads all of it.*`retl run --once --table orders`"),
        ({"cursor": None, "pre_action": "swap"}, r"replaces the whole table \(pre_action = \"swap\"\)"),
        ({"write": "append", "settle": "1s"}, r"\"append\" would double the rows.*give the table a key"),
    ],
    ids=str,
)
async def test_what_would_double_or_has_no_range_is_refused_with_a_way_out(
    shop: Database, app: Database, words: dict[str, Any], said: str
) -> None:
    job = pipeline(shop, app, **words)
    for call in (job.backfill, job.plan_backfill):
        with pytest.raises(ConfigError, match=f"^shop / orders: .*{said}"):
            await call("orders", since="2024-01-10")
    assert app.tables() == []


async def test_a_source_that_cannot_read_a_range_is_refused(app: Database) -> None:
    rows = [{"id": 1, "ts": datetime.fromisoformat(DAY[0])}]
    tables = [retl.Table("orders", cursor="ts", key="id")]
    job = retl.Pipeline("shop", source=IteratorSource(lambda: rows), target=app.target(), tables=tables)
    with pytest.raises(ConfigError, match=r"cannot read a given range.*`retl reset`"):
        await job.backfill("orders", since="2024-01-10")


async def test_ends_that_make_no_range_are_refused(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    for words, said in (
        ({}, "neither since nor until"),
        ({"since": True}, "since is True"),
        ({"since": "2024-01-10", "until": "2024-01-10"}, "no row lies between them"),
        ({"since": "soon"}, "since is 'soon', not a value of the cursor"),
        ({"since": datetime(2024, 1, 10, tzinfo=UTC)}, "has a time zone, and the cursor's values have none"),
    ):
        with pytest.raises(ConfigError, match=said):
            await job.backfill("orders", **words)


async def test_a_target_that_was_lost_is_not_made_good_by_a_part(shop: Database, app: Database) -> None:
    job = await loaded(shop, app, lost_target="reload")
    app.run("DROP TABLE orders")
    with pytest.raises(retl.GuardStopped, match="the target table 'orders' is gone"):
        await job.backfill("orders", since="2024-01-10")
    assert app.tables() == []


async def test_a_backfill_that_fails_says_nothing_of_the_health_of_the_scans(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    with pytest.raises(ConfigError):
        await job.backfill("orders", since="soon")
    assert (job.snapshot().healthy, (await job.history())[0].mode) == (True, "backfill")
    await job.aclose()


async def test_a_backfill_goes_on_beside_the_schedule_and_never_beside_a_scan_of_its_table(
    shop: Database, app: Database
) -> None:
    job = retl.Pipeline(
        "shop",
        source=shop.source(),
        target=app.target(),
        tables=[retl.Table("orders", cursor="ts", slice_rows=6)],
        interval="20ms",
    )
    under_way = most = 0

    def count(event: events.Event) -> None:
        nonlocal under_way, most
        under_way += isinstance(event, events.ScanStarted)
        under_way -= isinstance(event, events.ScanFinished | events.ScanFailed)
        most = max(most, under_way)

    job.subscribe(count)
    async with running(job) as after:
        await after(events.ScanFinished)
        shop.run("UPDATE orders SET v = 'new'")
        report = await job.backfill("orders", since="2024-01-05", until="2024-01-15")
        assert ([scan.mode for scan in report.scans], report.ok) == (["backfill"], True)
        assert [key for key in new(app) if key < 80] == list(range(12, 42))
        with pytest.raises(ConfigError, match="since is 'soon'"):
            await job.backfill("orders", since="soon")
        await after(events.ScanFinished)  # the schedule goes on
        with pytest.raises(ConfigError, match="running already"):
            await job.run_once()
    assert (most, (await state(job))[0]) == (1, DAY[29])


async def test_a_long_backfill_lets_the_scans_of_its_table_go_first_and_is_one_scan_for_people(
    shop: Database, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.turns.LONG_SECONDS", 0.0)
    begun: list[retl.BeforeScan] = []

    async def note(begins: retl.BeforeScan) -> None:
        begun.append(begins)

    hooks = retl.Hooks(before_scan=note)
    words: dict[str, Any] = {"source": shop.source(), "target": app.target(), "interval": "20ms", "hooks": hooks}
    job = retl.Pipeline("shop", tables=[retl.Table("orders", cursor="ts", slice_rows=3)], **words)
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.ScanFinished)
        shop.run("UPDATE orders SET v = 'new'")
        heard.events.clear()
        (scan,) = (await job.backfill("orders", since="2024-01-05", until="2024-01-25")).scans
        assert (scan.status, scan.rows, scan.changed, scan.slices, scan.slices_planned) == ("done", 60, 60, 20, 20)
        assert (scan.lower, scan.upper, scan.attempts) == ("2024-01-05 00:00:00", DAY[23], 1)
        finished = [event.report.mode for event in heard.of(events.ScanFinished)]
        assert finished.count("backfill") == 1 and finished.index("backfill") >= 3  # others went first
    assert [key for key in new(app) if key < 80] == list(range(12, 72))
    assert await state(job) == (DAY[29], None)
    reports = await job.history(limit=1000)
    assert [report.mode for report in reports].count("backfill") == 1
    assert len(begun) == len(reports)
    await job.aclose()


async def test_times_with_a_zone_are_told_apart_from_those_of_the_source(tmp_path: Path, app: Database) -> None:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.run(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, ts TIMESTAMPTZ, v VARCHAR)",
        "INSERT INTO orders SELECT i, TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL (i) HOUR, 'old' FROM range(48) AS t(i)",
    )
    tables = [retl.Table("orders", cursor="ts")]
    job = retl.Pipeline("shop", source=warehouse.source(), target=app.target(), tables=tables)
    await job.run_once()
    warehouse.run("UPDATE orders SET v = 'new'")
    await job.backfill("orders", since="2024-01-01 10:00:00+02:00", until=datetime(2024, 1, 1, 10, tzinfo=UTC))
    assert new(app) == [8, 9]
    rows: list[Row] = app.run("SELECT COUNT(*) FROM orders")
    assert rows == [(48,)]
