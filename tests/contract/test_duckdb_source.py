"""DuckDB, held to the contract of a source."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb
import pyarrow as pa
import pytest

from retl.connectors import DuckDB
from retl.connectors.base import Source
from retl.testing import SourceContract


class TestDuckDBSource(SourceContract):
    changes_meanwhile: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "source.duckdb"

    def source(self) -> Source:
        return DuckDB(str(self.path)).source()

    async def create(self, table: str, rows: pa.Table) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute(f"CREATE TABLE {table} (id BIGINT PRIMARY KEY, name VARCHAR, updated_at TIMESTAMP)")
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.register("given", rows)
            connection.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM given")

    async def drop(self, table: str) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute(f"DROP TABLE {table}")

    def unreachable(self) -> Source:
        return DuckDB(str(self.path.parent / "missing.duckdb")).source()
