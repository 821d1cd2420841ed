"""Functions before and after runs and scans: when they are called, and what their failures mean."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

import retl
from retl import events
from retl.connectors import DuckDB, SQLite
from tests.support import Database, Recorder, Warehouse

TABLES = [retl.Table("orders", cursor="updated_at"), retl.Table("cities", pre_action="swap", key="id")]
CITIES = "CREATE TABLE cities AS SELECT id, city FROM orders"


def pipeline(warehouse: Warehouse, app: Database, hooks: retl.Hooks, **words: Any) -> retl.Pipeline:
    warehouse.run(CITIES)
    words = {"tables": TABLES, **words}
    return retl.Pipeline("orders", source=warehouse.source(), target=app.target(), hooks=hooks, **words)


def rows(app: Database, table: str) -> int:
    return len(app.rows(table)) if app.exists() and table in app.tables() else 0


def raises(error: Exception, when: Callable[[Any], bool] = lambda given: True) -> Callable[[Any], None]:
    def hook(given: Any) -> None:
        if when(given):
            raise error

    return hook


async def test_hooks_are_called_around_runs_and_scans_wherever_they_may_block(
    warehouse: Warehouse, app: Database
) -> None:
    called: list[Any] = []

    def before_run(run: retl.BeforeRun) -> None:
        time.sleep(0.2)  # in a thread: else the test's own look at the loop would fail
        assert threading.current_thread() is not threading.main_thread()
        called.append(run)

    async def before_scan(scan: retl.BeforeScan) -> None:
        called.append((scan, await run_sync(rows, app, scan.to)))

    async def after_scan(report: retl.ScanReport) -> None:
        called.append((report, await run_sync(rows, app, report.to)))

    hooks = retl.Hooks(
        before_run=before_run, before_scan=before_scan, after_scan=after_scan, after_run=lambda run: called.append(run)
    )
    report = await pipeline(warehouse, app, hooks).run_once(tables=["orders"])
    (scan,) = report.scans
    assert called == [
        retl.BeforeRun("orders", ("orders",)),
        (retl.BeforeScan("orders", "orders", "orders", scan.scan_id, 1), 0),
        (scan, 10),
        report,
    ]


async def test_a_hook_before_a_run_keeps_it_from_beginning(warehouse: Warehouse, app: Database) -> None:
    called: list[Any] = []
    hooks = retl.Hooks(
        before_run=raises(ValueError("not yet")),
        before_scan=called.append,
        after_scan=called.append,
        after_run=called.append,
    )
    job = pipeline(warehouse, app, hooks)
    with pytest.raises(retl.HookFailed, match=r"^orders: the hook before_run \(raises.*\) failed: ValueError: not yet"):
        await job.run_once()
    assert (called, app.tables()) == ([], [])


async def test_a_hook_before_a_scan_keeps_that_one_from_beginning(warehouse: Warehouse, app: Database) -> None:
    app.run("CREATE TABLE cities (id INTEGER PRIMARY KEY, city TEXT)", "INSERT INTO cities VALUES (99, 'old')")
    ended: list[retl.ScanReport] = []
    hooks = retl.Hooks(
        before_scan=raises(StopIteration(), lambda scan: scan.table == "cities"), after_scan=ended.append
    )
    report = await pipeline(warehouse, app, hooks).run_once(check=False)
    assert [(scan.table, scan.status, scan.error_type) for scan in report.scans] == [
        ("orders", "done", None),
        ("cities", "failed", "HookFailed"),
    ]
    assert sorted(ended, key=lambda scan: scan.table, reverse=True) == list(report.scans)
    assert (app.rows("cities"), rows(app, "orders")) == ([(99, "old")], 10)


async def test_an_error_that_may_pass_is_tried_again(warehouse: Warehouse, app: Database) -> None:
    attempts: list[int] = []

    async def before(scan: retl.BeforeScan) -> None:
        attempts.append(scan.attempt)
        if scan.attempt == 1:
            raise retl.TransientError("the warehouse is being filled")

    report = await pipeline(warehouse, app, retl.Hooks(before_scan=before)).run_once(tables=["orders"])
    assert (attempts, report.scans[0].attempts, rows(app, "orders")) == ([1, 2], 2, 10)


@pytest.mark.parametrize("which", ["after_scan", "after_run"])
async def test_what_is_done_stays_done_where_a_later_hook_fails(
    warehouse: Warehouse, app: Database, which: str
) -> None:
    calls: list[Any] = []

    def hook(given: Any) -> None:
        calls.append(given)
        raise OSError("the webhook is down")

    job = pipeline(warehouse, app, retl.Hooks(**{which: hook}))
    heard = Recorder(job)
    report = await job.run_once(check=False)
    assert [scan.status for scan in report.scans] == ["done", "done"]
    assert (rows(app, "orders"), rows(app, "cities"), len(calls)) == (10, 10, 2 if which == "after_scan" else 1)
    told = [(event.error_type, "OSError: the webhook is down" in event.error) for event in heard.of(events.RunFailed)]
    assert told == [("HookFailed", True)] * len(calls)
    with pytest.raises(retl.HookFailed, match=f"the hook {which} "):
        await job.run_once()
    # The second run read what ties with the watermark, and no more: the first one counts as done.
    assert (await job.history("orders", 1))[0].rows == 1
    await job.aclose()


async def test_a_hook_that_hangs_is_given_up(warehouse: Warehouse, app: Database) -> None:
    hooks = retl.Hooks(before_scan=lambda scan: anyio.sleep(60), after_run=lambda run: anyio.sleep(60))
    job = pipeline(warehouse, app, hooks, stall_timeout=0.3)
    heard = Recorder(job)
    with anyio.fail_after(20):
        report = await job.run_once(check=False)
    assert [(scan.error_type, scan.rows) for scan in report.scans] == [("HookFailed", 0)] * 2
    assert all("the hook before_scan has not ended within 300ms" in str(scan.error) for scan in report.scans)
    (failed,) = heard.of(events.RunFailed)
    assert "the hook after_run has not ended within 300ms" in failed.error


async def test_a_stop_does_not_wait_for_a_hook_longer_than_its_grace(warehouse: Warehouse, app: Database) -> None:
    begun = anyio.Event()

    async def hang(report: retl.RunReport) -> None:
        begun.set()
        await anyio.sleep(60)

    job = pipeline(warehouse, app, retl.Hooks(after_run=hang), interval="1h")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.run_forever)
            await begun.wait()
            job.stop(grace=0.1)
    assert rows(app, "orders") == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: retl.Hooks(after_run=3), "the hook after_run is int, which cannot be called"),  # type: ignore[arg-type]
        (
            lambda: retl.Pipeline("p", source=DuckDB(), target=SQLite("a.db"), tables=["t"], hooks=print),  # type: ignore[arg-type]
            "hooks is <built-in function print>",
        ),
    ],
)
def test_what_is_no_hook_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(retl.ConfigError, match=message):
        make()
