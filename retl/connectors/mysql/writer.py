"""What all writers share: they encode a batch while the server loads the one before, and end a load."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import anyio
import anyio.to_thread
import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.mysql.catalog import DIALECT, definition_of, table_names
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.ddl import Ddl
from retl.connectors.mysql.encode import Sifted
from retl.connectors.mysql.loader import Loader, LoadWorker, in_thread
from retl.connectors.mysql.prepared import MySQLLoad
from retl.connectors.mysql.session import MySQLSession, save, update
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector
from retl.connectors.sql.ending import changed_meanwhile
from retl.connectors.sql.lanes import Lanes
from retl.connectors.sql.own_sql import OwnSql
from retl.connectors.sql.statement import Step
from retl.model.actions import PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import LeaseLost, RetlError
from retl.model.window import Slice
from retl.state import sql as state
from retl.threads import shielded

_INDEX_BYTES = 64 * 1024 * 1024
_SWITCH_PATIENCE = 10
"""How many times ``lock_timeout`` a switch may wait for readers."""


class MySQLWriter(TableWriter):
    """One load over connections of the pool; it leaves nothing in them."""

    def __init__(self, load: MySQLLoad, connections: Sequence[MySQLConnection]) -> None:
        self._load = load
        self._spec = load.spec
        self._encoder = load.encoder
        self._workers = [LoadWorker(connection) for connection in connections]
        self._after = OwnSql(load.spec.table, "after_sql", DIALECT)
        self.finished = False

    @property
    def _main(self) -> MySQLConnection:
        return self._workers[0].connection

    def _session(self, connection: MySQLConnection) -> MySQLSession:
        return MySQLSession(connection, self._load.lock_timeout)

    async def write(self, batch: pa.RecordBatch) -> None:
        sifted = await anyio.to_thread.run_sync(self._encoder.sift, batch)
        data = await in_thread(self._encoder, sifted.kept) if self._load.local and sifted.kept.num_rows else None
        await self._write(sifted, data)

    @abstractmethod
    async def _write(self, sifted: Sifted, data: pa.Buffer | None) -> None:
        """Load a batch; wait for the server only as memory requires."""

    def _keep_rejects(self, rejects: RejectCollector, sifted: Sifted) -> bool:
        """Keep the rows that are not sent; returns whether it makes sense to send the rest."""
        rejects.leave_out(sifted.batch, sifted.invalid)
        return bool(sifted.kept.num_rows) and len(rejects.rows) <= self._spec.table.max_rejects + MOST_SHOWN

    async def _save(
        self, connection: MySQLConnection, fenced: FencedCheckpoint | None, rejects: RejectCollector | None = None
    ) -> None:
        """End a transaction: fence, checkpoint, rejects, COMMIT. The lease's row is locked no longer than that takes."""
        if fenced is not None:
            session = self._session(connection)
            await session.run(partial(save, fenced))
            if rejects is not None and rejects.rows:
                await session.run(partial(state.add_rejects, fenced.fence.pipeline, rejects.rows))
        await shielded(connection.execute("COMMIT"))

    async def count(self) -> int:
        return await self._number(f"SELECT COUNT(*) FROM {self._load.loaded.sql}")

    async def _number(self, sql: str) -> int:
        worker = self._workers[0]
        await worker.settle()
        ((number,),) = await worker.connection.query(sql)
        worker.rest()
        return int(number)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        for worker in self._workers:
            await worker.settle()
        with self._after.explained():
            await self._finish(fenced)
        await self._clear()
        self.finished = True

    async def _finish(self, fenced: FencedCheckpoint | None) -> None:
        load, refresh = self._load, self._load.refresh
        if self._spec.table.pre_action is PreAction.RENAME_AND_CREATE:
            refresh = replace(refresh, names=await table_names(self._main, load.target))
        # A long reader is no reason to load everything again.
        ddl = Ddl(load.pool, refresh, self._main, _SWITCH_PATIENCE * load.lock_timeout)
        if load.loaded != load.target:
            await self._switch(ddl)
        archives = refresh.prune()
        if archives:
            await ddl.run(archives, fenced=None if self._after else fenced)
        if self._after:
            await self._session(self._main).transaction(partial(self._end_with, fenced))
        elif fenced is not None and not archives:
            await self._main.begin()
            await self._save(self._main, fenced)

    def _end_with(self, fenced: FencedCheckpoint | None) -> Step[None]:
        """The last transaction: the user's statements and the checkpoint."""
        yield from self._after.step()
        if fenced is not None:
            yield from save(fenced)

    async def _switch(self, ddl: Ddl) -> None:
        """Switch the shadow in. The checkpoint follows when the old table is dropped: until then everything can be undone."""
        refresh = self._load.refresh
        completion = refresh.complete()
        if completion:
            # MySQL builds indexes by sorting, with little memory by default; MariaDB has no such setting.
            with suppress(RetlError):
                await self._main.execute(f"SET SESSION innodb_ddl_buffer_size = {_INDEX_BYTES}")
        for statement in completion:
            # Not under the fence, since it may take long: nobody else has a table of this name.
            await self._main.execute(statement)
        await self._check_definition()
        await ddl.run([refresh.switch()])
        if refresh.existing is not None:
            await ddl.drop_replaced()

    async def _check_definition(self) -> None:
        """What was changed since the shadow was made like the table would be lost with the table."""
        load = self._load
        if load.definition is not None and load.definition != await definition_of(self._main, load.target):
            raise changed_meanwhile(load.target)

    async def _clear(self) -> None:
        """Clean the sessions of the connections, so that others can use them."""

    async def abort(self) -> None:
        """Cut the connections: the server rolls back. The next scan drops a shadow too."""
        for worker in self._workers:
            await worker.stop()
        loaded = self._load.loaded
        if loaded != self._load.target:
            with suppress(RetlError):
                async with self._load.pool.control() as connection:
                    await connection.execute(f"DROP TABLE IF EXISTS {loaded.sql}")


