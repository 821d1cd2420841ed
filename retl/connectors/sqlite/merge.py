"""Staged rows into a table, inside the caller's transaction: what is there is changed, what is refused is found.

SQLite checks uniqueness row by row, so rows that exchange a unique value, or pass it on,
would be refused though the table is right in the end. Where that happens the values in
question are parked first: replaced by NULL, or by something that nobody else has.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from retl.connectors.rows.rejects import bisect
from retl.connectors.sql.dialect import any_of
from retl.connectors.sql.tables import Merge, merge
from retl.connectors.sqlite.catalog import UniqueIndex, inspect, unique_indexes
from retl.connectors.sqlite.dialect import TARGET_DIALECT as DIALECT
from retl.connectors.sqlite.dialect import affinity
from retl.connectors.sqlite.schema import has_triggers
from retl.model.actions import Action, PreAction, Write
from retl.model.errors import TargetError
from retl.model.plan import WriteSpec
from retl.model.schema import native_type

_STAGE = "retl_staged"
_ROW_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError)
_OF_A_ROW = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_CHECK,
        sqlite3.SQLITE_CONSTRAINT_NOTNULL,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
        sqlite3.SQLITE_CONSTRAINT_TRIGGER,
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT | 12 << 8,  # DATATYPE: a value that a STRICT table does not take
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)
"""What a row's values can cause. Whatever else SQLite refuses, the statement or the file is to blame."""
_PARKED = {
    "TEXT": "'retl ' || HEX(RANDOMBLOB(16))",
    "BLOB": "RANDOMBLOB(16)",
    "INTEGER": "-4611686018427387904 - ABS(RANDOM() / 2)",
    "REAL": "-4611686018427387904 - ABS(RANDOM() / 2)",
    "NUMERIC": "-4611686018427387904 - ABS(RANDOM() / 2)",
}


@dataclass
class Merged:
    """What a merge did. ``refused`` are the rows that were left out, as the stage had them, with their reasons."""

    changed: int = 0
    dropped: int = 0
    refused: list[tuple[tuple[Any, ...], str]] = field(default_factory=list)


