"""When a pipeline runs: every so often, by cron, when told to; and when it tries again."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from retl.model.duration import Duration, format_duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.typed import wrong_type

_LONGEST_SLEEP = 60.0
_CORRECTION = timedelta(hours=3)
"""A clock that is set back by more was wrong before; daylight saving moves it by less."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The next moment to run.

    ``delay`` is in seconds of the monotonic clock, 0 when it is due; a ``delay`` that is
    not ``final`` only says when to ask again. ``missed`` ticks have coalesced into this one.
    """

    delay: float
    final: bool = True
    missed: int = 0


class Timer(ABC):
    """The running form of a schedule; lives as long as one ``run_forever``."""

    @abstractmethod
    def next(self) -> Tick | None:
        """The tick to wait for; ``None`` when nothing is planned. Does not consume it."""

    @abstractmethod
    def left(self) -> float | None:
        """Seconds until the next tick, 0 where it is due; ``None`` when nothing is planned."""

    @abstractmethod
    def consume(self) -> None:
        """Consume the tick that was due: it runs now."""


class Schedule(ABC):
    """A rule for when to run. A value; ``timer`` starts it."""

    @abstractmethod
    def timer(self, later: float = 0.0) -> Timer:
        """Start the rule as of now; each tick comes so many seconds later."""

    @abstractmethod
    def describe(self) -> str:
        """The rule in words: ``every 5m``."""

    @property
    @abstractmethod
    def period(self) -> float | None:
        """About how many seconds lie between two ticks."""


@dataclass(frozen=True)
class Interval(Schedule):
    """Every given number of seconds, the first time at once, by the monotonic clock alone."""

    seconds: float

    def timer(self, later: float = 0.0) -> Timer:
        return _IntervalTimer(self.seconds, later=later)

    def describe(self) -> str:
        return f"every {format_duration(self.seconds)}"

    @property
    def period(self) -> float:
        return self.seconds


class _IntervalTimer(Timer):
    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic, *, later: float = 0.0) -> None:
        self._seconds = seconds
        self._clock = clock
        self._due = clock() + later

    def next(self) -> Tick:
        late = self._clock() - self._due
        if late < 0:
            return Tick(-late)
        return Tick(0.0, missed=int(late // self._seconds))

    def left(self) -> float:
        return max(0.0, self._due - self._clock())

    def consume(self) -> None:
        # The rhythm stays that of the first tick, however long a run takes.
        steps = max(0, int((self._clock() - self._due) // self._seconds)) + 1
        self._due += steps * self._seconds


@dataclass(frozen=True)
class Cron(Schedule):
    """At the times of a cron expression, in a time zone, daylight saving included.

    A tick never runs twice: when the wall clock is set back, the next tick is the one
    after the last that ran; unless the clock is set back by more than three hours, because
    it was wrong.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        self.ticks(datetime.now(UTC))

    def ticks(self, after: datetime) -> CronSim:
        try:
            return CronSim(self.expression, after.astimezone(self._zone()))
        except CronSimError as error:
            raise ConfigError(
                f"the cron expression {self.expression!r} cannot be read ({error}).",
                remedy='write five fields such as "*/10 8-20 * * mon-fri": minute, hour, day, month, weekday.',
            ) from None

    def _zone(self) -> tzinfo:
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(
                f"unknown time zone {self.timezone!r}.", remedy='use a name such as "Europe/Berlin" or "UTC".'
            ) from None

    def timer(self, later: float = 0.0) -> Timer:
        behind = timedelta(seconds=later)
        return _CronTimer(self, lambda: datetime.now(UTC) - behind)

    def describe(self) -> str:
        return f"cron {self.expression} {self.timezone}"

    @property
    def period(self) -> float:
        try:
            ticks = self.ticks(datetime.now(UTC))
            # In UTC: between two times of one zone Python counts wall clock time, even across daylight saving.
            first, second = next(ticks).astimezone(UTC), next(ticks).astimezone(UTC)
        except StopIteration:
            return 300.0
        return max(1.0, (second - first).total_seconds())


class _CronTimer(Timer):
    def __init__(self, cron: Cron, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._cron = cron
        self._clock = clock
        self._last = clock()

    def _since(self) -> datetime:
        """The last tick, unless it came from a clock that ran far ahead and was corrected."""
        now = self._clock()
        if self._last - now > _CORRECTION:
            self._last = now
        return self._last

    def _next_time(self, after: datetime) -> datetime | None:
        due = next(iter(self._cron.ticks(after)), None)
        return due.astimezone(UTC) if due is not None else None

    def next(self) -> Tick | None:
        due = self._next_time(self._since())
        if due is None:
            return None
        delay = (due - self._clock()).total_seconds()
        if delay > _LONGEST_SLEEP:  # the wall clock may be set: read it again before
            return Tick(_LONGEST_SLEEP, final=False)
        return Tick(max(0.0, delay), missed=self._missed(due) if delay <= 0 else 0)

    def left(self) -> float | None:
        due = self._next_time(self._since())
        return max(0.0, (due - self._clock()).total_seconds()) if due is not None else None

    def _missed(self, due: datetime) -> int:
        now, missed = self._clock(), 0
        following = self._next_time(due)
        while following is not None and following <= now and missed < 1000:
            missed += 1
            following = self._next_time(following)
        return missed

    def consume(self) -> None:
        due = self._next_time(self._since())
        self._last = max(self._clock(), due or self._last)


@dataclass(frozen=True)
class Manual(Schedule):
    """Only when ``trigger`` is called."""

    def timer(self, later: float = 0.0) -> Timer:
        return _ManualTimer()

    def describe(self) -> str:
        return "when triggered"

    @property
    def period(self) -> None:
        return None


class _ManualTimer(Timer):
    def next(self) -> None:
        return None

    def left(self) -> None:
        return None

    def consume(self) -> None:
        return None


def make_schedule(interval: Duration | None = None, cron: str | None = None, timezone: str | None = None) -> Schedule:
    """The schedule of a pipeline's words; every 300 seconds if they are unset.

    ``interval`` is a duration or ``"manual"``. Raises ``ConfigError``.
    """
    if cron is not None:
        if not isinstance(cron, str):
            raise wrong_type("cron", cron, 'text such as "*/10 * * * *"')
        if interval is not None:
            raise ConfigError("both an interval and a cron expression are given.", remedy="keep one of them.")
        if not isinstance(timezone, str | None):
            raise wrong_type("timezone", timezone, 'text such as "Europe/Berlin"')
        return Cron(cron, timezone or "UTC")
    if timezone is not None:
        raise ConfigError("timezone has a meaning only with cron.", remedy="remove it, or give a cron expression.")
    if interval == "manual":
        return Manual()
    length = parse_duration(300 if interval is None else interval, what="interval")
    if length < timedelta(milliseconds=10):
        raise ConfigError(f"interval is {interval!r}, but the shortest is 10ms.", remedy='use "1s" or more.')
    return Interval(length.total_seconds())


def backoff(attempt: int, *, first: float = 0.5, most: float = 30.0) -> float:
    """Seconds to wait after the ``attempt``-th failure (from 1): doubling up to ``most``, less a random share of up to half.

    The random share keeps a fleet of services from coming back all at once.
    """
    ceiling = min(most, first * 2.0 ** min(attempt - 1, 32))
    return random.uniform(ceiling / 2, ceiling)
