"""Upserts and appends: stage a slice in a temporary table, and merge it into the target in one transaction."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.mysql import rights
from retl.connectors.mysql.catalog import DIALECT
from retl.connectors.mysql.connection import MySQLConnection, rolling_back
from retl.connectors.mysql.errors import TargetRefused, of_rows
from retl.connectors.mysql.loader import LoadWorker, column_of, server_message, until_free, warnings
from retl.connectors.mysql.merge import CHECK_KEYS, Merge, Stage, respells
from retl.connectors.mysql.prepared import PreparedLoad
from retl.connectors.mysql.writer import SlicedWriter, SliceLoad
from retl.connectors.rows.keys import KeyWatch, repeated_key
from retl.connectors.rows.rejects import MOST_SHOWN, bisect
from retl.connectors.rows.text import json_text
from retl.model.actions import Write
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError, RepeatedKey
from retl.model.window import Slice

_numbers = itertools.count(1)
_SMALL_ROWS, _LEFT_BEHIND = 1_000, 32
_NO_SUCH_TABLE = 1146


@dataclass(eq=False)
class StagedSlice(SliceLoad):
    """A slice in the temporary table of its connection."""

    rows: int = 0
    """Rows to merge, including those that the target holds already."""
    unchanged: int = 0


class StagedWriter(SlicedWriter):
    """Stages slices and merges them. A stage lives as long as the load."""

    def __init__(
        self, load: PreparedLoad, connection: MySQLConnection, more: Callable[[], Awaitable[MySQLConnection | None]]
    ) -> None:
        super().__init__(load, connection, more)
        name, columns = load.known.name, tuple(load.known.column(name) for name in load.columns)
        number = next(_numbers, 0)
        self._stage = Stage(name.beside(f"retl_stage_{number}"), name.beside(f"retl_kept_{number}"), columns)
        self._most = 0
        self._merge = Merge(load.spec, load.known, self._stage, load.columns)
        self._used: dict[LoadWorker, bool] = {}
        """The connections that have a stage, and whether its rows are committed or given up."""

    def _begin(self, worker: LoadWorker) -> StagedSlice:
        rejects = self._load.rejects()
        stage = self._stage.table, self._stage.row
        loader = self._load.loader(worker.connection, self._encoder, rejects, stage=stage)
        return StagedSlice(worker, loader, rejects, KeyWatch(self._spec))

    async def _take(self, mine: SliceLoad, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        async with _own_session(mine.worker.connection):
            await self._empty_stage(mine.worker)
            await mine.loader.load(batch, data)

    async def _empty_stage(self, worker: LoadWorker) -> None:
        """Clear the stage only now, so that a finished commit cannot fail."""
        if worker not in self._used:
            await self._create_stage(worker.connection)
        elif self._used[worker]:
            await worker.connection.execute(f"TRUNCATE TABLE {self._stage.table}")
        self._used[worker] = False

    async def _create_stage(self, connection: MySQLConnection) -> None:
        try:
            await connection.execute(self._stage.create())
        except ConfigError as error:
            database = self._load.known.name.database
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
        self._most = max(self._most, mine.loader.rows)
        merging = _Merging(self._load, self._merge, self._stage, mine, rejects_left)
        async with _own_session(mine.worker.connection):
            # The rows of a scope are deleted before they come: none is skipped.
            await merging.prepare(compare=slice_.scope is None)

        begun = merging.mark()

        async def attempt() -> None:
            connection = mine.worker.connection
            merging.reset(begun)
            async with _own_session(connection), rolling_back(connection):
                await connection.execute("START TRANSACTION")
                await merging.run(slice_)
                if fenced is None:
                    await connection.prove()
                await self._save(connection, fenced, mine.rejects)

        await until_free(mine.worker.connection, self._load.lock_timeout, attempt)
        await self._forget(mine)
        return merging.result()


@asynccontextmanager
async def _own_session(connection: MySQLConnection) -> AsyncIterator[None]:
    """A stage lives in one session: where it is gone, a pooler may have handed that on."""
    try:
        yield
    except TargetRefused as error:
        if error.code == _NO_SUCH_TABLE:
            await connection.prove()
        raise


class _Merging:
    """One slice on its way from the stage into the target."""

    def __init__(self, load: PreparedLoad, sql: Merge, stage: Stage, mine: SliceLoad, rejects_left: int) -> None:
        self._load = load
        self._spec = load.spec
        self._sql = sql
        self._stage = stage
        self._connection = mine.worker.connection
        self._keys = mine.keys
        self._rejects = mine.rejects
        self._rejects_left = rejects_left
        self._rows = mine.loader.rows
        """The staged rows, without rejects and older rows of a key."""
        self._held: int | None = None
        """Removed rows that the target holds already; ``None`` if the merge itself skips them."""
        self._compares = False
        self._changed = self._written = 0

    def mark(self) -> tuple[int, int]:
        return len(self._rejects.rows), self._rows

    def reset(self, mark: tuple[int, int]) -> None:
        found, self._rows = mark
        del self._rejects.rows[found:]
        self._changed = self._written = 0

    def result(self) -> CommitResult:
        unchanged = self._held
        if unchanged is None and self._compares:
            unchanged = self._rows - self._written
        return CommitResult(self._rows, self._changed, self._rejects.rows, unchanged=unchanged)

    async def prepare(self, *, compare: bool) -> None:
        """Do what can be done before the transaction."""
        self._compares = compare and self._sql.compares
        if self._rows:
            await self._settle_repeats()
        loose = self._load.loose_key and not respells(self._spec, self._load.known)
        if compare and self._spec.table.write is Write.UPSERT and (loose or not self._compares):
            self._held = 0
            for statement in self._sql.drop_unchanged() if self._rows else ():
                self._held = (await self._connection.execute(statement)).affected
            if loose and self._rows:
                await self._find_other_spellings()

    async def _find_other_spellings(self) -> None:
        found = await self._connection.query(self._sql.other_spellings(self._rejects_left + MOST_SHOWN))
        await self._keep_rejects({int(number): _same_as(self._shown(key)) for number, *key in found})

    async def run(self, slice_: Slice) -> None:
        """Inside a transaction: merge all staged rows at once; if the table rejects one, again, to find it."""
        await self._delete_scope(slice_)
        if self._rows and await self._attempt("TRUE") is not None:
            await self._connection.execute("ROLLBACK")
            await self._connection.execute("START TRANSACTION")
            await self._delete_scope(slice_)
            await self._merge_others()
        self._rejects.check(self._rejects_left)

    async def _delete_scope(self, slice_: Slice) -> None:
        if slice_.scope is not None:
            column, value = DIALECT.identifier(slice_.scope.column), DIALECT.string(slice_.scope.value)
            await self._connection.execute(f"DELETE FROM {self._load.known.name.sql} WHERE {column} = {value}")

    async def _merge_others(self) -> None:
        parking = self._sql.parking(has_triggers=await self._has_triggers())
        if parking:
            await self._exchange(parking)
        else:
            await self._keep_rejects(await self._search())

    async def _has_triggers(self) -> bool:
        known = self._load.known
        if known.sees_triggers is None:
            return not await rights.sees_triggers(self._connection, known.name)
        return known.may_have_triggers

    async def _exchange(self, parking: Sequence[str]) -> None:
        """Merge rows that pass unique values on to each other: free the values first. A row that is rejected nevertheless
        keeps its old values, which another row may have taken: so merge again without it."""
        while True:
            await self._connection.execute("SAVEPOINT retl_parked")
            parked = await self._park(parking)
            rejected = await self._search()
            if not parked:
                await self._keep_rejects(rejected)
            if not parked or not rejected or len(self._rejects.rows) > self._rejects_left + MOST_SHOWN:
                return
            await self._connection.execute("ROLLBACK TO SAVEPOINT retl_parked")
            await self._keep_rejects(rejected)
            self._changed = self._written = 0

    async def _park(self, parking: Sequence[str]) -> bool:
        try:
            for statement in parking:
                await self._connection.execute(statement)
        except TargetRefused as error:
            if not of_rows(error.code, error.state):
                raise
            await self._connection.execute("ROLLBACK TO SAVEPOINT retl_parked")
            await self._connection.execute(CHECK_KEYS)
            return False
        return True

    async def _search(self) -> dict[int, str]:
        """Merge what can be merged; returns the rejected rows, with reasons."""
        rejected, row = dict[int, str](), self._stage.row
        ((first, last),) = await self._connection.query(f"SELECT MIN({row}), MAX({row}) FROM {self._stage.table}")
        if first is None:
            return rejected
        search = bisect(int(first), int(last), self._rejects_left + MOST_SHOWN)
        low, high = next(search, (int(first), int(last)))
        with suppress(StopIteration):
            while True:
                await self._connection.execute("SAVEPOINT retl_merge")
                reason = await self._attempt(f"s.{row} BETWEEN {low} AND {high}")
                if reason is not None:
                    await self._connection.execute("ROLLBACK TO SAVEPOINT retl_merge")
                if reason is not None and low == high:
                    rejected[low] = reason
                low, high = search.send(reason)
        return rejected

    async def _attempt(self, condition: str) -> str | None:
        """Merge some rows; returns why not, if it has to be rolled back."""
        changed, written, reason = 0, 0, None
        try:
            for statement in self._sql.statements(condition):
                done = await self._connection.execute(statement)
                changed += done.affected - _number(done.info, "Duplicates: ")
                written += _number(done.info, "Records: ") + _number(done.info, "Rows matched: ")
                reason = next(iter(await warnings(self._connection, done)), None)
                if reason is not None:
                    break
        except TargetRefused as error:
            if not of_rows(error.code, error.state):
                raise
            reason = server_message(error)
        if reason is None:
            self._changed += changed
            self._written += written
        return reason

    async def _keep_rejects(self, rejected: Mapping[int, str]) -> None:
        """Keep rejects of staged rows, and remove them from the stage."""
        names = self._load.columns
        for number, reason in rejected.items():
            rows = await self._connection.query(
                f"SELECT {DIALECT.identifiers(names)} FROM {self._stage.table} WHERE {self._stage.row} = {number}"
            )
            for row in rows:
                self._rejects.add(dict(zip(names, row, strict=True)), reason, column_of(reason, self._load.encoder))
            self._rows -= len(rows)
        if rejected:
            await self._connection.execute(self._sql.take_off(list(rejected)))

    async def _settle_repeats(self) -> None:
        """Of rows with one key keep the one with the highest cursor. Raises ``RepeatedKey`` if nothing tells which that is."""
        spec, sql, query = self._spec, self._sql, self._connection.query
        if spec.table.write is not Write.UPSERT:
            return
        loose = self._load.loose_key
        if not (loose or self._keys.has_duplicates()) or not await query(sql.repeated()):
            return
        if loose and not respells(spec, self._load.known):
            for key in await query(sql.same_to_the_target()):
                raise _same_to_the_target(spec.key, self._shown(key))
        for key in await query(sql.doubtful()):
            raise repeated_key(spec.key, self._shown(key), spec.unread_cursor)
        for statement in sql.keep_newest():
            await self._connection.execute(statement)
        ((rows,),) = await query(f"SELECT COUNT(*) FROM {self._stage.table}")
        self._rows = int(rows)

    def _shown(self, key: Sequence[object]) -> str:
        return json_text(dict(zip(self._spec.key, key, strict=True)))


def _same_as(key: str) -> str:
    return f"to the target its key is that of another row, {key}, which differs only in case, accents or spaces"


def _same_to_the_target(key: Sequence[str], example: str) -> RepeatedKey:
    return RepeatedKey(
        f"different keys ({', '.join(key)}) are one to the target: {example} and another that differs only in case, accents or spaces.",
        remedy="give the key columns of the target a binary collation, such as utf8mb4_bin, or correct the keys at the source.",
    )


def _number(info: str, label: str) -> int:
    """The counts from the server's message: ``Records: 3  Duplicates: 1  Warnings: 0``. An upsert counts changed rows
    twice, once as duplicates."""
    _, found, rest = info.partition(label)
    return int(rest.split()[0]) if found else 0
