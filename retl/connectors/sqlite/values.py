"""Rows of SQLite as Arrow: a value of another type than its column declares makes its row a reject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from retl.connectors.base import RowReject, with_rejects
from retl.connectors.rows.text import json_text
from retl.model.schema import native_type

_EXACT_REAL = 2**53


def to_batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """The rows; those that do not fit ``schema`` are rejects."""
    arrays: list[pa.Array] = []
    reasons: dict[int, tuple[str, str]] = {}
    for column, values in zip(schema, zip(*rows, strict=True), strict=True):
        array = _array(values, column.type)
        if array is None:
            bad = {number: why for number, value in enumerate(values) if (why := _why_incompatible(value, column.type))}
            reasons = {number: (column.name, _told(why, column)) for number, why in bad.items()} | reasons
            array = _array([None if number in bad else value for number, value in enumerate(values)], column.type)
        arrays.append(array)
    rejects = {
        number: RowReject(reason, _content(schema.names, rows[number]), name)
        for number, (name, reason) in reasons.items()
    }
    return with_rejects(pa.RecordBatch.from_arrays(arrays, names=schema.names), rejects)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    """The values of a column; ``None`` if some are not what it declares. Arrow alone would accept bytes as text."""
    try:
        if pa.types.is_boolean(kind):
            return pa.array(values, pa.int64()).cast(pa.bool_()) if set(values) <= {None, 0, 1} else None
        if not set(map(type, values)) <= {type(None), *_expected(kind)}:
            return None
        if pa.types.is_decimal(kind):
            return pa.array([value if value is None else str(value) for value in values], pa.string())
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_binary(kind)
        return pa.array(values, kind if plain else pa.string())
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return None


def _expected(kind: pa.DataType) -> tuple[type, ...]:
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return (int,)
    if pa.types.is_floating(kind):
        return (float, int)
    if pa.types.is_decimal(kind):
        return (str, int, float)
    return (bytes,) if pa.types.is_binary(kind) else (str,)


def _why_incompatible(value: Any, kind: pa.DataType) -> str | None:
    """Why a column of this type cannot hold a value."""
    if value is None:
        return None
    if type(value) not in _expected(kind) or (pa.types.is_boolean(kind) and value not in (0, 1)):
        return f"it holds {value!r}"
    if isinstance(value, str) and _readable(value) != value:
        return "it holds text that is not valid UTF-8"
    if pa.types.is_floating(kind) and type(value) is int and abs(value) > _EXACT_REAL:
        return f"it holds {value!r}, which has more digits than a real"
    return None


def _told(why: str, column: pa.Field) -> str:
    way_out = f"CAST({column.name} AS TEXT)"
    if pa.types.is_temporal(column.type) and "it holds text" not in why:
        way_out = f"DATETIME({column.name}, 'unixepoch')"
    return (
        f"the column is declared {native_type(column)}, but {why}; "
        f'expressions may convert it, such as {column.name} = "{way_out}"'
    )


def _readable(text: str) -> str:
    """Text with escapes for the bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _content(names: Sequence[str], row: Sequence[Any]) -> str:
    values = [_readable(value) if isinstance(value, str) else value for value in row]
    return json_text(dict(zip(names, values, strict=True)))
