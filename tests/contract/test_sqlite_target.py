"""SQLite, held to the contract of a target."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from retl.connectors import SQLite
from retl.connectors.base import Target
from retl.connectors.sqlite import loader
from retl.testing import TargetContract


class TestSQLiteTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "target.db"

    def target(self) -> Target:
        return SQLite(str(self.path)).target()

    async def contents(self, table: str) -> list[dict[str, Any]]:
        if table not in await self.tables():
            return []
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]
        for row in rows:
            row["updated_at"] = row["updated_at"] and datetime.fromisoformat(row["updated_at"])
        return rows

    async def tables(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return [name for (name,) in found if not name.startswith(("retl_", "sqlite_"))]

    def unreachable(self) -> Target:
        return SQLite(str(self.path.parent / "missing" / "target.db")).target()


class TestSQLiteTargetThatStagesOnDisk(TestSQLiteTarget):
    """Every slice is too large for memory."""

    @pytest.fixture(autouse=True)
    def _no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader, "_MEMORY_BYTES", 0)
