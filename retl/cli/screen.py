"""What ``retl run`` shows while it runs. A thread of its own does the writing: a slow pipe never holds a scan up."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import structlog

from retl.cli.render import local_time, mode, not_written, one_line, plural, say, without_place
from retl.model import events
from retl.model.duration import format_duration
from retl.model.errors import RetlError
from retl.model.report import ScanReport
from retl.observe.logs import log_event

LogFormat = Literal["auto", "plain", "json"]


class View(Protocol):
    """One way to show events. Called by the writing thread only."""

    def show(self, event: events.Event) -> None: ...
    def note(self, text: str) -> None: ...
    def error(self, error: RetlError) -> None: ...
    def close(self) -> None: ...


class Screen(AbstractContextManager["Screen"]):
    """Hands everything to a view, in order, without waiting for it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="retl-output", daemon=True)

    def __enter__(self) -> Screen:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(self._view.close)
        self._queue.put(None)
        self._thread.join(timeout=5)  # a reader that has stalled must not keep the process alive

    def show(self, event: events.Event) -> None:
        self._queue.put(lambda: self._view.show(event))

    def note(self, text: str) -> None:
        self._queue.put(lambda: self._view.note(text))

    def error(self, error: RetlError) -> None:
        self._queue.put(lambda: self._view.error(error))

    def _write(self) -> None:
        broken = False
        while (call := self._queue.get()) is not None:
            if not broken:
                try:
                    call()
                except (BrokenPipeError, ValueError):  # nobody reads any more; the work goes on
                    broken = True


def make_screen(log_format: LogFormat) -> Screen:
    """The view for this terminal, pipe or file."""
    if log_format == "json":
        return Screen(JsonView())
    if log_format == "auto" and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        try:
            from retl.cli.live import LiveView
        except ImportError:  # rich is an extra
            return Screen(PlainView())
        return Screen(LiveView())
    return Screen(PlainView())


class PlainView:
    """One line for each scan, and one for whatever people should know."""

    def show(self, event: events.Event) -> None:
        line = event_line(event)
        if line is not None:
            say(line, flush=True)

    def note(self, text: str) -> None:
        say(text, flush=True)

    def error(self, error: RetlError) -> None:
        say(f"{error.pipeline or 'retl'}: FAILED {error.message}", flush=True)
        if error.remedy:
            say(f"    What to do: {error.remedy}", flush=True)

    def close(self) -> None:
        return None


class JsonView:
    """A JSON object for each event, on stdout."""

    def __init__(self) -> None:
        self._log: Any = structlog.wrap_logger(
            structlog.PrintLogger(sys.stdout),
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer(sort_keys=False)],
        )

    def show(self, event: events.Event) -> None:
        if isinstance(event, events.RowsMoved):
            return  # ten lines a second say nothing that the commits do not
        log_event(event, self._log)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        self._log.info(text)

    def error(self, error: RetlError) -> None:
        self._log.error("pipeline ended", pipeline=error.pipeline, error=str(error), error_type=type(error).__name__)

    def close(self) -> None:
        return None


def event_line(event: events.Event) -> str | None:
    """An event in a line for people; ``None`` for those that only progress bars show."""
    table = getattr(event, "table", None)
    place = f"{event.pipeline}.{table}" if table else event.pipeline
    what = _what(event)
    if isinstance(event, events.ScanFinished | events.ScanFailed):
        place = f"{event.pipeline}.{event.report.table}"
    return f"{local_time(event.at)}  {place}: {what}" if what is not None else None


def _what(event: events.Event) -> str | None:
    match event:
        case events.ScanFinished(report=report):
            return scan_text(report)
        case events.ScanFailed(report=report):
            return f"FAILED {without_place(report.error or '', report.pipeline, report.table)}"
        case events.RunFailed(error=error):
            return f"FAILED {without_place(error, event.pipeline)}"
        case events.Warned(message=message):
            return f"warning: {message}"
        case events.RetryScheduled(error=error, delay=delay, table=table):
            return f"again in {format_duration(delay)}: {without_place(error, event.pipeline, table)}"
        case events.RowsRejected(rejects=rejects, first_reason=reason):
            return f"{plural(rejects, 'row')} rejected; the first: {one_line(reason)}"
        case events.PipelineStarted(schedule=schedule):
            return schedule
        case events.LeaseHeld(owner=owner):
            return f"standing by: {owner} runs this pipeline"
        case events.LeaseGone(reason=reason):
            return f"standing by: {reason}"
        case events.TicksMissed(missed=missed):
            return f"{plural(missed, 'tick')} missed: the runs take longer than the interval"
        case _:
            return None


def scan_text(report: ScanReport) -> str:
    """What a scan did: ``336,776 rows in 2.1s (incremental), up to 2013-12-31``."""
    what = "" if report.status == "done" else f"{report.status} after "
    changed = "" if report.changed in (None, report.rows) else f", {report.changed:,} changed"
    missing = not_written(report)
    upper = f", up to {report.watermark}" if report.watermark is not None else ""
    took = format_duration(report.seconds)
    return f"{what}{plural(report.rows, 'row')}{changed}{', ' if missing else ''}{missing} in {took} ({mode(report)}){upper}"
