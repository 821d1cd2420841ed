"""The connections of one door, kept between uses and limited for all of its scans.

A scan *reserves* a connection for as long as it lasts; a question borrows one for a moment,
and waits for nothing else while it has it. One connection of the limit is never reserved, so
a question that is asked by somebody who holds a reservation always gets its turn; where the
door holds a lease, one more serves its heartbeat alone, which must not wait for a question.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic, Protocol, TypeVar

import anyio

from retl.model.errors import ConnectionFailed, RetlError
from retl.pulse import beat, unhurried
from retl.threads import shielded

MAX_CONNECTIONS = 8
KEEP_IDLE = 60.0
_TRUSTED_SECONDS = 1.0
"""Seconds since its last use within which a connection is not checked."""


class Pooled(Protocol):
    """What a pool needs of a connection."""

    @property
    def closed(self) -> bool: ...

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, so that nobody else can use the connection."""

    @property
    def has_news(self) -> bool:
        """Whether something has come from the server since the last use: an idle connection hears of its end."""

    async def prove(self) -> None:
        """Raise ``ConnectionFailed`` if the server no longer knows the connection."""

    def abort(self) -> None:
        """Cut it at once. Safe at any time."""

    async def close(self) -> None:
        """Close it politely."""


C = TypeVar("C", bound=Pooled)
T = TypeVar("T")
Begin = Callable[[C], Awaitable[None]]
"""A first statement, which another connection may be sent too where it fails."""


