"""What PostgreSQL's catalog tells of a table: all of it by one statement, which answers with JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.types import logical_field
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import ExistingTable, TableName
from retl.model.errors import ConfigError, SchemaDrift
from retl.model.naming import made_by_a_target
from retl.state.sql import STATE_TABLES

_TABLES = ("r", "p", "f", "v", "m")


class Column(msgspec.Struct, frozen=True):
    """A column as the catalog has it."""

    name: str
    type: str
    """As ``format_type`` spells it: ``character varying(20)``, ``numeric(10,2)``, ``integer[]``, ``app.mood``."""
    base: str
    """What a domain is made of; the same as ``type`` for all others."""
    kind: str
    """Of ``base``: b for a plain type, e an enum, c a row, r a range, m several ranges."""
    number: int
    nullable: bool
    has_default: bool
    identity: str = ""
    """a for ALWAYS, d for BY DEFAULT."""
    generated: str = ""
    """s for STORED, v for VIRTUAL."""
    collation: str | None = None
    """The name of the collation, after the database's default was looked up."""
    deterministic: bool = True
    """Whether its collation calls only the same bytes equal."""

    @property
    def field(self) -> pa.Field:
        return logical_field(self.name, self.type, self.nullable, base=self.base, collation=self.collation)

    @property
    def required(self) -> bool:
        """Whether every new row must give a value."""
        return not (self.nullable or self.has_default or self.identity or self.generated)


class Index(msgspec.Struct, frozen=True):
    """An index. ``columns`` holds ``None`` for an expression."""

    name: str
    columns: list[str | None]
    unique: bool
    primary: bool
    valid: bool
    immediate: bool
    """Whether it is checked at once: not DEFERRABLE."""
    partial: bool
    nulls_not_distinct: bool
    constraint: str | None = None

    @property
    def arbiter(self) -> bool:
        """Whether ON CONFLICT over its columns finds it."""
        return self.unique and self.valid and self.immediate and not self.partial and None not in self.columns


class ForeignKey(msgspec.Struct, frozen=True):
    """A foreign key, seen from either of its tables."""

    name: str
    schema: str
    table: str
    """The other table."""
    on_delete: str
    """a nothing, r RESTRICT, c CASCADE, n SET NULL, d SET DEFAULT."""
    deferrable: bool


class CatalogTable(msgspec.Struct, frozen=True):
    """A table, view or foreign table as it is."""

    oid: int
    schema: str
    table: str
    kind: str
    """r a table, p a partitioned one, v a view, m a materialised one, f a foreign one."""
    persistence: str
    """p as usual, u UNLOGGED, t TEMPORARY."""
    is_partition: bool
    owner: str
    owned: bool
    """Whether the user is, or belongs to, its owner."""
    row_security: bool
    """Whether its policies hold for the user."""
    blank: bool
    """Whether it has no page, so that no row can be there."""
    columns: list[Column]
    indexes: list[Index]
    triggers: list[str]
    rules: list[str]
    children: list[ForeignKey]
    """Foreign keys of other tables to this one."""
    parents: list[ForeignKey]
    """Its own foreign keys."""
    partitions: list[str]
    """Tables that inherit from it, its partitions among them."""
    partitioned_by: list[str | None]
    """The columns of its partition key; ``None`` for an expression."""

    @property
    def name(self) -> TableName:
        return TableName(self.table, self.schema, DIALECT)

    def column(self, name: str) -> Column:
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise SchemaDrift(
                f"the table {self.table!r} has no column {name!r} any more: somebody changed it a moment ago.",
                remedy="nothing, if it was meant: the next scan looks again.",
            )
        return found

    def existing(self) -> ExistingTable:
        """The same for the shared room: of the keys, those that ON CONFLICT finds."""
        keys = [frozenset(filter(None, index.columns)) for index in self.indexes if index.arbiter]
        return ExistingTable(
            columns=pa.schema([column.field for column in self.columns]),
            keys=tuple(dict.fromkeys(keys)),
            required=frozenset(column.name for column in self.columns if column.required),
            generated=frozenset(column.name for column in self.columns if column.generated),
            name=self.name,
            collates=not all(column.deterministic and column.base != "citext" for column in self.columns),
            indexed=frozenset(
                index.columns[0]
                for index in self.indexes
                if index.valid and not index.partial and index.columns and index.columns[0] is not None
            ),
            owner=None if self.owned else self.owner,
        )

    def key(self) -> tuple[str, ...]:
        """The primary key, else the shortest unique one whose columns cannot be NULL."""
        strict = {column.name for column in self.columns if not column.nullable}
        usable = [
            (not index.primary, len(index.columns), tuple(name for name in index.columns if name is not None))
            for index in self.indexes
            if index.unique and index.valid and not index.partial and strict.issuperset(index.columns)
        ]
        return min(usable)[2] if usable else ()


