"""What a SQLite file holds, asked of its catalog as steps; of the SQL text that it keeps, only names are replaced."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa

from retl.connectors.sql.refresh import TableDefinition
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import ExistingTable, TableName
from retl.connectors.sqlite.dialect import TARGET_DIALECT as DIALECT
from retl.connectors.sqlite.dialect import logical_field

Kind = Literal["table", "view", "virtual", "shadow"]

_NAME = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[A-Za-z0-9_$\x80-\U0010ffff]+)"""
_HEAD = re.compile(rf"CREATE TABLE {_NAME}")
"""How SQLite itself begins the text that it keeps of every table, whatever was written there."""
_CONTENT = re.compile(rf"\bcontent\s*=\s*({_NAME})", re.IGNORECASE)


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
    def unique_columns(self) -> frozenset[str] | None:
        """The columns, where the index is over columns and over every row."""
        found = frozenset(name for name in self.columns if name is not None)
        return None if self.partial or None in self.columns else found


@dataclass(frozen=True)
class SQLiteTable(ExistingTable):
    """A table of a target, with what matters to a merge."""

    kind: Kind = "table"
    strict: bool = False
    indexes: tuple[UniqueIndex, ...] = ()
    triggers: bool = False


def find(name: str) -> Step[Table | None]:
    """The table of a name, which SQLite compares without looking at the case of ASCII letters."""
    rows = yield query("SELECT name, type, strict FROM pragma_table_list(?) WHERE schema = 'main'", name)
    return Table(rows[0][0], rows[0][1], bool(rows[0][2])) if rows else None


def table_names(kinds: tuple[Kind, ...] = ("table", "view")) -> Step[list[str]]:
    """The names of all tables of some kinds, but for SQLite's own."""
    rows = yield query("SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    return [name for name, kind in rows if kind in kinds and not name.lower().startswith("sqlite_")]


def _unique_indexes(name: str) -> Step[list[UniqueIndex]]:
    found = []
    for index, some in (yield query('SELECT name, partial FROM pragma_index_list(?) WHERE "unique"', name)):
        parts = yield query("SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", index)
        found.append(UniqueIndex(tuple(row[0] for row in parts), tuple(row[1].upper() for row in parts), bool(some)))
    return found


def _indexed(name: str) -> Step[frozenset[str]]:
    """The columns with which an index over all rows begins."""
    rows = yield query(
        "SELECT i.name FROM pragma_index_list(?) AS l JOIN pragma_index_info(l.name) AS i ON i.seqno = 0 "
        "WHERE NOT l.partial AND i.name IS NOT NULL",
        name,
    )
    return frozenset(column for (column,) in rows)


def inspect(name: str) -> Step[SQLiteTable | None]:
    """A table's columns and unique keys, or ``None`` if it does not exist."""
    table = yield from find(name)
    rows = yield query(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?) WHERE hidden <> 1', name
    )
    if table is None or not rows:
        return None
    fields, required, generated = [], set(), set()
    key = [column for column, *_, pk, _ in sorted(rows, key=lambda row: row[4]) if pk]
    for column, declared, notnull, default, _, hidden in rows:
        rowid = key == [column] and declared.upper() == "INTEGER"
        fields.append(logical_field(column, declared, not (notnull or rowid), strict=table.strict))
        if hidden:
            generated.add(column)
        elif notnull and default is None and not rowid:
            required.add(column)
    indexes = yield from _unique_indexes(name)
    keys = [frozenset(key)] if key else []
    keys.extend(columns for index in indexes if (columns := index.unique_columns) is not None)
    return SQLiteTable(
        columns=pa.schema(fields),
        keys=tuple(dict.fromkeys(keys)),
        required=frozenset(required),
        generated=frozenset(generated),
        name=TableName(table.name, None, DIALECT),
        kind=table.kind,
        strict=table.strict,
        indexes=tuple(indexes),
        indexed=(yield from _indexed(name)),
        triggers=any(kind == "trigger" for kind, _, _ in (yield from _belongings(name))),
    )


def _belongings(table: str) -> Step[list[tuple[str, str, str]]]:
    """``(type, name, sql)`` of a table's own indexes and triggers."""
    rows: list[tuple[str, str, str]] = yield query(
        "SELECT type, name, sql FROM sqlite_master "
        "WHERE tbl_name = ? COLLATE NOCASE AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        table,
    )
    return rows


def define(existing: SQLiteTable) -> Step[TableDefinition]:
    """What another table needs to take this one's place: its indexes and triggers, and the numbers that it has used up."""
    assert existing.name is not None
    name = existing.name.name
    sql = yield from _sql_of(name)
    owned = yield from _belongings(name)
    # Names of indexes and triggers are unique in a SQLite file: they go with the table that is in use.
    off = [f"DROP {kind} {DIALECT.identifier(thing)}" for kind, thing, _ in owned]
    texts = yield from _indexes_of_text(name)
    rebuilt = [f"INSERT INTO {text} ({text}) VALUES ('rebuild')" for text in map(DIALECT.identifier, texts)]
    numbered = yield query("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'")
    return TableDefinition(
        create=partial(_create_like, sql),
        take_off=lambda table: off,
        put_on=lambda created: [*(text for _, _, text in owned), *rebuilt],
        carry=_carry if numbered else lambda old, new: [],
        watched=existing.triggers,
    )


def _create_like(sql: str, new: TableName) -> list[str]:
    head = _HEAD.match(sql)
    assert head is not None
    return [f"CREATE TABLE {new.sql}{sql[head.end() :]}"]


def _carry(old: TableName, new: TableName) -> list[str]:
    """AUTOINCREMENT goes on where the old table or the new one has come furthest."""
    here, there = (f"name = {DIALECT.string(table.name)}" for table in (old, new))
    used = f"SELECT seq FROM sqlite_sequence WHERE {here}"
    kept = f"SELECT {DIALECT.string(new.name)}, seq FROM sqlite_sequence WHERE {here}"
    return [
        f"UPDATE sqlite_sequence SET seq = MAX(seq, IFNULL(({used}), 0)) WHERE {there}",
        f"INSERT INTO sqlite_sequence {kept} AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE {there})",
    ]


def _sql_of(table: str) -> Step[str]:
    rows = yield query("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", table)
    return str(rows[0][0])


def _indexes_of_text(table: str) -> Step[list[str]]:
    """The full-text tables whose content is this table: they hold what its rows were, and are told to read them again."""
    found = []
    for name in (yield from table_names(("virtual",))):
        content = _CONTENT.search((yield from _sql_of(name)))
        if content and DIALECT.fold(content[1].strip("\"'`[]")) == DIALECT.fold(table):
            found.append(name)
    return found
