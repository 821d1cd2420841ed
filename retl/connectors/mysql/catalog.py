"""A MySQL table: its place, and what the catalog says of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.dialect import MySQLDialect, logical_field
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.settings import SESSION_MARK
from retl.connectors.mysql.types import ColumnType, parse_type
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import ExistingTable, TableName
from retl.model.errors import ConfigError, SchemaDrift

DIALECT = MySQLDialect()
_EXACT = ("_0900_bin", "_nopad_bin", "binary")


@dataclass(frozen=True)
class Column:
    """A column as ``information_schema`` has it."""

    name: str
    type: str
    charset: str | None
    collation: str | None
    nullable: bool
    has_default: bool
    generated: bool

    @property
    def stored(self) -> ColumnType:
        return parse_type(self.type)

    @property
    def is_timestamp(self) -> bool:
        return self.type.lower().startswith("timestamp")

    @property
    def exact(self) -> bool:
        """Whether an index tells all different values apart."""
        return self.collation is None or self.collation.endswith(_EXACT)

    @property
    def field(self) -> pa.Field:
        other = self.charset is not None and self.charset != "utf8mb4"
        native = f"{self.type} character set {self.charset}" if other else self.type
        return logical_field(self.name, native, self.nullable)

    def definition(self) -> str:
        """The definition for a table with the same values, without defaults."""
        text = ""
        if self.charset and self.collation:
            text = f" CHARACTER SET {DIALECT.string(self.charset)} COLLATE {DIALECT.string(self.collation)}"
        return f"{DIALECT.identifier(self.name)} {self.stored.sql}{text} {'NULL' if self.nullable else 'NOT NULL'}"


@dataclass(frozen=True)
class Index:
    """A unique index. ``whole`` if it is over columns, not over a part of one or an expression."""

    columns: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Secondary:
    """An index that only speeds up queries. ``definition`` is what ADD takes."""

    name: str
    definition: str


@dataclass(frozen=True)
class MySQLTable(ExistingTable):
    """A table of the target as it is, with what matters to a load."""

    described: tuple[Column, ...] = ()
    """Its columns, in their order."""
    kind: str = "BASE TABLE"
    engine: str = ""
    unique: tuple[Index, ...] = ()
    secondary: tuple[Secondary, ...] = ()
    """The indexes that a swap may build at its end."""
    triggers: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    """Tables with a foreign key to this one."""
    parents: tuple[str, ...] = ()
    """Tables that this one has a foreign key to."""
    own_parents: tuple[tuple[str, ...], ...] = ()
    """The columns of each foreign key to the table itself."""
    sees_triggers: bool | None = None
    """Whether the user may see triggers: otherwise there may be some. ``None``: not asked yet."""

    @property
    def may_have_triggers(self) -> bool:
        return bool(self.triggers) or not self.sees_triggers

    @property
    def versioned(self) -> bool:
        """Whether it is system-versioned (MariaDB)."""
        return self.kind == "SYSTEM VERSIONED"

    def with_columns(self, described: Sequence[Column]) -> MySQLTable:
        """The same table with these columns."""
        required = frozenset(c.name for c in described if not (c.nullable or c.has_default or c.generated))
        return replace(
            self,
            described=tuple(described),
            columns=pa.schema([column.field for column in described]),
            keys=tuple(frozenset(index.columns) for index in self.unique if index.whole),
            required=required,
            generated=frozenset(column.name for column in described if column.generated),
        )

    def key(self) -> tuple[str, ...]:
        """The primary key, else the first unique one whose columns cannot be NULL."""
        strict = {column.name for column in self.described if not column.nullable}
        return next((index.columns for index in self.unique if index.whole and strict.issuperset(index.columns)), ())

    def column(self, name: str) -> Column:
        found = next((column for column in self.described if column.name.lower() == name.lower()), None)
        if found is None:
            raise SchemaDrift(
                f"the target table has no column {name!r} any more: somebody changed it a moment ago.",
                remedy="nothing, if it was meant: the next scan looks again.",
            )
        return found


def locate(table: str, database: str | None, *, lower: bool) -> TableName:
    """The place of a table that a user names. ``lower``: the server keeps names in lower case."""
    parts = split_name(table)
    if len(parts) > 2:
        raise ConfigError(f"{table!r} has too many parts.", remedy="write table or database.table.")
    home = parts[0] if len(parts) > 1 else database
    if home is None:
        raise ConfigError(
            f"it is not said in which database {table!r} is.",
            remedy="name the database in url, or write database.table.",
        )
    own = parts[-1]
    return TableName(own.lower(), home.lower(), DIALECT) if lower else TableName(own, home, DIALECT)


@dataclass(frozen=True)
class Inspection:
    """What one statement tells of a server and one of its tables."""

    name: TableName
    table: MySQLTable | None
    """``None`` if the table does not exist."""
    has_rows: bool | None
    """``None`` if that could not be asked."""
    has_database: bool
    neighbours: tuple[str, ...]
    """The tables of the same database that may be a shadow or an archive of ours."""
    local_infile: bool
    packet: int
    read_only: bool
    logs_statements: bool
    """Whether the binary log holds statements, not rows."""
    sees_triggers: bool | None = None
    """Whether the user would see triggers of a table that does not exist yet, once it was asked."""


def _text(expression: str) -> str:
    """Every branch of a UNION has one character set."""
    return f"CONVERT({expression} USING utf8mb4)"


_WIDTH = 10
_ON = ("1", "ON")
_COUNTER = re.compile(r"^(\) ENGINE=\w+) AUTO_INCREMENT=\d+", re.MULTILINE)
"""MariaDB returns a setting as a word if it is read as text."""


def _branch(kind: str, columns: str, rest: str = "") -> str:
    """Columns that stand between bars, as texts."""
    taken = [_text(column) for column in columns.split(" | ")]
    taken += ["NULL"] * (_WIDTH - len(taken))
    return f"SELECT '{kind}', {', '.join(taken)}{rest and ' FROM '}{rest}"


def _question(connection: MySQLConnection, name: TableName, *, rows: bool) -> str:
    """One statement for everything in the catalog. ``rows``: the table itself is asked too, and must exist."""
    database, table = DIALECT.string(str(name.schema)), DIALECT.string(name.name)
    here = f"table_schema = {database} AND table_name = {table}"
    hidden = "ignored = 'YES'" if connection.server.mariadb else "is_visible = 'NO'"
    keys = "information_schema.key_column_usage"
    settings = (
        "@@lower_case_table_names | @@GLOBAL.local_infile | @@max_allowed_packet | @@GLOBAL.read_only | @@log_bin"
    )
    column = "ordinal_position | column_name | column_type | character_set_name | collation_name | is_nullable"
    index = "seq_in_index | index_name | column_name | sub_part | non_unique | index_type | collation | index_comment"
    ours = r"table_name LIKE '\\_retl\\_%' OR table_name LIKE '%\\_arc\\_%'"
    referring = f"referenced_table_schema = {database} AND referenced_table_name = {table} AND NOT ({here})"
    triggers = f"event_object_schema = {database} AND event_object_table = {table}"
    branches = [
        _branch("server", f"{settings} | @@GLOBAL.binlog_format | {SESSION_MARK}"),
        _branch("database", "schema_name", f"information_schema.schemata WHERE schema_name = {database}"),
        _branch("table", "table_type | engine", f"information_schema.tables WHERE {here}"),
        _branch("neighbour", "table_name", f"information_schema.tables WHERE table_schema = {database} AND ({ours})"),
        _branch("column", f"{column} | column_default IS NOT NULL | extra", f"information_schema.columns WHERE {here}"),
        _branch("index", f"{index} | {hidden}", f"information_schema.statistics WHERE {here}"),
        _branch("trigger", "trigger_name", f"information_schema.triggers WHERE {triggers}"),
        _branch("child", "CONCAT(table_schema, '.', table_name)", f"{keys} WHERE {referring}"),
        _branch(
            "parent",
            "CONCAT(referenced_table_schema, '.', referenced_table_name) | constraint_name | column_name",
            f"{keys} WHERE {here} AND referenced_table_name IS NOT NULL",
        ),
    ]
    if rows:
        branches.append(_branch("rows", f"EXISTS (SELECT 1 FROM {name.sql})"))
    return " UNION ALL ".join(branches)


async def inspect(connection: MySQLConnection, table: str, database: str | None) -> Inspection:
    """Everything that matters of a table that a user names, in one statement if the table exists."""
    name = locate(table, database, lower=False)
    found = await _ask(connection, name)
    small = locate(table, database, lower=found["server"][0][0] != "0")
    if small != name:
        name, found = small, await _ask(connection, small)
    (_, local_infile, packet, read_only, log_bin, binlog_format, mark, *_) = found["server"][0]
    connection.check_session(mark)
    columns = sorted(found.get("column", []), key=lambda row: int(str(row[0])))
    spelling = {str(row[1]).lower(): str(row[1]) for row in columns}
    indexes = sorted(found.get("index", []), key=lambda row: (row[1] != "PRIMARY", str(row[1]), int(str(row[0]))))
    hide = " IGNORED" if connection.server.mariadb else " INVISIBLE"
    known = None
    for kind, engine, *_ in found.get("table", []):
        known = MySQLTable(
            columns=pa.schema([]),
            name=name,
            kind=str(kind),
            engine=str(engine or ""),
            unique=tuple(_unique([row[1:] for row in indexes], spelling)),
            secondary=tuple(_secondary([row[1:] for row in indexes], _counted(columns), hide)),
            triggers=_names(found, "trigger"),
            # MariaDB shows triggers to everybody who sees the table.
            sees_triggers=True if connection.server.mariadb or found.get("trigger") else None,
            children=_names(found, "child"),
            parents=_names(found, "parent"),
            own_parents=_own_parents(found, name, spelling),
            indexed=_indexed(indexes, spelling),
        ).with_columns([_column(row[1:]) for row in columns])
    rows = found.get("rows")
    return Inspection(
        name=name,
        table=known,
        has_rows=None if rows is None else rows[0][0] == "1",
        has_database="database" in found,
        neighbours=_names(found, "neighbour"),
        local_infile=local_infile in _ON,
        packet=int(str(packet)),
        read_only=read_only in _ON,
        logs_statements=log_bin in _ON and binlog_format == "STATEMENT",
    )


async def _ask(connection: MySQLConnection, name: TableName) -> dict[str, list[tuple[object, ...]]]:
    try:
        rows = await connection.query(_question(connection, name, rows=True))
    except (TargetRefused, ConfigError):
        # It does not exist, or cannot be read: the catalog tells which.
        rows = await connection.query(_question(connection, name, rows=False))
    found: dict[str, list[tuple[object, ...]]] = {}
    for kind, *values in rows:
        found.setdefault(str(kind), []).append(tuple(values))
    return found


def _names(found: dict[str, list[tuple[object, ...]]], kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(row[0]) for row in found.get(kind, [])))


def _own_parents(
    found: dict[str, list[tuple[object, ...]]], name: TableName, spelling: dict[str, str]
) -> tuple[tuple[str, ...], ...]:
    keys: dict[object, list[str]] = {}
    for parent, constraint, column, *_ in found.get("parent", []):
        if parent == f"{name.schema}.{name.name}":
            keys.setdefault(constraint, []).append(spelling.get(str(column).lower(), str(column)))
    return tuple(map(tuple, keys.values()))


def _column(row: Sequence[object]) -> Column:
    name, kind, charset, collation, nullable, default, extra, *_ = row
    words = str(extra).upper()
    text = str(kind)
    return Column(
        name=str(name),
        type=text,
        charset=None if charset is None else str(charset),
        collation=None if collation is None else str(collation),
        nullable=nullable == "YES",
        has_default=default == "1" or "AUTO_INCREMENT" in words or "DEFAULT_GENERATED" in words,
        generated="VIRTUAL GENERATED" in words or "STORED GENERATED" in words or "PERSISTENT" in words,
    )


def _unique(rows: Sequence[Sequence[object]], spelling: dict[str, str]) -> list[Index]:
    found: dict[object, list[tuple[object, object]]] = {}
    for index, column, prefix, not_unique, *_ in rows:
        if not int(str(not_unique)):
            found.setdefault(index, []).append((column, prefix))
    return [
        Index(
            tuple(spelling.get(str(column).lower(), str(column)) for column, _ in parts if column is not None),
            all(column is not None and prefix is None for column, prefix in parts),
        )
        for parts in found.values()
    ]


def _indexed(rows: Sequence[Sequence[object]], spelling: dict[str, str]) -> frozenset[str]:
    """The columns with which a plain index begins that the server uses."""
    found = set()
    for place, _, column, _, _, kind, _, _, hidden, *_ in rows:
        if place == "1" and column is not None and kind == "BTREE" and not int(str(hidden)):
            found.add(spelling.get(str(column).lower(), str(column)))
    return frozenset(found)


def _counted(columns: Sequence[Sequence[object]]) -> set[str]:
    return {str(row[1]) for row in columns if "AUTO_INCREMENT" in str(row[7]).upper()}


def _secondary(rows: Sequence[Sequence[object]], counted: Collection[str], hide: str) -> list[Secondary]:
    """Plain indexes that can be rebuilt from the catalog, except for one of an AUTO_INCREMENT column."""
    parts: dict[str, list[Sequence[object]]] = {}
    for row in rows:
        parts.setdefault(str(row[0]), []).append(row)
    return [
        Secondary(DIALECT.identifier(name), _index_definition(name, found, hide))
        for name, found in parts.items()
        if all(row[1] is not None and int(str(row[3])) and row[4] == "BTREE" for row in found)
        and str(found[0][1]) not in counted
    ]


def _index_definition(name: str, rows: Sequence[Sequence[object]], hide: str) -> str:
    columns = ", ".join(
        DIALECT.identifier(str(column))
        + ("" if prefix is None else f"({int(str(prefix))})")
        + (" DESC" if order == "D" else "")
        for _, column, prefix, _, _, order, *_ in rows
    )
    comment, hidden = str(rows[0][6] or ""), int(str(rows[0][7]))
    told = f" COMMENT {DIALECT.string(comment)}" if comment else ""
    return f"KEY {DIALECT.identifier(name)} ({columns}){told}{hide if hidden else ''}"


async def table_names(connection: MySQLConnection, name: TableName) -> list[str]:
    """All tables of the database of ``name``."""
    database = DIALECT.string(str(name.schema))
    rows = await connection.query(f"SELECT table_name FROM information_schema.tables WHERE table_schema = {database}")
    return sorted(str(found) for (found,) in rows)


async def definition_of(connection: MySQLConnection, table: TableName) -> str:
    """How the server would create a table, without the counter, which rows move on."""
    (row,) = await connection.query(f"SHOW CREATE TABLE {table.sql}")
    return _COUNTER.sub(r"\1", str(row[1]))
