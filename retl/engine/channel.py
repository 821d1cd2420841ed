"""The bounded queue between reader and writer, measured in bytes as well as in items."""

from __future__ import annotations

import time
from collections import deque
from typing import Generic, TypeVar

import anyio

from retl.pulse import beat

T = TypeVar("T")


class ChannelClosed(Exception):
    """The reader has ended and everything that it sent has been received."""


class Channel(Generic[T]):
    """One sender, one receiver. ``send`` waits while the channel is full.

    An item larger than ``max_bytes`` is accepted when the channel is empty, so nothing
    waits for ever. ``send_wait`` and ``receive_wait`` count the seconds that each
    side has waited for the other: the larger one names the slower side.
    """

    def __init__(self, *, max_bytes: int, max_items: int) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._error: Exception | None = None
        self._changed = anyio.Event()
        self.send_wait = 0.0
        self.receive_wait = 0.0
        self.peak_bytes = 0

    def renewed(self) -> Channel[T]:
        """An empty one like it, which goes on counting the seconds."""
        other: Channel[T] = Channel(max_bytes=self._max_bytes, max_items=self._max_items)
        other.send_wait, other.receive_wait, other.peak_bytes = self.send_wait, self.receive_wait, self.peak_bytes
        return other

    async def send(self, item: T, size: int = 0) -> None:
        """Put an item of ``size`` bytes in; waits for room."""
        beat()
        if self._full(size):
            began = time.monotonic()
            try:
                while self._full(size):
                    await self._wait()
            finally:
                self.send_wait += time.monotonic() - began
        self._items.append((item, size))
        self._bytes += size
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        self._notify()

    def close(self, error: Exception | None = None) -> None:
        """The sender's end: no more items. With ``error`` the receiver gets that error after the last item."""
        self._closed = True
        self._error = error
        self._notify()

    async def receive(self) -> T:
        """The next item. Raises ``ChannelClosed`` at the end, or the sender's error."""
        if not self._items and not self._closed:
            began = time.monotonic()
            try:
                while not self._items and not self._closed:
                    await self._wait()
            finally:
                self.receive_wait += time.monotonic() - began
        if not self._items:
            raise self._error or ChannelClosed
        beat()
        item, size = self._items.popleft()
        self._bytes -= size
        self._notify()
        return item

    def _full(self, size: int) -> bool:
        if not self._items:
            return False
        return len(self._items) >= self._max_items or self._bytes + size > self._max_bytes

    async def _wait(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed.statistics().tasks_waiting:
            self._changed.set()
            self._changed = anyio.Event()
