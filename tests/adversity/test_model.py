"""Random lives of a pipeline, against an oracle: whatever changes, fails, crashes or restarts, the last scan is right."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import pytest

import retl
from retl.connectors.sqlite import SQLite
from retl.model import events
from retl.model.checkpoint import Checkpoint
from retl.threads import Worker
from tests import tiers
from tests.adversity.oracle import Disk, Fault, History, MemorySource, Row, read, tables
from tests.adversity.patches import patch_backoff
from tests.adversity.steps import Steps

pytestmark = pytest.mark.adversity

SEQUENCES = int(os.environ.get("RETL_MODEL_SEQUENCES") or tiers.number(1000))
WORKERS = min(4, os.cpu_count() or 1)
MODES = ("incremental", "append", "none", "truncate", "rename_and_create", "swap", "mirror", "full-mixed")
FULL = ("none", "truncate", "rename_and_create", "swap", "mirror")
KEPT_ARCHIVES = 2
T = TypeVar("T")


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    """A process for each of a few cores."""
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"), initializer=without_threads) as pool:
        yield pool


def without_threads() -> None:
    """Make blocking calls where they stand: so a seed always gives the same life, and thousands fit into a minute."""

    async def run(self: Worker, call: Callable[..., T], *arguments: Any) -> T:
        await asyncio.sleep(0)
        result = call(*arguments)
        await asyncio.sleep(0)
        return result

    async def run_sync(call: Callable[..., T], *arguments: Any) -> T:
        await asyncio.sleep(0)
        return call(*arguments)

    patch = pytest.MonkeyPatch()  # never undone: the process has nothing else to do
    patch.setattr(Worker, "run", run)
    patch.setattr("anyio.to_thread.run_sync", run_sync)
    patch_backoff(patch, 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_the_last_scan_is_right_whatever_came_before(mode: str, folder: Path, workers: ProcessPoolExecutor) -> None:
    """``RETL_MODEL_SEED`` and ``RETL_MODEL_SEQUENCES=7`` play one life of each mode again."""
    start = int(os.environ.get("RETL_MODEL_SEED") or random.randrange(2**32))
    count = -(-SEQUENCES // len(MODES))
    print(f"{mode}: {count} seeds from {start}")
    shares = [range(start + number, start + count, WORKERS) for number in range(WORKERS)]
    parts = workers.map(lives, [mode] * WORKERS, shares, [folder / str(number) for number in range(WORKERS)])
    happened = sum(parts, Counter[str]())
    print(dict(happened))
    if SEQUENCES >= 1000:
        assert {"done", "crash", "cancel", "stop", "fault"} <= {*happened}
        if mode in ("incremental", "append"):
            assert happened["parts"]  # slices of rows that share one cursor value


def lives(mode: str, seeds: range, folder: Path) -> Counter[str]:
    """Some lives, one after another; what happened in them."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        folder.mkdir()
        try:
            anyio.run(live, mode, seed, folder, happened)
        except BaseException as error:
            error.add_note(f"mode {mode}, seed {seed}")
            raise
        shutil.rmtree(folder)
    return happened


async def live(mode: str, seed: int, folder: Path, happened: Counter[str]) -> None:
    life = Life(mode, random.Random(seed), folder, happened)
    try:
        await life.play()
    finally:
        life.close()


@dataclass
class Promise:
    """What was chosen for one life."""

    lookback: int
    null_cursor: str
    outside: bool


