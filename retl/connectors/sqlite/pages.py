"""Arrow batches as SQLite database images, without a Python object per value.

``sqlite3.Connection.deserialize`` takes a whole database from memory. So a batch is
laid out as one: a table ``b`` whose leaf pages are filled column by column with Arrow
and numpy, and which ``INSERT ... SELECT`` then reads at the speed of C.

The file format: https://www.sqlite.org/fileformat2.html. Records use varints that are
longer than necessary (SQLite reads them nevertheless), so that the headers of all
records have one length. A row that does not fit into a page is left to the caller.
"""

from __future__ import annotations

import mmap
import sqlite3
import struct
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.rows.text import to_text

PAGE = 65_536
_ROW_LIMIT = PAGE - 8 - 2 - 64
"""Bytes of a cell that always fit into a leaf page, besides its pointer and the page's header."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Image:
    """A database in the making, whose table ``b`` takes batches with the columns ``c0``, ``c1`` ...

    Rowids run on from 1. Integers and booleans become INTEGER, floats REAL, bytes BLOB,
    everything else TEXT in canonical form.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        # Anonymous maps, since they go back to the system when closed: blocks of this size
        # would pile up in the C allocator's arenas, one for each worker thread.
        self._leaves: list[mmap.mmap] = []
        self._last_rowids: list[int] = []
        self.rows = 0

    @property
    def size(self) -> int:
        """Bytes of the pages so far."""
        return PAGE * len(self._last_rowids)

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        """Lay out a batch; returns the rows that are too large for a page, if any."""
        cells = _cells(batch, self.rows)
        sizes = pc.binary_length(cells).to_numpy(zero_copy_only=False)
        large: pa.RecordBatch | None = None
        if len(sizes) and int(sizes.max()) > _ROW_LIMIT:
            fits = sizes <= _ROW_LIMIT
            large = batch.filter(pa.array(~fits))
            cells = _cells(batch.filter(pa.array(fits)), self.rows)  # Repeated, since rowids must be dense
        if len(cells):
            offsets = _offsets(cells)
            leaves = _split(offsets)
            pages = mmap.mmap(-1, PAGE * len(leaves))
            data = memoryview(cells.buffers()[2])
            for number, (first, last) in enumerate(leaves):
                _put_leaf(pages, PAGE * number, offsets, data, first, last)
                self._last_rowids.append(self.rows + last)
            self._leaves.append(pages)
            self.rows += len(cells)
        return large

    def load(self, connection: sqlite3.Connection, name: str) -> None:
        """Make it the content of an attached database, which takes the pages over: memory holds them once."""
        head = _empty(self._columns)
        leaves, self._leaves = self._leaves, []
        with closing(mmap.mmap(-1, max(len(head), PAGE * (len(self._last_rowids) + 2)))) as image:
            image.write(head[:PAGE] if len(self._last_rowids) == 1 else head)
            for pages in leaves:
                image.write(pages)
                pages.close()
            length = image.tell()
            if len(self._last_rowids) > 1:  # else the only leaf is the root itself
                image[PAGE : 2 * PAGE] = _root(self._last_rowids)
            struct.pack_into(">I", image, 28, length // PAGE)
            with memoryview(image) as whole, whole[:length] as used:
                connection.deserialize(used, name=name)

    def close(self) -> None:
        """Give the memory back."""
        for pages in self._leaves:
            pages.close()
        self._leaves = []


def _offsets(cells: pa.Array) -> Numbers:
    offsets = np.frombuffer(cells.buffers()[1], np.int32)[cells.offset : cells.offset + len(cells) + 1]
    return offsets.astype(np.int64)


def _cells(batch: pa.RecordBatch, rowid: int) -> pa.Array:
    """One leaf cell per row: payload length, rowid, record header, values. Rowids follow ``rowid``."""
    rows = batch.num_rows
    header_size = 2 + 4 * batch.num_columns
    head = np.empty((rows, 8 + header_size), np.uint8)
    bodies: list[pa.Array] = []
    length: Numbers | int = header_size
    for number, column in enumerate(batch.columns):
        code, size, body = _column(column)
        _put_varint(head[:, 10 + 4 * number : 14 + 4 * number], code)
        bodies.append(body)
        length = length + size
    _put_varint(head[:, 0:4], length)
    _put_varint(head[:, 4:8], np.arange(rowid + 1, rowid + rows + 1, dtype=np.int64))
    _put_varint(head[:, 8:10], header_size)
    return pc.binary_join_element_wise(_fixed(head), *bodies, pa.scalar(b"", pa.binary()))


def _column(column: pa.Array) -> tuple[Numbers | int, Numbers | int, pa.Array]:
    """Serial types, sizes and big-endian bytes of a column's values; one number if all rows share it."""
    rows = len(column)
    kind = column.type
    code: Numbers | int
    size: Numbers | int
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        numbers = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype(">i8")
        body, code, size = _fixed(numbers.view(np.uint8).reshape(rows, 8)), 6, 8
    elif pa.types.is_floating(kind):
        reals = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False).astype(">f8")
        body, code, size = _fixed(reals.view(np.uint8).reshape(rows, 8)), 7, 8
    else:
        text = to_text(column)
        body = text.cast(pa.binary())
        size = pc.fill_null(pc.binary_length(body), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        code = 2 * size + (12 if pa.types.is_binary(text.type) else 13)
    if column.null_count:
        nulls = column.is_null()
        mask = nulls.to_numpy(zero_copy_only=False)
        code, size = np.where(mask, 0, code), np.where(mask, 0, size)
        body = pc.if_else(nulls, pa.scalar(b"", pa.binary()), body)
    return code, size, body


def _put_varint(place: Bytes, values: Numbers | int) -> None:
    """Big-endian base-128 that fills the width of ``place``."""
    width = place.shape[1]
    for digit in range(width):
        more = 0x80 if digit < width - 1 else 0
        place[:, digit] = (values >> 7 * (width - 1 - digit)) & 0x7F | more


def _fixed(values: Bytes) -> pa.Array:
    """Rows of bytes as an Arrow array."""
    rows, width = values.shape
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, buffer]).cast(pa.binary())


