"""What DuckDB needs besides ON CONFLICT: collations, and rows that exchange unique values, such as seats 1A and 1B.

DuckDB checks uniqueness by vectors of rows, so an update of many rows may fail although its
result would be right. Then the changing rows are deleted and inserted again, in the one
transaction of the commit; rows that would clash in the result are found beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from retl.connectors.duckdb.dialect import DuckDBDialect
from retl.connectors.sql.dialect import any_of
from retl.connectors.sql.merge import STAGED, TableMerge
from retl.connectors.sql.statement import Step, query
from retl.model.actions import Action
from retl.model.schema import native_type

_BLAMED = re.compile(r'Duplicate key "([^":]+): |NOT NULL constraint failed: (?:.*\.)?([^.]+)$')
_OTHERS = {"FLOAT": "1", "DOUBLE": "1", "INTERVAL": "{0} + INTERVAL 1 DAY", "TIME WITH TIME ZONE": "'00:00:01+00'"}
"""Temporary values while rows change. NULL does not work, since DuckDB keeps the value under it."""
_MOVED = "temp.retl_moved"


class DuckDBMerge(TableMerge):
    """Merges one stage into one table."""

    dialect: DuckDBDialect

    def upsert(self, condition: str) -> list[str]:
        # ON CONFLICT compares keys by their collation, and would change every row that is equal by it.
        return self.update_and_insert(condition) if self.load.existing.collates else super().upsert(condition)

    # Equal values that differ in bytes -------------------------------------

    def differs(self, name: str, value: str) -> str:
        if self.exact or not self.dialect.calls_others_equal(self.fields[name]):
            return super().differs(name, value)
        return f"{self.at(name)} IS DISTINCT FROM {value}"

    def set_apart(self) -> list[str]:
        """DuckDB does not overwrite a value with an equal one: 0.0 would stay instead of -0.0."""
        sets, conditions = [], []
        for name in self.rest:
            field, there = self.fields[name], self.at(name)
            if not self.dialect.calls_others_equal(field):
                continue
            other = _OTHERS.get(native_type(field), "NULL" if field.nullable else "")
            if other:
                same = f"{there} IS NOT DISTINCT FROM {self.staged[name]} AND ({self.differs(name, self.staged[name])})"
                sets.append(
                    f"{self.dialect.identifier(name)} = CASE WHEN {same} THEN {other.format(there)} ELSE {there} END"
                )
                conditions.append(f"({same})")
        if not sets:
            return []
        where = f"{self.same()} AND ({any_of(conditions)})"
        return [f"UPDATE {self.table} SET {', '.join(sets)} FROM {self.source} WHERE {where}"]

    # Values that rows pass on -----------------------------------------------

    @property
    def _unique(self) -> list[list[str]]:
        """The unique keys besides the merge key, as far as they are written."""
        if not self.keyed or self.blacklist & {Action.INSERT, Action.UPDATE}:
            return []
        keys = [sorted(key) for key in self.load.existing.keys if key != frozenset(self.key)]
        return [key for key in keys if set(key) <= set(self.staged)]

    def exchange(self) -> list[str]:
        """Delete the existing rows that differ, and insert them again with their new values."""
        if not self._unique:
            return []
        existing = self.load.existing
        names = [name for name in existing.columns.names if name not in existing.generated]
        shown = self.dialect.identifiers(names)
        values = ", ".join(
            f"{self.staged[name] if name in self.rest else self.at(name)} AS {self.dialect.identifier(name)}"
            for name in names
        )
        keys = " AND ".join(f"{self.at(name)} = m.{self.dialect.identifier(name)}" for name in self.key)
        rows = f"{self.table} JOIN {self.source} ON {self.same()} WHERE {self.differ(self.rest)}"
        return [
            f"CREATE OR REPLACE TEMP TABLE retl_moved AS SELECT {values} FROM {rows}",
            f"DELETE FROM {self.table} USING {_MOVED} AS m WHERE {keys}",
            f"INSERT INTO {self.table} ({shown}) SELECT {shown} FROM {_MOVED}",
            f"DROP TABLE {_MOVED}",
        ]

    def exchanged(self, counts: Sequence[int]) -> int:
        return counts[2]

    def clashes(self, exchanging: bool, most: int) -> Step[list[tuple[int, str]]]:
        """Staged rows whose unique values would clash in the result; of several in the slice the first stays.

        Ask again after they were removed: the rows that they would have changed keep their values.
        """
        found: dict[int, str] = {}
        for unique in self._unique if exchanging else ():
            rows = yield query(f"{self._repeated(unique)} UNION ALL {self._taken(unique)} LIMIT {most}")
            found |= dict(rows)
        return list(found.items())

    def rejected_column(self, reason: str) -> str:
        found = _BLAMED.search(reason)
        return (found[1] or found[2]) if found else ""

    def is_clash(self, reason: str) -> bool:
        return reason.startswith("Duplicate key")

    def _repeated(self, unique: Sequence[str]) -> str:
        """Rows with the values of an earlier row of the slice."""
        names = ", ".join(self.staged[name] for name in unique)
        given = " AND ".join(f"{self.staged[name]} IS NOT NULL" for name in unique)
        return (
            f"SELECT r, 'PRIMARY KEY or UNIQUE constraint violation: duplicate key \"' || v || '\"' FROM (SELECT {STAGED}.rowid AS r, "
            f"concat_ws(', ', {names}) AS v, row_number() OVER (PARTITION BY {names} ORDER BY {STAGED}.rowid) AS place "
            f"FROM {self.source} WHERE {given}) AS s WHERE place > 1"
        )

    def _taken(self, unique: Sequence[str]) -> str:
        """Rows with the values of a row of the table that keeps them."""
        told = ", ".join(f"{self.dialect.string(f'{name}: ')} || {self.staged[name]}" for name in unique)
        return (
            f"SELECT {STAGED}.rowid, 'Duplicate key \"' || concat_ws(', ', {told}) || '\" violates unique constraint.' "
            f"FROM {self.source} JOIN {self.table} ON {self.same(unique)} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {self.source} WHERE {self.same()})"
        )
