"""A database with the engine's side of a scan, for tests that look at what a target did."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from retl.connectors import MySQL
from tests.integration import scene
from tests.servers.database import Server
from tests.servers.sql import Row


class Scene(scene.Scene):
    """One database of a server; ``session`` plays one owner of the pipeline."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database
        self.mariadb = server.product == "MariaDB"

    def run(self, *statements: str) -> list[Row]:
        """Run statements one after another; the rows of the last one."""
        rows: list[Row] = []
        connection = self.server.connect(self.database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                    rows = list(cursor.fetchall())
        finally:
            connection.close()
        return rows

    def rows(self, table: str, columns: str = "*") -> list[Row]:
        """All rows, sorted."""
        return sorted(self.run(f"SELECT {columns} FROM {table}"), key=repr)

    async def many(self, table: str) -> list[Row]:
        """All rows, sorted, read in a thread: what watches for blocking calls makes each of a test's own slow."""
        return sorted(await self.server.run(f"SELECT * FROM {table}", database=self.database))

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        return sorted(name for (name,) in self.run("SHOW TABLES") if not name.startswith("retl_"))

    def types(self, table: str) -> dict[str, str]:
        """The columns' types as the server spells them."""
        return {name: kind for name, kind, *_ in self.run(f"SHOW COLUMNS FROM {table}")}

    def options(self, **words: Any) -> MySQL:
        """As a user with the rights that the docs ask for, and no others."""
        server = self.server.as_documented(self.database) if self.database else self.server
        return MySQL(server.url(self.database), **words)


def texts(schema: pa.Schema, *rows: tuple[str | None, ...]) -> pa.RecordBatch:
    """Rows of a schema as canonical text."""
    return pa.RecordBatch.from_arrays(
        [pa.array(values, pa.string()) for values in zip(*rows, strict=True)], schema.names
    )
