"""Rows of one slice that exchange or pass on unique values: seats 1A and 1B.

DuckDB checks uniqueness by vectors of rows, so an update of many rows may fail on the way
though its end would be right. Then the rows that change are taken out and put in again, in
the one transaction of the commit; what would clash in the end is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.stage import STAGE
from retl.connectors.sql.dialect import any_of
from retl.connectors.sql.tables import ExistingTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MOVED = "temp.retl_moved"


@dataclass(frozen=True)
class Exchange:
    """One table, with the staged column of each of its columns that is written."""

    table: str
    existing: ExistingTable
    key: Sequence[str]
    staged: Mapping[str, str]
    texts: frozenset[str]

    @property
    def unique(self) -> list[list[str]]:
        """The unique keys besides the one that rows are told apart by, as far as they are written."""
        keys = [sorted(key) for key in self.existing.keys if key != frozenset(self.key)]
        return [key for key in keys if set(key) <= set(self.staged)]

    def clashing(self, connection: DuckDBPyConnection) -> Iterator[tuple[int, str]]:
        """Staged rows, and why, that would not be alone with their values in the end: of some in the slice the first stays.

        To be asked again after they were taken out: the rows of the table that they would have changed stay as they are.
        """
        for unique in self.unique:
            yield from connection.execute(f"{self._repeated(unique)} UNION ALL {self._taken(unique)}").fetchall()

    def _repeated(self, unique: Sequence[str]) -> str:
        """Those whose values another row of the slice has before them."""
        names = ", ".join(self.staged[name] for name in unique)
        given = " AND ".join(f"{self.staged[name]} IS NOT NULL" for name in unique)
        return (
            f"SELECT r, 'PRIMARY KEY or UNIQUE constraint violation: duplicate key \"' || v || '\"' FROM (SELECT rowid AS r, "
            f"concat_ws(', ', {names}) AS v, row_number() OVER (PARTITION BY {names} ORDER BY rowid) AS place "
            f"FROM {STAGE} WHERE {given}) AS s WHERE place > 1"
        )

    def _taken(self, unique: Sequence[str]) -> str:
        """Those whose values a row of the table has, and keeps."""
        told = ", ".join(f"{DIALECT.string(f'{name}: ')} || s.{self.staged[name]}" for name in unique)
        return (
            f"SELECT s.rowid, 'Duplicate key \"' || concat_ws(', ', {told}) || '\" violates unique constraint.' "
            f"FROM {STAGE} AS s JOIN {self.table} AS t ON {self._same(unique)} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {STAGE} AS s WHERE {self._same(self.key)})"
        )

    def move(self, connection: DuckDBPyConnection) -> int:
        """Give the rows that are there and differ their new values; returns how many they are."""
        names = [name for name in self.existing.columns.names if name not in self.existing.generated]
        shown = DIALECT.identifiers(names)
        rest = [name for name in self.staged if name not in self.key]
        differs = any_of(
            [DIALECT.differs(f"t.{DIALECT.identifier(name)}", f"s.{self.staged[name]}", untyped=name in self.texts) for name in rest]
        )  # fmt: skip
        columns = ", ".join(
            f"s.{self.staged[name]} AS {DIALECT.identifier(name)}" if name in rest else f"t.{DIALECT.identifier(name)}"
            for name in names
        )
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE retl_moved AS SELECT {columns} FROM {self.table} AS t "
            f"JOIN {STAGE} AS s ON {self._same(self.key)} WHERE {differs}"
        )
        keys = " AND ".join(f"t.{name} = m.{name}" for name in map(DIALECT.identifier, self.key))
        connection.execute(f"DELETE FROM {self.table} AS t USING {_MOVED} AS m WHERE {keys}")
        moved = connection.execute(f"INSERT INTO {self.table} ({shown}) SELECT {shown} FROM {_MOVED}").fetchall()
        connection.execute(f"DROP TABLE {_MOVED}")
        return int(moved[0][0])

    def _same(self, names: Sequence[str]) -> str:
        return " AND ".join(
            DIALECT.equals(f"t.{DIALECT.identifier(name)}", f"s.{self.staged[name]}", untyped=name in self.texts)
            for name in names
        )
