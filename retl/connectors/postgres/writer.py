"""Stage one slice while the one before it is merged, over a second connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.loader import ANALYZED_ROWS, PostgresLoader
from retl.connectors.sql.lanes import Lanes
from retl.connectors.sql.merge import TableMerge
from retl.connectors.sql.session import Session
from retl.connectors.sql.staged import StagedSlice
from retl.connectors.sql.statement import Statement, Step, query
from retl.connectors.sql.writer import StagedWriter
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError
from retl.model.window import Slice
from retl.threads import shielded

_GROWN = 5
"""A table that had fewer rows than so many times those that were changed is another one now."""


@dataclass(eq=False)
class LoadWorker:
    """A connection with a staging table of its own, and the slice that is staged there."""

    session: Session
    loader: PostgresLoader
    merge: TableMerge
    slice_: StagedSlice


class PipelinedWriter(StagedWriter):
    """Has a second worker from when it first needs one, if the pool has room for it."""

    overlaps = True

    def __init__(self, *arguments: Any, more: Callable[[], Awaitable[LoadWorker | None]], **words: Any) -> None:
        super().__init__(*arguments, **words)
        assert isinstance(self._loader, PostgresLoader)
        self._lanes = Lanes(LoadWorker(self._session, self._loader, self._merge, self._slice), more)
        self._workers = self._lanes.workers
        self._staging: LoadWorker | None = None
        self._changed = 0

    async def write(self, batch: pa.RecordBatch) -> None:
        if self._staging is None:
            self._staging = await self._lanes.free()
        worker = self._staging
        await worker.loader.stage(worker.session, batch, worker.slice_.rejects)
        worker.slice_.add(batch.num_rows, batch)

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        worker, self._staging = self._staging or self._workers[0], None
        with self._lanes.committing(worker):
            try:
                await worker.loader.gather(worker.session)
                done = await worker.slice_.commit(fenced, slice_, rejects_left)
                self._changed += done.changed or 0
                await self._clear(worker)
            except BaseException:
                self._staging = self._staging or worker  # its rows are still there
                raise
        return done

    async def discard(self) -> None:
        if self._staging is not None:
            await self._clear(self._staging)

    async def _clear(self, worker: LoadWorker) -> None:
        await worker.loader.settle()
        await worker.session.run(worker.loader.clear)
        worker.slice_ = StagedSlice(worker.session, self._load, worker.loader, worker.merge)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        for worker in self._workers:
            await worker.loader.settle()
        await self._leave_second()
        if self._changed >= ANALYZED_ROWS and not self._ending.completes:
            await self._session.run(self._analyze)
        await super().finish(fenced)

    def _analyze(self) -> Step[None]:
        """Take statistics of a table that this load has mostly made, or that a mirror joins; the server would be late."""
        table = self._load.loaded.sql
        ((known,),) = yield query(
            f"SELECT reltuples FROM pg_class WHERE oid = CAST({DIALECT.string(table)} AS regclass)"
        )
        if known < _GROWN * self._changed:
            yield Statement(f"ANALYZE {table}")

    async def abort(self) -> None:
        for worker in self._workers:
            await worker.loader.cancel()
        with suppress(RetlError):
            await self._leave_second()
        await super().abort()

    async def _leave_second(self) -> None:
        """Drop what only the second worker has, and give its connection back: also where the scan is cancelled while it does."""
        while len(self._workers) > 1:
            await shielded(self._leave(self._workers.pop()))

    async def _leave(self, worker: LoadWorker) -> None:
        try:
            await worker.session.run(worker.loader.drop)
        finally:
            await self._end(worker.session)
