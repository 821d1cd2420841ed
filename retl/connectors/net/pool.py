"""The connections of a connector, kept between uses, shared with the other connectors of a process, and limited.

A scan *reserves* a connection for as long as it lasts; a question borrows one for a moment,
and waits for nothing else while it has it. ``retl.connectors.net.limit`` says who gets the next one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar, cast

from retl.connectors.net.limit import Use
from retl.connectors.net.server import Homes, Pooled, PoolKey, ServerConnections, close
from retl.model.errors import ConnectionFailed, RetlError
from retl.pulse import beat, queued, unhurried
from retl.threads import shielded

MAX_CONNECTIONS = 8
KEEP_IDLE = 60.0

C = TypeVar("C", bound=Pooled)
T = TypeVar("T")
Begin = Callable[[C], Awaitable[None]]
"""A first statement, which another connection may be sent too where it fails."""


class Reservation(Generic[C]):
    """A place under the limit, and the connection that is kept in it."""

    def __init__(self, pool: ConnectionPool[C], server: ServerConnections, use: Use) -> None:
        self._pool = pool
        self._server = server
        self._use = use
        self._connection: C | None = None

    async def connection(self, begin: Begin[C] | None = None) -> C:
        """The connection; a new one if the last one was lost or cut. ``begin`` is its first statement then."""
        if self._connection is None or self._connection.closed:
            if self._connection is not None:
                self._pool.give_back(self._connection)
            self._connection = None
            self._connection = await self._pool.take(begin)
        return self._connection

    def abort(self) -> None:
        """Cut the connection: the server rolls back."""
        if self._connection is not None:
            self._connection.abort()

    def leave(self) -> None:
        """Give the connection back, and the place. One that is in a transaction is cut."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)
        self._server.limit.release(self._use)


class ConnectionPool(Generic[C]):
    """Connections that ``connect`` opens, at most ``max_connections`` at once.

    Pools of one event loop whose ``key`` names the same server share that limit: the smallest of theirs. Those with
    the same session too share the connections. An idle one is closed ``keep_idle`` seconds after its last use.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        *,
        max_connections: int = MAX_CONNECTIONS,
        keep_idle: float = KEEP_IDLE,
        writes: bool = False,
        key: PoolKey | None = None,
    ) -> None:
        """``writes``: it is a target's, whose heartbeats have a connection that is kept for them. Without a ``key``
        nothing is shared."""
        self._connect = connect
        self._keep_idle = keep_idle
        self.most = max_connections
        self.writes = writes
        self.urgent = int(writes)
        self.key = key or PoolKey(object(), None)
        self._homes = Homes(self.key.server, shared=key is not None)

    def _server(self) -> ServerConnections:
        server = self._homes.get()
        server.join(self)
        return server

    @asynccontextmanager
    async def control(self, *, urgent: bool = False, begin: Begin[C] | None = None) -> AsyncIterator[C]:
        """A connection for a question. A refused statement leaves it as it was; any other error cuts it.

        ``begin`` is its first statement: a kept connection that the server has ended in between is noticed by it, and
        replaced.
        """
        server = self._server()
        with unhurried():
            use = await server.limit.acquire(*((Use.URGENT,) if urgent else ()), Use.QUESTION)
        async with self._lent(server, use, begin) as connection:
            yield connection

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[C]:
        """A connection for what may change its session, and take long: it is closed afterwards, and nobody else gets it."""
        server = self._server()
        use = await self._queue(server, self._scans, Use.QUESTION)
        async with self._lent(server, use, None) as connection:
            try:
                yield connection
            finally:
                await shielded(close(connection))

    @asynccontextmanager
    async def _lent(self, server: ServerConnections, use: Use, begin: Begin[C] | None) -> AsyncGenerator[C, None]:
        try:
            connection = await self.take(begin)
            try:
                yield connection
                beat()
            except BaseException as error:
                if not isinstance(error, RetlError):
                    connection.abort()
                raise
            finally:
                self.give_back(connection)
        finally:
            server.limit.release(use)

    async def ask(self, question: Callable[[C], Awaitable[T]]) -> T:
        """Ask, and ask again if the connection was lost; so the question must be repeatable."""
        with suppress(ConnectionFailed):
            async with self.control() as connection:
                return await question(connection)
        async with self.control() as connection:
            return await question(connection)

    @asynccontextmanager
    async def reserve(self) -> AsyncIterator[Reservation[C]]:
        """A reservation, once there is room for one. After an error its connection is cut."""
        server = self._server()
        reservation = Reservation(self, server, await self._queue(server, self._scans))
        try:
            yield reservation
        except BaseException:
            reservation.abort()
            raise
        finally:
            reservation.leave()

    def reserve_now(self) -> Reservation[C] | None:
        """Another connection, if there is room for it at once; the caller must ``leave`` it."""
        server = self._server()
        use = server.limit.acquire_now(self._scans)
        return None if use is None else Reservation(self, server, use)

    @property
    def _scans(self) -> Use:
        return Use.TARGET if self.writes else Use.SOURCE

    async def _queue(self, server: ServerConnections, *uses: Use) -> Use:
        """Wait for what may take long; scans that have one of these connections go on."""
        use = server.limit.acquire_now(*uses)
        if use is not None:
            return use
        try:
            async with queued():
                use = await server.limit.acquire(*uses)
        except BaseException:
            if use is not None:
                server.limit.release(use)
            raise
        return use

    async def take(self, begin: Begin[C] | None = None) -> C:
        """An idle connection that the server still knows, else a new one; ``begin`` is its first statement."""
        server = self._server()
        return await self._kept(server, begin) or await self._new(server, begin)

    async def _kept(self, server: ServerConnections, begin: Begin[C] | None) -> C | None:
        while (idle := server.pop_idle(self.key.session)) is not None:
            kept = cast(C, idle.connection)
            server.in_use[kept] = self
            try:
                if not kept.closed and begin is not None:
                    await begin(kept)
                elif not kept.closed and (kept.has_news or not idle.is_trusted):
                    await kept.prove()
            except ConnectionFailed:
                kept.abort()
            except BaseException:
                kept.abort()
                server.in_use.pop(kept, None)
                raise
            if not kept.closed:
                return kept
            server.in_use.pop(kept, None)
        return None

    async def _new(self, server: ServerConnections, begin: Begin[C] | None) -> C:
        await server.begin_opening()
        try:
            connection = await self._connect()
            try:
                if begin is not None:
                    await begin(connection)
            except BaseException:
                connection.abort()
                raise
            server.in_use[connection] = self
        finally:
            server.end_opening()
        return connection

    def give_back(self, connection: C) -> None:
        """The end of a use: the connection is kept, unless it was lost or is in a transaction."""
        server = self._homes.get()
        server.in_use.pop(connection, None)
        if connection.in_transaction and not connection.closed:
            connection.abort()
        server.keep(connection, self.key.session, self._keep_idle)

    async def release(self) -> None:
        """Close what only this pool has: idle connections now, those in use when they are given back.

        The pool may be used again.
        """
        if (server := self._homes.here()) is not None:
            await shielded(server.leave(self))

    async def aclose(self) -> None:
        """Cut what this pool has in use, and ``release`` the rest. The pool may be used again."""
        if (server := self._homes.here()) is not None:
            for connection in [connection for connection, user in server.in_use.items() if user is self]:
                connection.abort()
        await self.release()
