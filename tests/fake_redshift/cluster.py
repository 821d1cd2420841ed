"""A cluster as tests see it: a real one that a variable names, or the stand-in. Its SQL goes through Amazon's own driver."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import quote

import anyio.to_thread
import redshift_connector

Row = tuple[Any, ...]


class Cluster:
    """Address, and two users: one makes tables, the other one reads what it is granted."""

    def __init__(
        self, host: str, port: int, database: str, admin: tuple[str, str], reader: tuple[str, str] | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.database = database
        self.admin = admin
        self.reader = reader or admin
        self.options: dict[str, Any] = {}
        """Of the driver."""

    def url(self, **parameters: str) -> str:
        """That of the reader, with the password."""
        user, password = (quote(word, safe="") for word in self.reader)
        query = "?" + "&".join(f"{name}={value}" for name, value in parameters.items()) if parameters else ""
        return f"redshift://{user}:{password}@{self.host}:{self.port}/{self.database}{query}"

    def connect(self, who: tuple[str, str] | None = None, **options: Any) -> Any:
        """A session by Amazon's own driver, the administrator's unless told otherwise; it commits each statement."""
        user, password = who or self.admin
        # With a limit (1,000 when unset) the driver fails at the first statement beyond it, instead of forgetting one.
        words: dict[str, Any] = {"max_prepared_statements": 0, **self.options, **options}
        found = redshift_connector.connect(
            host=self.host, port=self.port, database=self.database, user=user, password=password, **words
        )
        found.autocommit = True
        return found

    def query(self, sql: str) -> list[Row]:
        """One statement of the administrator; its rows."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    async def run(self, sql: str) -> list[Row]:
        """``query`` in a thread: scans go on meanwhile."""
        return await anyio.to_thread.run_sync(self.query, sql)

    @contextlib.contextmanager
    def fresh_schema(self) -> Iterator[str]:
        """A schema whose tables the reader may read, dropped afterwards."""
        name = f"retl_{secrets.token_hex(6)}"
        self.query(f"CREATE SCHEMA {name}")
        self.query(f"GRANT USAGE ON SCHEMA {name} TO {self.reader[0]}")
        self.query(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT SELECT ON TABLES TO {self.reader[0]}")
        try:
            yield name
        finally:
            self.query(f"DROP SCHEMA {name} CASCADE")


def written(value: Any) -> str:
    """A value as SQL that a cluster takes, inside VALUES."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace("'", "''")
    return f"'{text}'"


def insert(server: Cluster, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """INSERT rows of Python's values."""
    for first in range(0, len(rows), 500):
        values = (f"({', '.join(map(written, row))})" for row in rows[first : first + 500])
        server.query(f"INSERT INTO {table} VALUES {', '.join(values)}")
