"""Sources that break, disks that are full, files that are locked or gone: each is told clearly, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl.connectors.sqlite import SQLite
from retl.model import events
from tests.adversity.fork_server import fork_server
from tests.adversity.jobs import Job
from tests.adversity.looks import SQLiteLook
from tests.adversity.oracle import Fault, MemorySource, Row, read, tables
from tests.adversity.patches import patch_backoff, patch_everywhere

pytestmark = pytest.mark.adversity

ROWS = [Row(id, id // 2, f"v{id}") for id in range(12)]
SLICE_ROWS = 4


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the source in memory, and the looks into files at events, are meant to be so."""


@pytest.fixture
def source() -> Iterator[MemorySource]:
    made = MemorySource(times=False)
    for row in ROWS:
        made.put(row)
    yield made
    made.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    patch_backoff(monkeypatch, 0.0)


@pytest.fixture
def only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not tried again: the pause would be longer than there is patience for."""
    patch_backoff(monkeypatch, 1_000.0)


class Heard:
    """The events of a pipeline, and something to do at one of them."""

    def __init__(self, pipeline: retl.Pipeline) -> None:
        self.events: list[events.Event] = []
        self._acts: list[tuple[type[events.Event], int, Callable[[], object]]] = []
        pipeline.subscribe(self._listen)

    def at(self, kind: type[events.Event], act: Callable[[], object], count: int = 1) -> None:
        self._acts.append((kind, count, act))

    def count(self, kind: type[events.Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def _listen(self, event: events.Event) -> None:
        self.events.append(event)
        for kind, count, act in self._acts:
            if isinstance(event, kind) and self.count(kind) == count:
                act()


def pipeline_of(source: MemorySource, target: Path, *, busy_timeout: float = 30.0, **options: Any) -> retl.Pipeline:
    return retl.Pipeline(
        "p",
        source=source,
        target=SQLite(str(target), busy_timeout=busy_timeout),
        tables=[retl.Table("t", to="copy", slice_rows=SLICE_ROWS, **options)],
        interval="manual",
    )


# The source -------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("pre_action", [None, "none", "truncate", "rename_and_create", "swap", "mirror"])
@pytest.mark.parametrize("batches", range(6))
async def test_a_source_that_is_cut_off_for_a_moment_is_read_again(
    source: MemorySource, folder: Path, pre_action: str | None, batches: int
) -> None:
    options: dict[str, Any] = {"cursor": "at"} if pre_action is None else {"pre_action": pre_action}
    pipeline = pipeline_of(source, folder / "target.db", **options)
    heard = Heard(pipeline)
    source.fault = Fault(batches, transient=True)
    assert (await pipeline.run_once()).ok
    assert source.fault is None
    assert heard.count(events.RetryScheduled) == 1
    assert read(folder / "target.db") == ROWS
    assert tables(folder / "target.db") == ["copy"]


async def test_a_source_that_breaks_for_good_leaves_what_is_committed_and_is_read_from_there(
    source: MemorySource, folder: Path
) -> None:
    source.fault = Fault(3, transient=False)
    with pytest.raises(retl.SourceError, match="p / t: the table was dropped"):
        await pipeline_of(source, folder / "target.db", cursor="at").run_once()
    assert read(folder / "target.db") == ROWS[:SLICE_ROWS]
    report = await pipeline_of(source, folder / "target.db", cursor="at").run_once()
    assert report.rows == len(ROWS) - SLICE_ROWS + 2  # those that tie with the watermark once more
    assert read(folder / "target.db") == ROWS


@pytest.mark.parametrize("batches", [0, 1, 4])
async def test_a_source_that_breaks_for_good_does_not_touch_what_a_swap_would_replace(
    source: MemorySource, folder: Path, batches: int
) -> None:
    await pipeline_of(source, folder / "target.db", pre_action="swap").run_once()
    source.put(Row(0, 7, "new"))
    source.fault = Fault(batches, transient=False)
    with pytest.raises(retl.SourceError):
        await pipeline_of(source, folder / "target.db", pre_action="swap").run_once()
    assert read(folder / "target.db") == ROWS
    assert tables(folder / "target.db") == ["copy"]


@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create"])
async def test_a_source_that_breaks_before_its_first_row_does_not_cost_the_target_anything(
    source: MemorySource, folder: Path, pre_action: str
) -> None:
    await pipeline_of(source, folder / "target.db", pre_action=pre_action).run_once()
    source.fault = Fault(0, transient=False)
    with pytest.raises(retl.SourceError):
        await pipeline_of(source, folder / "target.db", pre_action=pre_action).run_once()
    assert read(folder / "target.db") == ROWS
    assert tables(folder / "target.db") == ["copy"]


# The target -------------------------------------------------------------------


def lock(path: Path) -> sqlite3.Connection:
    """A transaction of somebody else that writes."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_a_locked_target_is_waited_for(source: MemorySource, folder: Path) -> None:
    target = folder / "target.db"
    await pipeline_of(source, target, cursor="at").run_once()
    source.put(new := Row(12, 9, "new"))
    pipeline = pipeline_of(source, target, cursor="at")
    heard = Heard(pipeline)
    held: list[sqlite3.Connection] = []
    loop = asyncio.get_running_loop()

    def hold() -> None:
        held.append(lock(target))
        loop.call_later(0.3, release)

    def release() -> None:
        assert read(target) == ROWS
        held[0].close()

    heard.at(events.ScanPlanned, hold)
    assert (await pipeline.run_once()).ok
    assert heard.count(events.RetryScheduled) == 0
    assert read(target) == [*ROWS, new]


