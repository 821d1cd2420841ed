"""What runs in a process of its own in the benchmarks of many files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec

import retl
from benchmarks import common
from benchmarks.files_runs import timed
from retl.connectors import LocalFiles, PostgreSQL
from retl.connectors.base import Manifest
from retl.connectors.files import changes
from retl.connectors.files.source import FileSource
from retl.model.checkpoint import Checkpoint, FencedCheckpoint
from retl.model.events import ScanFinished
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.state.sqlite import SqliteStore
from retl.testing import table_spec
from tests.integration.files.stores import Endless

_AT_ONCE = 10_000


def load(root: str, target: str, group_files: int) -> dict[str, Any]:
    """Load a folder, so many files a transaction."""
    changes.GROUP_FILES = group_files
    table = retl.Table("*.csv", to="sales", pre_action=retl.PreAction.TRUNCATE)

    async def work() -> dict[str, Any]:
        pipeline = retl.Pipeline("bench", source=LocalFiles(path=root), target=PostgreSQL(target), tables=[table])
        report = (await pipeline.run_once()).scans[0]
        await pipeline.aclose()
        return {"rows": report.rows, "slices": report.slices}

    return timed(work)


def ticks(files: int, target: str) -> dict[str, Any]:
    """A service over objects that do not change: its first tick reads them all; the second is timed."""
    table = retl.Table("tree/*.csv", to="sales", pre_action=retl.PreAction.TRUNCATE)
    source = FileSource(Endless(files))
    pipeline = retl.Pipeline("bench", source=source, target=PostgreSQL(target), tables=[table])
    watch = common.StallWatch()

    async def tick() -> ScanFinished:
        found: list[ScanFinished] = []
        ended = anyio.Event()

        def hear(event: retl.events.Event) -> None:
            if isinstance(event, ScanFinished):
                found.append(event)
                ended.set()

        unsubscribe = pipeline.subscribe(hear)
        pipeline.trigger()
        await ended.wait()
        unsubscribe()
        return found[0]

    async def run() -> dict[str, Any]:
        mark = await asyncpg.connect(target)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.run_forever)
            first = await tick()
            await mark.execute("SELECT 'tick begins'")
            tasks.start_soon(watch.watch, anyio.sleep)
            began = time.perf_counter()
            second = await tick()
            seconds = time.perf_counter() - began
            await mark.execute("SELECT 'tick has ended'")
            pipeline.stop()
            tasks.cancel_scope.cancel()
        await mark.close()
        assert (first.report.rows, second.report.rows) == (files, 0)
        return {"tick_seconds": seconds, "stall_ms": round(1000 * watch.longest)}

    return anyio.run(run)


def fill(path: str, entries: int) -> dict[str, Any]:
    """A manifest that knows so many files; the checkpoint that goes with it."""
    endless = Endless(entries)

    async def work() -> dict[str, Any]:
        store = SqliteStore(Path(path))
        fence = await store.take_lease(await store.read_lease("p"), "me", 3600.0)
        assert fence is not None
        async with FileSource(endless).open_scan(_TABLE, Checkpoint(), Manifest(store, "p", "t")) as scan:
            checkpoint = Checkpoint(scan_id="1", detail=scan.plan.finished)
        for start in range(0, entries, _AT_ONCE):
            listed = [endless.file(number) for number in range(start, min(start + _AT_ONCE, entries))]
            put = tuple(ManifestEntry(name=one.name, identity=one.identity, rows=1) for one in listed)
            await store.save(FencedCheckpoint(fence, "t", checkpoint, ManifestChange(put=put)))
        await store.aclose()
        return {"checkpoint": msgspec.json.encode(checkpoint).decode()}

    return timed(work)


def compare(path: str, entries: int, checkpoint: str) -> dict[str, Any]:
    """Compare a listing of so many files with a manifest that knows all of them."""
    known = msgspec.json.decode(checkpoint, type=Checkpoint)

    async def work() -> dict[str, Any]:
        store = SqliteStore(Path(path))
        async with FileSource(Endless(entries)).open_scan(_TABLE, known, Manifest(store, "p", "t")) as scan:
            changed = [slice_ async for slice_ in scan.slices()]
        await store.aclose()
        return {"changed": len(changed)}

    return timed(work)


_TABLE = table_spec("tree/*.csv", pre_action="truncate")
