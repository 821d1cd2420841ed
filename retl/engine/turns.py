"""How many tables of a run are scanned at once, and whose turn it is."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

LONG_SECONDS = 3.0
"""A scan that has been at it for longer gives its turn away between two slices, where others are due."""


class Turns:
    """At most so many scans at once; those that wait come in the order in which they began to wait."""

    def __init__(self, most: int) -> None:
        self._free = anyio.Semaphore(most, fast_acquire=True)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[Turn, None]:
        """A turn for the length of a block."""
        turn = Turn(self._free)
        await turn.take()
        try:
            yield turn
        finally:
            turn.end()


class Turn:
    """The turn of one scan."""

    def __init__(self, free: anyio.Semaphore) -> None:
        self._free = free
        self._held = False
        self._since = 0.0

    async def take(self) -> None:
        """Wait for it."""
        await self._free.acquire()
        self._held, self._since = True, time.monotonic()

    def end(self) -> None:
        """The next one may begin."""
        if self._held:
            self._held = False
            self._free.release()

    @property
    def is_long(self) -> bool:
        """Whether others wait, and this one has been at it for a while."""
        return bool(self._free.statistics().tasks_waiting) and time.monotonic() - self._since >= LONG_SECONDS

    async def give_way(self) -> None:
        """Let those go first who wait. Called between two slices."""
        self.end()
        await self.take()
