"""What ``status`` and ``history`` know: of the source's lag, of other processes, and of an outage of the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import events
from retl.connectors import IteratorSource
from retl.engine.commit import Atomic
from retl.model.checkpoint import FencedCheckpoint
from retl.state.base import StateStore
from tests.adversity.oracle import dead_owner
from tests.support import Database, Recorder, Warehouse, running, state_is

TEN = "INSERT INTO t SELECT i, TIMESTAMP '2024-01-01' + to_minutes(i) FROM range(0, 10) r(i)"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    found = Warehouse(tmp_path / "warehouse.duckdb")
    found.run("CREATE TABLE t (id BIGINT PRIMARY KEY, seen TIMESTAMP)", TEN)
    return found


@pytest.fixture
def app(tmp_path: Path) -> Database:
    return Database(tmp_path / "app.db")


def job(warehouse: Warehouse, app: Database, **words: Any) -> retl.Pipeline:
    table = retl.Table("t", cursor="seen", slice_rows=words.pop("slice_rows", 3))
    return retl.Pipeline("p", source=warehouse.source(), target=app.target(), tables=[table], **words)


async def only(pipeline: retl.Pipeline) -> retl.TableStatus:
    (table,) = (await pipeline.status()).tables
    return table


# Lag ----------------------------------------------------------------------------


async def test_a_target_that_has_all_of_a_quiet_source_has_no_lag_however_old_its_rows_are(
    warehouse: Warehouse, app: Database
) -> None:
    first = job(warehouse, app)
    assert (await only(first)).lag is None
    for _ in range(2):  # the second scan finds nothing new
        report = (await first.run_once()).scans[0]
        assert (report.highest, report.lag) == ("2024-01-01 00:09:00", 0.0)
        for pipeline in (first, job(warehouse, app)):
            found = await only(pipeline)
            assert (found.lag, found.failures, found.watermark) == (0.0, 0, "2024-01-01 00:09:00")
            assert found.last_success is not None and datetime.now(UTC) - found.last_success < timedelta(minutes=1)
    assert first.snapshot().tables[0].lag == 0.0


async def test_lag_is_what_the_source_had_at_the_plan_and_the_target_lacks(warehouse: Warehouse, app: Database) -> None:
    pipeline = job(warehouse, app)
    recorder = Recorder(pipeline)
    recorder.when(
        events.SliceCommitted, lambda event: recorder.when(events.SliceCommitted, lambda event: pipeline.stop())
    )
    report = (await pipeline.run_once()).scans[0]
    assert (report.status, report.watermark, report.lag) == ("stopped", "2024-01-01 00:05:00", 240.0)
    for other in (pipeline, job(warehouse, app)):
        assert (await only(other)).lag == 240.0
    warehouse.run("DROP TABLE t")
    with pytest.raises(retl.RetlError):
        await pipeline.run_once()  # it does not get so far as to plan
    for other in (pipeline, job(warehouse, app)):
        found = await only(other)
        assert (found.lag, found.failures, found.last_success) == (240.0, 1, None)


async def test_rows_that_are_not_settled_yet_are_a_lag(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("INSERT INTO t VALUES (99, now()::TIMESTAMP)")
    report = (await job(warehouse, app, settle="1h", slice_rows=100).run_once()).scans[0]
    assert report.rows == 10
    assert report.lag is not None and 3500 < report.lag <= 3600


# Other processes -------------------------------------------------------------------


class Gate:
    """Lets a scan commit so many slices, and holds it until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.reached, self.open = anyio.Event(), anyio.Event()
        commit, commits = Atomic.commit, 0

        async def gated(*arguments: Any) -> Any:
            nonlocal commits
            commits += 1
            if commits > most:
                self.reached.set()
                await self.open.wait()
            return await commit(*arguments)

        monkeypatch.setattr(Atomic, "commit", gated)


async def test_a_scan_of_another_owner_is_seen_with_its_rows_as_of_its_last_commit(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanning, other = job(warehouse, app), job(warehouse, app)
    gate = Gate(monkeypatch, 2)
    before = datetime.now(UTC)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scanning.run_once)
            await gate.reached.wait()
            status = await other.status()
            mine = await only(scanning)
            gate.open.set()
    (table,) = status.tables
    assert (status.state, status.epoch) == ("scanning", 1)
    assert str(os.getpid()) in str(status.owner)
    assert table.progress is not None and table.progress_at is not None
    assert (table.progress.rows, table.progress.rows_planned, table.progress.slices) == (6, 10, 2)
    assert before <= table.progress_at <= datetime.now(UTC)
    assert (table.watermark, table.lag, table.last) == ("2024-01-01 00:05:00", 240.0, None)
    assert mine.progress is not None and mine.progress.rows >= 6
    after = await other.status()
    assert (after.state, after.owner, after.tables[0].progress, after.tables[0].lag) == ("stopped", None, None, 0.0)


