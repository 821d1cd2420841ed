"""Lengths of time: what is read, what is refused, what people see."""

from __future__ import annotations

from datetime import timedelta

import pytest

from retl.model.duration import Duration, format_duration, parse_duration
from retl.model.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "length"),
    [
        (0, timedelta()),
        (300, timedelta(minutes=5)),
        (0.25, timedelta(milliseconds=250)),
        ("7us", timedelta(microseconds=7)),
        ("250ms", timedelta(milliseconds=250)),
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        (" 1h 30m ", timedelta(hours=1, minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1w", timedelta(days=7)),
        ("1.000001s", timedelta(seconds=1, microseconds=1)),
        (timedelta(seconds=3), timedelta(seconds=3)),
    ],
)
def test_a_duration_is_read(written: Duration, length: timedelta) -> None:
    assert parse_duration(written) == length


@pytest.mark.parametrize(
    "written",
    ["", "5", "m", "5 minutes", "-5m", "5m-", "1,5h", "5mm", True, float("nan"), float("inf"), 10**400, "9999999999w"],
)
def test_what_is_no_duration_is_refused_with_an_example(written: Duration) -> None:
    with pytest.raises(ConfigError, match=r"^interval is .* What to do: write seconds") as caught:
        parse_duration(written, what="interval")
    assert repr(written) in str(caught.value)


@pytest.mark.parametrize("written", [-1, -0.5, timedelta(seconds=-1)])
def test_a_negative_duration_is_refused(written: Duration) -> None:
    with pytest.raises(ConfigError, match="cannot be negative"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (0.9994, "999ms"),
        (0.9996, "1s"),
        (5, "5s"),
        (5.25, "5.2s"),
        (59.94, "59.9s"),
        (59.96, "1m"),
        (60, "1m"),
        (90, "1m 30s"),
        (3599.7, "1h"),
        (5400, "1h 30m"),
        (86_399, "23h 59m"),
        (90_000, "1d 1h"),
        (-90, "-1m 30s"),
        (timedelta(days=2), "2d"),
    ],
)
def test_a_duration_is_shown(length: timedelta | float, text: str) -> None:
    assert format_duration(length) == text


@pytest.mark.parametrize("text", ["250ms", "5s", "1m", "1h", "2d"])
def test_what_is_shown_can_be_read_again(text: str) -> None:
    assert format_duration(parse_duration(text)) == text
