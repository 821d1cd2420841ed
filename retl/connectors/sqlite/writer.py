"""Rows into SQLite: batches become a database in memory, which is merged in one transaction.

A slice that is too large for that piles up in a temporary table on disk meanwhile.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import Commit, TableWriter
from retl.connectors.sql.keys import KeyWatch, keep_newest, repeated_key
from retl.connectors.sql.rejects import MOST_SHOWN, Refusals, bisect
from retl.connectors.sql.tables import Merge, merge
from retl.connectors.sql.text import json_text, keep_mask, not_a_number, to_text, unprintable_times
from retl.connectors.sqlite import schema
from retl.connectors.sqlite.dialect import DIALECT
from retl.connectors.sqlite.file import SQLiteFile
from retl.connectors.sqlite.pages import Image
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import Mark
from retl.model.errors import RetlError
from retl.model.plan import Load
from retl.model.window import Slice
from retl.state import sql as state
from retl.state.sqlite import run_step

_DISK = "temp.retl_stage"
_MEMORY = "retl_memory"
_MEMORY_BYTES = 16 * 1024 * 1024
"""How much of a slice is held in memory; Python, the image and SQLite each hold it once while it is handed over."""
_LARGEST_INTEGER = 2**63 - 1
_FAILED_COLUMN = re.compile(r"constraint failed: (?:\S+\.)?(\w+)$")


class SQLiteWriter(TableWriter):
    """Writes one scan of one table. Made by ``SQLiteTarget.prepare``."""

    def __init__(self, file: SQLiteFile, load: Load, *, table: str, columns: Sequence[str]) -> None:
        self._file = file
        self._load = load
        self._table = table
        self._columns = list(columns)
        self._logical = {column.name: column.type for column in load.schema}
        self._refusals = Refusals(load)
        self._keys = KeyWatch(load)
        self._names = [f"c{number}" for number in range(len(self._columns))]
        self._image = Image(len(self._names))
        self._on_disk = 0

    @property
    def _staged(self) -> int:
        return self._on_disk + self._image.rows

    async def open(self) -> None:
        """Make the temporary table that rows are staged in. It vanishes with the connection, so a crash leaves nothing."""
        await self._file.run(_open_stage, self._names)

    async def write(self, batch: pa.RecordBatch) -> None:
        kept = self._refuse(self._with_numbers(batch))
        if kept.num_rows:
            self._keys.add(kept)
            await self._file.run(self._stage, kept.select(self._columns))

    def _stage(self, connection: sqlite3.Connection, batch: pa.RecordBatch) -> None:
        large = self._image.add(batch)
        if large is not None:
            # Rows of more than a page are rare and large: an object per value does not matter there.
            rows = zip(*(_storable(column).to_pylist() for column in large.columns), strict=True)
            connection.executemany(f"INSERT INTO {_DISK} VALUES ({', '.join('?' * len(self._names))})", rows)
            self._on_disk += large.num_rows
        if self._image.size > _MEMORY_BYTES:
            self._move_to_disk(connection)

    def _move_to_disk(self, connection: sqlite3.Connection) -> None:
        self._hand_over(connection)
        connection.execute(f"INSERT INTO {_DISK} SELECT * FROM {_MEMORY}.b")
        self._on_disk += self._image.rows
        self._image = Image(len(self._names))

    def _hand_over(self, connection: sqlite3.Connection) -> None:
        self._image.load(connection, _MEMORY)

    def _settle(self, connection: sqlite3.Connection) -> None:
        """Before a merge: all of the slice in one place, in memory if it fits."""
        if self._on_disk and self._image.rows:
            self._move_to_disk(connection)
        elif self._image.rows:
            self._hand_over(connection)

    @property
    def _stage_name(self) -> str:
        return _DISK if self._on_disk else f"{_MEMORY}.b"

    def _with_numbers(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with numbers for what came as their text: SQLite would round what it reads from text itself."""
        columns = [
            _numbers(column, self._logical[name])
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, batch.schema.names)

    def _refuse(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Put aside the rows that SQLite would take but change, or that have no key."""
        bad: list[pa.Array] = []
        for name in self._columns:
            column = batch.column(name)
            for mask, reason in self._unfit(name, column):
                self._refusals.add_masked(batch, mask, reason, name)
                bad.append(mask)
        return batch.filter(pa.array(keep_mask(bad))) if bad else batch

    def _unfit(self, name: str, column: pa.Array) -> list[tuple[pa.Array, str]]:
        found: list[tuple[pa.Array | None, str]] = [
            (not_a_number(column), "SQLite has no NaN: it would become NULL"),
            (unprintable_times(column), "the time lies outside the years 1 to 9999"),
        ]
        if name in self._load.key and column.null_count:
            found.append((column.is_null(), "the key is NULL"))
        if column.type == pa.uint64() and column.null_count < len(column) and pc.max(column).as_py() > _LARGEST_INTEGER:
            found.append(
                (pc.greater(column, pa.scalar(_LARGEST_INTEGER, pa.uint64())), "the number is larger than 2^63 - 1")
            )
        return [(mask, reason) for mask, reason in found if mask is not None]

    async def discard(self) -> None:
        await self._clear()

    async def _clear(self) -> None:
        if self._on_disk:
            await self._file.run(_clear_disk)
        self._forget()

    def _forget(self) -> None:
        self._on_disk = 0
        self._image.close()
        self._image = Image(len(self._names))
        self._keys.clear()
        self._refusals = Refusals(self._load)

    async def commit(self, mark: Mark | None, part: Slice, rejects_left: int) -> Commit:
        await self._file.run(self._settle)
        found = len(self._refusals.rows)
        changed = await self._file.transaction(self._commit, mark, part, rejects_left, found)
        done = Commit(rows=self._staged, changed=changed, rejects=self._refusals.rows)
        await self._clear()
        return done

    def _commit(
        self, connection: sqlite3.Connection, mark: Mark | None, part: Slice, rejects_left: int, found: int
    ) -> int:
        del self._refusals.rows[found:]  # a transaction that is tried again finds its refused rows anew
        if mark is not None:
            run_step(connection, state.save(mark))
        if part.scope is not None:
            column = DIALECT.identifier(part.scope.column)
            connection.execute(f"DELETE FROM {DIALECT.identifier(self._table)} WHERE {column} = ?", (part.scope.value,))
        changed = 0
        if self._staged:
            if self._keys.repeats():
                self._keep_newest(connection)
            changed = self._merge(connection, rejects_left)
        self._refusals.check(rejects_left)
        if mark is not None and self._refusals.rows:
            run_step(connection, state.add_rejects(mark.fence.pipeline, self._refusals.rows))
        return changed

    @property
    def _rowid(self) -> str:
        return f"{self._stage_name.split('.')[1]}.rowid"

    def _statements(self, condition: str) -> Merge:
        return merge(
            DIALECT,
            self._load,
            self._columns,
            table=self._table,
            stage=self._stage_name,
            staged=self._names,
            distinct="IS NOT",
            condition=condition,
        )

    def _merge(self, connection: sqlite3.Connection, rejects_left: int) -> int:
        """All staged rows at once; where the table refuses one, find out which."""
        try:
            return _attempt(connection, self._statements("true"))
        except (sqlite3.IntegrityError, sqlite3.DataError):
            pass
        first, last = connection.execute(f"SELECT MIN(rowid), MAX(rowid) FROM {self._stage_name}").fetchone()
        changed = 0
        search = bisect(first, last, rejects_left + MOST_SHOWN)
        reason: str | None = None
        low, high = next(search)
        while True:
            try:
                changed += _attempt(connection, self._statements(f"{self._rowid} BETWEEN {low} AND {high}"))
                reason = None
            except (sqlite3.IntegrityError, sqlite3.DataError) as error:
                reason = str(error)
            try:
                low, high = search.send(reason)
            except StopIteration as end:
                self._note_refused(connection, end.value)
                return changed

    def _note_refused(self, connection: sqlite3.Connection, refused: list[tuple[int, str]]) -> None:
        for rowid, reason in refused:
            values = connection.execute(
                f"SELECT {', '.join(self._names)} FROM {self._stage_name} WHERE rowid = ?", (rowid,)
            ).fetchone()
            column = _FAILED_COLUMN.search(reason)
            self._refusals.add(dict(zip(self._columns, values, strict=True)), reason, column[1] if column else "")

    def _keep_newest(self, connection: sqlite3.Connection) -> None:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        doubtful, all_but_newest = keep_newest(self._load, self._columns, self._names, self._stage_name)
        found = connection.execute(doubtful).fetchone()
        if found is not None:
            raise repeated_key(self._load.key, json_text(dict(zip(self._load.key, found, strict=True))))
        connection.execute(all_but_newest)

    async def count(self) -> int:
        return await self._file.run(_count, self._table)

    async def finish(self, mark: Mark | None) -> None:
        await self._file.transaction(self._finish, mark)
        await self._file.run(_drop_stage)

    def _finish(self, connection: sqlite3.Connection, mark: Mark | None) -> None:
        if mark is not None:
            run_step(connection, state.save(mark))
        table = self._load.table
        if table.pre_action is PreAction.SWAP and self._table != table.to:
            schema.switch(connection, table.to, self._table)
        if table.pre_action is PreAction.RENAME_AND_CREATE and Action.DROP not in self._load.blacklist:
            schema.prune_archives(connection, self._load)

    async def abort(self) -> None:
        self._forget()
        with suppress(RetlError):
            await self._file.run(_drop_stage)
        if self._table != self._load.table.to:
            with suppress(RetlError):  # the next scan drops it too
                await self._file.transaction(schema.drop, self._table)


def _open_stage(connection: sqlite3.Connection, names: list[str]) -> None:
    if not any(name == _MEMORY for _, name, _ in connection.execute("PRAGMA database_list")):
        connection.execute(f"ATTACH ':memory:' AS {_MEMORY}")
        connection.execute("PRAGMA temp.cache_size = -16384")
    connection.execute(f"DROP TABLE IF EXISTS {_DISK}")
    connection.execute(f"CREATE TABLE {_DISK} ({', '.join(names)})")


def _numbers(column: pa.Array, logical: pa.DataType) -> pa.Array:
    """A column of numbers in canonical text as the numbers; as it is where it is no such column."""
    number = pa.types.is_integer(logical) or pa.types.is_floating(logical)
    if not number or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        return column.cast(pa.float64() if pa.types.is_floating(logical) else logical)
    except pa.ArrowInvalid:
        return column


def _storable(column: pa.Array) -> pa.Array:
    kind = column.type
    plain = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    return column if plain else to_text(column)


def _clear_disk(connection: sqlite3.Connection) -> None:
    connection.execute(f"DELETE FROM {_DISK}")


def _drop_stage(connection: sqlite3.Connection) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {_DISK}")


def _count(connection: sqlite3.Connection, table: str) -> int:
    (rows,) = connection.execute(f"SELECT COUNT(*) FROM {DIALECT.identifier(table)}").fetchone()
    return int(rows)


def _attempt(connection: sqlite3.Connection, statements: Merge) -> int:
    """Run the merge as a whole or not at all; returns the rows changed."""
    connection.execute("SAVEPOINT retl_merge")
    try:
        changed = sum(
            connection.execute(sql).rowcount for sql in (statements.insert, statements.update) if sql is not None
        )
    except sqlite3.Error:
        connection.execute("ROLLBACK TO retl_merge")
        connection.execute("RELEASE retl_merge")
        raise
    connection.execute("RELEASE retl_merge")
    return changed
