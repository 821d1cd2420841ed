"""PostgreSQL as a target: connections of a pool, staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import ClassVar

from retl.connectors.base import SystemInfo
from retl.connectors.net.pool import ConnectionPool, Reservation
from retl.connectors.postgres import catalog, direct, preflight, vectors
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.definition import define
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.existing import PostgresTable
from retl.connectors.postgres.keys import check_key, check_numbers
from retl.connectors.postgres.loader import PostgresLoader
from retl.connectors.postgres.merge import PostgresMerge
from retl.connectors.postgres.session import PostgresSession
from retl.connectors.postgres.statements import open_statements
from retl.connectors.postgres.store import PostgresStore
from retl.connectors.postgres.type_map import TYPES
from retl.connectors.postgres.writer import LoadWorker, PipelinedWriter
from retl.connectors.sql.door import RunStatement
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad, TableMerge
from retl.connectors.sql.refresh import TableDefinition
from retl.connectors.sql.session import Session
from retl.connectors.sql.staged import StagedSlice
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import ExistingTable, TableName, TypeMap
from retl.connectors.sql.target import SqlTarget
from retl.connectors.sql.writer import StagedWriter
from retl.model.errors import ConfigError
from retl.model.plan import BatchSize, WriteSpec
from retl.state.base import StateStore


class PostgresTarget(SqlTarget):
    """Writes PostgreSQL. See ``retl.connectors.PostgreSQL``."""

    system: ClassVar[str] = "postgres"
    batch_size = BatchSize(rows=16_384, bytes=2 * 1024 * 1024)
    dialect = DIALECT
    merges = PostgresMerge
    far = True

    def __init__(self, pool: ConnectionPool[PostgresConnection], *, lock_timeout: float) -> None:
        """``lock_timeout``: how many seconds a lock may take, in one wait or in many short ones."""
        self._pool = pool
        self._lock_timeout = lock_timeout
        self._loads: dict[Session, AsyncExitStack] = {}
        self._staged: set[str] = set()
        """Tables whose rows are better staged, as a load has found: a hint that only spares an attempt."""

    # Connections ------------------------------------------------------------

    @asynccontextmanager
    async def questions(self, urgent: bool = False) -> AsyncGenerator[Session, None]:
        async with self._pool.control(urgent=urgent) as connection:

            async def same() -> PostgresConnection:
                return connection

            yield PostgresSession(same, patience=self._lock_timeout)

    async def connect(self) -> Session:
        async with AsyncExitStack() as stack:
            reservation = await stack.enter_async_context(self._pool.reserve())
            session = self._session(reservation)
            self._loads[session] = stack.pop_all()
        return session

    def _session(self, reservation: Reservation[PostgresConnection]) -> PostgresSession:
        session = PostgresSession(reservation.connection, patience=self._lock_timeout)
        self._loads[session] = AsyncExitStack()
        return session

    async def give_back(self, session: Session) -> None:
        if stack := self._loads.pop(session, None):
            await stack.aclose()

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        async with open_statements(self._pool) as run:
            yield run

    async def ping(self) -> SystemInfo:
        async def ask(connection: PostgresConnection) -> SystemInfo:
            await connection.prove()
            server = connection.server
            product = server.text.partition(" ")[0] or "PostgreSQL"
            return SystemInfo(product, server.version, f"database {server.database}", connection.warnings)

        return await self._pool.ask(ask)

    async def location(self, table: str) -> str | None:
        async def ask(connection: PostgresConnection) -> str | None:
            return catalog.location(await connection.query(catalog.location_question(table)))

        return await self._pool.ask(ask)

    def state_store(self) -> StateStore:
        return PostgresStore(self.questions, self._pool.release)

    async def aclose(self) -> None:
        await self._pool.aclose()

    # Tables -----------------------------------------------------------------

    def locate(self, table: str) -> TableName:
        schema, name = catalog.locate(table)
        if name.startswith(("retl_", "_retl_")):
            raise ConfigError(f"{name!r} is a reserved name.", remedy="choose another name with to.")
        return TableName(name, schema, DIALECT)

    def find(self, name: TableName) -> Step[ExistingTable | None]:
        found = catalog.read((yield query(catalog.question(name.sql))))
        return PostgresTable.of(found) if found else None

    def table_names(self, name: TableName) -> Step[list[str]]:
        schema = "current_schema()" if name.schema is None else DIALECT.string(name.schema)
        rows = yield query(
            "SELECT CAST(c.relname AS text) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = {schema} AND c.relkind IN ('r', 'p')"
        )
        return [name for (name,) in rows]

    def define(self, existing: ExistingTable) -> Step[TableDefinition]:
        return (yield from define(existing))

    def check(self, spec: WriteSpec, name: TableName, existing: ExistingTable | None) -> Step[Sequence[str]]:
        table = existing if isinstance(existing, PostgresTable) else None
        warnings = yield from preflight.check(spec, name, table.catalog if table else None)
        yield from vectors.check(spec, existing)
        if table is not None:
            check_key(spec, table)
            warnings += yield from check_numbers(spec, table)
        return warnings

    def check_insert(self, name: TableName, columns: Sequence[str]) -> Step[None]:
        return
        yield  # a step

    def types(self, existing: ExistingTable | None) -> TypeMap:
        return TYPES

    def loader(self, load: PreparedLoad) -> BulkLoader:
        return PostgresLoader(load)

    def row_statements(self, load: PreparedLoad, merge: TableMerge) -> Step[list[str]]:
        assert isinstance(merge, PostgresMerge)
        if (yield from direct.copies(load, merge)):
            return (yield from direct.shown(load, merge))
        return (yield from super().row_statements(load, merge))

    def writer(self, load: PreparedLoad) -> Callable[..., StagedWriter]:
        path = direct.DirectPath(load, self._staged)
        return partial(PipelinedWriter, more=partial(self._second_worker, load), path=path)

    async def _second_worker(self, load: PreparedLoad) -> LoadWorker | None:
        """A staging table on another connection, if there is one to spare."""
        reservation = self._pool.reserve_now()
        if reservation is None:
            return None
        session = self._session(reservation)
        self._loads[session].callback(reservation.leave)
        loader = PostgresLoader(load, worker=1)
        merge = self._merge(load, loader)
        return LoadWorker(session, loader, merge, StagedSlice(session, load, loader, merge))
