"""MySQL and MariaDB as a target: staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, TypeVar

import pyarrow as pa

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable, loading
from retl.connectors.mysql import catalog, preflight, rights, trial
from retl.connectors.mysql.catalog import DIALECT, Column, Index, Inspection, MySQLTable
from retl.connectors.mysql.connection import MySQLConnection, location
from retl.connectors.mysql.ddl import Ddl
from retl.connectors.mysql.direct import FirstLoadWriter, ReplacingWriter
from retl.connectors.mysql.loader import Infile
from retl.connectors.mysql.login import Login
from retl.connectors.mysql.mirror import MirrorWriter, mirror_of
from retl.connectors.mysql.prepared import MySQLLoad
from retl.connectors.mysql.refresh import MySQLRefresh, define
from retl.connectors.mysql.session import MySQLSession, save
from retl.connectors.mysql.stage import MySQLStage
from retl.connectors.mysql.staged import PipelinedWriter, merge_of
from retl.connectors.mysql.store import MySQLStore
from retl.connectors.mysql.types import MySQLTypes, parse_type
from retl.connectors.mysql.writer import MySQLWriter
from retl.connectors.net.pool import ConnectionPool, Reservation
from retl.connectors.sql import columns
from retl.connectors.sql.door import RunStatement, SqlDoor
from retl.connectors.sql.own_sql import OwnSql
from retl.connectors.sql.refresh import RefreshPlan
from retl.connectors.sql.scope import unindexed
from retl.connectors.sql.statement import Step
from retl.connectors.sql.tables import Recent, TableChange, TableName, fit
from retl.model.actions import Action, PreAction, Write
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state import sql as state
from retl.state.base import StateStore

T = TypeVar("T")


@dataclass(frozen=True)
class _Plan:
    """The changes of a table, decided before anything is written."""

    found: Inspection
    change: TableChange
    refresh: RefreshPlan
    load: MySQLLoad
    """The load as it will be: with the columns that are still to be added."""
    warnings: tuple[str, ...]

    @property
    def loads_empty(self) -> bool:
        """Whether slices may be loaded into the table itself, which seems to be empty."""
        return not self.found.has_rows and self.load.loads_empty


class MySQLTarget(SqlDoor, Target):
    """Writes MySQL or MariaDB. See ``retl.connectors.MySQL``."""

    system: ClassVar[str] = "mysql"
    mirrors: ClassVar[bool] = True
    dialect = DIALECT
    batch_size = BatchSize(rows=32_768, bytes=4 * 1024 * 1024)

    def __init__(
        self,
        login: Login,
        pool: ConnectionPool[MySQLConnection],
        *,
        lock_timeout: float = 30.0,
        writers: int = 2,
        local_infile: bool | None = None,
    ) -> None:
        self._database = login.database
        self._pool = pool
        self._lock_timeout = lock_timeout
        self._writers = writers
        self._infile = Infile(local_infile)
        self._recent = Recent[Inspection]()

    async def ping(self) -> SystemInfo:
        async def ask(connection: MySQLConnection) -> SystemInfo:
            ((version,),) = await connection.query("SELECT VERSION()")
            product = "MariaDB" if connection.server.mariadb else "MySQL"
            return SystemInfo(product, str(version), warnings=connection.warnings)

        return await self._pool.ask(ask)

    async def location(self, table: str) -> str | None:
        name = catalog.locate(table, self._database, lower=False)
        return await self._pool.ask(lambda connection: location(connection, str(name.schema), name.name))

    async def _inspect(self, table: str) -> Inspection:
        return await self._pool.ask(lambda connection: catalog.inspect(connection, table, self._database))

    async def describe(self, table: str) -> TableSchema | None:
        known = (await self._inspect(table)).table
        return TableSchema(table, known.columns, known.key()) if known else None

    async def _first(self, sql: str) -> int | None:
        """The number in the first row of an answer."""
        rows = await self._pool.ask(lambda connection: connection.query(sql))
        return int(rows[0][0]) if rows else None

    async def count(self, table: str) -> int:
        found = await self._inspect(table)
        return (await self._first(f"SELECT COUNT(*) FROM {found.name.sql}") or 0) if found.table else 0

    async def inspect(self, table: str) -> TargetTable | None:
        return await self._standing(table, await self._inspect(table))

    async def inspect_column(self, table: str, column: str) -> TargetTable | None:
        found = await self._inspect(table)
        extremes = await self._run(partial(columns.extremes, found.name, found.table, column))
        return replace(await self._standing(table, found), extremes=extremes)

    async def _standing(self, table: str, found: Inspection) -> TargetTable:
        self._recent.put(table, found)
        if found.table is None:
            return TargetTable(exists=False, empty=True)
        has_rows = found.has_rows
        if has_rows is None:
            has_rows = await self._first(f"SELECT 1 FROM {found.name.sql} LIMIT 1") is not None
        return TargetTable(exists=True, empty=not has_rows)

    async def lookup(self, table: str, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table:
        found = await self._inspect(table)
        return await self._run(partial(columns.lookup, found.name, found.table, column, values, wanted))

    async def extremes(self, table: str, column: str) -> tuple[str, str] | None:
        found = await self._inspect(table)
        return await self._run(partial(columns.extremes, found.name, found.table, column))

    async def drop_columns(self, table: str, names: Sequence[str]) -> None:
        found = await self._inspect(table)
        self._recent.take(table)
        await self._run(partial(columns.drop, found.name, found.table, names))

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        async with self._pool.alone() as connection:
            yield connection.execute

    async def _run(self, make: Callable[[], Step[T]]) -> T:
        return await self._pool.ask(lambda connection: MySQLSession(connection, self._lock_timeout).run(make))

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        preflight.check_names(catalog.locate(spec.table.to, self._database, lower=False), spec)
        found = self._recent.take(spec.table.to) or await self._inspect(spec.table.to)
        plan = await self._pool.ask(lambda connection: self._plan(connection, spec, found))
        self._recent.put(spec.table.to, plan.found)
        return TargetPreview(tuple(_with_own(spec.table, _shown(plan))), plan.change.casts, plan.warnings)

    async def _plan(self, connection: MySQLConnection, spec: WriteSpec, found: Inspection) -> _Plan:
        found = await self._with_hidden(connection, spec, found)
        known = found.table
        warnings = preflight.check_server(connection, found)
        warnings += preflight.check(spec, found.name, known) if known else []
        server = connection.server
        types = MySQLTypes(spec.schema, spec.key, mariadb=server.mariadb, version=server.version)
        change = columns.with_index(fit(spec, known, DIALECT, types), spec, known, DIALECT)
        change = replace(change, indexed=unindexed(change, spec, found.name, known, DIALECT), dialect=DIALECT)
        await trial.check(connection, found.name, spec, change)
        if found.local_infile:
            await self._infile.probe(connection, str(found.name.schema))
        local = self._infile.use(allowed=found.local_infile)
        if not local and self._infile.unset:
            warnings.append(preflight.slow_inserts(self._infile.why_not))
        load = self._load(spec, found, change, local)
        refresh = load.refresh.plan(change, lambda shadow: mirror_of(load, load.existing).mirror())
        return _Plan(found, change, refresh, load, (*change.warnings, *warnings))

    def _load(self, spec: WriteSpec, found: Inspection, change: TableChange, local: bool) -> MySQLLoad:
        known = found.table
        definition = define(known, spec) if known is not None and spec.table.replaces else None
        refresh = MySQLRefresh(DIALECT, spec, found.name, known, definition, found.neighbours)
        existing = _as_changed(known, spec, change, sees_triggers=found.sees_triggers)
        return MySQLLoad(
            spec=spec,
            target=found.name,
            loaded=refresh.loaded,
            existing=existing,
            columns={name: existing.column(name).name for name in change.columns},
            refresh=refresh,
            local=local,
            infile=self._infile,
            packet=found.packet,
            pool=self._pool,
            lock_timeout=self._lock_timeout,
        )

    async def _with_hidden(self, connection: MySQLConnection, spec: WriteSpec, found: Inspection) -> Inspection:
        """Add what the catalog does not show to this user, if the load depends on it."""
        known, name = found.table, found.name
        if known is None:
            if found.sees_triggers is not None:
                return found
            return replace(found, sees_triggers=await _sees_triggers(connection, name))
        if known.kind != "BASE TABLE":
            return found
        if known.sees_triggers is None and (spec.table.replaces or not found.has_rows):
            known = replace(known, sees_triggers=await _sees_triggers(connection, name))
        exchanges = spec.table.replaces and spec.table.pre_action is not PreAction.MIRROR
        asks = exchanges and Action.ALTER not in spec.blacklist and not known.children and not known.parents
        if asks and await rights.is_referred_to(connection, name):
            known = replace(known, children=("a table that the user cannot see",))
        return replace(found, table=known)

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        found = self._recent.take(spec.table.to) or await self._inspect(spec.table.to)
        async with self._pool.reserve() as reservation, _Further(self._pool) as further:
            connection = await reservation.connection()
            async with loading(await self._prepare(connection, further, spec, begun, found)) as writer:
                yield writer

    async def _prepare(
        self,
        connection: MySQLConnection,
        further: _Further,
        spec: WriteSpec,
        begun: FencedCheckpoint | None,
        found: Inspection,
    ) -> MySQLWriter:
        before = OwnSql(spec.table, "before_sql", DIALECT)
        if before:
            await self._note(connection, spec, None, before)
            found = await self._inspect(spec.table.to)
        plan = await self._plan(connection, spec, found)
        if begun is not None or plan.refresh.before:
            # The checkpoint first: from here on the next scan notices a crash.
            await self._note(connection, spec, begun)
        definition = None
        if plan.load.refresh.exchanges:
            definition = await catalog.definition_of(connection, plan.load.target)
        if plan.refresh.before:
            await Ddl(self._pool, plan.load.refresh, connection, self._lock_timeout).run(plan.refresh.before)
        load = replace(await self._ready(connection, plan), definition=definition)
        if spec.table.replaces:
            connections = [connection, *await self._further(load, further)]
            if load.refresh.mirrors:
                return MirrorWriter(load, connections, plan.found.table or load.existing)
            return ReplacingWriter(load, connections)
        if plan.loads_empty and not await connection.query(f"SELECT 1 FROM {load.loaded.sql} LIMIT 1"):
            return FirstLoadWriter(load, connection, further.connection)
        return PipelinedWriter(load, connection, further.connection)

    async def _note(
        self,
        connection: MySQLConnection,
        spec: WriteSpec,
        fenced: FencedCheckpoint | None,
        own: OwnSql | None = None,
    ) -> None:
        """Save the checkpoint that says a refresh has begun; without one, prove the fence. Then run the user's statements."""

        def record() -> Step[None]:
            if fenced is not None:
                yield from save(fenced)
            elif spec.fence is not None and spec.state_in_target:
                yield from state.prove(spec.fence)
            if own is not None:
                yield from own.step()

        with own.explained() if own is not None else nullcontext():
            await MySQLSession(connection, self._lock_timeout).transaction(record)

    async def _ready(self, connection: MySQLConnection, plan: _Plan) -> MySQLLoad:
        """The load, with the loaded table as it is after the DDL."""
        load, before = plan.load, plan.found.table
        if not plan.refresh.before and before is not None:
            return load
        known = (await catalog.inspect(connection, load.loaded.sql, None)).table
        if known is None:
            raise ConfigError(f"the table {load.spec.table.to!r} has vanished while it was made ready.")
        known = replace(known, sees_triggers=load.existing.sees_triggers)
        columns = {name: known.column(name).name for name in load.columns}
        return replace(load, existing=known, columns=columns)

    async def _further(self, load: MySQLLoad, further: _Further) -> list[MySQLConnection]:
        """Further connections that load a replaced table."""
        connections: list[MySQLConnection] = []
        while load.parallel and len(connections) < self._writers - 1:
            extra = await further.connection()
            if extra is None:
                break
            connections.append(extra)
        return connections

    def state_store(self) -> StateStore:
        if self._database is None:
            raise ConfigError(
                "the target's url names no database, so there is no place for the checkpoints.",
                remedy="name one: mysql://user@host:3306/database.",
                system="mysql",
            )
        return MySQLStore(self._pool, self._database)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Further:
    """Further connections of a load, as many as the pool can spare."""

    def __init__(self, pool: ConnectionPool[MySQLConnection]) -> None:
        self._pool = pool
        self._reservations: list[Reservation[MySQLConnection]] = []

    async def connection(self) -> MySQLConnection | None:
        reservation = self._pool.reserve_now()
        if reservation is None:
            return None
        self._reservations.append(reservation)
        return await reservation.connection()

    async def __aenter__(self) -> _Further:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        for reservation in self._reservations:
            if error is not None:
                reservation.abort()
            reservation.leave()


