"""Decode COPY's text format into Arrow, without a Python object per value.

A line is a row and a tab divides its values: both are escaped inside of values, so that a block is cut at its last
line end. https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-TEXT-FORMAT
"""

from __future__ import annotations

import binascii
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio.to_thread
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from retl.connectors.postgres.connection import PostgresConnection
from retl.model.errors import SourceError

BLOCK_BYTES = 1 << 20
"""About so much is decoded at once."""
_INLINE_BYTES = 64 * 1024
"""Below this size, decoding here beats a thread hop."""
_NULL = "\\N"
_HEX_PREFIX = 3  # \\x, whose backslash is escaped
_BACKSLASH = ord("\\")
_MEANINGS = np.arange(256, dtype=np.uint8)
_MEANINGS[list(b"bfnrtv")] = list(b"\b\f\n\r\t\v")
"""What a byte means after a backslash."""
_FINITE = {
    "timestamp": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?(\+00)?$",
    "time": r"^([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?$",
}
"""Times that Arrow can hold; infinity, 24:00:00, and years before 1 and after 9999 stay text."""
_WHOLE_SECONDS = len("12:30:00")
_MICROSECONDS = len("12:30:00.000000")


async def copied(connection: PostgresConnection, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
    """The rows of a query, by COPY."""
    decoder = CopyDecoder(schema)
    async with aclosing(connection.copy_out(sql)) as blocks:
        async for block in blocks:
            decoder.feed(block)
            if decoder.is_ready:
                yield await _decoded(decoder, decoder.take())
    if data := decoder.take():
        yield await _decoded(decoder, data)


async def _decoded(decoder: CopyDecoder, data: bytes) -> pa.RecordBatch:
    if len(data) <= _INLINE_BYTES:
        return decoder.decode(data)
    return await anyio.to_thread.run_sync(decoder.decode, data)


class CopyDecoder:
    """Collects blocks, and decodes what is complete of them."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._blocks: list[bytes] = []
        self.held = 0
        """Bytes that wait to be decoded."""
        self._has_row = False

    @property
    def is_ready(self) -> bool:
        """Whether there is enough to decode; of a row that is larger than a block, its end too."""
        return self.held >= BLOCK_BYTES and self._has_row

    def feed(self, block: bytes) -> None:
        self._blocks.append(block)
        self.held += len(block)
        self._has_row = self._has_row or b"\n" in block

    def take(self) -> bytes:
        """All complete rows; what begins another one is kept."""
        data = b"".join(self._blocks)
        end = data.rfind(b"\n") + 1
        self._blocks = [data[end:]] if end < len(data) else []
        self.held = len(data) - end
        self._has_row = False
        return data[:end]

    def decode(self, data: bytes) -> pa.RecordBatch:
        """Some rows. Times, floats and booleans are typed if Arrow can hold all of them, everything else is text."""
        try:
            columns = _split(data, [_read_as(column.type) for column in self._schema])
            odd = False
        except pa.ArrowInvalid:
            columns, odd = _split(data, [pa.string()] * len(self._schema)), True
        every = zip(columns, self._schema, strict=True)
        arrays = [_finished(column, field.type, odd=odd) for column, field in every]
        return pa.RecordBatch.from_arrays(arrays, names=self._schema.names)


def _read_as(kind: pa.DataType) -> pa.DataType:
    tests = (pa.types.is_timestamp, pa.types.is_time, pa.types.is_floating, pa.types.is_boolean)
    return kind if any(test(kind) for test in tests) else pa.string()


def _split(data: bytes, kinds: list[pa.DataType]) -> list[pa.Array]:
    table = csv.read_csv(
        pa.py_buffer(data),
        read_options=csv.ReadOptions(use_threads=False, block_size=len(data) + 1, autogenerate_column_names=True),
        parse_options=csv.ParseOptions(
            delimiter="\t", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
        ),
        convert_options=csv.ConvertOptions(
            column_types={f"f{number}": kind for number, kind in enumerate(kinds)},
            null_values=[_NULL],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            check_utf8=False,  # the server has
        ),
    )
    if table.num_columns != len(kinds):
        raise SourceError(
            f"the source sent {table.num_columns} columns, but had promised {len(kinds)}.",
            remedy="the source may have changed during the scan; the next scan reads its new shape.",
        )
    return [column.combine_chunks() for column in table.columns]


def _finished(column: pa.Array, kind: pa.DataType, *, odd: bool) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    if pa.types.is_binary(kind):
        return _bytes(column)
    if pa.types.is_boolean(kind):
        return pc.equal(column, "t")
    if pa.types.is_floating(kind):
        return column.cast(kind)
    if odd and (pa.types.is_timestamp(kind) or pa.types.is_time(kind)):
        return _times(column, kind)
    return _unescaped(column)


def _unescaped(column: pa.Array) -> pa.Array:
    """The column with what its escapes stand for; a NULL holds none."""
    validity, ends, content = column.buffers()
    if content is None:
        return column
    offsets: Any = np.frombuffer(ends, np.int32)[: len(column) + 1]
    data: Any = np.frombuffer(content, np.uint8)[: offsets[-1]]
    escapes = _escapes(data)
    if not len(escapes):
        return column
    meant = data.copy()
    meant[escapes + 1] = _MEANINGS[data[escapes + 1]]
    kept = np.ones(len(data), np.bool_)
    kept[escapes] = False
    moved = (offsets - np.searchsorted(escapes, offsets)).astype(np.int32)
    buffers = [validity, pa.py_buffer(moved), pa.py_buffer(meant[kept])]
    return pa.Array.from_buffers(column.type, len(column), buffers, column.null_count)


def _escapes(data: Any) -> Any:
    """Where an escape begins: at every other backslash of those in a row, since no value ends within one."""
    found = np.flatnonzero(data == _BACKSLASH)
    first = np.ones(len(found), np.bool_)
    first[1:] = np.diff(found) > 1
    runs = np.maximum.accumulate(np.where(first, np.arange(len(found)), 0))
    return found[(np.arange(len(found)) - runs) % 2 == 0]


def _bytes(column: pa.Array) -> pa.Array:
    """Bytes from their hexadecimal digits."""
    digits = pc.utf8_slice_codeunits(column, _HEX_PREFIX)
    validity, offsets, data = digits.buffers()
    ends: Any = np.frombuffer(offsets, np.int32)[digits.offset : digits.offset + len(digits) + 1]
    content = binascii.unhexlify(memoryview(data)[ends[0] : ends[-1]]) if data is not None else b""
    halved = ((ends - ends[0]) // 2).astype(np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(digits), [validity, pa.py_buffer(halved), pa.py_buffer(content)], digits.null_count
    )


def _times(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Times as text: canonical if Arrow can hold them, else as they came."""
    pattern = _FINITE["timestamp" if pa.types.is_timestamp(kind) else "time"]
    finite = pc.match_substring_regex(column, pattern).fill_null(False)
    known = pc.if_else(finite, column, pa.scalar(None, pa.string()))
    canonical = known.cast(kind).cast(pa.string()) if pa.types.is_timestamp(kind) else _with_fraction(known)
    return pc.if_else(finite, canonical, column)


def _with_fraction(clocks: pa.Array) -> pa.Array:
    """Times of a day with all digits of a microsecond; Arrow cannot cast text to them."""
    whole = pc.equal(pc.utf8_length(clocks), _WHOLE_SECONDS)
    pointed = pc.if_else(whole, pc.binary_join_element_wise(clocks, "", "."), clocks)
    return pc.utf8_rpad(pointed, _MICROSECONDS, "0")
