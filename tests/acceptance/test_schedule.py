"""A pipeline on its schedule: events, status, tables that come and go, sources that do not answer for a moment."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

import retl
from retl import events
from retl.connectors.base import SourceScan
from retl.engine.bus import EventBus
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.base import LeaseRow, Manifest
from retl.testing.crashing import CrashingSource
from retl.testing.state_base import report
from tests.adversity.patches import patch_backoff
from tests.support import Database, Recorder, Warehouse, running, state_is


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.run("CREATE TABLE t (id INTEGER PRIMARY KEY, ts TIMESTAMP)", "INSERT INTO t VALUES (1, '2024-01-01')")
    return warehouse


def pipeline(warehouse: Warehouse, app: Database, **words: Any) -> retl.Pipeline:
    words.setdefault("interval", "manual")
    return retl.Pipeline(
        "control", source=warehouse.source(), target=app.target(), tables=[retl.Table("t", cursor="ts")], **words
    )


async def test_events_stream_from_start_to_stop(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app)
    names: list[str] = []

    async def listen() -> None:
        async for event in job.events():
            names.append(type(event).__name__)
            if isinstance(event, events.LeaseAcquired):
                job.trigger()
            if isinstance(event, events.ScanFinished):
                job.stop()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            await job.run_forever()
    wanted = [
        "PipelineStarted",
        "LeaseAcquired",
        "ScanStarted",
        "ScanPlanned",
        "SliceCommitted",
        "ScanFinished",
        "PipelineStopped",
    ]
    assert [name for name in names if name in wanted] == wanted


async def test_events_are_those_since_the_call_and_not_since_the_first_was_asked_for(
    warehouse: Warehouse, app: Database
) -> None:
    job = pipeline(warehouse, app)
    heard = job.events()
    await job.run_once()
    job.stop()
    with anyio.fail_after(20):
        await job.run_forever()
        names = [type(event).__name__ async for event in heard]
    assert [name for name in names if name != "RowsMoved"] == [
        "LeaseAcquired",
        "ScanStarted",
        "ScanPlanned",
        "SliceCommitted",
        "ScanFinished",
        "PipelineStarted",
        "PipelineStopped",
    ]


def test_failures_are_logged_whoever_listens_unless_a_listener_logs_them() -> None:
    bus = EventBus()
    failed = events.RunFailed(pipeline="p", error="the store is gone", error_type="StateError")
    heard: list[events.Event] = []
    bus.subscribe(heard.append)
    end = bus.subscribe(heard.append, logs=True)
    with structlog.testing.capture_logs() as logged:
        bus.emit(failed)
    assert (logged, heard) == ([], [failed, failed])
    end()
    with structlog.testing.capture_logs() as logged:
        bus.emit(failed)
    assert [(line["log_level"], line["error"]) for line in logged] == [("error", "the store is gone")]


def test_a_stream_of_events_that_nobody_reads_is_no_listener() -> None:
    bus = EventBus()
    stream = bus.stream()
    assert len(bus._listeners) == 1
    del stream
    gc.collect()
    assert bus._listeners == []


async def test_errors_do_not_end_the_schedule_and_neighbours_go_on(
    warehouse: Warehouse, app: Database, tmp_path: Path
) -> None:
    other, empty = Database(tmp_path / "other.db"), Database(tmp_path / "empty.db")
    empty.run("PRAGMA journal_mode = WAL")
    bad = retl.Pipeline(
        "bad", source=empty.source(), target=other.target(), tables=[retl.Table("missing", key="id")], interval="20ms"
    )
    good = pipeline(warehouse, app, interval="20ms")
    failures: list[Any] = []

    def count(event: events.ScanFailed) -> None:
        failures.append(event.report)
        if len(failures) == 3:
            empty.run("CREATE TABLE missing (id INTEGER PRIMARY KEY)", "INSERT INTO missing VALUES (7)")

    Recorder(bad).when(events.ScanFailed, count, once=False)
    async with running(good) as good_after:
        async with running(bad) as bad_after:
            finished = await bad_after(events.ScanFinished)
        await good_after(events.ScanFinished)
    assert finished.report.rows == 1
    assert len(failures) >= 3
    assert {(report.status, report.error_type) for report in failures} == {("failed", "ConfigError")}
    assert "the source has no table 'missing'" in failures[0].error
    assert other.rows("missing") == [(7,)]
    assert app.rows("t", "id") == [(1,)]


async def test_status_tells_of_scans_lag_and_next_run(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app, interval="1h")
    async with running(job) as after:
        await after(events.ScanFinished)
        await state_is(job, "idle")
        status = await job.status()
    assert status.schedule == "every 1h"
    assert status.owner is not None
    assert status.next_run is not None
    assert status.last_run is not None
    assert status.next_run > status.last_run
    (table,) = status.tables
    assert (table.table, table.to, table.watermark, table.scheduled_scan) == ("t", "t", "2024-01-01 00:00:00", True)
    assert table.lag == 0.0
    assert table.last_success is not None
    assert table.last is not None
    assert (table.last.rows, table.last.status) == (1, "done")


async def test_only_what_a_schedule_scans_is_a_scheduled_scan(warehouse: Warehouse, app: Database) -> None:
    async def scheduled(job: retl.Pipeline) -> dict[str, bool]:
        async with job:
            return {table.table: table.scheduled_scan for table in (await job.status()).tables}

    await pipeline(warehouse, app).run_once()
    assert await scheduled(pipeline(warehouse, app, interval="1h")) == {"t": True}
    assert await scheduled(pipeline(warehouse, app, interval="manual")) == {"t": False}
    changed = retl.Pipeline(
        "control",
        source=warehouse.source(),
        target=app.target(),
        tables=["u", retl.Table(match="v*", to="{name}")],
        interval="1h",
    )
    assert await scheduled(changed) == {"u": True, "t": False}


async def test_status_knows_the_last_scan_of_every_table_however_many_there_are(
    warehouse: Warehouse, app: Database
) -> None:
    store = retl.MemoryStore()
    names = [f"t{number}" for number in range(250)]
    for number, name in enumerate(names):
        await store.add_report(report(number, pipeline="control", table=name, rows=number))
    job = retl.Pipeline(
        "control", source=warehouse.source(), target=app.target(), tables=[*names, "never"], state=store
    )
    tables = (await job.status()).tables
    assert [table.table for table in tables] == [*names, "never"]
    assert [table.last and table.last.rows for table in tables] == [*range(250), None]
    await job.aclose()


async def test_the_next_run_is_the_next_tick_of_cron_for_other_processes_too(
    warehouse: Warehouse, app: Database
) -> None:
    job, other = (pipeline(warehouse, app, interval=None, cron="0,1 3 29 2 *") for _ in range(2))
    async with running(job) as after, other:
        await after(events.LeaseAcquired)
        await after(events.ScanFinished, job.trigger)
        await state_is(job, "idle")
        told = [(await job.status()).next_run, (await other.status()).next_run]
    for found in told:
        assert found is not None
        moment = found + timedelta(seconds=0.5)  # the clock is asked twice
        assert f"{moment:%m-%d %H:%M:%S}" == "02-29 03:00:00"


async def test_a_single_run_and_a_manual_pipeline_tell_of_no_next_run(warehouse: Warehouse, app: Database) -> None:
    once = await pipeline(warehouse, app, interval="1h").run_once()
    assert [scan.next_run for scan in once.scans] == [None]
    job = pipeline(warehouse, app)
    async with running(job) as after, pipeline(warehouse, app) as other:
        await after(events.LeaseAcquired)
        await after(events.ScanFinished, job.trigger)
        await state_is(job, "idle")
        assert [(await job.status()).next_run, (await other.status()).next_run] == [None, None]


async def test_a_pipeline_runs_once_at_a_time(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app)
    async with running(job) as after:
        await after(events.LeaseAcquired)
        with pytest.raises(retl.ConfigError, match="running already"):
            await job.run_once()
    assert (await job.run_once()).ok


async def test_a_pipeline_that_is_stopped_before_its_task_has_begun_ends_at_once(
    warehouse: Warehouse, app: Database
) -> None:
    job = pipeline(warehouse, app, interval="1h")
    heard = Recorder(job)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.run_forever)
            job.stop()
    assert [type(event) for event in heard.events] == [events.PipelineStarted, events.PipelineStopped]
    assert not app.exists()
    async with running(job) as after:  # the request was for one run
        await after(events.ScanFinished)
    assert app.rows("t", "id") == [(1,)]


async def test_a_stop_while_nothing_runs_is_for_the_next_run_forever_and_not_for_a_single_run(
    warehouse: Warehouse, app: Database
) -> None:
    job = pipeline(warehouse, app, interval="1h")
    job.stop()
    report = await job.run_once()
    assert (report.ok, report.rows) == (True, 1)
    warehouse.run("INSERT INTO t VALUES (2, '2024-01-02')")
    with anyio.fail_after(20):
        await job.run_forever()
    assert app.rows("t", "id") == [(1,)]


@pytest.mark.parametrize("declared", [["t", "zz*"], ["zz*"]])
async def test_a_run_that_did_not_find_every_table_is_not_ok(
    warehouse: Warehouse, app: Database, declared: list[str]
) -> None:
    job = retl.Pipeline(
        "control",
        source=warehouse.source(),
        target=app.target(),
        tables=[retl.Table(match=name) if "*" in name else retl.Table(name) for name in declared],
    )
    report = await job.run_once(check=False)
    assert ([scan.table for scan in report.scans], report.ok) == (declared[:-1], False)
    (error,) = report.errors
    assert error.startswith("control / zz*: no table of the source matches 'zz*'.")
    with pytest.raises(retl.ConfigError, match=r"no table of the source matches 'zz\*'"):
        await job.run_once()


def test_two_tables_with_one_target_are_refused_when_the_pipeline_is_built(warehouse: Warehouse, app: Database) -> None:
    with pytest.raises(retl.ConfigError, match=r"control: the tables 't' and 'u' would both be written to 't'"):
        retl.Pipeline(
            "control", source=warehouse.source(), target=app.target(), tables=["t", retl.Table("u", to="t", key="id")]
        )


async def test_a_new_table_whose_target_is_taken_is_reported_and_the_others_go_on(
    warehouse: Warehouse, app: Database
) -> None:
    warehouse.run(
        "CREATE TABLE a_x (id INTEGER PRIMARY KEY)",
        "CREATE TABLE a_y (id INTEGER PRIMARY KEY)",
        "INSERT INTO a_x VALUES (1)",
    )
    job = retl.Pipeline(
        "control",
        source=warehouse.source(),
        target=app.target(),
        tables=["t", retl.Table(match="a_*")],
        interval="manual",
    )
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.LeaseAcquired)
        await after(events.ScanFinished, job.trigger)
        await state_is(job, "idle")
        # It sorts before the table that has been there all the time.
        warehouse.run("CREATE SCHEMA a", "CREATE TABLE a.a_x (id INTEGER PRIMARY KEY)", "INSERT INTO a.a_x VALUES (66)")
        warehouse.run("INSERT INTO a_x VALUES (2)", "INSERT INTO a_y VALUES (3)")
        failed = await after(events.RunFailed, job.trigger)
        await state_is(job, "idle")
    assert isinstance(failed, events.RunFailed)
    assert failed.error_type == "ConfigError"
    assert "'a_x' and 'a.a_x' would both be written to 'a_x'; only 'a_x' is." in failed.error
    assert (app.rows("a_x"), app.rows("a_y")) == ([(1,), (2,)], [(3,)])
    scanned = [event.report.table for event in heard.of(events.ScanFinished)]
    assert scanned == ["t", "a_x", "a_y"] * 2
    assert not heard.of(events.ScanFailed)


async def test_new_tables_with_one_target_are_not_scanned_either_of_them(warehouse: Warehouse, app: Database) -> None:
    """Whose rows the target holds would else depend on the order of their names."""
    for schema in ("a", "b", "c"):
        warehouse.run(f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.a_x (id INTEGER PRIMARY KEY)")
    tables = [retl.Table("t"), retl.Table(match="a_*")]
    job = retl.Pipeline("control", source=warehouse.source(), target=app.target(), tables=tables)
    async with job:
        report = await job.run_once(check=False)
        findings = await job.check()
    assert [scan.table for scan in report.scans] == ["t"]
    (error,) = report.errors
    assert "the tables 'a.a_x', 'b.a_x' and 'c.a_x' would all be written to 'a_x'." in error
    assert app.tables() == ["t"]
    assert [found.subject for found in findings if found.level == "error"] == ["a.a_x"]


class MovedStore(retl.MemoryStore):
    """A store whose declaration turns out to be wrong while it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong = False

    async def beat(self, fence: Fence) -> bool:
        return not self.wrong and await super().beat(fence)

    async def read_lease(self, pipeline: str) -> LeaseRow:
        if self.wrong:
            self.wrong = False
            raise retl.ConfigError("the store is a folder.")
        return await super().read_lease(pipeline)


