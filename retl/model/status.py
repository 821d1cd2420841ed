"""A pipeline as it stands right now, for status pages and the command line."""

from __future__ import annotations

from typing import Literal

import msgspec

from retl.model.report import Progress, ScanReport

PipelineState = Literal["stopped", "idle", "scanning", "paused", "standby"]


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One table: its last scan, and the running one if there is one."""

    table: str
    to: str
    scheduled_scan: bool
    """Whether a schedule scans it: not where the pipeline is manual, or no longer declares the table."""
    watermark: str | None = None
    lag: float | None = None
    """Seconds between the watermark and now, where the watermark is a time."""
    rejects: int = 0
    last: ScanReport | None = None
    progress: Progress | None = None


class PipelineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline and its tables. Times of day are ISO 8601 in UTC."""

    pipeline: str
    state: PipelineState
    schedule: str
    owner: str | None = None
    last_run: str | None = None
    next_run: str | None = None
    tables: tuple[TableStatus, ...] = ()
