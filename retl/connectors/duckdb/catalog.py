"""Steps that ask DuckDB's catalog."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial

import duckdb
import pyarrow as pa

from retl.connectors.duckdb.dialect import DIALECT, logical_field
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.refresh import TableDefinition
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import ExistingTable, TableName
from retl.model.actions import PreAction, Write
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import WriteSpec

_IDENTIFIER = r'(?:"(?:[^"]|"")*"|[^\s".(]+)'
_HEAD = re.compile(rf"CREATE TABLE {_IDENTIFIER}(?:\.{_IDENTIFIER})*\s*(?=\()", re.IGNORECASE)
_INDEXED = re.compile(r"'((?:[^']|'')*)'|([^\s,\[\]']+)")
_SCHEMA = f"database_name = current_database() AND {DIALECT.same_name('schema_name', '?')}"
_HERE = f"{_SCHEMA} AND {DIALECT.same_name('table_name', '?')}"


def locate(table: str) -> TableName:
    """A table in its schema, ``main`` by default."""
    parts = split_name(table)
    if len(parts) > 2:
        raise ConfigError(f"{table!r} names another database.", remedy="write table or schema.table.")
    return TableName(parts[-1], parts[0] if len(parts) > 1 else "main", DIALECT)


def _here(name: TableName) -> tuple[str | None, str]:
    return name.schema, name.name


@cache
def has_triggers() -> bool:
    """Whether this version of DuckDB has triggers."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT 1 FROM duckdb_functions() WHERE function_name = 'duckdb_triggers'"
        ).fetchall()
    return bool(found)


def _triggers(name: TableName) -> Step[list[tuple[str, str]]]:
    """Names and definitions."""
    if not has_triggers():
        return []
    rows: list[tuple[str, str]] = yield query(
        f"SELECT trigger_name, sql FROM duckdb_triggers() WHERE {_HERE}", *_here(name)
    )
    return rows


def table_names(name: TableName) -> Step[list[str]]:
    rows = yield query(f"SELECT table_name FROM duckdb_tables() WHERE {_SCHEMA} ORDER BY table_name", name.schema)
    return [found for (found,) in rows]


def inspect(name: TableName) -> Step[ExistingTable | None]:
    """A table's columns and unique keys, or ``None`` if it does not exist."""
    rows = yield query(
        "SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
        f"WHERE {_HERE} ORDER BY column_index",
        *_here(name),
    )
    if not rows:
        return None
    own, definition = yield from _definition(name)
    fields, required, generated = [], set(), set()
    for column, native, nullable, default in rows:
        fields.append(logical_field(column, native, bool(nullable)))
        if default is not None and _is_generated(column, native, definition):
            generated.add(column)
        elif not nullable and default is None:
            required.add(column)
    return ExistingTable(
        columns=pa.schema(fields),
        keys=tuple(dict.fromkeys((yield from _keys(name)))),
        required=frozenset(required),
        generated=frozenset(generated),
        name=own,
        collates=" COLLATE " in definition,
    )


def _definition(name: TableName) -> Step[tuple[TableName, str]]:
    """A table's name in the catalog's spelling, and its CREATE TABLE; empty for a view."""
    rows = yield query(f"SELECT schema_name, table_name, sql FROM duckdb_tables() WHERE {_HERE}", *_here(name))
    if not rows:
        return name, ""
    return TableName(rows[0][1], rows[0][0], DIALECT), str(rows[0][2])


def _is_generated(column: str, native: str, definition: str) -> bool:
    # Only the DDL tells a generated column from one with a default.
    spellings = (column, DIALECT.identifier(column))
    return any(f"{spelling} {native} GENERATED ALWAYS AS" in definition for spelling in spellings)


def _keys(name: TableName) -> Step[list[frozenset[str]]]:
    """The sets of columns that are unique together, the primary key first."""
    constraints = yield query(
        f"SELECT constraint_column_names FROM duckdb_constraints() WHERE {_HERE} "
        "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY constraint_type",
        *_here(name),
    )
    keys = [frozenset(names) for (names,) in constraints]
    indexes = yield query(f"SELECT expressions FROM duckdb_indexes() WHERE {_HERE} AND is_unique", *_here(name))
    for (expressions,) in indexes:
        parts = [quoted.replace("''", "'") or plain for quoted, plain in _INDEXED.findall(expressions)]
        if not any(part.startswith("(") for part in parts):
            keys.append(frozenset(part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts))
    return keys


# To replace a table ---------------------------------------------------


