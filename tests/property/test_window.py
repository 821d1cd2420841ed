"""Windows and slices: every row is read, none of them twice, and no interruption loses one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retl.model.actions import Write
from retl.model.cursor import CursorFamily, compare
from retl.model.errors import ConfigError, SourceError
from retl.model.range import CursorRange
from retl.model.table import TableSpec
from retl.model.window import Bounds, Position, Slice, Window, cut, lower_bound, make_window, range_window
from tests import tiers

NOW = "2024-01-01 12:00:00"


def spec(
    *, lookback: timedelta | int = 0, settle: timedelta | None = None, append: bool = False, slice_rows: int = 10
) -> TableSpec:
    write = Write.APPEND if append else Write.UPSERT
    return TableSpec("t", "t", cursor="c", lookback=lookback, settle=settle, write=write, slice_rows=slice_rows)


def whole(upper: int, lower: int | None = None, *, lower_exclusive: bool = False) -> Window:
    return Window("c", "integer", None if lower is None else str(lower), str(upper), lower_exclusive)


def holds(slice_: Slice, value: int) -> bool:
    """Whether a value lies in the slice's range, whatever part its row is in."""
    assert slice_.upper is not None
    above = (
        slice_.lower is None or value > int(slice_.lower) or (value == int(slice_.lower) and not slice_.lower_exclusive)
    )
    return above and value <= int(slice_.upper)


# The window -----------------------------------------------------------------


def bounds(low: int | None, high: int | None, now: str = NOW) -> Bounds:
    return Bounds(None if low is None else str(low), None if high is None else str(high), 0, now)


def test_the_window_is_closed_at_both_ends_for_an_upsert() -> None:
    assert make_window(spec(), "integer", "5", bounds(5, 9)) == Window("c", "integer", "5", "9", False, "5", "9")
    tied = make_window(spec(), "integer", "5", bounds(5, 5))
    assert tied == Window("c", "integer", "5", "5", False, "5", "5")


def test_the_window_of_an_append_is_open_below_and_empty_when_nothing_is_newer() -> None:
    appending = spec(append=True, settle=timedelta(seconds=10))
    earlier, later = "2024-01-01 11:00:00", "2024-01-01 11:30:00"
    window = make_window(appending, "time", earlier, Bounds(earlier, later, 0, NOW))
    assert window == Window("c", "time", earlier, later, True, earlier, None)
    assert make_window(appending, "time", earlier, Bounds(earlier, earlier, 0, NOW)) is None
    first = make_window(appending, "time", None, Bounds(earlier, later, 0, NOW))
    assert first == Window("c", "time", None, later, False, None, None)


def test_there_is_no_window_where_the_source_has_no_row() -> None:
    assert make_window(spec(), "integer", None, bounds(None, None)) is None
    assert make_window(spec(), "integer", "5", bounds(None, None)) is None
    assert make_window(spec(lookback=3), "integer", "5", bounds(None, None)) is None


def test_lookback_widens_the_window_and_the_next_one_will_begin_where_it_says() -> None:
    window = make_window(spec(lookback=3), "integer", "10", bounds(7, 20))
    assert window == Window("c", "integer", "7", "20", False, "10", "17")
    assert lower_bound(spec(lookback=3), "integer", "20") == window.reread_from
    assert lower_bound(spec(lookback=3), "integer", None) is None
    shrunk = make_window(spec(lookback=3), "integer", "10", bounds(7, 8))
    assert shrunk == Window("c", "integer", "7", "8", False, "10", "7")


def test_a_lookback_that_does_not_fit_the_cursor_is_refused_with_the_first_scan() -> None:
    with pytest.raises(ConfigError, match="the cursor is a number"):
        make_window(spec(lookback=timedelta(seconds=1)), "integer", None, bounds(1, 5))


def test_settle_lowers_the_upper_bound_by_the_sources_clock() -> None:
    low, high = "2024-01-01 11:00:00", "2024-01-01 11:59:58"
    settling = spec(settle=timedelta(seconds=5))
    window = make_window(settling, "time", None, Bounds(low, high, 0, NOW))
    assert window is not None
    assert (window.lower, window.upper) == (None, "2024-01-01 11:59:55")
    older = make_window(settling, "time", None, Bounds(low, "2024-01-01 11:59:55", 0, NOW))
    assert older is not None
    assert older.upper == "2024-01-01 11:59:55"


