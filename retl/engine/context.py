"""What the parts of one scan share: its systems, its progress and its events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from retl.connectors.base import CommitResult, Source, Target, TargetTable
from retl.engine.backfill import Keeper
from retl.engine.turns import Turn
from retl.model import events
from retl.model.actions import Action
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Underway
from retl.model.cursor import lag
from retl.model.embeddings import EmbeddingCounts
from retl.model.hidden import shown
from retl.model.manifest import ManifestChange
from retl.model.plan import SourcePlan
from retl.model.report import Progress
from retl.model.table import TableSpec
from retl.pulse import beat
from retl.state.base import StateStore

DEFAULT_TTL = 30.0
"""Seconds without a sign of life after which another process may take a pipeline over."""

Emit = Callable[[events.Event], None]


class StopSignal:
    """A request to stop between two slices."""

    def __init__(self) -> None:
        self.requested = False


@dataclass(frozen=True)
class Limits:
    """How much is in flight between reader and writer."""

    channel_bytes: int = 8 * 1024 * 1024
    channel_batches: int = 16


@dataclass
class Counters:
    """The counts so far. ``changed`` and ``unchanged`` are ``None`` once a target could not tell."""

    rows: int = 0
    changed: int | None = 0
    unchanged: int | None = 0
    older: int = 0
    dropped: int = 0
    bytes: int = 0
    rejects: int = 0
    slices: int = 0
    null_cursor_rows: int = 0
    embeddings: list[EmbeddingCounts] = field(default_factory=list)
    """What the vectors of each load took."""
    warnings: list[str] = field(default_factory=list)

    def add(self, done: CommitResult) -> None:
        """Add the counts of a commit."""
        self.changed = _sum(self.changed, done.changed)
        self.unchanged = _sum(self.unchanged, done.unchanged)
        self.older += done.older
        self.dropped += done.dropped

    @property
    def kept(self) -> int:
        """The rows of this scan that the target holds."""
        return self.rows - self.rejects - self.older - self.dropped


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def new_scan_id() -> str:
    """An identifier that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}"


def now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


@dataclass
class ScanContext:
    """One scan of one table. ``table``, ``checkpoint`` and ``plan`` change during the scan; the rest stays."""

    pipeline: str
    table: TableSpec
    source: Source
    target: Target
    store: StateStore
    state_in_target: bool
    fence: Fence
    blacklist: frozenset[Action]
    publish: Emit
    stop: StopSignal
    lease_ttl: float = DEFAULT_TTL
    turn: Turn | None = None
    """The scan's turn in its run, which it may give away between slices."""
    scan_id: str = field(default_factory=new_scan_id)
    checkpoint: Checkpoint = Checkpoint()  # noqa: RUF009  # frozen
    keeper: Keeper = field(default_factory=Keeper)
    """What becomes of the checkpoint in the store."""
    found: TargetTable | None = None
    """The target's table as it was before the scan, if the target can tell."""
    plan: SourcePlan | None = None
    counters: Counters = field(default_factory=Counters)
    stopped: bool = False
    gave_way: bool = False
    """Whether it has stopped to let a scan of the same table go first."""
    began: float = field(default_factory=time.monotonic)

    def fenced(self, checkpoint: Checkpoint, manifest: ManifestChange | None = None) -> FencedCheckpoint:
        """A checkpoint on its way into the store, with the proof of ownership."""
        return FencedCheckpoint(self.fence, self.table.name, self.keeper.stored(checkpoint), manifest)

    @property
    def highest(self) -> str | None:
        """The highest cursor value that the source had at the plan."""
        plan = self.plan
        if plan is None or self.table.range is not None:  # a backfill sees its range alone
            return None
        return plan.highest if plan.highest is not None or plan.window is None else plan.window.upper

    def underway(self, *, slices: int) -> Underway:
        """What others see of the scan once ``slices`` further ones are committed."""
        progress = msgspec.structs.replace(self.progress(), slices=self.counters.slices + slices)
        return Underway(self.scan_id, now(), progress, self.highest)

    def lag(self) -> float | None:
        """How far the target is behind what the source had at the plan."""
        return lag(self.checkpoint.watermark, self.highest)

    def progress(self) -> Progress:
        """The progress of the scan."""
        plan = self.plan
        return Progress(
            rows=self.counters.rows,
            rows_planned=plan.rows if plan else None,
            bytes=self.counters.bytes,
            slices=self.counters.slices,
            slices_planned=len(plan.slices) if plan else 0,
            seconds=time.monotonic() - self.began,
        )

    def emit(self, kind: Callable[..., events.Event], **facts: Any) -> None:
        """Emit an event about the table."""
        beat()
        self.publish(kind(pipeline=self.pipeline, at=now(), table=self.table.name, **facts))

    def emit_scan(self, kind: Callable[..., events.Event], **facts: Any) -> None:
        """Emit an event about this scan."""
        self.emit(kind, scan_id=self.scan_id, **facts)

    def warn(self, message: str) -> None:
        """Warn people without stopping; the report keeps the warning too."""
        message = shown(message)
        self.counters.warnings.append(message)
        self.emit(events.Warned, message=message)
