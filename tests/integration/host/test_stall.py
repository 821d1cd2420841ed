"""A call that hangs does not stop a pipeline for ever behind a heart that beats."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import events
from retl.connectors import FunctionTarget, IteratorSource, SQLite
from retl.engine.stall import unless_stalled
from retl.pulse import Pulse, beat, unhurried
from tests.support import Database, Recorder

ROWS = [{"id": number} for number in range(3)]


def pipeline(source: IteratorSource, target: Any, folder: Path, **words: Any) -> retl.Pipeline:
    state = retl.SqliteStore(str(folder / "state.db"))
    given: dict[str, Any] = {"tables": ["t"], "interval": 3600, "stall_timeout": "300ms", "state": state}
    return retl.Pipeline("p", source=source, target=target, **given | words)


async def run_until_done(job: retl.Pipeline) -> Recorder:
    heard = Recorder(job)
    heard.when(events.ScanFinished, lambda _: job.stop())
    with anyio.fail_after(60):
        await job.run_forever()
    return heard


async def test_a_target_that_hangs_once_is_told_and_tried_again(tmp_path: Path) -> None:
    got: list[Any] = []
    calls = 0

    async def deliver(rows: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await anyio.sleep_forever()
        got.extend(rows)

    source = IteratorSource(lambda: ROWS, key="id")
    job = pipeline(source, FunctionTarget(deliver, rows=True), tmp_path, stall_timeout="2s")
    heard = await run_until_done(job)
    assert got == ROWS
    *_, stalled = heard.of(events.ScanStalled)  # where the machine is slow, the beginning of the scan may be one too
    assert (stalled.table, stalled.limit) == ("t", 2.0)
    (retry,) = heard.of(events.RetryScheduled)
    assert "no row came and nothing answered for 2s, so the scan was given up" in retry.error


async def test_a_source_that_hangs_once_is_tried_again(tmp_path: Path) -> None:
    calls = 0

    async def read() -> AsyncIterator[dict[str, Any]]:
        nonlocal calls
        calls += 1
        if calls == 1:
            await anyio.sleep_forever()
        for row in ROWS:
            yield row

    job = pipeline(IteratorSource(read, key="id"), SQLite(str(tmp_path / "app.db")), tmp_path)
    heard = await run_until_done(job)
    assert heard.of(events.RetryScheduled)
    assert Database(tmp_path / "app.db").rows("t") == [(0,), (1,), (2,)]


async def test_a_function_that_blocks_its_thread_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.stall._CLEAN_UP_SECONDS", 0.1)
    release = threading.Event()
    calls = 0

    def read() -> Iterator[dict[str, Any]]:
        nonlocal calls
        calls += 1
        if calls == 1:
            release.wait(60)
        yield from ROWS

    job = pipeline(IteratorSource(read, key="id"), SQLite(str(tmp_path / "app.db")), tmp_path)
    try:
        await run_until_done(job)
    finally:
        release.set()
    assert Database(tmp_path / "app.db").rows("t") == [(0,), (1,), (2,)]


async def test_slow_is_not_still(tmp_path: Path) -> None:
    """Rows that come one by one, each within the limit, though all of them take longer than that."""

    async def read() -> AsyncIterator[dict[str, Any]]:
        for row in ROWS * 3:
            await anyio.sleep(0.4)
            yield row

    source = IteratorSource(read, key="id")
    job = pipeline(source, SQLite(str(tmp_path / "app.db")), tmp_path, stall_timeout="2s")
    heard = await run_until_done(job)
    assert heard.of(events.RetryScheduled) == []


def test_a_pulse_waits_for_what_waits_on_purpose() -> None:
    now = [0.0]
    found = Pulse(lambda: now[0])
    now[0] = 5.0
    assert found.still == 5.0
    found.beat(after=10.0)
    now[0] = 14.0
    assert found.still == 0.0
    now[0] = 18.0
    assert found.still == 3.0
    with found.unhurried():
        now[0] = 100.0
        assert found.still == 0.0
    assert found.still == 0.0


async def test_work_that_waits_on_purpose_is_left_alone() -> None:
    done: list[str] = []

    async def work() -> None:
        beat(after=0.3)
        await anyio.sleep(0.3)
        with unhurried():
            await anyio.sleep(0.3)
        done.append("done")

    await unless_stalled(work, 0.15, lambda still: done.append(f"still for {still}"))
    assert done == ["done"]


async def test_an_error_of_the_work_stays_what_it_is() -> None:
    async def work() -> None:
        raise retl.SourceError("gone")

    with pytest.raises(retl.SourceError, match="gone"):
        await unless_stalled(work, 5.0, lambda _: None)


def test_words_of_the_limit(tmp_path: Path) -> None:
    source = IteratorSource(lambda: ROWS, key="id")
    with pytest.raises(retl.ConfigError, match="stall_timeout"):
        pipeline(source, SQLite(str(tmp_path / "app.db")), tmp_path, stall_timeout="soon")
    pipeline(source, SQLite(str(tmp_path / "app.db")), tmp_path, stall_timeout=0)
