"""Canonical text: what it cannot show is named, and a time with a zone is in UTC."""

from __future__ import annotations

import pyarrow as pa

from retl.connectors.rows.text import to_text, unprintable_times


def test_a_time_with_a_zone_is_written_in_utc_whatever_the_zone() -> None:
    moments = pa.array([0, 10**15 + 1, None], pa.timestamp("us", "Asia/Kolkata"))
    assert to_text(moments).to_pylist() == ["1970-01-01 00:00:00.000000Z", "2001-09-09 01:46:40.000001Z", None]


def test_what_is_no_time_of_day_cannot_be_shown() -> None:
    for kind, day in ((pa.time32("s"), 86_400), (pa.time32("ms"), 86_400_000), (pa.time64("ns"), 86_400 * 10**9)):
        numbers = pa.array([0, day - 1, day, -1, None], pa.int32() if kind.bit_width == 32 else pa.int64())
        bad = unprintable_times(numbers.view(kind))
        assert bad is not None
        assert bad.to_pylist() == [False, False, True, True, None]
        assert unprintable_times(numbers.slice(0, 2).view(kind)) is None
