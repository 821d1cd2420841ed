"""The parts of a table that have a name or a number of their own: indexes, statistics, sequences, foreign keys.

Names of the first three are unique in a schema. So a table that will replace another one gets
them under temporary names, and an archive gives them up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.sql.tables import TableName, short_name


@dataclass(frozen=True)
class Part:
    """A part whose name is unique in the schema."""

    kind: ClassVar[str]
    name: str

    def temporary(self, created: TableName) -> TableName:
        """Its name as long as its table is called ``created``."""
        digest = hashlib.sha256(f"{created.name}\0{self.name}".encode()).hexdigest()
        return created.beside(f"_retl_{digest[:24]}")

    def settle(self, created: TableName) -> str:
        """Gives it its own name."""
        return f"ALTER {self.kind} {self.temporary(created).sql} RENAME TO {DIALECT.identifier(self.name)}"

    def give_up(self, archive: TableName) -> str:
        """Names it after the archive that it belongs to."""
        mark = f"_arc_{archive.name.rpartition('_arc_')[2]}"
        away = short_name(self.name, DIALECT.longest_name, len(mark)) + mark
        return f"ALTER {self.kind} {archive.beside(self.name).sql} RENAME TO {DIALECT.identifier(away)}"

    def set(self, created: TableName, settings: tuple[str, ...]) -> list[str]:
        return [f"ALTER {self.kind} {self.temporary(created).sql} {setting}" for setting in settings]


@dataclass(frozen=True)
class Index(Part):
    """An index, with its constraint if it keeps one."""

    kind = "INDEX"
    constraint: str | None
    tail: str
    """What CREATE INDEX says after the table's name."""
    unique: bool
    settings: tuple[str, ...]

    @property
    def rejects(self) -> bool:
        """Whether it must be there before the rows, since it may reject some."""
        return self.unique or self.constraint is not None

    def create(self, created: TableName) -> list[str]:
        name = DIALECT.identifier(self.temporary(created).name)
        made = (
            f"ALTER TABLE {created.sql} ADD CONSTRAINT {name} {self.constraint}"
            if self.constraint
            else f"CREATE {'UNIQUE ' if self.unique else ''}INDEX {name} ON {created.sql} {self.tail}"
        )
        return [made, *self.set(created, self.settings)]


@dataclass(frozen=True)
class Statistics(Part):
    """Statistics over several columns."""

    kind = "STATISTICS"
    definition: str
    """What CREATE STATISTICS says between its name and the table's."""
    settings: tuple[str, ...]

    def create(self, created: TableName) -> list[str]:
        made = f"CREATE STATISTICS {self.temporary(created).sql}{self.definition} FROM {created.sql}"
        return [made, *self.set(created, self.settings)]


@dataclass(frozen=True)
class Number(Part):
    """A sequence: an identity's own, or one that belongs to a column whose default asks it."""

    kind = "SEQUENCE"
    column: str
    identity: str | None
    """ALWAYS or BY DEFAULT."""
    options: str

    def create(self, created: TableName) -> list[str]:
        own = f"GENERATED {self.identity} AS IDENTITY (SEQUENCE NAME {self.temporary(created).sql} {self.options})"
        return [f"ALTER TABLE {created.sql} ALTER COLUMN {DIALECT.identifier(self.column)} ADD {own}"]

    def carry(self, old: TableName, new: TableName) -> str:
        """Goes on in the new table where it is."""
        here = old.beside(self.name).sql
        if self.identity is None:
            return f"ALTER SEQUENCE {here} OWNED BY {new.sql}.{DIALECT.identifier(self.column)}"
        there = self.temporary(new).sql
        # The rows that were loaded may have come further than the old table's own.
        furthest = "LEAST" if "INCREMENT BY -" in self.options else "GREATEST"
        value = f"{furthest}(o.last_value, n.last_value), o.is_called OR n.is_called"
        return f"SELECT setval({DIALECT.string(there)}::regclass, {value}) FROM {here} AS o, {there} AS n"


@dataclass(frozen=True)
class ForeignKey:
    name: str
    before: str
    """Its definition; up to the table's own name, if it refers to that."""
    after: str | None

    def create(self, created: TableName) -> str:
        refers = self.before if self.after is None else f"{self.before}{created.sql}{self.after}"
        return f"ALTER TABLE {created.sql} ADD CONSTRAINT {DIALECT.identifier(self.name)} {refers}"


