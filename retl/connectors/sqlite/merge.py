"""What SQLite needs besides ON CONFLICT.

SQLite checks uniqueness row by row, so rows that exchange a unique value, or pass it on,
would be rejected although the result is right. Then these values are parked first: replaced
by NULL, or by values that no other row has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from retl.connectors.sql.merge import STAGED, TableMerge
from retl.connectors.sql.statement import Step, query
from retl.connectors.sqlite.catalog import SQLiteTable, UniqueIndex
from retl.connectors.sqlite.dialect import affinity
from retl.connectors.sqlite.session import CHECK_ROWS
from retl.model.actions import Action
from retl.model.schema import native_type

_BLAMED = re.compile(r" constraint failed: (?:.*\.)?([^.]+)$")
_PARKED = {
    "TEXT": "'retl ' || HEX(RANDOMBLOB(16))",
    "BLOB": "RANDOMBLOB(16)",
    "INTEGER": "-4611686018427387904 - ABS(RANDOM() / 2)",
    "REAL": "-4611686018427387904 - ABS(RANDOM() / 2)",
    "NUMERIC": "-4611686018427387904 - ABS(RANDOM() / 2)",
}


class SQLiteMerge(TableMerge):
    """Merges one stage into one table."""

    hashes = False

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        existing = self.load.existing
        self._table = existing if isinstance(existing, SQLiteTable) else SQLiteTable(existing.columns)
        self._collations = self._key_collations()

    # Keys by a collation ----------------------------------------------------

    def clashes(self, exchanging: bool, most: int) -> Step[list[tuple[int, str]]]:
        """Rows whose key equals that of another row, of the table or earlier in the slice, only by a collation."""
        if not self._collations:
            return []
        other = self.differ(list(self._collations))
        taken = f"SELECT {STAGED}.rowid FROM {self.source} JOIN {self.table} ON {self.same()} WHERE {other}"
        key = ", ".join(f"{self.staged[name]} COLLATE {how}" for name, how in self._collations.items())
        place = f"ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY {STAGED}.rowid)"
        alike = f"SELECT r FROM (SELECT {STAGED}.rowid AS r, {place} AS place FROM {self.source}) WHERE place > 1"
        rows = yield query(f"{taken} UNION {alike}")
        how = ", ".join(sorted(set(self._collations.values()) - {"BINARY"}))
        reason = f"the key of another row is the same to the target, which compares it by the collation {how}"
        return [(row, reason) for (row,) in rows]

    def _key_collations(self) -> dict[str, str]:
        """The collation of each column of the key; empty if it compares bytes."""
        for index in self._table.indexes if self.load.keyed else ():
            columns = self._columns_of(index)
            collations = dict(zip(columns, index.collations, strict=False))
            if (
                index.unique_columns is not None
                and set(columns) == set(self.key)
                and set(collations.values()) != {"BINARY"}
            ):
                return collations
        return {}

    def _columns_of(self, index: UniqueIndex) -> list[str]:
        return [name for name in index.columns if name is not None]

    # Values that rows pass on -----------------------------------------------

    def exchange(self) -> list[str]:
        """Park the values of changing rows that other staged rows need."""
        parking = [self._parking(columns) for columns in self._parkable()]
        return ["PRAGMA ignore_check_constraints = 1", *parking, CHECK_ROWS] if parking else []

    def _parkable(self) -> list[list[str]]:
        """The written columns of the unique indexes besides the key."""
        if not self.keyed or Action.UPDATE in self.blacklist:
            return []
        found = ([name for name in self._columns_of(index) if name in self.staged] for index in self._table.indexes)
        return [written for written in found if set(written) - set(self.key)]

    def _parking(self, columns: Sequence[str]) -> str:
        free = [name for name in columns if name not in self.key]
        nullable = [name for name in free if self.fields[name].nullable]
        name = (nullable or free)[0]
        value = "NULL" if nullable else _PARKED[affinity(native_type(self.fields[name]))]
        wanted = ", ".join(self.staged[column] for column in columns)
        return (
            f"{self.dialect.update} {self.table} SET {self.dialect.identifier(name)} = {value} FROM {self.source} "
            f"WHERE {self.same()} AND ({self.differ(columns)}) "
            f"AND ({', '.join(map(self.at, columns))}) IN (SELECT {wanted} FROM {self.source})"
        )

    def rejected_column(self, reason: str) -> str:
        found = _BLAMED.search(reason)
        return found[1] if found else ""

    # Triggers ---------------------------------------------------------------

    def dropped(self, changed: int) -> Step[int]:
        """Rows that a trigger has silently left out, by RAISE(IGNORE)."""
        if not self._table.triggers or Action.INSERT in self.blacklist:
            return 0
        if not self.keyed:
            ((rows,),) = yield query(f"SELECT COUNT(*) FROM {self.stage()}")
            return int(rows) - changed
        absent = f"NOT EXISTS (SELECT 1 FROM {self.table} WHERE {self.same()})"
        ((rows,),) = yield query(f"SELECT COUNT(*) FROM {self.source} WHERE {absent}")
        return int(rows)
