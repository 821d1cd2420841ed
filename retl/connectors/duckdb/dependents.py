"""What hangs on a DuckDB table besides its rows: what is taken along when it is replaced, and what forbids that.

Everything here runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import duckdb

from retl.connectors.duckdb.dialect import DIALECT
from retl.model.actions import Write
from retl.model.errors import UnsupportedError
from retl.model.plan import WriteSpec

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_HERE = "database_name = current_database() AND schema_name = ? AND table_name = ?"


@cache
def has_triggers() -> bool:
    """Whether this version of DuckDB knows triggers at all."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT 1 FROM duckdb_functions() WHERE function_name = 'duckdb_triggers'"
        ).fetchall()
    return bool(found)


def _triggers(connection: DuckDBPyConnection, table: Sequence[str]) -> list[tuple[str, str]]:
    """Names and definitions."""
    if not has_triggers():
        return []
    return connection.execute(f"SELECT trigger_name, sql FROM duckdb_triggers() WHERE {_HERE}", table).fetchall()


def take_off(connection: DuckDBPyConnection, schema: str, name: str) -> list[str]:
    """Drop what keeps a table from being renamed; returns the statements that make it again, and its comments with it.

    Index names are unique in a schema: they go with the table in use.
    """
    shown = f"{DIALECT.identifier(schema)}.{DIALECT.identifier(name)}"
    again = _comments(connection, schema, name, shown)
    rows = connection.execute(f"SELECT index_name, sql, comment FROM duckdb_indexes() WHERE {_HERE}", [schema, name])
    for index, sql, comment in rows.fetchall():
        full = f"{DIALECT.identifier(schema)}.{DIALECT.identifier(index)}"
        connection.execute(f"DROP INDEX {full}")
        again.append(sql)
        if comment is not None:
            again.append(f"COMMENT ON INDEX {full} IS {DIALECT.string(comment)}")
    for trigger, sql in _triggers(connection, [schema, name]):
        connection.execute(f"DROP TRIGGER {DIALECT.identifier(trigger)} ON {shown}")
        again.append(sql)
    return again


def _comments(connection: DuckDBPyConnection, schema: str, name: str, shown: str) -> list[str]:
    tables = connection.execute(f"SELECT comment FROM duckdb_tables() WHERE {_HERE}", [schema, name]).fetchall()
    columns = connection.execute(f"SELECT column_name, comment FROM duckdb_columns() WHERE {_HERE}", [schema, name])
    return [
        *(f"COMMENT ON TABLE {shown} IS {DIALECT.string(text)}" for (text,) in tables if text is not None),
        *(
            f"COMMENT ON COLUMN {shown}.{DIALECT.identifier(column)} IS {DIALECT.string(text)}"
            for column, text in columns.fetchall()
            if text is not None
        ),
    ]


def check_upsert(connection: DuckDBPyConnection, spec: WriteSpec, schema: str, name: str) -> None:
    """Refuse what DuckDB cannot do where a trigger looks at the new rows."""
    if spec.table.write is not Write.UPSERT or spec.table.replaces:
        return
    for trigger, sql in _triggers(connection, [schema, name]):
        if "REFERENCING" in sql.upper():
            raise UnsupportedError(
                f"the trigger {trigger!r} of {spec.table.to!r} refers to new or old rows, and DuckDB then inserts without updating only.",
                remedy='drop the trigger, or use pre_action = "swap" or write = "append".',
            )


def check_replaceable(connection: DuckDBPyConnection, spec: WriteSpec, schema: str, name: str) -> None:
    """Refuse to replace a table that others need: DuckDB would not let it go, and say so only after the load."""
    names = "SELECT table_name AS name, table_oid AS oid, 'table' AS kind FROM duckdb_tables() UNION ALL "
    names += "SELECT view_name, view_oid, 'view' FROM duckdb_views()"
    if has_triggers():
        names += " UNION ALL SELECT trigger_name, trigger_oid, 'trigger' FROM duckdb_triggers()"
    found = connection.execute(
        f"SELECT kind, name FROM duckdb_dependencies() AS d JOIN ({names}) AS n ON d.refobjid = n.oid WHERE deptype = 'n' "
        f"AND objid = (SELECT table_oid FROM duckdb_tables() WHERE {_HERE}) ORDER BY name",
        [schema, name],
    ).fetchall()
    for kind, other in found:
        raise UnsupportedError(
            f"the {kind} {other!r} depends on {spec.table.to!r}, so DuckDB will not let it be replaced.",
            remedy=f'drop the {kind}, or use pre_action = "truncate" or "none".',
        )