async def test_a_configuration_that_is_wrong_before_the_first_scan_is_raised_and_later_reported(
    warehouse: Warehouse, app: Database
) -> None:
    store = MovedStore()
    job = pipeline(warehouse, app, state=store, lease_ttl=0.1)
    store.wrong = True
    with pytest.raises(retl.ConfigError, match="control: the store is a folder"):
        await job.run_forever()
    async with running(job) as after:
        await after(events.ScanFinished, job.trigger)
        store.wrong = True
        failed = await after(events.RunFailed)
        await after(events.LeaseAcquired)
        warehouse.run("INSERT INTO t VALUES (2, '2024-01-02')")
        await after(events.ScanFinished, job.trigger)
    assert isinstance(failed, events.RunFailed)
    assert "the store is a folder" in failed.error
    assert app.rows("t", "id") == [(1,), (2,)]


class Flaky(CrashingSource):
    """A source that does not answer the next so many calls of a kind."""

    def __init__(self, warehouse: Warehouse, silent: dict[str, int]) -> None:
        super().__init__(warehouse.source(), at_batch=1, times=0)
        self._silent = silent

    def _answer(self, call: str) -> None:
        if self._silent.get(call):
            self._silent[call] -= 1
            raise retl.ConnectionFailed(f"no answer to {call}.")

    async def list_tables(self) -> list[str]:
        self._answer("list_tables")
        return await super().list_tables()

    async def describe(self, table: str) -> TableSchema | None:
        self._answer(f"describe_{table}")
        return await super().describe(table)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        self._answer(f"plan_{table.name}")
        async with super().open_scan(table, checkpoint, manifest) as scan:
            yield scan


