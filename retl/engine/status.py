"""A pipeline's status, from this process and from what the state store knows of earlier and other ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import anyio
import anyio.to_thread
import msgspec

from retl.engine.config import PipelineConfig
from retl.engine.context import now
from retl.engine.health import TableHealth
from retl.engine.lease import is_dead, owner_in_words
from retl.engine.runner import Runner
from retl.model.backfills import BackfillStatus, with_progress
from retl.model.checkpoint import Checkpoint, Underway
from retl.model.cursor import lag
from retl.model.duration import format_duration
from retl.model.errors import RetlError, StateError
from retl.model.report import Progress, ScanReport
from retl.model.status import PipelineState, PipelineStatus, Snapshot, TableSnapshot, TableStatus
from retl.state.base import StateStore

_ANSWER_SECONDS = 5.0
_CHECK_SECONDS = 30.0
"""How long the state store may take to answer: for a host, and for those who want its error."""


def snapshot_of(config: PipelineConfig, runner: Runner) -> Snapshot:
    """The pipeline from memory."""
    health = runner.health
    known = dict(health.tables)  # another thread may ask
    scans = dict(runner.scans)
    shown = {**dict.fromkeys(scans, TableHealth()), **known} if scans else known
    failing = [one for one in (health.runs, *known.values()) if one.failures]
    worst = max(failing, key=lambda one: one.failures) if failing else None
    successes = [one.last_success for one in known.values()]
    return Snapshot(
        pipeline=config.name,
        state=runner.state,
        healthy=worst is None,
        owner=runner.lease.fence is not None,
        stuck=runner.motion.stuck(runner.state, scans.values()),
        waits_for=_waits_for(runner),
        paused_since=runner.commands.paused_since,
        reachable=runner.lease.reachable,
        last_success=min((when for when in successes if when), default=None) if None not in successes else None,
        failures=worst.failures if worst else 0,
        since=min((one.since for one in failing if one.since), default=None) if failing else None,
        error=worst.error if worst else None,
        next_run=runner.next_run,
        tables=tuple(_table_snapshot(name, one, runner) for name, one in shown.items()),
        backfills=tuple(_live(one, runner) for one in runner.commands.known_backfills),
    )


def _live(asked: BackfillStatus, runner: Runner) -> BackfillStatus:
    """A backfill, with how far its scan is that is under way here."""
    scan = runner.scans.get(asked.table) if asked.pending else None
    return with_progress(asked, scan.stored()) if scan is not None else asked


def _waits_for(runner: Runner) -> str | None:
    """What the pipeline waits for, for people."""
    if runner.state == "standby":
        holder = runner.lease.holder
        return f"{owner_in_words(holder)}, which runs this pipeline" if holder else "its state store"
    if runner.state == "paused":
        return "resume() or trigger()"
    if runner.state == "idle":
        return f"the next run at {runner.next_run.isoformat(timespec='seconds')}" if runner.next_run else "trigger()"
    return None


def _table_snapshot(name: str, one: TableHealth, runner: Runner) -> TableSnapshot:
    scan = runner.scans.get(name)
    behind = scan.lag() if scan is not None else None
    return TableSnapshot(
        table=name,
        last_success=one.last_success,
        failures=one.failures,
        since=one.since,
        error=one.error,
        lag=one.lag if behind is None else behind,
        progress=scan.progress() if scan is not None else None,
    )


@dataclass(frozen=True)
class _Stored:
    """What the state store knows."""

    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    owner: str | None = None
    epoch: int = 0
    last: dict[str, ScanReport] = field(default_factory=dict)
    paused_since: datetime | None = None
    backfills: tuple[BackfillStatus, ...] = ()


async def _ask(store: StateStore, pipeline: str) -> _Stored:
    checkpoints = await store.load(pipeline)
    rejects = await store.count_rejects(pipeline)
    lease = await store.read_lease(pipeline)
    owner = lease.owner
    if owner is not None and await anyio.to_thread.run_sync(is_dead, owner):
        owner = None
    last = await store.last_reports(pipeline)
    steering = await store.read_steering(pipeline)
    return _Stored(checkpoints, rejects, owner, lease.epoch, last, steering.paused_since, steering.backfills)


async def pipeline_status(config: PipelineConfig, runner: Runner, *, check: bool) -> PipelineStatus:
    """The pipeline as it stands; where the store does not answer in time, without what it knows, or its error."""
    stored: _Stored | None = None
    seconds = _CHECK_SECONDS if check else _ANSWER_SECONDS
    silent = f"the state store has not answered for {format_duration(seconds)}."
    error: RetlError = StateError(silent, remedy="see whether its server hangs.", pipeline=config.name)
    try:
        with anyio.move_on_after(seconds):
            stored = await _ask(config.store, config.name)
    except RetlError as failed:
        error = failed
    if stored is None and check:
        raise error
    return _Status(config, runner, stored or _Stored()).told(None if stored else str(error))


class _Status:
    """One status: what this process knows, and what the store has answered."""

    def __init__(self, config: PipelineConfig, runner: Runner, stored: _Stored) -> None:
        self._config = config
        self._runner = runner
        self._stored = stored
        self._runs_here = runner.state not in ("stopped", "standby")
        self._last = dict(stored.last)
        for name, report in runner.history.last.items():
            if name not in self._last or report.scan_id >= self._last[name].scan_id:
                self._last[name] = report
        self._failed_run = self._last.pop("", None)

    def told(self, error: str | None) -> PipelineStatus:
        config, runner, stored = self._config, self._runner, self._stored
        tables = tuple(self._table(name) for name in dict.fromkeys((*config.tables.names, *self._last, *self._saved)))
        latest = max((report for report in self._last.values()), key=lambda report: report.started_at, default=None)
        failed = self._failed_run
        if failed is not None and latest is not None and latest.started_at > failed.started_at:
            failed = None  # a run has begun since then
        runs = runner.health.runs
        failing = any(table.failures for table in tables if table.declared)
        return PipelineStatus(
            pipeline=config.name,
            state=self._state(tables),
            schedule=config.timetable.describe(),
            owner=owner_in_words(stored.owner) if stored.owner else None,
            epoch=stored.epoch,
            healthy=not (failing or runs.failures or failed),
            failures=runs.failures or (max(1, failed.failures) if failed else 0),
            since=runs.since or (failed.failing_since or failed.started_at if failed else None),
            failure=runs.error or (failed.error if failed else None),
            last_run=runner.last_run or (latest.started_at if latest else None),
            next_run=runner.next_run or (latest.next_run if latest and stored.owner else None),
            paused_since=self._paused_since(known=error is None),
            reachable=error is None,
            error=error,
            snapshot=snapshot_of(config, runner),
            tables=tables,
            backfills=tuple(self._backfill(one) for one in stored.backfills),
        )

    def _backfill(self, asked: BackfillStatus) -> BackfillStatus:
        if not asked.pending:
            return asked
        owner = owner_in_words(self._stored.owner) if self._stored.owner else None
        return with_progress(msgspec.structs.replace(asked, owner=owner), self._saved.get(asked.table))

    @property
    def _saved(self) -> dict[str, Checkpoint]:
        return self._stored.checkpoints

    def _paused_since(self, *, known: bool) -> datetime | None:
        commands = self._runner.commands
        return self._stored.paused_since if known and not commands.pending else commands.paused_since

    def _state(self, tables: tuple[TableStatus, ...]) -> PipelineState:
        if self._runner.state != "stopped" or not self._stored.owner:
            return self._runner.state
        if any(table.progress for table in tables):
            return "scanning"
        return "idle" if self._stored.paused_since is None else "paused"

    def _table(self, name: str) -> TableStatus:
        tables, last, checkpoint = self._config.tables, self._last.get(name), self._saved.get(name)
        underway = self._underway(checkpoint, last)
        progress, at = self._progress(name, underway)
        declared = tables.declares(name)
        return TableStatus(
            table=name,
            to=tables.target_of(name) or (last.to if last else name),
            scheduled_scan=self._config.timetable.of(name).period is not None and declared,
            declared=declared,
            watermark=checkpoint.watermark if checkpoint else None,
            lag=self._lag(name, checkpoint, underway, last),
            last_success=last.last_success if last else None,
            failures=last.failures if last else 0,
            since=last.failing_since if last else None,
            error=last.error if last else None,
            rejects=self._stored.rejects.get(name, 0),
            last=last,
            progress=progress,
            progress_at=at,
        )

    def _underway(self, checkpoint: Checkpoint | None, last: ScanReport | None) -> Underway | None:
        """The scan that the checkpoint tells of, unless it has ended since, with a report."""
        found = checkpoint.underway if checkpoint else None
        return found if found is not None and (last is None or found.scan_id > last.scan_id) else None

    def _progress(self, name: str, underway: Underway | None) -> tuple[Progress | None, datetime | None]:
        scan = self._runner.scans.get(name)
        if scan is not None and self._runner.state == "scanning":
            return scan.progress(), now()
        if underway is None or self._runs_here or not self._stored.owner:
            return None, None  # it was here and has ended, or its process has died
        return underway.progress, underway.at

    def _lag(
        self, name: str, checkpoint: Checkpoint | None, underway: Underway | None, last: ScanReport | None
    ) -> float | None:
        scan = self._runner.scans.get(name)
        behind = scan.lag() if scan is not None else None
        if behind is not None:
            return behind
        if checkpoint is None:  # nothing is in the target, or the store has not answered
            return last.lag if last is not None and not self._stored.epoch else None
        if underway is not None and underway.highest is not None:
            return lag(checkpoint.watermark, underway.highest)
        complete = last is not None and last.is_complete
        return lag(checkpoint.watermark, last.highest if last else None, complete=complete)
