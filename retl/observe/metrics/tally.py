"""Counts what pipelines do, from their events; what they are right now comes from their snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

from retl.model import events
from retl.model.report import ScanReport
from retl.model.status import PipelineState, Snapshot
from retl.observe.metrics import names
from retl.observe.metrics.names import Metric
from retl.pipeline import Pipeline

Labels = tuple[str, ...]

_OF_TABLES = tuple(metric for metric in names.METRICS if metric.kind == "counter" and metric.labels == names.TABLE)
_OF_PIPELINES = tuple(
    metric for metric in names.METRICS if metric.kind == "counter" and metric.labels == names.PIPELINE
)


class Value(NamedTuple):
    """One number, with the values of its metric's labels."""

    metric: Metric
    labels: Labels
    number: float


class _Counted(NamedTuple):
    """What of a scan under way is counted already."""

    scan_id: str = ""
    rows: int = 0
    bytes: int = 0


class Tally:
    """The numbers of some pipelines. It may be read from any thread.

    ``took`` is called with the labels and the seconds of each scan that ends.
    """

    def __init__(self, pipelines: Sequence[Pipeline], took: Callable[[Labels, float], None]) -> None:
        self._pipelines: tuple[Pipeline, ...] = ()
        self._subscribed: dict[Pipeline, Callable[[], None]] = {}
        self._took = took
        self._counts: dict[tuple[Metric, Labels], float] = {}
        self._counted: dict[Labels, _Counted] = {}
        self._hears: dict[type[events.Event], Callable[[Any], None]] = {
            events.ScanStarted: self._started,
            events.SliceCommitted: self._committed,
            events.ScanFinished: lambda event: self._ended(event.report),
            events.ScanFailed: lambda event: self._ended(event.report),
            events.RetryScheduled: lambda event: self._add(names.RETRIES, _table(event)),
            events.ScanStalled: lambda event: self._add(names.STALLS, _table(event)),
            events.Warned: lambda event: self._add(names.WARNINGS, _table(event)),
            events.RunFailed: lambda event: self._add(names.RUN_FAILURES, (event.pipeline,)),
            events.TicksMissed: lambda event: self._add(names.MISSED, (event.pipeline,), event.missed),
            events.LeaseAcquired: lambda event: self._add(names.LEASES, (event.pipeline,)),
            events.LeaseGone: lambda event: self._add(names.LOST, (event.pipeline,)),
        }
        self.follow(pipelines)

    def follow(self, pipelines: Iterable[Pipeline]) -> None:
        """Count these from now on. What was counted before stays; what others are right now is told no more."""
        self._pipelines = tuple(pipelines)
        for pipeline in [known for known in self._subscribed if known not in self._pipelines]:
            self._subscribed.pop(pipeline)()
        for pipeline in self._pipelines:
            for metric in _OF_PIPELINES:
                self._add(metric, (pipeline.name,), 0)
            if pipeline not in self._subscribed:
                self._subscribed[pipeline] = pipeline.subscribe(self._hear)

    def close(self) -> None:
        """Count no more, and tell nothing any more."""
        self.follow(())
        self._counts.clear()

    def counters(self) -> Iterator[Value]:
        """All counters as they stand."""
        for (metric, labels), number in list(self._counts.items()):
            yield Value(metric, labels, number)

    def gauges(self) -> Iterator[Value]:
        """All gauges as they stand."""
        by_name = {pipeline.name: pipeline for pipeline in self._pipelines}  # of two, the one that follows the other
        for pipeline in by_name.values():
            yield from _of_snapshot(pipeline.snapshot())

    # Events -----------------------------------------------------------------

    def _hear(self, event: events.Event) -> None:
        hears = self._hears.get(type(event))
        if hears is not None:
            hears(event)

    def _add(self, metric: Metric, labels: Labels, number: float = 1) -> None:
        place = metric, labels
        self._counts[place] = self._counts.get(place, 0) + number

    def _started(self, event: events.ScanStarted) -> None:
        labels = _table(event)
        if labels not in self._counted:
            for metric in _OF_TABLES:  # so that the first of each kind shows as an increase
                self._add(metric, labels, 0)
        self._counted[labels] = _Counted(event.scan_id)

    def _committed(self, event: events.SliceCommitted) -> None:
        labels = _table(event)
        self._count(labels, event.scan_id, event.progress.rows, event.progress.bytes)

    def _count(self, labels: Labels, scan_id: str, rows: int, size: int) -> None:
        """Count what is more than the last time. A scan may take back rows that it gave up."""
        before = self._counted.get(labels, _Counted())
        if before.scan_id != scan_id:
            before = _Counted(scan_id)
        now = _Counted(scan_id, max(rows, before.rows), max(size, before.bytes))
        self._counted[labels] = now
        self._add(names.ROWS, labels, now.rows - before.rows)
        self._add(names.BYTES, labels, now.bytes - before.bytes)

    def _ended(self, report: ScanReport) -> None:
        labels = report.pipeline, report.table
        # Else what is beyond the last commit is not there; and a backfill that gave way to others was several scans,
        # whose slices are counted, and whose report tells of all of them.
        if report.status == "done" and report.mode != "backfill":
            self._count(labels, report.scan_id, report.rows, report.bytes)
        self._add(names.CHANGED, labels, report.changed or 0)
        self._add(names.REJECTS, labels, report.rejects)
        self._add(names.SCANS, (*labels, report.status))
        self._add(names.READ_WAIT, labels, report.read_wait)
        self._add(names.WRITE_WAIT, labels, report.write_wait)
        self._took(labels, report.seconds)


def _table(event: Any) -> Labels:
    return event.pipeline, event.table


def _of_snapshot(snapshot: Snapshot) -> Iterator[Value]:
    here = (snapshot.pipeline,)
    yield Value(names.OWNER, here, snapshot.owner)
    yield Value(names.HEALTHY, here, snapshot.healthy)
    if snapshot.reachable is not None:
        yield Value(names.STORE, here, snapshot.reachable)
    for state in get_args(PipelineState):
        yield Value(names.STATE, (*here, state), snapshot.state == state)
    for table in snapshot.tables:
        labels = snapshot.pipeline, table.table
        yield Value(names.FAILURES, labels, table.failures)
        if table.last_success is not None:
            yield Value(names.LAST_SUCCESS, labels, table.last_success.timestamp())
        if table.lag is not None:
            yield Value(names.LAG, labels, table.lag)
