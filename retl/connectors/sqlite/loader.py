"""Rows on their way into SQLite: batches become a database in memory, whose rows are merged at the speed of C.

A slice that is too large for that piles up in a temporary table on disk.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.rows.text import not_a_number, not_utf8, to_text, unprintable_times
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Statement, Step, query
from retl.connectors.sqlite.pages import Image
from retl.connectors.sqlite.session import SQLiteSession
from retl.model.schema import is_text

_DISK = "temp.retl_stage"
_MEMORY = "retl_memory"
_MEMORY_BYTES = 16 * 1024 * 1024
"""How much of a slice is held in memory; Python, the image and SQLite each hold it once while it is handed over."""
_LARGEST_INTEGER = 2**63 - 1
_DATED = r"^\d{4}-[^B]*$"
_NO_NAN = "SQLite has no NaN: it would become NULL"
_NO_JSON = "JSON has neither NaN nor infinity: they would become null"


class SQLiteLoader(BulkLoader):
    """Stages rows in memory, beyond 16 MB on disk. Both vanish with the connection, so a crash leaves nothing."""

    typed = False

    def __init__(self, load: PreparedLoad) -> None:
        self._key = frozenset(load.spec.key)
        self._logical = {column.name: column.type for column in load.spec.schema}
        self.names = {name: f"c{number}" for number, name in enumerate(load.columns)}
        self._image = Image(len(self.names))
        self._on_disk = 0
        self._cleared = False
        self._utf8 = True

    @property
    def table(self) -> str:
        # What was merged stays in memory until the next image takes its place: then the one on disk is the empty one.
        merged = self._cleared and not self._image.rows
        return _DISK if self._on_disk or merged else f"{_MEMORY}.b"

    def create(self) -> Step[None]:
        attached = yield query("PRAGMA database_list")
        if not any(name == _MEMORY for _, name, _ in attached):
            yield Statement(f"ATTACH ':memory:' AS {_MEMORY}")
            yield Statement("PRAGMA temp.cache_size = -16384")
        yield Statement(f"CREATE TABLE IF NOT EXISTS {_MEMORY}.b ({', '.join(self.names.values())})")
        yield from self.drop()
        yield Statement(f"CREATE TABLE {_DISK} ({', '.join(self.names.values())})")
        self._utf8 = (yield query("PRAGMA encoding")) == [("UTF-8",)]

    def clear(self) -> Step[None]:
        if self._on_disk:
            yield Statement(f"DELETE FROM {_DISK}")
        self._on_disk = 0
        self._cleared = True
        self._image.close()
        self._image = Image(len(self.names))

    def drop(self) -> Step[None]:
        yield Statement(f"DROP TABLE IF EXISTS {_DISK}")

    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        found = yield query(f"SELECT {', '.join(self.names.values())} FROM {self.table} WHERE {where}")
        return [dict(zip(self.names, values, strict=True)) for values in found]

    # Staging ----------------------------------------------------------------

    async def stage(self, session: Session, batch: pa.RecordBatch, rejects: RejectCollector) -> pa.RecordBatch:
        assert isinstance(session, SQLiteSession)
        batch = self._with_numbers(batch.select(list(self.names)))
        kept = rejects.leave_out(batch, [found for name in self.names for found in self._invalid_values(name, batch)])
        if kept.num_rows:
            await session.file.run(self._stage, kept)
        return kept

    async def gather(self, session: Session) -> None:
        assert isinstance(session, SQLiteSession)
        if self._image.rows:
            await session.file.run(self._move_to_disk if self._on_disk else self._hand_over)

    def _stage(self, connection: sqlite3.Connection, batch: pa.RecordBatch) -> None:
        # An image is UTF-8, and only a file that is so too can be given one.
        large = self._image.add(batch) if self._utf8 else batch
        if large is not None:
            # Rows of more than a page are rare and large: an object per value does not matter there.
            rows = zip(*(_storable(column).to_pylist() for column in large.columns), strict=True)
            connection.executemany(f"INSERT INTO {_DISK} VALUES ({', '.join('?' * len(self.names))})", rows)
            self._on_disk += large.num_rows
        if self._image.size > _MEMORY_BYTES:
            self._move_to_disk(connection)

    def _move_to_disk(self, connection: sqlite3.Connection) -> None:
        self._hand_over(connection)
        connection.execute(f"INSERT INTO {_DISK} SELECT * FROM {_MEMORY}.b")
        self._on_disk += self._image.rows
        self._image = Image(len(self.names))

    def _hand_over(self, connection: sqlite3.Connection) -> None:
        self._image.load(connection, _MEMORY)

    def _with_numbers(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with numbers for what came as their text: SQLite would round what it reads from text itself."""
        columns = [
            _numbers(column, self._logical[name])
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, batch.schema.names)

    def _invalid_values(self, name: str, batch: pa.RecordBatch) -> list[tuple[pa.Array, str, str]]:
        """Values of a column that SQLite would take but change, and keys without a value."""
        column = batch.column(name)
        found: list[tuple[pa.Array | None, str]] = [
            (not_utf8(column), "the text is not valid UTF-8"),
            (not_a_number(column), _NO_JSON if pa.types.is_nested(column.type) else _NO_NAN),
            (unprintable_times(column), "the time lies outside the years 1 to 9999"),
            (_undated(column, self._logical[name]), "the time lies outside the years 1 to 9999"),
            (_decimal_nan(column, self._logical[name]), "the number is NaN"),
        ]
        if name in self._key and column.null_count:
            found.append((column.is_null(), "the key is NULL"))
        if column.type == pa.uint64() and column.null_count < len(column) and pc.max(column).as_py() > _LARGEST_INTEGER:
            found.append(
                (pc.greater(column, pa.scalar(_LARGEST_INTEGER, pa.uint64())), "the number is larger than 2^63 - 1")
            )
        return [(mask, reason, name) for mask, reason in found if mask is not None]


def _undated(column: pa.Array, logical: pa.DataType) -> pa.Array | None:
    """Which texts of a time lie outside the years 1 to 9999: they would not sort as times do."""
    if not is_text(column.type) or not (pa.types.is_date(logical) or pa.types.is_timestamp(logical)):
        return None
    bad = pc.invert(pc.match_substring_regex(column, _DATED))
    return bad if pc.any(bad).as_py() else None


def _decimal_nan(column: pa.Array, logical: pa.DataType) -> pa.Array | None:
    """Which decimals, as text, are no number."""
    if not is_text(column.type) or not pa.types.is_decimal(logical):
        return None
    bad = pc.equal(column, "NaN")
    return bad if pc.any(bad).as_py() else None


def _numbers(column: pa.Array, logical: pa.DataType) -> pa.Array:
    """A column of numbers in canonical text as numbers; any other column as it is."""
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
