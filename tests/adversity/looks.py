"""Looking at databases from outside, as a reader of theirs would."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import psycopg
import pymysql

from retl.model.checkpoint import Checkpoint
from tests.servers import postgres
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer

PATIENCE = 60.0


class Row(NamedTuple):
    """A row of the tables that these tests sync."""

    id: int
    at: datetime | None
    text: str | None


class Look(ABC):
    """A database. Names in its SQL stand in double quotes, values are question marks."""

    time_type = "DATETIME"
    """The type of a column with microseconds."""
    text_type = "MEDIUMTEXT"
    """That of one with long text."""
    ddl_commits = False
    """Whether a crash may come between a statement of DDL and the note of it."""

    @property
    @abstractmethod
    def address(self) -> str:
        """As a ``Job`` takes it."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a database at all."""

    @abstractmethod
    def remove(self) -> None:
        """The database as it was before anything was written."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the database open for several looks."""
        yield

    def settle(self) -> None:
        """Wait until nothing goes on any more for processes that are dead."""
        return None

    @abstractmethod
    def tables(self) -> list[str]:
        """The names of all tables."""

    @abstractmethod
    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT."""

    @abstractmethod
    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements, each with its many values, in one transaction."""


class File(Look):
    """A database file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Any = None

    @property
    def address(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def remove(self) -> None:
        for file in self.path.parent.glob(f"{self.path.name}*"):
            file.unlink()

    @abstractmethod
    def _connect(self) -> Any:
        """A connection of the driver's own."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        if self._open is not None or not self.exists():
            yield
            return
        with closing(self._connect()) as self._open:
            yield
        self._open = None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self._open is not None:
            return self._open.execute(sql).fetchall()  # type: ignore[no-any-return]
        with closing(self._connect()) as connection:
            return connection.execute(sql).fetchall()  # type: ignore[no-any-return]

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
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

    time_type = "TIMESTAMP"

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


class ServerLook(Look):
    """A database of a MySQL or MariaDB server, through a connection that is kept until ``close``."""

    time_type = "DATETIME(6)"
    ddl_commits = True

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database
        self._connection: pymysql.Connection | None = None

    @property
    def address(self) -> str:
        return self.server.url(self.database)

    def exists(self) -> bool:
        return True

    def remove(self) -> None:
        for name in self.tables():
            self.query(f'DROP TABLE "{name}"')

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(pymysql.Error):
                connection.close()

    def sessions(self) -> list[tuple[Any, ...]]:
        """Whoever else has this database open: number, command and statement."""
        return self.query(
            "SELECT id, command, info FROM information_schema.processlist "
            f"WHERE db = '{self.database}' AND id <> CONNECTION_ID()"
        )

    def settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while left := self.sessions():
            assert time.monotonic() < deadline, f"sessions without a client: {left}"
            time.sleep(0.001)

    def tables(self) -> list[str]:
        return [name for (name,) in self.query("SHOW TABLES")]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self._open().cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        connection = self._open()
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            for sql, values in statements:
                cursor.executemany(sql.replace("?", "%s"), values)
            cursor.execute("COMMIT")

    def _open(self) -> pymysql.Connection:
        """A server that was started anew has forgotten the connection."""
        if self._connection is not None:
            try:
                self._connection.ping(reconnect=False)
            except pymysql.Error:
                self.close()
        if self._connection is None:
            self._connection = self.server.connect(self.database, init_command="SET sql_mode = 'ANSI_QUOTES'")
        return self._connection


class PostgresLook(Look):
    """A database of a PostgreSQL server, through a connection that is kept until ``close``."""

    time_type = "timestamp"
    text_type = "text"

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server = server
        self.database = database
        self._connection: psycopg.Connection | None = None

    @property
    def address(self) -> str:
        return self.server.url(self.database)

    def exists(self) -> bool:
        return True

    def remove(self) -> None:
        for name in self.tables():
            self.query(f'DROP TABLE "{name}" CASCADE')

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def settle(self) -> None:
        others = (
            "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        deadline = time.monotonic() + PATIENCE
        while left := self.query(others):
            assert time.monotonic() < deadline, f"sessions without a client: {left}"
            time.sleep(0.001)

    def tables(self) -> list[str]:
        found = self.query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [name for (name,) in found]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return postgres.rows(self._open(), sql)

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        connection = self._open()
        with connection.transaction(), connection.cursor() as cursor:
            for sql, values in statements:
                cursor.executemany(sql.replace("?", "%s").encode(), values)

    def _open(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.server.connect(self.database)
        return self._connection


def look_at(path: Path) -> File:
    """A file, by its ending."""
    return DuckDBLook(path) if path.suffix == ".duckdb" else SQLiteLook(path)


@contextmanager
def look_at_new(server: Server) -> Iterator[ServerLook]:
    """An empty database of a server, which is dropped afterwards."""
    with server.fresh_database() as database, closing(ServerLook(server, database)) as look:
        yield look


@contextmanager
def look_at_new_postgres(server: PostgresServer) -> Iterator[PostgresLook]:
    """The same of a PostgreSQL."""
    with server.fresh_database() as database, closing(PostgresLook(server, database)) as look:
        yield look


def plain(value: Any) -> Any:
    """A value as SQLite keeps it."""
    return value.isoformat(sep=" ", timespec="microseconds") if isinstance(value, datetime) else value


def rows(look: Look, table: str) -> list[Row]:
    """All rows of a table, sorted; doubled ones are there twice."""
    found = look.query(f'SELECT id, "at", "text" FROM "{table}" ORDER BY id')
    return [Row(id, datetime.fromisoformat(at) if isinstance(at, str) else at, text) for id, at, text in found]


def checkpoint(look: Look, table: str) -> Checkpoint:
    """What the store in a database remembers of a table."""
    if not look.exists() or "retl_checkpoints" not in look.tables():
        return Checkpoint()
    bodies = look.query(f"SELECT body FROM retl_checkpoints WHERE table_name = '{table}'")
    return msgspec.json.decode(bodies[0][0], type=Checkpoint) if bodies else Checkpoint()
