"""Looking at databases from outside, as a reader of theirs would."""

from __future__ import annotations

import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import duckdb
import msgspec
import psycopg
import pymysql

from retl.model.checkpoint import Checkpoint
from tests.fake_redshift import Cluster, written
from tests.servers import postgres, redshift
from tests.servers.postgres import PostgresServer
from tests.servers.sql import SqlServer

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

    @property
    def options(self) -> dict[str, Any]:
        """What a connector has to be told besides the address."""
        return {}

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
    """A database of a server, through a connection that is kept until ``close``."""

    others: ClassVar[str]
    """Asks for whoever else has this database open: number, and what he does."""
    cascade: ClassVar[str] = ""

    def __init__(self, server: SqlServer, database: str) -> None:
        self.server = server
        self.database = database
        self._connection: Any = None

    @property
    def address(self) -> str:
        return self.server.url(self.database)

    def exists(self) -> bool:
        return True

    def remove(self) -> None:
        for name in self.tables():
            self.query(f'DROP TABLE "{name}"{self.cascade}')

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(self.server.driver_error):
                connection.close()

    def sessions(self) -> list[tuple[Any, ...]]:
        """Whoever else has this database open."""
        return self.query(self.others)

    def settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while left := self.sessions():
            assert time.monotonic() < deadline, f"sessions without a client: {left}"
            time.sleep(0.001)


class MySQLLook(ServerLook):
    """A database of a MySQL or MariaDB server."""

    time_type = "DATETIME(6)"
    ddl_commits = True
    others = (
        "SELECT id, command, info FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    )

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
        connection: pymysql.Connection = self._connection
        return connection


class PostgresLook(ServerLook):
    """A database of a PostgreSQL server."""

    time_type = "timestamp"
    text_type = "text"
    cascade = " CASCADE"
    others = (
        "SELECT pid, state, query FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )

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
        """A server that was started anew has forgotten the connection."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT 1")
            except psycopg.Error:
                self.close()
        if self._connection is None:
            self._connection = self.server.connect(self.database)
        connection: psycopg.Connection = self._connection
        return connection


class RedshiftLook(Look):
    """A schema of a Redshift, as its administrator; it is only a source."""

    time_type = "TIMESTAMP"
    text_type = "VARCHAR(65535)"

    def __init__(self, cluster: Cluster, schema: str) -> None:
        self._cluster = cluster
        self._schema = schema
        self._connection = cluster.connect()
        self.query(f"SET search_path TO {schema}")

    @property
    def address(self) -> str:
        return self._cluster.url()

    @property
    def options(self) -> dict[str, Any]:
        return {"schema": self._schema, **redshift.trust(self._cluster)}

    def exists(self) -> bool:
        return True

    def remove(self) -> None:
        raise AssertionError("nobody writes a source but the test")

    def close(self) -> None:
        self._connection.close()

    def tables(self) -> list[str]:
        raise AssertionError("nobody writes a source but the test")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def write(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        self.query("BEGIN")
        for sql, values in statements:
            start, inserts, row = sql.partition("VALUES ")
            filled = [_filled(row if inserts else sql, each) for each in values]
            for each in [start + inserts + ", ".join(filled)] if inserts else filled:
                self.query(each)
        self.query("COMMIT")


def _filled(sql: str, values: tuple[Any, ...]) -> str:
    """A statement with its values in place of the question marks."""
    left = [written(value) for value in reversed(values)]
    return re.sub(r"\?", lambda _: left.pop(), sql)


def look_at(path: Path) -> File:
    """A file, by its ending."""
    return DuckDBLook(path) if path.suffix == ".duckdb" else SQLiteLook(path)


@contextmanager
def look_at_new(server: SqlServer) -> Iterator[ServerLook]:
    """An empty database of a server, which is dropped afterwards."""
    look = PostgresLook if isinstance(server, PostgresServer) else MySQLLook
    with server.fresh_database() as database, closing(look(server, database)) as opened:
        yield opened


@contextmanager
def look_at_schema(cluster: Cluster) -> Iterator[RedshiftLook]:
    """The same of a Redshift: a schema."""
    with cluster.fresh_schema() as schema, closing(RedshiftLook(cluster, schema)) as look:
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
