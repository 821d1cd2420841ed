"""Looking at files from outside, as a reader of theirs would."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from retl.model.checkpoint import Checkpoint


class Row(NamedTuple):
    """A row of the tables that these tests sync."""

    id: int
    at: datetime | None
    text: str | None


class File(ABC):
    """A database file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Any = None

    @abstractmethod
    def _connect(self) -> Any:
        """A connection of the driver's own."""

    @abstractmethod
    def tables(self) -> list[str]:
        """The names of all tables."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the file open for several looks."""
        if self._open is not None or not self.path.exists():
            yield
            return
        with closing(self._connect()) as self._open:
            yield
        self._open = None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT."""
        if self._open is not None:
            return self._open.execute(sql).fetchall()  # type: ignore[no-any-return]
        with closing(self._connect()) as connection:
            return connection.execute(sql).fetchall()  # type: ignore[no-any-return]

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements, each with its many values, in one transaction."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN")
            for sql, values in statements:
                self._execute_many(connection, sql, values)
            connection.execute("COMMIT")

    @abstractmethod
    def _execute_many(self, connection: Any, sql: str, values: list[tuple[Any, ...]]) -> None:
        """One statement with its many values."""


class SQLiteLook(File):
    """A SQLite file."""

    def _connect(self) -> Any:
        return sqlite3.connect(self.path, isolation_level=None)

    def tables(self) -> list[str]:
        return [name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]

    def _execute_many(self, connection: Any, sql: str, values: list[tuple[Any, ...]]) -> None:
        connection.executemany(sql, [tuple(map(plain, row)) for row in values])


class DuckDBLook(File):
    """A DuckDB file."""

    def _connect(self) -> Any:
        return duckdb.connect(str(self.path), config={"threads": 1})

    def tables(self) -> list[str]:
        return [name for (name,) in self.query("SELECT table_name FROM duckdb_tables() ORDER BY table_name")]

    def _execute_many(self, connection: Any, sql: str, values: list[tuple[Any, ...]]) -> None:
        start, found, row = sql.partition("VALUES ")
        if found:  # all at once: DuckDB would take a millisecond for each row
            connection.execute(
                start + found + ", ".join([row] * len(values)), [value for row in values for value in row]
            )
        else:
            connection.executemany(sql, values)


def look_at(path: Path) -> File:
    """A file, by its ending."""
    return DuckDBLook(path) if path.suffix == ".duckdb" else SQLiteLook(path)


def plain(value: Any) -> Any:
    """A value as SQLite keeps it."""
    return value.isoformat(sep=" ", timespec="microseconds") if isinstance(value, datetime) else value


def rows(file: File, table: str) -> list[Row]:
    """All rows of a table, sorted; doubled ones are there twice."""
    found = file.query(f'SELECT id, "at", "text" FROM "{table}" ORDER BY id')
    return [Row(id, datetime.fromisoformat(at) if isinstance(at, str) else at, text) for id, at, text in found]


def checkpoint(file: File, table: str) -> Checkpoint:
    """What the store in a file remembers of a table."""
    if not file.path.exists() or "retl_checkpoints" not in file.tables():
        return Checkpoint()
    bodies = file.query(f"SELECT body FROM retl_checkpoints WHERE table_name = '{table}'")
    return msgspec.json.decode(bodies[0][0], type=Checkpoint) if bodies else Checkpoint()
