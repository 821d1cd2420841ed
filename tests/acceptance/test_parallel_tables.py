"""Several tables at once, and turns where only one can be written."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pyarrow as pa
import pytest

import retl
from retl.connectors.base import CommitResult, Source, SourceScan, SystemInfo, TableWriter, Target
from retl.connectors.net.pool import ConnectionPool
from retl.engine import turns
from retl.model.checkpoint import Checkpoint, FencedCheckpoint
from retl.model.errors import TargetError
from retl.model.plan import SourcePlan, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import Manifest
from tests.support import running
from tests.unit.test_pool import Opened

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])
pytestmark = pytest.mark.anyio


def rows(table: str, count: int) -> pa.Table:
    return pa.table({"id": range(count), "name": [f"{table} {number}" for number in range(count)]}, schema=SCHEMA)


class Shelf(Source):
    """Tables in memory; a slice of each waits until its gate is open."""

    system = "shelf"

    def __init__(self, tables: dict[str, pa.Table], slices: int = 1) -> None:
        self.tables = tables
        self.slices = slices
        self.gates = {name: anyio.Event() for name in tables}
        self.open_scans = self.most_scans = 0

    async def ping(self) -> SystemInfo:
        return SystemInfo("Shelf", "1")

    async def list_tables(self) -> list[str]:
        return sorted(self.tables)

    async def describe(self, table: str) -> TableSchema | None:
        return TableSchema(table, SCHEMA, ("id",)) if table in self.tables else None

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        data = self.tables[table.name]
        slices = tuple(Slice(index=number, rows=data.num_rows // self.slices) for number in range(self.slices))
        self.open_scans += 1
        self.most_scans = max(self.most_scans, self.open_scans)
        try:
            yield ShelfScan(self, SourcePlan(table, SCHEMA, ("id",), slices, rows=data.num_rows, unique_key=True))
        finally:
            self.open_scans -= 1

    async def aclose(self) -> None: ...


class ShelfScan(SourceScan):
    def __init__(self, shelf: Shelf, plan: SourcePlan) -> None:
        self.shelf = shelf
        self.plan = plan

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        await self.shelf.gates[self.plan.table.name].wait()
        data = self.shelf.tables[self.plan.table.name]
        size = data.num_rows // len(self.plan.slices)
        for batch in data.slice(slice_.index * size, size).to_batches():
            yield batch


class Box(Target):
    """Rows in memory, by table; it notes in which order slices are committed, and may fail."""

    system = "box"

    def __init__(self, *, one_writer: bool = False, overlaps: bool = False) -> None:
        self.one_writer = one_writer  # type: ignore[misc]
        self.overlaps = overlaps
        self.content: dict[str, list[dict[str, object]]] = {}
        self.committed: list[tuple[str, int]] = []
        self.heard: list[str] = []
        self.open_loads = self.most_loads = 0
        self.commit_gate: anyio.Event | None = None
        self.fails: set[tuple[str, int]] = set()
        self.store = retl.MemoryStore()

    async def ping(self) -> SystemInfo:
        return SystemInfo("Box", "1")

    async def describe(self, table: str) -> TableSchema | None:
        return None

    async def count(self, table: str) -> int:
        return len(self.content.get(table, ()))

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        return TargetPreview()

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        self.open_loads += 1
        self.most_loads = max(self.most_loads, self.open_loads)
        try:
            yield BoxWriter(self, spec)
        finally:
            self.open_loads -= 1

    def state_store(self) -> retl.MemoryStore:
        return self.store

    async def aclose(self) -> None: ...


class BoxWriter(TableWriter):
    def __init__(self, box: Box, spec: WriteSpec) -> None:
        self.box = box
        self.table = spec.table.to
        self.overlaps = box.overlaps
        self.staged: list[dict[str, object]] = []

    async def write(self, batch: pa.RecordBatch) -> None:
        self.box.heard.append("write")
        self.staged += batch.to_pylist()

    async def discard(self) -> None:
        self.staged = []

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        taken, self.staged = self.staged, []
        self.box.heard.append("commit begins")
        if self.box.commit_gate is not None:
            await self.box.commit_gate.wait()
        if (self.table, slice_.index) in self.box.fails:
            raise TargetError("the box is shut.")
        self.box.content.setdefault(self.table, []).extend(taken)
        self.box.committed.append((self.table, slice_.index))
        assert fenced is not None
        await self.box.store.save(fenced)
        self.box.heard.append("commit ends")
        return CommitResult(len(taken), len(taken), unchanged=0)

    async def count(self) -> int:
        return len(self.box.content[self.table])

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        if fenced is not None:
            await self.box.store.save(fenced)

    async def abort(self) -> None: ...


async def test_a_small_table_does_not_wait_for_a_large_one() -> None:
    shelf = Shelf({"large": rows("large", 10), "small": rows("small", 3)})
    box = Box()
    job = retl.Pipeline("p", source=shelf, target=box, tables=["large", "small"], parallel_tables=2)
    shelf.gates["small"].set()
    heard = anyio.Event()
    job.subscribe(lambda event: heard.set() if isinstance(event, retl.events.ScanFinished) else None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(job.run_once)
        with anyio.fail_after(10):
            await heard.wait()
        assert box.content == {"small": rows("small", 3).to_pylist()}
        shelf.gates["large"].set()
    assert box.content["large"] == rows("large", 10).to_pylist()
    assert shelf.open_scans == box.open_loads == 0


async def test_a_long_scan_holds_up_no_table_of_another_schedule_and_is_not_doubled_by_a_trigger() -> None:
    shelf, box = Shelf({"fast": rows("fast", 2), "slow": rows("slow", 3)}), Box()
    shelf.gates["fast"].set()
    tables = [retl.Table("fast", interval="20ms"), retl.Table("slow")]
    job = retl.Pipeline("p", source=shelf, target=box, tables=tables, interval="1h", jitter=0)
    async with running(job) as after:
        for _ in range(4):
            await after(retl.events.ScanFinished)
        job.pause()
        job.trigger("slow")  # while it is scanned: once more after it
        for _ in range(3):
            await after(retl.events.ScanFinished, lambda: job.trigger("fast"))
        assert {table for table, _ in box.committed} == {"fast"}
        await anyio.wait_all_tasks_blocked()
        assert shelf.open_scans == 1
        shelf.gates["slow"].set()
        with anyio.fail_after(10):
            while [table for table, _ in box.committed].count("slow") < 2:
                await anyio.lowlevel.checkpoint()
    slow = [report for report in await job.history("slow") if report.status == "done"]
    assert len(slow) == 2
    assert slow[1].started_at.timestamp() + slow[1].seconds <= slow[0].started_at.timestamp() + 0.002


@pytest.mark.parametrize(("words", "most"), [({"parallel_tables": 3}, 3), ({}, 4), ({"parallel_tables": 1}, 1)])
async def test_so_many_tables_are_scanned_at_once(words: dict[str, int], most: int) -> None:
    tables = {f"t{number}": rows("t", 2) for number in range(8)}
    shelf, box = Shelf(tables), Box()
    for gate in shelf.gates.values():
        gate.set()
    await retl.Pipeline("p", source=shelf, target=box, tables=list(tables), **words).run_once()  # type: ignore[arg-type]
    assert {name: len(found) for name, found in box.content.items()} == dict.fromkeys(tables, 2)
    assert shelf.most_scans <= most and box.most_loads <= most


async def test_a_target_with_one_writer_takes_one_table_at_a_time() -> None:
    tables = {f"t{number}": rows("t", 2) for number in range(4)}
    shelf, box = Shelf(tables), Box(one_writer=True)
    for gate in shelf.gates.values():
        gate.set()
    await retl.Pipeline("p", source=shelf, target=box, tables=list(tables), parallel_tables=4).run_once()
    assert shelf.most_scans == box.most_loads == 1 and len(box.content) == 4


async def test_a_long_scan_gives_its_turn_away_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONG_SECONDS", 0.0)
    shelf, box = Shelf({"large": rows("large", 30), "small": rows("small", 30)}, slices=3), Box(one_writer=True)
    for gate in shelf.gates.values():
        gate.set()
    await retl.Pipeline("p", source=shelf, target=box, tables=["large", "small"]).run_once()
    assert box.committed == [("large", 0), ("small", 0), ("large", 1), ("small", 1), ("large", 2), ("small", 2)]
    assert box.content == {name: rows(name, 30).to_pylist() for name in ("large", "small")}


async def test_a_short_scan_keeps_its_turn() -> None:
    shelf, box = Shelf({"large": rows("large", 30), "small": rows("small", 30)}, slices=3), Box(one_writer=True)
    for gate in shelf.gates.values():
        gate.set()
    await retl.Pipeline("p", source=shelf, target=box, tables=["large", "small"]).run_once()
    assert [table for table, _ in box.committed] == ["large"] * 3 + ["small"] * 3


class Pooled(Box):
    """A box that takes as many loads at once as there are connections."""

    def __init__(self, loads: int, *, one_writer: bool = False) -> None:
        super().__init__(one_writer=one_writer)
        self.pool = ConnectionPool(Opened(), max_connections=loads + 1)

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        async with self.pool.reserve(), super().open_load(spec, begun) as writer:
            yield writer


@pytest.mark.parametrize(("loads", "at_once"), [(1, 1), (1, 2), (2, 2), (2, 4), (3, 2)])
async def test_long_scans_that_give_their_turns_away_keep_their_connections_from_nobody_for_ever(
    monkeypatch: pytest.MonkeyPatch, loads: int, at_once: int
) -> None:
    """The next scan has the turn, and waits for a connection; the one that has it waits for its turn."""
    monkeypatch.setattr(turns, "LONG_SECONDS", 0.0)
    tables = {f"t{number}": rows(f"t{number}", 30) for number in range(8)}
    shelf, box = Shelf(tables, slices=3), Pooled(loads)
    for gate in shelf.gates.values():
        gate.set()
    with anyio.fail_after(60):
        job = retl.Pipeline("p", source=shelf, target=box, tables=list(tables), parallel_tables=at_once)
        await job.run_once()
    assert box.content == {name: found.to_pylist() for name, found in tables.items()}
    assert box.most_loads <= loads
    await box.pool.aclose()


# The next slice is written while one is committed ------------------------------


async def test_the_next_slice_is_written_while_one_is_committed() -> None:
    shelf, box = Shelf({"t": rows("t", 30)}, slices=3), Box(overlaps=True)
    shelf.gates["t"].set()
    box.commit_gate = anyio.Event()
    job = retl.Pipeline("p", source=shelf, target=box, tables=["t"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(job.run_once)
        with anyio.fail_after(10):
            while box.heard.count("write") < 2:
                await anyio.lowlevel.checkpoint()
        assert box.heard == ["write", "commit begins", "write"]
        box.commit_gate.set()
    assert box.committed == [("t", 0), ("t", 1), ("t", 2)]
    assert box.content["t"] == rows("t", 30).to_pylist()


async def test_a_slice_whose_predecessor_fails_is_not_committed() -> None:
    shelf, box = Shelf({"t": rows("t", 30)}, slices=3), Box(overlaps=True)
    shelf.gates["t"].set()
    box.fails = {("t", 1)}
    job = retl.Pipeline("p", source=shelf, target=box, tables=["t"])
    with pytest.raises(TargetError, match="the box is shut"):
        await job.run_once()
    assert box.committed == [("t", 0)]
    assert box.content["t"] == rows("t", 30).slice(0, 10).to_pylist()
    box.fails.clear()
    box.content.clear()
    await job.run_once()
    assert box.content["t"] == rows("t", 30).to_pylist()