_CARRY = (
    "SELECT setval({name}::regclass, o.last_value, o.is_called) FROM {old} AS o, {new} AS n, pg_sequence AS s "
    "WHERE s.seqrelid = {name}::regclass AND CASE WHEN o.last_value = n.last_value THEN o.is_called "
    "ELSE (o.last_value > n.last_value) = (s.seqincrement > 0) END"
)
"""The new table may have come further: by numbers that its rows have brought."""

_INDEXES = """
SELECT i.relname, pg_get_constraintdef(c.oid),
  substr(pg_get_indexdef(x.indexrelid), length(format('CREATE %sINDEX %I ON %s%I.%I ',
    CASE WHEN x.indisunique THEN 'UNIQUE ' END, i.relname, CASE WHEN t.relkind = 'p' THEN 'ONLY ' END, n.nspname, t.relname)) + 1),
  x.indisunique,
  CASE WHEN c.oid IS NOT NULL THEN 'SET (' || (SELECT string_agg(format('%I = %L', option_name, option_value), ', ')
    FROM pg_options_to_table(i.reloptions)) || ')' END,
  CASE WHEN c.oid IS NOT NULL THEN 'SET TABLESPACE ' || quote_ident(s.spcname) END,
  ARRAY(SELECT format('ALTER COLUMN %s SET STATISTICS %s', attnum, attstattarget) FROM pg_attribute
    WHERE attrelid = i.oid AND attstattarget >= 0 ORDER BY attnum)
FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid
  JOIN pg_namespace AS n ON n.oid = t.relnamespace
  LEFT JOIN pg_constraint AS c ON c.conindid = x.indexrelid AND c.conrelid = x.indrelid AND c.contype IN ('p', 'u', 'x')
  LEFT JOIN pg_tablespace AS s ON s.oid = i.reltablespace
WHERE x.indrelid = {table} AND x.indisvalid ORDER BY x.indisprimary DESC, i.relname"""
"""An invalid index is what CREATE INDEX CONCURRENTLY left behind when it failed."""

_STATISTICS = """
SELECT s.stxname, substr(def.text, length(start.text) + 1, length(def.text) - length(start.text) - length(finish.text)),
  (to_jsonb(s) ->> 'stxstattarget')::int
FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace,
  LATERAL (SELECT pg_get_statisticsobjdef(s.oid)) AS def (text),
  LATERAL (SELECT format('CREATE STATISTICS %I.%I', n.nspname, s.stxname)) AS start (text),
  LATERAL (SELECT format(' FROM %s', s.stxrelid::regclass)) AS finish (text)
WHERE s.stxrelid = {table} ORDER BY s.stxname"""

_NUMBERS = """
SELECT s.relname, a.attname, CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END,
  format('INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s', q.seqincrement, q.seqmin, q.seqmax, q.seqstart,
    q.seqcache, CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid JOIN pg_sequence AS q ON q.seqrelid = s.oid
  JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {table} AND d.deptype IN ('a', 'i')
ORDER BY s.relname"""

_FOREIGN_KEYS = """
SELECT c.conname, CASE WHEN c.conrelid = c.confrelid THEN start.text ELSE def.text END,
  CASE WHEN c.conrelid = c.confrelid THEN substr(def.text, length(start.text || c.conrelid::regclass::text) + 1) END
FROM pg_constraint AS c,
  LATERAL (SELECT pg_get_constraintdef(c.oid)) AS def (text),
  LATERAL (SELECT format('FOREIGN KEY (%s) REFERENCES ', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.place)
    FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number))) AS start (text)
WHERE c.conrelid = {table} AND c.contype = 'f' ORDER BY c.conname"""


QUERIES = {
    "indexes": (_INDEXES, 7),
    "statistics": (_STATISTICS, 3),
    "numbers": (_NUMBERS, 4),
    "foreign_keys": (_FOREIGN_KEYS, 3),
}
"""What is asked of the catalog for ``{table}``, an expression of its regclass; and how many columns the answers have."""


def index(name: str, constraint: str | None, tail: str, unique: bool, *settings: Any) -> Index:
    """One row of the answer; the key comes first. ``settings``: options, tablespace, and a list of targets."""
    options, place, targets = settings
    return Index(name, constraint, tail, unique, tuple(setting for setting in (options, place, *targets) if setting))


def statistics(name: str, definition: str, target: int | None) -> Statistics:
    """One row of the answer."""
    return Statistics(name, definition, () if target is None or target < 0 else (f"SET STATISTICS {target}",))