def test_there_is_no_window_where_nothing_has_settled() -> None:
    low, high = "2024-01-01 11:59:57", "2024-01-01 11:59:58"
    settling = spec(settle=timedelta(seconds=5))
    assert make_window(settling, "time", None, Bounds(low, high, 0, NOW)) is None
    assert make_window(settling, "time", "2024-01-01 11:59:56", Bounds(low, high, 0, NOW)) is None
    tied = make_window(settling, "time", "2024-01-01 11:59:55", Bounds("2024-01-01 11:59:55", high, 0, NOW))
    assert tied is not None
    assert (tied.lower, tied.upper, tied.lower_exclusive) == ("2024-01-01 11:59:55", "2024-01-01 11:59:55", False)
    appending = spec(append=True, settle=timedelta(seconds=5))
    assert make_window(appending, "time", "2024-01-01 11:59:55", Bounds(low, high, 0, NOW)) is None


def test_text_is_ordered_by_the_source_alone() -> None:
    """A collation that ignores case puts ``B`` above ``a``; Python does not."""
    window = make_window(spec(), "text", "a", Bounds("a", "B", 0, NOW))
    assert window == Window("c", "text", "a", "B", False, "a", "B")
    parts = cut(window, [("a", 4), ("b", 4)], 5)
    assert [(slice_.lower, slice_.upper, slice_.watermark) for slice_ in parts] == [
        ("a", "a", "a"),
        ("a", "b", "b"),
        ("b", "B", "B"),
    ]


def test_a_day_before_the_calendar_does_not_hinder_the_rows_above_it() -> None:
    zero = Bounds("0000-00-00 00:00:00", "2024-01-01 11:00:00", 0, NOW)
    window = make_window(spec(), "time", None, zero)
    assert window is not None
    assert (window.lower, window.upper) == (None, "2024-01-01 11:00:00")
    with pytest.raises(SourceError, match="0000-00-00"):
        make_window(spec(), "time", None, Bounds(None, "0000-00-00 00:00:00", 0, NOW))


# Cutting --------------------------------------------------------------------

values = st.dictionaries(
    st.integers(-30, 30), st.one_of(st.integers(1, 20), st.just(1_000_000)), min_size=1, max_size=12
)


@st.composite
def ranges(draw: st.DrawFn, rows: dict[int, int]) -> list[tuple[str, int]]:
    """The rows counted as a source may count them: by value, or in neighbouring ranges of any width."""
    counts: list[tuple[str, int]] = []
    total = 0
    for value in sorted(rows):
        total += rows[value]
        if draw(st.booleans()):
            counts.append((str(value), total))
            total = 0
    if total:
        counts.append((str(max(rows)), total))
    return counts


def check_chain(window: Window, slices: Sequence[Slice]) -> None:
    """No gap and no overlap, in ascending order, up to the bound."""
    assert [slice_.index for slice_ in slices] == list(range(len(slices)))
    groups = [
        list(group)
        for _, group in groupby(slices, key=lambda slice_: (slice_.lower, slice_.upper, slice_.lower_exclusive))
    ]
    lower, lower_exclusive = window.lower, window.lower_exclusive
    for group in groups:
        assert {(slice_.lower, slice_.lower_exclusive) for slice_ in group} == {(lower, lower_exclusive)}
        (parts,) = {slice_.modulus for slice_ in group}
        assert [slice_.remainder for slice_ in group] == list(range(group[0].remainder, parts))
        assert [slice_.watermark for slice_ in group[:-1]] == [None] * (len(group) - 1)
        assert group[-1].position is None
        upper = group[0].upper
        assert upper is not None
        for slice_ in group[:-1]:
            assert slice_.position == Position(lower, upper, parts, slice_.remainder + 1, window.reread_from)
        lower, lower_exclusive = upper, True
    assert lower == window.upper
    marks = [slice_.watermark for slice_ in slices if slice_.watermark is not None]
    assert all(compare(left, right, window.family) < 0 for left, right in pairwise(marks))


@given(values, st.integers(1, 50), st.data(), st.integers(0, 3))
def test_each_row_belongs_to_exactly_one_slice(
    rows: dict[int, int], slice_rows: int, data: st.DataObject, above: int
) -> None:
    upper = max(rows) + above
    window = whole(upper, data.draw(st.one_of(st.none(), st.just(min(rows)))))
    if max(rows.values()) == 1_000_000:
        slice_rows *= 1000
    slices = cut(window, data.draw(ranges(rows)), slice_rows)
    check_chain(window, slices)
    for value in rows:
        found = [(slice_.remainder, slice_.modulus) for slice_ in slices if holds(slice_, value)]
        assert found == [(number, found[0][1]) for number in range(found[0][1])]
    assert slices[-1].watermark == window.upper
    assert sum(slice_.rows or 0 for slice_ in slices) == sum(rows.values())
    assert all((slice_.rows or 0) <= slice_rows for slice_ in slices)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 30))
