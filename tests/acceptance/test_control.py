"""A service author's hand on a running pipeline, over every route: trigger, pause, resume, stop, status, reset."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

import retl
from retl import events
from tests.routes.route import Route, at, old
from tests.support import Recorder, running, state_is


@pytest.fixture(autouse=True)
def filled(route: Route) -> None:
    route.fill(4)


def add(route: Route, *keys: int) -> None:
    route.source.insert("events", *old(*keys))


# Run ---------------------------------------------------------------------------


async def test_a_manual_pipeline_runs_when_triggered(route: Route) -> None:
    job = route.pipeline(interval="manual")
    async with running(job) as after:
        await after(events.LeaseAcquired)
        await anyio.wait_all_tasks_blocked()
        assert route.target.tables() == []
        await after(events.ScanFinished, job.trigger)
        await state_is(job, "idle")
        assert route.rows("events") == old(*range(4))
        add(route, 4)
        await after(events.ScanFinished, job.trigger)
        assert route.equal()
    assert (await job.status()).owner is None
    await job.aclose()


async def test_a_paused_pipeline_runs_only_when_triggered_and_goes_on_when_resumed(route: Route) -> None:
    job = route.pipeline(interval="20ms")
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.ScanFinished)
        job.pause()
        await state_is(job, "paused")
        scans = len(heard.of(events.ScanFinished))
        add(route, 4)
        await anyio.sleep(0.1)  # five ticks
        assert len(heard.of(events.ScanFinished)) == scans
        assert route.rows("events") == old(*range(4))
        await after(events.ScanFinished, job.trigger)
        assert (len(heard.of(events.ScanFinished)), route.equal()) == (scans + 1, True)
        await after(events.ScanFinished, job.resume)
    await job.aclose()


async def test_runs_longer_than_the_interval_never_overlap_and_missed_ticks_are_one(route: Route) -> None:
    job = route.pipeline(interval="10ms")
    heard = Recorder(job)
    most = 0

    def begin(_: events.ScanStarted) -> None:
        nonlocal most
        ended = len(heard.of(events.ScanFinished)) + len(heard.of(events.ScanFailed))
        most = max(most, len(heard.of(events.ScanStarted)) - ended)
        time.sleep(0.03)
        if ended >= 2:
            job.stop()

    heard.when(events.ScanStarted, begin, once=False)
    with anyio.fail_after(30):
        await job.run_forever()
    assert (most, heard.of(events.ScanFailed)) == (1, [])
    assert sum(event.missed for event in heard.of(events.TicksMissed)) > 0
    assert route.equal()


async def test_two_pipelines_of_one_process_write_side_by_side(route: Route) -> None:
    ways: list[dict[str, Any]] = [{"cursor": "ts"}, {"pre_action": "swap"}]
    jobs = [
        retl.Pipeline(
            name,
            source=route.source.connector(),
            target=route.target.connector(),
            tables=[route.table(to=name, **words)],
            interval="manual",
        )
        for name, words in zip(("one", "two"), ways, strict=True)
    ]
    async with running(jobs[0]) as after_one, running(jobs[1]) as after_two:
        for turn in range(2):
            async with anyio.create_task_group() as both:
                both.start_soon(after_one, events.ScanFinished, jobs[0].trigger)
                both.start_soon(after_two, events.ScanFinished, jobs[1].trigger)
            assert route.rows("one") == old(*range(4 + turn))
            assert route.rows("two") == old(*range(turn, 4 + turn))
            for job in jobs:
                await state_is(job, "idle")
            if turn == 0:
                route.source.delete("events", 0)
                add(route, 4)
    watermarks = [(await job.status()).tables[0].watermark for job in jobs]
    assert route.is_at(watermarks[0], at(4)) and watermarks[1] is None
    for job in jobs:
        await job.aclose()


# Stop --------------------------------------------------------------------------


async def test_a_graceful_stop_commits_the_slice_under_way(route: Route) -> None:
    add(route, *range(4, 60))
    job = route.pipeline(interval="1h", slice_rows=5)
    Recorder(job).when(events.SliceCommitted, lambda _: job.stop())
    with anyio.fail_after(30):
        await job.run_forever()
    arrived = route.rows("events")
    assert arrived == old(*range(len(arrived))) and 0 < len(arrived) < 60
    assert route.is_at((await job.status()).tables[0].watermark, arrived[-1][2])
    await job.aclose()
    (report,) = (await route.pipeline().run_once()).scans
    assert route.is_at(report.lower, arrived[-1][2])
    assert route.equal()


# Look --------------------------------------------------------------------------


async def test_a_look_writes_nothing(route: Route) -> None:
    job = route.pipeline()
    assert {finding.level for finding in await job.check()} == {"ok"}
    (plan,) = await job.plan()
    assert plan.target.statements
    assert route.source.listed("events") in await job.tables()
    assert (await job.status()).tables[0].last is None
    assert (await job.history(), await job.rejects()) == ([], [])
    await job.aclose()
    assert route.target.tables() == []


@pytest.mark.needs("source live")
async def test_everything_may_be_asked_while_a_pipeline_runs(route: Route) -> None:
    job = route.pipeline(interval="10ms")
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.ScanFinished)
        add(route, 4)
        for _ in range(3):
            assert [plan.source.key for plan in await job.plan()] != []
            assert {finding.level for finding in await job.check()} == {"ok"}
            assert route.source.listed("events") in await job.tables()
            assert [table.table for table in (await job.status()).tables] == [route.source.called("events")]
            assert {report.status for report in await job.history(limit=5)} == {"done"}
            assert await job.rejects() == []
        await after(events.ScanFinished)
    await job.aclose()
    assert route.equal()
    assert not heard.of(events.ScanFailed) and not heard.of(events.RetryScheduled) and not heard.of(events.RunFailed)


async def test_a_reset_reads_everything_again(route: Route) -> None:
    job = route.pipeline()
    await job.run_once()
    route.target.delete("events")
    assert await job.reset() == 1
    assert (await job.status()).tables[0].watermark is None
    (report,) = (await job.run_once()).scans
    assert (report.rows, report.lower) == (4, None)
    assert route.equal()
    assert [scan.rows for scan in await job.history()] == [4, 4]
    await job.aclose()