def flaky_pipeline(
    warehouse: Warehouse, app: Database, silent: dict[str, int], *, interval: str = "1h"
) -> retl.Pipeline:
    """Three tables ``t``, ``a_x`` and ``u``, all of them with a cursor that they inherit."""
    warehouse.run("CREATE TABLE a_x (id INTEGER PRIMARY KEY, ts TIMESTAMP)", "INSERT INTO a_x VALUES (2, '2024-01-01')")
    warehouse.run("CREATE TABLE u (id INTEGER PRIMARY KEY, ts TIMESTAMP)", "INSERT INTO u VALUES (3, '2024-01-01')")
    return retl.Pipeline(
        "flaky",
        source=Flaky(warehouse, silent),
        target=app.target(),
        tables=["t", retl.Table(match="a_*"), "u"],
        cursor="ts",
        interval=interval,
    )


async def run_until(job: retl.Pipeline, table: str) -> Recorder:
    """On schedule, until a table's scan is done."""
    heard = Recorder(job)

    def stop(event: events.ScanFinished) -> None:
        if event.report.table == table:
            job.stop()

    heard.when(events.ScanFinished, stop, once=False)
    with anyio.fail_after(20):
        await job.run_forever()
    return heard


@pytest.mark.parametrize(
    ("call", "asked_for", "order"),
    [
        ("list_tables", "a_*", ["t", "u", "a_x"]),
        ("describe_a_x", "a_*", ["t", "u", "a_x"]),
        ("describe_t", "t", ["a_x", "u", "t"]),
    ],
)
async def test_tables_that_the_source_cannot_tell_for_a_moment_are_found_within_the_same_run(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch, call: str, asked_for: str, order: list[str]
) -> None:
    patch_backoff(monkeypatch, 0.01)
    job = flaky_pipeline(warehouse, app, {call: 2})
    heard = await run_until(job, order[-1])
    assert [event.report.table for event in heard.of(events.ScanFinished)] == order
    assert [(event.table, event.attempt) for event in heard.of(events.RetryScheduled)] == [
        (asked_for, 1),
        (asked_for, 2),
    ]
    assert not heard.of(events.RunFailed)
    assert [app.rows(table, "id") for table in ("t", "a_x", "u")] == [[(1,)], [(2,)], [(3,)]]


