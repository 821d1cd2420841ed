"""The walk through all folders of a server: sorted, in pages, with the next folders asked for ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar

from retl.connectors.base import ConnectionFailed
from retl.connectors.files.names import may_hold
from retl.connectors.files.store import FileInfo, LeftOut
from retl.connectors.files.stores.ssh.shared import SharedConnections
from retl.connectors.files.stores.ssh.tree import Entry, Folder, Tree
from retl.threads import shielded

PAGE = 1_000
_FOLDERS_AHEAD = 4
"""How many folders are asked for before their turn: a far server needs several answers for each."""
_ENTRIES_AHEAD = 200

T = TypeVar("T")
_Listing = asyncio.Task[Iterator[Entry]]


class Walk:
    """One walk. No connection is held while a page is handed out."""

    def __init__(
        self, connections: SharedConnections, root: bytes, prefix: str, left_out: LeftOut | None = None
    ) -> None:
        self._connections = connections
        self._root = root
        self._prefix = prefix
        self._left_out = left_out
        self._levels: list[_Level] = []

    async def pages(self) -> AsyncGenerator[list[FileInfo], None]:
        """All files whose names begin with the prefix, in pages, ordered."""
        try:
            start = await self._ask(lambda tree: tree.start(self._prefix))
            if start is not None:
                self._levels.append(_Level(start, await self._list(start)))
            while page := await self._page():
                yield page
        finally:
            await shielded(self._stop())

    async def _page(self) -> list[FileInfo]:
        page: list[FileInfo] = []
        while self._levels and len(page) < PAGE:
            level = self._levels[-1]
            self._look_ahead(level)
            if not level.next:
                self._levels.pop()
                continue
            entry, below, listing = level.next[0]
            if below is not None and listing is not None:
                self._levels.append(_Level(below, await listing))
                level.ahead -= 1
            elif entry.real is None and entry.name.startswith(self._prefix):
                page.append(entry.file())
            level.next.popleft()
            if len(page) % _ENTRIES_AHEAD == 0:
                # The pages of a large folder ask nobody: others get their turn all the same.
                await asyncio.sleep(0)
        return page

    def _look_ahead(self, level: _Level) -> None:
        """Ask for the next folders."""
        while level.ahead < _FOLDERS_AHEAD and len(level.next) < _ENTRIES_AHEAD:
            entry = next(level.found, None)
            if entry is None:
                return
            below = self._below(level.folder, entry)
            listing = None if below is None else asyncio.create_task(self._list(below))
            level.ahead += listing is not None
            level.next.append((entry, below, listing))

    def _below(self, folder: Folder, entry: Entry) -> Folder | None:
        if entry.real is None or entry.real in folder.above or not may_hold(entry.name, self._prefix):
            return None
        return Folder(entry.name, entry.real, folder.above | {entry.real})

    async def _list(self, folder: Folder) -> Iterator[Entry]:
        return await self._ask(lambda tree: tree.entries(folder))

    async def _ask(self, question: Callable[[Tree], Awaitable[T]]) -> T:
        """Ask, and ask again on another connection if the first one was lost."""
        try:
            async with self._connections.borrow() as connection:
                return await question(Tree(connection, self._root, self._left_out))
        except ConnectionFailed:
            async with self._connections.borrow() as connection:
                return await question(Tree(connection, self._root, self._left_out))

    async def _stop(self) -> None:
        tasks = [listing for level in self._levels for _, _, listing in level.next if listing is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Level:
    """A folder on the way down: what is left of it, and which of that has been asked for."""

    def __init__(self, folder: Folder, found: Iterator[Entry]) -> None:
        self.folder = folder
        self.found = found
        self.next: deque[tuple[Entry, Folder | None, _Listing | None]] = deque()
        self.ahead = 0
