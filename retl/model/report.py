"""The report of a finished scan, and the progress of a running one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec.structs import replace

from retl.model.cursor import lag
from retl.model.embeddings import EmbeddingCounts, in_all
from retl.model.plain import Plain

ScanStatus = Literal["done", "failed", "stopped"]
_SUMS = ("rows", "older", "dropped", "bytes", "rejects", "null_cursor_rows", "slices")


class Progress(Plain, frozen=True, kw_only=True):
    """The progress of a scan; ``seconds`` since it began. ``rows_planned`` is ``None`` where the source cannot tell."""

    rows: int
    rows_planned: int | None
    bytes: int
    slices: int
    slices_planned: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows a second since the scan began."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time left at the present rate; ``None`` if it is unknown."""
        if self.rows_planned is None or not self.rate:
            return None
        return max(0.0, (self.rows_planned - self.rows) / self.rate)


class ScanReport(Plain, frozen=True, kw_only=True):
    """What one scan of one table did: ``started_at`` is a time of day in UTC, and ``seconds`` is how long it took.

    One with an empty ``table`` tells of a run that failed before its tables could be scanned.
    """

    pipeline: str
    table: str
    to: str
    scan_id: str
    status: ScanStatus
    mode: Literal["incremental", "full", "backfill"]
    pre_action: str = "none"
    started_at: datetime
    seconds: float
    rows: int = 0
    """Rows read and delivered, re-read ones included."""
    changed: int | None = None
    """Rows inserted or changed in the target, where it tells."""
    unchanged: int | None = None
    """Rows that the target held already, where it tells."""
    older: int = 0
    """Rows left out because the target holds a newer version of them."""
    dropped: int = 0
    """Rows that the target acknowledged but, by a rule of its own, did not keep."""
    bytes: int = 0
    rejects: int = 0
    embeddings: EmbeddingCounts | None = None
    """What the vectors of its texts took, where the table has any."""
    null_cursor_rows: int = 0
    slices: int = 0
    slices_planned: int = 0
    since: str | None = None
    """The start of a backfill's range, as it was asked for."""
    until: str | None = None
    lower: str | None = None
    upper: str | None = None
    highest: str | None = None
    """The highest cursor value that the source had when it was last planned: by this scan, or by one before it."""
    watermark: str | None = None
    cursor_family: str | None = None
    attempts: int = 1
    read_wait: float = 0.0
    """Seconds that the reader waited because the channel was full: the target is the slower side."""
    write_wait: float = 0.0
    """Seconds that the writer waited because the channel was empty: the source is the slower side."""
    warnings: tuple[str, ...] = ()
    error: str | None = None
    error_type: str | None = None
    next_run: datetime | None = None
    """The time of the next run; ``None`` for a single run."""
    last_success: datetime | None = None
    """When a scan of the table was done last: this one, or one before it."""
    failures: int = 0
    """How many scans of the table have failed one after the other, up to this one."""
    failing_since: datetime | None = None
    """When the first of them failed."""

    @property
    def lag(self) -> float | None:
        """How far the target was behind the source after this scan, in seconds (``retl.model.cursor.lag``)."""
        return lag(self.watermark, self.highest, complete=self.is_complete)

    @property
    def is_complete(self) -> bool:
        """Whether it has read all that was new at the source: a backfill reads a range alone."""
        return self.status == "done" and self.mode != "backfill"

    @property
    def is_of_run(self) -> bool:
        """Whether it tells of a run that could not begin, or could not find its tables; ``table`` is empty then."""
        return not self.table


def in_one(parts: Sequence[ScanReport]) -> ScanReport:
    """One report of a scan that gave way to others between its slices: it begins with the first part, and ends as the last one did."""
    first, last = parts[0], parts[-1]
    if first is last:
        return last
    return replace(
        last,
        started_at=first.started_at,
        seconds=(last.started_at - first.started_at).total_seconds() + last.seconds,
        changed=_sum([part.changed for part in parts]),
        unchanged=_sum([part.unchanged for part in parts]),
        embeddings=in_all([part.embeddings for part in parts if part.embeddings is not None]),
        slices_planned=sum(part.slices for part in parts[:-1]) + last.slices_planned,
        lower=first.lower,
        read_wait=round(sum(part.read_wait for part in parts), 3),
        write_wait=round(sum(part.write_wait for part in parts), 3),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        **{name: sum(getattr(part, name) for part in parts) for name in _SUMS},
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)


class RunReport(Plain, frozen=True):
    """One run of a pipeline: a report for each table, in their order."""

    pipeline: str
    scans: tuple[ScanReport, ...]
    errors: tuple[str, ...] = ()
    """Why tables were not scanned: the source does not have them, or could not list them, or the run was stopped."""

    @property
    def ok(self) -> bool:
        """Whether every table was found, and its scan is done."""
        return not self.errors and all(scan.status == "done" for scan in self.scans)

    @property
    def rows(self) -> int:
        return sum(scan.rows for scan in self.scans)
