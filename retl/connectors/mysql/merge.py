"""The staging table of a slice, and the statements that move its rows into the target. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retl.connectors.mysql.catalog import CatalogTable, Column, TableName
from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.types import BITS
from retl.model.actions import Action, Write
from retl.model.plan import WriteSpec
from retl.model.schema import collation

DIALECT = MySQLDialect()
_NUMBER = "BIGINT UNSIGNED NOT NULL"
CHECK_KEYS = "SET SESSION foreign_key_checks = 1"
_EXACT = frozenset({*BITS, "decimal", "bit", "year", "date", "datetime", "timestamp", "time", "json"})
"""Types whose equal values are the same; and JSON, since MySQL does not overwrite a value with an equal one."""


@dataclass(frozen=True)
class Stage:
    """A temporary table with the target's columns: the server drops it with the connection, so a crash leaves nothing."""

    table: str
    kept: str
    """A second table for the numbers of some rows: no statement may open a temporary table twice."""
    columns: tuple[Column, ...]

    @property
    def row(self) -> str:
        """The column that numbers the staged rows in their order."""
        return self.helper("retl_row")

    def helper(self, name: str) -> str:
        """A column name that no column of the user has."""
        taken = {column.name.lower() for column in self.columns}
        while name in taken:
            name += "_"
        return name

    def create(self) -> str:
        definitions = ", ".join(column.definition() for column in self.columns)
        columns = f"{self.row} {_NUMBER} AUTO_INCREMENT PRIMARY KEY, {definitions}"
        return f"CREATE TEMPORARY TABLE {self.table} ({columns}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC"

    def empty_kept(self) -> list[str]:
        """The second table, empty. It is seldom needed."""
        return [
            f"DROP TEMPORARY TABLE IF EXISTS {self.kept}",
            f"CREATE TEMPORARY TABLE {self.kept} ({self.row} {_NUMBER} PRIMARY KEY) ENGINE=InnoDB",
        ]


