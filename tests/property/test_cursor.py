"""Arithmetic on cursor values against an oracle of its own: Python's calendar and whole numbers."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from retl.model.cursor import CursorFamily, compare, cursor_family, is_ahead, lag, nanoseconds, settled, step_back
from retl.model.errors import ConfigError, SourceError

NANOS = 1_000_000_000
FIRST = datetime.fromisoformat("0001-01-01")


class Written(NamedTuple):
    """A time as a source writes it, kept in pieces: the oracle never reads the text."""

    clock: datetime
    fraction: str
    separator: str
    zone: str
    offset: int

    @property
    def text(self) -> str:
        point = f".{self.fraction}" if self.fraction else ""
        return self.clock.isoformat(self.separator, "seconds") + point + self.zone

    @property
    def local(self) -> int:
        """Nanoseconds since the first moment of the calendar, by the clock on the wall."""
        gone = self.clock - FIRST
        return (gone.days * 86_400 + gone.seconds) * NANOS + int(self.fraction.ljust(9, "0"))

    @property
    def nanos(self) -> int:
        return self.local - self.offset * NANOS


ZONES = {"": 0, "Z": 0, "+00": 0, "-00:00": 0, "+08": 28_800, "-0330": -12_600, "+05:45": 20_700, "-00:30": -1_800}
ZONES |= {"+14:00": 50_400, "-12:00": -43_200, "+00:53:28": 3_208}

zones = st.sampled_from(sorted(ZONES.items()))
fractions = st.integers(0, 9).flatmap(lambda digits: st.text("0123456789", min_size=digits, max_size=digits))
clocks = st.datetimes().map(lambda moment: moment.replace(microsecond=0))
times = st.builds(
    lambda clock, fraction, separator, zone: Written(clock, fraction, separator, *zone),
    clocks,
    fractions,
    st.sampled_from(" T"),
    zones,
)
lengths = st.one_of(
    st.timedeltas(timedelta(), timedelta(days=400)),
    st.timedeltas(timedelta(), timedelta(days=1_000_000)),
    st.just(timedelta(microseconds=1)),
)
SHAPE = re.compile(r"(\d{4}-\d\d-\d\d)([ T])(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(\D.*)?")


def read(text: str) -> Written:
    """Read by other means than retl does: the zone by table, the rest by ``datetime``."""
    found = SHAPE.fullmatch(text)
    assert found is not None, text
    zone = found[5] or ""
    return Written(datetime.fromisoformat(f"{found[1]} {found[3]}"), found[4] or "", found[2], zone, ZONES[zone])


def micros(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


# Stepping back --------------------------------------------------------------


@given(times, lengths)
@example(read("0001-01-01 00:00:05"), timedelta(seconds=10))
@example(read("0001-01-01T00:00:00.5+14:00"), timedelta(days=999_999))
@example(read("2024-03-01 00:00:00.000000001"), timedelta(microseconds=1))
@example(read("1969-12-31 23:59:59.999999999Z"), timedelta(microseconds=999_999))
def test_a_time_steps_back_by_exactly_the_distance(time: Written, length: timedelta) -> None:
    moved = read(step_back(time.text, "time", length))
    assert moved.local == max(0, time.local - micros(length) * 1000)
    assert (moved.zone, moved.separator) == (time.zone, time.separator)
    assert len(moved.fraction) >= len(time.fraction)
    assert len(moved.fraction) <= max(len(time.fraction), 6)
    assert compare(moved.text, time.text, "time") <= 0


@given(times, st.integers(0, 10**9))
def test_a_time_comes_back_with_every_digit_that_it_had(time: Written, seconds: int) -> None:
    try:
        later = time._replace(clock=time.clock + timedelta(seconds=seconds))
    except OverflowError:
        assume(False)
    assert step_back(later.text, "time", seconds) == time.text
    assert step_back(later.text, "time", timedelta(seconds=seconds)) == time.text
    assert step_back(later.text, "text", seconds) == time.text


@given(times)
def test_no_distance_changes_nothing(time: Written) -> None:
    for distance in (0, timedelta()):
        assert step_back(time.text, "time", distance) == time.text


@given(times, lengths)
def test_text_that_looks_like_a_time_steps_back_like_one_and_sorts_below(time: Written, length: timedelta) -> None:
    moved = step_back(time.text, "text", length)
    assert moved == step_back(time.text, "time", length)
    if not time.zone:
        assert moved <= time.text


def test_a_lookback_longer_than_the_calendar_ends_at_its_first_moment() -> None:
    assert step_back("2024-01-01 00:00:00.120", "time", 10**30) == "0001-01-01 00:00:00.000"
    assert step_back("2024-01-01", "date", 10**30) == "0001-01-01"


@given(st.dates(), lengths)
def test_a_date_steps_back_by_whole_days_rounded_up(day: date, length: timedelta) -> None:
    days = -(-micros(length) // 86_400_000_000)
    wanted = date.fromordinal(max(1, day.toordinal() - days))
    assert step_back(day.isoformat(), "date", length) == wanted.isoformat()
    assert step_back(day.isoformat(), "text", length) == wanted.isoformat()


@given(st.integers(-(10**40), 10**40), st.integers(0, 10**20))
def test_a_whole_number_steps_back_exactly(number: int, distance: int) -> None:
    assert step_back(str(number), "integer", distance) == str(number - distance)


@given(st.integers(-(10**76), 10**76), st.integers(0, 38), st.integers(1, 10**12))
@example(12345678901234567890123456789012345678, 10, 1)
def test_a_decimal_steps_back_exactly_and_keeps_its_scale(unscaled: int, scale: int, distance: int) -> None:
    value = f"{'-' if unscaled < 0 else ''}{abs(unscaled) // 10**scale}"
    if scale:
        value += f".{abs(unscaled) % 10**scale:0{scale}d}"
    moved = step_back(value, "decimal", distance)
    assert Fraction(moved) == Fraction(unscaled, 10**scale) - distance
    assert len(moved.partition(".")[2]) == scale
    assert "E" not in moved.upper()


@pytest.mark.parametrize(
    ("value", "family", "distance", "kind", "message"),
    [
        ("5", "integer", timedelta(seconds=1), ConfigError, "the cursor is a number"),
        ("5.0", "decimal", timedelta(seconds=1), ConfigError, "the cursor is a number"),
        ("abc", "text", timedelta(seconds=1), ConfigError, "lookback needs a cursor of time"),
        ("abc", "integer", 1, SourceError, "'abc' is not a whole number"),
        ("1.5", "integer", 1, SourceError, "'1.5' is not a whole number"),
        ("NaN", "decimal", 1, SourceError, "'NaN' is not a number"),
        ("Infinity", "decimal", 1, SourceError, "'Infinity' is not a number"),
        ("10000-01-01", "date", 1, SourceError, "not a day of the years 1 to 9999"),
        ("0000-00-00", "date", 1, SourceError, "not a day of the years 1 to 9999"),
        ("2024-02-30", "date", 1, SourceError, "not a day of the years 1 to 9999"),
        ("2024-02-30", "text", 1, SourceError, "not a day of the years 1 to 9999"),
        ("0000-00-00 00:00:00", "time", 1, SourceError, "not a day of the years 1 to 9999"),
        ("294276-12-31 23:59:59.999999", "time", 1, SourceError, "not a day of the years 1 to 9999"),
        ("infinity", "time", 1, SourceError, "not a time that retl can read"),
        ("0044-03-15 00:00:00 BC", "time", 1, SourceError, "not a time that retl can read"),
        ("2024-01-01 00:00:00.1234567890", "time", 1, SourceError, "not a time that retl can read"),
    ],
)
def test_what_cannot_be_moved_is_refused(
    value: str, family: CursorFamily, distance: timedelta | int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        step_back(value, family, distance)
    assert type(caught.value) is kind


# Order ----------------------------------------------------------------------


@given(times, times)
def test_times_compare_as_instants(left: Written, right: Written) -> None:
    wanted = (left.nanos > right.nanos) - (left.nanos < right.nanos)
    assert compare(left.text, right.text, "time") == wanted
    assert compare(right.text, left.text, "time") == -wanted
    assert compare(left.text, left.text, "time") == 0


@given(times, fractions, zones)
def test_the_same_instant_is_equal_however_it_is_written(time: Written, zeros: str, zone: tuple[str, int]) -> None:
    try:
        clock = time.clock + timedelta(seconds=zone[1] - time.offset)
    except OverflowError:
        assume(False)
    fraction = (time.fraction + "0" * len(zeros))[:9]
    other = Written(clock, fraction, "T", *zone)
    assert compare(time.text, other.text, "time") == 0


@given(times, st.integers(0, 8))
def test_a_single_digit_at_the_end_counts(time: Written, digits: int) -> None:
    below = time._replace(fraction=time.fraction[:digits].ljust(digits, "0"))
    above = below._replace(fraction=below.fraction + "1")
    assert compare(below.text, above.text, "time") == -1


numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(Decimal), st.decimals(allow_nan=False, allow_infinity=False, places=10)
)


@given(numbers, numbers)
def test_numbers_compare_by_value(left: Decimal, right: Decimal) -> None:
    a, b = Fraction(left), Fraction(right)
    assert compare(format(left, "f"), format(right, "f"), "decimal") == (a > b) - (a < b)


@given(st.integers(), st.integers())
def test_whole_numbers_compare_by_value(left: int, right: int) -> None:
    assert compare(str(left), str(right), "integer") == (left > right) - (left < right)


@given(st.dates(), st.dates())
def test_dates_compare_as_days(left: date, right: date) -> None:
    assert compare(left.isoformat(), right.isoformat(), "date") == (left > right) - (left < right)


@pytest.mark.parametrize(
    ("value", "family"),
    [("NaN", "decimal"), ("x", "integer"), ("10000-01-01", "date"), ("10000-01-01 00:00:00", "time"), ("", "time")],
)
def test_what_has_no_place_in_the_order_is_refused(value: str, family: CursorFamily) -> None:
    sound = {"decimal": "1.5", "integer": "1", "date": "2024-01-01", "time": "2024-01-01 00:00:00"}[family]
    for pair in ((value, sound), (sound, value)):
        with pytest.raises(SourceError):
            compare(*pair, family)


# Settling -------------------------------------------------------------------


@given(times, times, lengths)
@example(read("2024-01-01 10:00:00"), read("2024-01-01 10:00:03.123456"), timedelta(seconds=5))
@example(read("2024-01-01 10:00:00.123456789+08"), read("2024-01-01 02:00:00.1Z"), timedelta(microseconds=1))
def test_the_settled_bound_is_the_lower_of_the_two_and_exact(upper: Written, now: Written, length: timedelta) -> None:
    limit = now.nanos - micros(length) * 1000
    bound = read(settled(upper.text, now.text, "time", length))
    assert bound.nanos <= upper.nanos
    if limit >= upper.nanos:
        assert bound == upper
    else:
        assert bound.nanos == max(limit, -upper.offset * NANOS)
        assert (bound.zone, bound.separator) == (upper.zone, upper.separator)


@given(st.dates(date(1, 1, 3)), clocks, st.timedeltas(timedelta(), timedelta(days=400)))
@example(date(9999, 12, 31), datetime.fromisoformat("2024-01-03"), timedelta())
def test_a_date_is_settled_when_all_of_it_and_the_length_have_passed(
    upper: date, now: datetime, length: timedelta
) -> None:
    assume(now - FIRST > length + timedelta(days=2))
    bound = date.fromisoformat(settled(upper.isoformat(), now.isoformat(" "), "date", length))
    assert bound <= upper

    def passed(day: date) -> bool:
        midnight_after = datetime.combine(day, datetime.min.time()) - FIRST + timedelta(days=1)
        return midnight_after + length <= now - FIRST

    assert passed(bound)
    assert bound == upper or not passed(bound + timedelta(days=1))


def test_nothing_is_settled_before_the_calendar_begins() -> None:
    assert settled("2024-01-01", "2024-01-01 00:00:00", "date", timedelta(days=999_999)) == "0001-01-01"
    assert (
        settled("2024-01-01 00:00:00", "2024-01-01 00:00:00", "time", timedelta(days=999_999)) == "0001-01-01 00:00:00"
    )


@pytest.mark.parametrize("family", ["integer", "decimal"])
def test_a_number_does_not_settle(family: CursorFamily) -> None:
    with pytest.raises(ConfigError, match="the cursor is a number"):
        settled("5", "2024-01-01 00:00:00", family, timedelta(seconds=1))


def test_a_far_future_date_does_not_slip_past_the_clock() -> None:
    with pytest.raises(SourceError, match="not a day of the years 1 to 9999"):
        settled("10000-01-01", "2024-01-01 00:00:00", "date", timedelta(seconds=1))


# For people -----------------------------------------------------------------


@given(times, times, lengths)
def test_a_value_is_ahead_when_it_lies_beyond_the_tolerance(value: Written, now: Written, tolerance: timedelta) -> None:
    ahead = value.nanos > now.nanos + micros(tolerance) * 1000
    assert is_ahead(value.text, now.text, "time", tolerance) is ahead
    assert not is_ahead(value.text, now.text, "text", tolerance)


def test_a_date_is_ahead_from_its_midnight_on() -> None:
    now = "2024-01-01 23:00:00"
    assert not is_ahead("2024-01-02", now, "date", timedelta(hours=1))
    assert is_ahead("2024-01-02", now, "date", timedelta(minutes=59))


def test_lag_is_that_of_the_source_and_told_of_times_only() -> None:
    assert lag("2024-01-01 00:00:00.5", "2024-01-01 01:00:00") == 3599.5
    assert lag("2024-01-01T00:00:00+08:00", "2024-01-01T01:00:00Z") == 9 * 3600
    assert lag("2023-12-31", "2024-01-01 00:00:01") == 86_401
    assert lag("2024-01-01 00:00:00", "2023-12-31 00:00:00") == 0.0  # rows were deleted at the source
    assert lag("2024-01-01 00:00:00", "2024-01-01 00:00:00") == 0.0
    assert lag("2024-01-01", None) is lag(None, "2024-01-01") is lag("5", "9") is lag("2024-01-01", "9") is None
    assert lag("2024-01-01", None, complete=True) == 0.0
    assert lag("5", None, complete=True) is lag(None, None, complete=True) is None
    assert lag("294276-12-31 23:59:59", "294276-12-31 23:59:59") is None


@given(lengths)
def test_a_length_in_nanoseconds_is_whole(length: timedelta) -> None:
    assert nanoseconds(length) == micros(length) * 1000


@pytest.mark.parametrize(
    ("type", "family"),
    [
        (pa.timestamp("ns", tz="UTC"), "time"),
        (pa.timestamp("s"), "time"),
        (pa.date32(), "date"),
        (pa.date64(), "date"),
        (pa.uint64(), "integer"),
        (pa.int8(), "integer"),
        (pa.decimal128(38, 10), "decimal"),
        (pa.decimal256(76, 0), "decimal"),
        (pa.string(), "text"),
        (pa.large_string(), "text"),
        (pa.string_view(), "text"),
        (pa.float64(), None),
        (pa.binary(), None),
        (pa.bool_(), None),
        (pa.time64("us"), None),
    ],
)
def test_the_type_tells_the_order_and_a_float_has_none(type: pa.DataType, family: CursorFamily | None) -> None:
    assert cursor_family(type) == family
