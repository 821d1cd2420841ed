"""Lengths of time as people write them: seconds as a number, or ``"5m"``, ``"1h30m"``, ``"250ms"``."""

from __future__ import annotations

import re
from datetime import timedelta

from retl.model.errors import ConfigError

Duration = float | int | str | timedelta

_UNIT_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)")


def parse_duration(value: Duration, *, what: str = "duration") -> timedelta:
    """Read a duration; a bare number is seconds.

    Raises ``ConfigError`` for anything else, and for a negative length.
    """
    if isinstance(value, timedelta):
        result = value
    elif isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"{what} is {value!r}, which is not a length of time.", remedy=_HOW)
    elif isinstance(value, int | float):
        if not abs(value) < 1e11:  # also refuses nan
            raise ConfigError(f"{what} is {value!r}, which is not a usable length of time.", remedy=_HOW)
        result = timedelta(seconds=value)
    else:
        text = value.strip()
        parts = _PART.findall(text)
        if not parts or _PART.sub("", text).strip():
            raise ConfigError(f"{what} is {value!r}, which is not a length of time.", remedy=_HOW)
        try:
            result = sum(
                (timedelta(microseconds=float(number) * _UNIT_MICROSECONDS[unit]) for number, unit in parts),
                timedelta(),
            )
        except OverflowError:
            raise ConfigError(f"{what} is {value!r}, which is longer than can be represented.", remedy=_HOW) from None
    if result < timedelta():
        raise ConfigError(f"{what} is {value!r}, but a length of time cannot be negative.", remedy=_HOW)
    return result


_HOW = 'write seconds as a number, or a text such as "250ms", "30s", "5m", "1h30m" or "2d".'


def format_duration(value: timedelta | float) -> str:
    """A short text for people: ``"250ms"``, ``"5s"``, ``"1h 30m"``."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{round(seconds * 1000)}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    for size, big, small, unit in ((86_400, "d", "h", 3_600), (3_600, "h", "m", 60), (60, "m", "s", 1)):
        if whole >= size:
            rest = whole % size // unit
            return f"{whole // size}{big}" + (f" {rest}{small}" if rest else "")
    return f"{whole}s"