class _Room(Generic[C]):
    """The connections of one event loop of one process; they never move to another."""

    def __init__(self, most: int, urgent: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self.open = anyio.Semaphore(most - urgent)
        self.reserved = anyio.Semaphore(most - urgent - 1)
        self.urgent = anyio.Semaphore(urgent)
        self.idle: list[tuple[float, C]] = []
        """Since when, in this order."""
        self.in_use: set[C] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.closing: set[asyncio.Task[None]] = set()

    @property
    def here(self) -> bool:
        return self.process == os.getpid() and self.loop is asyncio.get_running_loop()


class Reservation(Generic[C]):
    """A place under the limit, and the connection that is kept in it."""

    def __init__(self, pool: ConnectionPool[C], room: _Room[C]) -> None:
        self._pool = pool
        self._room = room
        self._connection: C | None = None
        self._generation = pool.generation

    async def connection(self, begin: Begin[C] | None = None) -> C:
        """The connection; a new one if the last one was lost or cut. ``begin`` is its first statement then."""
        if self._connection is None or self._connection.closed:
            if self._connection is not None:
                self._pool.give_back(self._connection, self._generation)
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
            self._pool.give_back(connection, self._generation)
        self._room.open.release()
        self._room.reserved.release()


_of_parents: list[object] = []
"""Connections of the parent process, neither used nor closed after a fork."""


class ConnectionPool(Generic[C]):
    """Connections that ``connect`` opens, at most ``max_connections`` at once.

    An idle one is closed ``keep_idle`` seconds after its last use.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        *,
        max_connections: int = MAX_CONNECTIONS,
        keep_idle: float = KEEP_IDLE,
        urgent: int = 0,
    ) -> None:
        """``urgent``: how many of them ``control`` keeps for what must not wait."""
        self._connect = connect
        self._urgent = urgent
        self._most = max(2 + urgent, max_connections)
        self._keep_idle = keep_idle
        self._current: _Room[C] | None = None
        self.generation = 0
        """Connections that were taken before the last ``release`` are closed after their use."""

    @asynccontextmanager
    async def control(self, *, urgent: bool = False, begin: Begin[C] | None = None) -> AsyncIterator[C]:
        """A connection for a question. A refused statement leaves it as it was; any other error cuts it.

        ``begin`` is its first statement: a kept connection that the server has ended in between is noticed by it, and
        replaced.
        """
        room = self._room()
        async with room.urgent if urgent else room.open:
            generation = self.generation
            connection = await self.take(begin)
            try:
                yield connection
                beat()
            except BaseException as error:
                if not isinstance(error, RetlError):
                    connection.abort()
                raise
            finally:
                self.give_back(connection, generation)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[C]:
        """A connection for what may change its session: it is closed afterwards, and nobody else gets it."""
        async with self.control() as connection:
            try:
                yield connection
            finally:
                await shielded(_close(connection))

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
        room = self._room()
        with unhurried():
            await room.reserved.acquire()
            try:
                await room.open.acquire()
            except BaseException:
                room.reserved.release()
                raise
        reservation = Reservation(self, room)
        try:
            yield reservation
        except BaseException:
            reservation.abort()
            raise
        finally:
            reservation.leave()

    def reserve_now(self) -> Reservation[C] | None:
        """Another connection, if there is room for it at once; the caller must ``leave`` it."""
        room = self._room()
        with suppress(anyio.WouldBlock):
            room.reserved.acquire_nowait()
            try:
                room.open.acquire_nowait()
            except anyio.WouldBlock:
                room.reserved.release()
                raise
            return Reservation(self, room)
        return None

    def _room(self) -> _Room[C]:
        if self._current is not None and not self._current.here:
            _abandon(self._current)
            self._current = None
        if self._current is None:
            self._current = _Room(self._most, self._urgent)
        return self._current

    async def take(self, begin: Begin[C] | None = None) -> C:
        """An idle connection that the server still knows, else a new one; ``begin`` is its first statement."""
        room = self._room()
        connection = await self._kept(room, begin) or await self._new(begin)
        room.in_use.add(connection)
        return connection

    async def _kept(self, room: _Room[C], begin: Begin[C] | None) -> C | None:
        while room.idle:
            since, kept = room.idle.pop()
            try:
                if not kept.closed and begin is not None:
                    await begin(kept)
                elif not kept.closed and (kept.has_news or time.monotonic() - since >= _TRUSTED_SECONDS):
                    await kept.prove()
            except ConnectionFailed:
                kept.abort()
            except BaseException:
                kept.abort()
                raise
            if not kept.closed:
                return kept
        return None

    async def _new(self, begin: Begin[C] | None) -> C:
        connection = await self._connect()
        try:
            if begin is not None:
                await begin(connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    def give_back(self, connection: C, generation: int) -> None:
        room = self._room()
        room.in_use.discard(connection)
        if connection.in_transaction and not connection.closed:
            connection.abort()
        if connection.closed:
            # Others may have been lost with it: check them before use.
            room.idle[:] = [(since - _TRUSTED_SECONDS, kept) for since, kept in room.idle]
            return
        if self._keep_idle <= 0 or generation != self.generation:
            self._close_soon(room, connection)
            return
        room.idle.append((time.monotonic(), connection))
        if room.timer is None:
            room.timer = room.loop.call_later(self._keep_idle, self._close_old, room)

    def _close_old(self, room: _Room[C]) -> None:
        """Close connections that have been idle for long enough, and come back for the next one."""
        now = time.monotonic()
        while room.idle and now - room.idle[0][0] >= self._keep_idle:
            self._close_soon(room, room.idle.pop(0)[1])
        left = self._keep_idle - (now - room.idle[0][0]) if room.idle else None
        room.timer = None if left is None else room.loop.call_later(left, self._close_old, room)

    def _close_soon(self, room: _Room[C], connection: C) -> None:
        task = room.loop.create_task(_close(connection))
        room.closing.add(task)
        task.add_done_callback(room.closing.discard)

    async def release(self) -> None:
        """Close idle connections now, and those in use when they are given back. The pool may be used again."""
        self.generation += 1
        if self._current is not None:
            await shielded(self._close_all(self._room()))

    async def aclose(self) -> None:
        """Close every connection; cut those in use. The pool may be used again."""
        if self._current is not None:
            for connection in self._room().in_use:
                connection.abort()
        await self.release()

    async def _close_all(self, room: _Room[C]) -> None:
        if room.timer is not None:
            room.timer.cancel()
        room.timer = None
        idle, room.idle[:] = [connection for _, connection in room.idle], []
        for connection in idle:
            await _close(connection)
        if room.closing:
            await asyncio.wait(set(room.closing))


async def _close(connection: Pooled) -> None:
    with suppress(RetlError):
        await connection.close()


def _abandon(room: _Room[C]) -> None:
    """Whether the event loop of these connections is closed, or belongs to the parent process."""
    if room.process != os.getpid():
        _of_parents.append(room)
        return
    for connection in (*room.in_use, *(kept for _, kept in room.idle)):
        with suppress(RuntimeError):  # the loop is closed
            connection.abort()
    room.idle.clear()
