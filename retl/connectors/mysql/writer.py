"""Rows into MySQL: slices of an upsert by way of a temporary table, replaced tables directly.

While the server loads one batch, the next one is made ready.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import anyio
import anyio.to_thread
import pyarrow as pa

from retl.connectors.base import Commit, TableWriter
from retl.connectors.mysql import refresh, schema
from retl.connectors.mysql.connection import MySQLConnection, connected
from retl.connectors.mysql.ddl import Ddl
from retl.connectors.mysql.encode import Refused
from retl.connectors.mysql.errors import TargetRefused, of_rows
from retl.connectors.mysql.job import Job
from retl.connectors.mysql.load import Lane, Loader, column_of, in_thread, warnings, words
from retl.connectors.mysql.merge import CHECK_KEYS, Merge, Stage, respells
from retl.connectors.mysql.schema import DIALECT
from retl.connectors.mysql.session import FENCE_SECONDS, roll_back
from retl.connectors.mysql.settings import IDLE_SECONDS
from retl.connectors.mysql.store import run_step
from retl.connectors.sql.keys import KeyWatch, repeated_key
from retl.connectors.sql.rejects import MOST_SHOWN, Refusals, bisect
from retl.connectors.sql.text import json_text
from retl.model.actions import Action, PreAction, Write
from retl.model.checkpoint import Mark
from retl.model.errors import ConfigError, RepeatedKey, RetlError, TargetBusy
from retl.model.window import Slice
from retl.state import sql as state
from retl.threads import to_the_end

_INDEX_BYTES = 64 * 1024 * 1024
_SWITCH_PATIENCE = 10
"""How many times ``lock_timeout`` a switch may wait for readers."""
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0


class MySQLWriter(TableWriter):
    """What both ways of writing share. Made by ``MySQLTarget.prepare``."""

    def __init__(self, job: Job, connections: Sequence[MySQLConnection]) -> None:
        self._job = job
        self._load = job.load
        self._encoder = job.encoder
        self._refusals = self._no_refusals()
        self._lanes = [Lane(connection) for connection in connections]
        self._turn = 0
        self._rows = 0

    def _no_refusals(self) -> Refusals:
        # People know the table that is loaded by its place, not by the name of the shadow.
        return Refusals(self._load, called=(self._job.known.place.name, self._job.place.name))

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
            self._refusals.add_masked(rows.rows, everything, rows.reason, rows.column)
        if sifted.num_rows and len(self._refusals.rows) <= self._load.table.max_rejects + MOST_SHOWN:
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
            job.load,
            self._encoder,
            self._refusals,
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
        self._refusals = self._no_refusals()

    async def _save(self, mark: Mark | None) -> None:
        """The last of a transaction: fence, checkpoint, rejects, COMMIT. The lease's row is locked no longer than that takes."""
        if mark is None:
            await to_the_end(self._end())
            return
        await self._main.execute(f"SET SESSION wait_timeout = {FENCE_SECONDS}")
        await run_step(self._main, state.save(mark))
        if self._refusals.rows:
            await run_step(self._main, state.add_rejects(mark.fence.pipeline, self._refusals.rows))
        await to_the_end(self._end())
        with suppress(RetlError):  # what is committed does not fail any more
            await self._main.execute(f"SET SESSION wait_timeout = {IDLE_SECONDS}")

    async def _end(self) -> None:
        await self._main.execute("COMMIT")

    async def count(self) -> int:
        rows = await self._main.query(f"SELECT COUNT(*) FROM {self._job.known.place.sql}")
        return int(rows[0][0])

    async def finish(self, mark: Mark | None) -> None:
        await self._settle()
        await self._finish(mark)
        await self.close()

    async def close(self) -> None:
        """End every connection; what is not committed is rolled back by the server."""
        for lane in self._lanes:
            await lane.stop()

    async def _finish(self, mark: Mark | None) -> None:
        job, table = self._job, self._load.table
        swaps = table.pre_action is PreAction.SWAP
        archives: list[str] = []
        if table.pre_action is PreAction.RENAME_AND_CREATE and Action.DROP not in self._load.blacklist:
            names = await schema.table_names(self._main, job.place.database)
            archives = refresh.archives_to_drop(job.place, self._load, names)
        # What was loaded is not loaded again because somebody reads for a while.
        ddl = Ddl(job.login, self._load, job.place, self._main, _SWITCH_PATIENCE * job.lock_timeout)
        if swaps:
            await self._switch(ddl)
        if archives:
            await ddl.run([f"DROP TABLE {job.place.beside(name)}" for name in archives], mark=mark)
        elif mark is not None:
            await self._main.begin()
            await self._save(mark)

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
        await ddl.run([refresh.switch(job.place, self._load, existed=job.existed)])
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
        loader = self._loader(connection, self._job.known.place.sql, replace=not self._load.table.replaces)
        taken = await loader.take(batch, data)
        self._rows += taken

    async def discard(self) -> None:
        await self._settle()
        for connection in self._begun:
            await connection.execute("ROLLBACK")
        self._begun.clear()
        self._forget()

    async def commit(self, mark: Mark | None, part: Slice, rejects_left: int) -> Commit:
        assert part.scope is None, "an empty table has no rows of a scope"
        await self._settle()
        self._refusals.check(rejects_left)
        if self._main not in self._begun:
            await self._main.begin()
        for connection in self._begun - {self._main}:
            if mark is not None:
                await run_step(connection, state.prove(mark.fence))
            await connection.execute("COMMIT")
        await self._save(mark)
        self._begun.clear()
        self._committed += self._rows
        done = Commit(self._rows, self._rows, self._refusals.rows, unchanged=0)
        self._forget()
        return done

    async def count(self) -> int:
        if self._job.known.place != self._job.place:
            return self._committed  # nobody else knows the shadow
        return await super().count()


