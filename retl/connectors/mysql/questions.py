"""The connection for questions: of a scan, and of whoever looks at the pipeline meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from retl.connectors.mysql.connection import MySQLConnection
from retl.model.errors import RetlError
from retl.threads import to_the_end


class Questions:
    """One connection for several tasks, each of which waits for its turn.

    It is opened when something is asked. ``close`` lets go of it, at once or at the end of the turn under way,
    so that no task takes it away from another.
    """

    def __init__(self, connect: Callable[[], Awaitable[MySQLConnection]]) -> None:
        self._connect = connect
        self._connection: MySQLConnection | None = None
        self._lock = anyio.Lock()
        self._leaving = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[MySQLConnection]:
        """The connection, for nobody else until the block ends. One that was lost is replaced."""
        async with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await self._connect()
                yield self._connection
            finally:
                if self._leaving:
                    await to_the_end(self._leave())

    def take(self) -> MySQLConnection | None:
        """The connection for good, where nobody is asking anything; the next question opens another."""
        if self._lock.locked():
            return None
        connection, self._connection = self._connection, None
        return connection

    async def close(self) -> None:
        if self._lock.locked():
            self._leaving = True
        else:
            await self._leave()

    async def _leave(self) -> None:
        self._leaving = False
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RetlError):
                await connection.close()
