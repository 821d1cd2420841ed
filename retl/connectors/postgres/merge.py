"""What PostgreSQL needs besides ON CONFLICT.

Rows that are the same already are left out by a join, before they reach ON CONFLICT: even one
that its WHERE leaves alone would be locked, written to the log, and take a number of each
sequence. Values are compared by their bytes, so that 1.0 becomes 1.00.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from retl.connectors.postgres.existing import PostgresTable
from retl.connectors.postgres.keys import SEQUENCES
from retl.connectors.postgres.references import Reference, references
from retl.connectors.sql.loader import Stage
from retl.connectors.sql.merge import STAGED, TableMerge
from retl.connectors.sql.statement import Step, query
from retl.model.actions import Action
from retl.model.schema import native_type

ROW = "retl_row"
"""The column that numbers staged rows."""
_BLAMED = re.compile(r'\bcolumn "([^"]+)"|\bKey \("?([^")]+)"?\)=')
_EXACT = re.compile(
    r"smallint|integer|bigint|oid|boolean|uuid|date|bytea|text|name|character varying(?:\(\d+\))?|"
    r"(?:time|timestamp)(?:\(\d\))? with(?:out)? time zone|\"char\"|macaddr8?"
)
"""Types whose = tells all values apart that differ in a byte."""
_PARKED = (
    (re.compile(r"text|citext|character varying"), "'retl ' || gen_random_uuid()"),
    (re.compile(r"uuid"), "gen_random_uuid()"),
    (re.compile(r"integer"), "-1 - CAST(random() * 2147483646 AS integer)"),
    (re.compile(r"bigint|numeric"), "-1 - CAST(random() * 4611686018427387904 AS bigint)"),
)
"""Values that no other row has, for columns that take no NULL."""

_NUMBERS = (
    "SELECT setval(q.seqrelid, CASE WHEN q.seqincrement > 0 THEN s.high ELSE s.low END) FROM ({staged}) AS s, "
    "pg_sequence AS q CROSS JOIN LATERAL "
    "(SELECT COALESCE(pg_sequence_last_value(q.seqrelid), q.seqstart - q.seqincrement) AS last) AS l "
    f"WHERE q.seqrelid IN ({SEQUENCES}) "
    "AND has_sequence_privilege(q.seqrelid, 'UPDATE') AND CASE WHEN q.seqincrement > 0 "
    "THEN s.high > l.last AND s.high <= q.seqmax ELSE s.low < l.last AND s.low >= q.seqmin END"
)
"""Moves the sequences of a column, its own and that of its default, to the furthest staged number."""


class PostgresMerge(TableMerge):
    """Merges one stage into one table."""

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        existing = self.load.existing
        self._table = existing if isinstance(existing, PostgresTable) else PostgresTable(existing.columns)
        # Where the table may call two spellings of a key equal, the new one is a value too.
        self.rest += [name for name in self.key if self._is_inexact(name)]
        self._index = self._table.arbiter(self.key) if self.keyed else None
        self._arbiter = [name for name in self._index.columns if name] if self._index else self.key
        self._references: tuple[Reference, ...] | None = None

    def _is_inexact(self, name: str) -> bool:
        return self._table.is_loose(name) or not _EXACT.fullmatch(native_type(self.fields[name]))

    # Statements -------------------------------------------------------------

    def insert(self, condition: str, *, joined: str = "") -> str:
        plain = super().insert(condition, joined=joined)
        if not self._table.identities(self.staged):
            return plain
        return plain.replace(") SELECT ", ") OVERRIDING SYSTEM VALUE SELECT ", 1)

    def statements(self, condition: str = "TRUE") -> list[str]:
        # Now, and not at the commit, so that a row that a deferred constraint rejects is found.
        checks = ["SET CONSTRAINTS ALL IMMEDIATE"] if self._table.defers else []
        return [*super().statements(condition), *checks]

    def upsert(self, condition: str) -> list[str]:
        conflict = f"ON CONFLICT ({self.dialect.identifiers(self._arbiter)})"
        joined, new = f" LEFT JOIN {self.table} ON {self.same(self._arbiter)}", f"{self.at(self._arbiter[0])} IS NULL"
        changed = f"({new} OR {self.differ(self.rest)})"
        if self._table.is_blank:  # its first load: nothing is there that a join would leave out
            joined, new, changed = "", "TRUE", "TRUE"
        if not self.updates:
            return [f"{self.insert(f'{new} AND {condition}', joined=joined)} {conflict} DO NOTHING"]
        values = {name: f"excluded.{self.dialect.identifier(name)}" for name in self.rest}
        upsert = self.insert(f"{changed} AND {condition}", joined=joined)
        return [f"{self._move(condition)}{upsert} {conflict} DO UPDATE SET {self.sets(values)}{self._guard(values)}"]

    def _guard(self, values: dict[str, str]) -> str:
        """What the join does not leave out: a key that holds NULL, and whatever is there when there is no join."""
        nulls = self._index is not None and self._index.nulls_not_distinct
        if not nulls and not self._table.is_blank:
            return ""
        return f" WHERE {_images([*map(self.at, values)], [*values.values()])}"

    def _move(self, condition: str) -> str:
        """A row that belongs to another partition than before is deleted, and inserted there: one row has changed."""
        moving = [name for name in self._arbiter if name not in self.key]
        if not moving:
            return ""
        where = f"{self.same()} AND {self.differ(moving)} AND {condition}"
        return f"WITH moved AS (DELETE FROM {self.table} USING {self.source} WHERE {where}) "

    def differ(self, names: Sequence[str]) -> str:
        return _images([self.at(name) for name in names], [self.staged[name] for name in names])

    def gone(self) -> str:
        if not self.keyed:
            return f"FROM {self.table}"
        # A key that is only spelled anew is no row that has gone.
        return f"FROM {self.table} WHERE NOT EXISTS (SELECT 1 FROM {self.source} WHERE {self.same()})"

    # Keys that the table calls equal -----------------------------------------

    def identity(self, stage: Stage) -> list[str]:
        names = {own: name for name, own in self.load.columns.items()}
        return [
            f'CAST({stage.names[names[own]]} AS text) COLLATE "C"'
            if own in self._strict_keys
            else stage.names[names[own]]
            for own in self.key
        ]

    @property
    def _strict_keys(self) -> list[str]:
        """Columns of the key by which the source tells rows apart that the table calls equal."""
        names = {own: name for name, own in self.load.columns.items()}
        given = self.load.spec.schema
        return [
            own
            for own in self.key
            if self._table.is_loose(own) and native_type(given.field(names[own])) != native_type(self.fields[own])
        ]

    def clashes(self, exchanging: bool, most: int) -> Step[list[tuple[int, str]]]:
        """Rows that refer to nothing, or whose key equals that of another row, of the table or earlier in the slice."""
        orphans = yield from self._orphans(most)
        if orphans:
            return orphans
        if not self.keyed or not self._strict_keys:
            return []
        rows = yield query(f"{self._taken_keys()} LIMIT {most}")
        if not rows:  # of rows in the slice the first stays, but for those
            rows = yield query(f"{self._alike_keys()} LIMIT {most}")
        return [(row, "the key of another row is the same to the target, which compares it loosely") for (row,) in rows]

    def _orphans(self, most: int) -> Step[list[tuple[int, str]]]:
        """Rows for a shadow that a foreign key of its table would reject."""
        if self.load.loaded == self.load.target or self.table != self.load.loaded.sql:
            return []
        if self._references is None:
            self._references = yield from references(self.load.target)
        target = self.load.target.name
        for reference in self._references:
            if self.staged.keys() >= set(reference.columns):
                asked = reference.orphans(target, self.staged, self.source, f"{STAGED}.{ROW}", most)
                if rows := (yield query(asked)):
                    return [tuple(row) for row in rows]
        return []

    def _taken_keys(self) -> str:
        """Rows whose key a row of the table has in another spelling."""
        joined = f"{self.source} JOIN {self.table} ON {self.same()}"
        return f"SELECT {STAGED}.{ROW} FROM {joined} WHERE {self.differ(self._strict_keys)}"

    def _alike_keys(self) -> str:
        """Rows whose key an earlier row of the slice has in another spelling."""
        keys = ", ".join(self.staged[name] for name in self.key)
        place = f"ROW_NUMBER() OVER (PARTITION BY {keys} ORDER BY {STAGED}.{ROW})"
        return (
            f"SELECT r FROM (SELECT {STAGED}.{ROW} AS r, {place} AS place FROM {self.source}) AS placed WHERE place > 1"
        )

    # Numbers -----------------------------------------------------------------

    def mirror(self, *, exchange: bool = False) -> list[str]:
        """Rows that refer to others of the table change before those are deleted, unless they need a value of theirs."""
        gone, *written = super().mirror(exchange=exchange)
        return [*written, gone] if self._table.refers_to_itself and not exchange else [gone, *written]

    @property
    def numbered(self) -> list[str]:
        """The written columns to which a sequence may belong."""
        return [name for name in self.staged if self._table.is_numbered(name)]

    def follow_up(self) -> list[str]:
        """Let sequences go on behind the numbers that were written, or the next row of the host would clash."""
        return [self._numbers(name, self.staged[name], self.source) for name in self.numbered]

    def follow_up_of_table(self) -> list[str]:
        """The same by all numbers of a table that holds no others."""
        return [self._numbers(name, self.dialect.identifier(name), self.table) for name in self.numbered]

    def _numbers(self, name: str, value: str, source: str) -> str:
        table, column = self.dialect.string(self.table), self.dialect.string(name)
        staged = f"SELECT MIN({value}) AS low, MAX({value}) AS high FROM {source}"
        return _NUMBERS.format(staged=staged, table=table, column=column)

    # Values that rows pass on -----------------------------------------------

    def exchange(self) -> list[str]:
        """Park the unique values of changing rows that other staged rows need."""
        return [parking for columns in self._parkable() for parking in self._parking(columns)]

    def _parkable(self) -> list[list[str]]:
        """The written columns of the unique indexes besides the key."""
        if not self.keyed or not self.updates:
            return []
        found = ([name for name in index.columns if name in self.staged] for index in self._table.indexes)
        return [written for written in found if set(written) - set(self._arbiter)]

    def _parking(self, columns: Sequence[str]) -> list[str]:
        for name in (name for name in columns if name not in self._arbiter):
            value = self._parked(name)
            if value is not None:
                wanted = ", ".join(self.staged[column] for column in columns)
                needed = f"({', '.join(map(self.at, columns))}) IN (SELECT {wanted} FROM {self.source})"
                changing = f"{self.same(self._arbiter)} AND {self.differ(columns)} AND {needed}"
                sets = f"SET {self.dialect.identifier(name)} = {value}"
                return [f"{self.dialect.update} {self.table} {sets} FROM {self.source} WHERE {changing}"]
        return []

    def _parked(self, name: str) -> str | None:
        if self.fields[name].nullable:
            return "NULL"
        native = native_type(self.fields[name])
        return next((value for test, value in _PARKED if test.fullmatch(native)), None)

    def rejected_column(self, reason: str) -> str:
        found = _BLAMED.search(reason)
        return (found[1] or found[2]) if found else ""

    # Triggers and rules ------------------------------------------------------

    def dropped(self, changed: int) -> Step[int]:
        """Rows that a trigger or a rule has silently left out."""
        catalog = self._table.catalog
        if catalog is None or not (catalog.triggers or catalog.rules) or Action.INSERT in self.blacklist:
            return 0
        if not self.keyed:
            ((rows,),) = yield query(f"SELECT COUNT(*) FROM {self.stage()}")
            return int(rows) - changed
        absent = f"NOT EXISTS (SELECT 1 FROM {self.table} WHERE {self.same(self._arbiter)})"
        ((rows,),) = yield query(f"SELECT COUNT(*) FROM {self.source} WHERE {absent}")
        return int(rows)


def _images(left: Sequence[str], right: Sequence[str]) -> str:
    """Whether two rows of values differ in a byte."""
    return f"record_image_ne(ROW({', '.join(left)}), ROW({', '.join(right)}))"