class StagedWriter(MySQLWriter):
    """Upserts and appends: a slice piles up in a temporary table and is merged in one transaction."""

    def __init__(self, job: Job, connections: Sequence[MySQLConnection]) -> None:
        super().__init__(job, connections)
        place = job.known.place
        columns = tuple(job.known.column(name) for name in job.columns)
        self._stage = Stage(place.beside("retl_stage"), place.beside("retl_kept"), columns)
        self._merge_sql = Merge(job.load, job.known, self._stage, job.columns)
        self._keys = KeyWatch(job.load)
        self._dirty = False
        self._unchanged = 0

    async def open(self) -> None:
        try:
            await self._main.execute(self._stage.create())
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

    async def commit(self, mark: Mark | None, part: Slice, rejects_left: int) -> Commit:
        await self._settle()
        await self._clean()
        self._refusals.check(rejects_left)
        if self._rows:
            await self._settle_repeats()
        found, staged = len(self._refusals.rows), self._rows

        async def attempt() -> int:
            del self._refusals.rows[found:]
            self._rows, self._unchanged = staged, 0
            return await self._transaction(mark, part, rejects_left)

        changed = await self._again_while_busy(attempt)
        done = Commit(self._rows, changed, self._refusals.rows, unchanged=self._unchanged)
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

    async def _transaction(self, mark: Mark | None, part: Slice, rejects_left: int) -> int:
        """Rows first, fence and checkpoint last."""
        await self._main.begin()
        try:
            if part.scope is not None:
                column = DIALECT.identifier(part.scope.column)
                value = DIALECT.string(part.scope.value)
                await self._main.execute(f"DELETE FROM {self._job.known.place.sql} WHERE {column} = {value}")
            changed = await self._merge(rejects_left) if self._rows else 0
            self._refusals.check(rejects_left)
            await self._save(mark)
        except BaseException:
            await roll_back(self._main)
            raise
        return changed

    async def _merge(self, rejects_left: int) -> int:
        """All staged rows at once; where the table refuses one, find out which."""
        if self._load.table.write is Write.UPSERT:
            await self._compare(rejects_left)
        changed, reason = await self._attempt("TRUE")
        if reason is None:
            return changed
        parking = self._merge_sql.parking()
        if parking:
            return await self._exchange(parking, rejects_left)
        changed, refused = await self._search(rejects_left)
        await self._note_refused(refused)
        return changed

    async def _compare(self, rejects_left: int) -> None:
        """Set aside what is in the target already, and keys that it would take for the key of another row."""
        sql = self._merge_sql
        self._unchanged = (await self._main.execute(sql.drop_unchanged())).affected
        if not self._job.loose_key or respells(self._load, self._job.known):
            return
        found = await self._main.query(sql.other_spellings(rejects_left + MOST_SHOWN))
        await self._note_refused({int(number): _same_as(self._shown(key)) for number, *key in found})

    async def _exchange(self, parking: Sequence[str], rejects_left: int) -> int:
        """Rows that pass on a unique value to one another: all give theirs up first. A row that is refused all the same
        keeps its old values, which another one may have taken: so all is done again without it."""
        while True:
            await self._main.execute("SAVEPOINT retl_parked")
            parked = await self._park(parking)
            changed, refused = await self._search(rejects_left)
            if not parked:
                await self._note_refused(refused)
            if not parked or not refused or len(self._refusals.rows) > rejects_left + MOST_SHOWN:
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
                self._refusals.add(dict(zip(names, row, strict=True)), reason, column_of(reason, self._encoder))
            self._rows -= len(rows)
        if refused:
            await self._main.execute(self._merge_sql.take_off(list(refused)))

    async def _settle_repeats(self) -> None:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        load, sql = self._load, self._merge_sql
        if load.table.write is not Write.UPSERT:
            return
        loose = self._job.loose_key
        if not (loose or self._keys.repeats()) or not await self._main.query(sql.repeated()):
            return
        if loose and not respells(load, self._job.known):
            for key in await self._main.query(sql.same_to_the_target()):
                raise _same_to_the_target(load.key, self._shown(key))
        for key in await self._main.query(sql.doubtful()):
            raise repeated_key(load.key, self._shown(key), load.unread_cursor)
        for statement in sql.keep_newest():
            await self._main.execute(statement)
        ((rows,),) = await self._main.query(f"SELECT COUNT(*) FROM {self._stage.table}")
        self._rows = int(rows)

    def _shown(self, key: Sequence[object]) -> str:
        return json_text(dict(zip(self._load.key, key, strict=True)))


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
