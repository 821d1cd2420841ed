"""Load rows directly into an empty table: one that is replaced as a whole, or the first load of an upsert."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.encode import Sifted
from retl.connectors.mysql.loader import LoadWorker
from retl.connectors.mysql.prepared import MySQLLoad
from retl.connectors.mysql.writer import MySQLWriter, SlicedWriter, SliceLoad
from retl.model.checkpoint import FencedCheckpoint
from retl.model.window import Slice
from retl.state import sql as state


class ReplacingWriter(MySQLWriter):
    """Loads a table that is replaced as a whole, over several connections.

    Each has a transaction of its own. All but one are committed before the one that carries
    the checkpoint: a crash in between leaves rows of a refresh that is not finished, which the
    next scan begins again with an empty table.
    """

    def __init__(self, load: MySQLLoad, connections: Sequence[MySQLConnection]) -> None:
        super().__init__(load, connections)
        self._turn = 0
        self._begun: set[MySQLConnection] = set()
        self._counted = 0
        self._forget()

    def _forget(self) -> None:
        self._rejects = self._load.rejects()
        self._loaders = [self._load.loader(worker.connection, self._encoder, self._rejects) for worker in self._workers]

    @property
    def _rows(self) -> int:
        return sum(loader.rows for loader in self._loaders)

    async def _write(self, sifted: Sifted, data: pa.Buffer | None) -> None:
        turn, self._turn = self._turn, (self._turn + 1) % len(self._workers)
        if self._keep_rejects(self._rejects, sifted):
            await self._workers[turn].start(lambda: self._take(turn, sifted.kept, data))

    async def _take(self, turn: int, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        connection = self._workers[turn].connection
        if connection not in self._begun:
            await connection.begin()
            self._begun.add(connection)
        await self._loaders[turn].load(batch, data)

    async def _settle(self) -> None:
        for worker in self._workers:
            await worker.settle()

    def _rest(self) -> None:
        for worker in self._workers:
            worker.rest()

    async def discard(self) -> None:
        await self._settle()
        for connection in self._begun:
            await connection.execute("ROLLBACK")
        self._begun.clear()
        self._forget()
        self._rest()

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        await self._settle()
        self._rejects.check(rejects_left)
        if self._main not in self._begun:
            await self._main.begin()
        for connection in self._begun - {self._main}:
            if fenced is not None:
                await self._session(connection).run(partial(state.prove, fenced.fence))
            await connection.execute("COMMIT")
        await self._save(self._main, fenced, self._rejects)
        self._begun.clear()
        self._counted += self._rows
        rejects = self._rejects.rows
        done = CommitResult(self._rows + len(rejects), self._rows, rejects, unchanged=0)
        self._forget()
        self._rest()
        return done

    async def count(self) -> int:
        if self._load.loaded != self._load.target:
            return self._counted  # no other session uses the shadow
        return await super().count()


class FirstLoadWriter(SlicedWriter):
    """The first load of an upsert: a duplicate key replaces the earlier row, which only this load has written.

    Two slices share a key only if its row changed while it was read. Then one waits for the other's lock until it
    gives up, and the scan is tried again from the last commit.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._begun: set[SliceLoad] = set()

    def _begin(self, worker: LoadWorker) -> SliceLoad:
        rejects = self._load.rejects()
        loader = self._load.loader(worker.connection, self._encoder, rejects)
        return SliceLoad(worker, loader, rejects)

    async def _take(self, mine: SliceLoad, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        if mine not in self._begun:
            await mine.worker.connection.begin()
            self._begun.add(mine)
        await mine.loader.load(batch, data)

    async def _commit(
        self, mine: SliceLoad, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int
    ) -> CommitResult:
        if mine not in self._begun:
            await mine.worker.connection.begin()
        await self._save(mine.worker.connection, fenced, mine.rejects)
        self._begun.discard(mine)
        rows, rejects = mine.loader.rows, mine.rejects.rows
        return CommitResult(rows + len(rejects), rows, rejects, unchanged=0)

    async def _forget(self, mine: SliceLoad) -> None:
        if mine in self._begun:
            await mine.worker.connection.execute("ROLLBACK")
            self._begun.discard(mine)
