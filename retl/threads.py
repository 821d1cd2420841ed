"""One worker thread that owns a blocking handle, so that the host's event loop never waits for it.

Lowest room of the house: it knows nothing of retl but its name.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, cast
from weakref import WeakSet

import anyio

T = TypeVar("T")


_LOOK_SECONDS = 0.25
"""How often those who wait look whether they still should."""


class Grace:
    """Whether those who wait for a clean end should go on waiting."""

    def __init__(self, outer: Grace | None = None) -> None:
        self._outer = outer
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether it has ended, or that of what this is a part of."""
        return self._ended or (self._outer is not None and self._outer.over)

    def end(self) -> None:
        self._ended = True


_grace: ContextVar[Grace | None] = ContextVar("retl_grace", default=None)


@contextmanager
def graced() -> Iterator[Grace]:
    """For this block and its tasks: once ``over`` is set, nobody in it waits for what hangs."""
    grace = Grace(_grace.get())
    token = _grace.set(grace)
    try:
        yield grace
    finally:
        _grace.reset(token)


def _is_over() -> bool:
    grace = _grace.get()
    return grace is not None and grace.over


class OfOneProcess(Protocol):
    """What a process that was forked must not go on with as its parent had it."""

    def after_fork(self) -> None:
        """Begin anew in the forked process. Neither waits nor closes anything: that is the parent's."""


_of_one_process: WeakSet[OfOneProcess] = WeakSet()
_of_parents: list[object] = []
"""Handles of the parent process: never closed here, not even by the garbage collector."""


def renew_after_fork(held: OfOneProcess) -> None:
    """Have ``after_fork`` called in every process that is forked while ``held`` lives."""
    _of_one_process.add(held)


def leave_to_parent(handle: object) -> None:
    """Keep a handle of the parent process from being closed in this one."""
    _of_parents.append(handle)


def _renew() -> None:
    for held in tuple(_of_one_process):
        with suppress(Exception):
            held.after_fork()


os.register_at_fork(after_in_child=_renew)


class CallFailed(RuntimeError):
    """A call raised what no coroutine can pass on; that is the ``__cause__``.

    ``StopIteration`` would leave a Future that never ends, and ``CancelledError`` or
    ``GeneratorExit`` that nobody asked for would end its caller.
    In a thread neither ``KeyboardInterrupt`` nor ``SystemExit`` comes from outside.
    """


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a call returned or raised, as a value: not every exception survives a Future."""

    value: T | None = None
    error: BaseException | None = None

    def unwrap(self) -> T:
        """The value; raises what the call raised."""
        error = self.error
        if error is None:
            return cast(T, self.value)
        try:
            if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
                raise error
            raise CallFailed(f"a call raised {type(error).__name__}") from error
        finally:
            del self, error  # no circle of traceback and frame


class Worker:
    """Runs blocking calls one after another in a thread of its own.

    Cancellation is prompt and clean: the running call is interrupted (``interrupt`` must
    be safe to call from another thread) and has ended by the time ``run`` raises, so the
    handle is never used by two threads at once. After ``most`` seconds, where given, and
    once the ``Grace`` of its run is over, a call is left behind in its thread, and
    later ones get another thread.
    """

    def __init__(self, name: str, interrupt: Callable[[], None] | None = None, *, most: float | None = None) -> None:
        self._name = f"retl-{name}"
        self._most = most
        self._thread = _Thread(self._name)
        self._interrupt = interrupt
        self.left_behind = False
        """Whether a call was left to itself: what it uses must not be touched."""

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """The result of ``call(*arguments)``, run in the worker's thread."""
        job = _Job(self._interrupt)
        running = self._thread.submit(lambda: job.run(call, *arguments))
        waiting = asyncio.wrap_future(running)
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            # The shield keeps anyio from cancelling again in every turn of the loop.
            with anyio.CancelScope(shield=True):
                await self._settle(job, running, waiting)
            raise
        return waiting.result().unwrap()

    async def _settle(self, job: _Job, running: Future[Any], waiting: asyncio.Future[Any]) -> None:
        """Wait until a cancelled call has ended; further cancellations cannot cut that short."""
        if running.cancel():
            return
        began = time.monotonic()
        while not waiting.done():
            if _is_over() or (self._most is not None and time.monotonic() - began > self._most):
                self._leave_behind()
                return
            job.interrupt()
            try:
                # Repeated, since an interrupt between two statements has no effect.
                await asyncio.wait([waiting], timeout=0.05)
            except asyncio.CancelledError:
                continue

    def _leave_behind(self) -> None:
        self.left_behind = True
        self._thread.close()
        self._thread = _Thread(self._name)

    def close(self) -> None:
        """Let the thread end after the call that it runs. Does not wait."""
        self._thread.close()


