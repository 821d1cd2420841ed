"""The staging table of a slice."""

from __future__ import annotations

import itertools
from typing import Any

from retl.connectors.mysql.catalog import DIALECT, Column
from retl.connectors.mysql.prepared import MySQLLoad
from retl.connectors.sql.loader import Stage
from retl.connectors.sql.statement import Statement, Step, query

_NUMBER = "BIGINT UNSIGNED NOT NULL"
_numbers = itertools.count(1)


class MySQLStage(Stage):
    """A temporary table with the target's columns: the server drops it with the connection, so a crash leaves nothing.

    ``kept`` is a second one for the numbers of some rows: no statement may open a temporary table twice.
    """

    def __init__(self, load: MySQLLoad, number: int | None = None) -> None:
        """``number``: tells it from the stages of other loads on the same connection."""
        self._columns: list[Column] = [load.existing.column(own) for own in load.columns.values()]
        self.names = {name: DIALECT.identifier(own) for name, own in load.columns.items()}
        self.typed = load.loose_key
        self._indexed = load.key if load.keyed and load.spec.table.scope is not None else ()
        """What the rows of a scope are compared by: neither server would do so by a hash."""
        self.row = self._row()
        end = "" if number is None else f"_{number}"
        self._table = load.target.beside(f"retl_stage{end}").sql
        self.kept = load.target.beside(f"retl_kept{end}").sql

    @classmethod
    def numbered(cls, load: MySQLLoad) -> MySQLStage:
        return cls(load, next(_numbers, 0))

    @property
    def table(self) -> str:
        return self._table

    def _row(self) -> str:
        """A name that no column of the user has."""
        taken = {column.name.lower() for column in self._columns}
        name = "retl_row"
        while name in taken:
            name += "_"
        return name

    def create(self) -> Step[None]:
        definitions = ", ".join(column.definition() for column in self._columns)
        index = f", INDEX ({DIALECT.identifiers(self._indexed)})" if self._indexed else ""
        columns = f"{self.row} {_NUMBER} AUTO_INCREMENT PRIMARY KEY, {definitions}{index}"
        yield Statement(f"CREATE TEMPORARY TABLE {self.table} ({columns}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC")

    def clear(self) -> Step[None]:
        yield Statement(f"TRUNCATE TABLE {self.table}")

    def drop(self) -> Step[None]:
        yield Statement(f"DROP TEMPORARY TABLE IF EXISTS {self.table}, {self.kept}")

    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        found = yield query(f"SELECT {', '.join(self.names.values())} FROM {self.table} WHERE {where}")
        return [dict(zip(self.names, values, strict=True)) for values in found]

    def remove(self, numbers: str) -> Step[int]:
        yield Statement(f"DROP TEMPORARY TABLE IF EXISTS {self.kept}")
        yield Statement(f"CREATE TEMPORARY TABLE {self.kept} ({self.row} {_NUMBER} PRIMARY KEY) ENGINE=InnoDB")
        yield Statement(f"INSERT INTO {self.kept} {numbers}")
        return int(
            (yield Statement(f"DELETE s FROM {self.table} AS s JOIN {self.kept} AS k ON k.{self.row} = s.{self.row}"))
        )
