"""``running``: pipelines beside a service, from its start to its end, whatever hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import retl
from retl import events
from retl.connectors import DuckDB, FunctionTarget, IteratorSource, SQLite
from tests.support import Database, Recorder

ROWS = [{"id": number, "name": f"n{number}"} for number in range(5)]


def from_memory() -> IteratorSource:
    return IteratorSource(lambda: ROWS, key="id")


def job(name: str, path: Path, **words: Any) -> retl.Pipeline:
    given: dict[str, Any] = {
        "source": from_memory(),
        "target": SQLite(str(path)),
        "tables": ["people"],
        "interval": 3600,
    }
    return retl.Pipeline(name, **given | words)


async def first(pipeline: retl.Pipeline, kind: type[events.Event], act: Callable[[], object] = lambda: None) -> None:
    arrived = anyio.Event()
    end = pipeline.subscribe(lambda event: arrived.set() if isinstance(event, kind) else None)
    act()
    with anyio.fail_after(20):
        await arrived.wait()
    end()


# Start ----------------------------------------------------------------------------------


async def test_pipelines_run_for_the_length_of_the_block(tmp_path: Path) -> None:
    one, two = job("one", tmp_path / "1.db"), job("two", tmp_path / "2.db")
    heard = [Recorder(one), Recorder(two)]
    async with retl.running(one, two) as jobs:
        for pipeline in (one, two):
            if not pipeline.snapshot().last_success:
                await first(pipeline, events.ScanFinished)
        assert (list(jobs), jobs["one"], jobs.ended, jobs.healthy) == (["one", "two"], one, {}, True)
    for name, recorder in zip("12", heard, strict=True):
        assert isinstance(recorder.events[-1], events.PipelineStopped)
        assert Database(tmp_path / f"{name}.db").rows("people") == [(row["id"], row["name"]) for row in ROWS]
    assert set(jobs.ended) == {"one", "two"}


async def test_what_can_never_work_raises_before_the_service_serves(tmp_path: Path) -> None:
    """Two objects for one pipeline: the second one can never own it."""
    one, same = (
        job("one", tmp_path / "1.db"),
        job("same", tmp_path / "2.db", state=retl.SqliteStore(str(tmp_path / "s"))),
    )
    other = job("same", tmp_path / "2.db", state=retl.SqliteStore(str(tmp_path / "s")))
    heard = Recorder(one)
    async with retl.running(same):
        with pytest.raises(retl.ConfigError, match="another pipeline named 'same' runs in this process"):
            async with retl.running(one, other):
                pytest.fail("it must not serve")
        assert isinstance(heard.events[-1], events.PipelineStopped)
    with pytest.raises(retl.ConfigError, match="two of the pipelines are named 'one'"):
        async with retl.running(one, job("one", tmp_path / "3.db")):
            pytest.fail("it must not serve")


async def test_other_pipelines_are_taken_up_and_those_that_stay_are_not_touched(tmp_path: Path) -> None:
    same, old, gone = (job(name, tmp_path / f"{name}.db") for name in ("same", "changed", "gone"))
    changed, new = job("changed", tmp_path / "other.db"), job("new", tmp_path / "new.db")
    heard = {pipeline: Recorder(pipeline) for pipeline in (same, old, gone, changed, new)}
    async with retl.running(same, old, gone) as jobs:
        await jobs.take_up([new, same, changed])
        assert (list(jobs), jobs["changed"], jobs.ended) == (["new", "same", "changed"], changed, {})
        for pipeline in (same, new, changed):
            if not pipeline.snapshot().last_success:
                await first(pipeline, events.ScanFinished)
        assert len(heard[same].of(events.PipelineStarted)) == 1
        assert not heard[same].of(events.PipelineStopped)
        assert [len(heard[one].of(events.PipelineStopped)) for one in (old, gone)] == [1, 1]
        with pytest.raises(retl.ConfigError, match="two of the pipelines are named 'new'"):
            await jobs.take_up([new, job("new", tmp_path / "x.db")])
        assert (jobs.healthy, list(jobs)) == (True, ["new", "same", "changed"])
    assert all(isinstance(heard[one].events[-1], events.PipelineStopped) for one in (same, changed, new))
    assert Database(tmp_path / "other.db").rows("people") == [(row["id"], row["name"]) for row in ROWS]


async def test_one_that_cannot_work_keeps_no_other_from_being_taken_up_and_is_tried_again(tmp_path: Path) -> None:
    def same(path: str) -> retl.Pipeline:
        return job("same", tmp_path / path, state=retl.SqliteStore(str(tmp_path / "s")))

    one, other, double = job("one", tmp_path / "1.db"), job("other", tmp_path / "2.db"), same("3.db")
    async with retl.running(one) as jobs:
        async with retl.running(same("4.db")):
            await jobs.take_up([one, double, other])
            assert (list(jobs.ended), jobs.healthy) == (["same"], False)
            assert "another pipeline named 'same' runs in this process" in str(jobs.ended["same"])
            if not other.snapshot().last_success:
                await first(other, events.ScanFinished)
        await jobs.take_up([one, double, other])
        assert jobs.ended == {}


async def test_the_end_of_one_does_not_end_the_others_and_the_host_can_wait_for_it(tmp_path: Path) -> None:
    one, two = job("one", tmp_path / "1.db"), job("two", tmp_path / "2.db")
    async with retl.running(one, two) as jobs:
        one.stop()
        with anyio.fail_after(20):
            assert await jobs.wait_ended() == {"one": None}
        assert not jobs.healthy
        await first(two, events.ScanFinished, two.trigger)


async def test_a_task_group_can_wait_until_a_pipeline_has_begun(tmp_path: Path) -> None:
    pipeline = job("one", tmp_path / "1.db")
    heard = Recorder(pipeline)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pipeline.run_forever)
        assert heard.of(events.LeaseAcquired)
        pipeline.stop()


# Stop: whatever hangs ---------------------------------------------------------------------


async def _dead_api(rows: list[Any]) -> None:
    await anyio.sleep_forever()


async def _hung_source() -> AsyncIterator[dict[str, Any]]:
    yield ROWS[0]
    await anyio.sleep_forever()


def _blocking(release: threading.Event) -> Iterator[dict[str, Any]]:
    yield ROWS[0]
    release.wait(60)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets the blocking function go at last: the test leaves no thread behind."""
    found = threading.Event()
    yield found
    found.set()


