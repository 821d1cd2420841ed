"""A backfill reaches the owner of a pipeline, whichever process asks; it is run once, and its successors finish it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import ConfigError, TargetBusy, events
from retl.model.backfills import BackfillStatus
from tests import tiers
from tests.routes.ends import PostgresEnd, ServerEnd
from tests.routes.fixtures import make_end
from tests.support import Command, Database, Recorder, Row, running, state_is

DAY = [f"2024-01-{day:02d} 12:00:00" for day in range(1, 31)]
RANGE: dict[str, Any] = {"since": "2024-01-05", "until": "2024-01-15"}
IN_RANGE = list(range(12, 42))


@pytest.fixture
def shop(tmp_path: Path) -> Database:
    """Three rows a day, and a table without a cursor."""
    shop = Database(tmp_path / "shop.db")
    shop.run(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, ts DATETIME NOT NULL, v TEXT)",
        "CREATE TABLE cities (id INTEGER PRIMARY KEY)",
    )
    for number in range(90):
        shop.run("INSERT INTO orders VALUES (?, ?, 'old')", values=(number, DAY[number // 3]))
    return shop


def pipeline(shop: Database, app: Database | None = None, owner: str = "", **words: Any) -> retl.Pipeline:
    """A pipeline as another process would have it, where ``owner`` names that."""
    tables = [retl.Table("orders", cursor="ts", slice_rows=6), "cities"]
    given: dict[str, Any] = {"tables": tables, "interval": "manual", "lease_ttl": "300ms"}
    if app is not None:
        given["target"] = app.target()
    job = retl.Pipeline("shop", source=shop.source(), **given | words)
    job._runner.lease._owner = owner or None
    return job


async def loaded(shop: Database, app: Database, **words: Any) -> retl.Pipeline:
    """A pipeline that has scanned everything; since then every row has changed at the source, but for its cursor."""
    job = pipeline(shop, app, **words)
    await job.run_once()
    shop.run("UPDATE orders SET v = 'new'")
    return job


def with_value(app: Database, value: str) -> list[int]:
    return [key for (key,) in app.run(f"SELECT id FROM orders WHERE v = '{value}' ORDER BY id")]


async def ended(job: retl.Pipeline, sent: BackfillStatus) -> BackfillStatus:
    with anyio.fail_after(30):
        async for found in job.follow_backfill(sent):
            sent = found
    return sent


async def watermark(job: retl.Pipeline) -> str | None:
    (orders,) = [table for table in (await job.status()).tables if table.table == "orders"]
    return orders.watermark


async def test_the_owner_runs_what_is_sent_to_it_and_tells_how_far_it_is(shop: Database, app: Database) -> None:
    elsewhere = await loaded(shop, app)
    owner = pipeline(shop, app)
    heard = Recorder(owner)
    seen: list[BackfillStatus] = []
    async with running(owner) as after:
        await after(events.LeaseAcquired)
        await state_is(owner, "idle")
        owner.pause()  # it holds the schedule back, and nothing else
        heard.when(events.SliceCommitted, lambda _: seen.extend(owner.snapshot().backfills), once=False)
        sent = await elsewhere.send_backfill("orders", **RANGE)
        assert (sent.state, sent.table, sent.since, sent.until) == ("waiting", "orders", "2024-01-05", "2024-01-15")
        assert sent.owner is not None and sent.owner.startswith("process ")
        done = await ended(elsewhere, sent)
        assert (done.state, done.rows, done.error, done.owner) == ("done", 30, None, sent.owner)
        assert with_value(app, "new") == IN_RANGE
        await state_is(owner, "paused")
        (begun,) = heard.of(events.BackfillStarted)
        assert (begun.table, begun.since, begun.by, begun.resumed) == ("orders", "2024-01-05", sent.by, False)
        status = await elsewhere.status()
        assert (status.backfills, status.healthy) == ((done,), True)
    assert {(one.state, one.rows_planned) for one in seen[1:4]} == {("running", 30)}
    assert [one.reached for one in seen[:4]] == [DAY[5], DAY[7], DAY[9], DAY[11]]
    assert await watermark(elsewhere) == DAY[29]
    newest = (await elsewhere.history("orders"))[0]
    assert (newest.mode, newest.rows, newest.since) == ("backfill", 30, "2024-01-05")
    for job in (owner, elsewhere):
        await job.aclose()


async def test_a_schedule_goes_on_beside_it(shop: Database, app: Database) -> None:
    owner = await loaded(shop, app, interval="20ms")
    async with running(owner) as after:
        await after(events.ScanFinished)
        sent = await owner.send_backfill("orders", **RANGE)  # by the owner itself
        assert (await ended(owner, sent)).rows == 30
        await after(events.ScanFinished)
    assert [key for key in with_value(app, "new") if key < 80] == IN_RANGE
    await owner.aclose()


async def test_what_an_owner_leaves_when_it_stops_its_successor_finishes(shop: Database, app: Database) -> None:
    first, second = await loaded(shop, app), pipeline(shop, app, "elsewhere/2")
    Recorder(first).when(events.SliceCommitted, lambda _: first.stop())
    async with running(first) as after:
        await after(events.LeaseAcquired)
        sent = await first.send_backfill("orders", **RANGE)
        await after(events.PipelineStopped)
    (left,) = await second.backfills()
    assert (left.state, left.rows, left.reached, left.owner) == ("running", 6, DAY[5], None)
    shop.run("UPDATE orders SET v = 'newer'")
    heard = Recorder(second)
    async with running(second):
        done = await ended(second, sent)
    assert (done.state, done.rows) == ("done", 30)
    assert (with_value(app, "new"), with_value(app, "newer")) == (IN_RANGE[:6], IN_RANGE[6:])
    assert [event.resumed for event in heard.of(events.BackfillStarted)] == [True]
    assert await watermark(second) == DAY[29]
    for job in (first, second):
        await job.aclose()


def holding(release: anyio.Event) -> retl.Hooks:
    """Hooks that let no scan begin before that."""

    async def hold(_: retl.BeforeScan) -> None:
        await release.wait()

    return retl.Hooks(before_scan=hold)


async def test_one_that_is_cancelled_ends_and_goes_on_when_it_is_sent_again(shop: Database, app: Database) -> None:
    first = await loaded(shop, app)
    Recorder(first).when(events.SliceCommitted, lambda _: first.stop())
    async with running(first) as after:
        await after(events.LeaseAcquired)
        sent = await first.send_backfill("orders", **RANGE)
        await after(events.PipelineStopped)
    release = anyio.Event()
    owner, elsewhere = pipeline(shop, app, hooks=holding(release)), pipeline(shop, app)
    heard = Recorder(owner)
    async with running(owner) as after:
        await after(events.BackfillStarted)
        (found,) = await elsewhere.backfills()
        assert (found.id, found.state, found.rows, found.cancelled_by) == (sent.id, "running", 6, None)
        found = await elsewhere.cancel_backfill("orders")
        assert (found.id, found.state, found.rows, found.reached) == (sent.id, "cancelled", 6, DAY[5])
        assert found.cancelled_by is not None and found.ended_at is not None
        (dropped,) = heard.of(events.CommandDropped)
        assert dropped.command == "backfill" and "cancelled by process" in dropped.reason
        with pytest.raises(ConfigError, match=r"^shop / orders: no backfill of this table waits or runs"):
            await elsewhere.cancel_backfill("orders")
        release.set()
        shop.run("UPDATE orders SET v = 'newer'")
        again = await elsewhere.send_backfill("orders", **RANGE)
        done = await ended(elsewhere, again)
        assert (done.state, done.rows, again.id != sent.id) == ("done", 30, True)
    assert (with_value(app, "new"), with_value(app, "newer")) == (IN_RANGE[:6], IN_RANGE[6:])
    for job in (first, owner, elsewhere):
        await job.aclose()


async def test_where_no_process_lives_it_waits_for_the_next_owner_or_is_cancelled_at_once(
    shop: Database, app: Database
) -> None:
    job = await loaded(shop, app)
    assert (await job.send_backfill("orders", **RANGE)).owner is None
    assert (await job.cancel_backfill("orders")).state == "cancelled"
    sent = await job.send_backfill("orders", since="2024-01-29")
    assert with_value(app, "new") == []
    async with running(job):
        assert (await ended(job, sent)).rows == 6
    assert with_value(app, "new") == list(range(84, 90))
    assert [one.state for one in await job.backfills()] == ["cancelled", "done"]
    await job.aclose()


async def test_a_table_has_one_at_a_time_and_the_same_is_not_sent_twice(shop: Database, app: Database) -> None:
    release = anyio.Event()
    owner, elsewhere = await loaded(shop, app), pipeline(shop, app)
    owner = pipeline(shop, app, hooks=holding(release))
    async with running(owner) as after:
        await after(events.LeaseAcquired)
        sent = await elsewhere.send_backfill("orders", **RANGE)
        await after(events.BackfillStarted)
        assert (await elsewhere.send_backfill("orders", **RANGE)).id == sent.id
        said = r"^shop / orders: the backfill since 2024-01-05 until 2024-01-15 of this table was sent by process \d+ on .*`retl backfill --cancel shop orders`"
        for ask in (elsewhere.send_backfill, owner.backfill):
            with pytest.raises(TargetBusy, match=said):
                await ask("orders", since="2024-01-20")
        with pytest.raises(TargetBusy, match=r"is being run by process.*send_backfill\(\)"):
            await pipeline(shop, app, "elsewhere/2").backfill("orders", **RANGE)
        release.set()
        assert (await ended(elsewhere, sent)).rows == 30
    assert with_value(app, "new") == IN_RANGE
    for job in (owner, elsewhere):
        await job.aclose()


@pytest.mark.parametrize(
    ("table", "ends", "said"),
    [
        ("ordes", RANGE, "the pipeline has no table 'ordes'"),
        ("cities", RANGE, "the table has no cursor"),
        ("orders", {}, "neither since nor until is given"),
        ("orders", {"since": "soon"}, "since is 'soon', not a value of the cursor"),
        ("orders", {"since": "2024-01-05", "until": "2024-01-04"}, "no row lies between them"),
    ],
)
async def test_what_cannot_be_is_refused_before_it_is_sent(
    shop: Database, app: Database, table: str, ends: dict[str, Any], said: str
) -> None:
    job = await loaded(shop, app)
    with pytest.raises(ConfigError, match=f"^shop.*{said}"):
        await job.send_backfill(table, **ends)
    assert await job.backfills() == []
    await job.aclose()


async def test_what_only_the_owner_can_know_is_told_once_and_not_tried_again(shop: Database, app: Database) -> None:
    """Its declaration is another one: it has no such table, and that of the sender has no cursor there."""
    elsewhere = await loaded(shop, app)
    other = {"without the table": ["cities"], "without the cursor": [retl.Table("orders", key="id")]}
    for tables, said in zip(other.values(), ("the pipeline has no table 'orders'", "has no cursor"), strict=True):
        owner = pipeline(shop, app, tables=tables)
        heard = Recorder(owner)
        async with running(owner) as after:
            await after(events.LeaseAcquired)
            failed = await ended(elsewhere, await elsewhere.send_backfill("orders", **RANGE))
            assert failed.state == "failed" and failed.error is not None and said in failed.error
            (dropped,) = heard.of(events.CommandDropped)
            assert dropped.command == "backfill" and said in dropped.reason
            assert owner.snapshot().healthy
        assert (await elsewhere.status()).healthy
        assert heard.of(events.ScanFailed) == []
        await owner.aclose()
    assert with_value(app, "new") == []
    await elsewhere.aclose()


async def test_one_whose_scan_fails_says_why_and_nothing_of_the_health_of_the_table(
    shop: Database, app: Database
) -> None:
    elsewhere = await loaded(shop, app)
    owner = pipeline(shop, app)
    async with running(owner) as after:
        await after(events.LeaseAcquired)
        sent = await elsewhere.send_backfill("orders", **RANGE)
        app.run("DROP TABLE orders")
        failed = await ended(elsewhere, sent)
    assert failed.state == "failed" and failed.error is not None and "'orders' is gone" in failed.error
    assert (await elsewhere.history("orders"))[0].status == "failed"
    status = await elsewhere.status()
    assert (status.healthy, status.backfills) == (True, (failed,))
    for job in (owner, elsewhere):
        await job.aclose()


async def test_a_single_run_takes_none_and_leaves_alone_what_was_sent_to_others(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    await job.send_backfill("orders", **RANGE)
    release = anyio.Event()
    single = pipeline(shop, app, hooks=holding(release), tables=["cities", retl.Table("orders", cursor="ts")])
    async with anyio.create_task_group() as tasks:
        heard = Recorder(single)
        acquired = anyio.Event()
        heard.when(events.LeaseAcquired, lambda _: acquired.set())
        tasks.start_soon(single.run_once)
        await acquired.wait()
        assert (await job.backfills())[0].state == "waiting"
        await job.cancel_backfill("orders")
        failed = await ended(job, await job.send_backfill("orders", **RANGE))
        assert (failed.state, failed.error) == (
            "failed",
            "a single run takes no backfill; send it again when that has ended",
        )
        release.set()
    assert [one.state for one in await job.backfills()] == ["cancelled", "failed"]
    for one in (job, single):
        await one.aclose()


async def test_what_waits_is_over_when_the_same_is_run_where_no_process_lives(shop: Database, app: Database) -> None:
    job = await loaded(shop, app)
    sent = await job.send_backfill("orders", **RANGE)
    with pytest.raises(TargetBusy, match="was sent by process"):
        await job.backfill("orders", since="2024-01-20")
    await job.backfill("orders", **RANGE)
    (done,) = await job.backfills()
    assert (done.id, done.state, done.rows) == (sent.id, "done", 30)
    assert with_value(app, "new") == IN_RANGE
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.LeaseAcquired)
        await state_is(job, "idle")
    assert heard.of(events.ScanStarted) == []
    await job.aclose()


async def test_a_state_that_only_its_own_process_has_reaches_no_other(shop: Database, app: Database) -> None:
    job = pipeline(shop, app, state=retl.MemoryStore())
    with pytest.raises(ConfigError, match="shop: its state is kept in the memory of the process that runs it"):
        await job.send_backfill("orders", **RANGE)
    async with running(job) as after:
        await after(events.LeaseAcquired)
        assert (await ended(job, await job.send_backfill("orders", **RANGE))).rows == 30
    assert app.run("SELECT COUNT(*) FROM orders") == [(30,)]
    await job.aclose()


# Real processes ------------------------------------------------------------------

KILLED = """
import asyncio, os, sys
import retl
from retl import events
from retl.connectors import MySQL, PostgreSQL, SQLite

