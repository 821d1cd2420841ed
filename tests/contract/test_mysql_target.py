"""MySQL and MariaDB, held to the contract of a target."""

from __future__ import annotations

from typing import Any

import pymysql.cursors
import pytest

from retl.connectors import MySQL
from retl.connectors.base import Target
from retl.testing import TargetContract
from tests.servers.database import Server
from tests.servers.process import free_port


class TestMySQLTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def _database(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database

    def target(self) -> Target:
        return MySQL(self.server.as_documented(self.database).url(self.database)).target()

    async def contents(self, table: str) -> list[dict[str, Any]]:
        if table not in await self.tables():
            return []
        with (
            self.server.connect(self.database, cursorclass=pymysql.cursors.DictCursor) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SELECT * FROM `{table}`")
            return list(cursor.fetchall())

    async def tables(self) -> list[str]:
        found = self.server.query("SHOW TABLES", database=self.database)
        return sorted(name for (name,) in found if not name.startswith("retl_"))

    def unreachable(self) -> Target:
        return MySQL(f"mysql://nobody@127.0.0.1:{free_port()}/nothing").target()
