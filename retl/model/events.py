"""What happens in a pipeline, as typed values. Logs, metrics and progress bars only listen to these."""

from __future__ import annotations

from datetime import datetime

from retl.model.plain import EPOCH, Plain
from retl.model.report import Progress, ScanReport


class Event(Plain, frozen=True, kw_only=True, tag=True):
    """The root of all events; ``at`` is the time of day in UTC."""

    pipeline: str
    at: datetime = EPOCH


class PipelineStarted(Event, frozen=True, kw_only=True):
    """The scheduler coroutine runs. ``schedule`` in words: ``every 5m``."""

    schedule: str


class PipelineStopped(Event, frozen=True, kw_only=True):
    """The scheduler coroutine ended, by request or by cancellation."""


class LeaseAcquired(Event, frozen=True, kw_only=True):
    """This process owns the pipeline and may write."""

    epoch: int


class LeaseHeld(Event, frozen=True, kw_only=True):
    """Another process owns the pipeline; this one stands by."""

    owner: str


class LeaseGone(Event, frozen=True, kw_only=True):
    """Another process took the pipeline over while this one held it."""

    reason: str


class TicksMissed(Event, frozen=True, kw_only=True):
    """Runs took longer than the interval; ``missed`` ticks coalesced into the next one."""

    missed: int


class PipelinePaused(Event, frozen=True, kw_only=True):
    """No further run starts on schedule, whichever process owns the pipeline: it was asked for, or an owner finds it so."""

    since: datetime
    by: str
    """The process that asked for it."""


class PipelineResumed(Event, frozen=True, kw_only=True):
    """The schedule goes on."""

    by: str


class Triggered(Event, frozen=True, kw_only=True):
    """Another process asked this one, the owner, to run now: one table, or with ``None`` all of them."""

    table: str | None
    sent_at: datetime
    by: str


class BackfillStarted(Event, frozen=True, kw_only=True):
    """A backfill that was sent to the owner begins, or goes on in this process: it is scanned as any other one is."""

    table: str
    since: str | None
    until: str | None
    sent_at: datetime
    by: str
    resumed: bool
    """Whether it was begun before, here or by a former owner."""


class CommandDropped(Event, frozen=True, kw_only=True):
    """A command of another process was not obeyed, such as a trigger that a former owner has not heard; or a backfill was cancelled."""

    command: str
    table: str | None
    sent_at: datetime
    by: str
    reason: str


class ScanStarted(Event, frozen=True, kw_only=True):
    """A scan of one table begins."""

    table: str
    scan_id: str


class ScanPlanned(Event, frozen=True, kw_only=True):
    """The source has told what there is to read."""

    table: str
    scan_id: str
    lower: str | None
    upper: str | None
    slices: int
    rows: int | None


class SliceCommitted(Event, frozen=True, kw_only=True):
    """A slice, and the checkpoint that says so, are safely in the target."""

    table: str
    scan_id: str
    watermark: str | None
    progress: Progress


class RowsMoved(Event, frozen=True, kw_only=True):
    """A batch was handed to the target; not committed yet. At most ten a second."""

    table: str
    scan_id: str
    progress: Progress


class RowsRejected(Event, frozen=True, kw_only=True):
    """The target rejected rows, which are kept with their reasons."""

    table: str
    scan_id: str
    rejects: int
    first_reason: str


class Warned(Event, frozen=True, kw_only=True):
    """Something that people should know; it stopped nothing."""

    table: str
    message: str


class ScanStalled(Event, frozen=True, kw_only=True):
    """No row came and nothing answered for ``seconds``; after ``limit`` seconds the scan is given up and tried again."""

    table: str
    seconds: float
    limit: float


class RetryScheduled(Event, frozen=True, kw_only=True):
    """A transient error; the same work is retried after ``delay`` seconds.

    A table's scan waits until the other tables have had their turn. ``table`` is a
    ``match`` pattern if the source could not tell its tables.
    """

    table: str
    error: str
    attempt: int
    delay: float


class ScanFinished(Event, frozen=True, kw_only=True):
    """A scan ended well, or was stopped by request between two slices."""

    report: ScanReport


class ScanFailed(Event, frozen=True, kw_only=True):
    """A scan ended in an error; what was committed before stays committed."""

    report: ScanReport


class RunFailed(Event, frozen=True, kw_only=True):
    """A run could not begin because the store or the lease failed, or some of its tables were not found."""

    error: str
    error_type: str


class Recovered(Event, frozen=True, kw_only=True):
    """What had failed works again: a table's scan, or with an empty ``table`` the runs of the pipeline.

    ``since`` is when it failed first, ``failures`` how often it did since then.
    """

    table: str
    since: datetime
    failures: int