class Merge:
    """The SQL that merges staged rows into a table. ``names`` are the columns to write."""

    def __init__(self, spec: WriteSpec, known: CatalogTable, stage: Stage, names: Sequence[str]) -> None:
        self._spec = spec
        self._stage = stage
        self._names = list(names)
        self._known = known
        self._target = known.name.sql
        # ON DUPLICATE KEY treats a clash in any unique index as the same row, and miscounts system-versioned rows.
        self._several = len(known.unique) > 1 or known.versioned
        self._columns = {name: known.column(name) for name in names}
        # If two spellings are one key to both systems, a key may change its spelling like any value.
        respelled = {name for name in spec.key if not self._columns[name].exact} if respells(spec, known) else set()
        self._rest = [name for name in names if name not in spec.key or name in respelled]

    def statements(self, condition: str) -> list[str]:
        """The statements that move the rows of a condition; their counts tell what changed."""
        spec = self._spec
        rows = f"{self._stage.table} AS s"
        if spec.table.write is Write.APPEND:
            return [f"{self._insert()} FROM {rows} WHERE {condition}"]
        rest, may_update = self._rest, self._may_update
        if Action.INSERT in spec.blacklist:
            return [self._update(rest, condition)] if may_update else []
        if self._several:
            updates = [self._update(rest, f"{self._differs()} AND {condition}")] if may_update else []
            absent = f"{self._key('t')} IS NULL AND {condition}"
            return [
                *updates,
                f"{self._insert()} FROM {rows} LEFT JOIN {self._target} AS t ON {self._same()} WHERE {absent}",
            ]
        sets = (
            self._sets(self._target, rest) if may_update else f"{self._key(self._target)} = {self._key(self._target)}"
        )
        # Rows that the target holds already, byte for byte, are not written; no user's table is named retl_t.
        held = f"LEFT JOIN {self._target} AS retl_t ON {self._same('retl_t')} AND NOT {self._differs('retl_t')}"
        chosen = f"{self._key('retl_t')} IS NULL AND {condition}"
        return [f"{self._insert()} FROM {rows} {held} WHERE {chosen} ON DUPLICATE KEY UPDATE {sets}"]

    @property
    def _may_update(self) -> bool:
        return Action.UPDATE not in self._spec.blacklist and bool(self._rest)

    @property
    def compares(self) -> bool:
        """Whether the statements themselves skip rows that the target holds already."""
        upserts = self._spec.table.write is Write.UPSERT and Action.INSERT not in self._spec.blacklist
        return upserts and (self._may_update or not self._several)

    def drop_unchanged(self) -> list[str]:
        """Removes the staged rows that the target holds already, byte for byte, so that they are not written.

        Their numbers are looked up first: a DELETE would lock the target's rows for that. The last statement tells how many.
        """
        same = f"{self._same()} AND NOT {self._differs()}"
        table, kept, row = self._stage.table, self._stage.kept, self._stage.row
        return [
            *self._stage.empty_kept(),
            f"INSERT INTO {kept} SELECT s.{row} FROM {table} AS s JOIN {self._target} AS t ON {same}",
            f"DELETE s FROM {table} AS s JOIN {kept} AS k ON k.{row} = s.{row}",
        ]

    def other_spellings(self, most: int) -> str:
        """Finds rows whose key equals a different key of the target."""
        different = " OR ".join(f"NOT ({self._equal(name)})" for name in self._spec.key)
        theirs = ", ".join(f"t.{name}" for name in map(DIALECT.identifier, self._spec.key))
        return (
            f"SELECT s.{self._stage.row}, {theirs} FROM {self._stage.table} AS s JOIN {self._target} AS t ON {self._same()} "
            f"WHERE {different} ORDER BY s.{self._stage.row} LIMIT {most}"
        )

    def take_off(self, rows: Sequence[int]) -> str:
        return f"DELETE FROM {self._stage.table} WHERE {self._stage.row} IN ({', '.join(map(str, rows))})"

    def parking(self, *, has_triggers: bool) -> list[str]:
        """Frees the values of changing rows in other unique indexes, so that rows may exchange them; empty if that would
        lose something."""
        key = {name.lower() for name in self._spec.key}
        others = [taken for index in self._known.unique if (taken := {name.lower() for name in index.columns}) != key]
        if not others or not self._may_update or self._spec.table.write is Write.APPEND:
            return []
        rows = f"{self._target} AS t JOIN {self._stage.table} AS s ON {self._same()}"
        may_be_null = [name for name in self._rest if self._columns[name].nullable]
        freed = [next((name for name in may_be_null if name.lower() in taken), None) for taken in others]
        if None not in freed:
            sets = ", ".join(f"t.{DIALECT.identifier(str(name))} = NULL" for name in dict.fromkeys(freed))
            differs = " OR ".join(f"NOT ({self._equal(n)})" for n in self._rest if n.lower() in set().union(*others))
            return [f"UPDATE {rows} SET {sets} WHERE {differs}"]
        written = len(self._names) == sum(not column.generated for column in self._known.columns)
        watched = has_triggers or self._known.children
        if not written or watched or self._spec.blacklist & {Action.INSERT, Action.DELETE}:
            return []
        # The rows return under their keys: foreign keys to them must neither stop this nor cascade.
        return ["SET SESSION foreign_key_checks = 0", f"DELETE t FROM {rows} WHERE {self._differs()}", CHECK_KEYS]

    def _differs(self, target: str = "t") -> str:
        """A condition: some written column has another value in the target."""
        return f"NOT ({' AND '.join(self._equal(name, target) for name in self._names)})"

    def _equal(self, name: str, target: str = "t") -> str:
        """A condition: a column has the same value in both, to its last byte."""
        column, word = DIALECT.identifier(name), self._columns[name].stored.word
        bytes_ = f"CAST({target}.{column} AS BINARY) <=> CAST(s.{column} AS BINARY)"
        if word in _EXACT:
            return f"{target}.{column} <=> s.{column}"
        # The text of a number may be rounded; but only the text shows the sign of zero.
        return f"{target}.{column} <=> s.{column} AND {bytes_}" if word in ("float", "double") else bytes_

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

    def _same(self, target: str = "t") -> str:
        return " AND ".join(f"{target}.{name} = s.{name}" for name in map(DIALECT.identifier, self._spec.key))

    def _key(self, table: str) -> str:
        return f"{table}.{DIALECT.identifier(self._spec.key[0])}"

    # Duplicate keys --------------------------------------------------------

    @property
    def _keys(self) -> str:
        return ", ".join(DIALECT.identifier(name) for name in self._spec.key)

    def repeated(self) -> str:
        """Finds a duplicate key."""
        return f"SELECT {self._keys} FROM {self._stage.table} GROUP BY {self._keys} HAVING COUNT(*) > 1 LIMIT 1"

    def same_to_the_target(self) -> str:
        """Finds different keys that are one key to the target."""
        return f"{self.repeated()[: -len(' LIMIT 1')]} AND COUNT(DISTINCT {_exactly(self._spec.key)}) > 1 LIMIT 1"

    def doubtful(self) -> str:
        """Finds a key with several newest rows that differ."""
        content = self._stage.helper("content")
        newest = self._ranked(f", {_exactly(self._names)} AS {content}")
        return f"SELECT {self._keys} FROM {newest} GROUP BY {self._keys} HAVING COUNT(DISTINCT {content}) > 1 LIMIT 1"

    def keep_newest(self) -> list[str]:
        """Keep one row for each key: one with the highest cursor."""
        table, kept, row = self._stage.table, self._stage.kept, self._stage.row
        return [
            *self._stage.empty_kept(),
            f"INSERT INTO {kept} SELECT MIN({row}) FROM {self._ranked('')} GROUP BY {self._keys}",
            f"DELETE s FROM {table} AS s LEFT JOIN {kept} AS k ON k.{row} = s.{row} WHERE k.{row} IS NULL",
        ]

    def _ranked(self, more: str) -> str:
        cursor = self._spec.cursor
        # Without a cursor all rows of a key are the newest: order by something that is the same in all of them.
        order = f"{DIALECT.identifier(cursor)} DESC" if cursor else self._keys
        rank = self._stage.helper("place")
        place = f"RANK() OVER (PARTITION BY {self._keys} ORDER BY {order}) AS {rank}"
        return f"(SELECT {self._stage.row}, {self._keys}{more}, {place} FROM {self._stage.table}) AS ranked WHERE {rank} = 1"


