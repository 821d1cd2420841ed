"""A run that somebody waits for, beside those on schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import anyio

from retl.model.report import RunReport

Outcome: TypeAlias = tuple[RunReport, list[Exception]]


class Request:
    """Made in the event loop of the runs. To wait no longer ends the run."""

    def __init__(self, told: Callable[[Outcome], None] = lambda outcome: None) -> None:
        """``told`` is called with what came of it, at once."""
        self._answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._told = told
        self.scope = anyio.CancelScope()

    def answer(self, outcome: Outcome) -> None:
        """What came of it."""
        if not self._answer.done():
            self._answer.set_result(outcome)
            self._told(outcome)

    async def outcome(self) -> Outcome:
        """Wait until it has ended."""
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.scope.cancel()
            raise


def stopped_before(pipeline: str) -> Outcome:
    """The outcome of a run that a stop has not let begin, or end."""
    return RunReport(pipeline, (), ("not scanned, for the run was stopped",)), []
