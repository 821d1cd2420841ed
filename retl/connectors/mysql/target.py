"""MySQL and MariaDB as a target: staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable, loading
from retl.connectors.mysql import catalog, preflight, refresh, rights, trial
from retl.connectors.mysql.catalog import DIALECT, CatalogTable, Inspection
from retl.connectors.mysql.connection import Login, MySQLConnection, location
from retl.connectors.mysql.ddl import Ddl
from retl.connectors.mysql.direct import FirstLoadWriter, ReplacingWriter
from retl.connectors.mysql.loader import Infile
from retl.connectors.mysql.merge import Mirror
from retl.connectors.mysql.mirror import MirrorWriter
from retl.connectors.mysql.prepared import PreparedLoad
from retl.connectors.mysql.staged import StagedWriter
from retl.connectors.mysql.store import MySQLStore, run_step, save
from retl.connectors.mysql.types import MySQLTypes
from retl.connectors.mysql.writer import MySQLWriter
from retl.connectors.net.pool import ConnectionPool, Reservation
from retl.connectors.sql.tables import TableChange, fit
from retl.model.actions import Action, PreAction, Write
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state import sql as state
from retl.state.base import StateStore

_FRESH_SECONDS = 1.0
"""Maximum age of an inspection that the next step of a scan may use."""


@dataclass(frozen=True)
class _Plan:
    """The changes of a table, decided before anything is written."""

    found: Inspection
    change: TableChange
    local: bool
    refresh: refresh.RefreshPlan
    warnings: tuple[str, ...]


class MySQLTarget(Target):
    """Writes MySQL or MariaDB. See ``retl.connectors.MySQL``."""

    system: ClassVar[str] = "mysql"
    mirrors: ClassVar[bool] = True
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
        self._recent: dict[str, tuple[float, Inspection]] = {}
        """Recent inspections; each is used once."""

    async def ping(self) -> SystemInfo:
        async def ask(connection: MySQLConnection) -> SystemInfo:
            ((version,),) = await connection.query("SELECT VERSION()")
            product = "MariaDB" if connection.server.mariadb else "MySQL"
            return SystemInfo(product, str(version), warnings=connection.warnings)

        return await self._pool.ask(ask)

    async def location(self, table: str) -> str | None:
        name = catalog.locate(table, self._database, lower=False)
        return await self._pool.ask(lambda connection: location(connection, name.database, name.name))

    async def _inspect(self, table: str) -> Inspection:
        return await self._pool.ask(lambda connection: catalog.inspect(connection, table, self._database))

    async def describe(self, table: str) -> TableSchema | None:
        known = (await self._inspect(table)).table
        return TableSchema(table, known.existing().columns, known.key()) if known else None

    async def _first(self, sql: str) -> int | None:
        """The number in the first row of an answer."""
        rows = await self._pool.ask(lambda connection: connection.query(sql))
        return int(rows[0][0]) if rows else None

    async def count(self, table: str) -> int:
        found = await self._inspect(table)
        return (await self._first(f"SELECT COUNT(*) FROM {found.name.sql}") or 0) if found.table else 0

    async def inspect(self, table: str) -> TargetTable | None:
        found = await self._inspect(table)
        self._recent[table] = time.monotonic(), found
        if found.table is None:
            return TargetTable(exists=False, empty=True)
        has_rows = found.has_rows
        if has_rows is None:
            has_rows = await self._first(f"SELECT 1 FROM {found.name.sql} LIMIT 1") is not None
        return TargetTable(exists=True, empty=not has_rows)

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        preflight.check_names(catalog.locate(spec.table.to, self._database, lower=False), spec)
        found = self._found_just_now(spec) or await self._inspect(spec.table.to)
        plan = await self._pool.ask(lambda connection: self._plan(connection, spec, found))
        self._recent[spec.table.to] = time.monotonic(), plan.found
        statements = [*plan.refresh.statements, *_shown(plan, spec)]
        return TargetPreview(tuple(statements), plan.change.casts, plan.warnings)

    def _found_just_now(self, spec: WriteSpec) -> Inspection | None:
        since, found = self._recent.pop(spec.table.to, (-_FRESH_SECONDS, None))
        return found if time.monotonic() - since < _FRESH_SECONDS else None

    async def _plan(self, connection: MySQLConnection, spec: WriteSpec, found: Inspection) -> _Plan:
        found = await self._with_hidden(connection, spec, found)
        known = found.table
        warnings = preflight.check_server(connection, found)
        warnings += preflight.check(spec, known) if known else []
        server = connection.server
        types = MySQLTypes(spec.schema, spec.key, mariadb=server.mariadb, version=server.version)
        change = fit(spec, known.existing() if known else None, DIALECT, types)
        await trial.check(connection, found.name, spec, change)
        if found.local_infile:
            await self._infile.probe(connection, found.name.database)
        local = self._infile.use(allowed=found.local_infile)
        if not local and self._infile.unset:
            warnings.append(preflight.slow_inserts(self._infile.why_not))
        return _Plan(found, change, local, refresh.prepare(spec, found, change), (*change.warnings, *warnings))

    async def _with_hidden(self, connection: MySQLConnection, spec: WriteSpec, found: Inspection) -> Inspection:
        """Add what the catalog does not show to this user, if the load depends on it."""
        known = found.table
        if known is None or known.kind != "BASE TABLE":
            return found
        if known.sees_triggers is None and (spec.table.replaces or not found.has_rows):
            known = replace(known, sees_triggers=await rights.sees_triggers(connection, known.name))
        exchanges = spec.table.replaces and spec.table.pre_action is not PreAction.MIRROR
        asks = exchanges and Action.ALTER not in spec.blacklist and not known.children and not known.parents
        if asks and await rights.is_referred_to(connection, known.name):
            known = replace(known, children=("a table that the user cannot see",))
        return replace(found, table=known)

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        found = self._found_just_now(spec) or await self._inspect(spec.table.to)
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
        plan = await self._plan(connection, spec, found)
        statements = plan.refresh.statements
        if begun is not None or statements:
            # The checkpoint first: from here on the next scan notices a crash.
            await _note(connection, spec, begun)
        if statements:
            await Ddl(self._pool, spec, plan.found.name, connection, self._lock_timeout).run(statements)
        load = PreparedLoad(
            pool=self._pool,
            spec=spec,
            known=await self._loaded(connection, spec, plan),
            name=plan.found.name,
            existed=plan.found.table is not None,
            columns=plan.change.columns,
            completion=plan.refresh.after,
            local=plan.local,
            infile=self._infile,
            packet=plan.found.packet,
            lock_timeout=self._lock_timeout,
        )
        if spec.table.replaces:
            connections = [connection, *await self._further(load, further)]
            if spec.table.pre_action is PreAction.MIRROR and plan.found.table is not None:
                return MirrorWriter(load, connections, plan.found.table)
            return ReplacingWriter(load, connections)
        empty = not plan.found.has_rows or bool(statements)
        if empty and load.loads_empty and not await connection.query(f"SELECT 1 FROM {load.known.name.sql} LIMIT 1"):
            return FirstLoadWriter(load, connection, further.connection)
        return StagedWriter(load, connection, further.connection)

    async def _loaded(self, connection: MySQLConnection, spec: WriteSpec, plan: _Plan) -> CatalogTable:
        """The table to load, as it is after the DDL."""
        before = plan.found.table
        if not plan.refresh.statements and before is not None:
            return before
        name = DIALECT.identifier(plan.refresh.table)
        known = (
            await catalog.inspect(connection, f"{DIALECT.identifier(plan.found.name.database)}.{name}", None)
        ).table
        if known is None:
            raise ConfigError(f"the table {spec.table.to!r} has vanished while it was made ready.")
        if before is not None:
            return replace(known, sees_triggers=before.sees_triggers)
        return replace(known, sees_triggers=await rights.sees_triggers(connection, known.name))

    async def _further(self, load: PreparedLoad, further: _Further) -> list[MySQLConnection]:
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


async def _note(connection: MySQLConnection, spec: WriteSpec, fenced: FencedCheckpoint | None) -> None:
    """Save the checkpoint that says a refresh has begun; without one, prove the fence."""
    if fenced is None and (spec.fence is None or not spec.state_in_target):
        return
    await connection.begin()
    if fenced is not None:
        await run_step(connection, save(fenced))
    elif spec.fence is not None:
        await run_step(connection, state.prove(spec.fence))
    await connection.execute("COMMIT")


def _shown(plan: _Plan, spec: WriteSpec) -> list[str]:
    """The statements that follow the preparation, for people."""
    name = plan.found.name
    columns = DIALECT.identifiers(plan.change.columns)
    loaded = name.beside(plan.refresh.table)
    how = "LOAD DATA LOCAL INFILE ... INTO TABLE" if plan.local else "INSERT INTO"
    if not spec.table.replaces:
        upsert = " ON DUPLICATE KEY UPDATE ..." if spec.table.write is Write.UPSERT else ""
        return [f"{how} a temporary table", f"INSERT INTO {loaded} ({columns}) SELECT ...{upsert}"]
    statements = [f"{how} {loaded} ({columns})", *plan.refresh.after]
    if spec.table.pre_action is PreAction.MIRROR and plan.found.table is not None and not plan.change.added:
        shadow = replace(name, name=plan.refresh.table)
        return [
            *statements,
            *Mirror(spec, plan.found.table, shadow, plan.change.columns).statements(),
            f"DROP TABLE {loaded}",
        ]
    if spec.table.pre_action.has_shadow:
        away = f"{name.sql} TO ..., " if plan.found.table else ""
        statements.append(f"RENAME TABLE {away}{loaded} TO {name.sql}")
    return statements
