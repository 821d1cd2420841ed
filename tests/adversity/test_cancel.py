"""A scan is cancelled at every one of its steps, and stopped at every one of its events; it leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.model import events
from tests import tiers
from tests.adversity.jobs import Job
from tests.adversity.looks import SQLiteLook, look_at
from tests.adversity.steps import Kind, Steps, cancelled_at

pytestmark = pytest.mark.adversity

Content = list[tuple[Any, ...]]

OLD: Content = [(0, 0, "old"), (1, 0, "old"), (2, 1, "old")]
NEW: Content = [OLD[0], *((id, 10, "new") for id in range(1, 5)), (5, 11, "new")]
"""More rows share a cursor value than fit into a slice."""
SLICE_ROWS = 2
MOST_STEPS = 1_000


@dataclass
class Case:
    """A way to sync."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    source: str = "source.db"
    target: str = "target.db"
    state: str | None = None

    @property
    def first_and_stride(self) -> tuple[int, int]:
        """The steps at which it is cancelled: all of them, or some from a random one on."""
        # DuckDB opens its file anew for each try, which takes a twentieth of a second.
        slow = bool({self.source, self.target} & {"source.duckdb", "target.duckdb"})
        small, large = (48, 3 if tiers.every_step() else 8) if slow else (10, 1)
        stride = small if tiers.is_small() else large
        first = random.randint(1, stride)
        print(f"{self.name}: each {stride}th step from step {first} on")
        return first, stride


CASES = [
    Case("incremental", {"cursor": "at"}),
    Case("incremental-outside", {"cursor": "at"}, state="state.db"),
    Case("none"),
    Case("truncate", {"pre_action": "truncate"}),
    Case("rename_and_create", {"pre_action": "rename_and_create", "keep_archives": 2}),
    Case("swap", {"pre_action": "swap"}),
    Case("mirror", {"pre_action": "mirror"}),
    Case("duckdb-incremental", {"cursor": "at"}, source="source.duckdb"),
    Case("duckdb-swap", {"pre_action": "swap"}, source="source.duckdb"),
    Case("to-duckdb-incremental", {"cursor": "at"}, target="target.duckdb"),
    Case("to-duckdb-truncate", {"pre_action": "truncate"}, target="target.duckdb"),
    Case(
        "to-duckdb-rename_and_create", {"pre_action": "rename_and_create", "keep_archives": 2}, target="target.duckdb"
    ),
    Case("to-duckdb-swap", {"pre_action": "swap"}, target="target.duckdb"),
    Case("to-duckdb-mirror", {"pre_action": "mirror"}, target="target.duckdb"),
]


