"""The rows of one file: its bytes fetched under one identity, and parsed in a worker thread."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import anyio.to_thread
import pyarrow as pa

from retl.connectors.files.formats import (
    FileUnreadable,
    Format,
    FormatOptions,
    decompressed,
    format_for,
    is_archive,
    members,
    merged,
)
from retl.connectors.files.formats.options import FormatName, format_name, packing
from retl.connectors.files.selection import Selection, is_unfinished
from retl.connectors.files.shape import Shape
from retl.connectors.files.spool import Filling, fetched
from retl.connectors.files.store import FileInfo, FileStore, changed
from retl.model.errors import RetlError, SourceError
from retl.threads import Worker, shielded

T = TypeVar("T")
_BUFFER = 256 * 1024
SMALL_BYTES = 1024 * 1024
"""A file of at most so many bytes is fetched as a whole."""
_SAMPLED_MEMBERS = 3


class NewColumns(SourceError):
    """A file has columns that the table does not know yet, or values that need wider ones."""

    def __init__(self, file: FileInfo, columns: pa.Schema, message: str) -> None:
        super().__init__(message)
        self.file = file
        self.columns = columns


class Streamed(Protocol):
    """A file whose content can be read from its start, again and again."""

    def stream(self) -> BinaryIO: ...


def digest_of(content: Streamed) -> str:
    """The hash of a content. Blocks, as reading it does."""
    found = hashlib.sha256()
    with content.stream() as file:
        while block := file.read(_BUFFER):
            found.update(block)
    return found.hexdigest()


class Content:
    """The bytes of one file, for as long as it is read. ``open`` it, read it in a thread, then ``prove`` and ``close``."""

    def __init__(self, store: FileStore, file: FileInfo) -> None:
        self._store = store
        self._file = file
        self._path: Path | None = store.path(file)
        self._filling: Filling | None = None
        self._bytes: bytes | None = None
        self._digest: str | None = None
        self._open: list[BinaryIO] = []

    @property
    def is_local(self) -> bool:
        """Whether it lies on the local disk, and need not be fetched."""
        return self._path is not None

    @property
    def has_come(self) -> bool:
        """Whether nothing of it is still to be fetched."""
        return self._filling is None or self._filling.has_ended

    async def begin(self) -> None:
        """Begin to fetch the file, unless that has begun; what lies on the local disk is read there."""
        if self._filling is not None or self._bytes is not None:
            return
        if self._path is not None:
            await self._same()
        elif self._file.size <= SMALL_BYTES:
            self._bytes = await fetched(self._store, self._file)
        else:
            self._filling = Filling(self._store, self._file)

    async def hash(self) -> str:
        """The hash of the whole content; waits for it."""
        if self._digest is None:
            if self._filling is not None:
                await self._filling.arrived()
            self._digest = await anyio.to_thread.run_sync(digest_of, self)
        return self._digest

    def stream(self) -> BinaryIO:
        """The content from its start. Blocks, as reading it does; raises ``SourceError``."""
        if self._filling is not None:
            self._filling.spool.seek(0)
            return cast("BinaryIO", io.BufferedReader(_Kept(self._filling.spool), _BUFFER))
        if self._bytes is not None:
            return io.BytesIO(self._bytes)
        assert self._path is not None
        try:
            self._open.append(self._path.open("rb", buffering=_BUFFER))
        except FileNotFoundError:
            raise changed(self._file, "it is gone") from None
        except OSError as error:
            raise SourceError(f"{self._file.name}: it cannot be read: {error.strerror or error}.") from error
        return self._open[-1]

    async def prove(self) -> None:
        """Raise ``FileChanged`` unless the whole file was read under the identity it was listed with."""
        if self._filling is not None:
            await self._filling.arrived()
        elif self._path is not None:
            await self._same()

    async def _same(self) -> None:
        found = await self._store.stat(self._file.name)
        if found is None or found.identity != self._file.identity:
            raise changed(self._file, "it is gone" if found is None else "it was written to, or replaced")

    def interrupt(self) -> None:
        """Wake a thread that waits for more of the file."""
        if self._filling is not None:
            self._filling.stop()

    async def close(self) -> None:
        for file in self._open:
            file.close()
        if self._filling is not None:
            await self._filling.close()


class _Kept(io.RawIOBase):
    """A spool for one reader, who may close it."""

    def __init__(self, spool: io.RawIOBase) -> None:
        super().__init__()
        self._spool = spool
        self.readinto = spool.readinto  # type: ignore[method-assign]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._spool.seek(offset, whence)


class FileReader:
    """Reads the files of one table. Holds nothing of any."""

    def __init__(self, store: FileStore, options: FormatOptions, selection: Selection) -> None:
        self._store = store
        self._options = options
        self._selection = selection
        self._formats: dict[FormatName, Format] = {}

    def content(self, file: FileInfo) -> Content:
        """The bytes of one file, which are not fetched yet."""
        return Content(self._store, file)

    # Columns ----------------------------------------------------------------

    async def columns(self, file: FileInfo) -> pa.Schema:
        """The columns of one file, inferred from a sample of it."""
        async with aclosing(self._with_content(file, self._columns)) as found:
            return await anext(found)

    def _columns(self, content: Streamed, file: FileInfo, told: str) -> Iterator[pa.Schema]:
        found = []
        for number, (format_, stream, name) in enumerate(self._parts(content, file)):
            found.append(format_.schema(stream, name))
            if number + 1 >= _SAMPLED_MEMBERS:
                break
        yield merged(found) if len(found) != 1 else found[0]

    def format_of(self, name: str) -> Format:
        """What reads a file of this name."""
        which = format_name(self._options, name)
        if which not in self._formats:
            self._formats[which] = format_for(self._options, name)
        return self._formats[which]

    def shared_format(self, names: Sequence[str]) -> Format | None:
        """The format of all these files, where they have one and are neither packed nor folders of others."""
        plain = all(not is_archive(name) and packing(self._options, name) == "none" for name in names)
        formats = {self.format_of(name) for name in names} if plain else set()
        return formats.pop() if len(formats) == 1 else None

    # Rows -------------------------------------------------------------------

    async def rows(
        self, file: FileInfo, shape: Shape, *, check: bool, content: Content | None = None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """All rows of a file, read under the identity it was listed with; its ``content`` may have begun to come.

        Raises ``FileChanged`` or another ``RetlError``, also behind the last batch: what was given must then be dropped.
        With ``check`` a file with columns that the shape does not know raises ``NewColumns`` before anything is given.
        """
        make = partial(self.parsed, shape=shape, check=check)
        async with aclosing(self._with_content(file, make, hashes=shape.hashes, content=content)) as batches:
            async for batch in batches:
                yield batch

    def parsed(
        self, content: Streamed, file: FileInfo, digest: str, *, shape: Shape, check: bool
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a content, whose ``digest`` is known where a column tells it. Blocks."""
        told = self.told(file, shape, digest)
        if check:
            self._check_columns(content, file, shape)
        before = 0
        for format_, stream, name in self._parts(content, file):
            for batch in format_.read(stream, name, shape.read):
                yield shape.rows(batch, told, before)
                before += batch.num_rows

    def told(self, file: FileInfo, shape: Shape, digest: str) -> dict[str, Any]:
        """The values that are the same in all rows of a file."""
        try:
            return shape.told(self._selection, file, self._store.root, digest)
        except ValueError as error:
            raise FileUnreadable(f"{file.name}: its name holds no date: {error}.", file=file.name) from error

    def _check_columns(self, content: Streamed, file: FileInfo, shape: Shape) -> None:
        for format_, stream, name in self._parts(content, file):
            new = [column for column in format_.names(stream, name) if column not in shape.known.names]
            if new:
                (columns,) = self._columns(content, file, "")
                raise NewColumns(file, columns, f"{file.name} has the new columns {', '.join(new)}.")

    def _parts(self, content: Streamed, file: FileInfo) -> Iterator[tuple[Format, BinaryIO, str]]:
        """The tables in a file, each with what reads it: one, or those of an archive."""
        if not is_archive(file.name):
            format_ = self.format_of(file.name)
            with content.stream() as stream:
                yield (
                    format_,
                    self._readable(format_, decompressed(stream, file.name, self._options), stream),
                    file.name,
                )
            return
        with content.stream() as stream:
            for name, member in members(stream, file.name, self._options):
                if is_unfinished(name):
                    continue
                format_ = self.format_of(name)
                inner = decompressed(member, name, self._options)
                yield format_, self._readable(format_, inner, stream), f"{file.name}/{name}"

    def _readable(self, format_: Format, unpacked: BinaryIO, stored: BinaryIO) -> BinaryIO:
        """The content as its format reads it: one that moves in it gets what is unpacked on the disk."""
        if not format_.seeks or unpacked is stored:
            return unpacked
        kept = tempfile.TemporaryFile(prefix="retl-file-")  # noqa: SIM115  # gone with its last reader
        while block := unpacked.read(_BUFFER):
            kept.write(block)
        kept.seek(0)
        return cast("BinaryIO", kept)

    # A thread for one file --------------------------------------------------

    async def _with_content(
        self,
        file: FileInfo,
        make: Callable[[Content, FileInfo, str], Iterator[T]],
        *,
        hashes: bool = False,
        content: Content | None = None,
    ) -> AsyncGenerator[T, None]:
        """What an iterator over the content gives, made and stepped in a thread; then the proof of the identity."""
        content = content or self.content(file)
        worker = Worker("files", content.interrupt)
        try:
            await content.begin()
            items = make(content, file, await content.hash() if hashes else "")
            while (item := await worker.run(_step, items, file)) is not None:
                yield item
            await content.prove()
        finally:
            worker.close()
            await shielded(content.close())


def _step(items: Iterator[T], file: FileInfo) -> T | None:
    try:
        return next(items, None)
    except RetlError:
        raise
    except Exception as error:  # a library, at a file of strangers
        reason = f"{type(error).__name__}: {error}"
        raise FileUnreadable(f"{file.name}: it cannot be read: {reason}.", file=file.name) from error


def all_rows(items: Iterator[pa.RecordBatch], file: FileInfo, most_bytes: int) -> list[pa.RecordBatch] | None:
    """All rows of a small file at once; ``None`` where they take more memory than that. Blocks."""
    found: list[pa.RecordBatch] = []
    size = 0
    while (item := _step(items, file)) is not None:
        found.append(item)
        size += item.nbytes
        if size > most_bytes:
            return None
    return found
