"""What ``retl run`` shows while it runs. A thread of its own writes it, so that a slow pipe never delays a scan."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import structlog

from retl.cli.event_text import event_line
from retl.cli.render import say
from retl.model import events
from retl.model.errors import RetlError
from retl.observe.logs import log_event

LogFormat = Literal["auto", "plain", "json"]


class View(Protocol):
    """One way to show events. Only the writing thread calls it."""

    def show(self, event: events.Event) -> None: ...
    def info(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def error(self, error: RetlError) -> None: ...
    def close(self) -> None: ...


class Output(AbstractContextManager["Output"]):
    """Passes everything to a view, in order, without waiting for it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="retl-output", daemon=True)

    def __enter__(self) -> Output:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(self._view.close)
        self._queue.put(None)
        self._thread.join(timeout=5)  # a stalled reader must not keep the process alive

    def show(self, event: events.Event) -> None:
        self._queue.put(lambda: self._view.show(event))

    def info(self, text: str) -> None:
        self._queue.put(lambda: self._view.info(text))

    def warn(self, text: str) -> None:
        self._queue.put(lambda: self._view.warn(text))

    def error(self, error: RetlError) -> None:
        self._queue.put(lambda: self._view.error(error))

    def _write(self) -> None:
        broken = False
        while (call := self._queue.get()) is not None:
            if not broken:
                try:
                    call()
                except (BrokenPipeError, ValueError):  # the reader is gone; the work goes on
                    broken = True


def make_output(log_format: LogFormat) -> Output:
    """The view for this terminal, pipe or file."""
    if log_format == "json":
        return Output(JsonView())
    if log_format == "auto" and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        try:
            from retl.cli.live import LiveView
        except ImportError:  # rich is an extra
            return Output(PlainView())
        return Output(LiveView())
    return Output(PlainView())


class PlainView:
    """One line for each scan, and for each event that people should know of."""

    def show(self, event: events.Event) -> None:
        line = event_line(event)
        if line is not None:
            say(line, flush=True)

    def info(self, text: str) -> None:
        say(text, flush=True)

    def warn(self, text: str) -> None:
        say(f"warning: {text}", flush=True)

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
            return  # ten lines a second add nothing to those of the commits
        log_event(event, self._log)
        sys.stdout.flush()

    def info(self, text: str) -> None:
        self._log.info(text)

    def warn(self, text: str) -> None:
        self._log.warning(text)

    def error(self, error: RetlError) -> None:
        self._log.error("pipeline ended", pipeline=error.pipeline, error=str(error), error_type=type(error).__name__)

    def close(self) -> None:
        return None