class _Thread:
    """Runs calls in turn, in a thread that begins with the first one.

    A daemon: the interpreter ends although a call of the user's never does. Threads of an executor are waited for.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._begun_in: int | None = None
        self._closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        if self._closed:
            raise RuntimeError("the worker is closed")
        if self._begun_in != os.getpid():  # a fork leaves the thread to the parent
            self._begun_in, self._calls = os.getpid(), SimpleQueue()
            threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True).start()
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        self._closed = True
        self._calls.put(None)

    def __del__(self) -> None:
        self._calls.put(None)


def _work(calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if future.set_running_or_notify_cancel():
            future.set_result(call())
        del item, future, call  # they hold what the next call may wait for


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Finish ``work`` even if the caller is cancelled; the cancellation is raised afterwards.

    A shielded scope of anyio alone does not stop ``task.cancel()``.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task], timeout=_LOOK_SECONDS)
            except asyncio.CancelledError as error:
                cancelled = error
            if _is_over() and not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=_LOOK_SECONDS)
                task.add_done_callback(_see)
                raise cancelled or asyncio.CancelledError
    if cancelled is None:
        return task.result()
    _see(task)  # the cancellation counts for more
    raise cancelled


def _see(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def apart(work: Awaitable[T], *, patience: float = 10.0) -> T:
    """Await foreign ``work`` in a task of its own.

    What it does to its task (a cancel scope that is left open at a ``yield``, a
    cancellation that nobody asked for) does not reach the caller's. Where the caller is
    cancelled, ``work`` is cancelled once and has ``patience`` seconds to clean up.
    """
    task = start(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await end_task(task, patience=patience)
        raise
    return task.result().unwrap()


def start(work: Awaitable[T]) -> asyncio.Task[Outcome[T]]:
    """A task that returns what ``work`` returns or raises, as a value."""
    task = asyncio.get_running_loop().create_task(_outcome(work))
    task.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # seen: the keyboard's ends the loop itself
    return task


async def _outcome(work: Awaitable[T]) -> Outcome[T]:
    try:
        return Outcome(await work)
    except KeyboardInterrupt:
        raise  # on the event loop this is the keyboard
    except BaseException as error:
        return Outcome(error=error)


async def end_task(task: asyncio.Task[Any], *, patience: float) -> None:
    """Cancel a task and wait for its end, even if the caller is cancelled; cancels again a task that does not end."""
    deadline = 0.0
    while not task.done():
        if time.monotonic() >= deadline:
            task.cancel()
            deadline = time.monotonic() + patience
        try:
            await asyncio.wait([task], timeout=min(patience, _LOOK_SECONDS))
        except asyncio.CancelledError:
            continue
        if _is_over():
            return


class _Job:
    """One call. Interrupts only itself, never the next call in the thread."""

    def __init__(self, interrupt: Callable[[], None] | None) -> None:
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._runs = False

    def run(self, call: Callable[..., T], *arguments: Any) -> Outcome[T]:
        self._runs = True
        try:
            return Outcome(call(*arguments))
        except BaseException as error:
            return Outcome(error=error)
        finally:
            with self._lock:
                self._runs = False

    def interrupt(self) -> None:
        if self._interrupt is None:
            return
        with self._lock:
            if self._runs:
                self._interrupt()
