"""What MySQL needs instead of ON CONFLICT: an upsert that skips unchanged rows, keys by a collation, and values and
references that rows pass on to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from retl.connectors.mysql import rights
from retl.connectors.mysql.catalog import MySQLTable
from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.loader import column_of
from retl.connectors.mysql.prepared import MySQLLoad, respells
from retl.connectors.mysql.session import CHECK_KEYS, SKIP_KEYS
from retl.connectors.rows.text import json_text
from retl.connectors.sql.loader import Stage
from retl.connectors.sql.merge import STAGED, TableMerge
from retl.connectors.sql.statement import Statement, Step, query
from retl.model.actions import Action

_TABLE = "retl_t"
"""The alias of the table; no user's table has that name."""


class MySQLMerge(TableMerge):
    """Merges one stage into one table. Of a mirror (``exact``) the stage is the shadow."""

    dialect: MySQLDialect
    load: MySQLLoad
    hashes = False
    delete = f"DELETE {_TABLE}"

    def __init__(self, *arguments: Any, row: str = "", **words: Any) -> None:
        """``row``: the column that numbers the staged rows."""
        super().__init__(*arguments, **words)
        self._row = row
        self._known: MySQLTable = self.load.existing
        self._loose = [name for name in self.key if not self._known.column(name).exact]
        # If two spellings are one key to both systems, a key may change its spelling like any value.
        self._respells = self.exact or respells(self.load.spec, self._known)
        free = self._loose if self._respells else []
        self.rest = [name for name in self.staged if name not in self.key or name in free]
        self._has_triggers = self._known.may_have_triggers

    # Statements -------------------------------------------------------------

    @property
    def rows(self) -> str:
        """The table as FROM names it."""
        return f"{self.table} AS {_TABLE}"

    def at(self, name: str) -> str:
        return f"{_TABLE}.{self.dialect.identifier(name)}"

    def upsert(self, condition: str) -> list[str]:
        # ON DUPLICATE KEY treats a clash in any unique index as the same row, and miscounts system-versioned rows.
        if self.exact or len(self._known.unique) > 1 or self._known.versioned:
            return self.update_and_insert(condition)
        key = self.dialect.identifier(self.key[0])
        sets = self._assign(self.table, self.staged) if self.updates else f"{self.table}.{key} = {self.table}.{key}"
        # Rows that the target holds already, byte for byte, are not written.
        held = f" LEFT JOIN {self.rows} ON {self.same()} AND {self._held()}"
        chosen = f"{self.at(self.key[0])} IS NULL AND {condition}"
        return [f"{self.insert(chosen, joined=held)} ON DUPLICATE KEY UPDATE {sets}"]

    def insert_new(self, condition: str) -> str:
        absent = f"{self.at(self.key[0])} IS NULL AND {condition}"
        return self.insert(absent, joined=f" LEFT JOIN {self.rows} ON {self.same()}")

    def update(self, condition: str) -> str:
        sets, changed = self._assign(_TABLE, self.staged), self.differ(self.rest)
        return f"UPDATE {self.rows} JOIN {self.source} ON {self.same()} SET {sets} WHERE {changed} AND {condition}"

    def _assign(self, table: str, values: Mapping[str, str]) -> str:
        return ", ".join(f"{table}.{self.dialect.identifier(name)} = {values[name]}" for name in self.rest)

    def gone(self) -> str:
        absent = f"{self.staged[self.key[0]]} IS NULL"
        return f"FROM {self.rows} LEFT JOIN {self.source} ON {self.same()} WHERE {absent}"

    def delete_scope(self, column: str, values: tuple[str, ...]) -> Statement:
        marks = ", ".join("?" * len(values))
        within, given = f"{self.at(column)} IN ({marks})", values
        if not self._known.column(column).exact:
            # Its collation may call another name the same; the index is of use all the same.
            within, given = f"{within} AND CAST({self.at(column)} AS BINARY) IN ({marks})", (*values, *values)
        return Statement(f"{self.delete} FROM {self.rows} WHERE {within}{self._unstaged}", given)

    def differ(self, names: Sequence[str]) -> str:
        return f"NOT ({self._held(names)})"

    def _held(self, names: Sequence[str] | None = None) -> str:
        """Whether the table holds a staged row, to the last byte."""
        compared = [name for name in self.staged if name not in self.key or name in self._loose]
        return " AND ".join(map(self._same_value, compared if names is None else names)) or "TRUE"

    def _same_value(self, name: str) -> str:
        left, right, word = self.at(name), self.staged[name], self._word(name)
        if word == "json" and self.exact:
            left, right, word = f"CAST({left} AS CHAR)", f"CAST({right} AS CHAR)", "longtext"
        return self.dialect.same(left, right, word)

    def _word(self, name: str) -> str:
        return self._known.column(name).stored.word

    def set_apart(self) -> list[str]:
        """MySQL overwrites no JSON value with an equal one, such as 1 with 1.0: it is taken away first."""
        found = []
        for name in (name for name in self.rest if self._word(name) == "json"):
            away = "NULL" if self._known.column(name).nullable else "'null'"
            rows = f"{self.rows} JOIN {self.source} ON {self.same()}"
            equal = f"{self.at(name)} = {self.staged[name]} AND {self.differ([name])}"
            found.append(f"UPDATE {rows} SET {self.at(name)} = {away} WHERE {equal}")
        return found

    # Keys by a collation ----------------------------------------------------

    @property
    def _may_clash(self) -> bool:
        return self.keyed and bool(self._loose) and not self._respells

    def identity(self, stage: Stage) -> list[str]:
        if not self._may_clash:
            return super().identity(stage)
        return [f"CAST({name} AS BINARY)" for name in super().identity(stage)]

    def clashes(self, exchanging: bool, most: int) -> Step[list[tuple[int, str]]]:
        """Rows whose key is another one's to the target alone: that of its own row, else of an earlier row of the slice."""
        if not self._may_clash:
            return []
        theirs = ", ".join(map(self.at, self.key))
        rows = f"{self.source} JOIN {self.rows} ON {self.same()} WHERE {self.differ(self._loose)}"
        found = yield query(f"SELECT {STAGED}.{self._row}, {theirs} FROM {rows} ORDER BY 1 LIMIT {most}")
        if not found:
            found = yield query(self._alike(most))
        return [(int(number), _same_as(json_text(dict(zip(self.key, key, strict=True))))) for number, *key in found]

    def _alike(self, most: int) -> str:
        keys = [self.staged[name] for name in self.key]
        window = f"(PARTITION BY {', '.join(keys)} ORDER BY {STAGED}.{self._row})"
        first = ", ".join(f"FIRST_VALUE({key}) OVER {window} AS retl_k{number}" for number, key in enumerate(keys))
        numbered = f"SELECT {STAGED}.{self._row} AS retl_r, {first}, ROW_NUMBER() OVER {window} AS retl_place"
        names = ", ".join(f"retl_k{number}" for number, _ in enumerate(keys))
        return (
            f"SELECT retl_r, {names} FROM ({numbered} FROM {self.source}) AS ranked WHERE retl_place > 1 LIMIT {most}"
        )

    def rejected_column(self, reason: str) -> str:
        return column_of(reason, self.fields)

    # Values that rows pass on -----------------------------------------------

    def may_exchange(self) -> Step[bool]:
        if self._known.sees_triggers is None and not self._known.triggers:
            self._has_triggers = not (yield from rights.sees_triggers(self.load.target))
        return bool(self.exchange() or self._references())

    def exchange(self) -> list[str]:
        """Frees the values of changing rows in other unique indexes; empty if that would lose something."""
        others = [set(index.columns) for index in self._known.unique if set(index.columns) != set(self.key)]
        if not others or not self.keyed or not self.updates:
            return []
        rows = f"{self.rows} JOIN {self.source} ON {self.same()}"
        freed = [self._nullable(columns) for columns in others]
        if None not in freed:
            sets = ", ".join(f"{self.at(name)} = NULL" for name in dict.fromkeys(freed) if name)
            written = [name for name in self.rest if name in set().union(*others)]
            return [f"UPDATE {rows} SET {sets} WHERE {self.differ(written)}"]
        whole = len(self.staged) == sum(not column.generated for column in self._known.described)
        watched = self._has_triggers or self._known.children
        if not whole or watched or self.blacklist & {Action.INSERT, Action.DELETE}:
            return []
        # The rows return under their keys: foreign keys to them must neither stop this nor cascade.
        return [SKIP_KEYS, f"{self.delete} FROM {rows} WHERE {self.differ(self.rest)}", CHECK_KEYS]

    def _nullable(self, columns: set[str]) -> str | None:
        """A written column of these that may be NULL."""
        return next((name for name in self.rest if name in columns and self._known.column(name).nullable), None)

    # References of rows to each other ---------------------------------------

    def _references(self) -> list[str]:
        """For a mirror: nullable columns of foreign keys of the table to itself."""
        columns = dict.fromkeys(name for key in self._known.own_parents for name in key if self.exact)
        return [name for name in columns if self._known.column(name).nullable and name not in self._known.generated]

    def mirror(self, *, exchange: bool = False) -> list[str]:
        """With ``exchange``, rows let go of each other first, since a foreign key is checked row by row."""
        references = self._references() if exchange else []
        if not references:
            return super().mirror(exchange=exchange)
        written = [name for name in references if name in self.rest]
        alone = copy(self)
        alone.staged = self.staged | dict.fromkeys(written, "NULL")
        updates = [self.update("TRUE")] if self.rest else []
        rows = [f"{self.delete} {self.gone()}", *self.set_apart(), *self.exchange(), alone.insert_new("TRUE"), *updates]
        return [*self._let_go(references, written), *rows]

    def _let_go(self, references: Sequence[str], written: Sequence[str]) -> list[str]:
        """What goes lets go of everything; what changes, of what it is given anew."""
        gone = f"{self.staged[self.key[0]]} IS NULL"
        chosen = {gone: references, self.differ(self.rest): written} if written else {gone: references}
        return [
            f"UPDATE {self.rows} LEFT JOIN {self.source} ON {self.same()} "
            f"SET {', '.join(f'{self.at(name)} = NULL' for name in names)} WHERE {condition}"
            for condition, names in chosen.items()
        ]


def _same_as(key: str) -> str:
    return f"to the target its key is that of another row, {key}, which differs only in case, accents or spaces"
