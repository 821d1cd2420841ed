"""The staging table of a slice, and the statements that move its rows into the target. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.schema import Column, Known
from retl.model.actions import Action, Write
from retl.model.plan import Load

DIALECT = MySQLDialect()
ROW = "retl_row"
"""The number of a staged row, in the order in which rows came."""
_NUMBER = f"{ROW} BIGINT UNSIGNED NOT NULL"


@dataclass(frozen=True)
class Stage:
    """A temporary table with the target's columns: the server drops it with the connection, so a crash leaves nothing."""

    table: str
    kept: str
    """A second one, for the numbers of the rows that stay where keys repeat: no statement may open a temporary table twice."""
    columns: tuple[Column, ...]

    def create(self) -> str:
        definitions = ", ".join(column.definition() for column in self.columns)
        columns = f"{_NUMBER} AUTO_INCREMENT PRIMARY KEY, {definitions}"
        return f"CREATE TEMPORARY TABLE {self.table} ({columns}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC"


class Merge:
    """The SQL that merges staged rows into a table. ``names`` are the columns to write."""

    def __init__(self, load: Load, known: Known, stage: Stage, names: Sequence[str]) -> None:
        self._load = load
        self._stage = stage
        self._names = list(names)
        self._target = known.place.sql
        self._several = len(known.unique) > 1

    def statements(self, condition: str) -> list[str]:
        """What moves the rows that a condition chooses; the counts of all of them say what changed."""
        load = self._load
        rows = f"{self._stage.table} AS s"
        if load.table.write is Write.APPEND:
            return [f"{self._insert()} FROM {rows} WHERE {condition}"]
        rest = [name for name in self._names if name not in load.key]
        may_update = Action.UPDATE not in load.blacklist and bool(rest)
        if Action.INSERT in load.blacklist:
            return [self._update(rest, condition)] if may_update else []
        if self._several:
            # ON DUPLICATE KEY would take a clash in any unique index for the same row.
            updates = [self._update(rest, condition)] if may_update else []
            absent = f"{self._missing()} IS NULL AND {condition}"
            return [
                *updates,
                f"{self._insert()} FROM {rows} LEFT JOIN {self._target} AS t ON {self._same()} WHERE {absent}",
            ]
        sets = (
            self._sets(self._target, rest) if may_update else f"{self._key(self._target)} = {self._key(self._target)}"
        )
        return [f"{self._insert()} FROM {rows} WHERE {condition} ON DUPLICATE KEY UPDATE {sets}"]

    def _insert(self) -> str:
        taken = ", ".join(f"s.{DIALECT.identifier(name)}" for name in self._names)
        return f"INSERT INTO {self._target} ({DIALECT.identifiers(self._names)}) SELECT {taken}"

    def _update(self, rest: Sequence[str], condition: str) -> str:
        sets = self._sets("t", rest)
        return (
            f"UPDATE {self._target} AS t JOIN {self._stage.table} AS s ON {self._same()} SET {sets} WHERE {condition}"
        )

    def _sets(self, table: str, rest: Sequence[str]) -> str:
        quoted = [DIALECT.identifier(name) for name in rest]
        return ", ".join(f"{table}.{name} = s.{name}" for name in quoted)

    def _same(self) -> str:
        return " AND ".join(f"t.{name} = s.{name}" for name in map(DIALECT.identifier, self._load.key))

    def _key(self, table: str) -> str:
        return f"{table}.{DIALECT.identifier(self._load.key[0])}"

    def _missing(self) -> str:
        return self._key("t")

    # Keys that repeat --------------------------------------------------------

    @property
    def _keys(self) -> str:
        return ", ".join(DIALECT.identifier(name) for name in self._load.key)

    def repeated(self) -> str:
        """Finds a key that is there more than once."""
        return f"SELECT {self._keys} FROM {self._stage.table} GROUP BY {self._keys} HAVING COUNT(*) > 1 LIMIT 1"

    def same_to_the_target(self) -> str:
        """Finds keys that are different, and yet one key to the target."""
        return f"{self.repeated()[: -len(' LIMIT 1')]} AND COUNT(DISTINCT {_exactly(self._load.key)}) > 1 LIMIT 1"

    def doubtful(self) -> str:
        """Finds a key whose newest row is in doubt: there are several, and they differ."""
        newest = self._ranked(f", {_exactly(self._names)} AS content")
        return f"SELECT {self._keys} FROM {newest} GROUP BY {self._keys} HAVING COUNT(DISTINCT content) > 1 LIMIT 1"

    def keep_newest(self) -> list[str]:
        """Leave one row for each key: one with the highest cursor."""
        table, kept = self._stage.table, self._stage.kept
        return [
            f"CREATE TEMPORARY TABLE {kept} ({_NUMBER} PRIMARY KEY) ENGINE=InnoDB",
            f"INSERT INTO {kept} SELECT MIN({ROW}) FROM {self._ranked('')} GROUP BY {self._keys}",
            f"DELETE s FROM {table} AS s LEFT JOIN {kept} AS k ON k.{ROW} = s.{ROW} WHERE k.{ROW} IS NULL",
            f"DROP TEMPORARY TABLE {kept}",
        ]

    def _ranked(self, more: str) -> str:
        cursor = self._load.cursor
        # Without a cursor all rows of a key are the newest: ordered by what is the same in all of them.
        order = f"{DIALECT.identifier(cursor)} DESC" if cursor else self._keys
        place = f"RANK() OVER (PARTITION BY {self._keys} ORDER BY {order}) AS place"
        return f"(SELECT {ROW}, {self._keys}{more}, {place} FROM {self._stage.table}) AS ranked WHERE place = 1"


def _exactly(names: Sequence[str]) -> str:
    """Some columns as one value that is different wherever any of them differs."""
    texts = ", ".join(f"QUOTE(CAST({DIALECT.identifier(name)} AS BINARY))" for name in names)
    return f"SHA2(CONCAT_WS(',', {texts}), 256)"
