"""Tables of one pipeline with schedules of their own: side by side, and never two scans of one table."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

import retl
from retl import events
from tests.support import Database, Recorder, running, state_is


@pytest.fixture
def shop(tmp_path: Path) -> Database:
    shop = Database(tmp_path / "shop.db")
    for table in ("fast", "slow"):
        shop.run(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)")
        shop.run(f"INSERT INTO {table} VALUES (1)")
    return shop


async def test_a_table_with_an_interval_of_its_own_is_scanned_between_those_of_the_pipeline(
    shop: Database, tmp_path: Path
) -> None:
    app = Database(tmp_path / "app.db")
    job = retl.Pipeline(
        "shop",
        source=shop.source(),
        target=app.target(),
        tables=[retl.Table("fast", interval="20ms"), "slow"],
        interval="1h",
    )
    heard = Recorder(job)
    async with running(job) as after:
        while len(heard.of(events.ScanFinished)) < 6:
            await after(events.ScanFinished)
        shop.run("INSERT INTO fast VALUES (2)")
        while app.rows("fast") != [(1,), (2,)]:
            await after(events.ScanFinished)
        job.pause()
        await state_is(job, "paused")
        status = await job.status()
    scanned = [event.report for event in heard.of(events.ScanFinished)]
    assert [report.table for report in scanned].count("slow") == 1
    assert status.schedule == "every 1h; fast every 20ms"
    assert app.rows("slow") == [(1,)]
    left = {report.table: (report.next_run - report.started_at).total_seconds() for report in scanned}
    assert left["fast"] < 60 < left["slow"]
    await job.aclose()


async def test_the_first_run_comes_after_the_share_of_the_jitter(shop: Database, tmp_path: Path) -> None:
    app = Database(tmp_path / "app.db")
    job = retl.Pipeline("shop", source=shop.source(), target=app.target(), tables=["fast"], interval="1h", jitter="1h")
    async with running(job) as after:
        await after(events.LeaseAcquired)
        await state_is(job, "idle")
        status = await job.status()
        assert app.tables() == [] and status.next_run is not None and status.next_run > datetime.now().astimezone()
        await after(events.ScanFinished, lambda: job.trigger("fast"))
    assert app.rows("fast") == [(1,)]
    await job.aclose()