def test_ranges_are_joined_as_far_as_they_fit(counted: list[int], slice_rows: int) -> None:
    counts = [(str(number), rows) for number, rows in enumerate(counted)]
    slices = cut(whole(len(counted) - 1), counts, slice_rows)
    assert all(slice_.modulus == 1 for slice_ in slices)
    assert all((left.rows or 0) + counted[int(left.upper or 0) + 1] > slice_rows for left in slices[:-1])


def test_a_million_rows_of_one_value_become_parts_and_the_watermark_waits_for_the_last() -> None:
    slices = cut(whole(7), [("7", 1_000_000)], 30_000)
    assert len(slices) == 34
    assert {slice_.modulus for slice_ in slices} == {34}
    assert [slice_.remainder for slice_ in slices] == list(range(34))
    assert {slice_.rows for slice_ in slices} == {29_411, 29_412}
    assert [slice_.watermark for slice_ in slices] == [None] * 33 + ["7"]
    assert slices[4].position == Position(None, "7", 34, 5)


def test_the_bound_is_read_up_to_even_where_nothing_was_counted() -> None:
    (only,) = cut(whole(9, 4), [], 10)
    assert (only.lower, only.upper, only.lower_exclusive, only.rows, only.watermark) == ("4", "9", False, 0, "9")


def test_an_open_window_stays_open_below() -> None:
    first, second = cut(whole(9, 4, lower_exclusive=True), [("6", 10), ("9", 10)], 10)
    assert (first.lower, first.lower_exclusive, second.lower, second.lower_exclusive) == ("4", True, "6", True)


