"""A database with the engine's side of a scan, for tests that look at what a target did."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from retl.connectors import PostgreSQL
from tests.integration import scene
from tests.servers.postgres import PostgresServer, rows
from tests.servers.sql import Row


class Scene(scene.Scene):
    """One database of a server; ``session`` plays one owner of the pipeline."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server = server
        self.database = database
        self.user = server.as_documented(database)

    def run(self, *statements: str) -> list[Row]:
        """Run statements one after another as the user of the target; the rows of the last one."""
        return self._run(self.user, statements)

    def run_as_admin(self, *statements: str) -> list[Row]:
        """The same as a superuser."""
        return self._run(self.server, statements)

    def _run(self, server: PostgresServer, statements: tuple[str, ...]) -> list[Row]:
        found: list[Row] = []
        with closing(server.connect(self.database)) as connection:
            for statement in statements:
                found = rows(connection, statement)
        return found

    def rows(self, table: str, columns: str = "*") -> list[Row]:
        """All rows, sorted."""
        return sorted(self.run(f"SELECT {columns} FROM {table}"), key=repr)

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        found = self.run("SELECT CAST(relname AS text) FROM pg_class WHERE relkind IN ('r', 'p') ORDER BY 1")
        return [name for (name,) in found if not name.startswith(("retl_", "pg_", "sql_"))]

    def types(self, table: str) -> dict[str, str]:
        """The columns' types as the server spells them."""
        return dict(
            self.run(
                "SELECT CAST(attname AS text), format_type(atttypid, atttypmod) FROM pg_attribute "
                f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            )
        )

    def make_loose_collation(self) -> None:
        """A collation ``loose`` that calls Ann and ann one text."""
        how = "provider = icu, locale = 'und-u-ks-level2', deterministic = false"
        try:
            self.run_as_admin(f"CREATE COLLATION loose ({how})")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this server was built without ICU")

    def wal(self) -> int:
        """Where the log ends, in bytes: the difference of two is what was written in between."""
        ((position,),) = self.run_as_admin("SELECT CAST(pg_current_wal_insert_lsn() - '0/0' AS bigint)")
        return int(position)

    def options(self, **words: Any) -> PostgreSQL:
        """As a user with the rights that the docs ask for, and no others."""
        return PostgreSQL(self.user.url(self.database), **words)


def column(name: str, kind: pa.DataType, native: str = "", *, nullable: bool = True) -> pa.Field:
    """A column of a batch; ``native`` is its type at the source."""
    return pa.field(name, kind, nullable=nullable, metadata={b"retl.native": native.encode()} if native else None)


ID = column("id", pa.int64(), nullable=False)


def with_id(*fields: pa.Field) -> pa.Schema:
    return pa.schema([ID, *fields])
