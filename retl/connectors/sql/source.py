"""A source that is asked in SQL: a door, each of whose scans has a connection of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from retl.connectors.base import Source
from retl.connectors.sql.reader import SqlReader
from retl.connectors.sql.scan import SqlScan
from retl.model.checkpoint import Checkpoint
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.base import Manifest


class SqlSource(Source):
    """A source that is asked in SQL."""

    ranges: ClassVar[bool] = True
    scan: ClassVar[type[SqlScan[Any]]] = SqlScan

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[SqlReader]:
        """A reader for the length of a block."""

    def connect_scan(self) -> AbstractAsyncContextManager[SqlReader]:
        """The same for a scan, which may take long."""
        return self.connect()

    async def list_tables(self) -> list[str]:
        async with self.connect() as reader:
            return await reader.list_tables()

    async def describe(self, table: str) -> TableSchema | None:
        async with self.connect() as reader:
            return await reader.describe(table)

    async def location(self, table: str) -> str | None:
        async with self.connect() as reader:
            return await reader.location(table)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SqlScan[Any], None]:
        async with self.connect_scan() as reader:
            yield await self.scan.begin(reader, table, checkpoint)
