"""Rows into MySQL: what every way of writing shares, and the tables that are loaded directly.

While the server loads one batch, the next one is made ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import anyio
import anyio.to_thread
import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.mysql import refresh, schema
from retl.connectors.mysql.connection import MySQLConnection, connected
from retl.connectors.mysql.ddl import Ddl
from retl.connectors.mysql.encode import Refused
from retl.connectors.mysql.job import Job
from retl.connectors.mysql.load import Lane, Loader, in_thread
from retl.connectors.mysql.session import FENCE_SECONDS
from retl.connectors.mysql.settings import IDLE_SECONDS
from retl.connectors.mysql.store import run_step
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError
from retl.model.window import Slice
from retl.state import sql as state
from retl.threads import shielded

_INDEX_BYTES = 64 * 1024 * 1024
_SWITCH_PATIENCE = 10
"""How many times ``lock_timeout`` a switch may wait for readers."""


class MySQLWriter(TableWriter):
    """What both ways of writing share. Made by ``MySQLTarget.prepare``."""

    def __init__(self, job: Job, connections: Sequence[MySQLConnection]) -> None:
        self._job = job
        self._spec = job.spec
        self._encoder = job.encoder
        self._rejects = self._no_rejects()
        self._lanes = [Lane(connection) for connection in connections]
        self._turn = 0
        self._rows = 0

    def _no_rejects(self) -> RejectCollector:
        # People know the table that is loaded by its place, not by the name of the shadow.
        return RejectCollector(self._spec, called=(self._job.known.place.name, self._job.place.name))

    @property
    def _main(self) -> MySQLConnection:
        return self._lanes[0].connection

    async def write(self, batch: pa.RecordBatch) -> None:
        sifted, refused = await self._sift(batch)
        data = await in_thread(self._encoder, sifted) if self._job.local and sifted.num_rows else None
        lane = self._lanes[self._turn]
        self._turn = (self._turn + 1) % len(self._lanes)
        await lane.settle()
        for rows in refused:
            everything = pa.array([True] * rows.rows.num_rows)
            self._rejects.add_masked(rows.rows, everything, rows.reason, rows.column)
        if sifted.num_rows and len(self._rejects.rows) <= self._spec.table.max_rejects + MOST_SHOWN:
            self._note(sifted)
            lane.start(self._take(lane.connection, sifted, data))

    async def _sift(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[Refused]]:
        return await anyio.to_thread.run_sync(self._encoder.sift, batch)

    def _note(self, batch: pa.RecordBatch) -> None:
        """Hook: rows are about to be loaded."""

    async def _take(self, connection: MySQLConnection, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        raise NotImplementedError

    def _loader(self, connection: MySQLConnection, table: str, *, replace: bool = False) -> Loader:
        job = self._job
        return Loader(
            connection,
            job.spec,
            self._encoder,
            self._rejects,
            table,
            local=job.local,
            infile=job.infile,
            packet=job.packet,
            replace=replace,
        )

    async def _settle(self) -> None:
        for lane in self._lanes:
            await lane.settle()

    def _forget(self) -> None:
        self._rows = 0
        self._rejects = self._no_rejects()

    async def _save(self, fenced: FencedCheckpoint | None) -> None:
        """The last of a transaction: fence, checkpoint, rejects, COMMIT. The lease's row is locked no longer than that takes."""
        if fenced is None:
            await shielded(self._end())
            return
        await self._main.execute(f"SET SESSION wait_timeout = {FENCE_SECONDS}")
        await run_step(self._main, state.save(fenced))
        if self._rejects.rows:
            await run_step(self._main, state.add_rejects(fenced.fence.pipeline, self._rejects.rows))
        await shielded(self._end())
        with suppress(RetlError):  # what is committed does not fail any more
            await self._main.execute(f"SET SESSION wait_timeout = {IDLE_SECONDS}")

    async def _end(self) -> None:
        await self._main.execute("COMMIT")

    async def count(self) -> int:
        rows = await self._main.query(f"SELECT COUNT(*) FROM {self._job.known.place.sql}")
        return int(rows[0][0])

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._settle()
        await self._finish(fenced)
        await self.close()

    async def close(self) -> None:
        """End every connection; what is not committed is rolled back by the server."""
        for lane in self._lanes:
            await lane.stop()

    async def _finish(self, fenced: FencedCheckpoint | None) -> None:
        job, table = self._job, self._spec.table
        swaps = table.pre_action is PreAction.SWAP
        archives: list[str] = []
        if table.pre_action is PreAction.RENAME_AND_CREATE and Action.DROP not in self._spec.blacklist:
            names = await schema.table_names(self._main, job.place.database)
            archives = refresh.archives_to_drop(job.place, self._spec, names)
        # What was loaded is not loaded again because somebody reads for a while.
        ddl = Ddl(job.login, self._spec, job.place, self._main, _SWITCH_PATIENCE * job.lock_timeout)
        if swaps:
            await self._switch(ddl)
        if archives:
            await ddl.run([f"DROP TABLE {job.place.beside(name)}" for name in archives], fenced=fenced)
        elif fenced is not None:
            await self._main.begin()
            await self._save(fenced)

    async def _switch(self, ddl: Ddl) -> None:
        """Switch the shadow in. The checkpoint follows only when the old table is gone: until then all can be taken back."""
        job = self._job
        if job.completion:
            # MySQL builds indexes by sorting, in rather little memory; MariaDB has no such setting.
            with suppress(RetlError):
                await self._main.execute(f"SET SESSION innodb_ddl_buffer_size = {_INDEX_BYTES}")
        for statement in job.completion:
            # Not under the fence, since it may take long: nobody else has a table of this name.
            await self._main.execute(statement)
        await ddl.run([refresh.switch(job.place, self._spec, existed=job.existed)])
        if job.existed:
            await ddl.drop_replaced()

    async def abort(self) -> None:
        self._forget()
        await self.close()
        loaded = self._job.known.place
        if loaded != self._job.place:
            with suppress(RetlError):  # the next scan drops it too
                async with connected(self._job.login) as connection:
                    await connection.execute(f"DROP TABLE IF EXISTS {loaded.sql}")


