"""SQLite, held to the contract of a source."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from retl.connectors import SQLite
from retl.connectors.base import Source
from retl.testing import SourceContract


class TestSQLiteSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "source.db"

    def source(self) -> Source:
        return SQLite(str(self.path)).source()

    async def create(self, table: str, rows: pa.Table) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                f"CREATE TABLE {table} (id INTEGER NOT NULL PRIMARY KEY, name TEXT, updated_at TIMESTAMP)"
            )
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        texts = rows.set_column(2, "updated_at", rows["updated_at"].cast(pa.string()))
        values = zip(*(column.to_pylist() for column in texts.columns), strict=True)
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", values)

    async def drop(self, table: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f"DROP TABLE {table}")

    def unreachable(self) -> Source:
        return SQLite(str(self.path.parent / "missing.db")).source()
