"""What is known of a DuckDB table, and the DDL of a refresh. The DDL runs inside the caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from retl.connectors.duckdb import dependents
from retl.connectors.duckdb.dialect import DIALECT, logical_field
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import ExistingTable, archive_name, is_archive, is_shadow, shadow_name
from retl.model.actions import PreAction
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import WriteSpec

if TYPE_CHECKING:
    import duckdb

_IDENTIFIER = r'(?:"(?:[^"]|"")*"|[^\s".(]+)'
_HEAD = re.compile(rf"CREATE TABLE {_IDENTIFIER}(?:\.{_IDENTIFIER})*\s*(?=\()", re.IGNORECASE)
_INDEXED = re.compile(r"'((?:[^']|'')*)'|([^\s,\[\]']+)")
_HERE = f"database_name = current_database() AND {DIALECT.same_name('schema_name', '?')}"


def locate(table: str) -> tuple[str, str]:
    """Schema (``main`` where none is named) and name of a table."""
    parts = split_name(table)
    if len(parts) > 2:
        raise ConfigError(f"{table!r} names another database.", remedy="write table or schema.table.")
    return (parts[0] if len(parts) > 1 else "main"), parts[-1]


def full_name(schema: str, name: str) -> str:
    """A table's name as it is written everywhere: with its schema, all quoted."""
    return f"{DIALECT.identifier(schema)}.{DIALECT.identifier(name)}"


def check_table(connection: duckdb.DuckDBPyConnection, spec: WriteSpec) -> None:
    """Refuse a target that cannot be written, or not in the way that is asked for."""
    schema, name = locate(spec.table.to)
    if name.lower().startswith(("retl_", "_retl_")):
        raise ConfigError(f"{name!r} is a reserved name.", remedy="choose another name with to.")
    if not connection.execute(f"SELECT 1 FROM duckdb_schemas() WHERE {_HERE}", [schema]).fetchall():
        raise ConfigError(f"the target has no schema {schema!r}.", remedy=f"create it there: CREATE SCHEMA {schema}.")
    known = [schema, name]
    if connection.execute(
        f"SELECT 1 FROM duckdb_views() WHERE {_HERE} AND {DIALECT.same_name('view_name', '?')}", known
    ).fetchall():
        raise UnsupportedError(f"{spec.table.to!r} is a view, which cannot be written.", remedy="name a table with to.")
    schema, name = in_use(connection, schema, name)
    dependents.check_upsert(connection, spec, schema, name)
    if spec.table.pre_action not in (PreAction.RENAME_AND_CREATE, PreAction.SWAP):
        return
    referring = connection.execute(
        f"SELECT table_name FROM duckdb_constraints() WHERE {_HERE} AND {DIALECT.same_name('referenced_table', '?')} "
        "AND constraint_type = 'FOREIGN KEY'",
        known,
    ).fetchall()
    if referring:
        raise UnsupportedError(
            f"a foreign key of {referring[0][0]!r} refers to {spec.table.to!r}, so DuckDB will not let it be replaced.",
            remedy='drop the foreign key, or use pre_action = "none".',
        )
    dependents.check_replaceable(connection, spec, schema, name)


def in_use(connection: duckdb.DuckDBPyConnection, schema: str, name: str) -> tuple[str, str]:
    """Schema and name of a table as it is spelled there; as they are given where there is none."""
    rows = connection.execute(
        f"SELECT schema_name, table_name FROM duckdb_tables() WHERE {_HERE} AND {DIALECT.same_name('table_name', '?')}",
        [schema, name],
    ).fetchall()
    return rows[0] if rows else (schema, name)


def table_names(connection: duckdb.DuckDBPyConnection, schema: str) -> list[str]:
    rows = connection.execute(f"SELECT table_name FROM duckdb_tables() WHERE {_HERE} ORDER BY table_name", [schema])
    return [name for (name,) in rows.fetchall()]


def inspect(connection: duckdb.DuckDBPyConnection, table: str, spelling: Iterable[str] = ()) -> ExistingTable | None:
    """A table's columns and unique keys, or ``None`` where there is none of that name.

    To DuckDB the case of letters in a name means nothing: a column is given in its
    ``spelling``, where that has it.
    """
    known = list(locate(table))
    rows = connection.execute(
        "SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
        f"WHERE {_HERE} AND {DIALECT.same_name('table_name', '?')} ORDER BY column_index",
        known,
    ).fetchall()
    if not rows:
        return None
    spelled = {DIALECT.fold(name): name for name in spelling}
    definition = _definition(connection, *known) or ""
    fields, required, generated = [], set(), set()
    for column, native, nullable, default in rows:
        name = spelled.get(DIALECT.fold(column), column)
        fields.append(logical_field(name, native, bool(nullable)))
        if default is not None and _is_generated(column, native, definition):
            generated.add(name)
        elif not nullable and default is None:
            required.add(name)
    keys = [frozenset(spelled.get(DIALECT.fold(name), name) for name in key) for key in _keys(connection, known)]
    return ExistingTable(pa.schema(fields), tuple(dict.fromkeys(keys)), frozenset(required), frozenset(generated))


