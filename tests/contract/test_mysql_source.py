"""MySQL and MariaDB, held to the contract of a source."""

from __future__ import annotations

from contextlib import closing
from typing import ClassVar

import pyarrow as pa
import pytest

from retl.connectors import MySQL
from retl.connectors.base import Source
from retl.testing import SourceContract
from tests.servers.database import Server


class TestMySQLSource(SourceContract):
    most_batch_rows: ClassVar[int] = 65_536  # a batch is what came in two megabytes, however small the rows are

    @pytest.fixture(autouse=True)
    def _server(self, server: Server, database: str) -> None:
        self.at = server
        self.database = database

    def source(self) -> Source:
        return MySQL(self.at.url(self.database)).source()

    async def create(self, table: str, rows: pa.Table) -> None:
        await self.at.run(
            f"CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200), updated_at DATETIME(6))",
            database=self.database,
        )
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        with closing(self.at.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.executemany(f"REPLACE INTO {table} VALUES (%s, %s, %s)", values)

    async def drop(self, table: str) -> None:
        await self.at.run(f"DROP TABLE {table}", database=self.database)

    def unreachable(self) -> Source:
        return MySQL("mysql://nobody@127.0.0.1:1/nowhere", password="secret").source()
