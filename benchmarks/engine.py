"""What the engine itself costs: ready batches in, batches dropped."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import numpy as np
import pyarrow as pa

import retl
from benchmarks import common
from retl.connectors.base import CommitResult, Manifest, Source, SourceScan, SystemInfo, TableWriter, Target, loading
from retl.model.checkpoint import Checkpoint, FencedCheckpoint
from retl.model.plan import BatchSize, SourcePlan, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Slice


class ReadySource(Source):
    """Yields one batch again and again."""

    system = "ready"

    def __init__(self, batch: pa.RecordBatch, times: int) -> None:
        self._batch = batch
        self._times = times

    async def ping(self) -> SystemInfo:
        return SystemInfo("ready", "1")

    async def list_tables(self) -> list[str]:
        return ["t"]

    async def describe(self, table: str) -> TableSchema | None:
        return TableSchema(table, self._batch.schema, ("id",))

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        rows = self._batch.num_rows * self._times
        plan = SourcePlan(
            table=table,
            schema=self._batch.schema,
            key=("id",),
            slices=(Slice(index=0, rows=rows, divisible=True),),
            rows=rows,
            unique_key=True,
        )
        yield ReadyScan(plan, self._batch, self._times)

    async def aclose(self) -> None:
        return None


class ReadyScan(SourceScan):
    def __init__(self, plan: SourcePlan, batch: pa.RecordBatch, times: int) -> None:
        self.plan = plan
        self._batch = batch
        self._times = times

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        for _ in range(self._times):
            yield self._batch


class DroppingTarget(Target):
    """Forgets what it is given. Likes batches as they come, so that each one passes through the engine."""

    system = "dropping"

    def __init__(self, rows: int) -> None:
        self.batch_size = BatchSize(rows=rows)

    async def ping(self) -> SystemInfo:
        return SystemInfo("dropping", "1")

    async def describe(self, table: str) -> TableSchema | None:
        return None

    async def count(self, table: str) -> int:
        return 0

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        return TargetPreview()

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        async with loading(DroppingWriter()) as writer:
            yield writer

    async def aclose(self) -> None:
        return None


class DroppingWriter(TableWriter):
    def __init__(self) -> None:
        self._rows = 0
        self.finished = False

    async def write(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows

    async def discard(self) -> None:
        self._rows = 0

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        rows, self._rows = self._rows, 0
        return CommitResult(rows)

    async def count(self) -> int:
        return 0

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        self.finished = True

    async def abort(self) -> None:
        return None


def push(batch_rows: int, rows: int) -> dict[str, Any]:
    """Rows a second through a whole scan."""
    columns: dict[str, pa.Array] = {"id": pa.array(np.arange(batch_rows))}
    columns.update({f"c{number}": pa.array(np.random.default_rng(number).random(batch_rows)) for number in range(11)})
    batch = pa.record_batch(columns)
    pipeline = retl.Pipeline(
        "bench",
        source=ReadySource(batch, rows // batch_rows),
        target=DroppingTarget(batch_rows),
        tables=[retl.Table("t")],
        state=retl.MemoryStore(),
    )

    async def run() -> float:
        began = time.perf_counter()
        report = await pipeline.run_once()
        assert report.rows == rows // batch_rows * batch_rows
        return time.perf_counter() - began

    seconds = anyio.run(run)
    return {"rows_per_second": rows / seconds, "microseconds_per_batch": 1e6 * seconds / (rows / batch_rows)}


def main() -> None:
    rows = []
    for batch_rows, total, goal in ((65_536, 400_000_000, 20e6), (100, 10_000_000, 1e6)):
        done = common.in_own_process("benchmarks.engine", "push", batch_rows, total)
        speed = done["rows_per_second"]
        rows.append(
            (
                f"{batch_rows:,}",
                f"{total:,}",
                f"{speed / 1e6:.1f}",
                f"{done['microseconds_per_batch']:.0f}",
                f"{goal / 1e6:.0f}",
                common.verdict(speed, goal, at_least=True),
            )
        )
    common.table(
        "Engine: ready batches of 12 columns into a target that drops them",
        ("rows a batch", "rows", "million rows/s", "us a batch", "goal", ""),
        rows,
        common.versions("pyarrow", "anyio"),
    )


if __name__ == "__main__":
    main()
