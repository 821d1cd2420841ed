"""Rows of Redshift in Arrow: records of the driver, or batches of Parquet, cast_to_plan to the columns that a scan has promised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.rows.rejects import without_broken_text
from retl.model.schema import native_type

_TIMES = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)
# The value of each hexadecimal digit, by its character.
_DIGITS = np.zeros(256, dtype=np.uint8)
for _number, _character in enumerate("0123456789abcdef"):
    _DIGITS[ord(_character)] = _DIGITS[ord(_character.upper())] = _number


def from_records(records: Sequence[Iterable[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """The rows of a driver. Whole numbers, floats and booleans are values, all else is text."""
    columns = zip(*records, strict=True) if records else ([] for _ in schema)
    arrays = [
        pa.array(values, column.type if _travels_as_value(column.type) else pa.string())
        for values, column in zip(columns, schema, strict=True)
    ]
    return cast_to_plan(arrays, schema)


def from_file(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows of a file of Parquet, whose columns come in order."""
    return without_broken_text(cast_to_plan(batch.columns, schema))


def cast_to_plan(arrays: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """Columns of the types that were promised, or their canonical text."""
    columns = [_cast(array, column) for array, column in zip(arrays, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema.names)


def _travels_as_value(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _cast(array: pa.Array, column: pa.Field) -> pa.Array:
    kind = column.type
    if array.type == kind:
        return array
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if not text:
        # A file's TIMESTAMPTZ has lost its mark: its values are UTC.
        return array.cast(kind)
    array = array.cast(pa.string())
    if native_type(column) == "varbyte":
        return _bytes(array)
    return _times(array, kind) if any(test(kind) for test in _TIMES) else array


def _times(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Times in Arrow's type; as text where one of them lies outside of it, such as one before Christ."""
    try:
        if pa.types.is_time(kind):
            return pc.binary_join_element_wise("1970-01-01", text, " ").cast(pa.timestamp("us")).cast(kind)
        return text.cast(kind)
    except pa.ArrowInvalid:
        return pc.replace_substring_regex(text, r"\+00$", "Z")


def _bytes(text: pa.Array) -> pa.Array:
    """The bytes that hexadecimal digits stand for, all values at once."""
    text = pa.concat_arrays([text])  # its offsets begin at 0
    _, offsets, characters = text.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32, count=len(text) + 1 + text.offset)[text.offset :]
    codes = _DIGITS[np.frombuffer(characters or b"", dtype=np.uint8)[ends[0] : ends[-1]]]
    values = (codes[::2] << 4) | codes[1::2]
    halves = (ends - ends[0]) // 2
    valid = pc.is_valid(text)
    mask = None if text.null_count == 0 else pa.array(valid).buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), len(text), [mask, pa.py_buffer(halves.astype(np.int32).tobytes()), pa.py_buffer(values.tobytes())]
    )
