"""What is known of a MySQL table, and the DDL of a refresh.

DDL commits by itself here. So a refresh is noted in the checkpoint before its first
statement, tables are exchanged by single RENAME statements, and what a crash leaves
behind tells by its name how far things had got.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.dialect import MySQLDialect, logical_field
from retl.connectors.mysql.session import Execute
from retl.connectors.mysql.types import Stored, stored
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import Existing, TableChange, archive_name, is_archive, is_shadow, shadow_name
from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError
from retl.model.plan import Load

DIALECT = MySQLDialect()
LONGEST_NAME = 64
TABLE_OPTIONS = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4"
_OLD = "_retl_old_"
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

    def shadow(self, load: Load) -> str:
        return shadow_name(self.name, load.pipeline, load.epoch, longest=LONGEST_NAME)

    def replaced(self, load: Load) -> str:
        """The name of the table that a shadow takes the place of, until it is dropped."""
        return _OLD + self.shadow(load).removeprefix("_retl_new_")

    def archive(self, scan_id: str) -> str:
        return archive_name(self.name, scan_id, longest=LONGEST_NAME)

    def is_archive(self, name: str) -> bool:
        return is_archive(name, self.name, longest=LONGEST_NAME)

    def is_leftover(self, name: str, pipeline: str) -> bool:
        """Whether a table is what a crash left of a refresh of this one by the pipeline."""
        as_shadow = name.replace(_OLD, "_retl_new_", 1) if name.startswith(_OLD) else name
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
    def stored(self) -> Stored:
        return stored(self.type)

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
class Known:
    """A table as the target has it."""

    place: Place
    kind: str
    engine: str
    columns: tuple[Column, ...]
    unique: tuple[Index, ...]
    triggers: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    """Tables with a foreign key to this one."""
    parents: tuple[str, ...] = ()
    """Tables that this one has a foreign key to."""

    @property
    def refers_to_itself(self) -> bool:
        return f"{self.place.database}.{self.place.name}" in self.parents

    def existing(self, spelling: Iterable[str] = ()) -> Existing:
        """For ``fit``. The case of a column's name means nothing: it is given in its ``spelling``, where that has it."""
        spelled = {name.lower(): name for name in spelling}

        def spell(name: str) -> str:
            return spelled.get(name.lower(), name)

        fields = [column.field.with_name(spell(column.name)) for column in self.columns]
        generated = frozenset(spell(column.name) for column in self.columns if column.generated)
        required = frozenset(spell(c.name) for c in self.columns if not (c.nullable or c.has_default or c.generated))
        keys = tuple(frozenset(map(spell, index.columns)) for index in self.unique if index.whole)
        return Existing(pa.schema(fields), keys, required, generated)

    def key(self) -> tuple[str, ...]:
        """The primary key, else the first unique one whose columns cannot be NULL."""
        strict = {column.name for column in self.columns if not column.nullable}
        return next((index.columns for index in self.unique if index.whole and strict.issuperset(index.columns)), ())

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name.lower() == name.lower())


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
    indexes = await connection.query(
        "SELECT index_name, column_name, sub_part FROM information_schema.statistics "
        f"WHERE {here} AND non_unique = 0 ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index"
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
    for index, column, prefix in rows:
        found.setdefault(index, []).append((column, prefix))
    return [
        Index(
            tuple(str(column) for column, _ in parts if column is not None),
            all(column is not None and prefix is None for column, prefix in parts),
        )
        for parts in found.values()
    ]


async def table_names(connection: MySQLConnection, database: str) -> list[str]:
    rows = await connection.query(
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = {DIALECT.string(database)}"
    )
    return sorted(str(name) for (name,) in rows)


@dataclass(frozen=True)
class Secondary:
    """An index that nothing but the speed of queries depends on. ``definition`` is what ADD takes."""

    name: str
    definition: str


_KEY = re.compile(r"^  KEY (`(?:[^`]|``)+`) (\(.*?),?$", re.MULTILINE)
_COUNTED = re.compile(r"^  (`(?:[^`]|``)+`) .* AUTO_INCREMENT\b", re.MULTILINE)


def secondary(create: str) -> tuple[Secondary, ...]:
    """The secondary indexes in the answer of SHOW CREATE TABLE, but for one that the server needs to count by."""
    counted = _COUNTED.search(create)
    kept = f"({counted[1]}" if counted else None
    return tuple(
        Secondary(name, f"KEY {name} {rest}")
        for name, rest in _KEY.findall(create)
        if kept is None or not rest.startswith(kept)
    )


async def secondary_indexes(connection: MySQLConnection, place: Place) -> tuple[Secondary, ...]:
    """The secondary indexes of a table."""
    ((_, create),) = await connection.query(f"SHOW CREATE TABLE {place.sql}")
    return secondary(str(create))


# Refreshes ------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """What has to be done before the first row: statements in order, and the table that the rows then go into."""

    statements: tuple[str, ...]
    table: str
    """The name of the table to load."""
    completion: tuple[str, ...] = ()
    """What has to be done after the last row, before anybody sees the table."""


def prepare(
    place: Place,
    load: Load,
    change: TableChange,
    *,
    existed: bool,
    names: Sequence[str],
    indexes: Sequence[Secondary] = (),
) -> Preparation:
    """Decide the DDL of a scan. ``names`` are the tables there are.

    ``indexes`` are those that a shadow is filled without: to build them at once from all rows
    takes a fraction of the time that it takes to keep them up row by row.
    """
    statements = [f"DROP TABLE {place.beside(name)}" for name in names if place.is_leftover(name, load.pipeline)]
    pre_action = load.table.pre_action
    shadow = place.shadow(load)
    if not existed:
        # Also a first load is seen as a whole or not at all.
        table = shadow if pre_action is PreAction.SWAP else place.name
        return Preparation((*statements, *_changes(place, change, table)), table)
    if pre_action is PreAction.SWAP:
        statements.append(_like(place, shadow))
        completion: list[str] = []
        if indexes and Action.ALTER not in load.blacklist:
            dropped = ", ".join(f"DROP INDEX {index.name}" for index in indexes)
            added = ", ".join(f"ADD {index.definition}" for index in indexes)
            statements.append(f"ALTER TABLE {place.beside(shadow)} {dropped}")
            completion.append(f"ALTER TABLE {place.beside(shadow)} {added}")
        return Preparation((*statements, *_changes(place, change, shadow)), shadow, tuple(completion))
    archive = _archive(place, load, names)
    if archive is not None:
        statements += [_like(place, shadow), *_changes(place, change, shadow)]
        statements.append(f"RENAME TABLE {place.sql} TO {place.beside(archive)}, {place.beside(shadow)} TO {place.sql}")
        return Preparation(tuple(statements), place.name)
    if load.table.replaces and Action.TRUNCATE not in load.blacklist:
        statements.append(f"TRUNCATE TABLE {place.sql}")
    elif load.table.replaces:
        old = place.beside(place.replaced(load))
        statements.append(_like(place, shadow))
        statements.append(f"RENAME TABLE {place.sql} TO {old}, {place.beside(shadow)} TO {place.sql}")
        statements.append(f"DROP TABLE {old}")
    return Preparation((*statements, *_changes(place, change, place.name)), place.name)


def _archive(place: Place, load: Load, names: Sequence[str]) -> str | None:
    """The name to archive the table under; ``None`` where a refresh that is carried on has done so, or nothing is to be archived."""
    if load.table.pre_action is not PreAction.RENAME_AND_CREATE:
        return None
    if load.refresh is None:
        return place.archive(load.scan_id)
    archive = place.archive(load.refresh.scan_id)
    return archive if load.refresh.archives and archive not in names else None


def _like(place: Place, name: str) -> str:
    return f"CREATE TABLE {place.beside(name)} LIKE {place.sql}"


def _changes(place: Place, change: TableChange, name: str) -> list[str]:
    statements = change.statements(DIALECT, place.beside(name))
    return [f"{statement} {TABLE_OPTIONS}" for statement in statements] if change.create else statements


async def switch(execute: Execute, place: Place, load: Load, *, existed: bool) -> None:
    """Put the shadow in the table's place, in one statement; the table it replaces is still to be dropped."""
    shadow = place.beside(place.shadow(load))
    if existed:
        old = place.beside(place.replaced(load))
        await execute(f"RENAME TABLE {place.sql} TO {old}, {shadow} TO {place.sql}")
    else:
        await execute(f"RENAME TABLE {shadow} TO {place.sql}")


def archives_to_drop(place: Place, load: Load, names: Sequence[str]) -> list[str]:
    """The oldest archives beyond ``keep_archives``; none where it is ``None``."""
    keep = load.table.keep_archives
    if keep is None:
        return []
    # The archive of this scan is the newest one, also where the wall clock was set back.
    newest = place.archive(load.refresh.scan_id) if load.refresh else ""
    found = [name for name in names if place.is_archive(name)]
    return sorted(found, key=lambda name: (name == newest, name))[:-keep]
