"""Rows into SQLite: batches become database images, pile up in a temporary table, and are merged in one transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import Commit, TableWriter
from retl.connectors.sql.keys import KeyWatch, repeated_key
from retl.connectors.sql.rejects import MOST_SHOWN, Refusals, bisect
from retl.connectors.sql.tables import Merge, merge
from retl.connectors.sql.text import json_text, keep_mask, not_a_number, to_text, unprintable_times
from retl.connectors.sqlite import schema
from retl.connectors.sqlite.dialect import DIALECT
from retl.connectors.sqlite.file import SQLiteFile
from retl.connectors.sqlite.pages import encode
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import Mark
from retl.model.errors import RetlError
from retl.model.plan import Load
from retl.model.window import Slice
from retl.state import sql as state
from retl.state.sqlite import run_step

_STAGE = "temp.retl_stage"
_BATCH = "retl_batch"
_LARGEST_INTEGER = 2**63 - 1
_FAILED_COLUMN = re.compile(r"constraint failed: (?:\S+\.)?(\w+)$")


class SQLiteWriter(TableWriter):
    """Writes one scan of one table. Made by ``SQLiteTarget.prepare``."""

    def __init__(self, file: SQLiteFile, load: Load, *, table: str, columns: Sequence[str]) -> None:
        self._file = file
        self._load = load
        self._table = table
        self._columns = list(columns)
        self._refusals = Refusals(load)
        self._keys = KeyWatch(load)
        self._staged = 0
        self._names = [f"c{number}" for number in range(len(self._columns))]

    async def open(self) -> None:
        """Make the temporary table that rows are staged in. It vanishes with the connection, so a crash leaves nothing."""
        await self._file.run(_open_stage, self._names)

    async def write(self, batch: pa.RecordBatch) -> None:
        kept = self._refuse(batch)
        if kept.num_rows:
            self._keys.add(kept)
            await self._file.run(_stage, kept.select(self._columns), self._names)
            self._staged += kept.num_rows

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
        await self._file.run(_clear_stage)
        self._forget()

    def _forget(self) -> None:
        self._staged = 0
        self._keys.clear()
        self._refusals = Refusals(self._load)

    async def commit(self, mark: Mark | None, part: Slice, rejects_left: int) -> Commit:
        changed = await self._file.transaction(self._commit, mark, part, rejects_left)
        done = Commit(rows=self._staged, changed=changed, rejects=self._refusals.rows)
        await self._file.run(_clear_stage)
        self._forget()
        return done

    def _commit(self, connection: sqlite3.Connection, mark: Mark | None, part: Slice, rejects_left: int) -> int:
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

    def _statements(self, condition: str) -> Merge:
        return merge(
            DIALECT,
            self._load,
            self._columns,
            table=self._table,
            stage=_STAGE,
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
        first, last = connection.execute(f"SELECT MIN(rowid), MAX(rowid) FROM {_STAGE}").fetchone()
        changed = 0
        search = bisect(first, last, rejects_left + MOST_SHOWN)
        reason: str | None = None
        low, high = next(search)
        while True:
            try:
                changed += _attempt(
                    connection, self._statements(f"{_STAGE.split('.')[1]}.rowid BETWEEN {low} AND {high}")
                )
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
                f"SELECT {', '.join(self._names)} FROM {_STAGE} WHERE rowid = ?", (rowid,)
            ).fetchone()
            column = _FAILED_COLUMN.search(reason)
            self._refusals.add(dict(zip(self._columns, values, strict=True)), reason, column[1] if column else "")

    def _keep_newest(self, connection: sqlite3.Connection) -> None:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        by_name = dict(zip(self._columns, self._names, strict=True))
        key = ", ".join(by_name[name] for name in self._load.key)
        order = f"ORDER BY {by_name[self._load.cursor]} DESC" if self._load.cursor else ""
        ranked = f"SELECT rowid AS r, *, RANK() OVER (PARTITION BY {key} {order}) AS place FROM {_STAGE}"
        doubtful = connection.execute(
            f"SELECT {key} FROM (SELECT DISTINCT {', '.join(self._names)} FROM ({ranked}) WHERE place = 1) "
            f"GROUP BY {key} HAVING COUNT(*) > 1 LIMIT 1"
        ).fetchone()
        if doubtful is not None:
            raise repeated_key(self._load.key, json_text(dict(zip(self._load.key, doubtful, strict=True))))
        connection.execute(
            f"DELETE FROM {_STAGE} WHERE rowid NOT IN (SELECT MIN(r) FROM ({ranked}) WHERE place = 1 GROUP BY {key})"
        )

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
            schema.prune_archives(connection, table.to, table.keep_archives)

    async def abort(self) -> None:
        self._forget()
        with suppress(RetlError):
            await self._file.run(_drop_stage)
        if self._table != self._load.table.to:
            with suppress(RetlError):  # the next scan drops it too
                await self._file.transaction(schema.drop, self._table)


def _open_stage(connection: sqlite3.Connection, names: list[str]) -> None:
    if not any(name == _BATCH for _, name, _ in connection.execute("PRAGMA database_list")):
        connection.execute(f"ATTACH ':memory:' AS {_BATCH}")
        connection.execute("PRAGMA temp.cache_size = -16384")
    connection.execute(f"DROP TABLE IF EXISTS {_STAGE}")
    connection.execute(f"CREATE TABLE {_STAGE} ({', '.join(names)})")


def _stage(connection: sqlite3.Connection, batch: pa.RecordBatch, names: list[str]) -> None:
    image, large = encode(batch)
    connection.deserialize(image, name=_BATCH)
    connection.execute(f"INSERT INTO {_STAGE} SELECT * FROM {_BATCH}.b")
    if large is not None:
        # Rows of more than a page are rare and large: an object per value does not matter there.
        rows = zip(*(_storable(column).to_pylist() for column in large.columns), strict=True)
        connection.executemany(f"INSERT INTO {_STAGE} VALUES ({', '.join('?' * len(names))})", rows)


def _storable(column: pa.Array) -> pa.Array:
    kind = column.type
    plain = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    return column if plain else to_text(column)


def _clear_stage(connection: sqlite3.Connection) -> None:
    connection.execute(f"DELETE FROM {_STAGE}")


def _drop_stage(connection: sqlite3.Connection) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {_STAGE}")


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
