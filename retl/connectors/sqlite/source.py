"""SQLite as a source.

SQLite promises no column type, so every value is looked at: this is the one source that
makes an object per value. Where a value is not what its column declares, the scan says so
and changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.sql.source import SqlSource
from retl.connectors.sqlite.dialect import DIALECT, logical_field
from retl.connectors.sqlite.file import SQLiteFile, inspect, real_key, table_names
from retl.model.errors import SourceError
from retl.model.schema import TableSchema, native_type
from retl.state.sql import STATE_TABLES
from retl.threads import to_the_end

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite

_BATCH_ROWS = 8_192
_SAMPLE_ROWS = 1_000
_STORAGE = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "blob": "BLOB"}


class SQLiteSource(SqlSource):
    """Reads a SQLite file. See ``retl.connectors.SQLite``."""

    system: ClassVar[str] = "sqlite"
    dialect = DIALECT

    def __init__(self, options: SQLite) -> None:
        self._file = SQLiteFile(options, read_only=True)

    async def ping(self) -> SystemInfo:
        return await self._file.ping()

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return await self._file.run(_fetch, sql)

    async def columns(self, sql: str) -> pa.Schema:
        return await self._file.run(_shape, sql)

    async def list_tables(self) -> list[str]:
        names = await self._file.run(table_names)
        return [name for name in names if name not in STATE_TABLES and not name.startswith("_retl_")]

    async def describe(self, table: str) -> TableSchema | None:
        existing = await self._file.run(inspect, table)
        return TableSchema(table, existing.columns, real_key(existing)) if existing else None

    async def stream(self, sql: str) -> AsyncIterator[pa.RecordBatch]:
        result = _Result(sql, await self.columns(sql))
        try:
            while (batch := await self._file.run(result.next_batch)) is not None:
                yield batch
        finally:
            # Surely: a cursor that is left open keeps the file open, even when its connection is closed.
            await to_the_end(self._file.run(result.close))

    async def release(self) -> None:
        await self._file.close()

    async def aclose(self) -> None:
        await self._file.close()


def _fetch(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


def _shape(connection: sqlite3.Connection, sql: str) -> pa.Schema:
    """The result's columns: declared types where SQLite traces them to a table, else those of a sample."""
    connection.execute("PRAGMA query_only = OFF")
    try:
        connection.execute(f"CREATE TEMP VIEW retl_shape AS {sql}")
        try:
            columns = connection.execute("SELECT name, type FROM pragma_table_info('retl_shape', 'temp')").fetchall()
        finally:
            connection.execute("DROP VIEW temp.retl_shape")
    finally:
        connection.execute("PRAGMA query_only = ON")
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

    def next_batch(self, connection: sqlite3.Connection) -> pa.RecordBatch | None:
        if self._cursor is None:
            self._cursor = connection.execute(self._sql)
        rows = self._cursor.fetchmany(_BATCH_ROWS)
        if not rows:
            return None
        values = zip(zip(*rows, strict=True), self._schema, strict=True)
        return pa.RecordBatch.from_arrays([_array(*value) for value in values], names=self._schema.names)

    def close(self, connection: sqlite3.Connection) -> None:
        if self._cursor is not None:
            self._cursor.close()


def _array(values: tuple[Any, ...], column: pa.Field) -> pa.Array:
    kind = column.type
    try:
        if pa.types.is_boolean(kind):
            return pa.array(values, pa.int64()).cast(pa.bool_()) if _all_bits(values) else _misfit(column, values)
        if pa.types.is_integer(kind) and float in set(map(type, values)):
            return _misfit(column, values)  # Arrow would cut it off
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_binary(kind):
            return pa.array(values, kind)
        if pa.types.is_decimal(kind):
            return pa.array(
                [value if value is None or isinstance(value, str) else str(value) for value in values], pa.string()
            )
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError):
        return _misfit(column, values)


def _all_bits(values: tuple[Any, ...]) -> bool:
    return set(values) <= {None, 0, 1}


def _misfit(column: pa.Field, values: tuple[Any, ...]) -> pa.Array:
    expected: tuple[type, ...] = (str,)
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        expected = (int,)
    elif pa.types.is_floating(column.type):
        expected = (float, int)
    elif pa.types.is_binary(column.type):
        expected = (bytes,)
    odd = next((value for value in values if value is not None and not isinstance(value, expected)), None)
    raise SourceError(
        f"column {column.name!r} is declared {native_type(column)}, but it holds {odd!r}."
        if odd is not None
        else f"column {column.name!r} is declared {native_type(column)}, but holds values that this does not cover.",
        remedy=f'convert it with expressions, such as {column.name} = "CAST({column.name} AS TEXT)", or correct the rows.',
        system="sqlite",
    )
