"""Looking at files from outside, as a reader of theirs would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import msgspec

from retl.model.checkpoint import Checkpoint


class Row(NamedTuple):
    """A row of the tables that these tests sync."""

    id: int
    at: datetime | None
    text: str | None


class File(Protocol):
    """A database file."""

    path: Path

    def tables(self) -> list[str]:
        """The names of all tables."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT."""

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements with their many values in one transaction."""


class SQLiteLook:
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> list[str]:
        return [name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for sql, values in statements:
                connection.executemany(sql, [tuple(map(plain, row)) for row in values])


class DuckDBLook:
    """A DuckDB file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path), config={"threads": 1}) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> list[str]:
        return [name for (name,) in self.query("SELECT table_name FROM duckdb_tables() ORDER BY table_name")]

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        with duckdb.connect(str(self.path), config={"threads": 1}) as connection:
            connection.execute("BEGIN")
            for sql, values in statements:
                for row in values:
                    connection.execute(sql, list(row))
            connection.execute("COMMIT")


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
