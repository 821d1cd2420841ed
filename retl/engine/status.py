"""A pipeline's status, from this process and from what the state store knows of earlier and other ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from retl.engine.config import PipelineConfig
from retl.engine.health import TableHealth
from retl.engine.lease import owner_in_words
from retl.engine.runner import Runner
from retl.model.checkpoint import Checkpoint
from retl.model.cursor import age, family_of_text
from retl.model.duration import format_duration
from retl.model.errors import RetlError, StateError
from retl.model.report import ScanReport
from retl.model.status import PipelineStatus, Snapshot, TableSnapshot, TableStatus

_ANSWER_SECONDS = 5.0


def snapshot_of(config: PipelineConfig, runner: Runner) -> Snapshot:
    """The pipeline from memory."""
    health = runner.health
    known = dict(health.tables)  # another thread may ask
    failing = [one for one in (health.runs, *known.values()) if one.failures]
    worst = max(failing, key=lambda one: one.failures, default=None)
    successes = [one.last_success for one in known.values()]
    return Snapshot(
        pipeline=config.name,
        state=runner.state,
        healthy=worst is None,
        owner=runner.lease.fence is not None,
        stuck=runner.motion.stuck(runner.state, [*runner.scans.values()]),
        waits_for=runner.waits_for(),
        paused_since=runner.commands.paused_since,
        reachable=runner.lease.reachable,
        last_success=min((when for when in successes if when), default=None) if None not in successes else None,
        failures=worst.failures if worst else 0,
        since=min((one.since for one in failing if one.since), default=None),
        error=worst.error if worst else None,
        next_run=runner.next_run,
        tables=tuple(_table_snapshot(name, one, runner) for name, one in known.items()),
    )


def _table_snapshot(name: str, one: TableHealth, runner: Runner) -> TableSnapshot:
    scan = runner.scans.get(name)
    progress = scan.progress() if scan is not None else None
    return TableSnapshot(
        table=name,
        last_success=one.last_success,
        failures=one.failures,
        since=one.since,
        error=one.error,
        progress=progress,
    )


@dataclass(frozen=True)
class _Stored:
    """What the state store knows."""

    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    owner: str | None = None
    last: dict[str, ScanReport] = field(default_factory=dict)
    paused_since: datetime | None = None


async def pipeline_status(config: PipelineConfig, runner: Runner, *, check: bool) -> PipelineStatus:
    """The pipeline as it stands; where the store does not answer in time, without what it knows, or its error."""
    stored: _Stored | None = None
    silent = f"the state store has not answered for {format_duration(_ANSWER_SECONDS)}"
    error: RetlError = StateError(silent, pipeline=config.name)
    try:
        with anyio.move_on_after(None if check else _ANSWER_SECONDS):
            stored = await _stored(config)
    except RetlError as failed:
        error = failed
        if check:
            raise
    known = stored or _Stored()
    last = {**known.last, **runner.last}
    names = dict.fromkeys([*config.tables.names, *last, *known.checkpoints])
    latest = max(last.values(), key=lambda report: report.started_at, default=None)
    return PipelineStatus(
        pipeline=config.name,
        state=runner.state,
        schedule=config.timetable.describe(),
        owner=owner_in_words(known.owner) if known.owner else None,
        last_run=runner.last_run or (latest.started_at if latest else None),
        next_run=runner.next_run or (latest.next_run if latest and known.owner else None),
        paused_since=known.paused_since if stored and not runner.commands.pending else runner.commands.paused_since,
        reachable=stored is not None,
        error=None if stored is not None else str(error),
        snapshot=snapshot_of(config, runner),
        tables=tuple(
            _table_status(config, runner, name, known.checkpoints.get(name), last.get(name), known.rejects.get(name, 0))
            for name in names
        ),
    )


async def _stored(config: PipelineConfig) -> _Stored:
    store = config.store
    return _Stored(
        await store.load(config.name),
        await store.count_rejects(config.name),
        (await store.read_lease(config.name)).owner,
        await store.last_reports(config.name),
        (await store.read_steering(config.name)).paused_since,
    )


def _table_status(
    config: PipelineConfig,
    runner: Runner,
    name: str,
    checkpoint: Checkpoint | None,
    last: ScanReport | None,
    rejects: int,
) -> TableStatus:
    watermark = checkpoint.watermark if checkpoint else None
    lag = age(watermark, family_of_text(watermark), datetime.now(UTC)) if watermark is not None else None
    scan = runner.scans.get(name)
    return TableStatus(
        table=name,
        to=config.tables.target_of(name) or (last.to if last else name),
        scheduled_scan=config.timetable.of(name).period is not None and config.tables.declares(name),
        watermark=watermark,
        lag=lag.total_seconds() if lag is not None else None,
        rejects=rejects,
        last=last,
        progress=scan.progress() if scan is not None and runner.state == "scanning" else None,
    )
