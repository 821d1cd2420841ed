"""A pipeline as it stands right now, for status pages and the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from retl.model.backfills import BackfillStatus
from retl.model.plain import Plain
from retl.model.report import Progress, ScanReport

PipelineState = Literal["stopped", "idle", "scanning", "paused", "standby"]


class TableStatus(Plain, frozen=True, kw_only=True):
    """One table: how it stands, its last scan, and the running one if there is one."""

    table: str
    to: str
    scheduled_scan: bool
    """Whether a schedule scans it: not where the pipeline is manual, or no longer declares the table."""
    declared: bool = True
    """Whether the pipeline still declares it."""
    watermark: str | None = None
    lag: float | None = None
    """Seconds from the watermark up to the highest cursor value that the source had when it was last planned: 0.0 for a target
    that has all of it, ``None`` where the cursor is not a time."""
    last_success: datetime | None = None
    """When a scan was done last: since then nobody has looked with success."""
    failures: int = 0
    """Failed scans since then."""
    since: datetime | None = None
    """When the first of them failed."""
    error: str | None = None
    """What the last scan failed with, if it did."""
    rejects: int = 0
    last: ScanReport | None = None
    progress: Progress | None = None
    """That of a scan under way, here or in another process."""
    progress_at: datetime | None = None
    """When that was so: for another process, when it last committed."""


class PipelineStatus(Plain, frozen=True, kw_only=True):
    """A pipeline and its tables. Times of day are in UTC."""

    pipeline: str
    state: PipelineState
    """That of this process; where it does not run the pipeline and another one does, that one's: scanning or idle."""
    schedule: str
    owner: str | None = None
    """The living process that runs it, in words."""
    epoch: int = 0
    """How often it has changed its owner; 0 where nobody has ever run it on this state store."""
    healthy: bool = True
    """Nothing fails: no declared table, no run."""
    failures: int = 0
    """Runs that have failed before their tables were scanned, one after the other."""
    since: datetime | None = None
    """When the first of them failed."""
    failure: str | None = None
    """What the last of them failed with."""
    last_run: datetime | None = None
    next_run: datetime | None = None
    paused_since: datetime | None = None
    """Since when no run starts on schedule, whichever process owns the pipeline."""
    tables: tuple[TableStatus, ...] = ()
    backfills: tuple[BackfillStatus, ...] = ()
    """Those that were sent to the owner, in their order: all that have not ended, and the last ones that have."""
    reachable: bool = True
    """Whether the state store has answered; if not, all of this is what this process knows by itself."""
    error: str | None = None
    """Why the state store has not answered."""
    snapshot: Snapshot | None = None


class TableSnapshot(Plain, frozen=True, kw_only=True):
    """One table, as this process knows it."""

    table: str
    last_success: datetime | None = None
    failures: int = 0
    """Failed scans since the last success."""
    since: datetime | None = None
    """When the first of them failed."""
    error: str | None = None
    lag: float | None = None
    """Seconds from the watermark up to what the source had when it was last planned; ``None`` where that is unknown."""
    progress: Progress | None = None


class Snapshot(Plain, frozen=True, kw_only=True):
    """A pipeline as its own process knows it, without asking anybody. Times are in UTC."""

    pipeline: str
    state: PipelineState
    healthy: bool
    """Nothing fails: no table, no run. A standby is healthy."""
    owner: bool = False
    """Whether this process owns the pipeline, and may write."""
    stuck: str | None = None
    """What has stopped so that only a new process helps, for people; ``None`` where all moves. For a liveness probe."""
    waits_for: str | None = None
    """What it waits for, for people; ``None`` while it scans."""
    paused_since: datetime | None = None
    """Since when no run starts on schedule, as far as this process knows."""
    reachable: bool | None = None
    """Whether the state store has answered the last time; ``None`` before the first."""
    last_success: datetime | None = None
    """When every table that was scanned here had succeeded: the oldest of their last successes."""
    failures: int = 0
    """Failures one after the other, of the table that has most of them, or of the runs."""
    since: datetime | None = None
    """When the oldest of what fails now failed first."""
    error: str | None = None
    next_run: datetime | None = None
    tables: tuple[TableSnapshot, ...] = ()
    backfills: tuple[BackfillStatus, ...] = ()
    """Those that were sent to the owner, as far as this process knows: it is the owner, or was it last."""


class Probe(Plain, frozen=True, kw_only=True):
    """The answer to a probe. True where all is well."""

    ok: bool
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    """Why not, in words, by the names of the pipelines. No messages of other systems, so they may be shown."""

    def __bool__(self) -> bool:
        return self.ok
