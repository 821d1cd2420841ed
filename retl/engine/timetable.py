"""When each table of a pipeline is due: by the pipeline's schedule, or by one of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from retl.engine.schedule import Schedule, Timer, make_schedule
from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.naming import matching
from retl.model.table import Table

LONGEST_JITTER = 3.0
_SHARE = 20
"""Without ``jitter``, starts are spread over a twentieth of the interval, and no longer than the above."""


@dataclass(frozen=True)
class Timetable:
    """The schedules of one pipeline. Tables with equal schedules are scanned in one run."""

    schedule: Schedule
    own: Mapping[str, Schedule | None] = field(default_factory=dict)
    """By the name or the pattern of each declared table, in their order; ``None`` for that of the pipeline."""
    delay: float = 0.0
    """The pipeline's own share of the jitter, from 0 to 1."""
    jitter: float | None = None

    def of(self, table: str) -> Schedule:
        """The schedule of a table, or of a pattern: that of the first pattern that finds it, if it is not declared by name."""
        if table in self.own:
            return self.own[table] or self.schedule
        found = (own for declared, own in self.own.items() if matching(declared, [table]))
        return next(found, None) or self.schedule

    @property
    def groups(self) -> list[Schedule]:
        """The schedules by which tables are scanned."""
        return list(dict.fromkeys(own or self.schedule for own in self.own.values())) or [self.schedule]

    @property
    def period(self) -> float | None:
        """About how many seconds lie between two runs."""
        return min((group.period for group in self.groups if group.period is not None), default=None)

    def timer(self, group: Schedule) -> Timer:
        """The timer of a schedule, started as of now: later by the pipeline's share of the jitter."""
        period = group.period or 0.0
        most = min(period / _SHARE, LONGEST_JITTER) if self.jitter is None else min(period, self.jitter)
        return group.timer(self.delay * most)

    def describe(self) -> str:
        """The schedules in words: ``every 5m; orders every 5s``."""
        own = [f"{name} {schedule.describe()}" for name, schedule in self.own.items() if schedule is not None]
        return "; ".join([self.schedule.describe(), *own] if len(own) < len(self.own) else own)


def make_timetable(
    pipeline: str,
    tables: Iterable[Table],
    *,
    interval: Duration | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    jitter: Duration | None = None,
) -> Timetable:
    """The schedules of a pipeline's words, and of its tables'. Raises ``ConfigError``."""
    declared = list(tables)
    schedule = pipeline_schedule(declared, interval, cron, timezone)
    own = {table.name or table.match or "": own_schedule(table, timezone) for table in declared}
    seconds = None if jitter is None else parse_duration(jitter, what="jitter").total_seconds()
    return Timetable(schedule, own, _share(pipeline), seconds)


def pipeline_schedule(
    tables: Iterable[Table], interval: Duration | None, cron: str | None, timezone: str | None
) -> Schedule:
    """The schedule of the tables that have none of their own; ``timezone`` may be for those alone. Raises ``ConfigError``."""
    for_tables = cron is None and any(table.cron is not None for table in tables)
    return make_schedule(interval, cron, None if for_tables else timezone)


def own_schedule(table: Table, timezone: str | None) -> Schedule | None:
    """The schedule of a table that has one. Raises ``ConfigError``."""
    if table.interval is None and table.cron is None:
        return None
    try:
        return make_schedule(table.interval, table.cron, timezone if table.cron is not None else None)
    except ConfigError as error:
        error.with_context(table=table.name or table.match or "")
        raise


def _share(pipeline: str) -> float:
    """A number from 0 to 1, always the same for a name, so that pipelines that start together are spread evenly."""
    digest = hashlib.sha256(pipeline.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64
