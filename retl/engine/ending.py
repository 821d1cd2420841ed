"""How what runs ends: within a grace, and then wherever it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from retl.threads import Grace

_CLEAN_UP_SECONDS, _CLEAN_UP_AT_ONCE_SECONDS = 0.5, 5.0
"""How long what was abandoned may take to clean up: at the end of a grace, and where there was none."""


class Ending:
    """The scopes of one pipeline's runs, and when they are cancelled."""

    def __init__(self) -> None:
        self._whole: anyio.CancelScope | None = None
        self._runs: set[anyio.CancelScope] = set()
        self._limits: list[asyncio.TimerHandle] = []
        self._grace = Grace()

    def begin(self, grace: Grace) -> None:
        """A new run begins; its blocking calls end with this grace."""
        self._grace = grace

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All of it: cancelled once what was abandoned had its time to clean up."""
        with anyio.CancelScope() as self._whole:
            yield

    @contextmanager
    def run(self) -> Iterator[anyio.CancelScope]:
        """A part of it that is abandoned at the end of the grace."""
        with anyio.CancelScope() as scope:
            self._runs.add(scope)
            try:
                yield scope
            finally:
                self._runs.discard(scope)

    def limit(self, grace: float) -> None:
        """In the event loop of the run: end it within so many seconds."""
        loop = asyncio.get_running_loop()
        clean_up = _CLEAN_UP_SECONDS
        if grace <= 0:
            self._abandon()
            clean_up = _CLEAN_UP_AT_ONCE_SECONDS
        else:
            self._limits.append(loop.call_later(grace, self._abandon))
        self._limits.append(loop.call_later(grace + clean_up, self._give_up))

    def _abandon(self) -> None:
        for scope in self._runs:
            scope.cancel()

    def _give_up(self) -> None:
        self._grace.end()
        if self._whole is not None:
            self._whole.cancel()

    def rest(self) -> None:
        """The run is over: nothing is left to end."""
        while self._limits:
            self._limits.pop().cancel()
