"""A pipeline's events: one seam where they are emitted, any number of listeners."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio

from retl.engine.event_log import EventLog
from retl.engine.log import log_unexpected, logger_of
from retl.model import events

_KEPT = 1000
_SETTLE_SECONDS = 5.0

Listener = Callable[[events.Event], Any]


class EventBus:
    """Passes every event to every listener. A listener that fails is logged, and does no harm."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._log: Listener = EventLog(logger_of)
        self._watch: list[Listener] = []
        self._logging = 0
        self._mailboxes: weakref.WeakSet[_Mailbox] = weakref.WeakSet()
        self._turns: set[asyncio.Task[None]] = set()

    def emit(self, event: events.Event) -> None:
        """Pass an event on, now."""
        listeners = self._listeners if self._logging else [self._log, *self._listeners]
        for listener in tuple(listeners):
            try:
                listener(event)
            except Exception as error:
                _log_listener(event, error)
        for watch in self._watch:
            watch(event)

    def watch(self, watch: Listener) -> None:
        """Pass every event to a part of the engine too, after the listeners: it may emit further ones."""
        self._watch.append(watch)

    def subscribe(
        self, listener: Callable[[events.Event], Awaitable[None] | None], *, logs: bool = False
    ) -> Callable[[], None]:
        """Add a listener; call the result to remove it. An async one gets one event after the other, in a task of its own.

        ``logs``: whether it shows or logs what happens, so that retl's own logger need not.
        """
        added = self._in_turn(listener) if _is_async(listener) else listener
        self._listeners.append(added)
        self._logging += logs

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(added)
                self._logging -= logs

        return unsubscribe

    def _in_turn(self, listener: Callable[[events.Event], Any]) -> Listener:
        """Call an async listener with one event after the other; the oldest beyond 1,000 are missed."""
        waiting: deque[events.Event] = deque(maxlen=_KEPT)
        busy = False

        async def work() -> None:
            nonlocal busy
            try:
                while waiting:
                    event = waiting.popleft()
                    try:
                        await listener(event)
                    except Exception as error:
                        _log_listener(event, error)
            finally:
                busy = False

        def put(event: events.Event) -> None:
            nonlocal busy
            waiting.append(event)
            if not busy:
                busy = True
                task = asyncio.get_running_loop().create_task(work())
                self._turns.add(task)
                task.add_done_callback(self._turns.discard)

        return put

    async def settle(self) -> None:
        """Wait, not for long, until the async listeners have had what was emitted."""
        here = asyncio.get_running_loop()
        turns = [task for task in self._turns if task.get_loop() is here]
        if turns:
            await asyncio.wait(turns, timeout=_SETTLE_SECONDS)

    def stream(self) -> AsyncIterator[events.Event]:
        """The events from now on, up to ``PipelineStopped`` or ``end``. A slow reader misses the oldest beyond 1,000."""
        mailbox = _Mailbox()
        self._mailboxes.add(mailbox)
        unsubscribe = self.subscribe(mailbox.put)
        stream = _read(mailbox, unsubscribe)
        # A stream that is thrown away unread never gets to unsubscribe by itself.
        weakref.finalize(stream, unsubscribe).atexit = False
        return stream

    def end(self) -> None:
        """End every stream: its reader gets what it has not read yet, and no more."""
        for mailbox in tuple(self._mailboxes):
            mailbox.end()


def _is_async(listener: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(getattr(listener, "__call__", None))  # noqa: B004  # an object may be called


def _log_listener(event: events.Event, error: Exception) -> None:
    log_unexpected("a listener of a pipeline's events failed", error, pipeline=event.pipeline)


class _Mailbox:
    """Events that wait for their reader. May be made before there is an event loop."""

    def __init__(self) -> None:
        self.queue: deque[events.Event] = deque(maxlen=_KEPT)
        self.ended = False
        self._arrived: anyio.Event | None = None

    def put(self, event: events.Event) -> None:
        self.queue.append(event)
        self.ended = self.ended or isinstance(event, events.PipelineStopped)
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    async def arrival(self) -> None:
        """Wait for the next event, or for the end."""
        self._arrived = anyio.Event()
        await self._arrived.wait()


async def _read(mailbox: _Mailbox, unsubscribe: Callable[[], None]) -> AsyncIterator[events.Event]:
    try:
        while True:
            while mailbox.queue:
                yield mailbox.queue.popleft()
            if mailbox.ended:
                return
            await mailbox.arrival()
    finally:
        unsubscribe()
