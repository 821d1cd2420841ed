"""Rows into SQLite: batches become a database in memory, which is merged in one transaction.

A slice that is too large for that piles up in a temporary table on disk meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.rows.keys import KeyWatch, repeated_key
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector
from retl.connectors.rows.text import json_text, not_a_number, not_utf8, to_text, unprintable_times
from retl.connectors.sql.keys import keep_newest
from retl.connectors.sqlite import schema
from retl.connectors.sqlite.catalog import count
from retl.connectors.sqlite.dialect import DIALECT
from retl.connectors.sqlite.file import SQLiteFile
from retl.connectors.sqlite.merge import Merged, Merger, put_in_place
from retl.connectors.sqlite.pages import Image
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.state import sql as state
from retl.state.sqlite import run_step

_DISK = "temp.retl_stage"
_MEMORY = "retl_memory"
_MEMORY_BYTES = 16 * 1024 * 1024
"""How much of a slice is held in memory; Python, the image and SQLite each hold it once while it is handed over."""
_LARGEST_INTEGER = 2**63 - 1
_NO_NAN = "SQLite has no NaN: it would become NULL"
_NO_JSON = "JSON has no NaN and no infinity: they would become null"


class SQLiteWriter(TableWriter):
    """Writes one scan of one table. Made by ``SQLiteTarget.prepare``."""

    def __init__(self, file: SQLiteFile, spec: WriteSpec, *, table: str, columns: Sequence[str]) -> None:
        self._file = file
        self._spec = spec
        self._table = table
        self._columns = list(columns)
        self._logical = {column.name: column.type for column in spec.schema}
        self._rejects = RejectCollector(spec)
        self._keys = KeyWatch(spec)
        self._names = [f"c{number}" for number in range(len(self._columns))]
        self._image = Image(len(self._names))
        self._on_disk = 0
        self._utf8 = True

    @property
    def _staged(self) -> int:
        return self._on_disk + self._image.rows

    async def open(self) -> None:
        """Make the temporary table that rows are staged in. It vanishes with the connection, so a crash leaves nothing."""
        self._utf8 = await self._file.run(_open_stage, self._names)

    async def write(self, batch: pa.RecordBatch) -> None:
        kept = self._refuse(self._with_numbers(batch))
        if kept.num_rows:
            self._keys.add(kept)
            await self._file.run(self._stage, kept.select(self._columns))

    def _stage(self, connection: sqlite3.Connection, batch: pa.RecordBatch) -> None:
        # An image is UTF-8, and only a file that is so too can be given one.
        large = self._image.add(batch) if self._utf8 else batch
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
        found = [
            (mask, reason, name) for name in self._columns for mask, reason in self._unfit(name, batch.column(name))
        ]
        return self._rejects.leave_out(batch, found)

    def _unfit(self, name: str, column: pa.Array) -> list[tuple[pa.Array, str]]:
        found: list[tuple[pa.Array | None, str]] = [
            (not_utf8(column), "the text is not valid UTF-8"),
            (not_a_number(column), _NO_JSON if pa.types.is_nested(column.type) else _NO_NAN),
            (unprintable_times(column), "the time lies outside the years 1 to 9999"),
        ]
        if name in self._spec.key and column.null_count:
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
        self._rejects = RejectCollector(self._spec)

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        await self._file.run(self._settle)
        found = len(self._rejects.rows)
        done = await self._file.transaction(self._commit, fenced, slice_, rejects_left, found)
        await self._clear()
        return done

    def _commit(
        self,
        connection: sqlite3.Connection,
        fenced: FencedCheckpoint | None,
        slice_: Slice,
        rejects_left: int,
        found: int,
    ) -> CommitResult:
        del self._rejects.rows[found:]  # a transaction that is tried again finds its refused rows anew
        if fenced is not None:
            run_step(connection, state.save(fenced))
        if slice_.scope is not None:
            column = DIALECT.identifier(slice_.scope.column)
            connection.execute(
                f"DELETE FROM {DIALECT.identifier(self._table)} WHERE {column} = ?", (slice_.scope.value,)
            )
        older = self._keep_newest(connection) if self._keys.repeats() else 0
        merged = self._merge(connection, rejects_left) if self._staged else Merged()
        self._rejects.check(rejects_left)
        if fenced is not None and self._rejects.rows:
            run_step(connection, state.add_rejects(fenced.fence.pipeline, self._rejects.rows))
        return self._counted(merged, older, found)

    def _merge(self, connection: sqlite3.Connection, rejects_left: int) -> Merged:
        merger = Merger(connection, self._spec, self._columns, self._names, table=self._table, stage=self._stage_name)
        merged = merger.run(rejects_left + MOST_SHOWN)
        for values, reason in merged.refused:
            column = next((name for name in self._columns if _names(reason, name)), "")
            self._rejects.add(dict(zip(self._columns, values, strict=True)), reason, column)
        return merged

    def _counted(self, merged: Merged, older: int, found: int) -> CommitResult:
        """Every row that was given, in one of the counts; with a blacklist nobody knows why a row was not written."""
        unchanged = self._staged - older - len(merged.refused) - merged.changed - merged.dropped
        partly = {Action.INSERT, Action.UPDATE} & self._spec.blacklist
        return CommitResult(
            rows=self._staged + found,
            changed=merged.changed,
            unchanged=None if partly else unchanged,
            older=older,
            dropped=merged.dropped,
            rejects=self._rejects.rows,
        )

    def _keep_newest(self, connection: sqlite3.Connection) -> int:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        doubtful, all_but_newest = keep_newest(self._spec, self._columns, self._names, self._stage_name)
        found = connection.execute(doubtful).fetchone()
        if found is not None:
            raise repeated_key(
                self._spec.key, json_text(dict(zip(self._spec.key, found, strict=True))), self._spec.unread_cursor
            )
        return connection.execute(all_but_newest).rowcount

    async def count(self) -> int:
        return await self._file.run(count, self._table)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._file.transaction(self._finish, fenced)
        await self._file.run(_drop_stage)

    def _finish(self, connection: sqlite3.Connection, fenced: FencedCheckpoint | None) -> None:
        if fenced is not None:
            run_step(connection, state.save(fenced))
        table = self._spec.table
        if table.pre_action is PreAction.SWAP and self._table != table.to:
            self._switch(connection, table.to)
        if table.pre_action is PreAction.RENAME_AND_CREATE and Action.DROP not in self._spec.blacklist:
            schema.prune_archives(connection, self._spec)

    def _switch(self, connection: sqlite3.Connection, table: str) -> None:
        if schema.has_triggers(connection, table):
            put_in_place(connection, self._spec, table, self._table)
        else:
            schema.switch(connection, table, self._table)

    async def abort(self) -> None:
        self._forget()
        with suppress(RetlError):
            await self._file.run(_drop_stage)
        if self._table != self._spec.table.to:
            with suppress(RetlError):  # the next scan drops it too
                await self._file.transaction(schema.drop, self._table)


def _open_stage(connection: sqlite3.Connection, names: list[str]) -> bool:
    """Returns whether the file keeps its text in UTF-8."""
    if not any(name == _MEMORY for _, name, _ in connection.execute("PRAGMA database_list")):
        connection.execute(f"ATTACH ':memory:' AS {_MEMORY}")
        connection.execute("PRAGMA temp.cache_size = -16384")
    connection.execute(f"DROP TABLE IF EXISTS {_DISK}")
    connection.execute(f"CREATE TABLE {_DISK} ({', '.join(names)})")
    return bool(connection.execute("PRAGMA encoding").fetchone() == ("UTF-8",))


def _names(reason: str, column: str) -> bool:
    """Whether SQLite gives a column as the one that failed: ``UNIQUE constraint failed: people.name``."""
    return DIALECT.fold(reason).endswith(f".{DIALECT.fold(column)}") and " constraint failed: " in reason


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
