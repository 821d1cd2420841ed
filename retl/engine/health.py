"""How a pipeline fares, kept from its events: what fails, since when, and what recovered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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


class Health:
    """Listens to a pipeline, counts failures, and tells when something recovered."""

    def __init__(self, pipeline: str, bus: EventBus) -> None:
        self._pipeline = pipeline
        self._bus = bus
        self.tables: dict[str, TableHealth] = {}
        self.runs = TableHealth()
        bus.watch(self._note)

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.ScanFailed | events.ScanFinished) and event.report.mode == "backfill":
            return  # whether it succeeds says nothing of the scans on schedule
        if isinstance(event, events.ScanFailed):
            _fail(self._table(event.report.table), event.report.error)
        elif isinstance(event, events.RunFailed):
            _fail(self.runs, event.error)
        elif isinstance(event, events.ScanFinished):
            self._finished(event.report)

    def _finished(self, report: ScanReport) -> None:
        if report.status == "done":
            self._succeed(self._table(report.table), report.table)

    def run_ended(self) -> None:
        """A run has begun and ended without an error of its own."""
        self._succeed(self.runs, "")

    def _table(self, name: str) -> TableHealth:
        return self.tables.setdefault(name, TableHealth())

    def _succeed(self, one: TableHealth, table: str) -> None:
        failures, since = one.failures, one.since
        one.last_success, one.failures, one.since, one.error = now(), 0, None, None
        if failures and since is not None:
            self._bus.emit(
                events.Recovered(pipeline=self._pipeline, at=now(), table=table, since=since, failures=failures)
            )


def _fail(one: TableHealth, error: str | None) -> None:
    one.failures += 1
    one.since = one.since or now()
    one.error = error
