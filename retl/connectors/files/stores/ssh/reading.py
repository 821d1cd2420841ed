"""Reads a file in blocks of which many are under way at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from retl.connectors.base import SourceError
from retl.connectors.files.store import FileInfo, changed
from retl.connectors.files.stores.ssh.connection import OpenFile
from retl.threads import shielded

AHEAD_BYTES = 4 << 20
"""How much of one file is asked for before it is needed, and so how much memory a reader takes."""
AHEAD = 64
_SMALLEST = 4 << 10


class BlockReader:
    """The bytes of an open file in their order.

    A server may answer with less than it was asked for: then the rest is asked for again, and no longer so much at once.
    """

    def __init__(self, opened: OpenFile, file: FileInfo, block: int) -> None:
        """``block``: how many bytes the server may be asked for at once."""
        self._opened = opened
        self._file = file
        self._block = block
        self._under_way: deque[asyncio.Task[bytes]] = deque()
        self._next = 0

    async def blocks(self, start: int) -> AsyncGenerator[bytes, None]:
        """All bytes from ``start`` on, up to the size that the file was listed with."""
        self._next = start
        try:
            while self._ask_ahead():
                block = await self._under_way[0]
                self._under_way.popleft()
                yield block
        finally:
            await shielded(self._stop())

    def _ask_ahead(self) -> bool:
        """Ask for more, as far as there is more; whether anything is under way."""
        most = max(1, min(AHEAD, AHEAD_BYTES // self._block))
        while self._next < self._file.size and len(self._under_way) < most:
            length = min(self._block, self._file.size - self._next)
            self._under_way.append(asyncio.create_task(self._whole(self._next, length)))
            self._next += length
        return bool(self._under_way)

    async def _whole(self, offset: int, length: int) -> bytes:
        first = await self._part(offset, length)
        if len(first) == length:
            return first
        self._block = max(_SMALLEST, min(self._block, len(first)))
        parts, end = [first], offset + length
        offset += len(first)
        while offset < end:
            parts.append(await self._part(offset, end - offset))
            offset += len(parts[-1])
        return b"".join(parts)

    async def _part(self, offset: int, length: int) -> bytes:
        found = await self._opened.read(length, offset)
        if not found:
            raise changed(self._file, f"it ends after {offset:,} of {self._file.size:,} bytes")
        if len(found) > length:
            raise SourceError(
                f"the server gave {len(found):,} bytes of {self._file.name!r}, and was asked for {length:,}."
            )
        return found

    async def _stop(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()
