"""Arrow columns as canonical text, and the values that it cannot express.

Canonical text is lossless: digits are kept, times have a fixed number of fractional
digits (so that text sorts as time does), times with a zone are in UTC and end in ``Z``.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retl.model.schema import is_bytes, is_text

_SECONDS_YEAR_1 = -62_135_596_800
_SECONDS_YEAR_10000 = 253_402_300_800
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def to_text(column: pa.Array) -> pa.Array:
    """The column as ``string`` (or ``binary``, for bytes), NULLs kept."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return column
    if pa.types.is_dictionary(kind):
        return to_text(column.dictionary_decode())
    if is_text(kind):
        return column.cast(pa.string())
    if is_bytes(kind):
        return column.cast(pa.binary())
    if pa.types.is_decimal(kind):
        return _decimal_text(column)
    if pa.types.is_date64(kind):
        return column.cast(pa.date32()).cast(pa.string())
    if isinstance(kind, pa.ExtensionType):
        return to_text(column.storage)
    if pa.types.is_nested(kind):
        return pa.array([None if value is None else json_text(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    if pa.types.is_timestamp(kind) and kind.tz not in (None, "UTC"):
        return column.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.string())
    return column.cast(pa.string())


def _decimal_text(column: pa.Array) -> pa.Array:
    text = column.cast(pa.string())
    if column.type.scale > 6 or column.type.scale < 0:
        # Arrow writes very small numbers with an exponent, which not every system reads.
        scientific = pc.match_substring(text, "E")
        if pc.any(scientific).as_py():
            plain = [
                value if value is None or "E" not in value else format(Decimal(value), "f")
                for value in text.to_pylist()
            ]
            return pa.array(plain, pa.string())
    return text


def json_text(value: Any) -> str:
    """A Python value as JSON; times, decimals and bytes become their usual text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def unprintable_times(column: pa.Array) -> pa.Array | None:
    """Which times lie outside the years 1 to 9999, or outside a day, and have no text; ``None`` if all have one."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        low, high = (edge * _PER_SECOND[kind.unit] for edge in (_SECONDS_YEAR_1, _SECONDS_YEAR_10000))
        numbers = column.view(pa.int64())
    elif pa.types.is_date32(kind):
        low, high = _SECONDS_YEAR_1 // 86_400, _SECONDS_YEAR_10000 // 86_400
        numbers = column.view(pa.int32())
    elif pa.types.is_time(kind):
        low, high = 0, 86_400 * _PER_SECOND[kind.unit]
        numbers = column.view(pa.int64() if pa.types.is_time64(kind) else pa.int32())
    else:
        return None
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return None  # 64 bits of nanoseconds end in the year 2262
    bad = pc.or_(pc.less(numbers, low), pc.greater_equal(numbers, high))
    return bad if pc.any(bad).as_py() else None


def not_a_number(column: pa.Array) -> pa.Array | None:
    """Which values are NaN; ``None`` if no value is."""
    if pa.types.is_nested(column.type):
        return _nested_nan(column)
    if not pa.types.is_floating(column.type):
        return None
    bad = pc.is_nan(column)
    return bad if pc.any(bad).as_py() else None


def _nested_nan(column: pa.Array) -> pa.Array | None:
    """Which values hold NaN anywhere, which JSON cannot express."""
    bad = pa.array([holds_nan(value) for value in column.to_pylist()], pa.bool_())
    return bad if pc.any(bad).as_py() else None


def holds_nan(value: Any) -> bool:
    """Whether a value holds NaN or infinity anywhere, which JSON cannot express."""
    if isinstance(value, dict):
        return any(map(holds_nan, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_nan, value))
    return isinstance(value, float) and not math.isfinite(value)


def not_utf8(column: pa.Array) -> pa.Array | None:
    """Which texts are not valid UTF-8; ``None`` if all are."""
    if not is_text(column.type):
        return None
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([value is not None and not _is_utf8(value) for value in as_bytes(column)])
    return None


def text_buffers(column: pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Where the values of a column of text begin and end, and all their bytes, one value behind the other.

    ``None`` where they do not lie so. NULL may have bytes too.
    """
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)) or not len(column):
        return None
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int32 if pa.types.is_string(kind) else np.int64)
    places = places[column.offset : column.offset + len(column) + 1]
    return places - places[0], np.frombuffer(data or b"", np.uint8)[places[0] : places[-1]]


def may_hold_nul(column: pa.Array) -> bool:
    """Whether some text may hold NUL: one look at all bytes is much faster than a search in each value."""
    found = text_buffers(column)
    return found is None or (len(found[1]) > 0 and int(found[1].min()) == 0)


def as_bytes(column: pa.Array) -> list[bytes | None]:
    """Text as its bytes."""
    values: list[bytes | None] = column.cast(pa.binary_view()).to_pylist()
    return values


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def keep_mask(bad: list[pa.Array]) -> np.ndarray[Any, Any]:
    """True for the rows that no mask names."""
    keep = np.ones(len(bad[0]), dtype=bool)
    for mask in bad:
        keep &= ~mask.fill_null(False).to_numpy(zero_copy_only=False)
    return keep
