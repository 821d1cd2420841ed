"""Events as lines of a log: which level, which words, which fields; and few lines for a long outage."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from retl.engine.log import Logger, is_heard, log
from retl.model import events
from retl.model.report import ScanReport

_LEVELS: dict[type[events.Event], str] = {
    events.RowsMoved: "debug",
    events.SliceCommitted: "debug",
    events.ScanStarted: "debug",
    events.ScanPlanned: "debug",
    events.LeaseGone: "warning",
    events.PipelinePaused: "warning",
    events.CommandDropped: "warning",
    events.RowsRejected: "warning",
    events.Warned: "warning",
    events.RetryScheduled: "warning",
    events.ScanStalled: "warning",
    events.ScanFailed: "error",
    events.RunFailed: "error",
}
_FIRST_GAP, _LONGEST_GAP = 60.0, 3600.0
"""Seconds between two lines about one outage: twice as many each time."""


class EventLog:
    """Logs the events of a pipeline. An outage is one error, then "still failing" now and then, then "recovered"."""

    def __init__(self, logger: Callable[[], Logger], clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._outages: dict[str, _Outage] = {}

    def __call__(self, event: events.Event) -> None:
        place = _place(event)
        if isinstance(event, events.ScanFailed | events.RunFailed):
            self._failed(event, self._outages.get(place))
            return
        if isinstance(event, events.Recovered):
            self._outages.pop(place, None)
        known = isinstance(event, events.RetryScheduled) and place in self._outages
        log_event(event, self._logger(), level="debug" if known else None)

    def _failed(self, event: events.ScanFailed | events.RunFailed, outage: _Outage | None) -> None:
        now = self._clock()
        if outage is None:
            self._outages[_place(event)] = _Outage(event.at, now + _FIRST_GAP)
            log_event(event, self._logger())
            return
        outage.failures += 1
        if now < outage.next_line:
            log_event(event, self._logger(), level="debug")
            return
        outage.gap = min(outage.gap * 2, _LONGEST_GAP)
        outage.next_line = now + outage.gap
        more = {"since": msgspec.to_builtins(outage.since), "failures": outage.failures}
        log("error", "still failing", self._logger(), **event_fields(event) | more)


@dataclass
class _Outage:
    since: datetime
    next_line: float
    gap: float = _FIRST_GAP
    failures: int = 1


def _place(event: events.Event) -> str:
    report = getattr(event, "report", None)
    return report.table if isinstance(report, ScanReport) else str(getattr(event, "table", ""))


def log_event(event: events.Event, logger: Logger, *, level: str | None = None) -> None:
    """One event as one line: its name in words, and its fields."""
    level = level or level_of(event)
    if is_heard(logger, level):
        log(level, event_words(event), logger, **event_fields(event))


def level_of(event: events.Event) -> str:
    """Failures are errors, what people should know is a warning; progress, and a scan that found nothing new, is debug."""
    if isinstance(event, events.ScanFinished) and _is_idle(event.report):
        return "debug"
    return _LEVELS.get(type(event), "info")


def _is_idle(report: ScanReport) -> bool:
    return not (report.changed if report.changed is not None else report.rows) and not report.rejects


def event_words(event: events.Event) -> str:
    """``ScanFinished`` is ``scan finished``."""
    return re.sub(r"(?<!^)([A-Z])", r" \1", type(event).__name__).lower()


def event_fields(event: events.Event) -> dict[str, Any]:
    """The fields of an event, flat, without the unset ones."""
    report = getattr(event, "report", None)
    values: dict[str, Any] = {"pipeline": event.pipeline, "at": msgspec.to_builtins(event.at)}
    if isinstance(report, ScanReport):
        values |= msgspec.to_builtins(report)
    else:
        values |= msgspec.to_builtins(event)
        values |= values.pop("progress", None) or {}
    values.pop("type", None)
    return {name: value for name, value in values.items() if value is not None and value != []}
