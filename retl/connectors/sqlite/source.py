"""SQLite as a source.

SQLite promises no column type, so every value is looked at: this is the one source that
makes an object per value. A row with a value that is not what its column declares is a
reject, and nothing is changed.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pyarrow as pa

from retl.connectors.sql.embedded import EmbeddedReader, EmbeddedSource, Result
from retl.connectors.sql.selection import Selection
from retl.connectors.sql.session import Session
from retl.connectors.sql.tables import real_key
from retl.connectors.sqlite.catalog import find, inspect, table_names
from retl.connectors.sqlite.dialect import DIALECT, logical_field, own_name
from retl.connectors.sqlite.file import SQLiteFile
from retl.connectors.sqlite.order import A_TIME, from_day, is_time, mixed_forms, no_time, out_of_order
from retl.connectors.sqlite.session import SQLiteSession, run_step
from retl.connectors.sqlite.values import to_batch
from retl.model.cursor import CursorFamily
from retl.model.naming import made_by_a_target
from retl.model.schema import TableSchema, field
from retl.model.window import Bounds, lower_bound
from retl.state.sql import STATE_TABLES

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite

_BATCH_ROWS = 8_192
_SAMPLE_ROWS = 1_000
_DATETIME = re.compile(r"\s*DATETIME\s*\(", re.IGNORECASE)
_STORAGE = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "blob": "BLOB"}


class SQLiteSource(EmbeddedSource):
    """Reads a SQLite file. See ``retl.connectors.SQLite``."""

    system: ClassVar[str] = "sqlite"
    dialect = DIALECT

    def __init__(self, options: SQLite) -> None:
        # Absolute, since the host may change its working directory.
        self._options = msgspec.structs.replace(options, path=SQLiteFile(options, read_only=True).path)

    def reader(self) -> SQLiteReader:
        return SQLiteReader(SQLiteFile(self._options, read_only=True))

    def writing(self) -> Session:
        return SQLiteSession(SQLiteFile(self._options, read_only=False, creates=False))


class SQLiteReader(EmbeddedReader[SQLiteFile]):
    """Reads over one connection, in a thread of its own."""

    dialect = DIALECT

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return await self._file.run(_fetch, sql)

    async def columns(self, sql: str) -> pa.Schema:
        return await self._file.run(_shape, sql)

    async def list_tables(self) -> list[str]:
        names = await self._file.run(run_step, table_names)
        offered = [name for name in names if DIALECT.fold(name) not in STATE_TABLES and not made_by_a_target(name)]
        # Even with a dot, which elsewhere divides schema and table.
        return [DIALECT.identifier(name) if set(name) & set('."`') else name for name in offered]

    async def location(self, table: str) -> str | None:
        found = await self._file.run(run_step, partial(find, own_name(table)))
        return await self._file.location(found.name) if found and found.kind == "table" else None

    async def describe(self, table: str) -> TableSchema | None:
        existing = await self._file.run(run_step, partial(inspect, own_name(table)))
        return TableSchema(table, existing.columns, real_key(existing)) if existing else None

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        """As always; but text that looks like a time is one, where it stands in for a column of time or DATETIME() made it."""
        schema = await super().chosen_schema(chosen)
        known = chosen.relation.schema
        for name, text in chosen.table.expressions.items():
            place = chosen.names.index(name)
            if not pa.types.is_string(schema.field(place).type):
                continue
            declared = known.columns.field(name) if known.has(name) else schema.field(place)
            if _DATETIME.match(text) and not pa.types.is_temporal(declared.type):
                declared = field(name, pa.timestamp("us"), native="DATETIME")
            if pa.types.is_temporal(declared.type) and await self._are_times(chosen, name):
                schema = schema.set(place, declared.with_name(schema.names[place]).with_nullable(True))
        return schema

    async def _are_times(self, chosen: Selection, name: str) -> bool:
        sample = f"SELECT {DIALECT.identifier(chosen.table.target_name(name))} AS c FROM ({chosen.raw()}) LIMIT {_SAMPLE_ROWS}"
        ((lowest,),) = await self.query(f"SELECT MIN(c GLOB '{A_TIME}') FROM ({sample}) WHERE c IS NOT NULL")
        return bool(lowest)

    async def check_order(
        self, chosen: Selection, cursor: pa.Field, family: CursorFamily, watermark: str | None, bounds: Bounds
    ) -> None:
        reference = bounds.high or watermark
        if reference is not None and family in ("time", "date") and not is_time(reference):
            raise no_time(cursor.name, chosen.table.name, reference)
        conditions = out_of_order(cursor, family, reference) if reference else None
        if reference is None or conditions is None:
            return
        # Earlier rows are in order, or their scan would have been refused.
        start = from_day(lower_bound(chosen.table, family, watermark) or reference)
        found = await self.query(chosen.odd_value(cursor, *conditions, start))
        if found:
            raise mixed_forms(cursor.name, chosen.table.name, found[0][0], reference)

    def result(self, sql: str, schema: pa.Schema) -> Result:
        return _Result(sql, schema)


def _fetch(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


def _shape(connection: sqlite3.Connection, sql: str) -> pa.Schema:
    """The result's columns: declared types where SQLite traces them to a table, else those of a sample."""
    connection.execute(f"CREATE TEMP VIEW retl_shape AS {sql}")
    try:
        columns = connection.execute("SELECT name, type FROM pragma_table_info('retl_shape', 'temp')").fetchall()
    finally:
        connection.execute("DROP VIEW temp.retl_shape")
    unknown = [name for name, declared in columns if not declared]
    sampled = _sample(connection, sql, unknown) if unknown else {}
    return pa.schema([logical_field(name, declared or sampled[name]) for name, declared in columns])


def _sample(connection: sqlite3.Connection, sql: str, names: Sequence[str]) -> dict[str, str]:
    kinds = ", ".join(f"GROUP_CONCAT(DISTINCT TYPEOF({DIALECT.identifier(name)}))" for name in names)
    row = connection.execute(f"SELECT {kinds} FROM (SELECT * FROM ({sql}) LIMIT {_SAMPLE_ROWS})").fetchone()
    return {name: _declared(set((seen or "").split(",")) - {"null", ""}) for name, seen in zip(names, row, strict=True)}


def _declared(storage: set[str]) -> str:
    if len(storage) == 1:
        return _STORAGE[storage.pop()]
    return "REAL" if storage == {"integer", "real"} else "TEXT"


class _Result:
    """The rows of a SELECT, run when the first of them are asked for. Used in the worker's thread."""

    def __init__(self, sql: str, schema: pa.Schema) -> None:
        self._sql = sql
        self._schema = schema
        self._cursor: sqlite3.Cursor | None = None

    def next(self, connection: sqlite3.Connection) -> list[pa.RecordBatch]:
        if self._cursor is None:
            self._cursor = connection.execute(self._sql)
        rows = self._cursor.fetchmany(_BATCH_ROWS)
        return [to_batch(rows, self._schema)] if rows else []

    def close(self, connection: sqlite3.Connection) -> None:
        if self._cursor is not None:
            self._cursor.close()
