"""Read from the user's functions and iterators."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pyarrow as pa

from retl.calls import CLOSE_SECONDS, REMEDY, call_user, failure, guarded
from retl.connectors.function.rows import is_row
from retl.connectors.function.snapshot import Snapshots, check_distinct, is_lazy, is_page
from retl.model.errors import SourceError, TargetError
from retl.pulse import beat
from retl.threads import Outcome, Worker, end_task, start

_PULL_SECONDS = 0.2
_TURN_SECONDS = 0.01
"""Seconds after which an async iterator that never waits yields to the event loop."""
_END = object()


def positional(call: Callable[..., Any]) -> int | None:
    """How many positional arguments a callable requires, or accepts under the names used here; ``None``: any number."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return 1
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and (parameter.default is parameter.empty or parameter.name in ("window", "context"))
        for parameter in parameters
    )


def read_failed(call: Callable[..., Any], error: BaseException) -> SourceError:
    """The error for an exception of the function that reads."""
    return SourceError(failure("the function that reads", call, error), remedy=REMEDY, system="function")


def clock_failed(call: Callable[..., Any], error: BaseException) -> SourceError:
    """The same for the clock."""
    return SourceError(failure("the clock", call, error), remedy=REMEDY, system="function")


def write_failed(call: Callable[..., Any], error: BaseException) -> TargetError:
    """The same for the function that writes."""
    return TargetError(failure("the function that writes", call, error), remedy=REMEDY, system="function")


async def open_items(
    worker: Worker, call: Callable[[], Any], limit: Callable[[], int], check: Callable[[Any], None]
) -> AsyncGenerator[list[Any], None]:
    """The items of a function, some at a time: at most ``limit()`` rows, or one page.

    ``check`` sees what the function returned. The user's iterator is closed with this one.
    Errors are ``RetlError``.
    """
    given = await call_user(worker, read_failed, call)
    if given is None:
        return
    check(given)
    with guarded(call, read_failed):
        async with aclosing(_items(worker, given, limit)) as items:
            async for some in items:
                if not (is_page(some[-1]) and is_lazy(some[-1])):
                    yield some
                    continue
                if some[:-1]:
                    yield some[:-1]
                async with aclosing(_sync_items(worker, some[-1], limit)) as more:
                    async for rows in more:
                        yield rows


def _items(worker: Worker, given: Any, limit: Callable[[], int]) -> AsyncGenerator[list[Any], None]:
    if hasattr(given, "__aiter__"):
        return _AsyncItems(given, limit).items()
    if is_row(given) or isinstance(given, pa.RecordBatch | pa.Table):
        return _sync_items(worker, iter([given]), limit)
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return _sync_items(worker, given, limit)
    raise SourceError(
        f"the function that reads gave {type(given).__name__}.",
        remedy="let it yield, or return, dicts, Arrow batches or msgspec structs.",
    )


class _AsyncItems:
    """A user's async iterator, run in a task of its own and only as far as needed.

    A generator may yield inside a cancel scope or a task group: these belong to the task
    that entered them, and must be left in it, in their order.
    """

    def __init__(self, given: Any, limit: Callable[[], int]) -> None:
        self._given = given
        self._limit = limit
        self._ready: list[Any] = []
        self._asked = asyncio.Event()
        self._news = asyncio.Event()

    async def items(self) -> AsyncGenerator[list[Any], None]:
        task = start(self._run())
        task.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                self._asked.set()
                await self._news.wait()
                self._news.clear()
                self._asked.clear()
                some, self._ready = self._ready, []
                beat()
                if some:
                    yield some
                if task.done():
                    task.result().unwrap()
                    return
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(task)

    async def _end(self, task: asyncio.Task[Outcome[None]]) -> None:
        if task.done():
            return
        await end_task(task, patience=CLOSE_SECONDS)
        error = task.result().error if task.done() else None
        if isinstance(error, Exception):
            raise error  # out of the user's clean-up

    async def _run(self) -> None:
        snapshots = Snapshots()
        iterator = self._given.__aiter__()
        try:
            await self._asked.wait()
            deadline = time.monotonic() + _TURN_SECONDS
            async for item in iterator:
                self._ready.append(snapshots.copy(item))
                self._news.set()
                if self._is_enough(item, deadline):
                    self._asked.clear()
                if not self._asked.is_set():
                    await self._asked.wait()
                    deadline = time.monotonic() + _TURN_SECONDS
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    def _is_enough(self, item: Any, deadline: float) -> bool:
        return not is_row(item) or len(self._ready) >= self._limit() or time.monotonic() >= deadline


async def _sync_items(
    worker: Worker, given: Iterable[Any], limit: Callable[[], int]
) -> AsyncGenerator[list[Any], None]:
    if isinstance(given, list | tuple):
        check_distinct(given)
    iterator = await worker.run(iter, given)
    snapshots = Snapshots()
    try:
        while True:
            some, ended = await worker.run(_pull, iterator, limit(), snapshots)
            if some:
                beat()
            if some:
                yield some
            if ended:
                return
    finally:
        close = getattr(iterator, "close", None)
        if close is not None and not worker.left_behind:
            with anyio.CancelScope(shield=True):
                await worker.run(close)


def _pull(iterator: Iterator[Any], limit: int, snapshots: Snapshots) -> tuple[list[Any], bool]:
    """Some items; few if they are slow, since a call in a thread cannot be cancelled."""
    some: list[Any] = []
    deadline = time.monotonic() + _PULL_SECONDS
    while len(some) < limit and time.monotonic() < deadline:
        item = next(iterator, _END)
        if item is _END:
            return some, True
        some.append(snapshots.copy(item))
        if not is_row(item):
            break
    return some, False
