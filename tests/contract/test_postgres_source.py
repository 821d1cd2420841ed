"""PostgreSQL 15 and 18, held to the contract of a source."""

from __future__ import annotations

from contextlib import closing
from typing import ClassVar

import pyarrow as pa
import pytest

from retl.connectors import PostgreSQL
from retl.connectors.base import Source
from retl.testing import SourceContract
from tests.servers.postgres import PostgresServer


class TestPostgresSource(SourceContract):
    keeps_tables: ClassVar[bool] = True  # by its snapshot
    most_batch_rows: ClassVar[int] = 262_144  # a batch is what came in a megabyte, however small the rows are

    @pytest.fixture(autouse=True)
    def _server(self, pg: PostgresServer, pg_database: str) -> None:
        self.at = pg
        self.database = pg_database
        self.reader = pg.as_reader(pg_database)

    def source(self) -> Source:
        return PostgreSQL(self.reader.url(self.database)).source()

    async def create(self, table: str, rows: pa.Table) -> None:
        await self.at.run(
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, name varchar(200), updated_at timestamp)",
            database=self.database,
        )
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        upsert = f"INSERT INTO {table} VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET name = excluded.name, updated_at = excluded.updated_at"
        with closing(self.at.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.executemany(upsert.encode(), values)

    async def drop(self, table: str) -> None:
        await self.at.run(f"DROP TABLE {table}", database=self.database)

    def unreachable(self) -> Source:
        return PostgreSQL("postgresql://nobody@127.0.0.1:1/nowhere", password="secret").source()
