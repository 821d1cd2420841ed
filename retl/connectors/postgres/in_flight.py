"""A batch on its way to the server, while the next one is encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio.to_thread

T = TypeVar("T")
INLINE_BYTES = 64 * 1024
"""Below this size, inline encoding beats a thread hop."""


async def encoded(encode: Callable[[], T], size: int) -> T:
    """What ``encode`` gives, for a batch of ``size`` bytes."""
    return encode() if size <= INLINE_BYTES else await anyio.to_thread.run_sync(encode)


class InFlight:
    """At most one batch on its way: the next is sent when it has arrived."""

    def __init__(self) -> None:
        self._running: asyncio.Task[None] | None = None

    async def send(self, sending: Callable[[], Coroutine[Any, Any, None]], size: int) -> None:
        """Begin to send a batch of ``size`` bytes; a small one has arrived then. Raises the error of the one before."""
        await self.settle()
        self._running = asyncio.get_running_loop().create_task(sending())
        if size <= INLINE_BYTES:
            await self.settle()

    async def settle(self) -> None:
        """Wait for the batch that is on its way, and raise its error."""
        running, self._running = self._running, None
        if running is not None:
            await running

    async def cancel(self) -> None:
        """Give up the batch that is on its way."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
