"""The rows of small files, a chunk of them at once: fetched side by side, and parsed in one turn of a worker thread."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, BinaryIO, NamedTuple

import anyio
import anyio.to_thread
import numpy as np
import pyarrow as pa

from retl.connectors.base import REJECT
from retl.connectors.files.formats import LINE
from retl.connectors.files.formats.joined import FIRST_LINE, Joined
from retl.connectors.files.reading import FileReader, all_rows, digest_of
from retl.connectors.files.shape import Shape
from retl.connectors.files.spool import fetched
from retl.connectors.files.store import FileInfo, FileStore
from retl.connectors.manifest.ahead import ahead
from retl.model.errors import ConnectionFailed, RetlError
from retl.model.manifest import ManifestEntry

AT_ONCE = 4
"""How many files are fetched at once, and how many chunks are worked on."""
_CHUNK_BYTES = 1024 * 1024
_CHUNK_FILES = 100
_MOST_KEPT_BYTES = 64 * 1024 * 1024
"""A small file that unpacks to more than this is read as a large one."""


DIGEST = "sha256"
"""The fact of an entry that remembers the hash of its content."""


def is_same(known: ManifestEntry, digest: str) -> bool:
    """Whether this is the content whose rows the target holds."""
    return known.facts.get(DIGEST) == digest


class Outcome(NamedTuple):
    """What came of a file, or of some that were read as one."""

    files: tuple[FileInfo, ...]
    rows: Sequence[int] = ()
    """How many each of them has."""
    batches: Sequence[pa.RecordBatch] = ()
    error: RetlError | None = None
    is_large: bool = False
    """Whether it takes more memory than a small file may."""
    digests: Sequence[str] = ()
    """The hash of each content, where contents are compared."""
    is_same: bool = False
    """Whether the target holds these rows, and none is given."""


class SmallReader(ABC):
    """Reads the small files of one table."""

    async def read(
        self, files: Sequence[FileInfo], known: Mapping[str, ManifestEntry]
    ) -> AsyncGenerator[Outcome, None]:
        """What comes of each file. Raises ``ConnectionFailed``; other errors are those of a file.

        ``known``: what the manifest says of files that keep their rows where their content is the same.
        """
        chunks = ahead(self.chunks(files), lambda chunk: self.chunk(chunk, known), at_once=AT_ONCE)
        async with aclosing(chunks) as done:
            async for _, task in done:
                for outcome in task.result():
                    yield outcome

    @abstractmethod
    def chunks(self, files: Sequence[FileInfo]) -> Iterator[Sequence[FileInfo]]:
        """The files that are read at once."""

    @abstractmethod
    async def chunk(self, files: Sequence[FileInfo], known: Mapping[str, ManifestEntry]) -> list[Outcome]:
        """Read one of them."""


class HeldFiles(SmallReader):
    """Reads files whose bytes are all fetched before one of them is parsed."""

    def __init__(self, store: FileStore, reader: FileReader, shape: Shape, *, compares: bool = False) -> None:
        """``compares``: with the contents that the manifest remembers."""
        self._store = store
        self._reader = reader
        self._shape = shape
        self._compares = compares
        self._fetching = anyio.Semaphore(AT_ONCE)

    def chunks(self, files: Sequence[FileInfo]) -> Iterator[Sequence[FileInfo]]:
        chunk: list[FileInfo] = []
        size = 0
        for file in files:
            if chunk and (size + file.size > _CHUNK_BYTES or len(chunk) == _CHUNK_FILES):
                yield chunk
                chunk, size = [], 0
            chunk.append(file)
            size += file.size
        if chunk:
            yield chunk

    async def chunk(self, files: Sequence[FileInfo], known: Mapping[str, ManifestEntry]) -> list[Outcome]:
        read = self._store.whole_reader()
        if read is not None:
            return await anyio.to_thread.run_sync(
                lambda: self._parsed([Held.read(read, file) for file in files], known)
            )
        held: list[Held] = []
        async with aclosing(ahead(files, self._fetched, at_once=AT_ONCE)) as done:
            async for file, task in done:
                try:
                    held.append(Held(file, task.result()))
                except ConnectionFailed:
                    raise
                except RetlError as error:
                    held.append(Held(file, error=error))
        return await anyio.to_thread.run_sync(self._parsed, held, known)

    async def _fetched(self, file: FileInfo) -> bytes:
        async with self._fetching:
            return await fetched(self._store, file)

    # In a worker thread -----------------------------------------------------

    def _parsed(self, held: Sequence[Held], known: Mapping[str, ManifestEntry]) -> list[Outcome]:
        found = [Outcome((one.file,), error=one.error) for one in held if one.error is not None]
        changed: list[Held] = []
        for one in (one for one in held if one.error is None):
            one.digest = digest_of(one) if self._compares or self._shape.hashes else ""
            entry = known.get(one.file.name)
            if entry is not None and is_same(entry, one.digest):
                found.append(Outcome((one.file,), (entry.rows,), digests=(one.digest,), is_same=True))
            else:
                changed.append(one)
        return [*found, *self.parsed(changed)]

    @abstractmethod
    def parsed(self, held: Sequence[Held]) -> Iterable[Outcome]:
        """What comes of files that are here, and are not the same. Runs in a worker thread."""

    def digests(self, *held: Held) -> tuple[str, ...]:
        """What the manifest remembers of them."""
        return tuple(one.digest for one in held) if self._compares else ()


class SmallFiles(HeldFiles):
    """Reads files of rows. Those that can be told apart afterwards are parsed as one."""

    def __init__(
        self, store: FileStore, reader: FileReader, shape: Shape, *, check: bool, compares: bool = False
    ) -> None:
        """``check``: a file with columns that the shape does not know ends in ``NewColumns``."""
        super().__init__(store, reader, shape, compares=compares)
        self._check = check

    def parsed(self, held: Sequence[Held]) -> Iterable[Outcome]:
        joined = self._as_one(held) if len(held) > 1 else None
        return self._one_by_one(held) if joined is None else [joined]

    def _one_by_one(self, held: Sequence[Held]) -> Iterator[Outcome]:
        left = _MOST_KEPT_BYTES
        for one in held:
            found = self._alone(one, left)
            left -= sum(batch.nbytes for batch in found.batches)
            yield found

    def _alone(self, one: Held, most_bytes: int) -> Outcome:
        try:
            rows = self._reader.parsed(one, one.file, one.digest, shape=self._shape, check=self._check)
            batches = all_rows(rows, one.file, most_bytes)
        except RetlError as error:
            return Outcome((one.file,), error=error)
        if batches is None:
            return Outcome((one.file,), is_large=True)
        rows_read = sum(batch.num_rows for batch in batches)
        return Outcome((one.file,), (rows_read,), batches, digests=self.digests(one))

    def _as_one(self, held: Sequence[Held]) -> Outcome | None:
        """The files as one; ``None`` where they cannot be, or one of them has a row that does not fit."""
        try:
            split = self._split(held)
        except RetlError:
            return None  # each by itself, one of them says why
        if split is None:
            return None
        files = tuple(one.file for one in held)
        return Outcome(files, split.rows.tolist(), split.batches, digests=self.digests(*held))

    def _split(self, held: Sequence[Held]) -> _Split | None:
        name = held[0].file.name
        format_ = self._reader.shared_format([one.file.name for one in held])
        text = None if format_ is None else format_.joined([one.data for one in held])
        if format_ is None or text is None:
            return None
        told = [self._reader.told(one.file, self._shape, one.digest) for one in held]
        names = format_.names(io.BytesIO(text.text), name) if self._check else ()
        if not set(names) <= set(self._shape.known.names) or any(one.keys() != told[0].keys() for one in told):
            return None
        found = _Split(self._shape, text, told)
        schema = self._shape.in_files.append(pa.field(LINE, pa.int64()))
        for batch in format_.read(io.BytesIO(text.text), name, schema):
            if REJECT in batch.schema.names:
                return None
            found.add(batch)
        return found


class Held:
    """A small file whose bytes are here, or why they are not."""

    def __init__(self, file: FileInfo, data: bytes = b"", error: RetlError | None = None) -> None:
        self.file = file
        self.data = data
        self.error = error
        self.digest = ""

    @classmethod
    def read(cls, read: Callable[[FileInfo], bytes], file: FileInfo) -> Held:
        try:
            return cls(file, read(file))
        except RetlError as error:
            return cls(file, error=error)

    def stream(self) -> BinaryIO:
        return io.BytesIO(self.data)


class _Split:
    """Batches of a joined text, as rows of the files that they are of."""

    def __init__(self, shape: Shape, text: Joined, told: Sequence[Mapping[str, Any]]) -> None:
        self._shape = shape
        self._text = text
        self._told = told
        self.rows = np.zeros(len(told), np.int64)
        self.batches: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        lines = batch.column(LINE).to_numpy()
        files = self._text.file_of(lines)
        counts = np.bincount(files, minlength=len(self._told))
        # Behind those of the same file, in this batch and the ones before.
        firsts = np.cumsum(counts) - counts
        places = np.arange(len(files)) - firsts[files] + self.rows[files] + 1
        self.rows += counts
        in_file = lines - self._text.begins[files] + FIRST_LINE
        self.batches.append(self._shape.rows_of_several(batch, self._told, files, rows=places, lines=in_file))
