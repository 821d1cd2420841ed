"""Whether a scan still moves. What waits on purpose says so.

Lowest room of the house, beside ``retl.threads``: it knows nothing of retl.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Protocol


class Pulse:
    """When a scan moved last; a wait on purpose counts until its end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved = clock()
        self._unhurried = 0

    @property
    def still(self) -> float:
        """Seconds for which nothing has moved."""
        return 0.0 if self._unhurried else max(0.0, self._clock() - self._moved)

    def beat(self, after: float = 0.0) -> None:
        """Something moves: now, or at the end of a wait of so many seconds."""
        self._moved = max(self._moved, self._clock() + after)

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """A block that may take as long as it takes."""
        self._unhurried += 1
        try:
            yield
        finally:
            self._unhurried -= 1
            self.beat()


_current: ContextVar[Pulse | None] = ContextVar("retl_pulse", default=None)


@contextmanager
def pulse() -> Iterator[Pulse]:
    """A pulse for this block and its tasks."""
    made = Pulse()
    token = _current.set(made)
    try:
        yield made
    finally:
        _current.reset(token)


def current() -> Pulse | None:
    """The pulse of the scan under way, if one is taken."""
    return _current.get()


def beat(after: float = 0.0) -> None:
    """Say that the scan under way moves, or will after a wait on purpose of so many seconds."""
    if (pulse := current()) is not None:
        pulse.beat(after)


@contextmanager
def unhurried() -> Iterator[None]:
    """A block in which the scan under way may wait for as long as it takes: for its turn, for an index that is built."""
    if (pulse := current()) is None:
        yield
        return
    with pulse.unhurried():
        yield


class Lendable(Protocol):
    """The turn of a scan among others, as far as those know it who make scans wait."""

    def lend(self) -> bool:
        """Let a scan go on that holds what this one waits for. Returns whether there was one, so that it must be taken back."""

    async def take_back(self) -> None:
        """Wait for the turn that was lent."""


_turn: ContextVar[Lendable | None] = ContextVar("retl_turn", default=None)


@contextmanager
def taking_turns(turn: Lendable) -> Iterator[None]:
    """Have this block and its tasks lend the turn where they wait for what other scans hold."""
    token = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(token)


@asynccontextmanager
async def queued() -> AsyncGenerator[None, None]:
    """A block in which the scan under way waits for what other scans hold, and for as long as it takes.

    A scan that has given way holds it too, and goes on only when it has a turn: it gets that of the one that waits.
    """
    turn = _turn.get()
    with unhurried():
        lent = turn is not None and turn.lend()
        yield
        if turn is not None and lent:
            await turn.take_back()
