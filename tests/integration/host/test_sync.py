"""``in_thread``: pipelines beside a synchronous program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import retl
from retl import events
from retl.connectors import FunctionTarget, IteratorSource, SQLite
from retl.observe.probes import liveness, readiness
from tests.integration.host.test_servers import asked, serving, until
from tests.support import Database

ROWS = [{"id": number, "name": f"n{number}"} for number in range(3)]


def job(name: str, path: Path, **words: Any) -> retl.Pipeline:
    given: dict[str, Any] = {
        "source": IteratorSource(lambda: ROWS, key="id"),
        "target": SQLite(str(path / f"{name}.db")),
        "tables": ["people"],
        "interval": "manual",
    }
    return retl.Pipeline(name, **given | words)


class Heard:
    """Waits, as a synchronous program does, for the next event of a kind."""

    def __init__(self, pipeline: retl.Pipeline, kind: type[events.Event]) -> None:
        self._arrived = threading.Event()
        pipeline.subscribe(lambda event: self._arrived.set() if isinstance(event, kind) else None)

    def wait(self) -> None:
        assert self._arrived.wait(30)
        self._arrived.clear()


def test_it_is_steered_and_asked_from_a_synchronous_program(tmp_path: Path) -> None:
    one, two = job("one", tmp_path), job("two", tmp_path)
    done = Heard(one, events.ScanFinished)
    with retl.in_thread(one, two) as jobs:
        assert (list(jobs), jobs["one"], jobs.ended) == (["one", "two"], one, {})
        assert liveness(jobs) and readiness(jobs)
        jobs["one"].trigger()
        done.wait()
        assert {name: one.state for name, one in jobs.snapshot().items()} in (
            {"one": "idle", "two": "idle"},
            {"one": "scanning", "two": "idle"},
        )
        (table,) = jobs.call(one.status).tables
        assert table.last is not None and table.last.rows == 3
        assert jobs.call(one.history, limit=1) == [table.last]
        with pytest.raises(retl.ConfigError, match="running already"):
            jobs.call(one.run_once)
        jobs["two"].stop()
        assert jobs.call(jobs.wait_ended) == {"two": None}
        assert readiness(jobs).reasons == {"two": "it has ended"}
    assert Database(tmp_path / "one.db").rows("people") == [(row["id"], row["name"]) for row in ROWS]
    assert set(jobs.ended) == {"one", "two"}
    with pytest.raises(retl.ConfigError, match="the pipelines do not run"):
        jobs.call(one.status)


@pytest.mark.parametrize("turn", [1, 2])
def test_the_same_pipelines_run_in_one_thread_after_another(tmp_path: Path, turn: int) -> None:
    pipeline = job("one", tmp_path)
    jobs, done = retl.in_thread(pipeline), Heard(pipeline, events.ScanFinished)
    for _ in range(turn):
        jobs.start()
        with pytest.raises(retl.ConfigError, match="run in their thread already"):
            jobs.start()
        pipeline.trigger()
        done.wait()
        jobs.stop()
        jobs.stop()
    with retl.in_thread(pipeline):
        pipeline.trigger()
        done.wait()


def test_what_can_never_work_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    store = retl.SqliteStore(tmp_path / "state.db")
    one, same = job("one", tmp_path, state=store), job("one", tmp_path, state=retl.SqliteStore(tmp_path / "state.db"))
    with pytest.raises(retl.ConfigError, match="two of the pipelines are named 'one'"):
        retl.in_thread(one, same)
    with retl.in_thread(one):
        with pytest.raises(retl.ConfigError, match="another pipeline named 'one' runs in this process"):
            retl.in_thread(same).start()
        assert [thread.name for thread in threading.enumerate()].count("retl") == 1
    assert "retl" not in [thread.name for thread in threading.enumerate()]


def test_a_stop_ends_within_its_grace_whatever_hangs(tmp_path: Path) -> None:
    hangs, release = threading.Event(), threading.Event()

    def deliver(rows: list[dict[str, Any]]) -> None:
        hangs.set()
        release.wait(60)

    pipeline = job("one", tmp_path, target=FunctionTarget(deliver, rows=True), state=retl.MemoryStore())
    try:
        with retl.in_thread(pipeline, grace="200ms"):
            pipeline.trigger()
            assert hangs.wait(30)
            began = time.monotonic()
        assert time.monotonic() - began < 8, "the grace is 0.2 s; the rest is for a busy machine"
    finally:
        release.set()


def test_a_listener_may_stop_it_and_may_not_wait_for_itself(tmp_path: Path) -> None:
    pipeline = job("one", tmp_path)
    jobs = retl.in_thread(pipeline)
    errors: list[str] = []

    def hear(event: events.Event) -> None:
        if isinstance(event, events.ScanFinished):
            try:
                jobs.call(pipeline.status)
            except retl.ConfigError as error:
                errors.append(error.message)
            jobs.stop()

    pipeline.subscribe(hear)
    jobs.start()
    thread = jobs._thread
    assert thread is not None
    pipeline.trigger()
    thread.join(30)
    assert not thread.is_alive()
    assert errors == ["call() would wait for itself here."]
    jobs.stop()


# Real programs ------------------------------------------------------------------------------

_SCRIPT = """
import os, sys, threading
import retl
from retl.connectors import IteratorSource, SQLite

done = threading.Event()
p = retl.Pipeline("p", source=IteratorSource(lambda: [{"id": 1}], key="id"), target=SQLite(sys.argv[1]), tables=["t"])
p.subscribe(lambda event: done.set() if isinstance(event, retl.events.ScanFinished) else None)
jobs = retl.in_thread(p).start()
done.wait(60)
if not os.fork():
    try:
        jobs.call(p.status)
    except retl.ConfigError as error:
        print("of which this one is a fork" in str(error), flush=True)
    jobs.stop()
    os._exit(0)
os.wait()
print("ended")
"""


@pytest.mark.processes
def test_a_script_that_forgets_to_stop_gives_the_lease_back_and_a_fork_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _SCRIPT, str(tmp_path / "app.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nended\n", "")
    assert Database(tmp_path / "app.db").run("SELECT owner FROM retl_leases") == [(None,)]


@pytest.mark.large
@pytest.mark.processes
def test_two_synchronous_workers_of_gunicorn_run_it_once_and_end_well(tmp_path: Path) -> None:
    command = ("gunicorn", "tests.integration.host.wsgi:app", "-w", "2", "-b", "127.0.0.1:PORT", "--log-level", "error")
    with serving(*command, folder=tmp_path) as (process, url):

        def states() -> dict[int, str]:
            told = [asked(url) for _ in range(20)]
            return {one["worker"]: one["state"] for one in told}

        def owners() -> list[int]:
            return [worker for worker, state in states().items() if state in ("idle", "scanning")]

        until(lambda: len(states()) == 2 and len(owners()) == 1, process)
        until(lambda: asked(url)["last_success"] is not None, process)
        (owner,) = owners()
        os.kill(owner, signal.SIGKILL)
        until(lambda: owner not in states() and len(owners()) == 1, process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in out, out
    database = Database(tmp_path / "app.db")
    assert database.rows("people") == [(1, "Ann")]
    assert database.run("SELECT owner FROM retl_leases") == [(None,)]