kind = {"mysql": MySQL, "postgresql": PostgreSQL}.get(sys.argv[2].partition("://")[0], SQLite)
job = retl.Pipeline("shop", source=SQLite(sys.argv[1]), target=kind(sys.argv[2]), interval="manual", lease_ttl="300ms",
                    tables=[retl.Table("orders", cursor="ts", slice_rows=6), "cities"])
committed = 0
def heed(event):
    global committed
    committed += isinstance(event, events.SliceCommitted)
    ended = isinstance(event, events.ScanFinished) and event.report.mode == "backfill"
    if ended or committed == int(sys.argv[3]):
        os._exit(9)
job.subscribe(heed)
asyncio.run(job.run_forever())
"""


@pytest.mark.processes
@pytest.mark.parametrize(("slices", "rows"), [(2, 12), (99, 30)], ids=["in the middle", "before it can tell"])
async def test_a_standby_finishes_what_an_owner_that_is_killed_has_begun_and_repeats_nothing(
    shop: Database, app: Database, slices: int, rows: int
) -> None:
    standby = await loaded(shop, app)
    await finish_after_a_kill(shop, str(app.path), app.run, standby, slices, rows)


@pytest.mark.processes
@pytest.mark.parametrize("system", tiers.some("postgres", "mysql"))
async def test_so_does_one_whose_state_lies_in_a_server(
    shop: Database, tmp_path: Path, request: pytest.FixtureRequest, system: str
) -> None:
    with ExitStack() as stack:
        app = make_end(system, "app", request, tmp_path, stack)
        assert isinstance(app, PostgresEnd | ServerEnd)
        connector = app.connector()
        standby = pipeline(shop, target=connector)
        await standby.run_once()
        shop.run("UPDATE orders SET v = 'new'")
        await finish_after_a_kill(shop, connector.url or "", app.run, standby, slices=2, rows=12)


async def finish_after_a_kill(
    shop: Database, app: str, look: Callable[[str], list[Row]], standby: retl.Pipeline, slices: int, rows: int
) -> None:
    """An owner commits so many slices, that is so many rows, and dies; then every row is looked at."""
    sent = await standby.send_backfill("orders", **RANGE)
    killed = await anyio.run_process([sys.executable, "-c", KILLED, str(shop.path), app, str(slices)], check=False)
    assert (killed.returncode, killed.stderr.decode()) == (9, "")
    shop.run("UPDATE orders SET v = 'newer'")
    heard = Recorder(standby)
    async with running(standby):
        done = await ended(standby, sent)
    assert (done.state, done.rows) == ("done", 30)
    expected = [
        (key, ("new" if key in IN_RANGE[:rows] else "newer") if key in IN_RANGE else "old") for key in range(90)
    ]
    assert look("SELECT id, v FROM orders ORDER BY id") == expected
    assert len(heard.of(events.ScanStarted)) == (rows < 30)
    assert await watermark(standby) == DAY[29]
    await standby.aclose()


JOBS = """
[pipelines.shop]
source = {{ type = "sqlite", path = "{shop}" }}
target = {{ type = "sqlite", path = "{app}" }}
interval = "1h"
lease_ttl = "600ms"
[[pipelines.shop.tables]]
name = "orders"
cursor = "ts"
slice_rows = {slice_rows}
"""


@contextmanager
def process(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "retl", *arguments]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as found:
        try:
            yield found
        finally:
            found.kill()


@pytest.mark.processes
def test_the_command_line_sends_it_waits_and_can_cancel(shop: Database, app: Database, command: Command) -> None:
    Path("jobs.toml").write_text(JOBS.format(shop=shop.path, app=app.path, slice_rows=6))
    with process("run", cwd=Path.cwd()) as owner:
        assert owner.stdout is not None
        while "90 rows" not in owner.stdout.readline():
            pass
        shop.run("UPDATE orders SET v = 'new'")
        again = ("backfill", "shop", "orders", "--since", "2024-01-05", "--until", "2024-01-15")
        done = subprocess.run([sys.executable, "-m", "retl", *again], capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        said = "shop.orders: backfill since 2024-01-05 until 2024-01-15"
        assert (done.returncode, done.stderr) == (0, "")
        assert lines[0].startswith(f"{said} is sent to process {owner.pid} on ")
        assert lines[-1] == f"{said} is done, 30 rows"
        assert with_value(app, "new") == IN_RANGE
        told = command("status")
        assert "backfill of orders since 2024-01-05 until 2024-01-15: done" in told and ", 30 rows; sent " in told
        assert "no backfill of this table waits" in command("backfill", "shop", "orders", "--cancel", code=2)
        assert "has no table 'ordes'" in command("backfill", "shop", "ordes", "--since", "2024", code=2)
    assert command(*again).count("30 rows, 0 changed in") == 1  # where no process runs it, it runs here


@pytest.mark.processes
def test_the_command_line_does_not_wait_where_it_is_told_so_and_leaves_it_running_when_interrupted(
    shop: Database, app: Database, command: Command
) -> None:
    """The owner is another program, that holds every scan until a file is there."""
    Path("jobs.toml").write_text(JOBS.format(shop=shop.path, app=app.path, slice_rows=6))
    command("run", "--once")
    shop.run("UPDATE orders SET v = 'new'")
    held = subprocess.Popen(
        [sys.executable, "-c", HELD, str(shop.path), str(app.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert held.stdout is not None and held.stdout.readline() == "owned\n"
        ends = ("--since", "2024-01-05", "--until", "2024-01-15")
        assert f"is sent to process {held.pid} on " in command("backfill", "shop", "orders", *ends, "--no-wait")
        with process("backfill", "shop", "orders", *ends, cwd=Path.cwd()) as waiting:
            assert waiting.stdout is not None
            while "is under way" not in waiting.stdout.readline():
                pass
            waiting.send_signal(signal.SIGINT)
            rest, _ = waiting.communicate(timeout=30)
        assert waiting.returncode == 130 and f"goes on in process {held.pid} on " in rest and "--cancel" in rest
        assert "since 2024-01-05 until 2024-01-15: running, 0 rows" in command("status")
        assert "was sent by process" in command("backfill", "shop", "orders", "--since", "2024-01-20", code=3)
        assert "is cancelled, 0 rows" in command("backfill", "shop", "orders", "--cancel")
        assert "cancelled now" in command("status") or "cancelled 1s ago" in command("status")
        assert with_value(app, "new") == []
    finally:
        held.kill()
        held.wait()
        if held.stdout is not None:
            held.stdout.close()


HELD = """
import asyncio, sys
import retl
from retl import events
from retl.connectors import SQLite

async def hold(_):
    await asyncio.sleep(3600)

job = retl.Pipeline("shop", source=SQLite(sys.argv[1]), target=SQLite(sys.argv[2]), interval="manual", lease_ttl="600ms",
                    tables=[retl.Table("orders", cursor="ts", slice_rows=6)], hooks=retl.Hooks(before_scan=hold))
job.subscribe(lambda event: print("owned", flush=True) if isinstance(event, events.LeaseAcquired) else None)
asyncio.run(job.run_forever())
"""
