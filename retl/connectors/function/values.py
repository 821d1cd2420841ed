"""Batches for a user's callable: typed columns, or rows of Python values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from retl.connectors.rows.text import keep_mask, unprintable_times
from retl.model.schema import JSON, is_json

Invalid = list[tuple[pa.Array, str, str]]
"""The rows that were left out, with reason and column."""


def drop_invalid(batch: pa.RecordBatch, schema: pa.Schema, for_python: bool) -> tuple[pa.RecordBatch, Invalid]:
    """The batch in its logical types; without the rows whose text is not a value of its type.

    With ``for_python`` also without the rows with a time that Python cannot express.
    """
    invalid: Invalid = []
    columns = []
    for array, column in zip(batch.columns, schema, strict=True):
        typed, wrong = _typed(array, column.type)
        if wrong is not None:
            invalid.append((wrong, f"the value is not of type {column.type}", column.name))
        late = unprintable_times(typed) if for_python else None
        if late is not None:
            invalid.append((late, "the time lies outside the years 1 to 9999", column.name))
        columns.append(typed)
    typed_batch = pa.RecordBatch.from_arrays(columns, schema=_as_nullable(schema, columns))
    bad = [mask for mask, _, _ in invalid]
    return (typed_batch.filter(pa.array(keep_mask(bad))) if bad else typed_batch), invalid


def _as_nullable(schema: pa.Schema, columns: list[pa.Array]) -> pa.Schema:
    """The schema; a column with NULLs is nullable in it, even if NOT NULL was promised."""
    return pa.schema(
        [
            column.with_nullable(column.nullable or array.null_count > 0)
            for column, array in zip(schema, columns, strict=True)
        ]
    )


def _typed(array: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
    """A column, which may be canonical text, as its logical type; and which values are not of that type."""
    if array.type == wanted:
        return array, None
    convert: Callable[[pa.Array], pa.Array] = _times if pa.types.is_time(wanted) else lambda some: some.cast(wanted)
    try:
        return convert(array), None
    except (pa.ArrowInvalid, ValueError):
        pass
    wrong = np.zeros(len(array), dtype=bool)
    pieces = []
    for number in range(len(array)):
        try:
            pieces.append(convert(array.slice(number, 1)).cast(wanted))
        except (pa.ArrowInvalid, ValueError):
            wrong[number] = True
            pieces.append(pa.nulls(1, wanted))
    return pa.concat_arrays(pieces), pa.array(wrong)


def _times(array: pa.Array) -> pa.Array:
    # Arrow reads no times of day from text.
    return pa.array(
        [None if value is None else time.fromisoformat(value) for value in array.to_pylist()], pa.time64("us")
    )


def python_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as dicts: datetimes, dates, decimals, JSON decoded; nanoseconds, which Python lacks, as text."""
    columns = {
        column.name: _python_values(array, column) for array, column in zip(batch.columns, batch.schema, strict=True)
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _python_values(array: pa.Array, column: pa.Field) -> list[Any]:
    kind = array.type
    if (pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "ns":
        return list(array.cast(pa.string()).to_pylist())
    values: list[Any] = array.to_pylist()
    if JSON in (column.metadata or {}) and is_json(column):
        return [None if value is None else _decoded(value) for value in values]
    return values


def _decoded(text: Any) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text  # invalid JSON stays as it came