class DirectWriter(MySQLWriter):
    """Loads a table that is empty: one that is replaced as a whole, over several connections, or the first load of an upsert, over one.

    Each has a transaction of its own. All but one are committed before the one that carries
    the checkpoint: a crash in between leaves rows of a refresh that is not finished, which the
    next scan begins again with an empty table.
    """

    def __init__(self, job: Job, connections: Sequence[MySQLConnection]) -> None:
        super().__init__(job, connections)
        self._begun: set[MySQLConnection] = set()
        self._committed = 0

    async def _take(self, connection: MySQLConnection, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        if connection not in self._begun:
            await connection.begin()
            self._begun.add(connection)
        # Added only now: another connection's load counts its rows meanwhile.
        loader = self._loader(connection, self._job.known.place.sql, replace=not self._spec.table.replaces)
        taken = await loader.take(batch, data)
        self._rows += taken

    async def discard(self) -> None:
        await self._settle()
        for connection in self._begun:
            await connection.execute("ROLLBACK")
        self._begun.clear()
        self._forget()

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        assert slice_.scope is None, "an empty table has no rows of a scope"
        await self._settle()
        self._rejects.check(rejects_left)
        if self._main not in self._begun:
            await self._main.begin()
        for connection in self._begun - {self._main}:
            if fenced is not None:
                await run_step(connection, state.prove(fenced.fence))
            await connection.execute("COMMIT")
        await self._save(fenced)
        self._begun.clear()
        self._committed += self._rows
        done = CommitResult(self._rows, self._rows, self._rejects.rows, unchanged=0)
        self._forget()
        return done

    async def count(self) -> int:
        if self._job.known.place != self._job.place:
            return self._committed  # nobody else knows the shadow
        return await super().count()
