"""What is known of a MySQL table: where it is, and what the catalog says of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.dialect import MySQLDialect, logical_field
from retl.connectors.mysql.types import ColumnType, parse_type
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import ExistingTable, archive_name, is_archive, is_shadow, shadow_name
from retl.model.errors import ConfigError, SchemaDrift
from retl.model.plan import WriteSpec

DIALECT = MySQLDialect()
LONGEST_NAME = 64
TABLE_OPTIONS = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4"
OLD = "_retl_old_"
_EXACT = ("_0900_bin", "_nopad_bin", "binary")


@dataclass(frozen=True)
class Place:
    """Where a table is: its database and its name, as the server keeps it."""

    database: str
    name: str

    @property
    def sql(self) -> str:
        return self.beside(self.name)

    def beside(self, name: str) -> str:
        """Another table of the same database."""
        return f"{DIALECT.identifier(self.database)}.{DIALECT.identifier(name)}"

    def shadow(self, spec: WriteSpec) -> str:
        return shadow_name(self.name, spec.pipeline, spec.epoch, longest=LONGEST_NAME)

    def replaced(self, spec: WriteSpec) -> str:
        """The name of the table that a shadow takes the place of, until it is dropped."""
        return OLD + self.shadow(spec).removeprefix("_retl_new_")

    def archive(self, scan_id: str) -> str:
        return archive_name(self.name, scan_id, longest=LONGEST_NAME)

    def is_archive(self, name: str) -> bool:
        return is_archive(name, self.name, longest=LONGEST_NAME)

    def is_leftover(self, name: str, pipeline: str) -> bool:
        """Whether a table is what a crash left of a refresh of this one by the pipeline."""
        as_shadow = name.replace(OLD, "_retl_new_", 1) if name.startswith(OLD) else name
        return is_shadow(as_shadow, self.name, pipeline, longest=LONGEST_NAME)


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
        """Whether values that differ in anything are different to an index."""
        return self.collation is None or self.collation.endswith(_EXACT)

    @property
    def field(self) -> pa.Field:
        other = self.charset is not None and self.charset != "utf8mb4"
        native = f"{self.type} character set {self.charset}" if other else self.type
        return logical_field(self.name, native, self.nullable)

    def definition(self) -> str:
        """For a table that holds the same values, without defaults."""
        text = ""
        if self.charset and self.collation:
            text = f" CHARACTER SET {DIALECT.string(self.charset)} COLLATE {DIALECT.string(self.collation)}"
        return f"{DIALECT.identifier(self.name)} {self.stored.sql}{text} {'NULL' if self.nullable else 'NOT NULL'}"


@dataclass(frozen=True)
class Index:
    """A unique index. ``whole`` where it is over columns alone, not over a part of one or an expression."""

    columns: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class Secondary:
    """An index that nothing but the speed of queries depends on. ``definition`` is what ADD takes."""

    name: str
    definition: str


@dataclass(frozen=True)
class Known:
    """A table as the target has it."""

    place: Place
    kind: str
    engine: str
    columns: tuple[Column, ...]
    unique: tuple[Index, ...]
    secondary: tuple[Secondary, ...] = ()
    """Those that a swap may build at its end."""
    triggers: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    """Tables with a foreign key to this one."""
    parents: tuple[str, ...] = ()
    """Tables that this one has a foreign key to."""
    sees_triggers: bool = True
    """Whether the user has the right to see triggers: without it there may be some."""

    @property
    def may_have_triggers(self) -> bool:
        return bool(self.triggers) or not self.sees_triggers

    @property
    def versioned(self) -> bool:
        """Whether MariaDB keeps its history."""
        return self.kind == "SYSTEM VERSIONED"

    @property
    def refers_to_itself(self) -> bool:
        return f"{self.place.database}.{self.place.name}" in self.parents

    def existing(self) -> ExistingTable:
        generated = frozenset(column.name for column in self.columns if column.generated)
        required = frozenset(c.name for c in self.columns if not (c.nullable or c.has_default or c.generated))
        keys = tuple(frozenset(index.columns) for index in self.unique if index.whole)
        return ExistingTable(pa.schema([column.field for column in self.columns]), keys, required, generated)

    def key(self) -> tuple[str, ...]:
        """The primary key, else the first unique one whose columns cannot be NULL."""
        strict = {column.name for column in self.columns if not column.nullable}
        return next((index.columns for index in self.unique if index.whole and strict.issuperset(index.columns)), ())

    def column(self, name: str) -> Column:
        found = next((column for column in self.columns if column.name.lower() == name.lower()), None)
        if found is None:
            raise SchemaDrift(
                f"the target table {self.place.name!r} has no column {name!r} any more: somebody changed it a moment ago.",
                remedy="nothing, if it was meant: the next scan looks again.",
            )
        return found


def locate(table: str, database: str | None, *, lower: bool) -> Place:
    """Where a table is that a user names. ``lower``: the server knows names in small letters alone."""
    parts = split_name(table)
    if len(parts) > 2:
        raise ConfigError(f"{table!r} has too many parts.", remedy="write table or database.table.")
    home = parts[0] if len(parts) > 1 else database
    if home is None:
        raise ConfigError(
            f"it is not said in which database {table!r} is.",
            remedy="name the database in url, or write database.table.",
        )
    return Place(home.lower(), parts[-1].lower()) if lower else Place(home, parts[-1])


async def inspect(connection: MySQLConnection, place: Place) -> Known | None:
    """Everything that matters of a table, or ``None`` where there is none of that name."""
    database, name = DIALECT.string(place.database), DIALECT.string(place.name)
    here = f"table_schema = {database} AND table_name = {name}"
    tables = await connection.query(f"SELECT table_type, engine FROM information_schema.tables WHERE {here}")
    if not tables:
        return None
    columns = await connection.query(
        "SELECT column_name, column_type, character_set_name, collation_name, is_nullable, column_default, extra "
        f"FROM information_schema.columns WHERE {here} ORDER BY ordinal_position"
    )
    mariadb = connection.server.mariadb
    hide, hidden = (" IGNORED", "ignored = 'YES'") if mariadb else (" INVISIBLE", "is_visible = 'NO'")
    indexes = await connection.query(
        "SELECT index_name, column_name, sub_part, non_unique, index_type, collation, index_comment, "
        f"{hidden} FROM information_schema.statistics "
        f"WHERE {here} ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index"
    )
    relations = await connection.query(
        "SELECT 'trigger', trigger_name FROM information_schema.triggers "
        f"WHERE event_object_schema = {database} AND event_object_table = {name} "
        "UNION SELECT 'child', CONCAT(table_schema, '.', table_name) FROM information_schema.key_column_usage "
        f"WHERE referenced_table_schema = {database} AND referenced_table_name = {name} AND NOT ({here}) "
        "UNION SELECT 'parent', CONCAT(referenced_table_schema, '.', referenced_table_name) "
        f"FROM information_schema.key_column_usage WHERE {here} AND referenced_table_name IS NOT NULL"
    )
    related: dict[str, list[str]] = {"trigger": [], "child": [], "parent": []}
    for relation, other in relations:
        related[relation].append(str(other))
    kind, engine = tables[0]
    return Known(
        place=place,
        kind=str(kind),
        engine=str(engine or ""),
        columns=tuple(_column(row) for row in columns),
        unique=tuple(_unique(indexes)),
        secondary=tuple(_secondary(indexes, _counted(columns), hide)),
        triggers=tuple(related["trigger"]),
        children=tuple(related["child"]),
        parents=tuple(related["parent"]),
    )


def _column(row: Sequence[object]) -> Column:
    name, kind, charset, collation, nullable, default, extra = row
    words = str(extra).upper()
    text = str(kind)
    return Column(
        name=str(name),
        type=text,
        charset=None if charset is None else str(charset),
        collation=None if collation is None else str(collation),
        nullable=nullable == "YES",
        has_default=default is not None or "AUTO_INCREMENT" in words or "DEFAULT_GENERATED" in words,
        generated="VIRTUAL GENERATED" in words or "STORED GENERATED" in words or "PERSISTENT" in words,
    )


def _unique(rows: Sequence[Sequence[object]]) -> list[Index]:
    found: dict[object, list[tuple[object, object]]] = {}
    for index, column, prefix, not_unique, *_ in rows:
        if not int(str(not_unique)):
            found.setdefault(index, []).append((column, prefix))
    return [
        Index(
            tuple(str(column) for column, _ in parts if column is not None),
            all(column is not None and prefix is None for column, prefix in parts),
        )
        for parts in found.values()
    ]


def _counted(columns: Sequence[Sequence[object]]) -> set[str]:
    return {str(name) for name, *_, extra in columns if "AUTO_INCREMENT" in str(extra).upper()}


def _secondary(rows: Sequence[Sequence[object]], counted: Collection[str], hide: str) -> list[Secondary]:
    """Plain indexes that can be made again from the catalog, but for one that the server needs to count by."""
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


async def exists(connection: MySQLConnection, place: Place) -> bool:
    return bool(
        await connection.query(
            f"SELECT 1 FROM information_schema.tables WHERE table_schema = {DIALECT.string(place.database)} "
            f"AND table_name = {DIALECT.string(place.name)}"
        )
    )


async def table_names(connection: MySQLConnection, database: str) -> list[str]:
    rows = await connection.query(
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = {DIALECT.string(database)}"
    )
    return sorted(str(name) for (name,) in rows)
