"""A pipeline's events: one seam where they are emitted, any number of listeners."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import anyio
import structlog

from retl.engine.log import log_unexpected
from retl.model import events

_log = structlog.get_logger("retl")

_KEPT = 1000

Listener = Callable[[events.Event], None]


class EventBus:
    """Passes every event to every listener. A listener that fails is logged, and does no harm."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def emit(self, event: events.Event) -> None:
        """Pass an event on, now."""
        if not self._listeners:
            _log_failure(event)
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as error:
                log_unexpected("a listener of a pipeline's events failed", error, pipeline=event.pipeline)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; call the result to remove it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def stream(self) -> AsyncIterator[events.Event]:
        """The events from now on, up to ``PipelineStopped``. A slow reader misses the oldest beyond 1,000."""
        mailbox = _Mailbox()
        unsubscribe = self.subscribe(mailbox.put)
        stream = _read(mailbox, unsubscribe)
        # A stream that is thrown away unread never gets to unsubscribe by itself.
        weakref.finalize(stream, unsubscribe).atexit = False
        return stream


class _Mailbox:
    """Events that wait for their reader. May be made before there is an event loop."""

    def __init__(self) -> None:
        self.queue: deque[events.Event] = deque(maxlen=_KEPT)
        self._arrived: anyio.Event | None = None

    def put(self, event: events.Event) -> None:
        self.queue.append(event)
        if self._arrived is not None:
            self._arrived.set()

    async def arrival(self) -> None:
        """Wait for the next event."""
        self._arrived = anyio.Event()
        await self._arrived.wait()


async def _read(mailbox: _Mailbox, unsubscribe: Callable[[], None]) -> AsyncIterator[events.Event]:
    try:
        while True:
            while mailbox.queue:
                event = mailbox.queue.popleft()
                yield event
                if isinstance(event, events.PipelineStopped):
                    return
            await mailbox.arrival()
    finally:
        unsubscribe()


def _log_failure(event: events.Event) -> None:
    """Log failures if nobody listens: an error must never pass in silence."""
    if isinstance(event, events.ScanFailed):
        _log.error("scan failed", pipeline=event.pipeline, table=event.report.table, error=event.report.error)
    elif isinstance(event, events.RunFailed):
        _log.error("run failed", pipeline=event.pipeline, error=event.error)
    elif isinstance(event, events.Warned):
        _log.warning(event.message, pipeline=event.pipeline, table=event.table)