def _split(offsets: Numbers) -> list[tuple[int, int]]:
    """The rows of each leaf page: as many as fit."""
    rows = len(offsets) - 1
    cost = offsets + 2 * np.arange(rows + 1)
    pages: list[tuple[int, int]] = []
    first = 0
    while first < rows:
        last = int(np.searchsorted(cost, cost[first] + PAGE - 8, side="right")) - 1
        pages.append((first, last))
        first = last
    return pages


def _put_leaf(pages: mmap.mmap, at: int, offsets: Numbers, data: memoryview, first: int, last: int) -> None:
    """Write a table leaf page: header, one pointer per row, and the cells as one block at the end."""
    start = PAGE - int(offsets[last] - offsets[first])
    struct.pack_into(">BHHHB", pages, at, 0x0D, 0, last - first, start % PAGE, 0)
    pointers = (offsets[first:last] - offsets[first] + start).astype(">u2").tobytes()
    pages[at + 8 : at + 8 + len(pointers)] = pointers
    pages[at + start : at + PAGE] = data[offsets[first] : offsets[last]]


def _root(last_rowids: list[int]) -> bytearray:
    """The table's root: for every leaf page but the last one a cell with its number and highest rowid."""
    page = bytearray(PAGE)
    cells = np.empty((len(last_rowids) - 1, 4), np.uint8)
    _put_varint(cells, np.array(last_rowids[:-1], np.int64))
    keys = cells.tobytes()
    content = b"".join(
        struct.pack(">I", 3 + number) + keys[4 * number : 4 * number + 4] for number in range(len(cells))
    )
    start = PAGE - len(content)
    struct.pack_into(">BHHHBI", page, 0, 0x05, 0, len(cells), start % PAGE, 0, 2 + len(last_rowids))
    pointers = np.arange(start, PAGE, 8).astype(">u2").tobytes()
    page[12 : 12 + len(pointers)] = pointers
    page[start:] = content
    return page


def _empty(columns: int) -> bytes:
    """A database with the empty table ``b``, made by SQLite itself: two pages."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute(f"CREATE TABLE b ({', '.join(f'c{number}' for number in range(columns))})")
        connection.commit()
        return connection.serialize()
