"""The state store inside a MySQL or MariaDB database, beside the data of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from retl.connectors.mysql.connection import MySQLConnection, rolling_back
from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.session import MySQLSession, update
from retl.connectors.mysql.types import exact_collation
from retl.connectors.net.pool import ConnectionPool
from retl.model.checkpoint import Fence, FencedCheckpoint
from retl.model.errors import ConnectionFailed, StateError
from retl.model.report import ScanReport
from retl.state import records, sql
from retl.state.base import LeaseRow

T = TypeVar("T")

_DIALECT = MySQLDialect()
_DUPLICATE = 1062
_PRUNED_EVERY = 50
"""Old reports are pruned once in so many."""
_TOO_LONG = 1406
_DAMAGED = frozenset({126, 127, 145, 1034, 1054, 1136, 1146, 1194, 1195, 1364, 1932})
"""Error numbers of a state table that is missing, changed or broken."""


class MySQLStore(sql.SqlStore):
    """Checkpoints in tables of the database that the target writes. It borrows the connections of the target."""

    def __init__(self, pool: ConnectionPool[MySQLConnection], database: str) -> None:
        self._pool = pool
        self._database = database
        self._ready = False
        self._reports: dict[tuple[str, str], int] = {}
        """How many reports of each table this object has added."""

    async def _step(
        self, make: Callable[[], sql.Step[T]], *, write: bool = True, single: bool = False, urgent: bool = False
    ) -> T:
        """Run a step; one without a transaction runs again if the connection was lost since its last use."""
        alone = single or not write
        try:
            return await self._attempt(make, write=write, alone=alone, urgent=urgent)
        except ConnectionFailed:
            if not alone:
                raise
            return await self._attempt(make, write=write, alone=alone, urgent=urgent)

    async def _attempt(self, make: Callable[[], sql.Step[T]], *, write: bool, alone: bool, urgent: bool) -> T:
        async with self._pool.control(urgent=urgent) as connection, rolling_back(connection):
            try:
                if not self._ready and not await self._prepare(connection, write=write):
                    return sql.of_nothing(make())
                if alone:
                    return await MySQLSession(connection).run(make)
                return await MySQLSession(connection).transaction(make)
            except TargetRefused as error:
                if error.code == _DUPLICATE:
                    raise
                raise self._unusable(error) from error

    def _unusable(self, error: TargetRefused) -> StateError:
        """The error of a state table. Only a damaged one must be restored: dropping it forgets every watermark."""
        self._ready = False
        remedy = "see what the server says: the state tables themselves are as they were."
        if error.code in _DAMAGED:
            remedy = "restore them from a backup, or drop the tables retl_* to start over."
        elif error.code == _TOO_LONG:
            remedy = "choose shorter names: those of pipelines and tables have 255 characters at most."
        return StateError(f"the state tables in {self._database!r} cannot be used ({error.message}).", remedy=remedy)

    async def _prepare(self, connection: MySQLConnection, *, write: bool) -> bool:
        """Whether the tables exist; they are created for a step that writes."""
        if await self._has_tables(connection):
            await MySQLSession(connection).run(sql.check_version)
        elif not write:
            return False
        else:
            await self._create(connection)
        self._ready = True
        return True

    async def _has_tables(self, connection: MySQLConnection) -> bool:
        """Whether the store's tables exist. Raises ``StateError`` for another object of their name, or a trigger on them."""
        names = ", ".join(map(_DIALECT.string, sql.STATE_TABLES))
        found = await connection.query(
            "SELECT table_type, table_name, table_name, engine FROM information_schema.tables "
            f"WHERE table_schema = DATABASE() AND table_name IN ({names}) "
            "UNION ALL SELECT 'TRIGGER', trigger_name, event_object_table, NULL FROM information_schema.triggers "
            f"WHERE event_object_schema = DATABASE() AND event_object_table IN ({names})"
        )
        for kind, name, table, engine in found:
            if kind != "BASE TABLE" or str(engine).lower() != "innodb":
                what = f"a table of {engine}" if kind == "BASE TABLE" else f"a {str(kind).lower()}"
                raise StateError(
                    f"{name!r} is {what} where only retl's own table {table!r} of InnoDB may be.",
                    remedy="find out who made it, and drop it.",
                )
        return any(name == "retl_scans" for _, name, _, _ in found)

    async def _create(self, connection: MySQLConnection) -> None:
        """Create the tables. Each statement commits by itself; ``retl_scans`` comes last, so if it exists, all do."""
        exact = exact_collation(connection.server.mariadb, connection.server.version)
        dialect = sql.StateDialect(
            key_type=f"VARCHAR(255) {exact}",
            name_type="VARBINARY(1024)",
            text_type="LONGTEXT",
            real_type="DOUBLE",
            table_suffix=" ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4",
        )
        for statement in dialect.create():
            await connection.execute(statement)
        await connection.begin()
        try:
            await MySQLSession(connection).run(sql.check_version)
        except TargetRefused as error:
            if error.code != _DUPLICATE:  # another process stamped it a moment ago
                raise
        await connection.execute("COMMIT")

    async def save(self, fenced: FencedCheckpoint) -> None:
        if fenced.manifest is None and await self._step(lambda: update(fenced), single=True):
            return
        await super().save(fenced)

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        try:
            return await super().take_lease(seen, owner, ttl)
        except TargetRefused as error:
            if error.code == _DUPLICATE:
                return None  # another process was first
            raise

    async def beat(self, fence: Fence) -> bool:
        return await self._step(lambda: sql.beat(fence), single=True, urgent=True)

    async def add_report(self, report: ScanReport) -> None:
        try:
            await self._step(lambda: records.insert_report(report), single=True)
        except TargetRefused as error:
            if error.code != _DUPLICATE:  # it had arrived, and the answer was lost
                raise
        table = report.pipeline, report.table
        self._reports[table] = self._reports.get(table, 0) + 1
        if (self._reports[table] - 1) % _PRUNED_EVERY == 0:
            await self._step(lambda: records.prune_reports(*table))

    async def aclose(self) -> None:
        await self._pool.aclose()
