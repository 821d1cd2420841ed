"""Call the user's code: async on the event loop, everything else in a worker thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from retl.model.errors import ConfigError, RetlError, TransientError
from retl.threads import CallFailed, Worker, apart

CLOSE_SECONDS = 10.0
"""How long the user's code may go on after it was cancelled."""
REMEDY = "correct it; raise retl.TransientError where trying again may help."


def is_async(call: Callable[..., Any]) -> bool:
    """Whether a call only makes a coroutine or an async generator, and so cannot block."""
    while isinstance(call, functools.partial):
        call = call.func
    if not inspect.isroutine(call):
        call = type(call).__call__
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def check_callable(call: Any, what: str) -> None:
    """Raise ``ConfigError`` for an object that cannot be called repeatedly."""
    if not callable(call):
        raise ConfigError(
            f"{what} is {type(call).__name__}, which cannot be called.",
            remedy="give the function itself, not what it returned: every scan calls it anew.",
        )


def _name(call: Callable[..., Any]) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    return getattr(call, "__qualname__", type(call).__qualname__)


Failed = Callable[[Callable[..., Any], BaseException], RetlError]
"""Makes the retl error that an exception of the user's function means."""


def failure(what: str, call: Callable[..., Any], error: BaseException) -> str:
    """What is said of an exception of the user's code: ``what`` names its part."""
    leaf = _leaves(error)[0]
    try:
        told = str(leaf)
    except Exception:  # foreign code: its str() may fail
        told = ""
    return f"{what} ({_name(call)}) failed: {type(leaf).__name__}{': ' if told else ''}{told}"


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


@contextmanager
def guarded(call: Callable[..., Any], failed: Failed) -> Iterator[None]:
    """Turn every exception of the user's code into a ``RetlError`` that names the function."""
    try:
        yield
    except RetlError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, CallFailed) and error.__cause__ is not None else error
        leaves = _leaves(cause)
        if isinstance(leaves[0], RetlError) and all(isinstance(leaf, TransientError) for leaf in leaves):
            raise leaves[0] from cause
        raise failed(call, cause) from cause


def user_worker() -> Worker:
    """The thread of the user's code."""
    return Worker("function", most=CLOSE_SECONDS)


async def call_user(worker: Worker, failed: Failed, call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of the user's function, awaited if necessary. Errors are ``RetlError``."""
    with guarded(call, failed):
        given = call(*arguments) if is_async(call) else await worker.run(call, *arguments)
        return await apart(given) if inspect.isawaitable(given) else given
