"""The contract of a state store."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

from retl.model.alerts import AlertState
from retl.model.answers import CommitResult
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import LeaseLost, RowsRejected
from retl.model.manifest import ManifestEntry
from retl.model.report import ScanReport, ScanStatus
from retl.model.steering import Steering

STATE_VERSION = 1
"""The layout of a store's tables. A store with a newer one is refused."""


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A pipeline's lease as the store holds it.

    It holds no time, so that no two clocks are ever compared: the owner raises ``beat``
    again and again, and a process that sees the same ``epoch`` and ``beat`` for the
    length ``ttl`` (by its own monotonic clock) may take the lease over.
    """

    pipeline: str
    owner: str | None
    epoch: int
    beat: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The table of a target that a table of a pipeline is written to: at most one for each table of a pipeline."""

    pipeline: str
    table: str
    target: str
    """One text for the physical table: ``Target.location``."""
    replaces: bool
    """Whether its scans replace the whole content."""


def lease_lost(fence: Fence) -> LeaseLost:
    """The error of a write whose epoch is old."""
    return LeaseLost(
        "another process has taken this pipeline over; nothing more was written.",
        remedy="nothing if a second copy of the service runs: this one stands by, and takes over when the other stops.",
        pipeline=fence.pipeline,
    )


def start_over(table: str) -> str:
    """The remedy for a damaged checkpoint."""
    return (
        f"restore it from a backup, or run `retl reset --table {shlex.quote(table)}` to start over: the next scan "
        "reads the table in full, which an upsert absorbs."
    )


def unreadable_report(
    pipeline: str, table: str, scan_id: str, started_at: datetime, status: ScanStatus, reason: str
) -> ScanReport:
    """What is known of a scan whose report is damaged, so that it does not hide the others."""
    return ScanReport(
        pipeline=pipeline,
        table=table,
        to=table,
        scan_id=scan_id,
        status=status,
        mode="full",
        started_at=started_at,
        seconds=0.0,
        warnings=(f"{reason} Its rows and times are lost; no checkpoint depends on them.",),
    )


KEPT_REPORTS = 1_000
"""How many reports of each table the history keeps."""
MANIFEST_PAGE = 5_000
"""How many entries of a manifest are read at a time, unless the store takes more."""


