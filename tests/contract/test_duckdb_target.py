"""DuckDB, held to the contract of a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from retl.connectors import DuckDB
from retl.connectors.base import Target
from retl.testing import TargetContract


class TestDuckDBTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "target.duckdb"

    def target(self) -> Target:
        return DuckDB(str(self.path)).target()

    # The target's own instance of the file is shared: DuckDB lets nobody else look meanwhile.

    async def contents(self, table: str) -> list[dict[str, Any]]:
        if table not in await self.tables():
            return []
        with duckdb.connect(str(self.path)) as connection:
            found = connection.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in found.description or []]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    async def tables(self) -> list[str]:
        with duckdb.connect(str(self.path)) as connection:
            found = connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND NOT temporary ORDER BY 1"
            ).fetchall()
        return [name for (name,) in found if not name.startswith("retl_")]

    def unreachable(self) -> Target:
        return DuckDB(str(self.path.parent / "missing" / "target.duckdb")).target()