def hung(kind: str, path: Path, release: threading.Event) -> retl.Pipeline:
    state = retl.SqliteStore(str(path / "state.db"))
    if kind == "target":
        return job(kind, path, target=FunctionTarget(_dead_api, rows=True), state=state)
    if kind == "source":
        return job(kind, path / "app.db", source=IteratorSource(_hung_source, key="id"), state=state)
    if kind == "blocking function":
        source = IteratorSource(lambda: _blocking(release), key="id")
        return job(kind, path / "app.db", source=source, state=state)
    query = "SELECT count(*) AS id FROM range(10000000) a, range(10000000) b WHERE a.range * b.range % 7 = 1"
    table = retl.Table("people", query=query, key="id")
    return job(kind, path / "app.db", source=DuckDB(), tables=[table], state=state)


@pytest.mark.parametrize("kind", ["target", "source", "blocking function", "a query of hours"])
async def test_a_stop_ends_within_its_grace_and_gives_the_lease_back(
    kind: str, tmp_path: Path, release: threading.Event
) -> None:
    pipeline = hung(kind, tmp_path, release)
    scanning = anyio.Event()
    pipeline.subscribe(lambda event: scanning.set() if isinstance(event, events.ScanStarted) else None)
    began = 0.0
    with anyio.fail_after(30):
        async with retl.running(pipeline, grace="200ms"):
            await scanning.wait()
            await anyio.sleep(0.3)  # it hangs by now: nothing tells
            began = time.monotonic()
    assert time.monotonic() - began < 8, "the grace is 0.2 s; the rest is for a busy machine"
    store = retl.SqliteStore(str(tmp_path / "state.db"))
    assert (await store.read_lease(kind)).owner is None
    await store.aclose()


async def test_a_single_run_ends_within_its_grace_too(tmp_path: Path, release: threading.Event) -> None:
    pipeline = hung("blocking function", tmp_path, release)
    pipeline.subscribe(lambda event: pipeline.stop(grace=0.1) if isinstance(event, events.ScanStarted) else None)
    with anyio.fail_after(30):
        report = await pipeline.run_once(check=False)
    assert not report.ok


