"""PostgreSQL as a source: one snapshot for the bounds, the counts and the rows of a scan."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Self

import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.postgres import parallel
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.options import home, search_path
from retl.connectors.postgres.parallel import Ahead, Readers, SharedSnapshot, parts, side_by_side
from retl.connectors.postgres.reader import PostgresReader
from retl.connectors.postgres.settings import reading
from retl.connectors.postgres.snapshot import Snapshot
from retl.connectors.postgres.statements import open_statements
from retl.connectors.sql.door import RunStatement, SqlDoor
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.source import SqlSource
from retl.connectors.sql.zones import zone
from retl.model.checkpoint import Checkpoint
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.postgres import PostgreSQL

SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
_STORED = ("r", "p", "m")


class PostgresScan(SqlScan[PostgresReader]):
    """One scan. What was counted is what must come, where the snapshot holds all of it."""

    _oid = 0
    """Of the table; 0 for what is not stored."""

    @classmethod
    async def begin(cls, reader: PostgresReader, table: TableSpec, checkpoint: Checkpoint) -> Self:
        scan = await super().begin(reader, table, checkpoint)
        found = reader.tables.get(table.name) if table.query is None else None
        # A view may call functions, and a foreign table knows nothing of the snapshot.
        stored = found is not None and found.kind in _STORED
        whole = all(slice_.modulus == 1 for slice_ in scan.plan.slices)
        warnings = (*scan.plan.warnings, _policies(table.name)) if found and found.row_security else scan.plan.warnings
        scan.plan = dataclasses.replace(scan.plan, exact_rows=stored and whole, warnings=warnings)
        scan._oid = found.oid if found is not None and stored else 0
        return scan

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(await self._begun(slice_)) as batches:
            async for batch in batches:
                yield batch

    async def _begun(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of a slice: by parts side by side, or read ahead; where neither pays, over one connection."""
        shared = self._reader.shared
        if shared is None or not shared.may_be_shared or (self.plan.rows or 0) < parallel.LARGE_ROWS:
            return super().read(slice_)
        await shared.share(self._oid)
        if len(self.plan.slices) > 1:
            return self._in_turn(slice_, shared)
        conditions = parts(shared.blocks, 1 + len(shared.helpers))
        if len(conditions) == 1 or self._table.where is not None or self._table.cursor is not None:
            return super().read(slice_)
        statements = [f"{self.statement(slice_)} WHERE {condition}" for condition in conditions]
        return side_by_side([await self._reader.connection(), *shared.helpers], statements, self._schema)

    def _in_turn(self, slice_: Slice, shared: SharedSnapshot) -> AsyncGenerator[pa.RecordBatch, None]:
        if shared.ahead is None:
            shared.ahead = Ahead(shared.helpers, list(map(self.statement, self.plan.slices)), self._schema)
        turn = self.plan.slices.index(slice_)
        taken = shared.ahead.taken(turn)
        if taken is None:
            shared.ahead.begin(turn)
        return taken or super().read(slice_)


class PostgresSource(SqlDoor, SqlSource):
    """Reads PostgreSQL. See ``retl.connectors.PostgreSQL``."""

    system: ClassVar[str] = "postgres"
    dialect = PostgresReader.dialect
    scan: ClassVar[type[SqlScan[PostgresReader]]] = PostgresScan

    def __init__(self, options: PostgreSQL) -> None:
        settings = reading(
            search_path(options.schema), options.seconds("lock_timeout"), options.seconds("statement_timeout")
        )
        self._login = options.login("source", settings)
        self._pool = options.pool(self._open, server=options.server())
        self._home = home(options.schema)
        self._zone = zone(options.timezone, self.system)
        self._shift: list[timedelta] = []
        self._readers = Readers(options.parallel_reads)

    async def _open(self) -> PostgresConnection:
        return await PostgresConnection.open(self._login)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[PostgresReader, None]:
        async with self._pool.control(begin=lambda kept: kept.begin(SNAPSHOT)) as connection, connection.begun():

            async def lent() -> PostgresConnection:
                return connection

            yield PostgresReader(lent, self._home, self._zone, self._shift)

    @asynccontextmanager
    async def connect_scan(self) -> AsyncGenerator[PostgresReader, None]:
        async with self._pool.reserve() as reservation:
            snapshot = Snapshot(reservation, SNAPSHOT)
            shared = SharedSnapshot(self._pool, snapshot, SNAPSHOT, self._readers)
            try:
                yield PostgresReader(snapshot.connection, self._home, self._zone, self._shift, shared)
            finally:
                await shielded(shared.leave())
            await snapshot.end()

    def open_sql(self) -> AbstractAsyncContextManager[RunStatement]:
        return open_statements(self._pool)

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
