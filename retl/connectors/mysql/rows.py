"""From the packets of a MySQL text result to Arrow columns, without a Python object per value. No I/O.

A row is a packet: 3 bytes of length, 1 of sequence number, then for each column its length
and its text (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset_row.html).
All rows of a chunk are decoded column by column: numpy reads the lengths at one position of
every row at once and moves all positions on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["text", "binary", "bool", "utc"]
"""How a column is decoded: as text, as bytes, ``0`` and ``1`` as truth values, or as a time in UTC, marked by ``Z``."""
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_HEADER = 4
_CONTINUED = 0xFFFFFF
_MOST_BYTES = 256 * 1024 * 1024
"""Maximum size of a row. Servers allow 1 GB at most, and 64 MB or less by default."""
_NULL, _TWO_BYTES, _THREE_BYTES, _EIGHT_BYTES = 0xFB, 0xFC, 0xFD, 0xFE
_ERROR, _END = 0xFF, 0xFE
_INLINE = 12  # as many bytes fit into a view of Arrow itself
_SAME_LENGTH = 64
_PADDING = bytes(_SAME_LENGTH)
_TYPES = {"text": pa.string(), "utc": pa.string(), "binary": pa.binary(), "bool": pa.bool_()}
_ZERO = ord("0")
_word = struct.Struct("<I").unpack_from

# For each length up to 12: which bytes of a view belong to the value.
_MASKS = ((np.arange(_INLINE) < np.arange(_INLINE + 1)[:, None]).astype(np.uint8) * 0xFF).view(np.int32)


class ProtocolError(Exception):
    """The answer is not a text result; the connection cannot be used any further."""


class TooLarge(Exception):
    """An answer exceeds a limit that keeps a server from filling the host's memory."""


class RowDecoder:
    """Takes the bytes of a result as they arrive and gives record batches.

    ``feed`` takes what came, ``take`` decodes it. After the last row ``finished`` is true;
    an error packet of the server is in ``error`` then.
    """

    def __init__(self, names: Sequence[str], kinds: Sequence[Kind], sequence: int) -> None:
        self._kinds = list(kinds)
        self._types = [_TYPES[kind] for kind in kinds]
        self.schema = pa.schema(zip(names, self._types, strict=True))
        self._sequence = sequence
        self._pending: list[bytes] = []
        self._size = 0
        self._needed = 0  # as many bytes must have come before anything can be decoded
        self.finished = False
        self.error: bytes | None = None
        """The payload of the error packet that ended the result."""

    def feed(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)

    def take(self) -> list[pa.RecordBatch]:
        """Decode every complete row that has come."""
        if self._size < self._needed:
            return []
        # Joined once, with padding after the last value; nothing is copied after that.
        chunk = b"".join((*self._pending, _PADDING))
        position, size = 0, len(chunk) - len(_PADDING)
        batches: list[pa.RecordBatch] = []
        while not self.finished:
            starts, end, continued = _walk(chunk, position, size)
            if starts:
                batch = self._decode_rows(chunk, starts, end, size)
                if batch is not None:
                    batches.append(batch)
            position = end
            if not continued or self.finished:
                break
            payload, position = self._take_continued(chunk, position, size)
            if payload is None:
                break
            batches.append(
                self._decode(np.frombuffer(payload + _PADDING, np.uint8), np.zeros(1, np.int64), len(payload))
            )
        self._pending, self._size = [chunk[position:size]], size - position
        self._needed = _whole(chunk, position, size)
        return batches

    def _decode_rows(self, chunk: bytes, starts: list[int], end: int, size: int) -> pa.RecordBatch | None:
        data = np.frombuffer(chunk, np.uint8)
        rows = np.array(starts, np.int64)
        self._check_sequence(data, rows)
        stops = np.empty_like(rows)
        stops[:-1] = rows[1:] - _HEADER
        stops[-1] = end
        first = np.flatnonzero(data[rows] >= _END)
        for row in first:
            length = int(stops[row] - rows[row])
            kind = data[rows[row]]
            if kind == _END and length >= 9:
                continue  # a row whose first value is longer than 16 MB
            if row != len(rows) - 1 or end != size:
                raise ProtocolError("the server sent more after the end of the result")
            self.finished = True
            if kind == _ERROR:
                self.error = bytes(data[rows[row] : stops[row]])
            rows, stops = rows[:row], stops[:row]
        if not len(rows):
            return None
        return self._decode(data, rows, stops)

    def _check_sequence(self, data: Bytes, rows: Numbers) -> None:
        came = data[rows - 1]
        if not np.array_equal(came, (self._sequence + np.arange(len(rows))).astype(np.uint8)):
            raise ProtocolError("packets are missing or out of order")
        self._sequence = (self._sequence + len(rows)) & 0xFF

    def _take_continued(self, chunk: bytes, position: int, size: int) -> tuple[bytes | None, int]:
        """The payload of a row of 16 MB or more, in several packets, and where it ends; ``None`` until it is complete."""
        start = position
        ends: list[tuple[int, int]] = []
        while size - position >= _HEADER:
            word = _word(chunk, position)[0]
            length = word & _CONTINUED
            position += _HEADER
            if size - position < length:
                return None, start
            if word >> 24 != (self._sequence + len(ends)) & 0xFF:
                raise ProtocolError("packets are missing or out of order")
            ends.append((position, position + length))
            position += length
            if position - start > _MOST_BYTES:
                raise TooLarge(f"a row is larger than {_MOST_BYTES // 1024**2} MB")
            if length < _CONTINUED:
                payload = b"".join(chunk[first:last] for first, last in ends)
                self._sequence = (self._sequence + len(ends)) & 0xFF
                return payload, position
        return None, start

    def _decode(self, data: Bytes, position: Numbers, stops: Numbers | int) -> pa.RecordBatch:
        columns: list[pa.Array] = []
        for kind in self._kinds:
            if (position >= stops).any():
                raise ProtocolError("a row has fewer columns than the result")
            start, length, null = _lengths(data, position)
            # Compared before they are added: a length of nearly 2 ** 63 would overflow to a place within the row.
            if (length > stops - start).any() or int(length.min()) < 0:
                raise ProtocolError("a row ends within a value")
            position = start + length
            columns.append(_checked(_column(data, start, length, null, kind), kind))
        if not np.array_equal(position, np.broadcast_to(stops, position.shape)):
            raise ProtocolError("a row has other columns than the result")
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _walk(chunk: bytes, position: int, size: int) -> tuple[list[int], int, bool]:
    """Where the payloads of whole packets start, where the last one ends, and whether a continued packet comes next."""
    starts: list[int] = []
    add = starts.append
    while size - position >= _HEADER:
        length = _word(chunk, position)[0] & _CONTINUED
        after = position + _HEADER + length
        if length == _CONTINUED:
            return starts, position, True
        if after > size:
            break
        add(position + _HEADER)
        position = after
    return starts, position, False