async def test_tables_that_the_source_cannot_tell_at_all_are_reported_once(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.02)
    job = flaky_pipeline(warehouse, app, {"list_tables": 1_000}, interval="3s")
    heard = Recorder(job)
    heard.when(events.RunFailed, lambda _: job.stop())
    with anyio.fail_after(20):
        await job.run_forever()
    (failed,) = heard.of(events.RunFailed)
    assert (failed.error_type, "flaky / a_*: no answer to list_tables" in failed.error) == ("ConnectionFailed", True)
    assert len(heard.of(events.RetryScheduled)) >= 1
    assert [event.report.table for event in heard.of(events.ScanFinished)] == ["t", "u"]
    assert (app.rows("t", "id"), app.rows("u", "id")) == ([(1,)], [(3,)])


async def test_a_table_that_is_tried_again_does_not_hold_up_the_others(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.01)
    job = flaky_pipeline(warehouse, app, {"plan_t": 3})
    heard = await run_until(job, "t")
    finished = [event.report for event in heard.of(events.ScanFinished)]
    assert [(report.table, report.attempts) for report in finished] == [("a_x", 1), ("u", 1), ("t", 4)]
    assert not heard.of(events.ScanFailed)
    assert [app.rows(table, "id") for table in ("t", "a_x", "u")] == [[(1,)], [(2,)], [(3,)]]


