"""Files as documents: one row for each, with its title and its text."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa

from retl.connectors.documents.text import plain
from retl.connectors.documents.text.kinds import kind_of
from retl.connectors.documents.text.parsed import Parsed, Unreadable
from retl.connectors.documents.text.workers import Interrupted, Limits, MissingPackage, Parse
from retl.connectors.files.formats import FileUnreadable, FormatOptions, decompressed
from retl.connectors.files.formats.base import unreadable
from retl.connectors.files.formats.options import unpacked_name
from retl.connectors.files.reading import SMALL_BYTES, Content, FileReader, Streamed
from retl.connectors.files.selection import Selection
from retl.connectors.files.shape import Shape
from retl.connectors.files.small import Held, HeldFiles, Outcome, is_same
from retl.connectors.files.store import FileInfo, FileStore
from retl.model.errors import ConnectionFailed, RetlError
from retl.model.manifest import ManifestEntry
from retl.threads import Worker, shielded

COLUMNS = pa.schema([pa.field("title", pa.string()), pa.field("text", pa.string())])


class DocumentReader(FileReader):
    """Reads the text of each file in a process that has limits of time and memory."""

    def __init__(self, store: FileStore, options: FormatOptions, selection: Selection) -> None:
        super().__init__(store, options, selection)
        self._limits = Limits(options.max_seconds, options.max_memory_bytes, options.max_text_bytes)

    async def columns(self, file: FileInfo) -> pa.Schema:
        return COLUMNS

    async def rows(
        self, file: FileInfo, shape: Shape, *, check: bool, content: Content | None = None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        yield await self._row(file, shape, content or self.content(file))

    async def _row(self, file: FileInfo, shape: Shape, content: Content) -> pa.RecordBatch:
        parse = Parse(self._limits)
        parsed = self._plain if self.is_plain(file) else self._parsed

        def stop() -> None:
            content.interrupt()
            parse.stop()

        worker = Worker("documents", stop)
        try:
            await content.begin()
            digest = await content.hash() if shape.hashes else ""
            told = self.told(file, shape, digest)
            batch = await worker.run(_batch_of, parsed, content, file, parse)
            await content.prove()
        finally:
            worker.close()
            await shielded(content.close())
        return shape.rows(batch.select(shape.in_files.names), told, 0)

    def is_plain(self, file: FileInfo) -> bool:
        """Whether it is text that needs no parser, and so no other process."""
        return file.size <= SMALL_BYTES and unpacked_name(file.name) == file.name and kind_of(file.name) == "text"

    def _plain(self, content: Content, file: FileInfo, parse: Parse) -> Parsed:
        return self.text_of(content, file)

    def text_of(self, content: Streamed, file: FileInfo) -> Parsed:
        """The text of a file that is plain. Blocks."""
        try:
            with content.stream() as stored:
                return plain.parse(stored, file.name, self._options.encoding)
        except Unreadable as error:
            raise unreadable(file.name, str(error)) from None

    def _parsed(self, content: Content, file: FileInfo, parse: Parse) -> Parsed:
        name = unpacked_name(file.name)
        kind = kind_of(name)
        if kind is None:
            raise unreadable(file.name, "its name tells no kind of document that has a text")
        try:
            with content.stream() as stored, _with_descriptor(decompressed(stored, file.name, self._options)) as found:
                return parse.run(found, name, kind, self._options.encoding)
        except Unreadable as error:
            raise unreadable(file.name, str(error)) from None
        except MissingPackage as error:
            raise unreadable(file.name, str(error), remedy="pip install 'retl[documents]'") from None
        except Interrupted:
            raise FileUnreadable(f"{file.name}: it is not wanted any more.", file=file.name) from None


class SmallDocuments(HeldFiles):
    """Reads texts many at once, and what takes a parser one by one: that takes a while."""

    def __init__(self, store: FileStore, reader: DocumentReader, shape: Shape, *, compares: bool = False) -> None:
        super().__init__(store, reader, shape, compares=compares)
        self._documents = reader

    def chunks(self, files: Sequence[FileInfo]) -> Iterator[Sequence[FileInfo]]:
        yield from super().chunks([file for file in files if self._documents.is_plain(file)])
        yield from ([file] for file in files if not self._documents.is_plain(file))

    async def chunk(self, files: Sequence[FileInfo], known: Mapping[str, ManifestEntry]) -> list[Outcome]:
        if self._documents.is_plain(files[0]):
            return await super().chunk(files, known)
        (file,) = files
        return [await self._outcome(file, known.get(file.name))]

    # Texts, in a worker thread ----------------------------------------------

    def parsed(self, held: Sequence[Held]) -> Iterator[Outcome]:
        read: list[_Read] = []
        for one in held:
            try:
                told = self._documents.told(one.file, self._shape, one.digest)
                read.append(_Read(one, self._documents.text_of(one, one.file), told))
            except RetlError as error:
                yield Outcome((one.file,), error=error)
        # Folders may tell of one file what they do not tell of another.
        for _, alike in groupby(read, key=lambda one: one.told.keys()):
            yield self._as_one(list(alike))

    def _as_one(self, read: Sequence[_Read]) -> Outcome:
        batch = _rows(one.parsed for one in read).select(self._shape.in_files.names)
        numbers, first = np.arange(len(read)), np.ones(len(read), np.int64)
        rows = self._shape.rows_of_several(batch, [one.told for one in read], numbers, rows=first, lines=first)
        files = tuple(one.held.file for one in read)
        return Outcome(files, [1] * len(read), [rows], digests=self.digests(*(one.held for one in read)))

    # Others -----------------------------------------------------------------

    async def _outcome(self, file: FileInfo, known: ManifestEntry | None) -> Outcome:
        content = self._documents.content(file)
        try:
            return await self._read(content, file, known)
        except ConnectionFailed:
            raise
        except RetlError as error:
            return Outcome((file,), error=error)
        finally:
            await shielded(content.close())

    async def _read(self, content: Content, file: FileInfo, known: ManifestEntry | None) -> Outcome:
        digests: tuple[str, ...] = ()
        if self._compares:
            await content.begin()
            digests = (await content.hash(),)
            if known is not None and is_same(known, *digests):
                await content.prove()
                return Outcome((file,), (known.rows,), digests=digests, is_same=True)
        batches = [batch async for batch in self._documents.rows(file, self._shape, check=False, content=content)]
        return Outcome((file,), (len(batches),), batches, digests=digests)


class _Read(NamedTuple):
    held: Held
    parsed: Parsed
    told: Mapping[str, Any]


def _batch_of(
    parse: Callable[[Content, FileInfo, Parse], Parsed], content: Content, file: FileInfo, through: Parse
) -> pa.RecordBatch:
    return _rows([parse(content, file, through)])


def _rows(parsed: Iterable[Parsed]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"title": one.title or None, "text": one.text} for one in parsed], schema=COLUMNS
    )


def _with_descriptor(stream: BinaryIO) -> BinaryIO:
    """The file as another process can read it: the one on the disk itself, or a copy there."""
    try:
        stream.fileno()
    except OSError:
        kept = tempfile.TemporaryFile(prefix="retl-file-")  # noqa: SIM115  # closed by who reads it
        shutil.copyfileobj(stream, kept, 256 * 1024)
        kept.flush()
        return cast("BinaryIO", kept)
    return stream
