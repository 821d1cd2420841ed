"""Any source, read chunk by chunk: a wrapper that turns each row of text into rows of chunks."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import anyio.to_thread
import msgspec
import pyarrow as pa

from retl.connectors.base import (
    Checkpoint,
    Manifest,
    RowsRejected,
    Scope,
    Slice,
    Source,
    SourcePreview,
    SourceScan,
    SystemInfo,
    TableSchema,
    TableSpec,
)
from retl.connectors.documents.columns import (
    WORDS,
    chunk_plan,
    chunk_table,
    document_table,
    rules_of,
    shape_of,
)
from retl.connectors.documents.rows import ChunkRows, SliceDocuments
from retl.connectors.documents.splitter import Splitter
from retl.connectors.sql.door import RunStatement
from retl.model import counted

_GATHERED_BYTES = 1024 * 1024
_PREVIEWED_ROWS = 3
_ROWS_PER_DOCUMENT = 25
"""How many chunks a document is taken to have, when ``slice_rows`` is divided by them."""


def take_facts(contract: type, wrapped: Any, wrapper: Any) -> None:
    """Set every fact that a contract declares for its class, such as ``system``, to that of the wrapped one."""
    for owner in contract.__mro__:
        for name in inspect.get_annotations(owner):
            setattr(wrapper, name, getattr(wrapped, name))


class ChunkedSource(Source):
    """Reads the tables of another source; those with ``chunks`` as chunks of their documents, the others as they are."""

    system: str  # type: ignore[misc]  # as the wrapped one's

    def __init__(self, documents: Source) -> None:
        self._documents = documents
        take_facts(Source, documents, self)

    async def ping(self) -> SystemInfo:
        return await self._documents.ping()

    async def list_tables(self) -> list[str]:
        return await self._documents.list_tables()

    async def describe(self, table: str) -> TableSchema | None:
        return await self._documents.describe(table)

    async def location(self, table: str) -> str | None:
        return await self._documents.location(table)

    def statement(self, sql: str, facts: Mapping[str, str | int]) -> str:
        return self._documents.statement(sql, facts)

    def open_sql(self) -> AbstractAsyncContextManager[RunStatement]:
        return self._documents.open_sql()

    def narrowed(self, table: TableSpec) -> TableSpec:
        """A table of chunks replaces those of each document that it reads."""
        if table.chunks is None:
            return self._documents.narrowed(table)
        return chunk_table(table, self._documents.narrowed(document_table(table, files=self.files)))

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        if table.chunks is None:
            async with self._documents.open_scan(table, checkpoint, manifest) as scan:
                yield scan
            return
        table = self.narrowed(table)
        documents = document_table(table, files=self.files)
        documents = dataclasses.replace(documents, slice_rows=max(1, table.slice_rows // _ROWS_PER_DOCUMENT))
        async with self._documents.open_scan(documents, checkpoint, manifest) as scan:
            yield await anyio.to_thread.run_sync(ChunkedScan, scan, table, checkpoint)

    async def aclose(self) -> None:
        await self._documents.aclose()


class ChunkedScan(SourceScan):
    """One scan of a table of chunks, over the scan of its documents."""

    def __init__(self, documents: SourceScan, table: TableSpec, checkpoint: Checkpoint) -> None:
        rules, plan = rules_of(table), documents.plan
        shape = shape_of(plan, rules) if plan.schema.names else None
        self._documents = documents
        self._rows = ChunkRows(shape, Splitter(rules), unique=plan.unique_key) if shape is not None else None
        self._column = rules.names["document"] if table.scope == rules.names["document"] else None
        self._table = table
        self._given: dict[int, Slice] = {slice_.index: slice_ for slice_ in plan.slices}
        """The slices of documents."""
        self._read: dict[int, SliceDocuments] = {}
        self._facts = _facts(table, documents)
        self.plan = dataclasses.replace(
            chunk_plan(plan, table, shape, self._facts),
            slices=tuple(map(self._outer, plan.slices)),
            warnings=(*plan.warnings, *_other_words(self._facts, checkpoint)),
        )

    # Slices -----------------------------------------------------------------

    async def slices(self) -> AsyncGenerator[Slice, None]:
        async with aclosing(self._documents.slices()) as slices:
            async for slice_ in slices:
                self._given[slice_.index] = slice_
                yield self._outer(slice_)

    def _outer(self, slice_: Slice) -> Slice:
        """A slice of documents as a slice of chunks: it is committed as a whole, with those of each document."""
        found = slice_.scope
        if found is not None:
            found = Scope(rules_of(self._table).own_name(found.column), found.values)
        elif (read := self._read.get(slice_.index)) is not None and self._column is not None and read.names:
            found = Scope(self._column, tuple(read.names))
        return msgspec.structs.replace(slice_, rows=None, divisible=False, scope=found)

    def delivered(self, slice_: Slice) -> Slice | None:
        given = self._documents.delivered(self._given.get(slice_.index, slice_))
        return None if given is None else self._outer(given)

    def committed(self, slice_: Slice) -> None:
        self._read.pop(slice_.index, None)
        self._documents.committed(self._given.get(slice_.index, slice_))

    def rejected(self, slice_: Slice, error: RowsRejected) -> bool:
        return self._documents.rejected(self._given.get(slice_.index, slice_), error)

    def warnings(self) -> Sequence[str]:
        return self._documents.warnings()

    async def preview(self) -> SourcePreview:
        """As that of the documents, with the first chunks of those that it shows."""
        found = await self._documents.preview()
        if found.rows is None or self._rows is None:
            return found
        pieces = self._rows.of(found.rows, SliceDocuments())
        first = await anyio.to_thread.run_sync(_step, pieces)
        return dataclasses.replace(found, rows=first[0].slice(0, _PREVIEWED_ROWS) if first else None)

    # Rows -------------------------------------------------------------------

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        given = self._given.get(slice_.index, slice_)
        read = self._read[slice_.index] = SliceDocuments()
        async with aclosing(self._gathered(given)) as groups:
            async for batches in groups:
                pieces = self._pieces(batches, read)
                while (found := await anyio.to_thread.run_sync(_step, pieces)) is not None:
                    for piece in found:
                        yield piece
        await self._check_count(given, read.rows)

    async def _gathered(self, given: Slice) -> AsyncGenerator[list[pa.RecordBatch], None]:
        """The batches of documents, small ones together: a thread for each would cost more than its chunks."""
        gathered: list[pa.RecordBatch] = []
        size = 0
        async with aclosing(self._documents.read(given)) as batches:
            async for batch in batches:
                gathered.append(batch)
                size += batch.nbytes
                if size >= _GATHERED_BYTES:
                    yield gathered
                    gathered, size = [], 0
        if gathered:
            yield gathered

    def _pieces(self, batches: Sequence[pa.RecordBatch], read: SliceDocuments) -> Iterator[pa.RecordBatch]:
        assert self._rows is not None
        for batch in batches:
            yield from self._rows.of(batch, read)

    async def _check_count(self, given: Slice, rows: int) -> None:
        """Check the documents that came: of chunks, nobody can know the number beforehand."""
        counted.check_slice(self._documents.plan, given, rows)
        if given.rows is not None and counted.falls_short(rows, given.rows):
            there = await self._documents.recount(given)
            if there is not None and counted.falls_short(rows, min(there, given.rows)):
                raise counted.cut_answer(there, rows)


def _step(pieces: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch] | None:
    """The next pieces, until they are large; ``None`` where there are no more."""
    found: list[pa.RecordBatch] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += piece.nbytes
        if size >= _GATHERED_BYTES:
            break
    return found or None


def _facts(table: TableSpec, documents: SourceScan) -> dict[str, Any]:
    """What a checkpoint remembers of the words, where later scans do not read everything."""
    plan = documents.plan
    if not plan.by_manifest and plan.window is None:
        return {}
    return {WORDS: hashlib.sha256(repr(rules_of(table)).encode()).hexdigest()[:16]}


def _other_words(facts: dict[str, Any], checkpoint: Checkpoint) -> tuple[str, ...]:
    known = checkpoint.detail.get(WORDS)
    if not facts or known in (None, facts[WORDS]):
        return ()
    return (
        (
            "the words of chunks have changed since the last scan; documents that have not changed keep the chunks that they "
            "have. `retl reset` reads everything once."
        ),
    )
