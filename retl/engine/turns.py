"""Limit how many tables of a pipeline are scanned at once, and whose turn it is."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from retl.pulse import unhurried

LONG_SECONDS = 3.0
"""After so long a scan gives its turn away between two slices, if others wait."""


class Turns:
    """A limited number of scans at once, and one of each table; the others wait in a queue."""

    def __init__(self, most: int) -> None:
        self._free = anyio.Semaphore(most, fast_acquire=True)
        self._tables: dict[str | None, anyio.Lock] = {}

    @asynccontextmanager
    async def turn(self, table: str | None) -> AsyncGenerator[Turn, None]:
        """A turn for the length of a block: to scan a table, or with ``None`` to find the tables."""
        lock = self._tables.setdefault(table, anyio.Lock(fast_acquire=True))
        async with lock, self._turn(lock) as turn:
            yield turn

    @asynccontextmanager
    async def _turn(self, table: anyio.Lock) -> AsyncGenerator[Turn, None]:
        turn = Turn(self._free, table)
        await turn.acquire()
        try:
            yield turn
        finally:
            turn.release()


class Turn:
    """The turn of one scan."""

    def __init__(self, free: anyio.Semaphore, table: anyio.Lock) -> None:
        self._free = free
        self._table = table
        self._held = False
        self._since = 0.0

    async def acquire(self) -> None:
        """Wait for the turn."""
        with unhurried():
            await self._free.acquire()
        self._held, self._since = True, time.monotonic()

    def release(self) -> None:
        """End the turn, so that the next scan may begin."""
        if self._held:
            self._held = False
            self._free.release()

    @property
    def is_long(self) -> bool:
        """Whether others wait, and this scan has had its turn for long."""
        return bool(self._free.statistics().tasks_waiting) and time.monotonic() - self._since >= LONG_SECONDS

    def blocks(self, since: float, least: float) -> bool:
        """Whether another scan of the same table waits, and this one has worked for long since then: ``least`` seconds or more."""
        waits = self._table.statistics().tasks_waiting
        return bool(waits) and time.monotonic() - since >= max(LONG_SECONDS, least)

    async def give_way(self) -> None:
        """Let the waiting scans go first. Called between two slices."""
        self.release()
        await self.acquire()