class Merger:
    """Merges one stage into one table. ``staged`` are the stage's names of ``columns``."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        spec: WriteSpec,
        columns: Sequence[str],
        staged: Sequence[str],
        *,
        table: str,
        stage: str,
    ) -> None:
        existing = inspect(connection, table)
        assert existing is not None
        self._connection = connection
        self._spec = spec
        self._table = table
        self._stage = stage
        self._from = f"{stage} AS {_STAGE}"
        self._there = DIALECT.identifier(table)
        self._columns = list(columns)
        self._staged = {DIALECT.fold(name): f"{_STAGE}.{own}" for name, own in zip(columns, staged, strict=True)}
        self._fields = {DIALECT.fold(column.name): column for column in existing.columns}
        self._keyed = spec.table.write is Write.UPSERT and not spec.table.replaces
        self._indexes = unique_indexes(connection, table) if self._keyed else []
        self._key = {DIALECT.fold(name) for name in spec.key}
        self._collations = self._key_collations() if self._keyed else {}

    def run(self, most: int) -> Merged:
        """All staged rows but those that the table refuses; with more than ``most`` of them nothing is written."""
        done = Merged()
        self._take_out(done, self._keys_taken())
        self._take_out(done, self._keys_alike())
        while len(done.refused) <= most:
            try:
                done.changed = self.write()
            except _ROW_ERRORS as error:
                found = self._find_refused(most - len(done.refused))
                if not found:
                    raise error
                self._take_out(done, found)
            else:
                done.dropped = self._count_dropped(done.changed)
                break
        return done

    def write(self) -> int:
        """Everything at once, with parked values where it takes that; returns the rows changed."""
        try:
            with self._savepoint():
                return self._execute("true")
        except _ROW_ERRORS:
            if not self._parkable():
                raise
        with self._savepoint():
            self._park()
            return self._execute("true")

    def _execute(self, condition: str) -> int:
        statements = self._statements(condition)
        both = (statements.insert, statements.update)
        return sum(self._connection.execute(sql).rowcount for sql in both if sql is not None)

    def _statements(self, condition: str) -> Merge:
        return merge(
            DIALECT,
            self._spec,
            self._columns,
            table=self._table,
            stage=self._from,
            staged=list(self._staged.values()),
            condition=condition,
            untyped={name for name in self._columns if affinity(self._native(name)) == "BLOB"},
        )

    def _native(self, name: str) -> str:
        return native_type(self._fields[DIALECT.fold(name)])

    @contextmanager
    def _savepoint(self, *, keep: bool = True) -> Iterator[None]:
        self._connection.execute("SAVEPOINT retl_merge")
        try:
            yield
        except BaseException as error:
            if not self._connection.in_transaction:
                raise TargetError(
                    f"a trigger of {self._table!r} rolled the whole transaction back ({error}).",
                    remedy="write RAISE(ABORT, ...) in the trigger: then a row that it does not want is refused alone.",
                    system="sqlite",
                ) from error
            keep = False
            if isinstance(error, _ROW_ERRORS) and error.sqlite_errorcode not in _OF_A_ROW:
                raise TargetError(f"{error}.", system="sqlite") from error
            raise
        finally:
            if self._connection.in_transaction:
                if not keep:
                    self._connection.execute("ROLLBACK TO retl_merge")
                self._connection.execute("RELEASE retl_merge")

    # Refused rows -----------------------------------------------------------

    def _take_out(self, done: Merged, found: Sequence[tuple[int, str]]) -> None:
        names = ", ".join(self._staged.values())
        for rowid, reason in found:
            one = f"{self._from} WHERE {_STAGE}.rowid = {rowid}"
            done.refused.append((self._connection.execute(f"SELECT {names} FROM {one}").fetchone(), reason))
            self._connection.execute(f"DELETE FROM {one}")

    def _find_refused(self, most: int) -> list[tuple[int, str]]:
        first, last = self._connection.execute(f"SELECT MIN(rowid), MAX(rowid) FROM {self._stage}").fetchone()
        with self._savepoint(keep=False):
            if self._parkable():
                with suppress(*_ROW_ERRORS), self._savepoint():
                    self._park()
            search = bisect(first, last, most)
            low, high = next(search, (first, last))
            while True:
                reason = self._try(f"{_STAGE}.rowid BETWEEN {low} AND {high}")
                try:
                    low, high = search.send(reason)
                except StopIteration as end:
                    found: list[tuple[int, str]] = end.value
                    return found

    def _try(self, condition: str) -> str | None:
        """Why some rows are refused; ``None`` where they are taken, and stay."""
        try:
            with self._savepoint():
                self._execute(condition)
        except _ROW_ERRORS as error:
            return str(error)
        return None

    def _keys_taken(self) -> list[tuple[int, str]]:
        """Rows whose key another row of the table has, but only in the eyes of a collation."""
        if not self._collations:
            return []
        other = any_of([DIALECT.differs(self._at(name), self._staged[name]) for name in self._collations])
        return self._refused_by_collation(
            f"SELECT {_STAGE}.rowid FROM {self._from} JOIN {self._there} ON {self._same()} WHERE {other}"
        )

    def _keys_alike(self) -> list[tuple[int, str]]:
        """Of staged rows that a collation takes for one, all but the first."""
        if not self._collations:
            return []
        key = ", ".join(f"{self._staged[name]} COLLATE {how}" for name, how in self._collations.items())
        place = f"ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY {_STAGE}.rowid)"
        return self._refused_by_collation(
            f"SELECT r FROM (SELECT {_STAGE}.rowid AS r, {place} AS place FROM {self._from}) WHERE place > 1"
        )

    def _refused_by_collation(self, sql: str) -> list[tuple[int, str]]:
        how = ", ".join(sorted(set(self._collations.values()) - {"BINARY"}))
        reason = f"the key of another row is the same to the target, which compares it by the collation {how}"
        return [(rowid, reason) for (rowid,) in self._connection.execute(sql).fetchall()]

    def _key_collations(self) -> dict[str, str]:
        """How each column of the key is compared; nothing where that is by its bytes."""
        for index in self._indexes:
            columns = [DIALECT.fold(name) for name in index.columns if name is not None]
            collations = dict(zip(columns, map(str.upper, index.collations), strict=False))
            if index.plain is not None and set(columns) == self._key and set(collations.values()) != {"BINARY"}:
                return collations
        return {}

    def _at(self, name: str) -> str:
        return f"{self._there}.{DIALECT.identifier(name)}"

    def _same(self) -> str:
        """Whether a row of the table and a staged one have one key."""
        return " AND ".join(f"{self._at(name)} = {self._staged[name]}" for name in sorted(self._key))

    def _count_dropped(self, changed: int) -> int:
        """Rows that a trigger has left out without a word, by RAISE(IGNORE)."""
        if not has_triggers(self._connection, self._table) or Action.INSERT in self._spec.blacklist:
            return 0
        if not self._keyed:
            (rows,) = self._connection.execute(f"SELECT COUNT(*) FROM {self._stage}").fetchone()
            return int(rows) - changed
        absent = f"NOT EXISTS (SELECT 1 FROM {self._there} WHERE {self._same()})"
        (rows,) = self._connection.execute(f"SELECT COUNT(*) FROM {self._from} WHERE {absent}").fetchone()
        return int(rows)

    # Values that rows pass on -----------------------------------------------

    def _parkable(self) -> list[tuple[UniqueIndex, list[str]]]:
        """The unique indexes beside the key, each with those of its columns that are written."""
        if not self._keyed or Action.UPDATE in self._spec.blacklist:
            return []
        found = []
        for index in self._indexes:
            columns = [DIALECT.fold(name) for name in index.columns if name is not None]
            written = [name for name in columns if name in self._staged]
            if set(written) - self._key:
                found.append((index, written))
        return found

    def _park(self) -> None:
        """Take the values away that other staged rows want, from rows that are about to get other ones."""
        self._connection.execute("PRAGMA ignore_check_constraints = 1")
        try:
            for _, columns in self._parkable():
                self._connection.execute(self._parking(columns))
        finally:
            self._connection.execute("PRAGMA ignore_check_constraints = 0")

    def _parking(self, columns: Sequence[str]) -> str:
        free = [name for name in columns if name not in self._key]
        nullable = [name for name in free if self._fields[name].nullable]
        name = (nullable or free)[0]
        value = "NULL" if nullable else _PARKED[affinity(self._native(name))]
        changed = any_of([DIALECT.differs(self._at(column), self._staged[column]) for column in columns])
        wanted = ", ".join(self._staged[column] for column in columns)
        return (
            f"{DIALECT.update} {self._there} SET {DIALECT.identifier(name)} = {value} FROM {self._from} "
            f"WHERE {self._same()} AND ({changed}) "
            f"AND ({', '.join(map(self._at, columns))}) IN (SELECT {wanted} FROM {self._from})"
        )


def put_in_place(connection: sqlite3.Connection, spec: WriteSpec, table: str, shadow: str) -> None:
    """Make a table what its shadow is, row by row, so that its triggers see just what changes."""
    existing = inspect(connection, table)
    assert existing is not None
    columns = [name for name in existing.columns.names if name not in existing.generated]
    key = existing.spelled(spec.key, DIALECT).keys
    keyed = bool(spec.key) and frozenset(spec.key) in key
    there, new = DIALECT.identifier(table), DIALECT.identifier(shadow)
    gone = ""
    if keyed:
        same = " AND ".join(
            f"{new}.{name} = {there}.{name} AND {new}.{name} IS {there}.{name} COLLATE BINARY"
            for name in map(DIALECT.identifier, spec.key)
        )
        gone = f" WHERE NOT EXISTS (SELECT 1 FROM {new} WHERE {same})"
    connection.execute(f"DELETE FROM {there}{gone}")
    upserted = replace(spec.table, pre_action=PreAction.NONE, write=Write.UPSERT if keyed else Write.APPEND)
    upsert = replace(spec, table=upserted)
    staged = [DIALECT.identifier(name) for name in columns]
    Merger(connection, upsert, columns, staged, table=table, stage=new).write()
    connection.execute(f"DROP TABLE {new}")