def locate(table: str) -> tuple[str | None, str]:
    """Schema and name of a table that a user names; without a schema the search path finds it."""
    parts = split_name(table)
    if len(parts) > 2:
        raise ConfigError(f"{table!r} names another database.", remedy="write table or schema.table.")
    return (parts[0] if len(parts) > 1 else None), parts[-1]


def regclass(table: str) -> str:
    """The expression for the oid of a table that a user names; NULL if there is none."""
    schema, name = locate(table)
    quoted = DIALECT.identifier(name) if schema is None else f"{DIALECT.identifier(schema)}.{DIALECT.identifier(name)}"
    return f"to_regclass({DIALECT.string(quoted)})"


def question(table: str) -> str:
    """The query that ``read`` understands: one row for a table that exists, no row otherwise."""
    return f"SELECT {_object(_FACTS)}::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = {regclass(table)} AND c.relkind IN ({_KINDS})"


def read(rows: Sequence[tuple[Any, ...]]) -> CatalogTable | None:
    """The answer to ``question``."""
    return msgspec.json.decode(rows[0][0], type=CatalogTable) if rows else None


def names_question() -> str:
    """The query for the tables that the user may read: schema and name."""
    return (
        "SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        f"WHERE c.relkind IN ({_KINDS}) AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' "
        "AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT') ORDER BY 1, 2"
    )


def is_own(name: str) -> bool:
    """Whether a table is one of retl's."""
    return name in STATE_TABLES or made_by_a_target(name)


def location_question(table: str) -> str:
    """The query that ``location`` understands: by its name, so that a table that does not exist yet has one too."""
    schema, name = locate(table)
    there = "current_schema()" if schema is None else DIALECT.string(schema)
    return (
        "SELECT (SELECT system_identifier FROM pg_control_system())::text, "
        "(SELECT oid FROM pg_database WHERE datname = current_database())::text, "
        f"COALESCE(n.nspname, {there})::text, {DIALECT.string(name)} "
        f"FROM (SELECT {regclass(table)}) AS t(oid) LEFT JOIN pg_class AS c ON c.oid = t.oid "
        "LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid IS NULL OR c.relkind IN ('r', 'p')"
    )


def location(rows: Sequence[tuple[Any, ...]]) -> str | None:
    """``postgres:<cluster>/<database>/<schema>/<table>``, equal for a source and a target where they are the same table."""
    return f"postgres:{'/'.join(rows[0])}" if rows else None


def _object(facts: dict[str, str]) -> str:
    pairs = ", ".join(f"'{name}', {sql}" for name, sql in facts.items())
    return f"json_build_object({pairs})"


def _list(value: str, rest: str) -> str:
    return f"(SELECT COALESCE(json_agg({value}), '[]') FROM {rest})"


_KINDS = ", ".join(f"'{kind}'" for kind in _TABLES)

# A domain may be made of another one. No other type is: to ask so for each column would be most of the question's time.
_BASE = (
    "(WITH RECURSIVE made AS (SELECT a.atttypid AS oid, a.atttypmod AS modifier, true AS nullable UNION ALL "
    "SELECT t.typbasetype, t.typtypmod, NOT t.typnotnull FROM made JOIN pg_type AS t ON t.oid = made.oid WHERE t.typtype = 'd') "
    "SELECT json_build_array(format_type(made.oid, made.modifier), t.typtype, (SELECT bool_and(nullable) FROM made)) "
    "FROM made JOIN pg_type AS t ON t.oid = made.oid WHERE t.typtype <> 'd')"
)
_OF_DOMAIN = f"CASE WHEN t.typtype = 'd' THEN {_BASE} ELSE NULL END AS base"

