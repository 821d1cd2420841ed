"""How a pipeline fares, kept from its events: what fails, since when, and what recovered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from retl.engine.bus import EventBus
from retl.engine.context import now
from retl.model import events
from retl.model.report import ScanReport


@dataclass
class TableHealth:
    """One table, or with the name "" the runs of the pipeline themselves."""

    last_success: datetime | None = None
    failures: int = 0
    """Failures one after the other, up to now."""
    since: datetime | None = None
    """The first of them."""
    error: str | None = None
    lag: float | None = None
    """That of the last scan: kept, since snapshots are asked for often."""


class Health:
    """Listens to a pipeline, counts failures, and tells when something recovered."""

    def __init__(self, pipeline: str, bus: EventBus) -> None:
        self._pipeline = pipeline
        self._bus = bus
        self.tables: dict[str, TableHealth] = {}
        self.runs = TableHealth()
        bus.watch(self._note)

    def knows(self, table: str) -> bool:
        """Whether it is known how the table's scans have fared."""
        return table in self.tables

    def remember(self, report: ScanReport) -> None:
        """Go on from the last report of another process."""
        one = self._table(report.table)
        one.last_success, one.failures, one.since = report.last_success, report.failures, report.failing_since
        one.error, one.lag = report.error, report.lag

    def after(self, report: ScanReport) -> ScanReport:
        """A report with how its table has fared up to it."""
        one, moment = self._table(report.table), now()
        if report.mode == "backfill":  # it says nothing of the scans on schedule
            return msgspec.structs.replace(
                report, last_success=one.last_success, failures=one.failures, failing_since=one.since
            )
        if report.status == "done":
            return msgspec.structs.replace(report, last_success=moment)
        failed = report.status == "failed"
        since = one.since or (moment if failed else None)
        return msgspec.structs.replace(
            report, last_success=one.last_success, failures=one.failures + failed, failing_since=since
        )

    def of_run(self, report: ScanReport) -> ScanReport:
        """The report of a run that failed, with how the runs have fared."""
        runs = self.runs
        return msgspec.structs.replace(
            report, last_success=runs.last_success, failures=runs.failures, failing_since=runs.since
        )

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.ScanFailed | events.ScanFinished) and event.report.mode == "backfill":
            return  # whether it succeeds says nothing of the scans on schedule
        if isinstance(event, events.ScanFailed):
            self.remember(event.report)
        elif isinstance(event, events.RunFailed):
            _fail(self.runs, event.error)
        elif isinstance(event, events.ScanFinished):
            self._finished(event.report)

    def _finished(self, report: ScanReport) -> None:
        self._table(report.table).lag = report.lag
        if report.status == "done":
            self._succeed(self._table(report.table), report.table, report.last_success or now())

    def run_ended(self) -> None:
        """A run has begun and ended without an error of its own."""
        self._succeed(self.runs, "", now())

    def _table(self, name: str) -> TableHealth:
        return self.tables.setdefault(name, TableHealth())

    def _succeed(self, one: TableHealth, table: str, moment: datetime) -> None:
        failures, since = one.failures, one.since
        one.last_success, one.failures, one.since, one.error = moment, 0, None, None
        if failures and since is not None:
            self._bus.emit(
                events.Recovered(pipeline=self._pipeline, at=now(), table=table, since=since, failures=failures)
            )


def _fail(one: TableHealth, error: str | None) -> None:
    one.failures += 1
    one.since = one.since or now()
    one.error = error
