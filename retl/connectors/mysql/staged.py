"""Upserts and appends: stage a slice in a temporary table, and merge it into the target in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.mysql.catalog import DIALECT
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.encode import Sifted
from retl.connectors.mysql.loader import LoadWorker
from retl.connectors.mysql.merge import MySQLMerge
from retl.connectors.mysql.prepared import MySQLLoad
from retl.connectors.mysql.session import own_session
from retl.connectors.mysql.stage import MySQLStage
from retl.connectors.mysql.writer import SlicedWriter, SliceLoad
from retl.connectors.sql.staged import StagedSlice
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError
from retl.model.window import Slice

_SMALL_ROWS, _LEFT_BEHIND = 1_000, 32


@dataclass(eq=False)
class _Staged(SliceLoad):
    """A slice in the temporary table of its connection."""

    slice_: StagedSlice


class PipelinedWriter(SlicedWriter):
    """Stages slices and merges them. A stage lives as long as the load."""

    def __init__(
        self, load: MySQLLoad, connection: MySQLConnection, more: Callable[[], Awaitable[MySQLConnection | None]]
    ) -> None:
        super().__init__(load, connection, more)
        self._stage = MySQLStage.numbered(load)
        self._merge = merge_of(load, self._stage)
        self._most = 0
        self._used: dict[LoadWorker, bool] = {}
        """The connections that have a stage, and whether its rows are committed or given up."""

    def _begin(self, worker: LoadWorker) -> _Staged:
        slice_ = StagedSlice(self._session(worker.connection), self._load, self._stage, self._merge)
        stage = self._stage.table, self._stage.row
        loader = self._load.loader(worker.connection, self._encoder, slice_.rejects, stage=stage)
        return _Staged(worker, loader, slice_.rejects, slice_)

    def _count(self, mine: SliceLoad, sifted: Sifted) -> None:
        assert isinstance(mine, _Staged)
        mine.slice_.add(sifted.batch.num_rows, sifted.kept)

    async def _take(self, mine: SliceLoad, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        await self._empty_stage(mine.worker)
        async with own_session(mine.worker.connection):
            await mine.loader.load(batch, data)

    async def _empty_stage(self, worker: LoadWorker) -> None:
        """Clear the stage only now, so that a finished commit cannot fail."""
        session = self._session(worker.connection)
        if worker not in self._used:
            await self._create_stage(worker)
        elif self._used[worker]:
            await session.run(self._stage.clear)
        self._used[worker] = False

    async def _create_stage(self, worker: LoadWorker) -> None:
        try:
            await self._session(worker.connection).run(self._stage.create)
        except ConfigError as error:
            database = self._load.target.schema
            error.remedy = f"GRANT CREATE TEMPORARY TABLES ON `{database}`.* to the user: slices are staged in one."
            raise

    async def _forget(self, mine: SliceLoad) -> None:
        if mine.worker in self._used:
            self._used[mine.worker] = True

    async def _clear(self) -> None:
        """Small stages are dropped several at a time: they go with the connection anyway."""
        for connection in (worker.connection for worker in self._used):
            connection.left_behind += [self._stage.table, self._stage.kept]
            if self._most > _SMALL_ROWS or len(connection.left_behind) >= _LEFT_BEHIND:
                await connection.execute(f"DROP TEMPORARY TABLE IF EXISTS {', '.join(connection.left_behind)}")
                connection.left_behind.clear()

    async def _commit(
        self, mine: SliceLoad, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int
    ) -> CommitResult:
        assert isinstance(mine, _Staged)
        self._most = max(self._most, mine.loader.rows)
        if self._used.get(mine.worker, True):  # no row of this slice got into it
            await self._empty_stage(mine.worker)
        done = await mine.slice_.commit(fenced, slice_, rejects_left)
        await self._forget(mine)
        return done


def merge_of(load: MySQLLoad, stage: MySQLStage) -> MySQLMerge:
    """The merge of a stage into the loaded table."""
    return MySQLMerge(
        DIALECT,
        load,
        row=stage.row,
        table=load.loaded.sql,
        stage=lambda: stage.table,
        staged={own: stage.names[name] for name, own in load.columns.items()},
        keyed=load.keyed,
    )
