"""Batches as the lines of a bulk request: for each row what is to be done, and the document.

A row's ``_id`` is the text of its key; of a key of several columns it is the JSON array of
their texts, such as ``["7","eu"]``. Where rows are appended each gets an ``_id`` of its own
here, so that a request that is sent twice adds nothing twice; rows that replace those of their
file get one that a scan of the same file makes again. A document that comes whole goes into the
request untouched.

The version of a row is its cursor: whole nanoseconds, or the whole number that it is. With
``external_gte`` the server then keeps whatever is newer.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.elasticsearch.target.values import data, json_strings, json_values, offsets, one_line, plain_text
from retl.connectors.elasticsearch.types import ID, ROUTING, SOURCE, holds_documents
from retl.connectors.rows.text import keep_mask
from retl.model.actions import Action, Write
from retl.model.plan import WriteSpec

MARK = "_retl_scan"
"""The field by which documents that replace those of their file tell which scan has written them."""
LONGEST_ID = 512
"""Maximum bytes of an ``_id``."""

Operation = Literal["index", "create"]
_NOTHING = pa.scalar(b"", pa.binary())
_AT_ONCE = 5_000
_VERSION = b',"version_type":"external_gte","version":'


@dataclass(frozen=True)
class RejectedRows:
    """Rows of a batch that cannot be written."""

    rows: pa.RecordBatch
    reason: str
    column: str


@dataclass(frozen=True)
class Lines:
    """Rows that are ready to be sent. All columns here have the same order and length."""

    rows: pa.RecordBatch
    """The rows as they came, for rejects."""
    ids: pa.Array
    items: pa.Array
    """The lines of each row in the request."""
    request: bytes
    """The lines of all rows; ``items`` are slices of it, so that sending seldom copies."""
    versions: pa.Array
    """Whole numbers; NULL for a row that has no version."""

    @classmethod
    def of(cls, rows: pa.RecordBatch, ids: pa.Array, items: pa.Array, versions: pa.Array) -> Lines:
        """``items`` may be given up afterwards."""
        request = bytes(data(items))
        edges = offsets(items)
        pieces = [None, pa.py_buffer((edges - edges[0]).astype(np.int32)), pa.py_buffer(request)]
        return cls(rows, ids, pa.BinaryArray.from_buffers(pa.binary(), len(items), pieces), request, versions)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def sizes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Bytes of each item."""
        return np.diff(offsets(self.items))

    def body(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> bytes:
        """The request of some rows, by their ascending numbers."""
        if rows.size == len(self):
            return self.request
        if rows[-1] - rows[0] + 1 == rows.size:
            return bytes(data(self.items.slice(rows[0], rows.size)))
        return bytes(data(self.items.take(pa.array(rows))))

    def if_unchanged(self, sequences: list[int], terms: list[int]) -> Lines:
        """The same, but the server accepts each only for an unchanged document."""
        head = _bytes('{"index":{"if_seq_no":')
        rest = pc.replace_substring(self.items, b'{"index":{', b"", max_replacements=1)
        given = [pa.array(numbers, pa.int64()).cast(pa.string()).cast(pa.binary()) for numbers in (sequences, terms)]
        items = pc.binary_join_element_wise(
            head, given[0], _bytes(',"if_primary_term":'), given[1], _bytes(","), rest, _NOTHING
        )
        return Lines.of(self.rows, self.ids, items, self.versions)

    def in_place_of(self, found: Sequence[tuple[int, int] | None]) -> Lines:
        """The same without versions: each replaces exactly the document with these numbers, or creates one."""
        heads = [
            b'{"create":{' if there is None else b'{"index":{"if_seq_no":%d,"if_primary_term":%d,' % there
            for there in found
        ]
        items = []
        for head, item in zip(heads, self.items.to_pylist(), strict=True):
            action, line_break, document = item.partition(b"\n")
            about = action.split(_VERSION, 1)[0].partition(b":{")[2].removesuffix(b"}}")
            items.append(b"%b%b}}%b%b" % (head, about, line_break, document))
        none = pa.nulls(len(self), pa.int64())
        return Lines.of(self.rows, self.ids, pa.array(items, pa.binary()), none)

    def take(self, chosen: Any) -> Lines:
        """Some of the rows, by their numbers."""
        numbers = pa.array(chosen, pa.int64())
        return Lines.of(
            self.rows.take(numbers), self.ids.take(numbers), self.items.take(numbers), self.versions.take(numbers)
        )


class Encoder:
    """Turns the batches of one load into lines. Pure, so it may run in a thread."""

    def __init__(self, spec: WriteSpec, columns: Sequence[str], *, operation: Operation, versions: bool) -> None:
        self._schema = spec.schema
        self._operation = operation
        self._whole = holds_documents(spec.schema)
        self._columns = [name for name in columns if name not in (ID, ROUTING)]
        self._file = spec.table.scope
        self._mark = None if self._file is None else _bytes(f",{_json(MARK)}:{_json(spec.scan_id)}")
        appends = spec.table.write is Write.APPEND and not (self._whole and spec.key) and self._file is None
        self._key = () if appends else spec.key
        self._counts: dict[str, int] = {}
        """The rows of each file that have come in this slice."""
        self._cursor = (
            spec.cursor if versions and operation == "index" and Action.INSERT not in spec.blacklist else None
        )
        self._series = secrets.token_hex(8)
        self._made = self._kept = 0

    def __call__(self, batch: pa.RecordBatch) -> tuple[Lines, list[RejectedRows]]:
        """The lines of the rows that can be written, and the rows that cannot."""
        ids, invalid = self._ids(batch)
        bodies, more = self._documents(batch)
        rejected = [RejectedRows(batch.filter(mask), reason, column) for mask, reason, column in (*invalid, *more)]
        versions = self._versions(batch)
        lines = Lines.of(batch, ids, self._items(batch, ids, versions, bodies), versions)
        if not rejected:
            return lines, rejected
        keep = keep_mask([mask for mask, _, _ in (*invalid, *more)])
        return lines.take(np.flatnonzero(keep)), rejected

    @property
    def makes_ids(self) -> bool:
        """Whether rows get an ``_id`` that no other load makes again."""
        return not self._key and self._file is None

    def loose_ids(self) -> Iterator[list[str]]:
        """The ids generated since ``keep``, in chunks."""
        for first in range(self._kept, self._made, _AT_ONCE):
            yield [f"{self._series}-{number}" for number in range(first, min(first + _AT_ONCE, self._made))]

    def keep(self) -> None:
        """The rows of the ids generated so far stay."""
        self._kept = self._made
        self._counts.clear()

    def _ids_in_files(self, batch: pa.RecordBatch) -> pa.Array:
        """Ids of rows without a key: the name of the file, and the number of the row there."""
        assert self._file is not None
        files = batch.column(self._file).cast(pa.string())
        runs = pc.run_end_encode(files)
        numbers, start = [], 0
        for file, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            first = self._counts.get(file, 0) + 1
            self._counts[file] = first + end - start - 1
            numbers.append(np.arange(first, first + end - start))
            start = end
        texts = pa.array(np.concatenate(numbers) if numbers else [], pa.int64()).cast(pa.string())
        ids = pc.binary_join_element_wise(json_strings(files), json_strings(texts), ",")
        return _shortened(pc.binary_join_element_wise("[", ids, "]", ""))

    def _ids(self, batch: pa.RecordBatch) -> tuple[pa.Array, list[tuple[pa.Array, str, str]]]:
        if not self._key and self._file is not None:
            return self._ids_in_files(batch), []
        if not self._key:
            numbers = pa.array(range(self._made, self._made + batch.num_rows), pa.int64()).cast(pa.string())
            self._made += batch.num_rows
            return pc.binary_join_element_wise(self._series, numbers, "-"), []
        texts: list[pa.Array] = []
        invalid: list[tuple[pa.Array, str, str]] = []
        for name in self._key:
            text, wrong = plain_text(batch.column(name), self._schema.field(name).type)
            invalid += [(mask, reason, name) for mask, reason in wrong]
            if batch.column(name).null_count:
                invalid.append((batch.column(name).is_null(), "the key is NULL", name))
            texts.append(text)
        if len(texts) == 1:
            ids = texts[0]
        else:
            ids = pc.binary_join_element_wise(*map(json_strings, texts), ",")
            ids = pc.binary_join_element_wise("[", ids, "]", "")
        if self._file is not None:
            ids = _shortened(ids)
        length = pc.binary_length(ids)
        for mask, reason in (
            (pc.greater(length, LONGEST_ID), f"the _id is longer than {LONGEST_ID} bytes"),
            (pc.equal(length, 0), "the _id is empty"),
        ):
            if pc.any(mask).as_py():
                invalid.append((mask.fill_null(False), reason, self._key[0] if len(self._key) == 1 else ID))
        return ids.fill_null(""), invalid

    def _documents(self, batch: pa.RecordBatch) -> tuple[pa.Array, list[tuple[pa.Array, str, str]]]:
        if self._whole:
            source = batch.column(SOURCE)
            missing = [(source.is_null(), "the document has no _source", SOURCE)] if source.null_count else []
            return one_line(source.cast(pa.binary())), missing
        invalid: list[tuple[pa.Array, str, str]] = []
        parts: list[object] = []
        for name in self._columns:
            values, wrong = json_values(batch.column(name), self._schema.field(name))
            invalid += [(mask, reason, name) for mask, reason in wrong]
            parts += [_bytes(("," if parts else "{") + _json(name) + ":"), values]
        if not parts:
            return pa.array([b"{}"] * batch.num_rows, pa.binary()), invalid
        if self._mark is not None:
            parts.append(self._mark)
        return pc.binary_join_element_wise(*parts, _bytes("}"), _NOTHING), invalid

    def _versions(self, batch: pa.RecordBatch) -> pa.Array:
        none = pa.nulls(batch.num_rows, pa.int64())
        if self._cursor is None:
            return none
        return version_numbers(batch.column(self._cursor), self._schema.field(self._cursor).type)

    def _items(self, batch: pa.RecordBatch, ids: pa.Array, versions: pa.Array, bodies: pa.Array) -> pa.Array:
        parts = [_bytes(f'{{"{self._operation}":{{"_id":'), json_strings(ids).cast(pa.binary())]
        if self._whole and ROUTING in batch.schema.names and batch.column(ROUTING).null_count < batch.num_rows:
            parts.append(_optional(',"routing":', json_strings(batch.column(ROUTING).cast(pa.string()))))
        if versions.null_count < len(versions):
            parts.append(_optional(_VERSION.decode(), versions.cast(pa.string())))
        parts += [_bytes("}}\n"), bodies, _bytes("\n")]
        return pc.binary_join_element_wise(*parts, _NOTHING, null_handling="replace", null_replacement=b"")


def _shortened(ids: pa.Array) -> pa.Array:
    """The same ids, with a hash in place of one that is too long: names of files may be."""
    long = pc.greater(pc.binary_length(ids), LONGEST_ID).fill_null(False)
    if not pc.any(long).as_py():
        return ids
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in ids.filter(long).to_pylist()]
    return pc.replace_with_mask(ids, long, pa.array(hashes, ids.type))


