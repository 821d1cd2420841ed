"""Steps on a PostgreSQL connection, on the event loop."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from retl.connectors.net.retry import RetryBudget
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.errors import of_rows
from retl.connectors.postgres.line import state_of
from retl.connectors.sql.session import Session, drive_async
from retl.connectors.sql.statement import RowError, Statement, Step
from retl.connectors.sql.tables import TableName
from retl.model.errors import ConnectionFailed, RetlError, TargetBusy

T = TypeVar("T")

_ATTEMPTS = 5
_REPEATABLE = ("40001", "40P01")
_LOCKED = "55P03"
_PLACES = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\?")
"""The placeholders of a statement, and what may hold a question mark that is none."""


class PostgresSession(Session):
    """Steps on the connection that ``connect`` gives, and another one if it was lost.

    A step that is run alone is a transaction of its own, unless it begins one itself.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[PostgresConnection]],
        leave: Callable[[], None] | None = None,
        *,
        patience: float = 0.0,
    ) -> None:
        """``leave`` gives the connection back. ``patience``: for how many seconds a transaction is tried again
        that did not get a lock within ``lock_timeout``."""
        self.connection = connect
        self._leave = leave
        self._patience = patience

    async def run(self, make: Callable[[], Step[T]]) -> T:
        connection = await self.connection()
        if connection.in_transaction:
            return await _drive(connection, make())
        return await self._again(lambda: _alone(connection, make()))

    async def transaction(self, make: Callable[[], Step[T]]) -> T:
        connection = await self.connection()
        return await self._again(lambda: _whole(connection, make()))

    async def copy_in(
        self, table: TableName, columns: Sequence[str], data: memoryview, *, before: Sequence[str] = (), **options: Any
    ) -> int:
        """``COPY table FROM STDIN``, as a transaction of its own that begins with some statements.

        Raises ``RowError`` for a value that is rejected.
        """
        connection = await self.connection()
        try:
            async with connection.transaction():
                for statement in before:
                    await connection.execute(statement)
                return await connection.copy_in(table.name, columns, data, schema=table.schema, **options)
        except RetlError as error:
            raise row_error(error) or error from error

    async def begin(self) -> OpenTransaction:
        """Begin a transaction that stays open."""
        connection = await self.connection()
        await connection.begin()
        return OpenTransaction(connection)

    async def _again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction, and run it again if another one was in its way."""
        budgets = {state: RetryBudget(attempts=_ATTEMPTS, first=0.05) for state in _REPEATABLE}
        budgets[_LOCKED] = RetryBudget(seconds=self._patience, first=0.2, longest=1.0)
        while True:
            try:
                return await attempt()
            except TargetBusy as error:
                budget = budgets.get(state_of(error))
                if budget is None:
                    raise
                await budget.wait(error)

    async def close(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class OpenTransaction:
    """A transaction of several calls, on one connection: if that is lost, so is the transaction, and no other replaces it."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection

    async def run(self, make: Callable[[], Step[T]]) -> T:
        self._check()
        return await _drive(self._connection, make())

    async def copy_in(self, table: TableName, columns: Sequence[str], data: memoryview, **options: Any) -> int:
        self._check()
        return await self._connection.copy_in(table.name, columns, data, schema=table.schema, **options)

    async def commit(self) -> None:
        self._check()
        await self._connection.commit()

    async def rollback(self) -> None:
        """Undo everything; cuts the connection where it does not answer."""
        if not self._connection.in_transaction:
            return
        try:
            await self._connection.rollback()
        except RetlError:
            self._connection.abort()

    def _check(self) -> None:
        if not self._connection.is_healthy:
            raise ConnectionFailed(
                f"the connection to {self._connection.place} was lost in the middle of a transaction.",
                remedy="check network and server; the scan is tried again.",
            )


async def _whole(connection: PostgresConnection, step: Step[T]) -> T:
    """Run a step as one transaction."""
    await connection.begin()
    async with _undoing(connection):
        result = await _drive(connection, step)
    await connection.commit()
    return result


@asynccontextmanager
async def _undoing(connection: PostgresConnection) -> AsyncGenerator[None, None]:
    """Roll back after an error; after one that is none of ours the connection is cut."""
    try:
        yield
    except (RetlError, RowError):
        if connection.in_transaction:
            with suppress(RetlError):
                await connection.rollback()
        raise
    except BaseException:
        connection.abort()
        raise


async def _alone(connection: PostgresConnection, step: Step[T]) -> T:
    """Run a step that may begin a transaction itself; otherwise in one of its own."""
    begun = False

    async def answer(statement: Statement) -> Any:
        nonlocal begun
        if not connection.in_transaction and not statement.sql.startswith("BEGIN"):
            begun = True
            await connection.begin()
        return await _answer(connection, statement)

    async with _undoing(connection):
        result = await drive_async(step, answer)
    if begun and connection.in_transaction:
        await connection.commit()
    return result


async def _drive(connection: PostgresConnection, step: Step[T]) -> T:
    return await drive_async(step, lambda statement: _answer(connection, statement))


async def _answer(connection: PostgresConnection, statement: Statement) -> Any:
    sql = with_values(statement.sql, statement.values, connection.server.encoding)
    if sql.startswith("BEGIN"):
        return await connection.begin(sql.removeprefix("BEGIN").strip())
    if sql == "COMMIT":
        return await connection.commit()
    try:
        return await (connection.query(sql) if statement.rows else connection.execute(sql))
    except RetlError as error:
        found = row_error(error) if statement.rejectable else None
        if found is None:
            raise
        raise found from error


def row_error(error: RetlError) -> RowError | None:
    """What the values of a row have caused, if they have."""
    state, reason = getattr(error, "state", ""), getattr(error, "reason", "")
    return RowError(reason) if of_rows(state, reason) else None


def with_values(sql: str, values: tuple[Any, ...], encoding: str = "UTF8") -> str:
    """A statement with its values as literals in place of ``?``. Characters that the database lacks are escaped as in JSON."""
    if not values:
        return sql
    left = [storable(value, encoding) if isinstance(value, str) else value for value in reversed(values)]
    return _PLACES.sub(lambda found: literal(left.pop()) if found[0] == "?" else found[0], sql)


def storable(text: str, encoding: str) -> str:
    """A text of the state as a database of this encoding can hold it; rejected rows have what it lacks."""
    if encoding in ("UTF8", "SQL_ASCII") or text.isascii():
        return text
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return "".join(c if c.isascii() else _escaped(c) for c in text)
    return text


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))


def literal(value: Any) -> str:
    """A Python value as a literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    return DIALECT.string(str(value))
