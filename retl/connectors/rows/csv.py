"""Arrow batches as CSV for the bulk loaders of MySQL and PostgreSQL: lossless, without a Python object per value.

A NULL is the bare word ``NULL``; every text is in quotes, which are doubled within it; nothing else is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from retl.connectors.rows.text import to_text
from retl.model.schema import is_text

NULL = "NULL"
_LARGE = pa.large_string()
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def csv_bytes(columns: Sequence[pa.Array]) -> pa.Buffer:
    """The rows of some columns, each of which is in the form of ``to_csv_form``."""
    if _OPTIONS is None:
        return joined_bytes(columns)
    batch = pa.RecordBatch.from_arrays(list(columns), [str(number) for number in range(len(columns))])
    sink = pa.BufferOutputStream()
    csv.write_csv(batch, sink, _OPTIONS)
    return sink.getvalue()


def joined_bytes(columns: Sequence[pa.Array]) -> pa.Buffer:
    """The same, slower, by a pyarrow whose writer of CSV cannot tell a NULL from a text."""
    values = [_value(column) for column in columns]
    lines = pc.binary_join_element_wise(*values, pa.scalar(",", _LARGE), null_handling="replace", null_replacement=NULL)
    ended = pc.binary_join_element_wise(lines, pa.scalar("\n", _LARGE), pa.scalar("", _LARGE))
    _, offsets, data = ended.buffers()
    places = np.frombuffer(offsets, np.int64)[ended.offset : ended.offset + len(ended) + 1]
    return data.slice(places[0], places[-1] - places[0]) if len(ended) else pa.py_buffer(b"")


def _value(column: pa.Array) -> pa.Array:
    """What stands between the commas for each value; a NULL stays one."""
    text = column.cast(_LARGE)
    if not is_text(column.type):
        return text
    quote = pa.scalar('"', _LARGE)
    return pc.binary_join_element_wise(quote, pc.replace_substring(text, '"', '""'), quote, pa.scalar("", _LARGE))


def _options() -> csv.WriteOptions | None:
    """How pyarrow writes what the loaders read, from version 26 on."""
    try:
        return csv.WriteOptions(include_header=False, null_string=NULL, quoting_style="needed", batch_size=4096)
    except TypeError:
        return None


_OPTIONS = _options()


def to_csv_form(column: pa.Array) -> pa.Array:
    """The column in a form whose CSV loses nothing: numbers and times as they are, everything else as text.

    Truth values are 0 and 1, bytes are hexadecimal, times with a zone are in UTC without it.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return to_csv_form(column.dictionary_decode())
    if kind == pa.uuid():
        return uuid_text(column)
    if isinstance(kind, pa.BaseExtensionType):
        return to_csv_form(column.storage)
    if pa.types.is_boolean(kind):
        return column.cast(pa.uint8())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_timestamp(kind):
        return column.view(pa.timestamp(kind.unit))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_date32(kind) or pa.types.is_time(kind):
        return column
    text = to_text(column)
    return hex_text(text) if pa.types.is_binary(text.type) else text


def hex_text(column: pa.Array) -> pa.Array:
    """Bytes, or the bytes of a text, as hexadecimal digits."""
    column = column.cast(pa.binary())
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    digits = pa.py_buffer(_HEX[data])
    # Twice as long, so it may need offsets of 64 bits.
    doubled = (offsets.astype(np.int64) - offsets[0]) * 2
    return pa.Array.from_buffers(pa.large_string(), len(column), [_validity(column), pa.py_buffer(doubled), digits])


def uuid_text(column: pa.Array) -> pa.Array:
    """UUIDs as people write them, with their dashes."""
    digits = hex_text(column.storage.cast(pa.binary()))
    return pc.replace_substring_regex(digits, "^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-")


def _validity(column: pa.Array) -> pa.Buffer | None:
    if not column.null_count:
        return None
    return pa.py_buffer(np.packbits(column.is_valid().to_numpy(zero_copy_only=False), bitorder="little"))