@pytest.mark.usefixtures("only_once")
@pytest.mark.parametrize("kind", [events.ScanPlanned, events.SliceCommitted])
async def test_a_target_that_stays_locked_is_told_after_busy_timeout(
    source: MemorySource, folder: Path, kind: type[events.Event]
) -> None:
    target = folder / "target.db"
    pipeline = pipeline_of(source, target, cursor="at", busy_timeout=0.2)
    held: list[sqlite3.Connection] = []
    Heard(pipeline).at(kind, lambda: held.append(lock(target)))
    try:
        with pytest.raises(retl.TargetBusy, match=r"p / t \(sqlite\): .*locked.*busy_timeout"):
            await pipeline.run_once()
    finally:
        held[0].close()
    committed = ROWS[:SLICE_ROWS] if kind is events.SliceCommitted else None
    assert read(target) == committed
    assert (await pipeline_of(source, target, cursor="at").run_once()).ok
    assert read(target) == ROWS


async def test_a_target_that_is_locked_from_the_start_is_told_too(source: MemorySource, folder: Path) -> None:
    target = folder / "target.db"
    await pipeline_of(source, target, cursor="at").run_once()
    with closing(lock(target)), pytest.raises(retl.TargetBusy, match="locked"):
        await pipeline_of(source, target, cursor="at", busy_timeout=0.2).run_once()
    assert read(target) == ROWS


@pytest.mark.parametrize("pre_action", [None, "swap"])
async def test_a_scan_that_waits_for_a_lock_can_be_cancelled(
    source: MemorySource, folder: Path, pre_action: str | None
) -> None:
    """Long before the lock is gone or busy_timeout has passed."""
    target = folder / "target.db"
    options: dict[str, Any] = {"cursor": "at"} if pre_action is None else {"pre_action": pre_action}
    pipeline = pipeline_of(source, target, busy_timeout=300, **options)
    held: list[sqlite3.Connection] = []

    def hold() -> None:
        held.append(lock(target))
        asyncio.get_running_loop().call_later(0.2, scope.cancel)

    Heard(pipeline).at(events.SliceCommitted, hold)
    try:
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            await pipeline.run_once()
    finally:
        held[0].close()
    assert scope.cancelled_caught
    assert read(target) == (ROWS[:SLICE_ROWS] if pre_action is None else None)
    assert (await pipeline_of(source, target, **options).run_once()).ok
    assert read(target) == ROWS
    assert tables(target) == ["copy"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    point = tmp_path / "disk"
    point.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], check=False).returncode
    ):
        pytest.skip("a disk can be mounted only by root")
    yield point
    subprocess.run(["umount", point], check=True)


LARGE = 40_000


@pytest.mark.parametrize("pre_action", [None, "truncate", "swap"])
async def test_a_full_disk_is_told_and_the_scan_goes_on_when_there_is_room(
    source: MemorySource, small_disk: Path, pre_action: str | None
) -> None:
    options: dict[str, Any] = {"cursor": "at"} if pre_action is None else {"pre_action": pre_action}
    rows = [Row(id, id, "x" * LARGE) for id in range(12)]
    for row in rows:
        source.put(row)
    target = small_disk / "target.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    with pytest.raises(retl.RetlError, match=r"p / t.*disk.* full.*make room"):
        await pipeline_of(source, target, **options).run_once()
    found = read(target) or []
    assert found == rows[: len(found)]
    assert len(found) < len(rows)
    ballast.unlink()
    remount(small_disk, "size=8m")
    assert (await pipeline_of(source, target, **options).run_once()).ok
    assert read(target) == rows
    assert tables(target) == ["copy"]


