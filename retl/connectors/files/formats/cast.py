"""Columns into the types of a table: exactly, or the value is named as one that does not fit. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.rows.text import to_text
from retl.model.schema import is_bytes, is_text, value_type

Mask: TypeAlias = npt.NDArray[np.bool_]
Convert: TypeAlias = Callable[[pa.Array], pa.Array]
"""Converts an array, or raises ``ArrowInvalid`` where any of its values does not fit."""

_LOOSE = r"^\+?(-?)0*([0-9])"
_ANYTHING = np.ones(256, dtype=bool)
_DIGITS = np.isin(np.arange(256), np.frombuffer(b"0123456789", np.uint8))
_LONG_NUMBER = r"[0-9.]{16}"


@dataclass(frozen=True)
class TextStyle:
    """How numbers and times are written in text."""

    loose: bool = False
    """Whether the user has said which type the column has: then ``007`` is an integer."""
    decimal: str = "."
    thousands: str = ""
    patterns: Sequence[str] = ()
    """Ways to write dates and times besides ISO 8601."""

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as Arrow reads them."""
        return self.decimal == "." and not self.thousands


PLAIN = TextStyle()
"""ISO dates, numbers with a point."""


def cast(array: pa.Array, kind: pa.DataType, style: TextStyle = PLAIN) -> tuple[pa.Array, Mask | None]:
    """The column in a type, NULL where a value does not fit, and which values those are; ``None`` if all fit.

    No value changes in silence: ``007`` is no integer, ``0.123`` no decimal of two digits.
    """
    if array.type == kind:
        return array, None
    return _attempt(array, kind, _converter(array.type, kind, style))


def _attempt(array: pa.Array, kind: pa.DataType, convert: Convert) -> tuple[pa.Array, Mask | None]:
    try:
        return convert(array), None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError):
        pass
    bad = np.zeros(len(array), dtype=bool)
    return _in_halves(array, kind, convert, bad), bad


def _in_halves(array: pa.Array, kind: pa.DataType, convert: Convert, bad: Mask) -> pa.Array:
    """Converts what fits, in ever smaller pieces around what does not."""
    if len(array) == 1:
        bad[0] = True
        return pa.nulls(1, kind)
    middle = len(array) // 2
    pieces = []
    for part, of_bad in ((array[:middle], bad[:middle]), (array[middle:], bad[middle:])):
        try:
            pieces.append(convert(part))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError):
            pieces.append(_in_halves(part, kind, convert, of_bad))
    return pa.concat_arrays(pieces)


def _converter(given: pa.DataType, kind: pa.DataType, style: TextStyle) -> Convert:
    if pa.types.is_dictionary(given):
        inner = _converter(given.value_type, kind, style)
        return lambda array: inner(array.dictionary_decode())
    if is_text(given):
        return _from_text(kind, style)
    if is_text(kind):
        return lambda array: _checked_text(to_text(array))
    if is_bytes(given) and not is_bytes(kind):
        from_text = _from_text(kind, style)
        return lambda array: from_text(array.cast(pa.string()))
    if pa.types.is_floating(kind) and not pa.types.is_floating(given):
        return lambda array: _doubles(to_text(array), loose=False).cast(kind)
    if isinstance(given, pa.BaseExtensionType):
        return lambda array: array.storage.cast(kind)
    return lambda array: array.cast(kind)


def _checked_text(array: pa.Array) -> pa.Array:
    """Bytes that are to be text must be UTF-8."""
    return array.cast(pa.string())


