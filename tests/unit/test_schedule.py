"""When a pipeline runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from retl import ConfigError
from retl.engine import schedule
from retl.engine.schedule import Cron, Interval, Manual, Tick, _CronTimer, _IntervalTimer, make_schedule


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_interval_keeps_the_rhythm_of_its_first_tick() -> None:
    clock = Clock()
    timer = _IntervalTimer(10.0, clock)
    assert timer.next() == Tick(0.0)
    timer.consume()
    clock.now += 3.0
    assert timer.next() == Tick(7.0)
    clock.now += 8.5  # late by 1.5 s
    assert timer.next() == Tick(0.0)
    timer.consume()
    assert timer.next() == Tick(8.5)


def test_missed_ticks_of_an_interval_are_one() -> None:
    clock = Clock()
    timer = _IntervalTimer(10.0, clock)
    timer.consume()
    clock.now += 47.0
    assert timer.next() == Tick(0.0, missed=3)
    timer.consume()
    assert timer.next() == Tick(3.0)


def cron_timer(expression: str, zone: str, start: datetime) -> tuple[_CronTimer, Callable[[datetime], None]]:
    moment = [start]
    timer = _CronTimer(Cron(expression, zone), lambda: moment[0])

    def set_clock(now: datetime) -> None:
        moment[0] = now

    return timer, set_clock


def test_cron_runs_in_its_time_zone() -> None:
    shanghai = ZoneInfo("Asia/Shanghai")
    timer, set_clock = cron_timer("30 8 * * mon-fri", "Asia/Shanghai", datetime(2024, 3, 1, 8, 29, 30, tzinfo=shanghai))
    assert timer.next() == Tick(30.0)
    set_clock(datetime(2024, 3, 1, 8, 30, 0, tzinfo=shanghai))
    assert timer.next() == Tick(0.0)
    timer.consume()
    # From Friday to Monday; looked at again at least once a minute, since the wall clock may be set.
    assert timer.next() == Tick(60.0, final=False)
    set_clock(datetime(2024, 3, 4, 0, 29, 50, tzinfo=UTC))
    assert timer.next() == Tick(10.0)


def test_cron_knows_daylight_saving() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    timer, set_clock = cron_timer("0 12 * * *", "Europe/Berlin", datetime(2024, 3, 30, 12, 0, 1, tzinfo=berlin))
    # The night between has one hour less: noon comes after 23 hours.
    set_clock(datetime(2024, 3, 31, 9, 59, 30, tzinfo=UTC))
    assert timer.next() == Tick(30.0)


def test_a_tick_of_cron_is_not_run_twice_when_the_clock_is_set_back() -> None:
    start = datetime(2024, 3, 1, 11, 59, 59, tzinfo=UTC)
    timer, set_clock = cron_timer("0 * * * *", "UTC", start)
    set_clock(start + timedelta(seconds=1))
    assert timer.next() == Tick(0.0)
    timer.consume()
    set_clock(start - timedelta(minutes=10))
    assert timer.next() == Tick(60.0, final=False)
    set_clock(datetime(2024, 3, 1, 12, 59, 59, tzinfo=UTC))
    assert timer.next() == Tick(1.0)


def test_a_clock_that_ran_far_ahead_and_was_put_right_silences_no_tick() -> None:
    start = datetime(2024, 3, 1, 12, 0, 30, tzinfo=UTC)
    timer, set_clock = cron_timer("*/5 * * * *", "UTC", start)
    set_clock(start + timedelta(days=1))
    assert timer.next() is not None
    timer.consume()
    set_clock(start + timedelta(minutes=4))
    assert timer.next() == Tick(30.0)
    assert timer.left() == 30.0
    # Three hours and less are no correction: those ticks have been run.
    set_clock(start + timedelta(minutes=5))
    timer.consume()
    set_clock(start + timedelta(minutes=4) - timedelta(hours=2, minutes=50))
    assert timer.next() == Tick(60.0, final=False)


@pytest.mark.parametrize(
    ("moment", "expression", "period"),
    [
        (datetime(2024, 10, 27, 0, 45, tzinfo=UTC), "*/10 * * * *", 600.0),  # from 2:50 to 2:00, an hour back
        (datetime(2024, 10, 27, 0, 55, tzinfo=UTC), "*/10 * * * *", 600.0),
        (datetime(2024, 3, 31, 0, 45, tzinfo=UTC), "*/10 * * * *", 600.0),
    ],
)
def test_the_period_of_cron_is_true_where_the_clock_is_set(
    moment: datetime, expression: str, period: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Now(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moment

    cron = Cron(expression, "Europe/Berlin")
    monkeypatch.setattr(schedule, "datetime", Now)
    assert cron.period == period


def test_missed_ticks_of_cron_are_one() -> None:
    start = datetime(2024, 3, 1, 12, 0, 30, tzinfo=UTC)
    timer, set_clock = cron_timer("* * * * *", "UTC", start)
    set_clock(start + timedelta(minutes=5))
    assert timer.next() == Tick(0.0, missed=4)
    timer.consume()
    assert timer.next() == Tick(30.0)


def test_what_is_left_until_the_next_tick_of_an_interval_is_told_without_the_time_that_a_run_took() -> None:
    clock = Clock()
    timer = _IntervalTimer(10.0, clock)
    assert timer.left() == 0.0
    timer.consume()
    clock.now += 3.0
    assert timer.left() == 7.0
    clock.now += 8.5
    assert timer.left() == 0.0


def test_what_is_left_until_the_next_tick_of_cron_is_told_however_far_it_is() -> None:
    timer, set_clock = cron_timer("0,1 3 * * *", "UTC", datetime(2024, 3, 1, 2, 59, 30, tzinfo=UTC))
    assert timer.left() == 30.0
    set_clock(datetime(2024, 3, 1, 3, 0, 0, tzinfo=UTC))
    assert timer.left() == 0.0
    timer.consume()
    assert timer.left() == 60.0
    set_clock(datetime(2024, 3, 1, 3, 1, 15, tzinfo=UTC))
    timer.consume()
    assert timer.left() == 86_400.0 - 75.0
    assert Manual().timer().left() is None


def test_words_become_schedules() -> None:
    assert make_schedule() == Interval(300.0)
    assert make_schedule("5m") == Interval(300.0)
    assert make_schedule(2.5) == Interval(2.5)
    assert make_schedule("manual") == Manual()
    assert make_schedule(cron="0 3 * * *", timezone="Europe/Berlin") == Cron("0 3 * * *", "Europe/Berlin")
    assert Manual().timer().next() is None
    assert make_schedule("90s").describe() == "every 1m 30s"
    assert Cron("*/10 * * * *").period == 600.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"interval": "1ms"}, "shortest is 10ms"),
        ({"interval": -1}, "cannot be negative"),
        ({"interval": "soon"}, "not a length of time"),
        ({"interval": 5, "cron": "* * * * *"}, "both an interval and a cron"),
        ({"cron": "* * *"}, "five fields"),
        ({"cron": "61 * * * *"}, "cannot be read"),
        ({"cron": "* * * * *", "timezone": "Mars/Base"}, "unknown time zone 'Mars/Base'"),
        ({"interval": 5, "timezone": "UTC"}, "only with cron"),
        ({"interval": [5]}, "not a length of time"),
        ({"cron": 5}, "cron is 5, of type int"),
        ({"cron": "* * * * *", "timezone": 5}, "timezone is 5, of type int"),
    ],
)
def test_wrong_words_are_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_schedule(**words)  # type: ignore[arg-type]
