"""Connections on which several files are read at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from retl.connectors.base import RetlError
from retl.connectors.files.stores.ssh.connection import SSHConnection
from retl.connectors.net.pool import ConnectionPool

_NO_MORE_SECONDS = 60.0
"""How long no further connection is tried after one was refused."""


@dataclass(eq=False)
class _Shared:
    connection: SSHConnection
    users: int = 0


@dataclass
class _Room:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shared: list[_Shared] = field(default_factory=list)


class SharedConnections:
    """Gives each reader the connection that serves the fewest, and opens up to ``most``.

    No reader waits for another one: where the server refuses a further connection, those that there are serve more.
    """

    def __init__(self, pool: ConnectionPool[SSHConnection], most: int) -> None:
        self._pool = pool
        self._most = most
        self._no_more_until = 0.0
        self._current: _Room | None = None

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[SSHConnection]:
        """A connection for one reader."""
        room = self._room()
        async with room.lock:
            shared = await self._least_used(room)
            shared.users += 1
        try:
            yield shared.connection
        finally:
            shared.users -= 1
            if not shared.users:
                room.shared.remove(shared)
                self._pool.give_back(shared.connection)

    async def _least_used(self, room: _Room) -> _Shared:
        usable = [shared for shared in room.shared if not shared.connection.closed]
        if not usable:
            return await self._another(room)
        if len(usable) < self._most and time.monotonic() >= self._no_more_until:
            try:
                return await self._another(room)
            except RetlError:
                self._no_more_until = time.monotonic() + _NO_MORE_SECONDS
        # One may have been lost while another was tried.
        return min(usable, key=lambda shared: shared.users)

    async def _another(self, room: _Room) -> _Shared:
        shared = _Shared(await self._pool.take())
        room.shared.append(shared)
        return shared

    def _room(self) -> _Room:
        loop = asyncio.get_running_loop()
        if self._current is None or self._current.loop is not loop:
            self._current = _Room(loop)
        return self._current
