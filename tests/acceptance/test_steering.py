"""Pause, resume, trigger and stop reach the owner of a pipeline, whichever process asks; and no successor obeys old ones."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

import retl
from retl import events
from retl.model.steering import CommandWord, Steering
from tests.support import Database, Recorder, Warehouse, running, state_is

SHORT = "300ms"
"""A time to live whose beats come soon."""
LONG = "1h"
"""One whose next beat never comes, with ``rare_beats``: what an owner does then, it did without having heard a thing."""


@pytest.fixture
def rare_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retl.engine.lease.LONGEST_BEAT_SECONDS", 3600.0)


def opened(warehouse: Warehouse, app: Database, owner: str = "", **words: Any) -> retl.Pipeline:
    """A pipeline as another process would have it, where ``owner`` names that."""
    given: dict[str, Any] = {"interval": "manual", "lease_ttl": SHORT}
    orders = retl.Table("orders", cursor="updated_at")
    job = retl.Pipeline("shop", source=warehouse.source(), target=app.target(), tables=[orders], **given | words)
    job._runner.lease._owner = owner or None
    return job


def add(warehouse: Warehouse, key: int) -> None:
    warehouse.run(f"INSERT INTO orders VALUES ({key}, 'new', TIMESTAMP '2024-02-01' + INTERVAL ({key}) SECOND)")


def keys(app: Database) -> list[int]:
    return sorted(key for (key,) in app.rows("orders", "id"))


async def asked(job: retl.Pipeline) -> Steering:
    return await job._store.read_steering("shop")


async def test_a_pause_from_elsewhere_holds_back_the_next_scan_and_survives_a_restart(
    warehouse: Warehouse, app: Database
) -> None:
    elsewhere = opened(warehouse, app)
    first = opened(warehouse, app, interval="20ms")
    heard = Recorder(first)
    async with running(first) as after:
        await after(events.ScanFinished)
        sent = await elsewhere.send("pause")
        assert (sent.command, sent.heard) == ("pause", True)
        assert sent.owner is not None and sent.owner.startswith("process ")
        await state_is(first, "paused")
        add(warehouse, 10)
        await anyio.sleep(0.1)  # five ticks
        assert keys(app) == list(range(10))
        (paused,) = heard.of(events.PipelinePaused)
    status = await elsewhere.status()
    assert status.paused_since == paused.since
    assert paused.by.startswith("process ")
    second = opened(warehouse, app, interval="20ms")
    heard = Recorder(second)
    async with running(second) as after:
        await state_is(second, "paused")
        await anyio.sleep(0.1)
        assert keys(app) == list(range(10))
        assert [event.since for event in heard.of(events.PipelinePaused)] == [paused.since]
        assert (await second.status()).paused_since == paused.since
        await elsewhere.send("resume")
        await after(events.ScanFinished)
        assert keys(app) == list(range(11))
        assert len(heard.of(events.PipelineResumed)) == 1
    assert (await elsewhere.status()).paused_since is None
    for job in (elsewhere, first, second):
        await job.aclose()


async def test_a_pause_of_the_owner_itself_holds_for_its_successor_however_soon_it_ends(
    warehouse: Warehouse, app: Database, rare_beats: None
) -> None:
    first = opened(warehouse, app, lease_ttl=LONG)
    async with running(first) as after:
        await after(events.LeaseAcquired)
        await state_is(first, "idle")
        first.pause()
    second = opened(warehouse, app, lease_ttl=LONG)
    async with running(second) as after:
        await after(events.PipelinePaused)
        await state_is(second, "paused")
        await after(events.PipelineResumed, second.resume)  # at once, and not with the next beat
        await state_is(second, "idle")
        with anyio.fail_after(10):
            while (await asked(second)).paused_since is not None:  # noqa: ASYNC110  # stored by the owner's task
                await anyio.sleep(0.01)
    for job in (first, second):
        await job.aclose()


async def test_a_trigger_is_obeyed_once_by_the_owner(warehouse: Warehouse, app: Database) -> None:
    elsewhere, owner = opened(warehouse, app), opened(warehouse, app)
    heard = Recorder(owner)
    async with running(owner) as after:
        await after(events.LeaseAcquired)
        for number in range(2):
            assert (await elsewhere.send("trigger")).heard
            await state_is(owner, "idle")
            assert keys(app) == list(range(10 + number))
            add(warehouse, 10 + number)
        await anyio.sleep(0.3)  # three beats
        assert keys(app) == list(range(11))
    assert len(heard.of(events.Triggered)) == len(heard.of(events.ScanFinished)) == 2
    assert (await asked(owner)).commands == ()
    for job in (elsewhere, owner):
        await job.aclose()


async def test_a_standby_passes_on_what_is_asked_of_it(warehouse: Warehouse, app: Database) -> None:
    owner, standby = opened(warehouse, app), opened(warehouse, app, "elsewhere/2")
    async with running(owner) as after_owner:
        await after_owner(events.LeaseAcquired)
        async with running(standby) as after_standby:
            await after_standby(events.LeaseHeld)
            await after_owner(events.ScanFinished, standby.trigger)
            assert keys(app) == list(range(10))
            await after_owner(events.PipelinePaused, standby.pause)
            await after_owner(events.PipelineResumed, standby.resume)
            assert standby.snapshot().state == "standby"
    for job in (owner, standby):
        await job.aclose()


async def test_a_standby_that_takes_over_does_not_run_the_trigger_of_its_predecessor(
    warehouse: Warehouse, app: Database, rare_beats: None
) -> None:
    owner = opened(warehouse, app, lease_ttl=LONG)
    standby = opened(warehouse, app, "elsewhere/2", lease_ttl=LONG)
    async with running(owner) as after_owner:
        await after_owner(events.LeaseAcquired)
        async with running(standby) as after_standby:
            await after_standby(events.LeaseHeld)
            standby.trigger()
            with anyio.fail_after(10):
                while not (await asked(standby)).commands:  # noqa: ASYNC110  # it is sent by the standby's task
                    await anyio.sleep(0.01)
            dropped = await after_standby(events.CommandDropped, owner.stop)
            assert isinstance(dropped, events.CommandDropped)
            assert (dropped.command, dropped.table) == ("trigger", None)
            assert "a former owner" in dropped.reason
            await state_is(standby, "idle")
            assert (await asked(standby)).commands == ()
            assert app.tables() == []
            await after_standby(events.ScanFinished, standby.trigger)  # its own
    for job in (owner, standby):
        await job.aclose()


async def test_a_stop_ends_the_owner_and_a_standby_takes_over(warehouse: Warehouse, app: Database) -> None:
    owner, standby = opened(warehouse, app), opened(warehouse, app, "elsewhere/2")
    elsewhere = opened(warehouse, app)
    ended = Recorder(owner)
    async with anyio.create_task_group() as tasks:
        async with running(owner) as after_owner:
            await after_owner(events.LeaseAcquired)
            tasks.start_soon(standby.run_forever)
            taken = standby.events()
            assert (await elsewhere.send("stop", grace="5s")).heard
            async for event in taken:
                if isinstance(event, events.LeaseAcquired):
                    assert event.epoch == 2
                    break
            assert len(ended.of(events.PipelineStopped)) == 1
        standby.stop()
    for job in (owner, standby, elsewhere):
        await job.aclose()


async def test_where_nobody_lives_a_pause_is_kept_and_a_trigger_is_not(warehouse: Warehouse, app: Database) -> None:
    elsewhere, owner = opened(warehouse, app), opened(warehouse, app)
    words: tuple[CommandWord, ...] = ("trigger", "stop", "pause")
    for word in words:
        sent = await elsewhere.send(word)
        assert (sent.owner, sent.heard) == (None, False)
    assert (await asked(elsewhere)).commands == ()
    heard = Recorder(owner)
    async with running(owner) as after:
        await after(events.PipelinePaused)
        await state_is(owner, "paused")
    assert heard.of(events.ScanStarted) == []
    assert (await owner.run_once()).ok  # a pause holds the schedule back, and nothing else
    assert keys(app) == list(range(10))
    for job in (elsewhere, owner):
        await job.aclose()


async def test_what_a_silent_owner_does_not_hear_is_withdrawn(warehouse: Warehouse, app: Database) -> None:
    elsewhere = opened(warehouse, app)
    store = elsewhere._store
    assert await store.take_lease(await store.read_lease("shop"), "box/9", 0.3)
    sent = await elsewhere.send("trigger")
    assert (sent.owner, sent.heard) == ("process 9 on box", False)
    assert (await asked(elsewhere)).commands == ()
    sent = await elsewhere.send("pause")
    assert not sent.heard
    left = await asked(elsewhere)
    assert left.paused_since is not None and left.commands == ()
    await elsewhere.aclose()


async def test_a_single_run_can_be_stopped_from_elsewhere_and_takes_no_trigger(
    warehouse: Warehouse, app: Database
) -> None:
    warehouse.run("INSERT INTO orders SELECT i, 'many', TIMESTAMP '2024-03-01' FROM range(100, 400) t(i)")
    table = retl.Table("orders", slice_rows=10)
    job = retl.Pipeline("shop", source=warehouse.source(), target=app.target(), tables=[table], lease_ttl=SHORT)
    elsewhere = opened(warehouse, app)
    heard = Recorder(job)
    slow = threading.Event()
    heard.when(events.SliceCommitted, lambda _: slow.wait(0.02), once=False)
    async with anyio.create_task_group() as tasks:
        first = anyio.Event()
        heard.when(events.SliceCommitted, lambda _: first.set())
        tasks.start_soon(job.run_once)
        with anyio.fail_after(20):
            await first.wait()
            await elsewhere.send("trigger")
            assert (await elsewhere.send("stop")).heard
    (dropped,) = heard.of(events.CommandDropped)
    assert (dropped.command, dropped.reason) == ("trigger", "a single run takes no trigger")
    assert 10 <= len(keys(app)) < 310
    for pipeline in (job, elsewhere):
        await pipeline.aclose()


async def test_a_state_that_only_its_own_process_has_is_not_steered_from_another(
    warehouse: Warehouse, app: Database
) -> None:
    job = opened(warehouse, app, state=retl.MemoryStore())
    with pytest.raises(retl.ConfigError, match="shop: its state is kept in the memory of the process that runs it"):
        await job.send("pause")
    async with running(job) as after:
        await after(events.LeaseAcquired)
        await state_is(job, "idle")
        assert (await job.send("pause")).heard  # this object is the owner
        await state_is(job, "paused")
        assert (await job.send("stop")).heard
    await job.aclose()


@pytest.mark.parametrize(
    ("word", "more", "text"),
    [
        ("halt", {}, "unknown command 'halt'"),
        ("pause", {"table": "orders"}, "pause is for the whole pipeline"),
        ("trigger", {"grace": 1}, "trigger takes no grace"),
        ("trigger", {"table": "ordes"}, "shop: the pipeline has no table 'ordes'"),
    ],
)
async def test_words_that_do_not_fit_are_refused(
    warehouse: Warehouse, app: Database, word: Any, more: dict[str, Any], text: str
) -> None:
    with pytest.raises(retl.ConfigError, match=text):
        await opened(warehouse, app).send(word, **more)
