"""The state store inside a MySQL or MariaDB database, beside the data of its checkpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import ClassVar, TypeVar

from retl.connectors.mysql.connection import MySQLConnection, rolling_back
from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.session import MySQLSession, literal, update
from retl.connectors.mysql.types import exact_collation
from retl.connectors.net.pool import ConnectionPool
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Step, execute, query
from retl.connectors.sql.store import SqlStateStore
from retl.model.checkpoint import Fence, FencedCheckpoint
from retl.model.errors import ConnectionFailed, StateError
from retl.model.report import ScanReport
from retl.model.steering import Steering
from retl.state import records, sql
from retl.state.base import LeaseRow

T = TypeVar("T")

_DUPLICATE = 1062
_PRUNED_EVERY = 50
_PATIENCE = 2.0
"""For how many seconds a step is repeated that fell to a deadlock, as when several processes make the tables at once."""
"""Old reports are pruned once in so many."""
_TOO_LONG = 1406
_DAMAGED = frozenset({126, 127, 145, 1034, 1054, 1136, 1146, 1194, 1195, 1364, 1932})
"""Error numbers of a state table that is missing, changed or broken."""


class MySQLStore(SqlStateStore):
    """Checkpoints in tables of the database that the target writes. It borrows the connections of the target."""

    runs_alone: ClassVar[bool] = True

    def __init__(self, pool: ConnectionPool[MySQLConnection], database: str) -> None:
        super().__init__()
        self._pool = pool
        self._database = database
        self._reports: dict[tuple[str, str], int] = {}
        """How many reports of each table this object has added."""
        self._exact = ""
        """The collation of keys at this server."""

    @asynccontextmanager
    async def session(self, *, urgent: bool = False) -> AsyncGenerator[Session, None]:
        async with self._pool.control(urgent=urgent) as connection, rolling_back(connection):
            self._exact = exact_collation(connection.server.mariadb, connection.server.version)
            try:
                yield MySQLSession(connection, _PATIENCE)
            except TargetRefused as error:
                if error.code == _DUPLICATE:
                    raise
                raise self._unusable(error) from error

    async def _step(self, make: Callable[[], Step[T]], *, write: bool = True, single: bool = False) -> T:
        """Run a step; one without a transaction runs again if the connection was lost since its last use."""
        step = partial(super()._step, make, write=write, single=single)
        return await (_twice(step) if single or not write else step())

    def _unusable(self, error: TargetRefused) -> StateError:
        """The error of a state table. Only a damaged one must be restored: dropping it forgets every watermark."""
        remedy = "see what the server says: the state tables themselves are as they were."
        if error.code in _DAMAGED:
            remedy = "restore them from a backup, or drop the tables retl_* to start over."
        elif error.code == _TOO_LONG:
            remedy = "choose shorter names: those of pipelines and tables have 255 characters at most."
        return StateError(f"the state tables in {self._database!r} cannot be used ({error.message}).", remedy=remedy)

    # Tables -----------------------------------------------------------------

    def objects(self) -> Step[list[tuple[str, str, str]]]:
        names = ", ".join(map(literal, sql.STATE_TABLES))
        found = yield query(
            "SELECT table_type, table_name, table_name, engine FROM information_schema.tables "
            f"WHERE table_schema = DATABASE() AND table_name IN ({names}) "
            "UNION ALL SELECT 'TRIGGER', trigger_name, event_object_table, NULL FROM information_schema.triggers "
            f"WHERE event_object_schema = DATABASE() AND event_object_table IN ({names})"
        )
        return [(_kind(str(kind), str(engine)), str(name), str(table)) for kind, name, table, engine in found]

    def _peek(self, make: Callable[[], Step[T]]) -> Step[T]:
        if sql.STATE_TABLES[-1] not in (yield from self._tables()):
            return sql.of_nothing(make())
        yield from self._ensure_tables()
        self._ready = True
        return (yield from make())

    def _ensure_tables(self) -> Step[None]:
        """Create the tables where they are missing. Each statement commits by itself."""
        if sql.STATE_TABLES[-1] not in (yield from self._tables()):
            yield from execute(_dialect(self._exact).create())
        try:
            yield from sql.check_version()
        except TargetRefused as error:
            if error.code != _DUPLICATE:  # another process stamped it a moment ago
                raise

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
        return await _twice(partial(self._urgent, partial(sql.beat, fence)))

    async def hear(self, fence: Fence, known: Steering) -> Steering | None:
        return await _twice(partial(self._urgent, partial(sql.hear, fence, known)))

    async def _urgent(self, make: Callable[[], Step[T]]) -> T:
        async with self.session(urgent=True) as session:  # it does not wait for a question
            return await session.run(make)

    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        try:
            return await super().save_steering(pipeline, steering)
        except TargetRefused as error:
            if error.code == _DUPLICATE:
                return False  # another process was first
            raise

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


async def _twice(step: Callable[[], Awaitable[T]]) -> T:
    try:
        return await step()
    except ConnectionFailed:
        return await step()


def _kind(kind: str, engine: str) -> str:
    if kind != "BASE TABLE":
        return kind.lower()
    return "table" if engine.lower() == "innodb" else f"table of {engine}"


def _dialect(exact: str) -> sql.StateDialect:
    return sql.StateDialect(
        key_type=f"VARCHAR(255) {exact}",
        name_type="VARBINARY(1024)",
        text_type="LONGTEXT",
        real_type="DOUBLE",
        table_suffix=MySQLDialect.table_options,
    )
