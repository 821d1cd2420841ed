"""DuckDB as a target: one instance of the file, and a connection of it for each load."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from retl.connectors.base import SystemInfo
from retl.connectors.duckdb import catalog
from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.file import DuckDBFile
from retl.connectors.duckdb.loader import DuckDBLoader
from retl.connectors.duckdb.merge import DuckDBMerge
from retl.connectors.duckdb.session import DuckDBSession
from retl.connectors.duckdb.store import DuckDBStore
from retl.connectors.duckdb.types import TYPES
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.refresh import TableDefinition
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Step
from retl.connectors.sql.tables import ExistingTable, TableName, TypeMap
from retl.connectors.sql.target import SqlTarget
from retl.model.errors import ConfigError
from retl.model.plan import BatchSize, WriteSpec
from retl.state.base import StateStore

if TYPE_CHECKING:
    from retl.connectors.duckdb import DuckDB

_KEEP_IDLE = 0.5
"""Seconds for which the file stays open after its last use: other processes want it between two ticks."""


class DuckDBTarget(SqlTarget):
    """Writes a DuckDB file. See ``retl.connectors.DuckDB``."""

    system: ClassVar[str] = "duckdb"
    batch_size = BatchSize(rows=122_880, bytes=8 * 1024 * 1024)  # as many rows as DuckDB keeps in a group
    one_writer: ClassVar[bool] = True
    dialect = DIALECT
    merges = DuckDBMerge

    def __init__(self, options: DuckDB) -> None:
        if options.path is None:
            raise ConfigError(
                "a DuckDB target needs a path: what is written to memory would be gone after the run.",
                remedy='name the file, such as path = "warehouse.duckdb".',
                system="duckdb",
            )
        self._file = DuckDBFile(options, read_only=False, keep_idle=_KEEP_IDLE)
        self._store = DuckDBStore(self._file)

    @asynccontextmanager
    async def questions(self) -> AsyncGenerator[Session, None]:
        yield DuckDBSession(self._file)

    async def connect(self) -> Session:
        return DuckDBSession(self._file, await self._file.open_cursor())

    async def give_back(self, session: Session) -> None:
        await session.close()

    async def ping(self) -> SystemInfo:
        return await self._file.ping()

    async def location(self, table: str) -> str | None:
        name = catalog.locate(table)
        return await self._file.location(str(name.schema), name.name)

    def state_store(self) -> StateStore:
        return self._store

    async def aclose(self) -> None:
        await self._file.close()

    # Tables -----------------------------------------------------------------

    def locate(self, table: str) -> TableName:
        return catalog.locate(table)

    def find(self, name: TableName) -> Step[ExistingTable | None]:
        return (yield from catalog.inspect(name))

    def table_names(self, name: TableName) -> Step[list[str]]:
        return (yield from catalog.table_names(name))

    def define(self, existing: ExistingTable) -> Step[TableDefinition]:
        return (yield from catalog.define(existing))

    def check(self, spec: WriteSpec, name: TableName, existing: ExistingTable | None) -> Step[Sequence[str]]:
        if name.name.lower().startswith(("retl_", "_retl_")):
            raise ConfigError(f"{name.name!r} is a reserved name.", remedy="choose another name with to.")
        yield from catalog.check_table(spec, name)
        return []

    def check_insert(self, name: TableName, columns: Sequence[str]) -> Step[None]:
        return
        yield  # a step

    def types(self, existing: ExistingTable | None) -> TypeMap:
        return TYPES

    def loader(self, load: PreparedLoad) -> BulkLoader:
        return DuckDBLoader(load)