class Life:
    """A source, a target, and the pipelines between the two, one after another."""

    def __init__(self, mode: str, random: random.Random, folder: Path, happened: Counter[str]) -> None:
        self._mode = mode
        self._random = random
        self._happened = happened
        self._promise = Promise(
            lookback=random.choice((0, 2, 6)),
            null_cursor=random.choice(("warn", "include")),
            outside=mode != "append" and random.random() < 0.25,
        )
        self.source = MemorySource(times=mode == "append" or random.random() < 0.5)
        self._history = History(random, self.source, lookback=self._promise.lookback, only_new=mode == "append")
        self._target = folder / "target.db"
        self._store = folder / "state.db" if self._promise.outside else self._target
        self._disk = Disk(folder, *{self._target.name, self._store.name})
        self._pre_action = mode
        self._good: list[list[Row]] = []
        """The contents that complete scans have left."""

    def close(self) -> None:
        self.source.close()
        self._disk.close()

    async def play(self) -> None:
        for _ in range(self._random.choice((1, 1, 2, 2, 3, 4))):
            for _ in range(self._random.randint(0, 4)):
                self._history.change()
            await self._scan()
            self._check_meanwhile()
        self._choose_pre_action()
        if checkpoint(self._store).position is not None:
            # What came late to a group of rows that is half done is read by the scan after the one that ends it.
            assert (await self._pipeline().run_once()).ok
        assert (await self._pipeline().run_once()).ok
        self._check_end()
        self._happened["parts"] += self.source.cut

    def _choose_pre_action(self) -> None:
        if self._mode == "full-mixed":
            self._pre_action = self._random.choice(FULL)

    def _pipeline(self) -> retl.Pipeline:
        """As after a restart."""
        options: dict[str, Any] = {"slice_rows": self._random.choice((1, 2, 3, 3, 3, 5, 100))}
        if self._mode in ("incremental", "append"):
            options["cursor"] = "at"
            options["null_cursor"] = self._promise.null_cursor if self._mode == "incremental" else "warn"
            if self._promise.lookback and self._mode == "incremental":
                options["lookback"] = self._promise.lookback
            if self._mode == "append":
                options |= {"write": "append", "settle": "1s"}
        else:
            options["pre_action"] = self._pre_action
            if self._pre_action == "rename_and_create":
                options["keep_archives"] = KEPT_ARCHIVES
            if self._pre_action != "none":
                options["max_shrink"] = "100%"
        return retl.Pipeline(
            "p",
            source=self.source,
            target=SQLite(str(self._target)),
            tables=[retl.Table("t", to="copy", **options)],
            state=retl.SqliteStore(self._store) if self._promise.outside else None,
            interval="manual",
        )

    # One scan, and what comes between ---------------------------------------

    async def _scan(self) -> None:
        self._choose_pre_action()
        pipeline = self._pipeline()
        if self._random.random() < 0.35:
            pipeline.subscribe(self._change_meanwhile)
        pipeline.subscribe(self._count)
        fate = self._random.choice((self._finish, self._crash, self._crash, self._cancel, self._stop, self._break))
        await fate(pipeline)
        self.source.fault = None

    def _count(self, event: events.Event) -> None:
        self._happened["slice"] += isinstance(event, events.SliceCommitted)

    def _change_meanwhile(self, event: events.Event) -> None:
        moments = (events.ScanPlanned, events.SliceCommitted, events.RetryScheduled)
        if isinstance(event, moments) and self._random.random() < 0.3:
            self._history.change()

    async def _finish(self, pipeline: retl.Pipeline) -> None:
        assert (await pipeline.run_once()).ok
        self._happened["done"] += 1

    async def _crash(self, pipeline: retl.Pipeline) -> None:
        """The process dies between two steps: what the files hold then is all that is left."""
        left: list[dict[str, bytes]] = []

        def die() -> None:
            left.append(self._disk.snapshot())
            task.cancel()

        task = asyncio.create_task(Steps(self._step(), die).run(pipeline.run_once()))
        with suppress(asyncio.CancelledError):
            await task
        if left:
            self._disk.crash(left[0])
            self._happened["crash"] += 1

    async def _cancel(self, pipeline: retl.Pipeline) -> None:
        task = asyncio.create_task(Steps(self._step(), lambda: task.cancel() and None).run(pipeline.run_once()))
        with suppress(asyncio.CancelledError):
            await task
        self._happened["cancel"] += task.cancelled()

    def _step(self) -> int:
        return self._random.randint(5, self._random.choice((60, 150, 400)))

    async def _stop(self, pipeline: retl.Pipeline) -> None:
        left = self._random.randint(1, 8)
        finish = self._random.random() < 0.5

        def listen(event: events.Event) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                pipeline.stop(grace=None if finish else 0)
                self._happened["stop"] += 1

        pipeline.subscribe(listen)
        await pipeline.run_once()

    async def _break(self, pipeline: retl.Pipeline) -> None:
        """The source fails, once for a moment or for good."""
        transient = self._random.random() < 0.6
        self.source.fault = Fault(self._random.randint(0, 6), transient)
        report = await pipeline.run_once(check=False)
        met = self.source.fault is None
        assert report.ok == (transient or not met), report
        self._happened["fault"] += met

    # What must hold ---------------------------------------------------------

    def _check_meanwhile(self) -> None:
        """Whatever has just happened, readers see nothing that they must not see."""
        saved = checkpoint(self._store)
        found = read(self._target)
        if found is not None:
            self._check_known(found)
        if self._pre_action == self._mode and self._mode in ("swap", "mirror"):
            assert found in [None, *self.source.shown]
        if self._mode == "rename_and_create":
            archives = self._archives()
            assert len(archives) <= KEPT_ARCHIVES + 1
            for archive in archives:
                assert archive in self._good
        if saved.refresh is None and found is not None and self._mode not in ("incremental", "append"):
            self._good.append(found)

    def _check_known(self, found: list[Row]) -> None:
        """Every row is one that the source once had, and no key is there twice."""
        assert [row for row in found if row not in self._history.ever[row.id]] == []
        assert len({row.id for row in found}) == len(found)

    def _check_end(self) -> None:
        """The promise of the mode."""
        found = read(self._target)
        expected = sorted(self._history.rows.values(), key=lambda row: row.id)
        if found is None:
            assert not expected or all(row.at is None for row in expected)
            return
        self._check_known(found)
        if self._mode == "append":
            assert found == expected
        elif self._mode == "incremental":
            self._check_incremental({row.id: row for row in found})
        elif self._pre_action == "none":
            there = {row.id: row for row in found}
            assert [row for row in expected if there.get(row.id) != row] == []
        else:
            assert found == expected
        self._check_rest()

    def _check_incremental(self, there: dict[int, Row]) -> None:
        reads_null = self._promise.null_cursor == "include"
        lost = [
            row
            for row in self._history.rows.values()
            if (row.at is not None or reads_null) and there.get(row.id) != row
        ]
        assert lost == []

    def _check_rest(self) -> None:
        """No trace of what has been interrupted."""
        saved = checkpoint(self._store)
        assert saved.refresh is None and saved.position is None
        others = [name for name in tables(self._target) if name != "copy"]
        assert [name for name in others if not name.startswith("copy_arc_")] == []
        if self._mode in ("rename_and_create", "full-mixed"):
            assert len(others) <= KEPT_ARCHIVES + (self._mode == "full-mixed")
            # With a store of its own nobody can tell whether a table that another pre-action has begun on is whole.
            if not (self._mode == "full-mixed" and self._promise.outside):
                assert all(archive in self._good for archive in self._archives())
        else:
            assert others == []

    def _archives(self) -> list[list[Row]]:
        found = (read(self._target, name) for name in tables(self._target) if name.startswith("copy_arc_"))
        return [archive for archive in found if archive is not None]


def checkpoint(path: Path) -> Checkpoint:
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'retl_checkpoints'").fetchone():
            return Checkpoint()
        row = connection.execute("SELECT body FROM retl_checkpoints").fetchone()
    return msgspec.json.decode(row[0], type=Checkpoint) if row else Checkpoint()