def gives_versions(logical: pa.DataType) -> bool:
    """Whether a cursor of this type can be the version of a document."""
    return bool(pa.types.is_timestamp(logical) or pa.types.is_date(logical) or pa.types.is_integer(logical))


def version_numbers(cursor: pa.Array, logical: pa.DataType) -> pa.Array:
    """Values of a cursor as versions; NULL for a value that is NULL, negative or out of range."""
    if not gives_versions(logical):
        return pa.nulls(len(cursor), pa.int64())
    try:
        return _version_numbers(cursor, logical)
    except pa.ArrowInvalid:
        return pa.array([_version_of(cursor.slice(number, 1), logical) for number in range(len(cursor))], pa.int64())


def _version_of(value: pa.Array, logical: pa.DataType) -> int | None:
    with suppress(pa.ArrowInvalid):
        version: int | None = _version_numbers(value, logical)[0].as_py()
        return version
    return None


def _version_numbers(cursor: pa.Array, logical: pa.DataType) -> pa.Array:
    if pa.types.is_integer(logical):
        numbers = cursor.cast(pa.int64())
    elif pa.types.is_date(logical):
        numbers = cursor.cast(pa.date32()).cast(pa.timestamp("ns")).view(pa.int64())
    else:
        numbers = cursor.cast(pa.timestamp("ns", logical.tz)).view(pa.int64())
    return pc.if_else(pc.greater_equal(numbers, 0), numbers, pa.scalar(None, pa.int64()))


def _optional(name: str, values: pa.Array) -> pa.Array:
    """A member of the action for the rows that have a value; NULL for the others."""
    return pc.binary_join_element_wise(_bytes(name), values.cast(pa.binary()), _NOTHING)


def _json(name: str) -> str:
    return msgspec.json.encode(name).decode()


def _bytes(text: str) -> pa.Scalar:
    return pa.scalar(text.encode(), pa.binary())
