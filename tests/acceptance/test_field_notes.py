"""Bugs that users of well-known tools have met, each as a test. The names of the tests tell the bugs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest

import retl
from benchmarks.common import StallWatch
from retl import events
from retl.connectors import FunctionTarget, IteratorSource, SQLite
from tests.support import Database, Recorder, Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


@pytest.fixture
def app(tmp_path: Path) -> Database:
    return Database(tmp_path / "app.db")


def pipeline(warehouse: Any, app: Any, *tables: retl.Table, **words: Any) -> retl.Pipeline:
    return retl.Pipeline("notes", source=warehouse.source(), target=app.target(), tables=list(tables), **words)


EVENTS = retl.Table("events", cursor="ts")


async def test_rows_at_and_just_below_the_watermark_are_not_missed(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)")
    warehouse.run("INSERT INTO events VALUES (1, '2024-01-01 10:00:00')")
    job = pipeline(warehouse, app, retl.Table("events", cursor="ts", lookback="1m"))
    await job.run_once()
    warehouse.run("INSERT INTO events VALUES (2, '2024-01-01 10:00:00'), (3, '2024-01-01 09:59:59.999999')")
    await job.run_once()
    assert app.rows("events", "id") == [(1,), (2,), (3,)]


async def test_a_source_whose_only_row_is_its_maximum_is_not_read_as_empty(warehouse: Warehouse, app: Database) -> None:
    warehouse.run(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)", "INSERT INTO events VALUES (1, '2024-01-01')"
    )
    report = (await pipeline(warehouse, app, EVENTS).run_once()).scans[0]
    assert (report.rows, app.rows("events", "id")) == (1, [(1,)])


async def test_an_update_during_the_scan_is_read_now_or_next_time(tmp_path: Path, app: Database) -> None:
    live = Database(tmp_path / "live.db")
    live.run("PRAGMA journal_mode = WAL", "CREATE TABLE events (id INTEGER PRIMARY KEY, v TEXT, ts TIMESTAMP)")
    for number in range(6):
        live.run(f"INSERT INTO events VALUES ({number}, 'old', '2024-01-01 00:00:0{number}')")
    job = pipeline(live, app, EVENTS, slice_rows=1)
    # Row 5 moves beyond the upper bound after the bound was taken and before its slice is read.
    Recorder(job).when(
        events.ScanPlanned, lambda _: live.run("UPDATE events SET v = 'new', ts = '2024-01-02 00:00:00' WHERE id = 5")
    )
    await job.run_once()
    await job.run_once()
    assert app.rows("events", "id, v") == [*((number, "old") for number in range(5)), (5, "new")]


async def test_equal_timestamps_across_slices_are_neither_lost_nor_doubled(warehouse: Warehouse, app: Database) -> None:
    warehouse.run(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)",
        "INSERT INTO events SELECT i, TIMESTAMP '2024-01-01' + INTERVAL (i // 40) SECOND FROM range(200) t(i)",
    )
    job = pipeline(warehouse, app, EVENTS, slice_rows=7)
    first = (await job.run_once()).scans[0]
    assert app.rows("events", "id") == sorted(((number,) for number in range(200)), key=repr)
    assert (first.rows, first.changed) == (200, 200)
    again = (await job.run_once()).scans[0]
    assert (again.rows, again.changed) == (40, 0)


async def test_row_committed_late_with_an_older_cursor_is_rescued_by_lookback(
    warehouse: Warehouse, app: Database
) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)")
    warehouse.run("INSERT INTO events VALUES (1, '2024-01-01 10:00:00'), (2, '2024-01-01 10:20:00')")
    job = pipeline(warehouse, app, retl.Table("events", cursor="ts", lookback="30m"))
    await job.run_once()
    warehouse.run("INSERT INTO events VALUES (3, '2024-01-01 09:55:00'), (4, '2024-01-01 09:40:00')")
    await job.run_once()
    # Within 30 minutes of the watermark it is found; what is older is what lookback does not cover.
    assert app.rows("events", "id") == [(1,), (2,), (3,)]


async def test_row_committed_late_is_rescued_by_settle(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)")
    now = "(now() AT TIME ZONE 'UTC')"
    warehouse.run(f"INSERT INTO events VALUES (1, {now} - INTERVAL 2 HOUR), (2, {now})")
    job = pipeline(warehouse, app, retl.Table("events", cursor="ts", settle="2s"))
    await job.run_once()
    assert app.rows("events", "id") == [(1,)]
    # A transaction that took a second commits a row with an older cursor than the newest one.
    warehouse.run("INSERT INTO events SELECT 3, ts - INTERVAL 1 SECOND FROM events WHERE id = 2")
    with anyio.fail_after(20):
        while (2,) not in app.rows("events", "id"):
            await job.run_once()
    assert app.rows("events", "id") == [(1,), (2,), (3,)]


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


async def test_readers_never_see_an_empty_or_half_loaded_table_while_a_swap_loads(
    warehouse: Warehouse, app: Database
) -> None:
    warehouse.run(
        "CREATE TABLE report (id INTEGER PRIMARY KEY, v INTEGER)", "INSERT INTO report SELECT i, 1 FROM range(500) t(i)"
    )
    job = pipeline(warehouse, app, retl.Table("report", pre_action=retl.PreAction.SWAP), slice_rows=50)
    await job.run_once()
    warehouse.run("UPDATE report SET v = 2")
    seen: list[Any] = []
    Recorder(job).when(
        events.SliceCommitted,
        lambda _: seen.append(app.run("SELECT COUNT(*), MIN(v), MAX(v) FROM report")[0]),
        once=False,
    )
    await job.run_once()
    assert len(seen) >= 10
    assert set(seen) == {(500, 1, 1)}
    assert app.run("SELECT COUNT(*), MIN(v), MAX(v) FROM report") == [(500, 2, 2)]


@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap"])
async def test_a_load_that_fails_after_the_pre_action_is_carried_on_and_loses_nothing(
    warehouse: Warehouse, app: Database, pre_action: str
) -> None:
    warehouse.run(
        "CREATE TABLE report (id INTEGER PRIMARY KEY, v INTEGER)", "INSERT INTO report SELECT i, 1 FROM range(100) t(i)"
    )
    action = retl.PreAction(pre_action)
    await pipeline(warehouse, app, retl.Table("report", pre_action=action)).run_once()
    warehouse.run("UPDATE report SET v = 2")
    broken = retl.Table(
        "report", pre_action=action, expressions={"v": "CASE WHEN id = 90 THEN error('line cut') ELSE v END"}
    )
    # A stream of small batches, so that some of it is committed before it breaks.
    for _ in range(3):
        with pytest.raises(retl.SourceError, match="line cut"):
            await pipeline(warehouse, app, broken, slice_rows=10).run_once()
        full = "report" if pre_action == "swap" else next((name for name in app.tables() if "_arc_" in name), "report")
        if pre_action != "truncate":
            assert app.run(f'SELECT COUNT(*), MIN(v), MAX(v) FROM "{full}"') == [(100, 1, 1)]
    await pipeline(warehouse, app, retl.Table("report", pre_action=action)).run_once()
    assert app.rows("report") == sorted(((number, 2) for number in range(100)), key=repr)
    assert len([name for name in app.tables() if "_arc_" in name]) == (1 if pre_action == "rename_and_create" else 0)
    assert not [name for name in app.tables() if name.startswith("_retl_")]


async def test_an_incremental_run_with_nothing_new_does_not_wipe_the_target(
    warehouse: Warehouse, app: Database
) -> None:
    warehouse.run(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)", "INSERT INTO events VALUES (1, '2024-01-01')"
    )
    job = pipeline(warehouse, app, EVENTS)
    await job.run_once()
    warehouse.run("DELETE FROM events")
    report = (await job.run_once()).scans[0]
    assert (report.rows, report.status) == (0, "done")
    assert app.rows("events") == [(1, "2024-01-01 00:00:00.000000")]


async def test_a_cursor_with_a_destructive_pre_action_is_refused(warehouse: Warehouse, app: Database) -> None:
    with pytest.raises(retl.ConfigError, match="exclude each other"):
        pipeline(warehouse, app, retl.Table("events", cursor="ts", pre_action=retl.PreAction.TRUNCATE))


@pytest.mark.parametrize("policy", ["add", "ignore", "fail"])
async def test_a_new_column_is_never_lost_in_silence(warehouse: Warehouse, app: Database, policy: Any) -> None:
    warehouse.run(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP)", "INSERT INTO events VALUES (1, '2024-01-01')"
    )
    job = pipeline(warehouse, app, retl.Table("events", cursor="ts", new_columns=policy))
    await job.run_once()
    warehouse.run("ALTER TABLE events ADD COLUMN city VARCHAR", "INSERT INTO events VALUES (2, '2024-01-02', 'Köln')")
    if policy == "fail":
        with pytest.raises(retl.SchemaDrift, match=r"column 'city'.*new_columns"):
            await job.run_once()
        assert app.rows("events", "id") == [(1,)]
        return
    report = (await job.run_once()).scans[0]
    if policy == "add":
        assert app.rows("events", "id, city") == [(1, None), (2, "Köln")]
    else:
        assert app.rows("events", "id") == [(1,), (2,)]
        assert any("'city'" in warning for warning in report.warnings)


async def test_a_dropped_column_is_reported(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP, city VARCHAR)")
    warehouse.run("INSERT INTO events VALUES (1, '2024-01-01', 'Köln')")
    job = pipeline(warehouse, app, EVENTS)
    await job.run_once()
    warehouse.run("ALTER TABLE events DROP COLUMN city", "INSERT INTO events VALUES (2, '2024-01-02')")
    report = (await job.run_once()).scans[0]
    assert any("no longer has the column city" in warning for warning in report.warnings)
    assert app.rows("events", "id, city") == [(1, "Köln"), (2, None)]


async def test_a_retyped_column_is_refused_and_not_squeezed_in(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP, code INTEGER)")
    warehouse.run("INSERT INTO events VALUES (1, '2024-01-01', 7)")
    job = pipeline(warehouse, app, EVENTS)
    await job.run_once()
    warehouse.run("ALTER TABLE events ALTER code TYPE VARCHAR", "INSERT INTO events VALUES (2, '2024-01-02', '007')")
    with pytest.raises(retl.SchemaDrift, match=r"notes / events.*column 'code'.*VARCHAR.*INTEGER"):
        await job.run_once()
    assert app.rows("events", "id, code") == [(1, 7)]


async def test_a_retyped_cursor_is_noticed(warehouse: Warehouse, app: Database) -> None:
    warehouse.run(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, ts DATE)", "INSERT INTO events VALUES (1, '2024-01-01')"
    )
    job = pipeline(warehouse, app, EVENTS)
    await job.run_once()
    warehouse.run("ALTER TABLE events ALTER ts TYPE TIMESTAMP")
    with pytest.raises(retl.SchemaDrift, match=r"cursor column 'ts' was of type DATE and is now TIMESTAMP.*retl reset"):
        await job.run_once()


async def test_another_cursor_for_the_same_table_asks_for_a_reset(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TIMESTAMP, seen TIMESTAMP)")
    warehouse.run("INSERT INTO events VALUES (1, '2024-01-02', '2024-01-01')")
    await pipeline(warehouse, app, EVENTS).run_once()
    job = pipeline(warehouse, app, retl.Table("events", cursor="seen"))
    with pytest.raises(retl.ConfigError, match=r"made with the cursor 'ts'.*retl reset"):
        await job.run_once()
    assert await job.reset("events") == 1
    await job.run_once()
    assert (await job.status()).tables[0].watermark == "2024-01-01 00:00:00"
    await job.aclose()


async def test_duplicate_keys_are_told_apart_by_the_cursor_or_refused(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE log (id INTEGER, v VARCHAR, ts TIMESTAMP)")
    warehouse.run("INSERT INTO log VALUES (1, 'old', '2024-01-01'), (1, 'new', '2024-01-02'), (2, 'x', '2024-01-01')")
    await pipeline(warehouse, app, retl.Table("log", key="id", cursor="ts")).run_once()
    assert app.rows("log", "id, v") == [(1, "new"), (2, "x")]

    job = pipeline(warehouse, app, retl.Table("log", to="full", key="id"))
    with pytest.raises(retl.RepeatedKey, match=r"notes / log.*\(id\).*\{\"id\":1\} occurs more than once"):
        await job.run_once()
    assert app.rows("full") == []


async def test_a_null_key_is_a_reject_and_not_a_lost_row(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE log (id INTEGER, v VARCHAR)", "INSERT INTO log VALUES (NULL, 'lost?'), (2, 'x')")
    job = pipeline(warehouse, app, retl.Table("log", key="id", max_rejects=1))
    await job.run_once()
    assert app.rows("log") == [(2, "x")]
    rejects = await job.rejects()
    assert [(json.loads(reject.content), reject.reason) for reject in rejects] == [
        ({"id": None, "v": "lost?"}, "the key is NULL")
    ]
    await job.aclose()


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