def _from_text(kind: pa.DataType, style: TextStyle) -> Convert:
    kind = value_type(kind)
    if is_number(kind):
        to_number = _to_number(kind, style.loose)
        return to_number if style.is_plain else lambda array: to_number(plain_numbers(array, style))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return lambda array: _times(array, kind, style.patterns)
    if pa.types.is_time(kind):
        return lambda array: _times_of_day(array, kind)
    return lambda array: array.cast(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a type's values are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind))


def _to_number(kind: pa.DataType, loose: bool) -> Convert:
    if pa.types.is_integer(kind):
        return lambda array: _integers(array, kind, loose)
    if pa.types.is_decimal(kind):
        return lambda array: _decimals(array, kind, loose)
    return lambda array: _doubles(array, loose).cast(kind)


def plain_numbers(array: pa.Array, style: TextStyle) -> pa.Array:
    """Numbers in the style of some country with a point and without groups; what is no number in that style is no longer one."""
    groups = f"[0-9]{{1,3}}({re.escape(style.thousands)}[0-9]{{3}})+|" if style.thousands else ""
    pattern = f"^[+-]?({groups}[0-9]+)({re.escape(style.decimal)}[0-9]+)?([eE][+-]?[0-9]+)?$"
    plain = pc.replace_substring(array, style.thousands, "") if style.thousands else array
    plain = pc.replace_substring(plain, style.decimal, ".")
    return pc.if_else(pc.match_substring_regex(array, pattern), plain, "?")


def _refuse(wrong: pa.Array | Mask) -> None:
    """Raises where any value is wrong: the caller then looks for it."""
    if wrong.any() if isinstance(wrong, np.ndarray) else pc.any(wrong).as_py():
        raise pa.ArrowInvalid("a value does not fit")


def _integers(array: pa.Array, kind: pa.DataType, loose: bool) -> pa.Array:
    if loose:
        _refuse(pc.match_substring_regex(array, "[xX]"))
        return pc.replace_substring_regex(array, _LOOSE, r"\1\2").cast(kind)
    numbers = array.cast(kind)
    # Arrow reads 007, -0 and 0x1A too: all that no number is written as begins with a zero.
    _refuse(_zero_before(array, _ANYTHING))
    return numbers


def _decimals(array: pa.Array, kind: pa.DataType, loose: bool) -> pa.Array:
    if not loose:
        _refuse(_zero_before(array, _DIGITS))
    # Arrow rounds nothing here: it raises where a digit would be lost.
    return array.cast(kind)


def _doubles(array: pa.Array, loose: bool) -> pa.Array:
    numbers = array.cast(pa.float64())
    _refuse(pc.invert(pc.is_finite(numbers)))
    if not loose:
        _refuse(_zero_before(array, _DIGITS))
        _refuse(inexact(array, numbers))
    return numbers


def _zero_before(array: pa.Array, following: npt.NDArray[np.bool_]) -> Mask:
    """Which texts begin with a zero, or with ``-0``, before one of some bytes; ``-0`` alone is one of them, if ``0`` is."""
    text, offsets = _bytes_of(array)
    starts, lengths = offsets[:-1], np.diff(offsets)
    first = text[starts]
    negative = (first == ord("-")) & (lengths > 1)
    at_zero = starts + negative
    zero = (text[at_zero] == ord("0")) & (lengths > negative)
    longer = (lengths > negative + 1) & following[text[at_zero + 1]]
    found: Mask = zero & (longer | (negative & (lengths == 2) & following[0]))
    return found


def _bytes_of(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a text column with two to spare, and where each value begins; NULLs have none."""
    array = array.cast(pa.string()) if not pa.types.is_string(array.type) else array
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return np.concatenate([data, np.zeros(2, np.uint8)]), offsets - offsets[0]


def inexact(text: pa.Array, numbers: pa.Array) -> pa.Array:
    """Which texts have digits that their doubles do not keep. Up to 15 digits are always kept."""
    long = pc.match_substring_regex(text, _LONG_NUMBER)
    if not pc.any(long).as_py():
        return pa.array([], pa.bool_())
    return pa.array(
        [
            bool(is_long) and Decimal(written) != Decimal(repr(number))
            for is_long, written, number in zip(long.to_pylist(), text.to_pylist(), numbers.to_pylist(), strict=True)
        ]
    )


def _times(array: pa.Array, kind: pa.DataType, patterns: Sequence[str]) -> pa.Array:
    if not patterns:
        return array.cast(kind)
    unit = kind.unit if pa.types.is_timestamp(kind) else "s"
    found = _by_patterns(array, unit, patterns)
    rest = array.filter(pc.and_(found.is_null(), array.is_valid()))
    if len(rest):
        plain = rest.cast(kind).cast(found.type)
        found = pc.replace_with_mask(found, pc.and_(found.is_null(), array.is_valid()), plain)
    return found.cast(pa.timestamp(unit, kind.tz)).cast(kind) if pa.types.is_timestamp(kind) else found.cast(kind)


def _by_patterns(array: pa.Array, unit: str, patterns: Sequence[str]) -> pa.Array:
    """Each value by the first pattern that it is written in, NULL where none is."""
    found = pa.nulls(len(array), pa.timestamp(unit))
    for pattern in patterns:
        times = pc.strptime(array, format=pattern, unit=unit, error_is_null=True)
        found = pc.coalesce(found, _real_days(array, times, pattern))
    return found


def _real_days(array: pa.Array, times: pa.Array, pattern: str) -> pa.Array:
    """Without the days that no calendar has: strptime takes the 31st of February for the 2nd of March."""
    again = pc.strftime(times, format=pattern)
    # Both without the zeros before a number, which people write or leave out.
    same = pc.equal(
        *(
            pc.replace_substring_regex(text, r"\b0([0-9])\b", r"\1")
            for text in (_without_fraction(again, pattern), array)
        )
    )
    return pc.if_else(same, times, None)


def _without_fraction(text: pa.Array, pattern: str) -> pa.Array:
    """Arrow's strftime writes a fraction after the seconds, which its strptime does not read."""
    return (
        pc.replace_substring_regex(text, r"(:[0-9]{2})\.[0-9]+", r"\1") if "%S" in pattern or "%T" in pattern else text
    )


def _times_of_day(array: pa.Array, kind: pa.DataType) -> pa.Array:
    stamps = pc.binary_join_element_wise("1970-01-01 ", array, "").cast(pa.timestamp(kind.unit))
    return stamps.cast(kind)


def is_bad(mask: Mask | None) -> bool:
    """Whether a mask names any value."""
    return mask is not None and bool(mask.any())


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
