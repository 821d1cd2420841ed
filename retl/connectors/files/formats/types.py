"""Types of columns: as users write them, as a sample shows them, and as several files share them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.files.formats.cast import PLAIN, TextStyle, cast, is_bad, is_number, plain_numbers
from retl.model.errors import ConfigError
from retl.model.schema import field, is_bytes, is_json, is_text, value_type

_WORDS: dict[str, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
_DECIMAL_WORD = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_INTEGER_DIGITS = 20
"""Digits before the point that an inferred decimal has room for: those of any 64-bit integer."""
_MIXED_SCALE = 18
"""Digits after the point where a sample shows fractions of several lengths."""
_UNITS = ("s", "ms", "us", "ns")

_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"
_SCIENTIFIC = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"
_CLOCK_SIGN = re.compile(r"%[HIMSTRcX]")
_TIME_OF_DAY = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"


def given_type(column: str, written: str) -> pa.Field:
    """The column that a user's word means. Raises ``ConfigError`` for an unknown one."""
    if written == "json":
        return field(column, pa.string(), json=True)
    known = _WORDS.get(written)
    digits = _DECIMAL_WORD.fullmatch(written)
    if digits:
        known = decimal_type(int(digits[1]), int(digits[2]))
    if known is None:
        raise ConfigError(
            f"unknown type {written!r} of column {column!r}.",
            remedy=f"there are {', '.join(_WORDS)}, decimal(12,2), json.",
        )
    return pa.field(column, known)


def decimal_type(precision: int, scale: int) -> pa.DataType | None:
    """The decimal with so many digits, so many of them after the point; ``None`` where Arrow has none."""
    if not 0 <= scale <= precision or not 1 <= precision <= 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def inferred(text: pa.Array, style: TextStyle = PLAIN) -> pa.DataType:
    """The narrowest type that holds each value of a sample exactly; ``null`` where there is no value."""
    known = text.drop_null()
    if not len(known):
        return pa.null()
    numbers = known if style.is_plain else plain_numbers(known, style)
    if _all(numbers, _SCIENTIFIC):
        return _number_type(numbers)
    if style.patterns and not is_bad(cast(known, pa.timestamp("us"), style)[1]):
        return _pattern_type(known, style)
    if _all(known, _TRUTH):
        return pa.bool_()
    return next((kind for kind, fits in _TIMES if fits(known)), pa.string())


def _number_type(known: pa.Array) -> pa.DataType:
    if _all(known, _INTEGER):
        return _integer_type(known)
    if _all(known, _NUMBER):
        return _fraction_type(known)
    # What is written as 1e-7 is a double, unless a double would not keep its digits.
    return pa.string() if is_bad(cast(known, pa.float64())[1]) else pa.float64()


def _pattern_type(known: pa.Array, style: TextStyle) -> pa.DataType:
    if any(_CLOCK_SIGN.search(pattern) for pattern in style.patterns):
        return pa.timestamp("us")
    return pa.timestamp("us") if is_bad(cast(known, pa.date32(), style)[1]) else pa.date32()


def _integer_type(known: pa.Array) -> pa.DataType:
    try:
        known.cast(pa.int64())
    except pa.ArrowInvalid:
        longest = pc.max(pc.utf8_length(pc.utf8_ltrim(known, "-"))).as_py()
        return decimal_type(38 if longest <= 38 else longest, 0) or pa.string()
    return pa.int64()


def _fraction_type(known: pa.Array) -> pa.DataType:
    if _any(known, r"^-0(\.0*)?$"):
        return pa.string()
    point = pc.find_substring(known, ".")
    length = pc.binary_length(known)
    whole = pc.max(pc.if_else(pc.less(point, 0), length, point)).as_py()
    scales = pc.if_else(pc.less(point, 0), 0, pc.subtract(pc.subtract(length, point), 1))
    longest = pc.max(scales).as_py()
    alike = pc.all(pc.is_in(scales, pa.array([0, longest], scales.type))).as_py()
    scale = longest if alike else max(longest, _MIXED_SCALE)
    return decimal_type(max(whole, _INTEGER_DIGITS) + scale, scale) or pa.string()


