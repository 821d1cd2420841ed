"""Limits for retries, with growing pauses."""

from __future__ import annotations

import random
import time

import anyio

from retl.pulse import beat


class RetryBudget:
    """Attempts and seconds that one task may spend on failures, with growing pauses between them.

    ``await budget.wait(error)`` after each failure pauses, or raises the error if the budget is spent;
    ``budget.reset()`` after progress gives all of it back. Each pause is up to twice as long as the one before, up to
    ``longest``, less a random share of up to half, so that many clients do not come back at once.
    """

    def __init__(
        self, *, attempts: int | None = None, seconds: float | None = None, first: float = 0.1, longest: float = 10.0
    ) -> None:
        self._attempts = attempts
        self._seconds = seconds
        self._first = first
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        self._failed = 0
        self._pause = self._first
        self._until = None if self._seconds is None else time.monotonic() + self._seconds

    async def wait(self, error: Exception, *, counts: bool = True, exactly: float | None = None) -> None:
        """Pause after a failure. One that does not count only costs time; ``exactly``: the pause that the server asked for."""
        self._failed += counts
        pause = random.uniform(self._pause / 2, self._pause) if exactly is None else exactly
        if self._attempts is not None and counts and self._failed >= self._attempts:
            raise error
        if self._until is not None and time.monotonic() + pause > self._until:
            raise error
        self._pause = min(2 * self._pause, self._longest)
        beat(pause)
        await anyio.sleep(pause)