@dataclass(eq=False)
class SliceLoad:
    """The rows of one slice, and their connection."""

    worker: LoadWorker
    loader: Loader
    rejects: RejectCollector


class SlicedWriter(MySQLWriter):
    """Each slice is a transaction of one connection. While one is committed, the next one is loaded on a second connection.

    ``more`` gives that one, where the pool has room for it.
    """

    overlaps = True

    def __init__(
        self,
        load: MySQLLoad,
        connection: MySQLConnection,
        more: Callable[[], Awaitable[MySQLConnection | None]],
    ) -> None:
        super().__init__(load, [connection])

        async def another() -> LoadWorker | None:
            found = await more()
            return LoadWorker(found) if found is not None else None

        self._lanes = Lanes(self._workers[0], another)
        self._workers = self._lanes.workers
        self._slice: SliceLoad | None = None

    async def _write(self, sifted: Sifted, data: pa.Buffer | None) -> None:
        if self._slice is None:
            worker = await self._lanes.free()
            # If the commit that it waited for has failed, that slice is still there.
            self._slice = self._slice or self._begin(worker)
        mine = self._slice
        self._count(mine, sifted)
        if self._keep_rejects(mine.rejects, sifted):
            await mine.worker.start(lambda: self._take(mine, sifted.kept, data))

    @abstractmethod
    def _begin(self, worker: LoadWorker) -> SliceLoad:
        """A slice without rows."""

    def _count(self, mine: SliceLoad, sifted: Sifted) -> None:
        """Take note of a batch of the slice."""

    @abstractmethod
    async def _take(self, mine: SliceLoad, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        """Load a batch."""

    @abstractmethod
    async def _commit(
        self, mine: SliceLoad, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int
    ) -> CommitResult:
        """Commit what was loaded; there is at least one row, or a reject, or something to delete."""

    @abstractmethod
    async def _forget(self, mine: SliceLoad) -> None:
        """Undo what was loaded."""

    async def discard(self) -> None:
        mine, self._slice = self._slice, None
        if mine is not None:
            await mine.worker.settle()
            await self._forget(mine)
            mine.worker.rest()

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        mine, self._slice = self._slice or self._begin(self._workers[0]), None
        with self._lanes.committing(mine.worker):
            try:
                await mine.worker.settle()
                mine.rejects.check(rejects_left)
                if mine.loader.rows or mine.rejects.rows or slice_.scope is not None:
                    done = await self._commit(mine, fenced, slice_, rejects_left)
                else:
                    done = await self._commit_nothing(mine, fenced)
            except BaseException as error:
                if self._slice is None and not isinstance(error, LeaseLost):
                    self._slice = mine  # its rows are still there
                elif isinstance(error, RetlError):
                    # What the connection does next must not commit it.
                    with suppress(RetlError):
                        await shielded(self._forget(mine))
                raise
        mine.worker.rest()
        return done

    async def _commit_nothing(self, mine: SliceLoad, fenced: FencedCheckpoint | None) -> CommitResult:
        connection = mine.worker.connection
        if fenced is not None and (fenced.manifest is not None or not await self._update(connection, fenced)):
            await connection.begin()
            await self._save(connection, fenced)
        return CommitResult(0, 0, (), unchanged=0)

    async def _update(self, connection: MySQLConnection, fenced: FencedCheckpoint) -> bool:
        return await self._session(connection).run(partial(update, fenced))
