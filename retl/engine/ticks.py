"""What is to be scanned now: by the schedules, and by ``trigger``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from retl.engine.request import Request
from retl.engine.schedule import Schedule, Timer
from retl.engine.timetable import Timetable
from retl.engine.wanted import Wanted


@dataclass(frozen=True, eq=False)
class Due:
    """A run that is to begin."""

    wanted: Wanted
    group: Schedule | None = None
    """The schedule whose tables these are."""
    name: str | None = None
    """Or the table that was triggered."""
    missed: int = 0
    """How many ticks have coalesced into this one."""
    left: float | None = None
    """Seconds until the next run of the same tables."""
    request: Request | None = None
    """Who waits for it, if anybody does."""


class Ticks:
    """The timers of a pipeline, its triggers, and the runs under way: no schedule, and no trigger of a table, has two at once."""

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._timers: dict[Schedule, Timer] = {}
        self._triggered: frozenset[Schedule] = frozenset()
        self._names: frozenset[str] = frozenset()
        self._asked: list[Due] = []
        self.running: list[Due] = []

    def start(self) -> None:
        """Start the timers as of now."""
        self._timers = {group: self._timetable.timer(group) for group in self._timetable.groups}

    def end(self) -> list[Due]:
        """Nothing is planned any more; returns what was asked for and has not begun."""
        self._timers = {}
        left, self._asked = self._asked, []
        return left

    @property
    def started(self) -> bool:
        """Whether the timers run."""
        return bool(self._timers)

    def ask(self, due: Due) -> None:
        """Begin this run as soon as possible, beside the others."""
        self._asked.append(due)

    def trigger(self, names: Iterable[str] | None) -> None:
        """Scan these tables, or all, as soon as their run under way has ended. From any thread."""
        if names is None:
            self._triggered |= frozenset(self._timetable.groups)
        else:
            self._names |= frozenset(names)

    def take_triggers(self) -> list[str | None]:
        """What was triggered and has not begun: the names, or ``None`` for everything."""
        everything, names = self._triggered, self._names
        self._triggered, self._names = frozenset(), frozenset()
        return [None] if everything else [*sorted(names)]

    def begin(self, *, paused: bool) -> list[Due]:
        """The runs that begin now."""
        begun = [due for group in self._timers if (due := self._due(group, paused=paused)) is not None]
        scanned = [due.group for due in begun]
        names = [name for name in sorted(self._names) if not any(due.name == name for due in self.running)]
        self._names -= frozenset(names)
        begun += [
            Due(Wanted(frozenset([name]), declared=(name,)), name=name)
            for name in names
            if self._timetable.of(name) not in scanned
        ]
        begun += self._asked
        self._asked = []
        self.running += begun
        return begun

    def _due(self, group: Schedule, *, paused: bool) -> Due | None:
        if any(other.group == group for other in self.running):
            return None
        timer = self._timers[group]
        tick = None if paused else timer.next()
        due = tick is not None and tick.final and tick.delay <= 0
        if not due and group not in self._triggered:
            return None
        self._triggered -= {group}
        if due:
            timer.consume()
        left = group.period if paused else timer.left()
        return Due(self._wanted(group), group, missed=tick.missed if due and tick is not None else 0, left=left)

    def _wanted(self, group: Schedule) -> Wanted:
        if len(self._timers) == 1:
            return Wanted()
        declared = tuple(name for name in self._timetable.own if self._timetable.of(name) == group)
        return Wanted(among=lambda table: self._timetable.of(table) == group, declared=declared)

    def ended(self, due: Due) -> None:
        """A run is over."""
        self.running.remove(due)

    def delay(self) -> float | None:
        """Seconds until a schedule wants attention; ``None`` if none will."""
        busy = [due.group for due in self.running]
        ticks = [timer.next() for group, timer in self._timers.items() if group not in busy]
        return min((tick.delay for tick in ticks if tick is not None), default=None)

    def left(self, table: str | None = None) -> float | None:
        """Seconds until the next tick of a table, or of any; ``None`` if nothing is planned."""
        group = None if table is None else self._timetable.of(table)
        found = [timer.left() for key, timer in self._timers.items() if group in (None, key)]
        return min((left for left in found if left is not None), default=None)
