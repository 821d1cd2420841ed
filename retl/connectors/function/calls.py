"""Calling what the user wrote: async on the event loop, everything else in a worker thread."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pyarrow as pa

from retl.connectors.function.rows import is_row
from retl.model.errors import ConfigError, RetlError, SourceError, TargetError
from retl.threads import Worker

_PULL_SECONDS = 0.2
_CLOSE_SECONDS = 10.0
_END = object()


def positional(call: Callable[..., Any]) -> int | None:
    """How many positional arguments a callable demands, or takes by the names used here; ``None``: any number."""
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


def is_async(call: Callable[..., Any]) -> bool:
    """Whether a call only makes a coroutine or an async generator, and so cannot block."""
    while isinstance(call, functools.partial):
        call = call.func
    if not inspect.isroutine(call):
        call = type(call).__call__
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def check_callable(call: Any, what: str) -> None:
    """Raise ``ConfigError`` for what cannot be called again and again."""
    if not callable(call):
        raise ConfigError(
            f"{what} is {type(call).__name__}, which cannot be called.",
            remedy="give the function itself, not what it returned: every scan calls it anew.",
        )


def read_failed(error: Exception) -> SourceError:
    """What an exception of the user's own means for the scan that reads."""
    return SourceError(
        f"the function that reads failed: {type(error).__name__}: {error}",
        remedy="correct it; raise retl.TransientError where trying again may help.",
        system="function",
    )


def write_failed(error: Exception) -> TargetError:
    """The same for the function that writes."""
    return TargetError(
        f"the function that writes failed: {type(error).__name__}: {error}",
        remedy="correct it; raise retl.TransientError where trying again may help.",
        system="function",
    )


async def open_items(worker: Worker, call: Callable[[], Any], limit: Callable[[], int]) -> AsyncIterator[list[Any]]:
    """What a function gives, some items at a time: at most ``limit()`` rows, or one page.

    The user's iterator is closed when this one is. Errors are ``RetlError``.
    """
    try:
        given = call() if is_async(call) else await worker.run(call)
        if inspect.isawaitable(given):
            given = await given
    except RetlError:
        raise
    except Exception as error:
        raise read_failed(error) from error
    if hasattr(given, "__aiter__"):
        items = _async_items(given)
    elif given is None:
        return
    elif is_row(given) or isinstance(given, pa.RecordBatch | pa.Table):
        items = _sync_items(worker, iter([given]), limit)
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        items = _sync_items(worker, given, limit)
    else:
        raise SourceError(
            f"the function that reads gave {type(given).__name__}.",
            remedy="let it yield, or return, dicts, Arrow batches or msgspec structs.",
        )
    try:
        async for some in items:
            yield some
    except RetlError:
        raise
    except Exception as error:
        raise read_failed(error) from error
    finally:
        await items.aclose()  # type: ignore[attr-defined]


async def _async_items(given: Any) -> AsyncIterator[list[Any]]:
    iterator = given.__aiter__()
    try:
        async for item in iterator:
            yield [item]
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            # The user's clean-up may await; a cancellation that is under way must not cut it short.
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await close()


async def _sync_items(worker: Worker, given: Iterable[Any], limit: Callable[[], int]) -> AsyncIterator[list[Any]]:
    iterator = await worker.run(iter, given)
    try:
        while True:
            some, ended = await worker.run(_pull, iterator, limit())
            if some:
                yield some
            if ended:
                return
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await worker.run(close)


def _pull(iterator: Iterator[Any], limit: int) -> tuple[list[Any], bool]:
    """Some items; not many where they are slow to come, for a call in a thread cannot be cancelled."""
    some: list[Any] = []
    deadline = time.monotonic() + _PULL_SECONDS
    while len(some) < limit and time.monotonic() < deadline:
        item = next(iterator, _END)
        if item is _END:
            return some, True
        some.append(item)
        if not is_row(item):
            break
    return some, False