class Mirror(Merge):
    """The SQL that makes a table hold the rows of its shadow and no others, and writes only what differs."""

    def __init__(self, spec: WriteSpec, known: CatalogTable, shadow: TableName, names: Sequence[str]) -> None:
        columns = tuple(known.column(name) for name in names)
        super().__init__(spec, known, Stage(shadow.sql, "", columns), names)
        # The spelling of a key is a value too.
        self._rest = [name for name in names if name not in spec.key or not self._columns[name].exact]

    @property
    def gone(self) -> str:
        """The rows of the table that the shadow lacks, behind a SELECT or a DELETE."""
        return f"FROM {self._target} AS t LEFT JOIN {self._stage.table} AS s ON {self._same()} WHERE {self._key('s')} IS NULL"

    def statements(self, parking: Sequence[str] = ()) -> list[str]:
        rows = f"{self._stage.table} AS s LEFT JOIN {self._target} AS t ON {self._same()}"
        found = [f"DELETE t {self.gone}", *self._set_apart(), *parking]
        if self._rest:
            found.append(self._update(self._rest, self._differs()))
        return [*found, f"{self._insert()} FROM {rows} WHERE {self._key('t')} IS NULL"]

    def _set_apart(self) -> list[str]:
        """MySQL overwrites no JSON value with an equal one, such as 1 with 1.0: it is taken away first."""
        found = []
        for name in (name for name in self._rest if self._columns[name].stored.word == "json"):
            column, away = DIALECT.identifier(name), "NULL" if self._columns[name].nullable else "'null'"
            found.append(
                f"UPDATE {self._target} AS t JOIN {self._stage.table} AS s ON {self._same()} SET t.{column} = {away} "
                f"WHERE t.{column} = s.{column} AND NOT ({self._equal(name)})"
            )
        return found

    def _equal(self, name: str, target: str = "t") -> str:
        if self._columns[name].stored.word != "json":
            return super()._equal(name, target)
        mine, theirs = (f"CAST(CAST({side}.{DIALECT.identifier(name)} AS CHAR) AS BINARY)" for side in (target, "s"))
        return f"{mine} <=> {theirs}"


def respells(spec: WriteSpec, known: CatalogTable) -> bool:
    """Whether the source compares keys as the target does."""
    loose = [name for name in spec.key if not known.column(name).exact]
    return all(collation(spec.schema.field(name)) == known.column(name).collation for name in loose)


def _exactly(names: Sequence[str]) -> str:
    """Some columns as one value, which differs if any of them does."""
    texts = ", ".join(f"QUOTE(CAST({DIALECT.identifier(name)} AS BINARY))" for name in names)
    return f"SHA2(CONCAT_WS(',', {texts}), 256)"
