"""Stores that behave as remote ones do, or as none should."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import anyio.to_thread

from retl.connectors.base import ConnectionFailed, SystemInfo
from retl.connectors.files.store import FileInfo, FileStore, LeftOut
from retl.connectors.files.stores.local import LocalStore


class Remote(LocalStore):
    """A folder that nobody can open: its files come as blocks, as from a bucket.

    ``on_block`` is called with the name of a file and the number of the block before each is sent.
    """

    system: ClassVar[str] = "remote"

    def __init__(self, path: str | Path, *, block: int = 64) -> None:
        super().__init__(path)
        self._block = block
        self.on_block: Callable[[str, int], Any] | None = None
        self.read_at_once = 0
        self.most_at_once = 0

    def path(self, file: FileInfo) -> Path | None:
        return None

    def whole_reader(self) -> Callable[[FileInfo], bytes] | None:
        return None

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        self.read_at_once += 1
        self.most_at_once = max(self.most_at_once, self.read_at_once)
        try:
            number = 0
            async with aclosing(super().read(file)) as blocks:
                async for block in blocks:
                    for start in range(0, len(block), self._block):
                        if self.on_block is not None:
                            await anyio.to_thread.run_sync(self.on_block, file.name, number)
                        number += 1
                        yield block[start : start + self._block]
        finally:
            self.read_at_once -= 1


class Endless(FileStore):
    """A listing that is made while it is read, of so many files; reading gives one row."""

    system: ClassVar[str] = "endless"

    def __init__(self, files: int) -> None:
        self.files = files
        self.listings = 0

    @property
    def root(self) -> str:
        return "endless://"

    async def ping(self) -> SystemInfo:
        return SystemInfo("endless", "")

    def file(self, number: int) -> FileInfo:
        return FileInfo(f"tree/{number:09}.csv", 5, None, f"etag-{number:040}")

    async def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        self.listings += 1
        for start in range(0, self.files, 1_000):
            yield [self.file(number) for number in range(start, min(start + 1_000, self.files))]

    async def stat(self, name: str) -> FileInfo | None:
        return self.file(int(name[5:-4]))

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        yield b"id\n1\n"

    async def aclose(self) -> None:
        return None


def changing(store: Remote, name: str, change: Callable[[], Any], *, at_block: int = 1) -> None:
    """Change something once, while a file is read; not yet while its columns are inferred, before all others."""
    done = False
    others = False

    def on_block(read: str, number: int) -> None:
        nonlocal done, others
        others = others or read != name
        if read == name and others and number >= at_block and not done:
            done = True
            change()

    store.on_block = on_block


def cut(name: str) -> ConnectionFailed:
    return ConnectionFailed(f"the line was cut while {name} was read.")