_PROGRAM = """
import asyncio, signal, sys, threading, retl
from retl.connectors import IteratorSource, SQLite

def rows():
    yield {"id": 1}
    print("hangs", flush=True)
    threading.Event().wait()

async def main():
    job = retl.Pipeline("p", source=IteratorSource(rows, key="id"), target=SQLite(sys.argv[1]), tables=["t"])
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with retl.running(job, grace="200ms"):
        await told.wait()

asyncio.run(main())
print("ended", flush=True)
"""


def test_a_process_ends_although_a_thread_of_it_never_does(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "app.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "ended\n", "")


# Other loops, threads, frameworks -----------------------------------------------------------


def test_a_pipeline_is_usable_again_in_another_loop_even_after_a_cancellation(tmp_path: Path) -> None:
    pipeline = job("one", tmp_path / "1.db")

    async def cancelled() -> None:
        task = asyncio.create_task(pipeline.run_forever())
        await first(pipeline, events.ScanFinished)
        task.cancel()
        await asyncio.wait([task])

    async def again() -> None:
        async with retl.running(pipeline):
            await first(pipeline, events.ScanFinished, pipeline.trigger)

    for _ in range(2):
        asyncio.run(cancelled())
        asyncio.run(again())
        assert asyncio.run(pipeline.run_once()).ok


async def test_a_thread_can_steer(tmp_path: Path) -> None:
    pipeline = job("one", tmp_path / "1.db", interval="manual")
    async with retl.running(pipeline) as jobs:
        await first(pipeline, events.ScanFinished, lambda: threading.Thread(target=pipeline.trigger).start())
        await anyio.to_thread.run_sync(pipeline.stop)
        with anyio.fail_after(20):
            await jobs.wait_ended()


def test_trio_is_told_in_the_first_line(tmp_path: Path) -> None:
    one = job("one", tmp_path / "1.db")
    for way in (one.run_forever, one.run_once, one.status, one.plan, one.tables, one.history, one.count_rejects):
        with pytest.raises(retl.ConfigError, match="runs in an event loop of asyncio, and there is none here"):
            anyio.run(way, backend="trio")


# Listeners ------------------------------------------------------------------------------------


async def test_an_async_listener_hears_everything_in_order_and_may_fail(tmp_path: Path) -> None:
    pipeline = job("one", tmp_path / "1.db")
    plain = Recorder(pipeline)
    heard: list[events.Event] = []

    async def slow(event: events.Event) -> None:
        await anyio.sleep(0.001)
        heard.append(event)
        raise RuntimeError("no matter")

    pipeline.subscribe(slow, logs=True)
    pipeline.stop()
    await pipeline.run_forever()
    await pipeline.run_once()
    await pipeline._bus.settle()
    assert heard == plain.events


@pytest.mark.parametrize("way", ["stop", "aclose"])
async def test_events_end_with_the_pipeline_that_does_not_run(tmp_path: Path, way: str) -> None:
    pipeline = job("one", tmp_path / "1.db")
    await pipeline.run_once()
    stream = pipeline.events()
    reading = asyncio.ensure_future(_read(stream))
    await asyncio.sleep(0)
    if way == "stop":
        pipeline.stop()
    else:
        await pipeline.aclose()
    with anyio.fail_after(10):
        assert await reading == []


async def _read(stream: AsyncIterator[events.Event]) -> list[events.Event]:
    return [event async for event in stream]


# Signals ----------------------------------------------------------------------------------


async def test_a_signal_that_the_service_handles_ends_the_streams_of_events_and_nothing_else(tmp_path: Path) -> None:
    pipeline = job("one", tmp_path / "1.db")
    heard: list[int] = []

    def mine(number: int, frame: object) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        async with retl.running(pipeline):
            stream = pipeline.events()
            os.kill(os.getpid(), signal.SIGTERM)
            with anyio.fail_after(20):
                _ = [event async for event in stream]
            assert (heard, pipeline.snapshot().state != "stopped") == ([signal.SIGTERM], True)
            later = pipeline.events()
            pipeline.trigger()
            assert await anext(later, None) is not None
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_signals_that_nobody_handles_and_other_threads_are_left_alone(tmp_path: Path) -> None:
    async def run() -> Any:
        async with retl.running(job("one", tmp_path / "1.db")):
            return signal.getsignal(signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert await run() is signal.SIG_DFL
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert await anyio.to_thread.run_sync(lambda: asyncio.run(run())) is signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
