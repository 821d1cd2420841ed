"""When the tables of a pipeline are due: schedules of their own, triggers, and starts that are spread."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from retl import ConfigError, Table
from retl.engine import timetable
from retl.engine.schedule import Cron, Interval, Manual, Schedule, Tick, Timer, _CronTimer, _IntervalTimer
from retl.engine.ticks import Due, Ticks
from retl.engine.timetable import Timetable, make_timetable


class Clock:
    """A monotonic clock that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Ticking(Interval):
    """An interval by a clock of the test."""

    clock: Clock = field(default_factory=Clock, compare=False)

    def timer(self, later: float = 0.0) -> Timer:
        return _IntervalTimer(self.seconds, self.clock, later=later)


NAMES = ("fast", "slow", "log_1")


def ticks(clock: Clock, **own: Schedule | None) -> Ticks:
    """Of the tables ``fast`` (every 5 s), ``slow`` (every 60 s, as the pipeline) and ``log_*``."""
    found = Ticks(Timetable(Ticking(60.0, clock), {"fast": Ticking(5.0, clock), "slow": None, "log_*": None, **own}))
    found.start()
    return found


def tables(begun: list[Due]) -> list[list[str]]:
    return [[name for name in NAMES if due.wanted.has(name)] for due in begun]


def finish(found: Ticks) -> None:
    for due in list(found.running):
        found.ended(due)


def test_a_table_has_the_rhythm_of_its_own_and_the_others_that_of_the_pipeline() -> None:
    clock = Clock()
    found = ticks(clock)
    assert tables(found.begin(paused=False)) == [["fast"], ["slow", "log_1"]]
    finish(found)
    assert found.delay() == 5.0
    seen = []
    for _ in range(12):
        clock.now += 5.0
        seen.append(tables(found.begin(paused=False)))
        finish(found)
    assert seen == [[["fast"]]] * 11 + [[["fast"], ["slow", "log_1"]]]
    clock.now += 2.0
    assert (found.left("fast"), found.left("slow"), found.left("log_1"), found.left()) == (3.0, 58.0, 58.0, 3.0)


def test_a_long_run_holds_up_its_own_tables_alone_and_what_it_missed_is_one_tick() -> None:
    clock = Clock()
    found = ticks(clock)
    fast, slow = found.begin(paused=False)
    found.ended(fast)
    for _ in range(26):
        clock.now += 5.0
        for due in found.begin(paused=False):
            assert tables([due]) == [["fast"]]
            found.ended(due)
    assert found.delay() == 5.0  # what is under way is not waited for by the clock
    found.ended(slow)
    (again,) = found.begin(paused=False)
    assert (tables([again]), again.missed, again.left) == ([["slow", "log_1"]], 1, 50.0)


def test_a_triggered_table_begins_at_once_beside_the_others_and_once_more_where_it_runs() -> None:
    clock = Clock()
    found = ticks(clock)
    found.begin(paused=True)
    assert found.running == []
    found.trigger(["slow"])
    (first,) = found.begin(paused=True)
    assert first.name == "slow"
    found.trigger(["slow", "fast"])
    found.trigger(["slow"])
    (second,) = found.begin(paused=True)  # "slow" waits for the one under way
    assert second.name == "fast"
    found.ended(first)
    (third,) = found.begin(paused=True)
    assert third.name == "slow"
    finish(found)
    assert found.begin(paused=True) == []


def test_a_trigger_of_everything_is_one_run_of_each_schedule_and_has_the_named_tables() -> None:
    found = ticks(Clock(), log_1=Manual())
    found.trigger(["fast", "log_1"])
    found.trigger(None)
    found.trigger(None)
    assert tables(found.begin(paused=True)) == [["fast"], ["slow"], ["log_1"]]
    found.trigger(None)
    assert found.begin(paused=True) == []
    finish(found)
    assert len(found.begin(paused=True)) == 3
    found.trigger(["slow"])
    found.trigger(["fast"])
    assert found.take_triggers() == ["fast", "slow"]
    found.trigger(None)
    assert (found.take_triggers(), found.take_triggers()) == ([None], [])


