"""Pages of hits: how many documents to ask for, and what came, as an Arrow batch.

A hit is taken apart no further than its reader needs: a document stays the bytes that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.elasticsearch.errors import refusal
from retl.model.errors import ConnectionFailed, SourceError

PAGE_BYTES = 512 * 1024
_FIRST_ROWS = 500
_FIRST_ROWS_UNKNOWN = 50
_GROWTH = 8
_SHRINK = 4
# What an index needs on disk for a document may be so many times less than what it sends.
_PACKED = 60
_NOTHING = msgspec.Raw(b"")


class Hit(msgspec.Struct, gc=False):
    """One document of an answer, in the server's own bytes."""

    id: str = msgspec.field(name="_id")
    routing: str | None = msgspec.field(name="_routing", default=None)
    source: msgspec.Raw = msgspec.field(name="_source", default=_NOTHING)
    sort: msgspec.Raw = _NOTHING
    fields: msgspec.Raw = _NOTHING
    ignored: list[str] | None = msgspec.field(name="_ignored", default=None)
    ignored_values: dict[str, list[Any]] | None = msgspec.field(name="ignored_field_values", default=None)


class _Total(msgspec.Struct):
    value: int = 0


class _Hits(msgspec.Struct):
    hits: list[Hit]
    total: _Total | None = None


class _Shards(msgspec.Struct):
    total: int = 0
    successful: int = 0
    failed: int = 0
    failures: list[msgspec.Raw] = []


class _Answer(msgspec.Struct):
    hits: _Hits
    pit_id: str | None = None
    timed_out: bool = False
    shards: _Shards = msgspec.field(name="_shards", default_factory=_Shards)


_DECODER = msgspec.json.Decoder(_Answer)


class Shape(Protocol):
    """What becomes of hits."""

    schema: pa.Schema

    def arrays(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> list[pa.Array]:
        """The columns of ``schema``; ``firsts`` are the cursor's values where the hits are sorted by it."""


@dataclass(frozen=True)
class Page:
    """The documents of one answer."""

    batch: pa.RecordBatch
    pit_id: str | None
    last: msgspec.Raw | None
    """The sort values of the last document: where the next page begins."""
    ids: Sequence[str]
    firsts: Sequence[Any] | None
    """The cursor's values, where the documents are sorted by it."""


def answer(body: bytes) -> tuple[Sequence[Hit], int | None, str | None]:
    """Hits, their total where it was asked for, and the id of the point in time.

    Raises ``ConnectionFailed`` where the server had not the time for all of it, or lacks a shard.
    """
    try:
        found = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConnectionFailed(
            f"a page is not what a search answers: {error}.", remedy="check what stands between here and the server."
        ) from None
    shards = found.shards
    if found.timed_out or shards.failed or shards.successful < shards.total:
        reason = refusal(bytes(shards.failures[0])).reason if shards.failures else ""
        what = (
            "the search timed out" if found.timed_out else f"{shards.total - shards.successful} shards did not answer"
        )
        raise ConnectionFailed(
            f"a page is not complete: {what}{': ' if reason else ''}{reason}.",
            remedy="nothing, if it passes: the scan is tried again. Otherwise look at the health of the cluster.",
        )
    total = found.hits.total.value if found.hits.total is not None else None
    return found.hits.hits, total, found.pit_id


def page(body: bytes, shape: Shape, *, sorted_by_cursor: bool) -> Page:
    """The documents of an answer. Takes as long as there are bytes: large ones belong into a thread."""
    hits, _, pit_id = answer(body)
    firsts = [values[0] for values in decode_all([hit.sort for hit in hits], list[Any])] if sorted_by_cursor else None
    try:
        batch = pa.RecordBatch.from_arrays(shape.arrays(hits, firsts), schema=shape.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, msgspec.ValidationError) as error:
        raise SourceError(
            f"a value is not what the mapping says: {error}.",
            remedy="leave its column out with columns, or its documents with where.",
        ) from None
    last = msgspec.Raw(bytes(hits[-1].sort)) if hits and hits[-1].sort else None
    return Page(batch, pit_id, last, [hit.id for hit in hits], firsts)


def decode_all(raws: Sequence[msgspec.Raw], kind: Any) -> list[Any]:
    """Many small pieces of JSON, decoded as one; what is missing counts as an empty object."""
    decoded: list[Any] = msgspec.json.decode(b"[%b]" % b",".join(raw or b"{}" for raw in raws), type=list[kind])
    return decoded


def binary(pieces: Sequence[Any]) -> pa.Array:
    """Bytes-like objects as one binary array, copied once."""
    offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces))]
    return pa.BinaryArray.from_buffers(pa.binary(), len(pieces), buffers)


class PageSize:
    """How many documents the next page may have, so that it is of about ``PAGE_BYTES``."""

    def __init__(self, most: int, document_bytes: float | None = None) -> None:
        self._most = most
        expected = PAGE_BYTES / (document_bytes * _PACKED) if document_bytes else _FIRST_ROWS_UNKNOWN
        self.rows = max(1, min(most, _FIRST_ROWS, int(expected)))

    def came(self, rows: int, size: int) -> None:
        """So many rows were so many bytes."""
        if rows:
            fits = int(PAGE_BYTES * rows / max(size, 1))
            self.rows = max(1, min(self._most, fits, self.rows * _GROWTH))

    def shrink(self) -> None:
        """The server could not give so much at once."""
        self.rows = max(1, self.rows // _SHRINK)
