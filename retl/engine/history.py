"""What scans came to: counted, written to the state store, and kept while that does not answer."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

import msgspec

from retl.engine.context import new_scan_id, now
from retl.engine.health import Health
from retl.engine.log import error_text
from retl.model.errors import RetlError, TransientError
from retl.model.report import ScanReport
from retl.state.base import StateStore

_MOST_WAITING = 500
"""Reports that are kept while the store does not answer; the newest ones tell how many there were."""


class History:
    """The reports of one pipeline. An outage of the store loses none but the oldest, as long as the process lives."""

    def __init__(self, pipeline: str, store: StateStore, health: Health) -> None:
        self._pipeline = pipeline
        self._store = store
        self._health = health
        self._waiting: deque[ScanReport] = deque(maxlen=_MOST_WAITING)
        self._catching_up = False
        self.last: dict[str, ScanReport] = {}
        """The newest report of each table that this process knows."""

    async def add(self, report: ScanReport) -> ScanReport:
        """Write the report of a scan, with how its table has fared up to now."""
        if (report.status != "done" or report.mode == "backfill") and not self._health.knows(report.table):
            await self._look_up(report.table)
        report = self._with_highest(self._health.after(report))
        self.last[report.table] = report
        await self._write_or_keep(report)
        return report

    async def add_failed_run(self, error: Exception, *, reachable: bool) -> None:
        """Note that a run failed before its tables were scanned. A store that is known not to answer is not asked."""
        report = self._health.of_run(
            ScanReport(
                pipeline=self._pipeline,
                table="",
                to="",
                scan_id=new_scan_id(),
                status="failed",
                mode="full",
                started_at=now(),
                seconds=0.0,
                error=error_text(error),
                error_type=type(error).__name__,
            )
        )
        if reachable:
            await self._write_or_keep(report)
        else:
            self._waiting.append(report)

    def forget_waiting(self) -> None:
        """Leave what waits to another process."""
        self._waiting.clear()
        self._catching_up = False

    async def catch_up(self) -> None:
        """Write what had to wait for the store."""
        if self._catching_up:
            return
        self._catching_up = True
        try:
            while self._waiting and await self._is_written(report := self._waiting[0]):
                with suppress(ValueError):  # so many have come that it was dropped
                    self._waiting.remove(report)
        finally:
            self._catching_up = False

    async def _write_or_keep(self, report: ScanReport) -> None:
        if self._waiting:  # in the order of time
            self._waiting.append(report)
            await self.catch_up()
        elif not await self._is_written(report):
            self._waiting.append(report)

    async def _is_written(self, report: ScanReport) -> bool:
        """Write a report; ``False`` where that is worth another try."""
        try:
            await self._store.add_report(report)
        except TransientError:
            return False
        except RetlError:
            pass  # the history is for people; the checkpoint is safe already
        return True

    async def _look_up(self, table: str) -> None:
        """How a table has fared in the processes before this one."""
        with suppress(RetlError):
            for report in await self._store.reports(self._pipeline, table, 1):
                self._health.remember(report)
                self.last.setdefault(table, report)

    def _with_highest(self, report: ScanReport) -> ScanReport:
        """A scan that could not plan, or a backfill: the source is known from the scan before it."""
        before = self.last.get(report.table)
        if report.is_complete or report.highest is not None or before is None:
            return report
        return msgspec.structs.replace(report, highest=before.highest)