class StateStore(ABC):
    """Holds checkpoints, leases, rejects and the history of scans.

    Every method is one atomic step. Raises ``StateError`` for a store that is corrupt or
    of a newer version, ``ConnectionFailed`` or ``TargetBusy`` for failures that may pass.
    """

    manifest_page: ClassVar[int] = MANIFEST_PAGE
    """How many entries ``manifest`` asks for at once: few statements for many files, and little memory."""
    outlives_process: ClassVar[bool] = True
    """Whether another process, or the next one, finds what is stored."""

    @abstractmethod
    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        """The checkpoints of a pipeline, by table."""

    @abstractmethod
    async def save(self, fenced: FencedCheckpoint) -> None:
        """Store a checkpoint and what it changes of the manifest.

        Raises ``LeaseLost``, and stores nothing, where the fence is old. A store without
        transactions saves the manifest before the checkpoint.
        """

    @abstractmethod
    async def read_manifest(
        self, pipeline: str, table: str, after: str = "", limit: int = MANIFEST_PAGE
    ) -> list[ManifestEntry]:
        """The next entries of a table's manifest whose names come after one, in the order of their code points."""

    async def manifest(self, pipeline: str, table: str) -> AsyncGenerator[ManifestEntry, None]:
        """A table's whole manifest in that order, of which no more than a page is in memory."""
        after = ""
        while True:
            page = await self.read_manifest(pipeline, table, after, self.manifest_page)
            for entry in page:
                yield entry
            if len(page) < self.manifest_page:
                return
            after = page[-1].name

    @abstractmethod
    async def forget(self, pipeline: str, table: str | None = None) -> int:
        """Remove the checkpoints and manifests of a table, or of all; returns how many checkpoints there were."""

    @abstractmethod
    async def read_lease(self, pipeline: str) -> LeaseRow:
        """The lease as it is; epoch 0 if nobody has ever held it."""

    @abstractmethod
    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        """Become the owner with the next epoch, if the lease is still as ``seen``; else ``None``."""

    @abstractmethod
    async def beat(self, fence: Fence) -> bool:
        """Show that the owner lives; ``False`` if another owner has the pipeline now."""

    async def hear(self, fence: Fence, known: Steering) -> Steering | None:
        """``beat``, and what is asked of the owner: ``known`` where that is nothing new; ``None`` if another one owns the pipeline.

        A store that can answers both in one statement.
        """
        return await self.read_steering(fence.pipeline) if await self.beat(fence) else None

    @abstractmethod
    async def read_steering(self, pipeline: str) -> Steering:
        """What is asked of a pipeline; revision 0 where nothing ever was."""

    @abstractmethod
    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        """Store it under the next revision, if the stored one is of its revision; else ``False``. ``forget`` leaves it alone."""

    @abstractmethod
    async def give_up_lease(self, fence: Fence) -> None:
        """End the ownership, so that the next owner need not wait. No effect where the fence is old."""

    @abstractmethod
    async def read_alerts(self, pipeline: str) -> AlertState:
        """What is remembered of the alerts of a pipeline."""

    @abstractmethod
    async def save_alerts(self, fence: Fence, state: AlertState) -> None:
        """Remember it, in place of what was; raises ``LeaseLost`` if the fence is old. ``forget`` leaves it alone."""

    @abstractmethod
    async def claims(self, target: str) -> list[Claim]:
        """The claims on a table of the target, of all pipelines that use this store."""

    @abstractmethod
    async def claim(self, fence: Fence, claim: Claim) -> None:
        """Store a claim in place of an older one of the same table; raises ``LeaseLost`` if the fence is old."""

    @abstractmethod
    async def release_claims(self, pipeline: str, table: str | None = None) -> int:
        """Remove the claims of a table, or of all; returns how many there were."""

    @abstractmethod
    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        """Keep rejects; each replaces an older one of the same table and key."""

    @abstractmethod
    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        """The rejects, newest first."""

    @abstractmethod
    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        """How many rejects are kept, by table."""

    @abstractmethod
    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        """Remove rejects; returns how many there were."""

    @abstractmethod
    async def prune_rejects(self, pipeline: str, before: datetime, most: int) -> None:
        """Remove rejects that were kept before a time of day, and the oldest of each table beyond ``most``."""

    @abstractmethod
    async def add_report(self, report: ScanReport) -> None:
        """Append to the history of scans; the oldest beyond 1,000 of a table are dropped."""

    @abstractmethod
    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        """The history, newest first. A report that cannot be read hides no other: see ``unreadable_report``."""

    @abstractmethod
    async def last_reports(self, pipeline: str) -> dict[str, ScanReport]:
        """The newest report of each table of a pipeline, in the order of time."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close what is open. May be called more than once."""


class Manifest:
    """The manifest of one table, as a scan reads it: a stream in the order of names, however long it is."""

    def __init__(self, store: StateStore, pipeline: str, table: str) -> None:
        self._store = store
        self._pipeline = pipeline
        self._table = table

    def __aiter__(self) -> AsyncIterator[ManifestEntry]:
        return self._store.manifest(self._pipeline, self._table)


async def commit_with_rejects(
    commit: Awaitable[CommitResult],
    rejects: Sequence[Reject],
    fenced: FencedCheckpoint | None,
    store: StateStore | None,
) -> CommitResult:
    """A commit of rows, and the rejects that never reached its target: the store keeps them, where ``fenced`` is given.

    Those that the target rejects it keeps itself, with the rows.
    """
    try:
        done = await commit
    except RowsRejected as error:
        error.rejects = [*rejects, *error.rejects]
        raise
    if rejects and fenced is not None and store is not None:
        await store.add_rejects(fenced.fence.pipeline, rejects)
    return replace(done, rows=done.rows + len(rejects), rejects=(*rejects, *done.rejects))
