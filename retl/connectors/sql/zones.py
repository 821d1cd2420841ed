"""Time zones of sources whose times have none."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pyarrow as pa

from retl.model.errors import ConfigError

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
_LONGEST_SETTLE = timedelta(days=366)
"""Beyond a year, an hour more or less does not matter."""


def zone(name: str | None, system: str) -> tzinfo | None:
    """A time zone by its name, or by its offset from UTC as servers write it: ``+08:00``. Raises ``ConfigError`` otherwise."""
    if name is None:
        return None
    try:
        if found := _OFFSET.fullmatch(name):
            away = timedelta(hours=int(found[2]), minutes=int(found[3]))
            return timezone(away if found[1] == "+" else -away)
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ConfigError(
            f"unknown time zone {name!r}.",
            remedy="write a name such as Asia/Shanghai, or +08:00.",
            system=system,
        ) from None


def local_clock(now: str, cursor: pa.Field, zone: tzinfo | None, settle: timedelta) -> str:
    """A clock in UTC, in the zone in which a column without one was written. See ``SqlReader.clock``."""
    local = pa.types.is_date(cursor.type) or (pa.types.is_timestamp(cursor.type) and not cursor.type.tz)
    if zone is None or not local:
        return now
    settle = min(settle, _LONGEST_SETTLE)
    utc = datetime.fromisoformat(now).replace(tzinfo=UTC)
    shown, before = (moment.astimezone(zone).replace(tzinfo=None) for moment in (utc, utc - settle))
    return min(shown, before + settle).isoformat(" ")


def dst_shift(zone: tzinfo, year: int) -> timedelta:
    """How far a zone's clocks are put back within a year."""
    offsets = [datetime(year, month, 1, tzinfo=zone).utcoffset() or timedelta() for month in range(1, 13)]
    return max(offsets) - min(offsets)
