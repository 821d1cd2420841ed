"""What there is on a cluster: questions of its catalog, in text and numbers alone, and their answers. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from retl.connectors.redshift.dialect import DIALECT
from retl.connectors.redshift.types import logical_field, spelled
from retl.connectors.sql.dialect import split_name
from retl.model.errors import ConfigError
from retl.state.sql import STATE_TABLES

_KEY = re.compile(r"PRIMARY KEY \((.*)\)")
_KEY_PART = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')
_LATE = "cols(view_schema name, view_name name, col_name name, col_type varchar, col_num int)"


@dataclass(frozen=True)
class TableName:
    """Where a table is. Without a database it is that of the connection."""

    database: str | None
    schema: str
    name: str

    @property
    def sql(self) -> str:
        """As FROM names it."""
        parts = (self.schema, self.name) if self.database is None else (self.database, self.schema, self.name)
        return ".".join(map(DIALECT.identifier, parts))


def table_name(table: str, home: str, *, case_sensitive: bool) -> TableName:
    """Database, schema and name of a table, as the catalog spells them: quoted names are folded too, by default."""
    parts = split_name(table)
    if len(parts) > 3:
        raise ConfigError(
            f"{table!r} has too many parts.", remedy="write table, schema.table or database.schema.table."
        )
    if not case_sensitive:
        parts = [part.lower() for part in parts]
    database = parts[-3] if len(parts) == 3 else None
    return TableName(database, parts[-2] if len(parts) > 1 else home, parts[-1])


def tables_question() -> str:
    """Schema and name of every table and view."""
    return (
        "SELECT CAST(schema_name AS VARCHAR(128)), CAST(table_name AS VARCHAR(128)) FROM svv_all_tables "
        "WHERE database_name = CURRENT_DATABASE() "
        "AND schema_name NOT IN ('pg_catalog', 'information_schema', 'pg_internal', 'pg_auto_copy', 'pg_automv')"
    )


def listed(rows: Iterable[Sequence[Any]], home: str) -> list[str]:
    """The names of ``tables_question`` as users write them, sorted."""
    own = [(schema, name) for schema, name in rows if name not in STATE_TABLES and not name.startswith("_retl_")]
    return sorted(_spelled(*((name,) if schema == home else (schema, name))) for schema, name in own)


def columns_question(where: TableName) -> str:
    """Name, type, length, digits, scale and nullability of each column, in order."""
    database = "CURRENT_DATABASE()" if where.database is None else DIALECT.string(where.database)
    return (
        "SELECT CAST(column_name AS VARCHAR(128)), CAST(data_type AS VARCHAR(128)), CAST(character_maximum_length AS INTEGER), "
        "CAST(numeric_precision AS INTEGER), CAST(numeric_scale AS INTEGER), CAST(is_nullable AS VARCHAR(3)) "
        f"FROM svv_all_columns WHERE database_name = {database} AND schema_name = {DIALECT.string(where.schema)} "
        f"AND table_name = {DIALECT.string(where.name)} ORDER BY ordinal_position"
    )


def columns(rows: Iterable[Sequence[Any]]) -> pa.Schema:
    """The answer to ``columns_question``."""
    return pa.schema(
        [
            logical_field(name, spelled(kind, length, precision, scale), nullable != "NO")
            for name, kind, length, precision, scale, nullable in rows
        ]
    )


def late_question(where: TableName) -> str:
    """Name and type of each column of a late-binding view, which is in no other list."""
    return (
        "SELECT CAST(col_name AS VARCHAR(128)), CAST(col_type AS VARCHAR(128)) FROM pg_get_late_binding_view_cols() "
        f"{_LATE} WHERE view_schema = {DIALECT.string(where.schema)} AND view_name = {DIALECT.string(where.name)} ORDER BY col_num"
    )


def described(rows: Iterable[Sequence[Any]]) -> pa.Schema:
    """Columns from names and types as ``format_type`` spells them."""
    return pa.schema([logical_field(name, kind) for name, kind in rows])


def key_question(where: TableName) -> str:
    """The primary key of a table of this database, as its definition."""
    return (
        "SELECT CAST(pg_get_constraintdef(k.oid) AS VARCHAR(4096)) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.contype = 'p' AND n.nspname = {DIALECT.string(where.schema)} "
        f"AND c.relname = {DIALECT.string(where.name)}"
    )


def key(rows: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """The columns of the answer to ``key_question``."""
    found = _KEY.match(str(rows[0][0])) if rows else None
    parts = _KEY_PART.findall(found[1]) if found else []
    return tuple(quoted.replace('""', '"') or plain for quoted, plain in parts)


def result_questions(sql: str, name: str) -> tuple[str, str, str]:
    """Statements that tell the columns of a query: a temporary table of its shape, the question, and the table's end.

    The protocol's own description has types that no driver knows, and no lengths.
    """
    table = DIALECT.identifier(name)
    return (
        f"CREATE TEMP TABLE {table} AS SELECT * FROM ({sql}\n) AS q WHERE FALSE",
        (
            "SELECT CAST(attname AS VARCHAR(128)), CAST(format_type(atttypid, atttypmod) AS VARCHAR(128)) FROM pg_attribute "
            f"WHERE attrelid = CAST({DIALECT.string(name)} AS regclass) AND attnum > 0 ORDER BY attnum"
        ),
        f"DROP TABLE {table}",
    )


def _spelled(*parts: str) -> str:
    """A name as it must be written to be read as these parts."""
    return ".".join(DIALECT.identifier(part) if set(part) & set('."`') else part for part in parts)
