"""Pages of hits: how many documents to ask for, and what came, as an Arrow batch.

A hit is taken apart no further than its reader needs: a document stays the bytes that it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.elasticsearch.errors import refusal
from retl.model.errors import ConnectionFailed, SourceError

PAGE_BYTES = 512 * 1024
_FIRST_ROWS = 500
FIRST_ROWS_UNKNOWN = 50
_GROWTH = 8
_SHRINK = 4
# How many times smaller than its answer a document may be on disk.
_PACKED = 60
_NOTHING = msgspec.Raw(b"")
# Every escape of JSON, so that no match begins inside another one; the group is a lone surrogate.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_REPLACED = "\ufffd"
TORN = rb"\ufffd"
"""What replaces a lone surrogate in an answer; servers write U+FFFD itself, never this escape."""
_MOST_SORT = 64 * 1024


class Hit(msgspec.Struct, gc=False):
    """One document of an answer, in the server's own bytes."""

    id: str = msgspec.field(name="_id")
    routing: str | None = msgspec.field(name="_routing", default=None)
    source: msgspec.Raw = msgspec.field(name="_source", default=_NOTHING)
    sort: msgspec.Raw = _NOTHING
    fields: msgspec.Raw = _NOTHING
    ignored: list[str] | None = msgspec.field(name="_ignored", default=None)
    ignored_values: dict[str, list[msgspec.Raw]] | None = msgspec.field(name="ignored_field_values", default=None)
    mended: bool = msgspec.field(name="retl mended", default=False)
    """Whether lone surrogates were replaced in the answer."""
    torn: msgspec.Raw = msgspec.field(name="retl torn", default=_NOTHING)
    """The original document, where it holds lone surrogates; everywhere else they are replaced."""


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


class HitDecoder(Protocol):
    """What becomes of hits."""

    schema: pa.Schema
    request: dict[str, Any]
    """What a search must ask for."""

    def batch(self, hits: Sequence[Hit], firsts: Sequence[Any] | None) -> pa.RecordBatch:
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
    total: int | None
    """The total number, where it was asked for."""


class SearchAnswer(NamedTuple):
    """Hits, their total where it was asked for, and the id of the point in time."""

    hits: Sequence[Hit]
    total: int | None
    pit_id: str | None


def parse_answer(body: bytes) -> SearchAnswer:
    """What a search answered.

    Raises ``ConnectionFailed`` where the server had not the time for all of it, or lacks a shard.
    """
    try:
        found = _decoded(body)
    except RecursionError:
        raise SourceError(
            "a document holds JSON that is nested deeper than can be read.",
            remedy="leave such documents out with where, or correct them at the source.",
        ) from None
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
    return SearchAnswer(found.hits.hits, total, found.pit_id)


def _decoded(body: bytes) -> _Answer:
    """An answer, also with lone surrogates: servers keep them, and Python's UTF-8 refuses them."""
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError:
        whole = _ESCAPE.sub(lambda sign: TORN if sign[1] else sign[0], body)
        if whole == body:
            raise
    found = _DECODER.decode(whole)
    for hit in found.hits.hits:
        hit.mended = True
        if _REPLACED in hit.id or _REPLACED in (hit.routing or ""):
            raise SourceError(
                f"the _id {hit.id!r} of a document, or its routing, has half of a sign in it, and cannot be sent.",
                remedy="leave the document out with where, or give it another _id at the source.",
            )
        start = _address(hit.source) - _address(whole) if hit.source else 0
        original = memoryview(body)[start : start + len(hit.source)] if hit.source else b""
        hit.torn = msgspec.Raw(original) if original != bytes(hit.source) else _NOTHING
    return found


def _address(buffer: Any) -> int:
    """The address of bytes in memory: a document is a view of its answer, at the same place as in the original."""
    return int(np.frombuffer(memoryview(buffer), np.uint8).ctypes.data)


def page(body: bytes, decoder: HitDecoder, value: Callable[[Any], Any] | None) -> Page:
    """The documents of an answer. Large ones take long, and belong into a thread.

    ``value`` makes a value of the cursor from the first sort value, where the documents are sorted by it.
    """
    hits, total, pit_id = parse_answer(body)
    firsts = None
    if value is not None:
        try:
            firsts = [value(values[0]) for values in decode_all([hit.sort for hit in hits], list[Any])]
        except (msgspec.MsgspecError, IndexError):
            raise _strange("a document came without the values that it was sorted by") from None
    last = msgspec.Raw(bytes(hits[-1].sort)) if hits and hits[-1].sort else None
    if last is not None and len(bytes(last)) > _MOST_SORT:
        raise _strange("a document came with values to sort by that are longer than any")
    try:
        batch = decoder.batch(hits, firsts)
    except (pa.ArrowException, OverflowError, msgspec.MsgspecError, RecursionError) as error:
        raise SourceError(
            f"a document is not what the mapping says: {str(error) or type(error).__name__}.",
            remedy="leave the field out with exclude, or such documents with where.",
        ) from None
    return Page(batch, pit_id, last, [hit.id for hit in hits], firsts, total)


def _strange(what: str) -> ConnectionFailed:
    return ConnectionFailed(f"{what}.", remedy="check what stands between here and the server.")


def decode_all(raws: Sequence[msgspec.Raw], kind: Any) -> list[Any]:
    """Many small pieces of JSON, decoded at once; a missing one counts as an empty object."""
    decoded: list[Any] = msgspec.json.decode(b"[%b]" % b",".join(raw or b"{}" for raw in raws), type=list[kind])
    return decoded


def binary(pieces: Sequence[Any]) -> pa.Array:
    """Bytes-like objects as one binary array, copied once."""
    offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces))]
    return pa.BinaryArray.from_buffers(pa.binary(), len(pieces), buffers)


class PageSize:
    """How many documents the next page asks for, to be about ``PAGE_BYTES`` long."""

    def __init__(self, most: int, document_bytes: float | None = None) -> None:
        self._most = most
        expected = PAGE_BYTES / (document_bytes * _PACKED) if document_bytes else FIRST_ROWS_UNKNOWN
        self.rows = max(1, min(most, _FIRST_ROWS, int(expected)))

    def came(self, rows: int, size: int) -> None:
        """Learn from a page of ``rows`` documents and ``size`` bytes."""
        if rows:
            fits = int(PAGE_BYTES * rows / max(size, 1))
            self.rows = max(1, min(self._most, fits, self.rows * _GROWTH))

    def shrink(self) -> None:
        """The server could not give so much at once."""
        self.rows = max(1, self.rows // _SHRINK)