@pytest.mark.parametrize("slice_rows", [0, -1])
def test_a_slice_needs_a_row(slice_rows: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        cut(whole(9), [("9", 10)], slice_rows)


def test_no_slice_moves_the_watermark_back() -> None:
    """Lookback reads below the watermark; a scan that stops there must not be remembered as less than before."""
    window = make_window(spec(lookback=5), "integer", "10", bounds(5, 12))
    assert window is not None
    slices = cut(window, [(str(value), 10) for value in range(5, 13)], 10)
    assert [slice_.watermark for slice_ in slices] == [None] * 5 + ["10", "11", "12"]
    shrunk = make_window(spec(lookback=5), "integer", "10", bounds(5, 8))
    assert shrunk is not None
    assert [slice_.watermark for slice_ in cut(shrunk, [("8", 30)], 10)] == [None, None, None]


# Resuming -------------------------------------------------------------------


def test_a_group_is_carried_on_between_what_lies_below_and_above_it() -> None:
    position = Position("3", "7", 5, 2)
    slices = cut(whole(9, 3), [("4", 1), ("8", 40), ("9", 1)], 10, position)
    assert [
        (slice_.lower, slice_.lower_exclusive, slice_.upper, slice_.remainder, slice_.modulus) for slice_ in slices
    ] == [
        ("3", False, "3", 0, 1),  # rows that tie with the watermark may be new
        *[("3", True, "7", number, 5) for number in (2, 3, 4)],
        *[("7", True, "8", number, 4) for number in range(4)],
        ("8", True, "9", 0, 1),
    ]
    assert [slice_.watermark for slice_ in slices] == ["3", None, None, "7", None, None, None, "8", "9"]


def test_parts_that_another_hash_has_made_are_all_read_again() -> None:
    position = Position("3", "7", 5, 2, hashed="by id")
    counts = [("4", 1), ("8", 40), ("9", 1)]
    assert cut(whole(9, 3), counts, 10, position, "by id") == [
        msgspec.structs.replace(
            slice_, position=slice_.position and msgspec.structs.replace(slice_.position, hashed="by id")
        )
        for slice_ in cut(whole(9, 3), counts, 10, msgspec.structs.replace(position, hashed=""))
    ]
    assert cut(whole(9, 3), counts, 10, position, "by id, day") == cut(whole(9, 3), counts, 10, None, "by id, day")


def test_a_position_outside_the_window_is_of_no_use() -> None:
    for position in (Position("3", "20", 5, 2), Position("1", "3", 5, 2), Position(None, "2", 5, 2)):
        assert cut(whole(9, 3), [("9", 20)], 10, position) == cut(whole(9, 3), [("9", 20)], 10)


def test_a_group_at_the_upper_end_is_read_anew_once_the_window_has_moved_on() -> None:
    """The scan after an unbroken one would have read these rows again, for those that came late."""
    hot = Position("3", "7", 5, 2, "7")
    moved = Window("c", "integer", "3", "9", False, "3", "9")
    assert [slice_.remainder for slice_ in cut(moved, [("7", 50), ("9", 1)], 10, hot) if slice_.upper == "7"] == [
        0,
        1,
        2,
        3,
        4,
    ]
    still = Window("c", "integer", "3", "7", False, "3", "7")
    assert [slice_.remainder for slice_ in cut(still, [("7", 50)], 10, hot) if slice_.modulus == 5] == [2, 3, 4]
    cold = msgspec.structs.replace(hot, reread_from="8")
    assert [slice_.remainder for slice_ in cut(moved, [("7", 50), ("9", 1)], 10, cold) if slice_.modulus == 5] == [
        2,
        3,
        4,
    ]


EPOCH = datetime.fromisoformat("2024-01-01")


def at(second: int) -> str:
    return (EPOCH + timedelta(seconds=second)).isoformat(" ")


def second_of(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(seconds=1)


@dataclass
class World:
    """A source whose rows come, change and go, a target, and a scanner that may be broken off anywhere."""

    spec: TableSpec
    chance: Random
    rows: dict[int, int] = field(default_factory=dict)
    written: dict[int, list[int]] = field(default_factory=dict)
    born: int = 0
    now: int = 0
    highest: int = 0
    watermark: str | None = None
    position: Position | None = None
    family: CursorFamily = "time"

    @property
    def lowest_allowed(self) -> int:
        """Rows come later than their cursor says, but never later than lookback or settle allow for."""
        if self.spec.write is Write.APPEND:
            assert self.spec.settle is not None
            return self.now - self.spec.settle // timedelta(seconds=1) + 1
        assert isinstance(self.spec.lookback, int)
        return self.highest - self.spec.lookback

    def change(self) -> None:
        for _ in range(self.chance.randint(0, 3)):
            kind = self.chance.choice(["new", "tie", "burst", "update", "delete", "wait"])
            cursor = self.lowest_allowed + (0 if kind == "tie" else self.chance.randint(0, 6))
            if kind == "wait":
                self.now += self.chance.randint(1, 8)
            elif kind in ("update", "delete"):
                if self.rows and self.spec.write is Write.UPSERT:
                    row = self.chance.choice(sorted(self.rows))
                    del self.rows[row]
                    if kind == "update":
                        self.put(row, cursor)
            else:
                for _ in range(self.chance.randint(5, 12) if kind == "burst" else 1):
                    self.born += 1
                    self.put(self.born, cursor)

    def put(self, row: int, cursor: int) -> None:
        self.rows[row] = cursor
        self.highest = max(self.highest, cursor)

    def plan(self) -> list[Slice]:
        lower = lower_bound(self.spec, self.family, self.watermark)
        floor = -(10**9) if lower is None else second_of(lower)
        asked = [cursor for cursor in self.rows.values() if cursor >= floor]
        found = (
            Bounds(at(min(asked)), at(max(asked)), 0, at(self.now)) if asked else Bounds(None, None, 0, at(self.now))
        )
        window = make_window(self.spec, self.family, self.watermark, found)
        if window is None:
            return []
        low = -(10**9) if window.lower is None else second_of(window.lower) + window.lower_exclusive
        high = second_of(window.upper)
        counted = sorted(cursor for cursor in self.rows.values() if low <= cursor <= high)
        counts: list[tuple[str, int]] = []
        total = 0
        for cursor, group in groupby(counted):
            total += len(list(group))
            if self.chance.random() < 0.5 or cursor == counted[-1]:
                counts.append((at(cursor), total))
                total = 0
        slices = cut(window, counts, self.spec.slice_rows, self.position)
        check_chain_of_resumed(window, slices)
        return slices

    def read(self, slice_: Slice) -> list[tuple[int, int]]:
        assert slice_.upper is not None
        low = -(10**9) if slice_.lower is None else second_of(slice_.lower) + slice_.lower_exclusive
        high = second_of(slice_.upper)
        inside = [(row, cursor) for row, cursor in self.rows.items() if low <= cursor <= high]
        return [
            (row, cursor) for row, cursor in inside if (row * 2654435761) % 2**32 % slice_.modulus == slice_.remainder
        ]

    def scan(self, *, broken: bool) -> None:
        slices = self.plan()
        committed = self.chance.randint(0, len(slices)) if broken else len(slices)
        for slice_ in slices[:committed]:
            for row, cursor in self.read(slice_):
                self.written.setdefault(row, []).append(cursor)
            if slice_.watermark is not None:
                assert self.watermark is None or compare(slice_.watermark, self.watermark, self.family) >= 0
                self.watermark = slice_.watermark
            self.position = slice_.position
            if broken and self.chance.random() < 0.3:
                self.change()
        if committed == len(slices):
            self.position = None


def check_chain_of_resumed(window: Window, slices: Sequence[Slice]) -> None:
    assert slices
    bounds_of = [(slice_.lower, slice_.upper, slice_.lower_exclusive) for slice_ in slices]
    lower, lower_exclusive = window.lower, window.lower_exclusive
    for key, _ in groupby(bounds_of):
        assert (key[0], key[2]) == (lower, lower_exclusive)
        lower, lower_exclusive = key[1], True
    assert lower == window.upper


@settings(max_examples=tiers.number(600))
@given(st.randoms(use_true_random=True), st.integers(0, 5), st.integers(1, 6), st.integers(1, 8))
def test_an_upsert_loses_nothing_however_often_it_is_broken_off(
    chance: Random, lookback: int, slice_rows: int, scans: int
) -> None:
    world = World(spec(lookback=lookback, slice_rows=slice_rows), chance)
    for _ in range(scans):
        world.change()
        world.scan(broken=True)
    world.scan(broken=False)
    world.scan(broken=False)
    assert {row: world.written[row][-1] for row in world.rows if row in world.written} == world.rows


@settings(max_examples=tiers.number(600))
@given(st.randoms(use_true_random=True), st.integers(1, 5), st.integers(1, 6), st.integers(1, 8))
def test_an_append_writes_each_row_once_however_often_it_is_broken_off(
    chance: Random, settle: int, slice_rows: int, scans: int
) -> None:
    world = World(spec(append=True, settle=timedelta(seconds=settle), slice_rows=slice_rows), chance)
    for _ in range(scans):
        world.change()
        world.scan(broken=True)
    world.now += 1000
    world.scan(broken=False)
    world.scan(broken=False)
    assert world.written == {row: [cursor] for row, cursor in world.rows.items()}


@given(values, st.integers(1, 50), st.data())
def test_planning_again_after_any_slice_reads_the_rest_and_nothing_of_a_group_twice(
    rows: dict[int, int], slice_rows: int, data: st.DataObject
) -> None:
    """The source stands still; it may count in other ranges the second time."""
    rows = {value: min(count, 200) for value, count in rows.items()}
    window = whole(max(rows))
    slices = cut(window, data.draw(ranges(rows)), slice_rows)
    done = slices[: data.draw(st.integers(0, len(slices) - 1))]
    watermark = next((slice_.watermark for slice_ in reversed(done) if slice_.watermark is not None), None)
    position = done[-1].position if done else None
    resumed = whole(max(rows), None if watermark is None else int(watermark))
    left = [(str(v), n) for v, n in sorted(rows.items()) if watermark is None or v >= int(watermark)]
    rest = cut(resumed, data.draw(ranges({int(v): n for v, n in left})), slice_rows, position)
    for value in rows:
        for key in range(0, 200, 7):
            before = sum(holds(slice_, value) and key % slice_.modulus == slice_.remainder for slice_ in done)
            after = sum(holds(slice_, value) and key % slice_.modulus == slice_.remainder for slice_ in rest)
            if str(value) == watermark:
                assert (before, after) == (1, 1)  # ties with the watermark are read again
            else:
                assert before + after == 1


# A range -----------------------------------------------------------------------


@given(values, st.integers(1, 50), st.none() | st.integers(-31, 31), st.none() | st.integers(-31, 31), st.data())
def test_a_backfill_reads_each_row_of_its_range_once_however_often_it_is_broken_off(
    rows: dict[int, int], slice_rows: int, since: int | None, until: int | None, data: st.DataObject
) -> None:
    inside = {
        value: min(count, 60)
        for value, count in rows.items()
        if (since is None or value >= since) and (until is None or value < until)
    }
    wanted = CursorRange(*(None if end is None else str(end) for end in (since, until)))
    read: Counter[tuple[int, int]] = Counter()
    done: str | None = None
    position: Position | None = None
    ended = False
    while not ended:
        left = {value: count for value, count in inside.items() if done is None or value >= int(done)}
        window = range_window("c", "integer", wanted, done, str(max(left)) if left else None)
        if window is None:
            break
        slices = cut(window, data.draw(ranges(left)), slice_rows, position)
        committed = data.draw(st.integers(1, len(slices)))
        for slice_ in slices[:committed]:
            for value in filter(lambda value: holds(slice_, value), inside):  # used at once
                read.update((value, key) for key in range(slice_.remainder, inside[value], slice_.modulus))
            done, position = slice_.watermark or done, slice_.position
        ended = committed == len(slices)
    assert read == Counter((value, key) for value, count in inside.items() for key in range(count))
