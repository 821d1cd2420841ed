"""Files of the local disk."""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import anyio.to_thread
import msgspec

from retl.connectors.base import ConfigError, RetlError, SystemInfo, TransientError
from retl.connectors.files.names import Entries, is_name, may_hold, to_bytes, to_name
from retl.connectors.files.source import FileOptions
from retl.connectors.files.store import FileInfo, FileStore, LeftOut, changed, moment
from retl.threads import Worker

BLOCK = 1 << 20
PAGE = 1_000
_FOLDER, _FILE = "folder", "file"
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# Never wait for the writer of a pipe, and never become the terminal of a device.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class LocalFiles(FileOptions, kw_only=False, forbid_unknown_fields=True):
    """A folder of the local disk, or of a share that is mounted there, as a source."""

    type_name: ClassVar[str] = "local"
    summary: ClassVar[str] = "Files of a local folder."
    example: ClassVar[str] = 'source = { type = "local", path = "exports" }'

    path: Annotated[str, msgspec.Meta(description="The folder; files are named below it.", extra={"path": True})]

    def store(self) -> LocalStore:
        return LocalStore(self.path)


class LocalStore(FileStore):
    """A folder of the local disk.

    A link is followed where it leads to something below the root and into no circle; others, and sockets, pipes and
    devices, are no files. The identity of a file is its size, its time of change in nanoseconds, and its inode: a file
    that is replaced by a rename always has another one.
    """

    system: ClassVar[str] = "local"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = os.fsencode(Path(path).expanduser().absolute())

    @property
    def root(self) -> str:
        return f"{to_name(self._root).rstrip('/')}/"

    async def ping(self) -> SystemInfo:
        await anyio.to_thread.run_sync(self._look)
        return SystemInfo("local files", "", self.root)

    def _look(self) -> None:
        _Tree(self._root).check()

    async def list(self, prefix: str = "", left_out: LeftOut | None = None) -> AsyncGenerator[list[FileInfo], None]:
        worker = Worker("files")
        try:
            files = _walk(_Tree(self._root, left_out), prefix)
            while page := await worker.run(_page, files):
                yield page
        finally:
            worker.close()

    async def stat(self, name: str) -> FileInfo | None:
        return await anyio.to_thread.run_sync(_Tree(self._root).stat, name)

    async def read(self, file: FileInfo) -> AsyncGenerator[bytes, None]:
        worker = Worker("files")
        reader = _Reader(_Tree(self._root), file)
        try:
            await worker.run(reader.open)
            while block := await worker.run(reader.block):
                yield block
            await worker.run(reader.prove)
        finally:
            worker.close()
            reader.close()

    def whole_reader(self) -> Callable[[FileInfo], bytes] | None:
        return partial(_whole, _Tree(self._root))

    def path(self, file: FileInfo) -> Path | None:
        """Where the file lies. Who reads it there has to see by ``stat``, before and after, that it is this file."""
        return Path(os.fsdecode(_Tree(self._root).where(file.name)))

    async def aclose(self) -> None:
        pass


def _page(files: Iterator[FileInfo]) -> list[FileInfo]:
    return list(islice(files, PAGE))


class _Folder(NamedTuple):
    name: str
    """With a ``/`` at its end; empty for the root."""
    real: frozenset[bytes]
    """Where it and the folders above it really lie: who leads there again makes a circle."""


class _Tree:
    """What lies below a root. Blocks."""

    def __init__(self, root: bytes, left_out: LeftOut | None = None) -> None:
        self._root = root
        self._left_out = left_out or _nobody

    @cached_property
    def _real(self) -> bytes:
        return os.path.realpath(self._root)

    def where(self, name: str) -> bytes:
        return self._root.rstrip(b"/") + b"/" + to_bytes(name)

    def check(self) -> None:
        """Raises ``ConfigError`` where the root is no folder that may be listed."""
        try:
            os.scandir(self._root).close()
        except OSError as error:
            raise _failed(self._root, error) from None

    def inside(self, path: bytes) -> bytes | None:
        """Where a path really leads; ``None`` if that is out of the root, or nowhere."""
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            if error.errno in _NOWHERE:
                return None
            raise _failed(path, error) from None
        return real if real == self._real or real.startswith(self._real.rstrip(b"/") + b"/") else None

    def stat(self, name: str) -> FileInfo | None:
        """A file as of now; ``None`` where there is no file of that name, or one that lies elsewhere."""
        path = self.where(name)
        return self.look(name) if is_name(name) and self.inside(path) is not None else None

    def look(self, name: str) -> FileInfo | None:
        """The same of a file in a folder that was entered."""
        path = self.where(name)
        try:
            found = os.stat(path)  # noqa: PTH116  # its bytes: Path takes none
        except OSError as error:
            if error.errno in _NOWHERE:
                return None
            raise _failed(path, error) from None
        return _info(name, found) if modes.S_ISREG(found.st_mode) else None

    def entries(self, folder: _Folder) -> Iterator[tuple[str, str]]:
        """What lies in a folder, sorted: full names (of folders with their ``/``), and what each of them is."""
        found: Entries[tuple[str, str]] = Entries()
        path = self.where(folder.name)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = folder.name + to_name(entry.name)
                    if kind := self._kind(entry, name):
                        found.add((f"{name}/" if kind == _FOLDER else name, kind))
        except OSError as error:
            if not folder.name or error.errno not in _NOWHERE:
                raise _failed(path, error) from None
        return iter(found)

    def _kind(self, entry: os.DirEntry[bytes], name: str) -> str | None:
        if entry.is_symlink() and self.inside(entry.path) is None:
            self._left_out(name)
            return None
        if entry.is_dir():
            return _FOLDER
        return _FILE if entry.is_file() else None

    def enter(self, name: str, above: frozenset[bytes]) -> _Folder | None:
        """A folder below others; ``None`` where it leads out of the root, nowhere, or back to one of them."""
        real = self.inside(self.where(name))
        if real is not None and real in above:
            self._left_out(name.rstrip("/"))
        return None if real is None or real in above else _Folder(name, above | {real})