def _whole(chunk: bytes, position: int, size: int) -> int:
    """How many bytes the packet that begins here has, with its continuations, as far as known."""
    start = position
    while size - position >= _HEADER:
        length = _word(chunk, position)[0] & _CONTINUED
        position += _HEADER + length
        if length < _CONTINUED:
            break
    else:
        position += _HEADER
    return position - start


def _lengths(data: Bytes, position: Numbers) -> tuple[Numbers, Numbers, Mask | None]:
    """Start and length of one column's value in every row, and which ones are NULL."""
    mark = data[position]
    length = mark.astype(np.int64)
    start = position + 1
    if int(mark.max()) < _NULL:
        return start, length, None
    for size_mark, size in ((_TWO_BYTES, 2), (_THREE_BYTES, 3), (_EIGHT_BYTES, 8)):
        rows = np.flatnonzero(mark == size_mark)
        if len(rows):
            at = start[rows]
            value = np.zeros(len(rows), np.int64)
            for byte in range(size):
                value |= data[at + byte].astype(np.int64) << (8 * byte)
            length[rows] = value
            start[rows] += size
    null = mark == _NULL
    if not null.any():
        return start, length, None
    length[null] = 0
    return start, length, null


def _checked(column: pa.Array, kind: Kind) -> pa.Array:
    """The column, checked. Text that is not UTF-8 is an error of its row; a time that is not, of the server."""
    if kind != "utc":
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ProtocolError("a time is no UTF-8") from error
    return pc.binary_join_element_wise(column, "Z", "")


def _column(data: Bytes, start: Numbers, length: Numbers, null: Mask | None, kind: Kind) -> pa.Array:
    rows = len(start)
    valid = None if null is None else pa.py_buffer(np.packbits(~null, bitorder="little"))
    if kind == "bool":
        bits = np.packbits(data[start] != _ZERO, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), rows, [valid, pa.py_buffer(bits)])
    longest, shortest = int(length.max()), int(length.min())
    if longest == shortest and longest <= _SAME_LENGTH and rows:
        return _same_length(data, start, longest, valid, kind)
    views = np.empty((rows, 4), np.int32)
    views[:, 0] = length
    head = _cut_out(data, start, _INLINE).view(np.int32).reshape(rows, 3)
    if longest <= _INLINE:
        np.bitwise_and(head, _MASKS[length], out=views[:, 1:])
    else:
        np.bitwise_and(head, _MASKS[np.minimum(length, _INLINE)], out=views[:, 1:])
        far = np.flatnonzero(length > _INLINE)
        # Prefix, number of the buffer, offset: https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-view-layout
        views[far, 2] = 0
        views[far, 3] = start[far]
    view_type, plain = (pa.string_view(), pa.string()) if kind != "binary" else (pa.binary_view(), pa.binary())
    viewed = pa.Array.from_buffers(view_type, rows, [valid, pa.py_buffer(views), pa.py_buffer(data)])
    return viewed.cast(plain)


def _same_length(data: Bytes, start: Numbers, length: int, valid: pa.Buffer | None, kind: Kind) -> pa.Array:
    """A column whose values all have the same length, such as dates: copy them in one go."""
    rows = len(start)
    values = _cut_out(data, start, length) if length else np.zeros(0, np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * length
    plain = pa.string() if kind != "binary" else pa.binary()
    return pa.Array.from_buffers(plain, rows, [valid, pa.py_buffer(offsets), pa.py_buffer(values)])


def _cut_out(data: Bytes, start: Numbers, size: int) -> np.ndarray[Any, Any]:
    """``size`` bytes from each start. As opaque values, numpy copies them several times faster than byte by byte."""
    everywhere = np.ndarray((len(data) - size + 1,), f"V{size}", data.data, 0, (1,))
    return everywhere[start]
