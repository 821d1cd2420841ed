"""The lease of a pipeline: who may take it, who shows signs of life, who notices that it is gone."""

from __future__ import annotations

import os

import anyio
import anyio.to_thread
import pytest

from retl.engine.lease import Lease, is_dead, new_owner, process_identity
from retl.model.checkpoint import Fence
from retl.model.errors import ConfigError, ConnectionFailed, LeaseLost
from retl.state.base import LeaseRow, lease_lost
from retl.state.memory import MemoryStore


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Watched(MemoryStore):
    """A store that tells of every beat, and answers the next ones as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0
        self.beaten = anyio.Event()
        self.wanted = 1
        self.failures: list[Exception] = []

    async def beat(self, fence: Fence) -> bool:
        self.beats += 1
        if self.beats >= self.wanted:
            self.beaten.set()
        if self.failures:
            raise self.failures.pop()
        return await super().beat(fence)


def lease(store: MemoryStore, owner: str, clock: Clock, ttl: float = 30.0) -> Lease:
    return Lease(store, "p", owner=owner, ttl=ttl, clock=clock)


async def test_a_free_lease_is_taken_with_the_next_epoch_and_its_time_to_live(clock: Clock) -> None:
    store = MemoryStore()
    first = lease(store, "one/1", clock, ttl=7.0)
    assert await first.try_take() == Fence("p", "one/1", 1) == first.fence
    assert await store.read_lease("p") == LeaseRow("p", "one/1", 1, 0, 7.0)
    await first.give_up()
    assert first.fence is None and (await store.read_lease("p")).owner is None
    assert await lease(store, "two/2", clock).try_take() == Fence("p", "two/2", 2)


async def test_an_owner_is_robbed_only_after_it_was_silent_for_its_own_time_to_live(clock: Clock) -> None:
    store = MemoryStore()
    owner = await lease(store, "one/1", clock, ttl=10.0).try_take()
    assert owner is not None
    other = lease(store, "two/2", clock, ttl=1.0)
    for seconds, beats in ((0.0, False), (9.9, True), (9.9, False), (0.09, False)):
        clock.now += seconds
        if beats:
            assert await store.beat(owner)
        assert await other.try_take() is None and other.fence is None
        assert other.holder == "one/1"
    clock.now += 0.01  # ten seconds after the last sign of life was first seen
    assert await other.try_take() == Fence("p", "two/2", 2)
    assert other.holder is None
    assert not await store.beat(owner)


async def test_time_before_the_first_look_does_not_count_as_silence(clock: Clock) -> None:
    store = MemoryStore()
    await lease(store, "one/1", clock, ttl=10.0).try_take()
    clock.now += 3600.0
    assert await lease(store, "two/2", clock).try_take() is None


async def test_another_epoch_is_a_sign_of_life_too(clock: Clock) -> None:
    store = MemoryStore()
    await lease(store, "one/1", clock, ttl=10.0).try_take()
    other = lease(store, "two/2", clock)
    assert await other.try_take() is None
    clock.now += 10.0
    await store.take_lease(await store.read_lease("p"), "three/3", 10.0)
    assert await other.try_take() is None
    clock.now += 10.0
    assert await other.try_take() == Fence("p", "two/2", 3)


async def test_a_lease_that_somebody_takes_between_look_and_take_is_not_ours(clock: Clock) -> None:
    class Late(MemoryStore):
        async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
            await super().take_lease(seen, "faster/9", ttl)
            return await super().take_lease(seen, owner, ttl)

    mine = lease(Late(), "one/1", clock)
    assert await mine.try_take() is None
    assert mine.fence is None


async def test_a_dead_process_of_this_machine_is_not_waited_for(clock: Clock) -> None:
    store = MemoryStore()
    host, _, kernel, _ = (await anyio.to_thread.run_sync(process_identity)).split("/")
    dead = f"{host}/{os.getpid()}/{kernel}/1/aaaa"  # this number belongs to a process that began at another moment
    await lease(store, dead, clock).try_take()
    assert await anyio.to_thread.run_sync(is_dead, dead)
    assert await lease(store, "two/2", clock).try_take() == Fence("p", "two/2", 2)


async def test_two_pipelines_of_one_name_in_one_process_are_told(clock: Clock) -> None:
    store = MemoryStore()
    first, second = Lease(store, "p", clock=clock), Lease(store, "p", clock=clock)
    await first.try_take()
    with pytest.raises(ConfigError, match="another pipeline named 'p' runs in this process"):
        await second.try_take()
    first.fence = None  # it could not give the lease up
    assert await second.try_take() is not None


async def test_signs_of_life_are_shown_three_times_in_its_time_until_it_is_gone(clock: Clock) -> None:
    store = Watched()
    mine = lease(store, "one/1", clock, ttl=0.03)
    fence = await mine.try_take()
    assert fence is not None
    lost: list[LeaseLost] = []
    store.wanted = 3
    store.failures = [ConnectionFailed("no answer"), RuntimeError("a bug")]  # neither is the end of the lease
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mine.keep, lost.append)
            await store.beaten.wait()
            assert lost == [] and mine.fence is not None
            assert (await store.read_lease("p")).beat == 1
            store._leases["p"] = LeaseRow("p", "two/2", 2, 0, 1.0)
    assert [str(error) for error in lost] == [str(lease_lost(fence))]
    assert mine.fence is None


@pytest.mark.parametrize(("ttl", "between"), [(6.0, 2.0), (30.0, 10.0), (86_400.0, 10.0)])
async def test_between_two_signs_of_life_lies_a_third_of_the_time_to_live_and_never_long(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, ttl: float, between: float
) -> None:
    store = Watched()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            store._leases.clear()

    mine = lease(store, "one/1", clock, ttl=ttl)
    await mine.try_take()
    monkeypatch.setattr(anyio, "sleep", sleep)
    await mine.keep(lambda reason: None)
    assert slept == [between] * 3


async def test_whoever_waits_for_a_lease_stops_at_the_first_sign_of_life(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    owner = await lease(store, "one/1", clock, ttl=10.0).try_take()
    assert owner is not None
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 3:
            await store.beat(owner)

    monkeypatch.setattr(anyio, "sleep", sleep)
    assert await lease(store, "two/2", clock, ttl=2.0).take_unless_alive() is None
    assert slept == [0.4, 0.4, 0.4]  # a fifth of its own time to live
    assert await lease(store, "two/2", clock).take_unless_alive() == Fence("p", "two/2", 2)
    assert clock.now >= 1010.0


async def test_giving_up_never_fails_and_ends_nobody_elses_lease(clock: Clock) -> None:
    class Broken(MemoryStore):
        async def give_up_lease(self, fence: Fence) -> None:
            raise ConnectionFailed("no answer")

    mine = lease(Broken(), "one/1", clock)
    await mine.try_take()
    await mine.give_up()
    assert mine.fence is None

    store = MemoryStore()
    old = lease(store, "one/1", clock)
    await old.try_take()
    store._leases["p"] = LeaseRow("p", "two/2", 2, 5, 1.0)
    await old.give_up()
    assert await store.read_lease("p") == LeaseRow("p", "two/2", 2, 5, 1.0)


def test_every_pipeline_object_has_an_owner_of_its_own() -> None:
    assert new_owner() != new_owner()
    assert new_owner().startswith(f"{process_identity()}/")
    assert not is_dead(new_owner()) and not is_dead("elsewhere/1/another kernel/2/x") and not is_dead("short")