async def test_a_scan_whose_process_has_died_is_not_under_way(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = job(warehouse, app)

    Gate(monkeypatch, 2).open.set()
    Recorder(pipeline).when(events.SliceCommitted, lambda event: pipeline.stop(grace=0))
    await pipeline.run_once(check=False)  # abandoned: it leaves no report
    app.run("UPDATE retl_leases SET owner = ?", values=[await anyio.to_thread.run_sync(dead_owner)])
    app.run("DELETE FROM retl_scans")
    status = await job(warehouse, app).status()
    assert (status.state, status.owner, status.tables[0].progress) == ("stopped", None, None)
    assert status.tables[0].lag is not None and status.tables[0].lag > 0


# An outage of the store ----------------------------------------------------------------


class Outage(retl.MemoryStore):
    """A store that can be down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    async def add_report(self, report: retl.ScanReport) -> None:
        self._check()
        await super().add_report(report)

    async def read_lease(self, pipeline: str) -> Any:
        self._check()
        return await super().read_lease(pipeline)

    async def save(self, fenced: FencedCheckpoint) -> None:
        self._check()
        await super().save(fenced)

    def _check(self) -> None:
        if self.down:
            raise retl.ConnectionFailed("the store is down")


def to_store(app: Database, store: StateStore, **words: Any) -> retl.Pipeline:
    def read() -> Iterator[dict[str, Any]]:
        yield {"id": 1, "now": str(datetime.now(UTC))}

    source = IteratorSource(read, key="id")
    return retl.Pipeline("p", source=source, target=app.target(), tables=["t"], state=store, **words)


async def test_failures_while_the_store_is_down_are_in_its_history_when_it_is_back(
    app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.run.backoff", lambda *_, **__: 100.0)  # no second attempt
    store = Outage()
    pipeline = to_store(app, store, interval="20ms")
    failed = 0

    def fail(event: events.ScanFailed) -> None:
        nonlocal failed
        failed += 1
        store.down = failed < 3

    async with running(pipeline) as after:
        await after(events.ScanFinished)
        Recorder(pipeline).when(events.ScanFailed, fail, once=False)
        store.down = True
        await after(events.Recovered)
    history = [report for report in await pipeline.history(limit=100) if report.failures or report.status == "done"]
    told = [(report.status, report.failures) for report in history][::-1]
    begun = told.index(("failed", 1))
    assert told[begun - 1 : begun + 4] == [("done", 0), ("failed", 1), ("failed", 2), ("failed", 3), ("done", 0)]
    outage = history[::-1][begun : begun + 3]
    assert {report.error for report in outage if report.error and "the store is down" in report.error}
    assert {report.failing_since for report in outage} == {outage[0].failing_since}
    assert {report.last_success for report in outage} == {history[::-1][begun - 1].last_success}


async def test_a_start_while_the_store_is_down_is_in_its_history_as_a_failed_run(
    app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.runner.backoff", lambda *_, **__: 0.01)
    store = Outage()
    store.down = True
    pipeline = to_store(app, store, interval="1h")
    failed: list[events.Event] = []

    def fail(event: events.RunFailed) -> None:
        failed.append(event)
        store.down = len(failed) < 3

    Recorder(pipeline).when(events.RunFailed, fail, once=False)
    async with running(pipeline) as after:
        await after(events.ScanFinished)
        await state_is(pipeline, "idle")
        status = await pipeline.status()
    assert (status.healthy, status.failures, [table.table for table in status.tables]) == (True, 0, ["t"])
    scan, *runs = await pipeline.history()
    assert (scan.table, scan.status) == ("t", "done")
    assert [(run.table, run.is_of_run, run.failures) for run in runs] == [("", True, 3), ("", True, 2), ("", True, 1)]
    assert all("the store is down" in str(run.error) for run in runs)


async def test_what_failed_before_a_restart_is_counted_on(warehouse: Warehouse, app: Database) -> None:
    await job(warehouse, app).run_once()
    warehouse.run("DROP TABLE t")
    for failures in (1, 2, 3):
        pipeline = job(warehouse, app)
        await pipeline.run_once(check=False)
        for asked in (pipeline, job(warehouse, app)):
            status = await asked.status()
            assert (status.healthy, status.tables[0].failures, status.tables[0].lag) == (False, failures, 0.0)
            assert status.tables[0].last_success is not None and status.tables[0].since is not None
            assert status.tables[0].last_success < status.tables[0].since
            assert "the source has no table 't'" in str(status.tables[0].error)
    warehouse.run("CREATE TABLE t (id BIGINT PRIMARY KEY, seen TIMESTAMP)", TEN)
    await job(warehouse, app).run_once()
    status = await job(warehouse, app).status()
    assert (status.healthy, status.tables[0].failures, status.tables[0].since) == (True, 0, None)


# Another loop, another process ------------------------------------------------------------


def in_child(pipeline: retl.Pipeline, ask: Any) -> str:
    """What a forked process makes of a pipeline, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, ask(pipeline).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def asked(pipeline: retl.Pipeline) -> str:
    async def ask() -> str:
        with anyio.fail_after(10):
            status = await pipeline.status()
        files = [name for name in map(link, Path("/proc/self/fd").iterdir()) if ".db" in name]
        return f"{status.state} {status.reachable} {status.tables[0].watermark} {files}"

    return asyncio.run(ask())


def link(name: Path) -> str:
    try:
        return str(name.readlink())
    except OSError:
        return ""


def test_status_works_after_a_fork(warehouse: Warehouse, app: Database) -> None:
    pipeline = job(warehouse, app)
    asyncio.run(pipeline.run_once())
    asyncio.run(pipeline.status())
    told = "stopped True 2024-01-01 00:09:00 []"
    assert in_child(pipeline, asked) == asked(pipeline) == told


async def test_status_works_after_a_fork_of_a_process_that_runs_the_pipeline(
    warehouse: Warehouse, app: Database
) -> None:
    pipeline = job(warehouse, app, interval="1h")
    async with running(pipeline) as after:
        await after(events.ScanFinished)
        await state_is(pipeline, "idle")
        told = await anyio.to_thread.run_sync(in_child, pipeline, asked)
        assert told == "idle True 2024-01-01 00:09:00 []"  # as any other process sees it
        assert (await pipeline.status()).state == "idle"