def _definition(connection: duckdb.DuckDBPyConnection, schema: str, name: str) -> str | None:
    """The CREATE TABLE of a table as DuckDB writes it; ``None`` for a view."""
    rows = connection.execute(
        f"SELECT sql FROM duckdb_tables() WHERE {_HERE} AND {DIALECT.same_name('table_name', '?')}", [schema, name]
    ).fetchall()
    return str(rows[0][0]) if rows else None


def has_collation(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether some column of a table may compare text otherwise than by its bytes."""
    return " COLLATE " in (_definition(connection, *locate(table)) or "")


def _is_generated(column: str, native: str, definition: str) -> bool:
    # Nothing else tells a generated column from one with a default.
    spellings = (column, DIALECT.identifier(column))
    return any(f"{spelling} {native} GENERATED ALWAYS AS" in definition for spelling in spellings)


def _keys(connection: duckdb.DuckDBPyConnection, known: list[str]) -> list[list[str]]:
    """The sets of columns that are unique together, the primary key first."""
    where = f"WHERE {_HERE} AND {DIALECT.same_name('table_name', '?')}"
    constraints = connection.execute(
        f"SELECT constraint_column_names FROM duckdb_constraints() {where} "
        "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY constraint_type",
        known,
    ).fetchall()
    keys = [list(names) for (names,) in constraints]
    indexes = connection.execute(f"SELECT expressions FROM duckdb_indexes() {where} AND is_unique", known).fetchall()
    for (expressions,) in indexes:
        parts = [quoted.replace("''", "'") or plain for quoted, plain in _INDEXED.findall(expressions)]
        if not any(part.startswith("(") for part in parts):
            keys.append([part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts])
    return keys


# Refreshes ------------------------------------------------------------------


def begin_refresh(connection: duckdb.DuckDBPyConnection, spec: WriteSpec, *, existed: bool) -> str:
    """Do the pre-action; returns the full name of the table to load, which is still to be made where ``existed`` is false."""
    schema, name = locate(spec.table.to)
    table = full_name(schema, name)
    if spec.table.pre_action is PreAction.SWAP:
        # Also a first load is seen as a whole or not at all.
        shadow = shadow_name(name, spec.pipeline, spec.epoch)
        if existed:
            _create_like(connection, schema, name, shadow)
        return full_name(schema, shadow)
    if existed and spec.table.pre_action is PreAction.TRUNCATE:
        connection.execute(f"DELETE FROM {table}")
    elif existed and spec.table.pre_action is PreAction.RENAME_AND_CREATE:
        _archive(connection, spec, schema, name)
    return table


def _archive(connection: duckdb.DuckDBPyConnection, spec: WriteSpec, schema: str, name: str) -> None:
    """Rename the table away and create it anew; a refresh that is carried on only empties it again."""
    assert spec.refresh is not None
    archive = archive_name(name, spec.refresh.scan_id)
    name = in_use(connection, schema, name)[1]
    if not spec.refresh.archives or archive in table_names(connection, schema):
        connection.execute(f"DELETE FROM {full_name(schema, name)}")
        return
    again = dependents.take_off(connection, schema, name)
    _rename(connection, schema, name, archive)
    _create_like(connection, schema, archive, name)
    for statement in again:
        connection.execute(statement)


def _create_like(connection: duckdb.DuckDBPyConnection, schema: str, old: str, new: str) -> None:
    """A new, empty table with the columns, defaults, keys and checks of another."""
    definition = _definition(connection, schema, old)
    assert definition is not None
    connection.execute(_HEAD.sub(lambda _: f"CREATE TABLE {full_name(schema, new)}", definition, count=1))


def _rename(connection: duckdb.DuckDBPyConnection, schema: str, old: str, new: str) -> None:
    connection.execute(f"ALTER TABLE {full_name(schema, old)} RENAME TO {DIALECT.identifier(new)}")


def drop(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {DIALECT.table(table)}")


def switch(connection: duckdb.DuckDBPyConnection, table: str, shadow: str) -> None:
    """Put the shadow in the table's place, with the table's indexes, triggers and comments."""
    schema, name = in_use(connection, *locate(table))
    again = dependents.take_off(connection, schema, name)
    drop(connection, full_name(schema, name))
    _rename(connection, schema, locate(shadow)[1], name)
    for statement in again:
        connection.execute(statement)


def remove_leftovers(connection: duckdb.DuckDBPyConnection, spec: WriteSpec) -> None:
    """Drop the shadows that a crash or another owner of the pipeline left behind."""
    schema, name = locate(spec.table.to)
    for found in table_names(connection, schema):
        if is_shadow(found, name, spec.pipeline):
            drop(connection, full_name(schema, found))


def prune_archives(connection: duckdb.DuckDBPyConnection, spec: WriteSpec) -> None:
    """Drop the oldest archives beyond ``keep_archives``; all stay where it is ``None``."""
    keep = spec.table.keep_archives
    if keep is None:
        return
    schema, name = locate(spec.table.to)
    # The archive of this scan is the newest one, also where the wall clock was set back.
    newest = archive_name(name, spec.refresh.scan_id) if spec.refresh else ""
    found = [archive for archive in table_names(connection, schema) if is_archive(archive, name)]
    for archive in sorted(found, key=lambda archive: (archive == newest, archive))[:-keep]:
        drop(connection, full_name(schema, archive))
