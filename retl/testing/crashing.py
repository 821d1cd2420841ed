"""A source that fails when it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pyarrow as pa

from retl.connectors.base import Connector, Source, SystemInfo
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConnectionFailed
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Slice


class CrashingSource(Source):
    """Another source, whose line is cut instead of its ``at_batch``-th batch (from 1, over all reads).

    It is cut ``times`` times, at each further batch; then it works. ``error`` is what is
    raised: by default ``ConnectionFailed``, which the engine tries again.
    """

    system = "crashing"

    def __init__(
        self, source: Source | Connector, *, at_batch: int, times: int = 1, error: BaseException | None = None
    ) -> None:
        self._source = source.source() if isinstance(source, Connector) else source
        self._left = at_batch - 1
        self._times = times
        self._error = error
        self.crashes = 0

    async def ping(self) -> SystemInfo:
        return await self._source.ping()

    async def list_tables(self) -> list[str]:
        return await self._source.list_tables()

    async def describe(self, table: str) -> TableSchema | None:
        return await self._source.describe(table)

    async def plan(self, table: TableSpec, checkpoint: Checkpoint) -> SourcePlan:
        return await self._source.plan(table, checkpoint)

    async def location(self, table: str) -> str | None:
        return await self._source.location(table)

    async def recount(self, plan: SourcePlan, slice_: Slice) -> int | None:
        return await self._source.recount(plan, slice_)

    async def finish(self, plan: SourcePlan) -> None:
        await self._source.finish(plan)

    async def read(self, plan: SourcePlan, slice_: Slice) -> AsyncIterator[pa.RecordBatch]:
        async with aclosing(self._source.read(plan, slice_)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                if self._left <= 0 and self.crashes < self._times:
                    self.crashes += 1
                    raise self._error or ConnectionFailed("the line was cut, as the test wanted.")
                self._left -= 1
                yield batch

    async def release(self) -> None:
        await self._source.release()

    async def aclose(self) -> None:
        await self._source.aclose()
