"""Bugs that users of well-known tools have met, each as a test. The names of the tests tell the bugs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest

import retl
from benchmarks.common import StallWatch
from retl.connectors import FunctionTarget, IteratorSource, SQLite
from tests.support import Database, Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


def pipeline(warehouse: Any, app: Any, *tables: retl.Table, **words: Any) -> retl.Pipeline:
    return retl.Pipeline("notes", source=warehouse.source(), target=app.target(), tables=list(tables), **words)


EVENTS = retl.Table("events", cursor="ts")


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/Los_Angeles"])
async def test_the_session_time_zone_does_not_shift_the_window(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMPTZ)")
    warehouse.run("INSERT INTO events VALUES (1, '2024-03-10 01:59:59+00'), (2, '2024-03-10 10:30:00+00')")
    job = pipeline(warehouse, app, EVENTS)
    await job.run_once()
    warehouse.run("INSERT INTO events VALUES (3, '2024-03-10 10:30:01+00')")
    report = (await job.run_once()).scans[0]
    assert (report.rows, report.lower) == (2, "2024-03-10 10:30:00+00")
    assert app.rows("events") == [
        (1, "2024-03-10 01:59:59.000000Z"),
        (2, "2024-03-10 10:30:00.000000Z"),
        (3, "2024-03-10 10:30:01.000000Z"),
    ]


async def test_a_watermark_is_not_saved_before_its_rows(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)")
    warehouse.run("INSERT INTO events SELECT i, TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND FROM range(6) t(i)")
    taken: list[int] = []

    async def crm(batch: pa.RecordBatch) -> None:
        if 4 in batch.column("id").to_pylist() and len(taken) < 5:
            taken.append(-1)
            raise RuntimeError("the API is down")
        taken.extend(batch.column("id").to_pylist())

    store = retl.SqliteStore(tmp_path / "state.db")

    def job() -> retl.Pipeline:
        return retl.Pipeline(
            "crm", source=warehouse.source(), target=FunctionTarget(crm), tables=[EVENTS], state=store, slice_rows=2
        )

    with pytest.raises(retl.TargetError, match="the API is down"):
        await job().run_once()
    assert taken == [0, 1, 2, 3, -1]
    await job().run_once()
    # At least once: the row that ties with the watermark is handed over again, and none is missing.
    assert taken == [0, 1, 2, 3, -1, 3, 4, 5]


async def test_the_event_loop_of_the_host_is_not_blocked(warehouse: Warehouse, app: Database) -> None:
    warehouse.run(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, v VARCHAR, ts TIMESTAMP)",
        "INSERT INTO events SELECT i, repeat('x', 200), TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND FROM range(200000) t(i)",
    )
    watch = StallWatch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.watch, anyio.sleep)
        await pipeline(warehouse, app, EVENTS, slice_rows=50_000).run_once()
        tasks.cancel_scope.cancel()
    assert app.run("SELECT COUNT(*), SUM(id), SUM(LENGTH(v)) FROM events") == [(200_000, 19_999_900_000, 40_000_000)]
    # The figure itself is measured in benchmarks/; here only that nobody does seconds of work in the loop.
    assert watch.longest < 1.0


async def test_sqlite_keeps_microseconds_keys_bytes_emoji_and_empty_blobs(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE odd (id INTEGER PRIMARY KEY, ts TIMESTAMP, b BLOB, s VARCHAR, d DECIMAL(38,10))")
    warehouse.run(
        "INSERT INTO odd VALUES (1, '2024-01-01 00:00:00.000001', ''::BLOB, '', 0), (2, NULL, NULL, NULL, NULL), "
        "(3, '9999-12-31 23:59:59.999999', '\\x00\\xFF'::BLOB, '😀\"''NULL\\N' || chr(9) || chr(10), -1234567890123456789012345678.0123456789)"
    )
    await pipeline(warehouse, app, retl.Table("odd")).run_once()
    assert app.rows("odd") == [
        (1, "2024-01-01 00:00:00.000001", b"", "", "0.0000000000"),
        (2, None, None, None, None),
        (3, "9999-12-31 23:59:59.999999", b"\x00\xff", "😀\"'NULL\\N\t\n", "-1234567890123456789012345678.0123456789"),
    ]
    assert app.run("SELECT name FROM pragma_table_info('odd') WHERE pk") == [("id",)]


async def test_values_that_sqlite_would_change_are_refused(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE odd (id INTEGER PRIMARY KEY, r DOUBLE, u UBIGINT, ts TIMESTAMP)")
    warehouse.run(
        "INSERT INTO odd VALUES (1, 'nan', 1, NULL), (2, 1.5, 18446744073709551615, NULL), (3, 1.5, 1, 'infinity'), (4, 'inf', 2, NULL)"
    )
    job = pipeline(warehouse, app, retl.Table("odd", max_rejects=3))
    await job.run_once()
    assert app.rows("odd") == [(4, float("inf"), 2, None)]
    reasons = {reject.key: (reject.column, reject.reason) for reject in await job.rejects()}
    assert reasons == {
        '{"id":1}': ("r", "SQLite has no NaN: it would become NULL"),
        '{"id":2}': ("u", "the number is larger than 2^63 - 1"),
        '{"id":3}': ("ts", "the time lies outside the years 1 to 9999"),
    }
    await job.aclose()


async def test_a_first_load_of_a_stream_of_the_users_own_resumes(tmp_path: Path, app: Database) -> None:
    calls: list[str | None] = []

    async def api(window: Any) -> AsyncIterator[dict[str, Any]]:
        calls.append(window.lower)
        for number in range(int(window.lower or 0), 5000):
            if number == 4500 and window.lower is None:
                raise ConnectionResetError("cut")
            yield {"id": number, "v": f"row {number}", "seq": number}

    def job() -> retl.Pipeline:
        source = IteratorSource(api, tables="rows", key="id", ordered=True)
        return retl.Pipeline(
            "api",
            source=source,
            target=SQLite(str(app.path)),
            tables=[retl.Table("rows", cursor="seq")],
            slice_rows=500,
        )

    with pytest.raises(retl.RetlError, match="cut"):
        await job().run_once()
    loaded = len(app.rows("rows"))
    assert loaded >= 1000
    await job().run_once()
    assert calls[-1] == str(loaded - 1)
    assert app.run('SELECT * FROM "rows" ORDER BY id') == [(number, f"row {number}", number) for number in range(5000)]