def _nobody(name: str) -> None:
    """Nobody is told."""


def _walk(tree: _Tree, prefix: str) -> Iterator[FileInfo]:
    """All files whose names begin with ``prefix``, in their order."""
    tree.check()
    start = _start(tree, prefix)
    stack = [] if start is None else [(start, tree.entries(start))]
    while stack:
        folder, entries = stack[-1]
        name, kind = next(entries, ("", ""))
        if not name:
            stack.pop()
        elif kind == _FILE and name.startswith(prefix):
            if file := tree.look(name):
                yield file
        elif kind == _FOLDER and may_hold(name, prefix) and (below := tree.enter(name, folder.real)):
            stack.append((below, tree.entries(below)))


def _start(tree: _Tree, prefix: str) -> _Folder | None:
    """The deepest folder that holds all names of a prefix."""
    folder = tree.enter("", frozenset())
    parts = prefix.split("/")[:-1]
    if parts and not is_name("/".join(parts)):
        return None
    for part in parts:
        folder = folder and tree.enter(f"{folder.name}{part}/", folder.real)
    return folder


class _Reader:
    """Reads one file under one identity. Blocks."""

    def __init__(self, tree: _Tree, file: FileInfo) -> None:
        self._tree = tree
        self._file = file
        self._path = tree.where(file.name)
        self._left = file.size
        self._handle: int | None = None

    def open(self) -> None:
        self._same(self._tree.stat(self._file.name))
        try:
            self._handle = os.open(self._path, _OPEN)
        except FileNotFoundError:
            raise changed(self._file, "it is gone") from None
        except OSError as error:
            raise _failed(self._path, error) from None
        self.prove_open()

    def block(self) -> bytes:
        """The next block; empty at the end of the file."""
        assert self._handle is not None
        try:
            block = os.read(self._handle, min(BLOCK, self._left))
        except OSError as error:
            raise _failed(self._path, error) from None
        if self._left and not block:
            raise changed(self._file, "it was cut")
        self._left -= len(block)
        return block

    def prove(self) -> None:
        """Raises ``FileChanged`` where what was read may be a mixture, or where the name is that of another file by now."""
        self.prove_open()
        self._same(self._tree.stat(self._file.name))

    def prove_open(self) -> None:
        """The first of both."""
        assert self._handle is not None
        self._same(_info(self._file.name, os.fstat(self._handle)))

    def _same(self, found: FileInfo | None) -> None:
        if found is None or found.identity != self._file.identity:
            raise changed(self._file, "it is gone" if found is None else "it was written to, or replaced")

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _whole(tree: _Tree, file: FileInfo) -> bytes:
    """A small file, of one content: what is opened is what was listed, before it is read and after."""
    reader = _Reader(tree, file)
    try:
        reader.open()
        content = b"".join(iter(reader.block, b""))
        reader.prove_open()
        return content
    finally:
        reader.close()


def _info(name: str, found: os.stat_result) -> FileInfo:
    identity = f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"
    return FileInfo(name, found.st_size, moment(found.st_mtime_ns), identity)


def _failed(path: bytes, error: OSError) -> RetlError:
    where = to_name(path)
    if isinstance(error, PermissionError):
        return ConfigError(
            f"{where!r} may not be read by the user of this process.",
            remedy="give it the right to read there, or choose a root or a prefix without it: a listing is never partial.",
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ConfigError(f"there is no folder {where!r}.", remedy="name a folder that exists in path.")
    return TransientError(f"{where!r} cannot be read: {error.strerror or error}.")
