"""Checks of what a pipeline is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from retl.connectors.base import Connector, Source, Target
from retl.model.errors import ConfigError, RetlError
from retl.model.typed import check_length, wrong_type
from retl.state.base import StateStore

ABANDONED = "the run was stopped, and something in it did not end within its grace"

SideT = TypeVar("SideT", Source, Target)
ItemT = TypeVar("ItemT")


def once(call: Callable[[], None]) -> Callable[[], None]:
    """The call, the first time only."""
    waiting = [call]

    def first() -> None:
        if waiting:
            waiting.pop()()

    return first


@contextmanager
def in_context(pipeline: str) -> Iterator[None]:
    """Errors on their way out name the pipeline."""
    try:
        yield
    except RetlError as error:
        error.with_context(pipeline=pipeline)
        raise


def check_name(name: object) -> str:
    """The name of a pipeline. Raises ``ConfigError`` where it is none."""
    if not isinstance(name, str):
        raise wrong_type("the name of a pipeline", name, 'text, such as "orders"')
    if not name.strip():
        raise ConfigError("a pipeline needs a name.", remedy='give it one, such as "orders".')
    with in_context(name):
        check_length("the name of a pipeline", name)
    return name


def listed(word: str, values: Iterable[ItemT]) -> Iterable[ItemT]:
    """The values; raises ``ConfigError`` for a text, whose letters they would be."""
    if isinstance(values, str):
        raise ConfigError(f"{word} is the text {values!r}.", remedy=f"write {word}=[{values!r}].")
    return values


def check_loop(pipeline: str) -> None:
    """Raise ``ConfigError`` where no event loop of asyncio runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "retl runs in an event loop of asyncio, and there is none here.",
            remedy='start with asyncio.run or anyio.run(..., backend="asyncio"), not with trio.',
            pipeline=pipeline,
        ) from None


def check_count(word: str, value: object, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong_type(word, value, wanted)


def opened(connector: Connector, open_it: Callable[[], SideT]) -> SideT:
    """Open a connector as a source or a target. Raises ``ConfigError`` where its driver is not installed."""
    try:
        return open_it()
    except ModuleNotFoundError as error:
        ours = type(connector).__module__.startswith("retl.")
        raise ConfigError(
            f"{type(connector).__name__} needs the Python package {error.name!r}, which is not installed.",
            remedy=f"pip install 'retl[{connector.type_name}]'" if ours else "install it.",
        ) from error


def check_side(given: object, kind: type, what: str, wrapper: str) -> None:
    if not isinstance(given, kind):
        raise ConfigError(
            f"the {what} is of type {type(given).__name__}, which is not a connector.",
            remedy=f"choose one of retl.connectors; a function of yours goes into retl.connectors.{wrapper}.",
        )


def no_store(target: Target) -> StateStore:
    raise ConfigError(
        f"the target ({target.system}) has no place for checkpoints, and the pipeline has no state store.",
        remedy='give it state=retl.SqliteStore("retl-state.db"), or retl.MemoryStore() where starting over with each process is right.',
    )


def word_of(kind: Any, value: Any, what: str) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{what} is {value!r}.", remedy="use one of " + ", ".join(kind) + ".") from None
