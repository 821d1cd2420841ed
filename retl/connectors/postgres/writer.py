"""Copy slices straight into their table, or stage one while the one before it is merged, over a second connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.direct import DirectPath, DirectSlice, NotDirect
from retl.connectors.postgres.loader import ANALYZED_ROWS, PostgresLoader
from retl.connectors.postgres.merge import PostgresMerge
from retl.connectors.postgres.session import PostgresSession
from retl.connectors.postgres.vectors import make_index
from retl.connectors.sql.lanes import Lanes
from retl.connectors.sql.merge import TableMerge
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

    session: PostgresSession
    loader: PostgresLoader
    merge: TableMerge
    slice_: StagedSlice


class PipelinedWriter(StagedWriter):
    """Has a second worker from when it first needs one, if the pool has room for it.

    While a slice is copied straight into its table none is committed: each might wait for a row of the other.
    """

    overlaps = True

    def __init__(
        self, *arguments: Any, more: Callable[[], Awaitable[LoadWorker | None]], path: DirectPath, **words: Any
    ) -> None:
        super().__init__(*arguments, **words)
        assert isinstance(self._loader, PostgresLoader)
        assert isinstance(self._session, PostgresSession)
        self._lanes = Lanes(LoadWorker(self._session, self._loader, self._merge, self._slice), more)
        self._workers = self._lanes.workers
        self._staging: LoadWorker | None = None
        self._path = path
        self._begun: Slice | None = None
        self._direct: DirectSlice | None = None
        """What takes the rows of a slice that goes straight into its table."""
        self._last: DirectSlice | None = None
        self._changed = 0

    async def begin(self, slice_: Slice) -> None:
        self._begun = slice_

    # Writing ----------------------------------------------------------------

    async def write(self, batch: pa.RecordBatch) -> None:
        if self._direct is None and self._staging is None:
            await self._choose()
        if self._direct is None:
            assert self._staging is not None
            await self._stage(self._staging, batch)
            return
        try:
            await self._direct.write(batch)
        except NotDirect as error:
            direct, self._direct, self._staging = self._direct, None, self._workers[0]
            await self._stage_instead(self._staging, direct, error)

    async def _choose(self) -> None:
        """Choose what takes the rows of the next slice."""
        if self._path.may_take(self._begun):
            await self._lanes.idle()
            first = self._workers[0]
            assert isinstance(first.merge, PostgresMerge)
            await self._path.learn(first.session, first.merge)
            if self._begun is not None and self._path.may_take(self._begun):
                self._direct = self._last = DirectSlice(
                    first.session, self._load, first.loader, first.merge, self._begun
                )
                return
        self._staging = await self._lanes.free()

    async def _stage(self, worker: LoadWorker, batch: pa.RecordBatch) -> None:
        await worker.loader.stage(worker.session, batch, worker.slice_.rejects)
        worker.slice_.add(batch.num_rows, batch)

    async def _stage_instead(self, worker: LoadWorker, direct: DirectSlice, error: NotDirect) -> None:
        """Stage what was given of a slice that cannot go straight into its table."""
        await direct.undo()
        self._path.failed(direct.spool, error)
        async with aclosing(direct.spool.batches()) as batches:
            async for batch in batches:
                await self._stage(worker, batch)
        await direct.spool.close()

    # Committing -------------------------------------------------------------

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        worker, self._staging = self._staging or self._workers[0], None
        direct, self._direct = self._direct, None
        with self._lanes.committing(worker):
            try:
                done = await self._commit(worker, direct, fenced, slice_, rejects_left)
            except BaseException:
                self._staging = self._staging or worker  # its rows are still there
                raise
        self._changed += done.changed or 0
        return done

    async def _commit(
        self,
        worker: LoadWorker,
        direct: DirectSlice | None,
        fenced: FencedCheckpoint | None,
        slice_: Slice,
        rejects_left: int,
    ) -> CommitResult:
        if direct is not None:
            try:
                done = await direct.commit(fenced, slice_, rejects_left)
            except NotDirect as error:
                await self._stage_instead(worker, direct, error)
            else:
                await direct.spool.close()
                return done
        await worker.loader.gather(worker.session)
        done = await worker.slice_.commit(fenced, slice_, rejects_left)
        await self._clear(worker)
        return done

    async def discard(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            await direct.undo()
            await direct.spool.close()
        if self._staging is not None:
            await self._clear(self._staging)

    async def _clear(self, worker: LoadWorker) -> None:
        await worker.loader.in_flight.settle()
        await worker.session.run(worker.loader.clear)
        worker.slice_ = StagedSlice(worker.session, self._load, worker.loader, worker.merge)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        for worker in self._workers:
            await worker.loader.in_flight.settle()
        await self._leave_second()
        if self._changed >= ANALYZED_ROWS and not self._ending.completes:
            await self._session.run(self._analyze)
        await self._session.run(partial(make_index, self._load))
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
        if self._last is not None:
            await self._last.abort()
            await self._last.spool.close()
        for worker in self._workers:
            await worker.loader.in_flight.cancel()
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
