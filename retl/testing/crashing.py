"""Sources around another source: one that forwards everything, and one that fails when it is told to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager

import pyarrow as pa

from retl.connectors.base import Connector, Source, SourceScan, SystemInfo
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConnectionFailed, RowsRejected
from retl.model.plan import SourcePlan, SourcePreview
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import Manifest


class WrappedSource(Source):
    """Forwards everything to another source. Override what shall differ: ``batches`` sees every one that comes."""

    system = "wrapped"

    def __init__(self, source: Source | Connector) -> None:
        self.source = source.source() if isinstance(source, Connector) else source
        self.ranges = self.source.ranges  # type: ignore[misc]  # as the wrapped one

    async def ping(self) -> SystemInfo:
        return await self.source.ping()

    async def list_tables(self) -> list[str]:
        return await self.source.list_tables()

    async def describe(self, table: str) -> TableSchema | None:
        return await self.source.describe(table)

    async def location(self, table: str) -> str | None:
        return await self.source.location(table)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        async with self.source.open_scan(table, checkpoint, manifest) as scan:
            yield _WrappedScan(self, scan)

    def narrowed(self, table: TableSpec) -> TableSpec:
        return self.source.narrowed(table)

    def planned(self, plan: SourcePlan) -> SourcePlan:
        """The plan that the scan shows."""
        return plan

    async def batches(self, scan: SourceScan, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        """The batches that one slice of the other source gives."""
        async with aclosing(scan.read(slice_)) as batches:
            async for batch in batches:
                yield batch

    async def count(self, scan: SourceScan, slice_: Slice) -> int | None:
        """What the other source says when it is asked again how many rows a slice has."""
        return await scan.recount(slice_)

    async def aclose(self) -> None:
        await self.source.aclose()


class _WrappedScan(SourceScan):
    def __init__(self, source: WrappedSource, scan: SourceScan) -> None:
        self._source = source
        self._scan = scan
        self.plan = source.planned(scan.plan)

    def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        return self._source.batches(self._scan, slice_)

    def slices(self) -> AsyncGenerator[Slice, None]:
        # Those of a plan may differ from the other scan's.
        return self._scan.slices() if self.plan.by_manifest else super().slices()

    def delivered(self, slice_: Slice) -> Slice | None:
        return self._scan.delivered(slice_)

    def committed(self, slice_: Slice) -> None:
        self._scan.committed(slice_)

    def rejected(self, slice_: Slice, error: RowsRejected) -> bool:
        return self._scan.rejected(slice_, error)

    def warnings(self) -> Sequence[str]:
        return self._scan.warnings()

    async def preview(self) -> SourcePreview:
        return await self._scan.preview()

    async def recount(self, slice_: Slice) -> int | None:
        return await self._source.count(self._scan, slice_)


class CrashingSource(WrappedSource):
    """Another source, whose line is cut instead of its ``at_batch``-th batch (from 1, over all reads).

    It is cut ``times`` times, at each further batch; then it works. ``error`` is what is
    raised: by default ``ConnectionFailed``, which the engine tries again.
    """

    system = "crashing"

    def __init__(
        self, source: Source | Connector, *, at_batch: int, times: int = 1, error: BaseException | None = None
    ) -> None:
        super().__init__(source)
        self._left = at_batch - 1
        self._times = times
        self._error = error
        self.crashes = 0

    async def batches(self, scan: SourceScan, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(scan.read(slice_)) as batches:
            async for batch in batches:
                if self._left <= 0 and self.crashes < self._times:
                    self.crashes += 1
                    raise self._error or ConnectionFailed("the line was cut, as the test wanted.")
                self._left -= 1
                yield batch
