"""PostgreSQL, held to the contract of a target."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg.rows
import pytest

from retl.connectors import PostgreSQL
from retl.connectors.base import Target
from retl.testing import TargetContract
from tests.servers.postgres import PostgresServer
from tests.servers.process import free_port


class TestPostgresTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def _database(self, pg: PostgresServer, pg_database: str) -> None:
        self.server = pg
        self.database = pg_database
        self.url = pg.as_documented(pg_database).url(pg_database)

    def target(self) -> Target:
        return PostgreSQL(self.url).target()

    async def contents(self, table: str) -> list[dict[str, Any]]:
        if table not in await self.tables():
            return []
        with (
            closing(self.server.connect(self.database)) as connection,
            connection.cursor(row_factory=psycopg.rows.dict_row) as cursor,
        ):
            return cursor.execute(f'SELECT * FROM "{table}"'.encode()).fetchall()

    async def tables(self) -> list[str]:
        found = self.server.query(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'", database=self.database
        )
        return sorted(name for (name,) in found if not name.startswith("retl_"))

    def unreachable(self) -> Target:
        return PostgreSQL(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing").target()
