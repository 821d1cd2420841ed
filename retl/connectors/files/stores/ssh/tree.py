"""What lies below a folder of a server: a sorted walk, links that stay inside, and the proof of an identity."""

from __future__ import annotations

import asyncio
import stat as modes
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple

import asyncssh

from retl.connectors.base import ConfigError, SourceError
from retl.connectors.files.names import Entries, is_name, may_hold, to_bytes, to_name
from retl.connectors.files.store import FileInfo, changed, moment
from retl.connectors.files.stores.ssh.connection import SSHConnection
from retl.connectors.files.stores.ssh.errors import NotThere
from retl.connectors.net.pool import ConnectionPool

PAGE = 1_000
_LINKS = 64
"""How many links are asked about at once."""
_DOTS = (b".", b"..")


class Entry(NamedTuple):
    """What lies in a folder: the full name, with a ``/`` at the end of a folder's."""

    name: str
    size: int
    modified: int
    real: bytes | None = None
    """Where it leads, of a folder."""

    def file(self) -> FileInfo:
        return _info(self.name, self.size, self.modified)


class Folder(NamedTuple):
    """A folder that was entered."""

    name: str
    """With a ``/`` at its end; empty for the root."""
    real: bytes
    above: frozenset[bytes]
    """Where it and those above it lie: what leads there again makes a circle."""


class Tree:
    """The folder as one connection sees it."""

    def __init__(self, connection: SSHConnection, root: bytes) -> None:
        self._connection = connection
        self._root = root

    def where(self, name: str) -> bytes:
        """The path of a name."""
        return self._root.rstrip(b"/") + b"/" + to_bytes(name)

    async def check(self) -> bytes:
        """Where the root lies. Raises ``ConfigError`` where it is no folder that may be listed."""
        real, attributes = await asyncio.gather(
            self._connection.realpath(self._root), self._connection.stat(self._root)
        )
        if real is None or attributes is None or not _is(attributes, modes.S_ISDIR):
            raise ConfigError(
                f"{self._root.decode(errors='backslashreplace')!r} is no folder of the server.",
                remedy="name a folder that exists in url.",
            )
        return real

    async def stat(self, name: str) -> FileInfo | None:
        """A file as of now; ``None`` where there is no file of that name, or one that lies elsewhere."""
        path, ask = self.where(name), self._connection
        root, real, found = await asyncio.gather(ask.realpath(self._root), ask.realpath(path), ask.stat(path))
        if root is None or found is None or not _inside(real, root) or not _is(found, modes.S_ISREG):
            return None
        return _info(name, *_size_and_time(name, found))

    async def prove(self, file: FileInfo) -> None:
        """Raises ``FileChanged`` where the file is another one by now."""
        found = await self.stat(file.name)
        if found is None or found.identity != file.identity:
            raise changed(file, "it is gone" if found is None else "it was written to, or replaced")

    async def start(self, prefix: str) -> Folder | None:
        """The deepest folder that holds all names of a prefix."""
        root = await self.check()
        parts = prefix.split("/")[:-1]
        names = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        if names and not is_name(names[-1]):
            return None
        reals = await asyncio.gather(*(self._connection.realpath(self.where(name)) for name in names))
        above = [root, *(real for real in reals if real is not None and _inside(real, root))]
        if len(set(above)) <= len(names):
            return None  # one leads out, or nowhere, or in a circle
        return Folder(f"{names[-1]}/" if names else "", above[-1], frozenset(above))

    async def entries(self, folder: Folder) -> Iterator[Entry]:
        """What lies in a folder, sorted. Of links those that lead to something below the root and into no circle."""
        found: Entries[Entry] = Entries()
        links: list[str] = []
        try:
            async for entry in self._connection.scan(self.where(folder.name)):
                self._add(folder, entry, found, links)
        except NotThere:
            if not folder.name:
                raise
        for first in range(0, len(links), _LINKS):
            await self._follow(folder, links[first : first + _LINKS], found)
        return iter(found)

    def _add(self, folder: Folder, entry: asyncssh.SFTPName, found: Entries[Entry], links: list[str]) -> None:
        raw = entry.filename if isinstance(entry.filename, bytes) else entry.filename.encode()
        if raw in _DOTS:
            return
        if b"/" in raw or not raw:
            raise SourceError(f"the server lists {to_name(raw)!r} as a name, which is none.")
        name = folder.name + to_name(raw)
        if entry.attrs.permissions is None or _is(entry.attrs, modes.S_ISLNK):
            links.append(name)
        else:
            _add(found, name, entry.attrs, folder.real.rstrip(b"/") + b"/" + raw)

    async def _follow(self, folder: Folder, names: Sequence[str], found: Entries[Entry]) -> None:
        paths = [self.where(name) for name in names]
        root = await self._connection.realpath(self._root)
        reals = await asyncio.gather(*map(self._connection.realpath, paths))
        there = await asyncio.gather(*map(self._connection.stat, paths))
        for name, real, attributes in zip(names, reals, there, strict=True):
            if real is None or root is None or attributes is None or real in folder.above:
                continue
            if _inside(real, root):
                _add(found, name, attributes, real)


async def walk(pool: ConnectionPool[SSHConnection], root: bytes, prefix: str) -> AsyncGenerator[list[FileInfo], None]:
    """All files whose names begin with ``prefix``, in pages, ordered. No connection is held between two folders."""

    async def entries(folder: Folder) -> Iterator[Entry]:
        return await pool.ask(lambda connection: Tree(connection, root).entries(folder))

    start = await pool.ask(lambda connection: Tree(connection, root).start(prefix))
    stack = [] if start is None else [(start, await entries(start))]
    page: list[FileInfo] = []
    while stack:
        folder, found = stack[-1]
        entry = next(found, None)
        if entry is None:
            stack.pop()
        elif entry.real is not None:
            if may_hold(entry.name, prefix) and entry.real not in folder.above:
                below = Folder(entry.name, entry.real, folder.above | {entry.real})
                stack.append((below, await entries(below)))
        elif entry.name.startswith(prefix):
            page.append(entry.file())
        if len(page) >= PAGE:
            yield page
            page = []
    if page:
        yield page


def _add(found: Entries[Entry], name: str, attributes: asyncssh.SFTPAttrs, real: bytes) -> None:
    if _is(attributes, modes.S_ISDIR):
        found.add(Entry(f"{name}/", 0, 0, real))
    elif _is(attributes, modes.S_ISREG):
        found.add(Entry(name, *_size_and_time(name, attributes)))


def _is(attributes: asyncssh.SFTPAttrs, kind: object) -> bool:
    assert callable(kind)
    return bool(kind(attributes.permissions or 0))


def _inside(real: bytes | None, root: bytes) -> bool:
    return real is not None and (real == root or real.startswith(root.rstrip(b"/") + b"/"))


def _size_and_time(name: str, attributes: asyncssh.SFTPAttrs) -> tuple[int, int]:
    if attributes.size is None or attributes.mtime is None:
        raise SourceError(
            f"the server does not tell size and time of {name!r}, so nobody can see whether it has changed.",
            remedy="use an SFTP server that tells them.",
        )
    return attributes.size, int(attributes.mtime)


def _info(name: str, size: int, modified: int) -> FileInfo:
    return FileInfo(name, size, moment(modified * 1_000_000_000), f"{size}-{modified}")
