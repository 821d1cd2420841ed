"""Backfills as runs: beside the schedule of the pipeline that is served here, or alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retl.engine.asked import AskedBackfills
from retl.engine.request import Outcome, Request
from retl.engine.tables import Tables
from retl.engine.ticks import Due, Ticks
from retl.engine.wanted import Wanted, wanted_range
from retl.model.backfills import BackfillStatus
from retl.model.range import CursorRange


class AskedRuns:
    """The backfills that one pipeline runs in this process."""

    def __init__(self, tables: Tables, ticks: Ticks, backfills: AskedBackfills, *, wake: Callable[[], None]) -> None:
        self._tables = tables
        self._ticks = ticks
        self._backfills = backfills
        self._wake = wake

    def begin(self, asked: BackfillStatus, request: Request) -> None:
        """Begin one that was sent here. Raises ``ConfigError`` for a table that the pipeline does not have."""
        wanted = wanted_range(self._tables, asked.table, asked.since, asked.until)
        self._begin(replace(wanted, asked=asked.id), request)

    async def beside(self, wanted: Wanted) -> Outcome:
        """One of this process, beside its schedule. Raises ``TargetBusy`` where one of the table was sent and has not ended."""
        await self._backfills.check_free(*(wanted.names or ()))
        request = Request()
        self._begin(wanted, request)
        return await request.outcome()

    def _begin(self, wanted: Wanted, request: Request) -> None:
        self._ticks.ask(Due(wanted, request=request))
        self._wake()

    async def instead(self, wanted: Wanted, ends: CursorRange) -> tuple[Wanted, Request]:
        """One that runs alone, of a pipeline that nobody serves: where the same was sent before, it ends with this one.

        Raises ``TargetBusy`` where another one of the table was sent and has not ended.
        """
        asked = await self._backfills.same(*(wanted.names or ()), ends=ends)
        if asked is None:
            return wanted, Request()
        return replace(wanted, asked=asked.id), self._backfills.joined(asked)
