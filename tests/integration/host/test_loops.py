"""Other event loops and other processes: uvloop, a loop for each test, and the ways in which Python starts processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

import retl
from retl import events
from tests.routes.fixtures import make_end
from tests.routes.route import End, moment
from tests.support import Database

STAMP = "2024-01-01 00:00:0{}"


@pytest.fixture(params=["sqlite", "mysql", "postgres"])
def end(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[End]:
    with ExitStack() as stack:
        yield make_end(request.param, "app", request, tmp_path, stack)


async def cancelled(job: retl.Pipeline) -> None:
    """Runs for ever, until it is cancelled after its first scan."""
    scanned = asyncio.Event()
    stop_hearing = job.subscribe(lambda event: scanned.set() if isinstance(event, events.ScanFinished) else None)
    task = asyncio.create_task(job.run_forever())
    await asyncio.wait_for(scanned.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stop_hearing()


def test_uvloop_serves_as_well_as_asyncio_and_one_loop_may_follow_the_other(end: End) -> None:
    end.create("orders", {"v": "text", "ts": "time"})
    table = retl.Table("orders", to="copy", cursor="ts", slice_rows=2)
    job = retl.Pipeline("p", source=end.connector(), target=end.connector(), tables=[table], interval="20ms")
    written = []
    for number, run in enumerate((uvloop.run, asyncio.run, uvloop.run)):
        rows = [(3 * number + n, "v", STAMP.format(3 * number + n)) for n in range(3)]
        end.insert("orders", *rows)
        written += [(key, value, moment(at)) for key, value, at in rows]
        run(cancelled(job))
        assert end.rows("copy") == written
        assert run(job.run_once()).ok
        status = run(job.status())
        assert (status.state, status.owner, status.tables[0].lag) == ("stopped", None, 0.0)
        assert len(run(job.history(limit=1))) == 1
        assert all(finding.level == "ok" for finding in run(job.check()))
    assert end.rows("copy") == written


CHILDREN = """
import asyncio, multiprocessing, sys
import retl
from retl.connectors import IteratorSource, SQLite

path = sys.argv[1]
people = retl.Pipeline("p", source=IteratorSource(lambda: [{"id": 1}], key="id"), target=SQLite(path), tables=["t"])

def once():
    before = people.snapshot()
    assert (before.state, before.owner) == ("stopped", False), before
    assert asyncio.run(people.run_once()).ok
    assert asyncio.run(people.status()).reachable

def look():
    here, status = people.snapshot(), asyncio.run(people.status())
    assert (here.state, here.owner, status.reachable) == ("stopped", False, True), here
    assert status.owner is not None

def child(call, method):
    process = multiprocessing.get_context(method).Process(target=call)
    process.start()
    process.join()
    print(method, call.__name__, process.exitcode, flush=True)

if __name__ == "__main__":
    once()  # the parent has used it
    for method in ("spawn", "fork", "forkserver"):
        child(once, method)
        with retl.in_thread(people):
            child(look, method)
    once()
"""


@pytest.mark.processes
def test_a_process_of_multiprocessing_begins_anew_however_it_is_started(tmp_path: Path) -> None:
    program = tmp_path / "children.py"
    program.write_text(CHILDREN)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program), str(tmp_path / "app.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    told = [f"{method} {call} 0" for method in ("spawn", "fork", "forkserver") for call in ("once", "look")]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, told, "")
    assert Database(tmp_path / "app.db").run("SELECT owner FROM retl_leases") == [(None,)]


OF_THE_HOST = """
import unittest

import pytest
import retl
from retl.connectors import IteratorSource, SQLite

people = retl.Pipeline(
    "p", source=IteratorSource(lambda: [{"id": 1}], key="id"), target=SQLite("app.db"), tables=["t"], interval="20ms"
)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
@pytest.mark.parametrize("number", range(3))
async def test_with_a_loop_of_its_own(number):
    assert (await people.run_once()).ok
    async with retl.running(people) as jobs:
        assert (await people.status()).reachable and not jobs.ended

class Tests(unittest.IsolatedAsyncioTestCase):
    async def test_one(self):
        async with retl.running(people):
            people.trigger()

    async def test_two(self):
        assert (await people.run_once()).ok
        assert len(await people.history(limit=1)) == 1
"""


@pytest.mark.processes
def test_tests_of_a_host_with_a_loop_each_share_its_pipelines(tmp_path: Path) -> None:
    (tmp_path / "test_host.py").write_text(OF_THE_HOST)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_host.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert "5 passed" in done.stdout, done.stdout + done.stderr
