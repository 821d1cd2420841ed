"""What lies below a folder of a server: a sorted walk, links that stay inside, and the proof of an identity."""

from __future__ import annotations

import asyncio
import stat as modes
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import asyncssh

from retl.connectors.base import ConfigError, SourceError
from retl.connectors.files.names import Entries, is_name, to_bytes, to_name
from retl.connectors.files.store import FileInfo, LeftOut, changed, moment
from retl.connectors.files.stores.ssh.connection import SSHConnection
from retl.connectors.files.stores.ssh.errors import NotThere

_AT_ONCE = 64
"""How many names are asked about at once."""
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

    def __init__(self, connection: SSHConnection, root: bytes, left_out: LeftOut | None = None) -> None:
        self._connection = connection
        self._root = root
        self._left_out = left_out or _nobody

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
        above = [root]
        for name, real, link in zip(names, *await self._leads(names), strict=True):
            if real is None or not _inside(real, root) or real in above or _unresolved(name, link, real, above[-1]):
                return None
            above.append(real)
        return Folder(f"{names[-1]}/" if names else "", above[-1], frozenset(above))

    async def _leads(self, names: Sequence[str]) -> tuple[Sequence[bytes | None], Sequence[asyncssh.SFTPAttrs | None]]:
        """Where names lead, and what lies there, links as such."""
        paths = [self.where(name) for name in names]
        reals = await asyncio.gather(*map(self._connection.realpath, paths))
        return reals, await asyncio.gather(*map(self._connection.lstat, paths))

    async def entries(self, folder: Folder) -> Iterator[Entry]:
        """What lies in a folder, sorted. Of links those that lead to something below the root and into no circle."""
        found = _Found(folder)
        try:
            async for entry in self._connection.scan(self.where(folder.name)):
                if (raw := _raw(entry)) not in _DOTS:
                    found.add(folder.name + to_name(raw), entry.attrs)
        except NotThere:
            if not folder.name:
                raise
        for names in _some(found.untold):
            for name, told in zip(names, (await self._leads(names))[1], strict=True):
                if told is not None:
                    found.add(name, told, last=True)
        for names in _some(found.links):
            await self._follow(names, found)
        return iter(found.entries)

    async def _follow(self, names: Sequence[str], found: _Found) -> None:
        root = await self.check()
        reals, links = await self._leads(names)
        there = await asyncio.gather(*(self._connection.stat(self.where(name)) for name in names))
        for name, real, link, attributes in zip(names, reals, links, there, strict=True):
            known = real is not None and attributes is not None and _inside(real, root)
            if not known or real in found.folder.above or _unresolved(name, link, cast(bytes, real), found.folder.real):
                self._left_out(name)
            else:
                found.take(name, cast(asyncssh.SFTPAttrs, attributes), cast(bytes, real))


def _nobody(name: str) -> None:
    """Nobody is told."""


class _Found:
    """What was found in one folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.entries: Entries[Entry] = Entries()
        self.links: list[str] = []
        self.untold: list[str] = []
        """Names of which the listing did not say what they are."""

    def add(self, name: str, attributes: asyncssh.SFTPAttrs, *, last: bool = False) -> None:
        if attributes.permissions is None and not last:
            self.untold.append(name)
        elif _is(attributes, modes.S_ISLNK):
            self.links.append(name)
        else:
            raw = to_bytes(name.removeprefix(self.folder.name))
            self.take(name, attributes, _below(self.folder.real, raw))

    def take(self, name: str, attributes: asyncssh.SFTPAttrs, real: bytes) -> None:
        """Add a folder or a file; anything else is left out."""
        if attributes.permissions is None:
            raise SourceError(
                f"the server does not tell whether {name!r} is a folder or a file.", remedy="use one that tells it."
            )
        if _is(attributes, modes.S_ISDIR):
            self.entries.add(Entry(f"{name}/", 0, 0, real))
        elif _is(attributes, modes.S_ISREG):
            self.entries.add(Entry(name, *_size_and_time(name, attributes)))


def _some(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """So many of them as are asked about at once."""
    return (names[first : first + _AT_ONCE] for first in range(0, len(names), _AT_ONCE))


def _raw(entry: asyncssh.SFTPName) -> bytes:
    raw = entry.filename if isinstance(entry.filename, bytes) else entry.filename.encode()
    if b"/" in raw or not raw:
        raise SourceError(f"the server lists {to_name(raw)!r} as a name, which is none.")
    return raw


def _below(folder: bytes, raw: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/" + raw


def _unresolved(name: str, link: asyncssh.SFTPAttrs | None, real: bytes, above: bytes) -> bool:
    """Whether a server says that a link leads to itself: then nobody can tell whether it leads out of the root."""
    is_link = link is not None and _is(link, modes.S_ISLNK)
    return is_link and real == _below(above, to_bytes(name).rpartition(b"/")[2])


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
