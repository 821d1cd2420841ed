"""Arithmetic on cursor values that never loses a digit.

A cursor value travels as text, as its source wrote it: it is never rounded and never
becomes a float. Where a value must be moved (``lookback``) or compared (``settle``) it
is taken apart into whole nanoseconds and put together again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Literal

import pyarrow as pa

from retl.model.errors import ConfigError, SourceError
from retl.model.schema import is_text

CursorFamily = Literal["time", "date", "integer", "decimal", "text"]

_NANOS = 1_000_000_000
_TIME = re.compile(
    r"(?P<day>\d{4,6}-\d\d-\d\d)(?P<sep>[ T])(?P<clock>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,9}))?(?P<zone>Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EXACT = Context(prec=200_000)  # more digits than the NUMERIC of any system has
_EPOCH_DAY = date(1970, 1, 1)


def cursor_family(type: pa.DataType) -> CursorFamily | None:
    """What kind of order a column of this type has; ``None`` if it cannot be a cursor."""
    if pa.types.is_timestamp(type):
        return "time"
    if pa.types.is_date(type):
        return "date"
    if pa.types.is_integer(type):
        return "integer"
    if pa.types.is_decimal(type):
        return "decimal"
    if is_text(type):
        return "text"
    return None


@dataclass(frozen=True, slots=True)
class _Instant:
    """A point in time as whole nanoseconds, and how its text was written."""

    nanos: int
    separator: str
    digits: int
    zone: str

    @classmethod
    def parse(cls, text: str) -> _Instant:
        found = _TIME.fullmatch(text.strip())
        if found is None:
            raise SourceError(f"the cursor value {text!r} is not a time that retl can read.")
        day = _day(found["day"])
        hours, minutes, seconds = (int(part) for part in found["clock"].split(":"))
        fraction = found["fraction"] or ""
        whole = (day - _EPOCH_DAY).days * 86_400 + hours * 3_600 + minutes * 60 + seconds - _offset(found["zone"] or "")
        return cls(whole * _NANOS + int(fraction.ljust(9, "0") or 0), found["sep"], len(fraction), found["zone"] or "")

    def format(self) -> str:
        seconds, nanos = divmod(self.nanos + _offset(self.zone) * _NANOS, _NANOS)
        days, clock = divmod(seconds, 86_400)
        try:
            day = _EPOCH_DAY + timedelta(days=days)
        except OverflowError:
            # The first and the last moment that can be written.
            day, clock, nanos = (date.min, 0, 0) if days < 0 else (date.max, 86_399, _NANOS - 1)
        fraction = f"{nanos:09d}".rstrip("0").ljust(self.digits, "0")
        point = f".{fraction}" if fraction else ""
        return f"{day.isoformat()}{self.separator}{clock // 3600:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}{point}{self.zone}"


def _offset(zone: str) -> int:
    if zone in ("", "Z"):
        return 0
    digits = zone[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3_600 + int(digits[2:4]) * 60 + int(digits[4:])
    return -seconds if zone[0] == "-" else seconds


def _day(text: str) -> date:
    if _DAY.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise SourceError(
        f"the cursor value {text!r} is not a day of the years 1 to 9999.",
        remedy="filter such rows with where, or correct them at the source.",
    )


def _number(text: str, family: CursorFamily) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or (family == "integer" and number != number.to_integral_value(context=_EXACT)):
        raise SourceError(
            f"the cursor value {text!r} is not a {'whole ' if family == 'integer' else ''}number.",
            remedy="filter such rows with where, or correct them at the source.",
        )
    return number


def nanoseconds(length: timedelta) -> int:
    """A timedelta in whole nanoseconds."""
    return (length.days * 86_400_000_000 + length.seconds * 1_000_000 + length.microseconds) * 1_000


def step_back(value: str, family: CursorFamily, distance: timedelta | int) -> str:
    """The cursor value that lies ``distance`` below; digits that it had, it keeps.

    For ``time`` a whole number is seconds; for ``integer`` and ``decimal`` it is units.
    A date moves by whole days, upwards rounded, so that the window is never narrower
    than asked for. Raises ``ConfigError`` where the two do not fit.
    """
    if not distance:
        return value
    if family in ("integer", "decimal"):
        if isinstance(distance, timedelta):
            raise ConfigError(
                "lookback is a length of time, but the cursor is a number.",
                remedy="write lookback as a whole number in the cursor's own unit, such as lookback = 3600.",
            )
        return format(_EXACT.subtract(_number(value, family), Decimal(distance)), "f")
    nanos = nanoseconds(distance) if isinstance(distance, timedelta) else distance * _NANOS
    if family == "date" or (family == "text" and _DAY.fullmatch(value)):
        day = _day(value)
        days = -(-nanos // (86_400 * _NANOS))
        return (day - timedelta(days=min(days, (day - date.min).days))).isoformat()
    if family == "text" and _TIME.fullmatch(value) is None:
        raise ConfigError(
            f"lookback needs a cursor of time, but {value!r} is text that does not look like one.",
            remedy="remove lookback or choose a column of time.",
        )
    instant = _Instant.parse(value)
    return _Instant(instant.nanos - nanos, instant.separator, instant.digits, instant.zone).format()


def settled(upper: str, now: str, family: CursorFamily, settle: timedelta) -> str:
    """The lower of ``upper`` and ``now - settle``, both of them the source's own.

    A date counts as settled when the whole day and ``settle`` have passed.
    """
    if family not in ("time", "date", "text"):
        raise ConfigError(
            "settle compares the cursor with the source's clock, but the cursor is a number.",
            remedy="remove settle or choose a column of time.",
        )
    clock = _Instant.parse(now)
    limit = _Instant(clock.nanos - nanoseconds(settle), " ", 0, clock.zone)
    if family == "date" or (family == "text" and _DAY.fullmatch(upper)):
        today = _day(limit.format()[:10])
        return min(_day(upper), max(today, date.min + timedelta(days=1)) - timedelta(days=1)).isoformat()
    top = _Instant.parse(upper)
    if top.nanos <= limit.nanos:
        return upper
    return _Instant(limit.nanos, top.separator, top.digits, top.zone).format()


def is_ahead(value: str, now: str, family: CursorFamily, tolerance: timedelta) -> bool:
    """Whether a cursor value lies further in the future than ``tolerance``, by the source's clock."""
    if family not in ("time", "date"):
        return False
    text = value if family == "time" else f"{value} 00:00:00"
    return _Instant.parse(text).nanos > _Instant.parse(now).nanos + nanoseconds(tolerance)