def remount(point: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", point], check=True)


def test_a_file_that_may_not_grow_is_told_and_nothing_is_lost(folder: Path) -> None:
    """The same without root: the process may write no file beyond a limit."""
    source = SQLiteLook(folder / "source.db")
    rows = [(id, id, "x" * LARGE) for id in range(12)]
    source.write(('CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, at BIGINT, "text" TEXT)', [()]))
    source.write(("INSERT INTO t VALUES (?, ?, ?)", rows))
    target = folder / "target.db"
    job = Job(
        source=str(source.path),
        target=str(target),
        table={"name": "t", "to": "copy", "cursor": "at", "slice_rows": 2},
    )
    with fork_server() as server:
        failed = server.try_run(job, file_limit=300_000)
        assert "p / t" in failed.error and "disk" in failed.error, failed.error
        found = SQLiteLook(target).query('SELECT id, at, "text" FROM copy ORDER BY id')
        assert found == rows[: len(found)]
        assert len(found) < len(rows)
        server.run(job)
    assert SQLiteLook(target).query('SELECT id, at, "text" FROM copy ORDER BY id') == rows


async def test_a_read_only_target_is_told_before_anything_else(source: MemorySource, small_disk: Path) -> None:
    target = small_disk / "target.db"
    remount(small_disk, "size=8m")
    await pipeline_of(source, target, cursor="at").run_once()
    source.put(Row(12, 9, "new"))
    remount(small_disk, "ro")
    with pytest.raises(retl.RetlError, match=r"^p.*(read-only|cannot be opened).*What to do: check"):
        await pipeline_of(source, target, cursor="at").run_once()
    remount(small_disk, "rw")
    assert read(target) == ROWS
    await pipeline_of(source, target, cursor="at").run_once()
    assert read(target) == [*ROWS, Row(12, 9, "new")]


@pytest.mark.parametrize("kind", [None, events.ScanPlanned, events.SliceCommitted, events.ScanFinished])
async def test_a_target_that_vanishes_is_made_again(
    source: MemorySource, folder: Path, kind: type[events.Event] | None
) -> None:
    """Its checkpoints are gone with it, so nothing is taken for done that is not there."""
    target = folder / "target.db"
    await pipeline_of(source, target, cursor="at").run_once()

    def remove() -> None:
        for path in folder.iterdir():
            path.unlink()

    source.put(Row(0, 9, "new"))
    pipeline = pipeline_of(source, target, cursor="at")
    if kind is None:
        remove()
    else:
        Heard(pipeline).at(kind, remove)
    await pipeline.run_once(check=False)
    await pipeline_of(source, target, cursor="at").run_once()
    assert read(target) == [Row(0, 9, "new"), *ROWS[1:]]


# The host -----------------------------------------------------------------------


async def test_a_listener_that_raises_disturbs_nobody(source: MemorySource, folder: Path) -> None:
    pipeline = pipeline_of(source, folder / "target.db", cursor="at")

    def fail(event: events.Event) -> None:
        raise RuntimeError(f"I do not like {type(event).__name__}")

    before = Heard(pipeline)
    pipeline.subscribe(fail)
    after = Heard(pipeline)
    assert (await pipeline.run_once()).ok
    assert read(folder / "target.db") == ROWS
    assert before.events == after.events
    assert after.count(events.ScanFinished) == 1


class JumpingClock(datetime):
    """A wall clock that somebody sets."""

    jump = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.jump


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[JumpingClock]:
    patch_everywhere(monkeypatch, "datetime", JumpingClock)
    monkeypatch.setattr(JumpingClock, "jump", timedelta())
    return JumpingClock


@pytest.mark.parametrize("days", [-400, 400])
async def test_a_jump_of_the_wall_clock_changes_nothing(
    source: MemorySource, folder: Path, clock: type[JumpingClock], days: int
) -> None:
    """The rhythm is that of the monotonic clock, and the watermark that of the source."""
    target = folder / "target.db"
    pipeline = retl.Pipeline(
        "p",
        source=source,
        target=SQLite(str(target)),
        tables=[retl.Table("t", to="copy", cursor="at", slice_rows=SLICE_ROWS)],
        interval="200ms",
    )
    heard = Heard(pipeline)
    began: list[float] = []

    def jump() -> None:
        clock.jump = timedelta(days=days)
        source.put(Row(12, 9, "new"))

    heard.at(events.ScanStarted, lambda: began.append(asyncio.get_running_loop().time()))
    heard.at(events.ScanFinished, jump)
    heard.at(events.ScanStarted, lambda: began.append(asyncio.get_running_loop().time()), count=4)
    heard.at(events.ScanFinished, pipeline.stop, count=4)
    with anyio.fail_after(20):
        await pipeline.run_forever()
    # Three intervals, the first of them from a scan that may have begun late; and however long the scans take.
    assert 0.25 < began[1] - began[0] < 10
    assert heard.count(events.ScanFailed) == 0
    assert read(target) == [*ROWS, Row(12, 9, "new")]


async def test_a_wall_clock_that_was_set_back_does_not_cost_the_newest_archive(
    source: MemorySource, folder: Path, clock: type[JumpingClock]
) -> None:
    target = folder / "target.db"
    for generation in range(3):
        source.put(Row(0, 0, f"generation {generation}"))
        clock.jump = timedelta(days=-generation)
        await pipeline_of(source, target, pre_action="rename_and_create", keep_archives=1).run_once()
    copy, archive = tables(target)
    assert read(target, copy) == [Row(0, 0, "generation 2"), *ROWS[1:]]
    assert read(target, archive) == [Row(0, 0, "generation 1"), *ROWS[1:]]