# What the database collates by, whichever version says so in which column.
_DEFAULT_COLLATION = (
    "(SELECT CASE to_jsonb(d)->>'datlocprovider' WHEN 'i' THEN 'icu:' || "
    "COALESCE(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale') WHEN 'b' THEN to_jsonb(d)->>'datlocale' "
    "ELSE d.datcollate END FROM pg_database AS d WHERE d.datname = current_database())"
)
_COLLATION = f"CASE WHEN l.collname = 'default' THEN {_DEFAULT_COLLATION} ELSE l.collname END"

_COLUMN = _object(
    {
        "name": "a.attname",
        "type": "format_type(a.atttypid, a.atttypmod)",
        "base": "COALESCE(base->>0, format_type(a.atttypid, a.atttypmod))",
        "kind": "COALESCE(base->>1, a.typtype::text)",
        "number": "a.attnum",
        "nullable": "NOT a.attnotnull AND COALESCE((base->>2)::bool, true)",
        "has_default": "a.atthasdef AND a.attgenerated = '' OR a.typdefault IS NOT NULL",
        "identity": "a.attidentity",
        "generated": "a.attgenerated",
        "collation": _COLLATION,
        "deterministic": "COALESCE(l.collisdeterministic, true)",
    }
)
_COLUMNS = (
    f"(SELECT a.*, t.typtype, t.typdefault, {_OF_DOMAIN} FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid "
    "WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped OFFSET 0) AS a "
    "LEFT JOIN pg_collation AS l ON l.oid = a.attcollation"
)

_INDEX = _object(
    {
        "name": "x.relname",
        "columns": "(SELECT json_agg((SELECT attname FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = k.number "
        "AND k.number > 0) ORDER BY k.place) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place) "
        "WHERE k.place <= i.indnkeyatts)",
        "unique": "i.indisunique",
        "primary": "i.indisprimary",
        "valid": "i.indisvalid AND i.indisready",
        "immediate": "i.indimmediate",
        "partial": "i.indpred IS NOT NULL",
        "nulls_not_distinct": "COALESCE((to_jsonb(i)->>'indnullsnotdistinct')::bool, false)",
        "constraint": "(SELECT conname FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x') LIMIT 1)",
    }
)

_FOREIGN_KEY = _object(
    {
        "name": "k.conname",
        "schema": "kn.nspname",
        "table": "kc.relname",
        "on_delete": "k.confdeltype",
        "deferrable": "k.condeferrable",
    }
)


def _foreign_keys(own: str, other: str) -> str:
    # Those of partitions are copies of those of their tables.
    return _list(
        f"{_FOREIGN_KEY} ORDER BY kn.nspname, kc.relname, k.conname",
        f"pg_constraint AS k JOIN pg_class AS kc ON kc.oid = k.{other} JOIN pg_namespace AS kn ON kn.oid = kc.relnamespace "
        f"WHERE k.contype = 'f' AND k.{own} = c.oid AND k.conparentid = 0",
    )


_FACTS = {
    "oid": "c.oid::int8",
    "schema": "n.nspname",
    "table": "c.relname",
    "kind": "c.relkind",
    "persistence": "c.relpersistence",
    "is_partition": "c.relispartition",
    "owner": "pg_get_userbyid(c.relowner)",
    "owned": "pg_has_role(c.relowner, 'USAGE')",
    "row_security": "row_security_active(c.oid)",
    "blank": "c.relkind = 'r' AND pg_relation_size(c.oid) = 0",
    "columns": _list(f"{_COLUMN} ORDER BY a.attnum", _COLUMNS),
    "indexes": _list(
        f"{_INDEX} ORDER BY i.indisprimary DESC, x.relname",
        "pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid",
    ),
    "triggers": _list("tgname ORDER BY tgname", "pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal"),
    "rules": _list("rulename ORDER BY rulename", "pg_rewrite WHERE ev_class = c.oid AND rulename <> '_RETURN'"),
    "children": _foreign_keys("confrelid", "conrelid"),
    "parents": _foreign_keys("conrelid", "confrelid"),
    "partitions": _list(
        "inhrelid::regclass::text ORDER BY inhrelid::regclass::text", "pg_inherits WHERE inhparent = c.oid"
    ),
    "partitioned_by": _list(
        "(SELECT attname FROM pg_attribute WHERE attrelid = p.partrelid AND attnum = k.number AND k.number > 0) ORDER BY k.place",
        "pg_partitioned_table AS p CROSS JOIN unnest(p.partattrs::int2[]) WITH ORDINALITY AS k(number, place) "
        "WHERE p.partrelid = c.oid",
    ),
}