async def _sees_triggers(connection: MySQLConnection, name: TableName) -> bool:
    """Whether a trigger of the table would be in the catalog; on MariaDB everybody who sees the table sees it."""
    return connection.server.mariadb or await MySQLSession(connection).run(partial(rights.sees_triggers, name))


def _as_changed(
    known: MySQLTable | None, spec: WriteSpec, change: TableChange, *, sees_triggers: bool | None
) -> MySQLTable:
    """The table as it will be: with the columns and the key that it is given."""
    fold = DIALECT.fold
    there = {fold(column.name) for column in known.described} if known else set()
    added = [
        Column(name, parse_type(native).sql, None, None, True, has_default=False, generated=False)
        for name, native in zip(change.columns, change.declared, strict=True)
        if fold(name) not in there
    ]
    if known is not None:
        return known.with_columns([*known.described, *added]) if added else known
    keyed = spec.key and spec.table.write is not Write.APPEND
    unique = (Index(tuple(spec.key), whole=True),) if keyed else ()
    return MySQLTable(pa.schema([]), unique=unique, sees_triggers=sees_triggers).with_columns(added)


def _with_own(table: TableSpec, statements: list[str]) -> list[str]:
    """The statements between those of the user."""
    before, after = OwnSql(table, "before_sql", DIALECT), OwnSql(table, "after_sql", DIALECT)
    return [*before.statements, *statements, *after.statements]


def _shown(plan: _Plan) -> list[str]:
    """The very statements that will run, but those that stage rows."""
    load, refresh = plan.load, plan.refresh
    if not load.spec.table.replaces and not plan.loads_empty:
        return [*refresh.before, *merge_of(load, MySQLStage(load)).statements(), *refresh.after]
    rows = load.encoder.statement(load.loaded.sql, local=load.local, replace=not load.spec.table.replaces)
    return [*refresh.before, rows, *refresh.after]
