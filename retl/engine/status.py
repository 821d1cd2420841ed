"""A pipeline's status, from this process and from what the state store knows of earlier and other ones."""

from __future__ import annotations

from datetime import UTC, datetime

from retl.engine.config import PipelineConfig
from retl.engine.runner import Runner, owner_in_words
from retl.model.checkpoint import Checkpoint
from retl.model.cursor import age, family_of_text
from retl.model.report import ScanReport
from retl.model.status import PipelineStatus, TableStatus


async def pipeline_status(config: PipelineConfig, runner: Runner) -> PipelineStatus:
    """The pipeline as it stands."""
    store = config.store
    checkpoints = await store.load(config.name)
    rejects = await store.count_rejects(config.name)
    lease = await store.read_lease(config.name)
    last = {**await store.last_reports(config.name), **runner.last}
    known = dict.fromkeys([*config.tables.names, *last, *checkpoints])
    latest = max(last.values(), key=lambda report: report.started_at, default=None)
    return PipelineStatus(
        pipeline=config.name,
        state=runner.state,
        schedule=config.schedule.describe(),
        owner=owner_in_words(lease.owner) if lease.owner else None,
        last_run=runner.last_run or (latest.started_at if latest else None),
        next_run=runner.next_run or (latest.next_run if latest and lease.owner else None),
        tables=tuple(
            _table_status(config, runner, name, checkpoints.get(name), last.get(name), rejects.get(name, 0))
            for name in known
        ),
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
        scheduled_scan=config.schedule.period is not None and config.tables.declares(name),
        watermark=watermark,
        lag=lag.total_seconds() if lag is not None else None,
        rejects=rejects,
        last=last,
        progress=scan.progress() if scan is not None and runner.state == "scanning" else None,
    )
