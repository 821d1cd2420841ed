"""Upserts and appends: slices pile up in a temporary table, and become part of the target in one transaction each."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import anyio
import anyio.to_thread
import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import TargetRefused, of_rows
from retl.connectors.mysql.job import Job
from retl.connectors.mysql.load import column_of, warnings, words
from retl.connectors.mysql.merge import CHECK_KEYS, Merge, Stage, respells
from retl.connectors.mysql.schema import DIALECT
from retl.connectors.mysql.session import roll_back
from retl.connectors.mysql.writer import MySQLWriter
from retl.connectors.rows.keys import KeyWatch, repeated_key
from retl.connectors.rows.rejects import MOST_SHOWN, bisect
from retl.connectors.rows.text import json_text
from retl.model.actions import Write
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError, RepeatedKey, TargetBusy
from retl.model.window import Slice

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0


class StagedWriter(MySQLWriter):
    """Upserts and appends: a slice piles up in a temporary table and is merged in one transaction."""

    def __init__(self, job: Job, connections: Sequence[MySQLConnection]) -> None:
        super().__init__(job, connections)
        place = job.known.place
        columns = tuple(job.known.column(name) for name in job.columns)
        self._stage = Stage(place.beside("retl_stage"), place.beside("retl_kept"), columns)
        self._merge_sql = Merge(job.spec, job.known, self._stage, job.columns)
        self._keys = KeyWatch(job.spec)
        self._dirty = False

    async def open(self) -> None:
        try:
            for statement in self._stage.create():
                await self._main.execute(statement)
        except ConfigError as error:
            database = self._job.known.place.database
            error.remedy = f"GRANT CREATE TEMPORARY TABLES ON `{database}`.* to the user: slices are staged in one."
            raise

    def _note(self, batch: pa.RecordBatch) -> None:
        self._keys.add(batch)

    async def _take(self, connection: MySQLConnection, batch: pa.RecordBatch, data: pa.Buffer | None) -> None:
        await self._clean()
        await connection.begin()
        taken = await self._loader(connection, self._stage.table).take(batch, data)
        self._rows += taken
        await connection.execute("COMMIT")

    async def _clean(self) -> None:
        """Remove the rows of the last commit: only now, so that what was committed cannot fail any more."""
        if self._dirty:
            await self._main.execute(f"TRUNCATE TABLE {self._stage.table}")
            self._dirty = False

    async def discard(self) -> None:
        await self._settle()
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._keys.clear()
        self._dirty = True

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        await self._settle()
        await self._clean()
        self._rejects.check(rejects_left)
        if self._rows:
            await self._settle_repeats()
        # Rows of a scope go before they come: none of them is left alone.
        unchanged = await self._compare(rejects_left) if slice_.scope is None else None
        found, staged = len(self._rejects.rows), self._rows

        async def attempt() -> int:
            del self._rejects.rows[found:]
            self._rows = staged
            return await self._transaction(fenced, slice_, rejects_left)

        changed = await self._again_while_busy(attempt)
        done = CommitResult(self._rows, changed, self._rejects.rows, unchanged=unchanged)
        self._forget()
        return done

    async def _again_while_busy(self, attempt: Callable[[], Awaitable[int]]) -> int:
        """A transaction that fell to a deadlock is done again as a whole; no longer than a lock is waited for."""
        deadline = time.monotonic() + self._job.lock_timeout
        wait = _FIRST_WAIT
        while True:
            try:
                return await attempt()
            except TargetBusy:
                if self._main.closed or time.monotonic() + wait >= deadline:
                    raise
            await anyio.sleep(random.uniform(wait / 2, wait))
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _transaction(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> int:
        """Rows first, fence and checkpoint last."""
        await self._main.begin()
        try:
            if slice_.scope is not None:
                column = DIALECT.identifier(slice_.scope.column)
                value = DIALECT.string(slice_.scope.value)
                await self._main.execute(f"DELETE FROM {self._job.known.place.sql} WHERE {column} = {value}")
            changed = await self._merge(rejects_left) if self._rows else 0
            self._rejects.check(rejects_left)
            await self._save(fenced)
        except BaseException:
            await roll_back(self._main)
            raise
        return changed

    async def _merge(self, rejects_left: int) -> int:
        """All staged rows at once; where the table refuses one, find out which."""
        changed, reason = await self._attempt("TRUE")
        if reason is None:
            return changed
        parking = self._merge_sql.parking()
        if parking:
            return await self._exchange(parking, rejects_left)
        changed, refused = await self._search(rejects_left)
        await self._note_refused(refused)
        return changed

    async def _compare(self, rejects_left: int) -> int | None:
        """Set aside what is in the target already, and keys that it would take for the key of another row."""
        if self._spec.table.write is not Write.UPSERT:
            return None
        if not self._rows:
            return 0
        sql = self._merge_sql
        done = [await self._main.execute(statement) for statement in sql.drop_unchanged()]
        if not self._job.loose_key or respells(self._spec, self._job.known):
            return done[-1].affected
        found = await self._main.query(sql.other_spellings(rejects_left + MOST_SHOWN))
        await self._note_refused({int(number): _same_as(self._shown(key)) for number, *key in found})
        return done[-1].affected

    async def _exchange(self, parking: Sequence[str], rejects_left: int) -> int:
        """Rows that pass on a unique value to one another: all give theirs up first. A row that is refused all the same
        keeps its old values, which another one may have taken: so all is done again without it."""
        while True:
            await self._main.execute("SAVEPOINT retl_parked")
            parked = await self._park(parking)
            changed, refused = await self._search(rejects_left)
            if not parked:
                await self._note_refused(refused)
            if not parked or not refused or len(self._rejects.rows) > rejects_left + MOST_SHOWN:
                return changed
            await self._main.execute("ROLLBACK TO SAVEPOINT retl_parked")
            await self._note_refused(refused)

    async def _park(self, parking: Sequence[str]) -> bool:
        try:
            for statement in parking:
                await self._main.execute(statement)
        except TargetRefused as error:
            if not of_rows(error.code, error.state):
                raise
            await self._main.execute("ROLLBACK TO SAVEPOINT retl_parked")
            await self._main.execute(CHECK_KEYS)
            return False
        return True

    async def _search(self, rejects_left: int) -> tuple[int, dict[int, str]]:
        """Merge what can be merged: how many rows were changed, and which are refused, why."""
        changed, refused, row = 0, dict[int, str](), self._stage.row
        ((first, last),) = await self._main.query(f"SELECT MIN({row}), MAX({row}) FROM {self._stage.table}")
        if first is None:
            return 0, refused
        search = bisect(int(first), int(last), rejects_left + MOST_SHOWN)
        low, high = next(search, (int(first), int(last)))
        with suppress(StopIteration):
            while True:
                more, reason = await self._attempt(f"s.{row} BETWEEN {low} AND {high}")
                changed += more
                if reason is not None and low == high:
                    refused[low] = reason
                low, high = search.send(reason)
        return changed, refused

    async def _attempt(self, condition: str) -> tuple[int, str | None]:
        """Merge some rows as a whole or not at all: how many were changed, or why none were."""
        await self._main.execute("SAVEPOINT retl_merge")
        changed, reason = 0, None
        try:
            for statement in self._merge_sql.statements(condition):
                done = await self._main.execute(statement)
                changed += done.affected - _duplicates(done.info)
                reason = next(iter(await warnings(self._main, done)), None)
                if reason is not None:
                    break
        except TargetRefused as error:
            if not of_rows(error.code, error.state):
                raise
            reason = words(error)
        if reason is None:
            return changed, None
        await self._main.execute("ROLLBACK TO SAVEPOINT retl_merge")
        return 0, reason

    async def _note_refused(self, refused: Mapping[int, str]) -> None:
        """Rejects of what is staged, which leave the stage."""
        names = self._job.columns
        for number, reason in refused.items():
            rows = await self._main.query(
                f"SELECT {DIALECT.identifiers(names)} FROM {self._stage.table} WHERE {self._stage.row} = {number}"
            )
            for row in rows:
                self._rejects.add(dict(zip(names, row, strict=True)), reason, column_of(reason, self._encoder))
            self._rows -= len(rows)
        if refused:
            await self._main.execute(self._merge_sql.take_off(list(refused)))

    async def _settle_repeats(self) -> None:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        spec, sql = self._spec, self._merge_sql
        if spec.table.write is not Write.UPSERT:
            return
        loose = self._job.loose_key
        if not (loose or self._keys.repeats()) or not await self._main.query(sql.repeated()):
            return
        if loose and not respells(spec, self._job.known):
            for key in await self._main.query(sql.same_to_the_target()):
                raise _same_to_the_target(spec.key, self._shown(key))
        for key in await self._main.query(sql.doubtful()):
            raise repeated_key(spec.key, self._shown(key), spec.unread_cursor)
        for statement in sql.keep_newest():
            await self._main.execute(statement)
        ((rows,),) = await self._main.query(f"SELECT COUNT(*) FROM {self._stage.table}")
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


def _duplicates(info: str) -> int:
    """Rows that were there and were changed, which an upsert counts twice: ``Records: 3  Duplicates: 1  Warnings: 0``."""
    _, found, rest = info.partition("Duplicates: ")
    return int(rest.split()[0]) if found else 0
