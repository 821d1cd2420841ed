"""What a SQLite file holds, asked of its catalog and never read out of SQL text."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from retl.connectors.sql.tables import ExistingTable
from retl.connectors.sqlite.dialect import DIALECT, logical_field

Kind = Literal["table", "view", "virtual", "shadow"]


@dataclass(frozen=True)
class Table:
    """A table as the file has it. ``kind`` tells views, virtual tables and their shadow tables apart."""

    name: str
    kind: Kind
    strict: bool


@dataclass(frozen=True)
class UniqueIndex:
    """What must be unique together; ``None`` stands for an expression."""

    columns: tuple[str | None, ...]
    collations: tuple[str, ...]
    partial: bool

    @property
    def plain(self) -> frozenset[str] | None:
        """The columns, where the index is over columns and over every row."""
        found = frozenset(name for name in self.columns if name is not None)
        return None if self.partial or None in self.columns else found


def find(connection: sqlite3.Connection, name: str, schema: str = "main") -> Table | None:
    """The table of a name, which SQLite compares without looking at the case of ASCII letters."""
    row = connection.execute(
        "SELECT name, type, strict FROM pragma_table_list(?) WHERE schema = ? COLLATE NOCASE", (name, schema)
    ).fetchone()
    return Table(row[0], row[1], bool(row[2])) if row else None


def table_names(connection: sqlite3.Connection, kinds: tuple[Kind, ...] = ("table", "view")) -> list[str]:
    """The names of all tables of some kinds, but for SQLite's own."""
    rows = connection.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name").fetchall()
    return [name for name, kind in rows if kind in kinds and not name.lower().startswith("sqlite_")]


def unique_indexes(connection: sqlite3.Connection, name: str, schema: str = "main") -> list[UniqueIndex]:
    found = []
    for index, partial in connection.execute(
        'SELECT name, partial FROM pragma_index_list(?, ?) WHERE "unique"', (name, schema)
    ).fetchall():
        parts = connection.execute(
            "SELECT name, coll FROM pragma_index_xinfo(?, ?) WHERE key ORDER BY seqno", (index, schema)
        ).fetchall()
        found.append(UniqueIndex(tuple(row[0] for row in parts), tuple(row[1] for row in parts), bool(partial)))
    return found


def inspect(connection: sqlite3.Connection, name: str, schema: str = "main") -> ExistingTable | None:
    """A table's columns and unique keys, or ``None`` where there is none of that name."""
    rows = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1',
        (name, schema),
    ).fetchall()
    if not rows:
        return None
    found = find(connection, name, schema)
    strict = found is not None and found.strict
    fields, required, generated = [], set(), set()
    key = [column for column, *_, pk, _ in sorted(rows, key=lambda row: row[4]) if pk]
    for column, declared, notnull, default, pk, hidden in rows:
        rowid = key == [column] and declared.upper() == "INTEGER"
        fields.append(logical_field(column, declared, not (notnull or rowid), strict=strict))
        if hidden:
            generated.add(column)
        elif (notnull or (pk and not rowid and notnull)) and default is None and not rowid:
            required.add(column)
    keys = [frozenset(key)] if key else []
    keys.extend(plain for index in unique_indexes(connection, name, schema) if (plain := index.plain) is not None)
    return ExistingTable(pa.schema(fields), tuple(dict.fromkeys(keys)), frozenset(required), frozenset(generated))


def count(connection: sqlite3.Connection, name: str) -> int:
    """How many rows a table has; ``name`` is its own, unquoted."""
    (rows,) = connection.execute(f"SELECT COUNT(*) FROM {DIALECT.identifier(name)}").fetchone()
    return int(rows)