class Scene:
    """A target that has the old rows, and a source that has the new ones; both as often as needed."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self._folder = folder
        self._source = look_at(folder / case.source)
        self._target = look_at(folder / case.target)
        self._job = Job(
            source=str(self._source.path),
            target=str(self._target.path),
            table={"name": "t", "to": "copy", "slice_rows": SLICE_ROWS, **case.options},
            state=str(folder / case.state) if case.state else None,
        )
        self._kept: dict[Path, bytes] = {}

    async def prepare(self) -> None:
        self._source.write(('CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, "at" BIGINT, "text" VARCHAR)', [()]))
        self._source.write(("INSERT INTO t VALUES (?, ?, ?)", OLD))
        await self.pipeline().run_once()
        assert self.content() == OLD
        self._source.write(("DELETE FROM t", [()]))
        self._source.write(("INSERT INTO t VALUES (?, ?, ?)", NEW))
        if isinstance(self._source, SQLiteLook):
            with closing(sqlite3.connect(self._source.path)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
        self._kept = {path: path.read_bytes() for path in self._folder.iterdir()}

    def restore(self) -> None:
        """The target as it was before the scan."""
        for path in self._folder.iterdir():
            if path.name != self.case.source:
                path.unlink()
        for path, content in self._kept.items():
            if path.name != self.case.source:
                path.write_bytes(content)

    def pipeline(self) -> retl.Pipeline:
        return self._job.pipeline()

    def content(self, table: str = "copy") -> Content:
        return self._target.query(f'SELECT id, "at", "text" FROM "{table}" ORDER BY id')

    def check_cancelled(self) -> None:
        """Nothing is open; readers see what they may see."""
        wait_until(lambda: not self._left_open())
        assert not self._left_open()
        found = self.content()
        assert len({row[0] for row in found}) == len(found)
        assert {*found} <= {*OLD, *NEW}
        if self.case.options.get("pre_action") in ("swap", "mirror"):
            assert found in (OLD, NEW)
        elif self.case.options.get("pre_action") is None:
            assert {row[0] for row in found} >= {row[0] for row in OLD}

    async def check_next_scan(self) -> None:
        """The scan after it carries on and tidies up."""
        report = await self.pipeline().run_once()
        assert report.ok
        assert self.content() == NEW
        tables = {name for name in self._target.tables() if not name.startswith("retl_")} - {"copy"}
        if self.case.options.get("pre_action") == "rename_and_create":
            archives = [self.content(name) for name in sorted(tables)]
            assert archives in ([OLD], [OLD, NEW])  # two, where the first scan had ended before it was cancelled
        else:
            assert not tables

    def _left_open(self) -> list[str]:
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("retl-")]
        return [*threads, *(file for file in open_files() if file.startswith(str(self._folder)))]


def open_files() -> list[str]:
    found: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    """A thread ends a moment after whoever ended it has gone on."""
    deadline = time.monotonic() + 3
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.0005)


@pytest.fixture
async def scene(case: Case, folder: Path) -> Scene:
    if case.target.endswith(".duckdb"):
        pytest.importorskip("retl.connectors.duckdb.target")
    made = Scene(case, folder)
    await made.prepare()
    return made


@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_scan_can_be_cancelled_at_every_step(scene: Scene, kind: Kind) -> None:
    tasks = asyncio.all_tasks()
    step, stride = scene.case.first_and_stride
    while await cancelled_at(step, kind, scene.pipeline().run_once):
        assert asyncio.all_tasks() == tasks
        scene.check_cancelled()
        await scene.check_next_scan()
        scene.restore()
        step += stride
        assert step < MOST_STEPS
    assert step > 30
    assert scene.content() == NEW


@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("case", [CASES[0]], ids=lambda case: case.name)
async def test_a_schedule_can_be_cancelled_at_every_step(scene: Scene, kind: Kind) -> None:
    """The same with the scheduler around it, and once more while it already cleans up."""

    def work() -> Callable[[], Awaitable[object]]:
        pipeline = scene.pipeline()
        pipeline.trigger()

        def end(event: events.Event) -> None:
            if isinstance(event, events.ScanFinished):
                pipeline.stop()

        pipeline.subscribe(end)
        return pipeline.run_forever

    step, stride = scene.case.first_and_stride
    while await cancelled_at(step, kind, work()):
        scene.check_cancelled()
        await scene.check_next_scan()
        scene.restore()
        step += stride
        assert step < MOST_STEPS
    assert scene.content() == NEW


@pytest.mark.parametrize("case", [CASES[0], CASES[5]], ids=lambda case: case.name)
async def test_a_second_cancellation_does_not_cut_the_cleaning_up_short(scene: Scene) -> None:
    """Ctrl-C once more: a task is cancelled at one step and again at each of those that follow."""
    for first in range(4, 60, 28 if tiers.is_small() else 7):
        for second in range(1, 8):
            await cancelled_twice(first, first + second, scene.pipeline().run_once())
            scene.check_cancelled()
            await scene.check_next_scan()
            scene.restore()


async def cancelled_twice(first: int, second: int, work: Coroutine[Any, Any, object]) -> None:
    outer = Steps(second, lambda: task.cancel())
    inner = Steps(first, lambda: task.cancel())
    task = asyncio.create_task(outer.run(inner.run(work)))
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("finish_slice", [True, False], ids=["finished", "abandoned"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_scan_can_be_stopped_at_every_event(scene: Scene, finish_slice: bool) -> None:
    number, stride = scene.case.first_and_stride
    while await stopped_at(number, scene.pipeline(), finish_slice=finish_slice):
        scene.check_cancelled()
        await scene.check_next_scan()
        scene.restore()
        number += stride
        assert number < MOST_STEPS
    assert number > 5
    assert scene.content() == NEW


async def stopped_at(number: int, pipeline: retl.Pipeline, *, finish_slice: bool) -> bool:
    """Run once, with ``stop`` called at the ``number``-th event; ``False`` where there are fewer."""
    seen: list[events.Event] = []

    def listen(event: events.Event) -> None:
        seen.append(event)
        if len(seen) == number:
            pipeline.stop(grace=None if finish_slice else 0)

    pipeline.subscribe(listen)
    report = await pipeline.run_once()
    for scan in report.scans:
        assert scan.error is None
        assert scan.status in ("done", "stopped")
    return len(seen) >= number
