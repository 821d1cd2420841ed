"""Events as structlog lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from retl.model import events
from retl.model.report import ScanReport
from retl.pipeline import Pipeline

_LEVELS: dict[type[events.Event], str] = {
    events.RowsMoved: "debug",
    events.SliceCommitted: "debug",
    events.LeaseGone: "warning",
    events.RowsRejected: "warning",
    events.Warned: "warning",
    events.RetryScheduled: "warning",
    events.ScanFailed: "error",
    events.RunFailed: "error",
}


def log_events(pipeline: Pipeline, logger: Any = None) -> Callable[[], None]:
    """Log every event of a pipeline from now on; call the result to end it.

    Failures are errors, progress is debug, what people should know is a warning, the rest
    is info. ``logger`` is a structlog logger (``retl`` when unset); it is called
    in the event loop, so it should not wait for a slow disk or a slow pipe.
    """
    chosen = logger if logger is not None else structlog.get_logger("retl")
    return pipeline.subscribe(lambda event: log_event(event, chosen))


def log_event(event: events.Event, logger: Any) -> None:
    """One event as one line: its name in words, and its fields."""
    log = getattr(logger, _LEVELS.get(type(event), "info"))
    log(event_words(event), **event_fields(event))


def event_words(event: events.Event) -> str:
    """``ScanFinished`` is ``scan finished``."""
    return re.sub(r"(?<!^)([A-Z])", r" \1", type(event).__name__).lower()


def event_fields(event: events.Event) -> dict[str, Any]:
    """The fields of an event, flat, without the unset ones."""
    report = getattr(event, "report", None)
    values: dict[str, Any] = {"pipeline": event.pipeline, "at": event.at}
    if isinstance(report, ScanReport):
        values |= msgspec.to_builtins(report)
    else:
        values |= msgspec.to_builtins(event)
        values |= values.pop("progress", None) or {}
    values.pop("type", None)
    return {name: value for name, value in values.items() if value is not None and value != []}
