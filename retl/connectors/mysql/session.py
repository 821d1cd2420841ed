"""Steps on a connection: their values are written into the SQL, since the text protocol has no place for them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from retl.connectors.mysql.connection import MySQLConnection, rolling_back
from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.errors import TargetRefused, of_rows
from retl.connectors.mysql.loader import server_message, until_free, warnings
from retl.connectors.mysql.settings import SESSION_MARK
from retl.connectors.mysql.wire import Done
from retl.connectors.sql.session import Session, drive_async
from retl.connectors.sql.statement import RowError, Statement, Step
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import LeaseLost, RetlError
from retl.state import sql as state
from retl.state.base import lease_lost
from retl.state.statement import encode
from retl.threads import shielded

T = TypeVar("T")

SKIP_KEYS, CHECK_KEYS = "SET SESSION foreign_key_checks = 0", "SET SESSION foreign_key_checks = 1"
_DIALECT = MySQLDialect()
_NO_SUCH_TABLE = 1146
_PROOF = f"{SESSION_MARK} = 1"
"""A condition that holds in a prepared session alone."""
_PLACE = re.compile(r"\?|`[^`]*`|'(?:[^'\\]|\\.)*'", re.DOTALL)


class MySQLSession(Session):
    """A connection that somebody else takes and gives back. A transaction that fell to a deadlock runs again.

    ``patience``: for how many seconds.
    """

    def __init__(self, connection: MySQLConnection, patience: float = 0.0) -> None:
        self.connection = connection
        self._patience = patience
        self._proved = False
        self._skips_keys = False

    async def run(self, make: Callable[[], Step[T]]) -> T:
        if self.connection.in_transaction:
            return await self._drive(make())
        return await self._until_free(lambda: self._drive(make()))

    async def transaction(self, make: Callable[[], Step[T]]) -> T:
        return await self._until_free(partial(self._transaction, make))

    async def _until_free(self, work: Callable[[], Awaitable[T]]) -> T:
        return await until_free(self.connection, self._patience, work)

    async def _transaction(self, make: Callable[[], Step[T]]) -> T:
        async with rolling_back(self.connection):
            await self.connection.execute("START TRANSACTION")
            self._proved = False
            result = await self._drive(make())
            await self._commit()
        return result

    async def _commit(self) -> None:
        """Unless a statement of the transaction has proved it, prove that the session is the prepared one."""
        if not self._proved:
            await self.connection.prove()
        await shielded(self.connection.execute("COMMIT"))

    async def _drive(self, step: Step[T]) -> T:
        try:
            return await drive_async(step, self._answer)
        except LeaseLost:
            await self.connection.prove()  # the fence may hold, but in another session
            raise

    async def _answer(self, statement: Statement) -> Any:
        written = filled_in(statement)
        self._proved |= _PROOF in statement.sql
        async with own_session(self.connection):
            if statement.rows:
                return await self.connection.query(written)
            if not statement.rejectable:
                return changed(await self.connection.execute(written))
            return await self._execute_rejectable(written)

    async def _execute_rejectable(self, sql: str) -> int:
        self._skips_keys |= sql == SKIP_KEYS
        try:
            done = await self.connection.execute(sql)
            told = await warnings(self.connection, done)
        except RetlError as error:
            await self._check_keys()
            if isinstance(error, TargetRefused) and of_rows(error.code, error.state):
                raise RowError(server_message(error)) from error
            raise
        if told:  # a value was changed
            await self._check_keys()
            raise RowError(told[0])
        self._skips_keys &= sql != CHECK_KEYS
        return changed(done)

    async def _check_keys(self) -> None:
        """Check foreign keys again, if the statement that failed was one of those that must not."""
        if self._skips_keys and not self.connection.closed:
            with suppress(RetlError):
                await self.connection.execute(CHECK_KEYS)
        self._skips_keys = False

    def save(self, fenced: FencedCheckpoint) -> Step[None]:
        return save(fenced)

    async def close(self) -> None:
        """The connection is given back by the code that took it."""


@asynccontextmanager
async def own_session(connection: MySQLConnection) -> AsyncIterator[None]:
    """A stage lives in one session: where it is gone, a pooler may have handed that on."""
    try:
        yield
    except TargetRefused as error:
        if error.code == _NO_SUCH_TABLE:
            await connection.prove()
        raise


def changed(done: Done) -> int:
    """How many rows a statement has changed. An upsert counts changed rows twice, once as duplicates:
    ``Records: 3  Duplicates: 1  Warnings: 0``."""
    _, found, rest = done.info.partition("Duplicates: ")
    return int(done.affected) - (int(rest.split()[0]) if found else 0)


def filled_in(statement: Statement) -> str:
    """A statement with its values in place of the question marks."""
    if not statement.values:
        return statement.sql
    values = list(reversed(statement.values))
    written = _PLACE.sub(lambda found: literal(values.pop()) if found[0] == "?" else found[0], statement.sql)
    assert not values, "a value without a place"
    return written


def literal(value: Any) -> str:
    """A value as SQL, with backslash escapes, as in retl's sessions."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return _DIALECT.string(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} has no literal")
    return repr(value)


def update(fenced: FencedCheckpoint) -> Step[bool]:
    """Prove the fence and update a checkpoint in one statement; returns whether the checkpoint existed."""
    fence, checkpoint = fenced.fence, fenced.checkpoint
    count = yield Statement(
        "UPDATE retl_leases AS l LEFT JOIN retl_checkpoints AS c ON c.pipeline = l.pipeline AND c.table_name = ? "
        "SET l.beat = l.beat + 1, c.watermark = ?, c.body = ?, c.epoch = ?, c.updated_at = ? "
        f"WHERE l.pipeline = ? AND l.owner = ? AND l.epoch = ? AND {_PROOF}",
        (
            *(fenced.table, checkpoint.watermark, encode(checkpoint), fence.epoch, _now()),
            *(fence.pipeline, fence.owner, fence.epoch),
        ),
    )
    if not count:
        raise lease_lost(fence)
    return bool(count > 1)


def save(fenced: FencedCheckpoint) -> Step[None]:
    """``state.sql.save`` in fewer statements; it needs a transaction."""
    if fenced.manifest is not None or not (yield from update(fenced)):
        yield from state.save(fenced)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