def family_of_text(value: str) -> CursorFamily | None:
    """What a watermark's own text looks like: a time, a day, or neither."""
    if _DAY.fullmatch(value):
        return "date"
    return "time" if _TIME.fullmatch(value) else None


def lag(watermark: str | None, highest: str | None, *, complete: bool = False) -> float | None:
    """How far a target is behind its source, in seconds: the highest cursor value that the source had when it was last
    planned, less the watermark.

    0.0 where the target has all of that, however long ago it was, as after a ``complete`` scan of a source that could not
    tell its highest value. No clock has a part in it: whether anybody has looked since is told by the last success.
    ``None`` where the cursor is not a time, or one of the two is not known.
    """
    mark = _moment(watermark)
    high = mark if complete and highest is None else _moment(highest)
    return None if mark is None or high is None else max(0, high - mark) / _NANOS


def _moment(value: str | None) -> int | None:
    """The nanoseconds of a cursor value; ``None`` if it is not a time."""
    family = None if value is None else family_of_text(value)
    try:
        return _Instant.parse(value if family == "time" else f"{value} 00:00:00").nanos if value and family else None
    except SourceError:
        return None


def compare(left: str, right: str, family: CursorFamily) -> int:
    """-1, 0 or 1 as ``left`` lies below, at or above ``right``; exact for every family."""
    if family == "time":
        a: Any = _Instant.parse(left).nanos
        b: Any = _Instant.parse(right).nanos
    elif family in ("integer", "decimal"):
        a, b = _number(left, family), _number(right, family)
    elif family == "date":
        a, b = _day(left), _day(right)
    else:
        a, b = left, right
    return int(a > b) - int(a < b)


def in_form_of(text: str, reference: str | None, family: CursorFamily, *, utc: bool = False) -> str:
    """A value that people gave, as the source writes ``reference``: a day becomes its first moment, a time gets zone and separator.

    A time without a zone is in that of the reference. ``utc``: a reference without a zone is in UTC; otherwise raises
    ``ConfigError`` for a time with a zone. Raises ``SourceError`` for what is no such value.
    """
    known = reference is not None and _TIME.fullmatch(reference) is not None
    if family == "date":
        return _day(text).isoformat()
    if family not in ("time", "text") or (family == "text" and not known):
        return text
    if _DAY.fullmatch(text):
        if family == "text":
            return text  # every moment of that day sorts behind it
        text += " 00:00:00"
    if family == "text" and _TIME.fullmatch(text) is None:
        return text
    given = _Instant.parse(text)
    form = _Instant.parse(reference) if known and reference is not None else given
    if given.zone and not form.zone and not utc:
        raise ConfigError(
            f"{text!r} has a time zone, and the cursor's values have none, such as {reference!r}.",
            remedy="write it without a zone, as the source writes its values.",
        )
    nanos = given.nanos - (0 if given.zone else _offset(form.zone) * _NANOS)
    return _Instant(nanos, form.separator, given.digits, form.zone).format()