def test_a_manual_table_waits_for_a_trigger() -> None:
    clock = Clock()
    found = ticks(clock, fast=Manual())
    assert tables(found.begin(paused=False)) == [["slow", "log_1"]]
    finish(found)
    assert (found.left("fast"), found.delay()) == (None, 60.0)


def test_the_words_of_a_table_make_its_schedule() -> None:
    declared = [
        Table("a", interval="5s"),
        Table("b", cron="0 3 * * *"),
        Table("c", interval="manual"),
        Table("d"),
        Table(match="log_*", interval=7),
    ]
    made = make_timetable("p", declared, interval="5m", timezone="Europe/Berlin")
    night = Cron("0 3 * * *", "Europe/Berlin")
    assert made.groups == [Interval(5.0), night, Manual(), Interval(300.0), Interval(7.0)]
    assert [made.of(name) for name in ("a", "b", "d", "log_9", "e")] == [
        Interval(5.0),
        night,
        Interval(300.0),
        Interval(7.0),
        Interval(300.0),
    ]
    assert made.describe() == ("every 5m; a every 5s; b cron 0 3 * * * Europe/Berlin; c when triggered; log_* every 7s")
    assert make_timetable("p", declared[:1]).describe() == "a every 5s"
    assert made.period == 5.0


def test_words_that_do_not_fit_are_refused_with_their_table() -> None:
    with pytest.raises(ConfigError, match=r"^a: both an interval and a cron"):
        make_timetable("p", [Table("a", interval=5, cron="* * * * *")])
    with pytest.raises(ConfigError, match="timezone has a meaning only with cron"):
        make_timetable("p", [Table("a", interval=5)], timezone="Europe/Berlin")


# Starts that are spread --------------------------------------------------------


def test_thirty_pipelines_start_one_after_the_other_and_each_always_at_its_own_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timetable, "LONGEST_JITTER", 3.0)
    clock = Clock()

    def delay(name: str, seconds: float = 300.0, jitter: str | int | None = None) -> float:
        made = make_timetable(name, [Table("t")], interval=seconds, jitter=jitter)
        tick = Timetable(Ticking(seconds, clock), made.own, made.delay, made.jitter)
        found = tick.timer(tick.groups[0]).next()
        assert found is not None
        return found.delay

    delays = sorted(delay(f"pipeline-{number}") for number in range(30))
    assert delays == sorted(delay(f"pipeline-{number}") for number in range(30))
    assert 0.0 <= delays[0] < 1.0 and 2.0 < delays[-1] < 3.0
    # Never more than a few in any tenth of a second.
    assert max(sum(start <= one < start + 0.1 for one in delays) for start in delays) <= 5
    assert all(0.0 <= delay(f"pipeline-{number}", 10.0) <= 0.5 for number in range(30))
    assert all(delay(f"pipeline-{number}", 300.0, 0) == 0.0 for number in range(30))
    assert max(delay(f"pipeline-{number}", 300.0, "1m") for number in range(30)) > 30.0
    assert max(delay(f"pipeline-{number}", 2.0, "1m") for number in range(30)) <= 2.0


def test_a_tick_of_cron_comes_later_by_the_jitter_and_never_twice() -> None:
    moment = [datetime(2024, 1, 1, 11, 59, 50, tzinfo=UTC)]
    later = timedelta(seconds=2)
    timer = _CronTimer(Cron("0 * * * *"), lambda: moment[0] - later)
    assert timer.next() == Tick(12.0)
    moment[0] = datetime(2024, 1, 1, 12, 0, 2, tzinfo=UTC)
    assert timer.next() == Tick(0.0)
    timer.consume()
    assert timer.left() == 3600.0
    restarted = _CronTimer(Cron("0 * * * *"), lambda: moment[0] - later)
    assert restarted.left() == 3600.0
