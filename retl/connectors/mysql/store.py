"""The state store inside a MySQL or MariaDB database, beside the data that its checkpoints speak of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio

from retl.connectors.mysql.connection import Login, MySQLConnection
from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.types import exact_collation
from retl.model.checkpoint import Fence
from retl.model.errors import ConnectionFailed, StateError
from retl.state import sql
from retl.state.base import LeaseRow
from retl.threads import shielded

T = TypeVar("T")

_DIALECT = MySQLDialect()
_DUPLICATE = 1062
_TOO_LONG = 1406
_DAMAGED = frozenset({126, 127, 145, 1034, 1054, 1136, 1146, 1194, 1195, 1364, 1932})
"""A table or a column of ours is gone, of another kind, or broken."""


def literal(value: Any) -> str:
    """A value as SQL, where backslashes escape, as our sessions have it."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return _DIALECT.string(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} has no literal")
    return repr(value)


def filled_in(statement: sql.Statement) -> str:
    """A statement of ``state.sql`` with its values in place of the question marks."""
    pieces = statement.sql.split("?")
    assert len(pieces) == len(statement.values) + 1
    return "".join(piece + after for piece, after in zip(pieces, [*map(literal, statement.values), ""], strict=True))


async def run_step(connection: MySQLConnection, step: sql.Step[T]) -> T:
    """Run one step of ``state.sql`` on a connection, inside whatever transaction it is in."""
    answer: Any = None
    while True:
        try:
            statement = step.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        written = filled_in(statement)
        answer = await connection.query(written) if statement.rows else (await connection.execute(written)).affected


class MySQLStore(sql.SqlStore):
    """Checkpoints in tables of the database that the target writes.

    It has a connection of its own, so that a heartbeat waits for no load; that is opened
    when something is asked for, and closed by ``close`` between two runs.
    """

    def __init__(self, login: Login) -> None:
        self._login = login
        self._connection: MySQLConnection | None = None
        self._ready = False
        self._lock = anyio.Lock()
        self._leaving = False

    async def _step(self, make: Callable[[], sql.Step[T]], *, write: bool = True, single: bool = False) -> T:
        async with self._lock:
            try:
                if write and not single:
                    return await self._transaction(make)
                return await self._single(make, write=write)
            finally:
                if self._leaving:
                    await shielded(self._leave())

    async def _single(self, make: Callable[[], sql.Step[T]], *, write: bool) -> T:
        """A step that needs no transaction. It is done again where the connection was lost since the last one."""
        kept = self._connection is not None and not self._connection.closed
        connection = await self._open()
        try:
            return await self._run(connection, make, write=write, single=True)
        except ConnectionFailed:
            connection.abort()
            if not kept:
                raise
            return await self._run(await self._open(), make, write=write, single=True)
        except TargetRefused as error:
            if error.code == _DUPLICATE:
                raise
            raise self._unusable(error) from error
        except BaseException:
            if not connection.closed:
                connection.abort()
            raise

    async def _transaction(self, make: Callable[[], sql.Step[T]]) -> T:
        connection = await self._begin()
        try:
            result = await self._run(connection, make, write=True, single=False)
            await connection.execute("COMMIT")
        except TargetRefused as error:
            await connection.execute("ROLLBACK")
            if error.code == _DUPLICATE:
                raise
            raise self._unusable(error) from error
        except BaseException:
            if not connection.closed:
                connection.abort()
            raise
        return result

    def _unusable(self, error: TargetRefused) -> StateError:
        """Only tables that are not what they were are to be restored: whoever drops the others forgets every watermark for nothing."""
        self._ready = False
        remedy = "see what the server says: the state tables themselves are as they were."
        if error.code in _DAMAGED:
            remedy = "restore them from a backup, or drop the tables retl_* to start over."
        elif error.code == _TOO_LONG:
            remedy = "choose shorter names: a pipeline's and a table's have 255 characters at most."
        return StateError(
            f"the state tables in {self._login.database!r} cannot be used ({error.message}).", remedy=remedy
        )

    async def _open(self) -> MySQLConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await MySQLConnection.open(self._login)
        return self._connection

    async def _begin(self) -> MySQLConnection:
        """A connection in a new transaction. One that was lost since the last step is replaced."""
        connection = await self._open()
        try:
            await connection.begin()
        except ConnectionFailed:
            connection.abort()
            connection = await self._open()
            await connection.begin()
        return connection

    async def _run(
        self, connection: MySQLConnection, make: Callable[[], sql.Step[T]], *, write: bool, single: bool
    ) -> T:
        if not self._ready:
            if await self._has_tables(connection):
                await run_step(connection, sql.check_version())
            elif not write:
                return sql.of_nothing(make())
            else:
                await self._create(connection)
                if not single:
                    await connection.begin()
            self._ready = True
        return await run_step(connection, make())

    async def _has_tables(self, connection: MySQLConnection) -> bool:
        """Whether the store's tables are there. Raises ``StateError`` for what only has their names, or acts on them."""
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
        """Each statement commits by itself; ``retl_scans`` comes last, so where it is, all are."""
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
            await run_step(connection, sql.check_version())
        except TargetRefused as error:
            if error.code != _DUPLICATE:  # somebody else has stamped it a moment ago
                raise
        await connection.execute("COMMIT")

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        try:
            return await super().take_lease(seen, owner, ttl)
        except TargetRefused as error:
            if error.code == _DUPLICATE:
                return None  # somebody else was first
            raise

    async def close(self) -> None:
        """Let go of the connection until the next step; one that is under way lets go of it at its end."""
        if self._lock.locked():
            self._leaving = True
        else:
            await self._leave()

    async def _leave(self) -> None:
        self._leaving = False
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def aclose(self) -> None:
        await self.close()
