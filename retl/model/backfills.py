"""The backfills that were sent to the owner of a pipeline, as they lie in the state store, and how they stand."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from msgspec.structs import replace

from retl.model.checkpoint import Checkpoint
from retl.model.plain import Plain
from retl.model.range import CursorRange

BackfillState = Literal["waiting", "running", "done", "failed", "cancelled"]

_KEPT = 20
"""How many that have ended are remembered, of one pipeline."""


class BackfillStatus(Plain, frozen=True, kw_only=True):
    """A backfill that was sent to the owner of a pipeline. Times of day are in UTC."""

    id: str
    table: str
    since: str | None = None
    """The range, as it was asked for."""
    until: str | None = None
    state: BackfillState = "waiting"
    """``waiting`` until an owner has taken it up. ``running`` until it has ended, over all owners."""
    at: datetime
    """When it was sent."""
    by: str
    """The process that sent it, in words."""
    epoch: int = 0
    """The owner's at which it was sent."""
    owner: str | None = None
    """The process that runs it, or is to run it, in words; ``None`` where no process owns the pipeline."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    rows: int = 0
    """The rows that it has delivered up to its last commit, by all owners."""
    rows_planned: int | None = None
    """How many they will be, as far as the source can tell."""
    reached: str | None = None
    """All rows of the range up to this value of the cursor are in the target."""
    tries: int = 0
    """How often it was begun since it last got any further."""
    error: str | None = None
    """Why it failed; while it runs: what the last try ended in."""
    cancelled_by: str | None = None
    """The process that has cancelled it, in words."""

    @property
    def pending(self) -> bool:
        """Whether it has not ended."""
        return self.state in ("waiting", "running")

    @property
    def ends(self) -> CursorRange:
        """The range."""
        return CursorRange(self.since, self.until)

    def asks_for(self, ends: CursorRange) -> bool:
        """Whether it is this range, and goes on."""
        return self.ends == ends and self.cancelled_by is None


def kept(backfills: Iterable[BackfillStatus]) -> tuple[BackfillStatus, ...]:
    """Those that are remembered: all that have not ended, and the last ones that have."""
    found = list(backfills)
    ended = [one for one in found if not one.pending]
    forgotten = ended[:-_KEPT]
    return tuple(one for one in found if one not in forgotten)


def with_progress(asked: BackfillStatus, checkpoint: Checkpoint | None) -> BackfillStatus:
    """How far it is, by the checkpoint of its table."""
    if checkpoint is None:
        return asked
    over, progress = checkpoint.backfilled, checkpoint.backfill
    if over is not None and over.asked == asked.id:
        return replace(asked, rows=over.rows or asked.rows)
    if progress is None or (progress.since, progress.until) != (asked.since, asked.until):
        return asked
    return replace(asked, rows=progress.rows, rows_planned=progress.rows_planned, reached=progress.done)
