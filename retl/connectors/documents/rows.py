"""Rows of documents to rows of chunks. Blocking code, for worker threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from retl.connectors.documents.columns import ChunkShape
from retl.connectors.documents.splitter import Chunk, Splitter
from retl.connectors.rows.keys import repeated_key
from retl.connectors.rows.rejects import REJECT
from retl.connectors.rows.text import json_text, to_text
from retl.model.documents import ChunkColumn

_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_ROWS = 8_192
_BETWEEN = " > "
"""What stands between two headings of a path."""
_LONGEST_HEADING = 200


@dataclass
class SliceDocuments:
    """The documents of one slice, and how many rows of documents came."""

    names: dict[str, None] = field(default_factory=dict)
    rows: int = 0


@dataclass
class _Rows:
    """Rows of chunks until they make a batch."""

    columns: dict[ChunkColumn, list[Any]]
    sources: list[int] = field(default_factory=list)
    """For each chunk, the row of its document."""
    size: int = 0

    @property
    def is_full(self) -> bool:
        return self.size >= _BATCH_BYTES or len(self.sources) >= _BATCH_ROWS

    def clear(self) -> None:
        for values in self.columns.values():
            values.clear()
        self.sources.clear()
        self.size = 0


class ChunkRows:
    """Makes the chunks of one table."""

    def __init__(self, shape: ChunkShape, splitter: Splitter, *, unique: bool) -> None:
        """``unique``: whether the source guarantees that a document comes once."""
        self._shape = shape
        self._splitter = splitter
        self._unique = unique

    def of(self, batch: pa.RecordBatch, into: SliceDocuments) -> Iterator[pa.RecordBatch]:
        """The chunks of a batch of documents, in batches of bounded size; the documents are added to those of the slice."""
        into.rows += batch.num_rows
        rejects = batch.column(REJECT) if REJECT in batch.schema.names else None
        texts, names = to_text(batch.column(self._shape.text)), self._names(batch)
        rows = _Rows({column: [] for column in self._shape.rules.names})
        for number, name in enumerate(names):
            if rejects is not None and rejects[number].is_valid:
                self._add(rows, number, name, "", Chunk(0, 0, ()), 0, "")
                continue
            self._meet(name, into)
            # One text at a time: a batch of long ones is not held twice.
            for _ in self._cut(rows, number, name, texts[number].as_py() or ""):
                if rows.is_full:
                    yield self._batch(rows, batch)
                    rows.clear()
        if rows.sources:
            yield self._batch(rows, batch)

    def _names(self, batch: pa.RecordBatch) -> list[str]:
        """What identifies each document, as text."""
        columns = [to_text(batch.column(name)).to_pylist() for name in self._shape.key]
        if len(columns) == 1:
            return [_known(value) for value in columns[0]]
        return [json_text(values) for values in zip(*columns, strict=True)]

    def _meet(self, name: str, into: SliceDocuments) -> None:
        if not self._unique and name in into.names:
            raise repeated_key(self._shape.key, name)
        into.names[name] = None

    def _cut(self, rows: _Rows, number: int, name: str, text: str) -> Iterator[None]:
        seen: dict[str, int] = {}
        for position, chunk in enumerate(self._splitter.chunks(text, name)):
            content = text[chunk.start : chunk.end]
            path = _path(chunk.headings)
            # Told apart by what they hold and where they stand, and only then by their order: a chunk keeps its id
            # whatever is inserted before it.
            about = f"{name}\0{path}\0{_hash(content)}"
            ordinal = seen[about] = seen.get(about, -1) + 1
            self._add(rows, number, name, content, chunk, position, _short_hash(f"{about}\0{ordinal}"))
            yield

    def _add(
        self, rows: _Rows, number: int, name: str, content: str, chunk: Chunk, position: int, chunk_id: str
    ) -> None:
        values: dict[ChunkColumn, Any] = {
            "id": chunk_id or _short_hash(name),
            "document": name,
            "position": position,
            "heading_path": _path(chunk.headings) or None,
            "starts": chunk.start,
            "ends": chunk.end,
            "content": content,
            "content_hash": _hash(content),
        }
        for column, found in rows.columns.items():
            found.append(values[column])
        rows.sources.append(number)
        rows.size += len(content) + 200

    def _batch(self, rows: _Rows, batch: pa.RecordBatch) -> pa.RecordBatch:
        shape = self._shape
        made = [
            pa.array(values, shape.schema.field(shape.rules.names[column]).type)
            for column, values in rows.columns.items()
        ]
        sources = pa.array(rows.sources, pa.int32())
        owned = [*shape.own, REJECT] if REJECT in batch.schema.names else list(shape.own)
        taken = batch.select(owned).take(sources).columns if owned else []
        names = [*shape.schema.names, *owned[len(shape.own) :]]
        return pa.RecordBatch.from_arrays([*made, *taken], names)


def _known(value: str | bytes | None) -> str:
    if value is None:
        return ""
    return value.hex() if isinstance(value, bytes) else value


def _path(headings: tuple[str, ...]) -> str:
    return _BETWEEN.join(heading[:_LONGEST_HEADING] for heading in headings)


def _hash(text: str) -> str:
    """Such as SQL makes it: ``encode(sha256(convert_to(content, 'UTF8')), 'hex')``."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