def define(existing: ExistingTable) -> Step[TableDefinition]:
    """What another table needs to replace this one: its indexes, triggers and comments."""
    assert existing.name is not None
    name, sql = yield from _definition(existing.name)
    off, on = [], [*(yield from _comments(name))]
    rows = yield query(f"SELECT index_name, sql, comment FROM duckdb_indexes() WHERE {_HERE}", *_here(name))
    for index, text, comment in rows:
        # Index names are unique in a schema: they go with the table in use.
        full = name.beside(index).sql
        off.append(f"DROP INDEX {full}")
        on.append(text)
        if comment is not None:
            on.append(f"COMMENT ON INDEX {full} IS {DIALECT.string(comment)}")
    for trigger, text in (yield from _triggers(name)):
        off.append(f"DROP TRIGGER {DIALECT.identifier(trigger)} ON {name.sql}")
        on.append(text)
    return TableDefinition(create=partial(_create_like, sql), take_off=lambda table: off, put_on=lambda created: on)


def _create_like(sql: str, new: TableName) -> list[str]:
    return [_HEAD.sub(lambda _: f"CREATE TABLE {new.sql}", sql, count=1)]


def _comments(name: TableName) -> Step[list[str]]:
    tables = yield query(f"SELECT comment FROM duckdb_tables() WHERE {_HERE}", *_here(name))
    columns = yield query(f"SELECT column_name, comment FROM duckdb_columns() WHERE {_HERE}", *_here(name))
    return [
        *(f"COMMENT ON TABLE {name.sql} IS {DIALECT.string(text)}" for (text,) in tables if text is not None),
        *(
            f"COMMENT ON COLUMN {name.sql}.{DIALECT.identifier(column)} IS {DIALECT.string(text)}"
            for column, text in columns
            if text is not None
        ),
    ]


# What is refused beforehand -------------------------------------------------


def check_table(spec: WriteSpec, name: TableName) -> Step[None]:
    """Refuse a target that cannot be written in the requested way."""
    if not (yield query(f"SELECT 1 FROM duckdb_schemas() WHERE {_SCHEMA}", name.schema)):
        raise ConfigError(
            f"the target has no schema {name.schema!r}.", remedy=f"create it there: CREATE SCHEMA {name.schema}."
        )
    views = f"SELECT 1 FROM duckdb_views() WHERE {_SCHEMA} AND {DIALECT.same_name('view_name', '?')}"
    if (yield query(views, *_here(name))):
        raise UnsupportedError(f"{spec.table.to!r} is a view, which cannot be written.", remedy="name a table with to.")
    if spec.table.write is Write.UPSERT and (not spec.table.replaces or spec.table.pre_action is PreAction.MIRROR):
        yield from _check_upsert(spec, name)
    if spec.table.pre_action in (PreAction.RENAME_AND_CREATE, PreAction.SWAP):
        yield from _check_replaceable(spec, name)


def _check_upsert(spec: WriteSpec, name: TableName) -> Step[None]:
    """Refuse what DuckDB cannot do if a trigger looks at the new rows."""
    for trigger, sql in (yield from _triggers(name)):
        if "REFERENCING" in sql.upper():
            raise UnsupportedError(
                f"the trigger {trigger!r} of {spec.table.to!r} refers to new or old rows, and DuckDB then inserts without updating only.",
                remedy='drop the trigger, or use pre_action = "swap" or write = "append".',
            )


def _check_replaceable(spec: WriteSpec, name: TableName) -> Step[None]:
    """Refuse to replace a table that others depend on: DuckDB would fail only after the load."""
    referring = yield query(
        f"SELECT table_name FROM duckdb_constraints() WHERE {_SCHEMA} AND {DIALECT.same_name('referenced_table', '?')} "
        "AND constraint_type = 'FOREIGN KEY'",
        *_here(name),
    )
    if referring:
        raise UnsupportedError(
            f"a foreign key of {referring[0][0]!r} refers to {spec.table.to!r}, so DuckDB will not let it be replaced.",
            remedy='drop the foreign key, or use pre_action = "mirror" or "none".',
        )
    for kind, other in (yield from _dependents(name)):
        raise UnsupportedError(
            f"the {kind} {other!r} depends on {spec.table.to!r}, so DuckDB will not let it be replaced.",
            remedy=f'drop the {kind}, or use pre_action = "mirror", "truncate" or "none".',
        )


def _dependents(name: TableName) -> Step[Sequence[tuple[str, str]]]:
    names = "SELECT table_name AS name, table_oid AS oid, 'table' AS kind FROM duckdb_tables() UNION ALL "
    names += "SELECT view_name, view_oid, 'view' FROM duckdb_views()"
    if has_triggers():
        names += " UNION ALL SELECT trigger_name, trigger_oid, 'trigger' FROM duckdb_triggers()"
    rows: list[tuple[str, str]] = yield query(
        f"SELECT kind, name FROM duckdb_dependencies() AS d JOIN ({names}) AS n ON d.refobjid = n.oid WHERE deptype = 'n' "
        f"AND objid = (SELECT table_oid FROM duckdb_tables() WHERE {_HERE}) ORDER BY name",
        *_here(name),
    )
    return rows
