"""The connection for questions: of a scan, and of whoever looks at the pipeline meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from retl.connectors.mysql.connection import MySQLConnection
from retl.model.errors import ConnectionFailed, RetlError
from retl.threads import shielded


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
                self._connection = await self._ready(self._connection)
                yield self._connection
            finally:
                if self._leaving:
                    await shielded(self._leave())

    async def take(self) -> MySQLConnection:
        """A connection for good: the one for questions where nobody is asking anything, else another one."""
        kept = None
        if not self._lock.locked():
            kept, self._connection = self._connection, None
        return await self._ready(kept)

    async def _ready(self, kept: MySQLConnection | None) -> MySQLConnection:
        """The connection that was kept, where the server still knows it; else a new one. Whoever idles is cut off sometimes."""
        if kept is not None and not kept.closed:
            try:
                await kept.prove()
                return kept
            except ConnectionFailed:
                kept.abort()
        return await self._connect()

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
