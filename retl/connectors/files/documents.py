"""Files as documents: one row for each, with its title and its text."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

import pyarrow as pa

from retl.connectors.documents.text import plain
from retl.connectors.documents.text.kinds import kind_of
from retl.connectors.documents.text.parsed import Parsed, Unreadable
from retl.connectors.documents.text.workers import Interrupted, Limits, MissingPackage, Parse
from retl.connectors.files.formats import FileUnreadable, FormatOptions, decompressed
from retl.connectors.files.formats.base import unreadable
from retl.connectors.files.formats.options import unpacked_name
from retl.connectors.files.reading import SMALL_BYTES, Content, FileReader
from retl.connectors.files.selection import Selection
from retl.connectors.files.shape import Shape
from retl.connectors.files.small import Outcome, SmallReader, is_same
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
        parsed = self._plain if self._is_plain(file) else self._parsed

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

    def _is_plain(self, file: FileInfo) -> bool:
        """Whether it is text that needs no parser, and so no other process."""
        return file.size <= SMALL_BYTES and unpacked_name(file.name) == file.name and kind_of(file.name) == "text"

    def _plain(self, content: Content, file: FileInfo, parse: Parse) -> Parsed:
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


class SmallDocuments(SmallReader):
    """Reads documents one by one: each takes a while."""

    def __init__(self, reader: DocumentReader, shape: Shape, *, compares: bool = False) -> None:
        self._reader = reader
        self._shape = shape
        self._compares = compares

    def chunks(self, files: Sequence[FileInfo]) -> Iterator[Sequence[FileInfo]]:
        return ([file] for file in files)

    async def chunk(self, files: Sequence[FileInfo], known: Mapping[str, ManifestEntry]) -> list[Outcome]:
        return [await self._outcome(file, known.get(file.name)) for file in files]

    async def _outcome(self, file: FileInfo, known: ManifestEntry | None) -> Outcome:
        content = self._reader.content(file)
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
        batches = [batch async for batch in self._reader.rows(file, self._shape, check=False, content=content)]
        return Outcome((file,), (len(batches),), batches, digests=digests)


def _batch_of(
    parse: Callable[[Content, FileInfo, Parse], Parsed], content: Content, file: FileInfo, through: Parse
) -> pa.RecordBatch:
    parsed = parse(content, file, through)
    return pa.RecordBatch.from_pylist([{"title": parsed.title or None, "text": parsed.text}], schema=COLUMNS)


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
