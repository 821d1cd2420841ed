"""The connections of one event loop to one server, which all connectors with the same address and login share.

They belong to the loop and the process that opened them, and never move to another: a second loop, and a process
after a fork, have connections of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Hashable
from contextlib import suppress
from typing import NamedTuple, Protocol
from weakref import WeakSet, WeakValueDictionary

from retl.connectors.net.limit import ConnectionLimit
from retl.model.errors import RetlError
from retl.threads import leave_to_parent, renew_after_fork

TRUSTED_SECONDS = 1.0
"""Seconds since its last use within which a connection is not checked."""
_CLOSING_SECONDS = 1.0
"""How long a new connection waits for the end of one that makes room for it."""


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


class PoolKey(NamedTuple):
    """What tells which pools share connections."""

    server: Hashable
    """Address and user: pools with the same one share a limit."""
    session: Hashable
    """All that a session depends on: connections are handed on among pools that have the same."""


class Member(Protocol):
    """A pool, as its server knows it."""

    key: PoolKey
    most: int
    urgent: int
    writes: bool


class Idle(NamedTuple):
    """A connection that nobody uses, and by which time it was used last and will be closed."""

    connection: Pooled
    session: Hashable
    since: float
    until: float

    @property
    def is_trusted(self) -> bool:
        """Whether it was used a moment ago."""
        return time.monotonic() - self.since < TRUSTED_SECONDS


class ServerConnections:
    """What some pools have open at one server, and who may have the next connection.

    The limit is the smallest of its pools'. When the last pool of a session has left, its idle connections are closed.
    """

    def __init__(self, *, shared: bool) -> None:
        """``shared``: whether the limit holds for all connections, not only for those that are waited for."""
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self.limit = ConnectionLimit()
        self.in_use: dict[Pooled, Member] = {}
        self._shared = shared
        self._members: WeakSet[Member] = WeakSet()
        self._counted = 0
        self._idle: list[Idle] = []
        """In the order of their last use."""
        self._opening = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = 0.0

    def join(self, pool: Member) -> None:
        """Count a pool among those that use the server, from its first use on."""
        self._members.add(pool)
        if len(self._members) != self._counted:  # one may have been thrown away
            self._resize()

    def _resize(self) -> None:
        members = list(self._members)
        self._counted = len(members)
        if members:
            most = min(member.most for member in members)
            both = len({member.writes for member in members}) > 1
            self.limit.resize(most, urgent=max(member.urgent for member in members), both=both)

    async def leave(self, pool: Member) -> None:
        """Close what no other pool can use: what is idle now, and what is in use when it is given back."""
        self._members.discard(pool)
        self._resize()
        for idle in [idle for idle in self._idle if not self._is_wanted(idle.session)]:
            self._idle.remove(idle)
            self._close_soon(idle.connection)
        if not self._idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closing:
            await asyncio.wait(set(self._closing))

    def _is_wanted(self, session: Hashable) -> bool:
        return any(member.key.session == session for member in self._members)

    def pop_idle(self, session: Hashable) -> Idle | None:
        """The connection of a session that was used last, if one is idle."""
        for number in reversed(range(len(self._idle))):
            if self._idle[number].session == session:
                return self._idle.pop(number)
        return None

    def keep(self, connection: Pooled, session: Hashable, keep_idle: float) -> None:
        """Keep a connection for its next use, if there may be one."""
        if connection.closed:
            # Others may have been lost with it: check them before use.
            self._idle = [idle._replace(since=idle.since - TRUSTED_SECONDS) for idle in self._idle]
        elif keep_idle <= 0 or not self._is_wanted(session):
            self._close_soon(connection)
        else:
            now = time.monotonic()
            self._idle.append(Idle(connection, session, now, now + keep_idle))
            self._wake_by(now + keep_idle)

    async def begin_opening(self) -> None:
        """Make room for a new connection: an idle one, of another session, may have to go. ``end_opening`` follows."""
        while self._shared and self._open >= self.limit.most and (self._idle or self._closing):
            if self._idle:
                self._close_soon(self._idle.pop(0).connection)
            ended = await asyncio.wait(self._closing, timeout=_CLOSING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not ended[0]:
                break
        self._opening += 1

    def end_opening(self) -> None:
        """The new connection is in use, or there is none."""
        self._opening -= 1

    @property
    def _open(self) -> int:
        return len(self.in_use) + len(self._idle) + len(self._closing) + self._opening

    def _wake_by(self, when: float) -> None:
        if self._timer is not None:
            if self._wakes <= when:
                return
            self._timer.cancel()
        self._wakes = when
        self._timer = self.loop.call_later(max(0.0, when - time.monotonic()), self._close_old)

    def _close_old(self) -> None:
        """Close connections that have been idle for long enough, and come back for the next one."""
        now, self._timer = time.monotonic(), None
        old = [idle for idle in self._idle if idle.until <= now]
        self._idle = [idle for idle in self._idle if idle.until > now]
        for idle in old:
            self._close_soon(idle.connection)
        if self._idle:
            self._wake_by(min(idle.until for idle in self._idle))

    def _close_soon(self, connection: Pooled) -> None:
        task = self.loop.create_task(close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def abandon(self) -> None:
        """Cut everything. The event loop is closed."""
        idle, self._idle = self._idle, []
        for connection in (*self.in_use, *(one.connection for one in idle)):
            with suppress(RuntimeError):  # the loop is closed
                connection.abort()


async def close(connection: Pooled) -> None:
    """Close a connection politely, whatever becomes of it."""
    with suppress(RetlError):
        await connection.close()


class _Servers:
    """The servers of this process, by the event loop and what tells them apart."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[int, Hashable], ServerConnections] = WeakValueDictionary()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Connections of the parent process are neither used nor closed."""
        for server in list(self._known.values()):
            leave_to_parent(server)
        self._known.clear()

    def server(self, key: Hashable, *, shared: bool) -> ServerConnections:
        # A loop that is known here is alive, so no other one has its number.
        place = id(asyncio.get_running_loop()), key
        found = self._known.get(place)
        if found is None or found.process != os.getpid():
            found = self._known[place] = ServerConnections(shared=shared)
        return found


_servers = _Servers()


class Homes:
    """The connections that one pool shares, in each event loop in which it is used."""

    def __init__(self, key: Hashable, *, shared: bool) -> None:
        self._key = key
        self._shared = shared
        self._of_loops: dict[asyncio.AbstractEventLoop, ServerConnections] = {}

    def here(self) -> ServerConnections | None:
        """Those of the running loop, if there are any. Those of loops that are closed are cut."""
        loop = asyncio.get_running_loop()
        found = self._of_loops.get(loop)
        if found is not None and found.process == os.getpid():
            return found
        for other, server in list(self._of_loops.items()):
            if server.process != os.getpid():
                leave_to_parent(server)
            elif other.is_closed():
                server.abandon()
            else:
                continue
            del self._of_loops[other]
        return None

    def get(self) -> ServerConnections:
        """Those of the running loop."""
        found = self.here()
        if found is None:
            found = _servers.server(self._key, shared=self._shared)
            self._of_loops[found.loop] = found
        return found
