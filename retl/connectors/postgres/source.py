"""PostgreSQL as a source: one snapshot for the bounds, the counts and the rows of a scan."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Self

from retl.connectors.base import SystemInfo
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.options import home, search_path
from retl.connectors.postgres.reader import PostgresReader
from retl.connectors.postgres.settings import reading
from retl.connectors.postgres.snapshot import Snapshot
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.source import SqlSource
from retl.connectors.sql.zones import zone
from retl.model.checkpoint import Checkpoint
from retl.model.table import TableSpec

if TYPE_CHECKING:
    from retl.connectors.postgres import PostgreSQL

SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
_STORED = ("r", "p", "m")


class PostgresScan(SqlScan[PostgresReader]):
    """One scan. What was counted is what must come, where the snapshot holds all of it."""

    @classmethod
    async def begin(cls, reader: PostgresReader, table: TableSpec, checkpoint: Checkpoint) -> Self:
        scan = await super().begin(reader, table, checkpoint)
        found = reader.tables.get(table.name) if table.query is None else None
        # A view may call functions, and a foreign table knows nothing of the snapshot.
        stored = found is not None and found.kind in _STORED
        whole = all(slice_.modulus == 1 for slice_ in scan.plan.slices)
        warnings = (*scan.plan.warnings, _policies(table.name)) if found and found.row_security else scan.plan.warnings
        scan.plan = dataclasses.replace(scan.plan, exact_rows=stored and whole, warnings=warnings)
        return scan


class PostgresSource(SqlSource):
    """Reads PostgreSQL. See ``retl.connectors.PostgreSQL``."""

    system: ClassVar[str] = "postgres"
    scan: ClassVar[type[SqlScan[PostgresReader]]] = PostgresScan

    def __init__(self, options: PostgreSQL) -> None:
        settings = reading(
            search_path(options.schema), options.seconds("lock_timeout"), options.seconds("statement_timeout")
        )
        self._login = options.login("source", settings)
        self._pool = options.pool(self._open)
        self._home = home(options.schema)
        self._zone = zone(options.timezone, self.system)
        self._shift: list[timedelta] = []

    async def _open(self) -> PostgresConnection:
        return await PostgresConnection.open(self._login)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[PostgresReader, None]:
        async with self._pool.control() as connection, connection.transaction(SNAPSHOT):

            async def lent() -> PostgresConnection:
                return connection

            yield PostgresReader(lent, self._home, self._zone, self._shift)

    @asynccontextmanager
    async def connect_scan(self) -> AsyncGenerator[PostgresReader, None]:
        async with self._pool.reserve() as reservation:
            snapshot = Snapshot(reservation, SNAPSHOT)
            yield PostgresReader(snapshot.connection, self._home, self._zone, self._shift)
            await snapshot.end()

    async def ping(self) -> SystemInfo:
        async with self._pool.control() as connection:
            await connection.prove()
            server = connection.server
            detail = "a replica" if server.is_replica else ""
            return SystemInfo(server.product, server.version, detail, warnings=connection.warnings)

    async def aclose(self) -> None:
        await self._pool.aclose()


def _policies(table: str) -> str:
    return (
        f"row-level security holds for the user of the source, so rows of {table!r} that its policies hide are not read: "
        "a refresh of the whole table removes them from the target. A user with BYPASSRLS sees all."
    )
