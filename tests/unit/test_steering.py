"""What is asked of a pipeline, beside its lease: obeyed once, by the owner for which it was sent, whatever the store does."""

from __future__ import annotations

from typing import Any

import anyio

from retl import events
from retl.engine.lease import Lease
from retl.engine.steering import Commands, post, send
from retl.model.checkpoint import Fence
from retl.model.errors import ConfigError, ConnectionFailed
from retl.model.steering import Steering
from retl.state.memory import MemoryStore
from retl.testing.state_base import owned


class Busy(MemoryStore):
    """A store in which others change the same at the same moment, or which does not answer, the next so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.late = 0
        self.failures = 0
        self.saved = anyio.Event()

    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        if self.failures:
            self.failures -= 1
            raise ConnectionFailed("no answer")
        if self.late:
            self.late -= 1
            await super().save_steering(pipeline, await self.read_steering(pipeline))
        done = await super().save_steering(pipeline, steering)
        if done:
            self.saved.set()
        return done


class Owner(Commands):
    """Notes what it is asked to do."""

    def __init__(self, store: MemoryStore) -> None:
        self.did: list[Any] = []
        self.emitted: list[events.Event] = []
        super().__init__(
            store,
            "p",
            emit=self.emitted.append,
            wake=lambda: None,
            trigger=self._note_trigger,
            stop=lambda grace: self.did.append(("stop", grace)),
            backfill=lambda asked, request: self.did.append(("backfill", asked)),
        )

    def _note_trigger(self, table: str | None) -> None:
        if table == "unknown":
            raise ConfigError("it has no such table.")
        self.did.append(("trigger", table))

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.emitted if type(event) is kind]


async def test_triggers_that_wait_are_one_for_each_table_and_each_owner() -> None:
    store = MemoryStore()
    assert await post(store, "p", "trigger") is None  # nobody is there to hear it
    assert await store.read_steering("p") == Steering()
    await owned(store)
    first = await post(store, "p", "trigger")
    assert first is not None
    assert await post(store, "p", "trigger") == first
    second = await post(store, "p", "trigger", "t")
    third = await post(store, "p", "stop", grace=2.0)
    assert (await store.read_steering("p")).commands == (first, second, third)
    await owned(store, owner="new")
    later = await post(store, "p", "trigger")
    assert later is not None and (later.epoch, first.epoch) == (2, 1)
    assert (await store.read_steering("p")).commands == (first, second, third, later)


async def test_a_command_is_obeyed_once_though_the_store_takes_it_off_only_later() -> None:
    store, fence = Busy(), Fence("p", "me", 1)
    assert await owned(store) == fence
    owner = Owner(store)
    await owner.begin(fence)
    await post(store, "p", "trigger", "t")
    store.late = 1
    for left in (1, 0, 0):
        heard = await store.hear(fence, owner.known)
        assert heard is not None
        await owner.hear(heard)
        assert len((await store.read_steering("p")).commands) == left
    assert owner.did == [("trigger", "t")]
    assert len((await store.read_steering("p")).heard) == 1


async def test_a_new_owner_drops_what_its_predecessor_has_not_heard_and_says_so() -> None:
    store = MemoryStore()
    await owned(store)
    old = await post(store, "p", "trigger", "t")
    await post(store, "p", "pause")
    fence = await owned(store, owner="new")
    owner = Owner(store)
    await owner.begin(fence)
    assert owner.did == []
    (dropped,) = owner.of(events.CommandDropped)
    assert old is not None
    assert (dropped.command, dropped.table, dropped.sent_at, dropped.by) == ("trigger", "t", old.at, old.by)
    left = await store.read_steering("p")
    assert (left.commands, owner.paused, len(owner.of(events.PipelinePaused))) == ((), True, 1)
    assert old.id not in left.heard


async def test_a_trigger_of_a_table_that_the_owner_does_not_have_is_dropped() -> None:
    store, fence = MemoryStore(), Fence("p", "me", 1)
    assert await owned(store) == fence
    owner = Owner(store)
    await owner.begin(fence)
    await post(store, "p", "trigger", "unknown")
    await owner.hear(await store.read_steering("p"))
    (dropped,) = owner.of(events.CommandDropped)
    assert (dropped.table, dropped.reason) == ("unknown", "it has no such table.")
    left = await store.read_steering("p")
    assert (left.commands, left.heard, owner.of(events.Triggered)) == ((), (), [])


async def test_a_former_owner_leaves_what_is_for_the_new_one() -> None:
    store = MemoryStore()
    fence = await owned(store)
    owner = Owner(store)
    await owner.begin(fence)
    owner.pause()
    await owned(store, owner="new")
    new = await post(store, "p", "trigger")
    await owner.end()
    left = await store.read_steering("p")
    assert (left.commands, owner.did) == ((new,), [])
    assert left.paused_since is not None


async def test_a_pause_that_the_store_does_not_take_at_once_holds_and_is_stored_later() -> None:
    store = Busy()
    lease = Lease(store, "p", owner="me/1", ttl=0.03)
    fence = await lease.try_take()
    assert fence is not None
    owner = Owner(store)
    await owner.begin(fence)
    store.failures = 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.keep, lambda reason: None, owner)
        owner.pause()
        owner.attend()
        assert owner.paused and owner.pending
        with anyio.fail_after(10):
            await store.saved.wait()
        tasks.cancel_scope.cancel()
    assert (await store.read_steering("p")).paused_since == owner.paused_since
    assert (owner.pending, len(owner.of(events.PipelinePaused))) == (False, 1)


async def test_a_pause_that_is_repeated_keeps_its_beginning() -> None:
    store = MemoryStore()
    await post(store, "p", "pause")
    begun = (await store.read_steering("p")).paused_since
    await post(store, "p", "pause")
    owner = Owner(store)
    owner.pause()
    await owner.begin(await owned(store))
    assert (await store.read_steering("p")).paused_since == owner.paused_since == begun
    owner.resume()
    await owner.end()
    assert (await store.read_steering("p")).paused_since is None


async def test_who_waits_is_told_that_it_was_heard_though_the_owner_is_gone_by_then() -> None:
    store = MemoryStore()
    store.outlives_process = True  # type: ignore[misc]
    fence = await owned(store)
    owner = Owner(store)
    await owner.begin(fence)

    async def hear_and_end() -> None:
        while not (await store.read_steering("p")).commands:  # noqa: ASYNC110  # the store tells nobody
            await anyio.sleep(0.001)
        await owner.hear(await store.read_steering("p"))
        await store.give_up_lease(fence)
        await owned(store, owner="new")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear_and_end)
        assert (await send(store, "p", "stop", grace=1.5)).heard
    assert owner.did == [("stop", 1.5)]