async def test_a_single_run_reports_its_tables_in_their_order_whichever_was_tried_again(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.01)
    report = await flaky_pipeline(warehouse, app, {"plan_t": 1, "plan_u": 2}).run_once()
    assert [(scan.table, scan.attempts) for scan in report.scans] == [("t", 2), ("a_x", 1), ("u", 3)]
    assert report.ok


async def test_a_table_is_tried_again_until_the_next_tick_and_then_told(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.02)
    job = flaky_pipeline(warehouse, app, {"plan_t": 1_000}, interval="5s")
    heard = Recorder(job)
    heard.when(events.ScanFailed, lambda _: job.stop())
    with anyio.fail_after(30):
        await job.run_forever()
    (failed,) = heard.of(events.ScanFailed)
    assert "flaky / t: no answer to plan_t" in failed.report.error
    assert failed.report.attempts == len(heard.of(events.RetryScheduled)) + 1 > 1
    assert [event.report.table for event in heard.of(events.ScanFinished)] == ["a_x", "u"]


@pytest.mark.parametrize("finish_slice", [True, False])
async def test_a_table_that_waits_to_be_tried_again_has_failed_when_the_run_is_stopped(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch, finish_slice: bool
) -> None:
    patch_backoff(monkeypatch, 9.0)
    job = flaky_pipeline(warehouse, app, {"plan_t": 1})
    heard = Recorder(job)
    heard.when(events.ScanFinished, lambda _: job.stop(grace=None if finish_slice else 0))
    with anyio.fail_after(8):
        report = await job.run_once(check=False)
    assert [(scan.table, scan.status) for scan in report.scans] == [("t", "failed"), ("a_x", "done")]
    assert not report.ok
    assert [event.report.table for event in heard.of(events.ScanFailed)] == ["t"]
