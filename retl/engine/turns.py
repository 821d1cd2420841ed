"""Limit how many tables of a pipeline are scanned at once, and whose turn it is."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from retl.pulse import taking_turns, unhurried

LONG_SECONDS = 3.0
"""After so long a scan gives its turn away between two slices, if others wait."""


class Turns:
    """A limited number of scans at once, and one of each table; the others wait in a queue."""

    def __init__(self, most: int) -> None:
        self._queue = _Queue(most)
        self._tables: dict[str | None, anyio.Lock] = {}

    @asynccontextmanager
    async def turn(self, table: str | None) -> AsyncGenerator[Turn, None]:
        """A turn for the length of a block: to scan a table, or with ``None`` to find the tables."""
        lock = self._tables.setdefault(table, anyio.Lock(fast_acquire=True))
        async with lock, self._turn(lock) as turn:
            yield turn

    @asynccontextmanager
    async def _turn(self, table: anyio.Lock) -> AsyncGenerator[Turn, None]:
        turn = Turn(self._queue, table)
        await turn.acquire()
        try:
            with taking_turns(turn):
                yield turn
        finally:
            turn.end()


class Turn:
    """The turn of one scan."""

    def __init__(self, queue: _Queue, table: anyio.Lock) -> None:
        self._queue = queue
        self._table = table
        self._held = self._ended = False
        self._since = 0.0

    async def acquire(self, *, begun: bool = False, first: bool = False) -> None:
        """Wait for the turn. ``begun``: of a scan that holds connections."""
        with unhurried():
            await self._queue.join(begun=begun, first=first)
        self._held, self._since = True, time.monotonic()

    def release(self) -> None:
        """End the turn, so that the next scan may begin."""
        if self._held:
            self._held = False
            self._queue.release()

    def end(self) -> None:
        """The scan is over: it takes no turn back."""
        self._ended = True
        self.release()

    @property
    def is_long(self) -> bool:
        """Whether others wait, and this scan has had its turn for long."""
        return bool(self._queue.waiting) and time.monotonic() - self._since >= LONG_SECONDS

    def blocks(self, since: float, least: float) -> bool:
        """Whether another scan of the same table waits, and this one has worked for long since then: ``least`` seconds or more."""
        waits = self._table.statistics().tasks_waiting
        return bool(waits) and time.monotonic() - since >= max(LONG_SECONDS, least)

    async def give_way(self) -> None:
        """Let the waiting scans go first. Called between two slices."""
        self.release()
        await self.acquire(begun=True)

    def lend(self) -> bool:
        """Let a scan that gave way go on, while this one waits for a connection that such a scan may hold."""
        if not self._held or not self._queue.pass_on():
            return False
        self._held = False
        return True

    async def take_back(self) -> None:
        """Wait for the turn that was lent, before the scans that have not begun."""
        await self.acquire(begun=True, first=True)
        if self._ended:
            self.release()


class _Queue:
    """Those who wait for a turn, in the order in which they came."""

    def __init__(self, free: int) -> None:
        self._free = free
        self.waiting: list[tuple[bool, anyio.Event]] = []
        """Whether each has begun, and what tells it that its turn has come."""

    async def join(self, *, begun: bool, first: bool) -> None:
        if self._free:
            self._free -= 1
            return
        mine = begun, anyio.Event()
        self.waiting.insert(0 if first else len(self.waiting), mine)
        try:
            await mine[1].wait()
        except BaseException:
            if mine in self.waiting:
                self.waiting.remove(mine)
            else:  # its turn came in the same moment
                self.release()
            raise

    def release(self) -> None:
        """The next one has its turn."""
        if self.waiting:
            self.waiting.pop(0)[1].set()
        else:
            self._free += 1

    def pass_on(self) -> bool:
        """The next one that has begun has its turn, if there is one."""
        for mine in self.waiting:
            if mine[0]:
                self.waiting.remove(mine)
                mine[1].set()
                return True
        return False