def _casts_to(kind: pa.DataType, pattern: str) -> Callable[[pa.Array], bool]:
    def fits(known: pa.Array) -> bool:
        if not _all(known, pattern):
            return False
        try:
            known.cast(kind)
        except pa.ArrowInvalid:
            return False
        return True

    return fits


_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,%d})?)?"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_TIMES: list[tuple[pa.DataType, Callable[[pa.Array], bool]]] = [
    (pa.date32(), _casts_to(pa.date32(), f"^{_DAY}$")),
    *(
        (pa.timestamp(unit, zone), _casts_to(pa.timestamp(unit, zone), f"^{_DAY}{_CLOCK % digits}{suffix}$"))
        for unit, digits in (("us", 6), ("ns", 9))
        for zone, suffix in ((None, ""), ("UTC", _ZONE))
    ),
    (pa.time64("us"), lambda known: _all(known, f"^{_TIME_OF_DAY}$")),
]


def _all(known: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(known, pattern)).as_py())


def _any(known: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(known, pattern)).as_py())


def merged(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all files, in the order in which they appear, each of a type that holds what each file has.

    Integers widen to decimals, dates to timestamps, and what has nothing in common to text. A column without a value
    in any file is text. The order of the files does not change a type.
    """
    columns: dict[str, pa.Field] = {}
    for schema in schemas:
        for column in schema:
            known = columns.get(column.name)
            columns[column.name] = column if known is None else _wider(known, column)
    return pa.schema([field(name, pa.string()) if pa.types.is_null(c.type) else c for name, c in columns.items()])


def _wider(one: pa.Field, other: pa.Field) -> pa.Field:
    if one.equals(other, check_metadata=True) or pa.types.is_null(other.type):
        return one
    if pa.types.is_null(one.type):
        return other
    if is_json(one) or is_json(other):
        return field(one.name, pa.string(), json=is_json(one) and is_json(other))
    return pa.field(one.name, _common(value_type(one.type), value_type(other.type)))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    for rule in (_common_number, _common_time, _common_bytes):
        found = rule(one, other)
        if found is not None:
            return found
    return pa.string()


def _common_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not (is_number(one) and is_number(other)):
        return None
    if pa.types.is_floating(one) or pa.types.is_floating(other):
        return pa.float64()
    if pa.types.is_integer(one) and pa.types.is_integer(other) and pa.uint64() not in (one, other):
        return pa.int64()
    sizes = [_digits(one), _digits(other)]
    scale = max(after for _, after in sizes)
    return decimal_type(max(before for before, _ in sizes) + scale, scale) or pa.string()


def _digits(kind: pa.DataType) -> tuple[int, int]:
    """Digits before and after the point."""
    if pa.types.is_decimal(kind):
        return kind.precision - kind.scale, max(kind.scale, 0)
    return 20 if kind == pa.uint64() else 19, 0


def _common_time(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_time(one) and pa.types.is_time(other):
        return pa.time64("ns" if "ns" in (one.unit, other.unit) else "us")
    kinds = [kind for kind in (one, other) if pa.types.is_timestamp(kind)]
    if not kinds or not all(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in (one, other)):
        return None
    zoned = {kind.tz is not None if pa.types.is_timestamp(kind) else False for kind in (one, other)}
    unit = max((kind.unit for kind in kinds), key=_UNITS.index)
    return pa.timestamp(unit, "UTC" if True in zoned else None) if len(zoned) == 1 else None


def _common_bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not all(is_text(kind) or is_bytes(kind) for kind in (one, other)):
        return None
    return pa.string() if is_text(one) and is_text(other) else pa.binary()
