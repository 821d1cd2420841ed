"""Log a pipeline's events elsewhere than in retl's own logger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retl.engine.event_log import EventLog, event_fields, event_words, log_event
from retl.engine.log import logger_of
from retl.pipeline import Pipeline

__all__ = ["event_fields", "event_words", "log_event", "log_events"]


def log_events(pipeline: Pipeline, logger: Any = None) -> Callable[[], None]:
    """Log every event of a pipeline to a logger of yours from now on, instead of to ``retl``; call the result to end it.

    ``logger`` is one of structlog or of the standard library. It is called in the event loop, so it should not wait for
    a slow disk or a slow pipe; what it raises is ignored.
    """
    chosen = logger_of(logger)
    return pipeline.subscribe(EventLog(lambda: chosen), logs=True)
