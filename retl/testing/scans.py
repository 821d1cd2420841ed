"""A source with its scans left open, for tests that plan in one line and read in the next."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import pyarrow as pa

from retl.connectors.base import Connector, Source, SourceScan
from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import Manifest
from retl.testing.crashing import WrappedSource
from retl.testing.rows import manifest_of, read_slice, table_spec


class Scans(WrappedSource):
    """``async with Scans(source) as source``: what ``plan`` opens stays open until ``leave`` or the end."""

    def __init__(self, source: Source | Connector) -> None:
        super().__init__(source)
        self._open: list[SourceScan] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def plan(
        self, table: TableSpec, checkpoint: Checkpoint | None = None, manifest: Manifest | None = None
    ) -> SourcePlan:
        """Open a scan and tell its plan."""
        opening = self.source.open_scan(table, checkpoint or Checkpoint(), manifest or manifest_of())
        scan = await self._stack.enter_async_context(opening)
        self._open.append(scan)
        return scan.plan

    def scan(self, plan: SourcePlan) -> SourceScan:
        """The open scan that a plan belongs to."""
        (found,) = (scan for scan in self._open if scan.plan is plan)
        return found

    def read(self, plan: SourcePlan, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        """The batches of one slice."""
        return self.scan(plan).read(slice_)

    async def recount(self, plan: SourcePlan, slice_: Slice) -> int | None:
        """How many rows a slice has as of now."""
        return await self.scan(plan).recount(slice_)

    async def leave(self) -> None:
        """Leave every open scan, as the engine has between two runs."""
        self._open.clear()
        await self._stack.aclose()

    async def aclose(self) -> None:
        """Leave every scan and close the source."""
        try:
            await self.leave()
        finally:
            await super().aclose()


async def collect(source: Source | Connector, table: str | TableSpec, checkpoint: Checkpoint | None = None) -> pa.Table:
    """Everything that one scan reads of a table, in its logical types. Closes a connector that it opened itself."""
    scans = source if isinstance(source, Scans) else Scans(source)
    try:
        plan = await scans.plan(table_spec(table) if isinstance(table, str) else table, checkpoint)
        tables = [await read_slice(scans.scan(plan), slice_) for slice_ in plan.slices]
        return pa.concat_tables([plan.schema.empty_table(), *tables])
    finally:
        await (scans.aclose() if isinstance(source, Connector) else scans.leave())
