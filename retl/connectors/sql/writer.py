"""Write one scan to a SQL table: slice by slice, then the end of a refresh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.sql.ending import Ending
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad, TableMerge
from retl.connectors.sql.own_sql import OwnSql
from retl.connectors.sql.session import Session
from retl.connectors.sql.staged import StagedSlice
from retl.connectors.sql.statement import RowError, Step, execute, of_one, query
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetError
from retl.model.window import Slice
from retl.threads import shielded

Lookup = Callable[[str, Sequence[str], Sequence[str]], Awaitable[pa.Table | None]]


class StagedWriter(TableWriter):
    """Writes one scan of one table. Made by ``SqlTarget``, whose ``end`` takes the session back."""

    def __init__(
        self,
        session: Session,
        load: PreparedLoad,
        loader: BulkLoader,
        merge: TableMerge,
        *,
        mirror: TableMerge | None,
        ending: Ending,
        lookup: Lookup,
        end: Callable[[Session], Coroutine[Any, Any, None]],
    ) -> None:
        self._session = session
        self._load = load
        self._loader = loader
        self._merge = merge
        self._ending = ending
        self._mirror = mirror
        self._lookup = lookup
        self._end = end
        self._after = OwnSql(load.spec.table, "after_sql", merge.dialect)
        self._slice = self._new_slice()
        self.finished = False

    async def write(self, batch: pa.RecordBatch) -> None:
        staged = await self._loader.stage(self._session, batch, self._slice.rejects)
        self._slice.add(batch.num_rows, staged)

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        await self._loader.gather(self._session)
        done = await self._slice.commit(fenced, slice_, rejects_left)
        await self.discard()
        return done

    async def discard(self) -> None:
        await self._session.run(self._loader.clear)
        self._slice = self._new_slice()

    def _new_slice(self) -> StagedSlice:
        return StagedSlice(self._session, self._load, self._loader, self._merge)

    async def lookup(self, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table | None:
        return await self._lookup(column, values, wanted)

    # The end ----------------------------------------------------------------

    async def count(self) -> int:
        return await self._count(f"SELECT COUNT(*) FROM {self._load.loaded.sql}")

    async def deletes(self) -> int:
        if self._mirror is None:
            return 0
        return await self._count(f"SELECT COUNT(*) {self._mirror.gone()}")

    async def _count(self, sql: str) -> int:
        ((rows,),) = await self._session.run(partial(of_one, query(sql)))
        return int(rows)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._session.run(self._loader.drop)
        if self._ending.completes:
            await self._complete()
        if self._ending.ends or fenced is not None or self._after:
            with self._after.explained():
                await self._switch(fenced)
        self.finished = True
        await shielded(self._end(self._session))

    async def _switch(self, fenced: FencedCheckpoint | None) -> None:
        try:
            await self._session.transaction(partial(self._finish, fenced, exchange=False))
        except RowError:
            await self._finish_exchanging(fenced)

    async def _complete(self) -> None:
        try:
            await self._session.transaction(self._ending.complete)
        except RowError as error:
            raise self._left(error, "look for the rows that an index or a foreign key rejects.") from error

    async def _finish_exchanging(self, fenced: FencedCheckpoint | None) -> None:
        """Free the unique values that rows of a mirror pass on to each other."""
        try:
            await self._session.transaction(partial(self._finish, fenced, exchange=True))
        except RowError as error:
            raise self._left(
                error, "look for what rejects the row: a foreign key, a trigger, a check, a partition that is missing."
            ) from error

    def _left(self, error: RowError, remedy: str) -> TargetError:
        message = f"{error.reason}; {self._load.target.name!r} was left as it was."
        return TargetError(message, remedy=remedy, system=self._merge.dialect.name)

    def _finish(self, fenced: FencedCheckpoint | None, *, exchange: bool) -> Step[None]:
        if self._ending.ends:
            yield from execute((yield from self._ending.finish(exchange)), rejectable=True)
        yield from self._after.step()
        if fenced is not None:
            yield from self._session.save(fenced)

    async def abort(self) -> None:
        with suppress(RetlError):
            await self._session.run(self._loader.drop)
        if self._load.loaded != self._load.target:
            with suppress(RetlError):  # the next scan drops it too
                drop = [*self._merge.dialect.give_up_soon, f"DROP TABLE IF EXISTS {self._load.loaded.sql}"]
                await self._session.transaction(partial(execute, drop))
        await shielded(self._end(self._session))
