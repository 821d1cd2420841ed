"""Backfills that were sent to an owner: begun once the store knows it, tried again a few times, and never twice at once."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from retl import events
from retl.engine.asking import Asking
from retl.engine.request import Request
from retl.engine.steering import Commands
from retl.model.backfills import BackfillStatus, kept
from retl.model.checkpoint import Backfill, Backfilled, Checkpoint, FencedCheckpoint
from retl.model.errors import ConfigError, ConnectionFailed, SourceError, TargetBusy
from retl.model.plain import EPOCH
from retl.model.range import CursorRange
from retl.model.report import RunReport, ScanReport, ScanStatus
from retl.model.steering import Steering
from retl.state.base import StateStore
from retl.state.memory import MemoryStore
from retl.state.sqlite import SqliteStore
from retl.testing.state_base import owned

ENDS = CursorRange("2024-01-05", "2024-01-15")


class Owner(Commands):
    """Notes what it is to run, and runs nothing."""

    def __init__(self, store: StateStore) -> None:
        self.begun: list[tuple[BackfillStatus, Request]] = []
        self.emitted: list[events.Event] = []
        super().__init__(
            store,
            "p",
            emit=self.emitted.append,
            wake=lambda: None,
            trigger=lambda table: None,
            stop=lambda grace: None,
            backfill=lambda asked, request: self.begun.append((asked, request)),
        )

    async def beat(self) -> tuple[BackfillStatus, ...]:
        """Hear what the store says; what it says then."""
        await self.hear(await self._store.read_steering("p"))
        return (await self._store.read_steering("p")).backfills

    async def end_last(self, error: Exception | None = None, status: ScanStatus = "done", rows: int = 0) -> None:
        """The run that began last ends so, and the store is told."""
        scan = ScanReport(
            pipeline="p",
            table="t",
            to="t",
            scan_id="s",
            status=status,
            mode="backfill",
            started_at=EPOCH,
            seconds=1.0,
            rows=rows,
        )
        self.begun[-1][1].answer((RunReport("p", (scan,)), [] if error is None else [error]))
        await self.beat()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retl.engine.asked.backoff", lambda attempt, **_: 0.0)


async def sent(store: MemoryStore, owner: Owner) -> BackfillStatus:
    await owner.begin(await owned(store, owner=f"owner {len(owner.begun)}"))
    return await Asking(store, "p").send("t", ENDS)


async def reached(store: MemoryStore, owner: Owner, **words: Any) -> None:
    """Its scan has committed something."""
    assert owner._fence is not None
    await store.save(FencedCheckpoint(owner._fence, "t", Checkpoint(**words)))


def progress(rows: int) -> Backfill:
    return Backfill(since=ENDS.since, until=ENDS.until, cursor="ts", selection="s", done="2024-01-06", rows=rows)


async def test_it_begins_once_and_not_before_the_store_knows_it(store: MemoryStore) -> None:
    owner = Owner(store)
    asked = await sent(store, owner)
    known = await store.read_steering("p")
    assert await store.save_steering("p", replace(known, by="somebody asks for more"))
    await owner.hear(known)
    assert owner.begun == []
    (told,) = await owner.beat()
    assert (told.id, told.state, told.tries) == (asked.id, "running", 1)
    await owner.beat()
    assert [one.id for one, _ in owner.begun] == [asked.id]
    await owner.end_last(rows=30)
    (told,) = await owner.beat()
    assert (told.state, told.rows, told.error) == ("done", 30, None)
    assert len(owner.begun) == 1 and not owner.backfills.pending


async def test_what_may_pass_is_tried_again_as_long_as_it_gets_further(store: MemoryStore) -> None:
    owner = Owner(store)
    await sent(store, owner)
    for number in range(20):
        await owner.beat()
        await reached(store, owner, backfill=progress(number + 1))
        await owner.end_last(ConnectionFailed("no answer"), "failed")
    (told,) = await owner.beat()
    assert (told.state, told.rows, told.reached, len(owner.begun)) == ("running", 20, "2024-01-06", 21)
    for _ in range(20):
        await owner.end_last(ConnectionFailed("no answer"), "failed")
        await owner.beat()
    (told,) = await owner.beat()
    assert told.state == "failed" and len(owner.begun) == 28
    assert told.error == "it was begun 8 times and got no further; the last error: no answer"


async def test_one_that_brings_down_each_of_its_owners_is_given_up(store: MemoryStore) -> None:
    owner = Owner(store)
    await sent(store, owner)
    for number in range(12):
        await owner.begin(await owned(store, owner=f"next {number}"))
    (told,) = (await store.read_steering("p")).backfills
    assert (told.state, told.error, len(owner.begun)) == ("failed", "it was begun 8 times and got no further", 8)


async def test_what_a_former_ownership_left_running_here_ends_and_tells_nothing(store: MemoryStore) -> None:
    owner = Owner(store)
    await sent(store, owner)
    await owner.beat()
    await owner.begin(await owned(store, owner="owner 1"))
    (_, first), (_, second) = owner.begun
    assert first.scope.cancel_called and not second.scope.cancel_called
    first.answer((RunReport("p", ()), [SourceError("it was abandoned")]))
    (told,) = await owner.beat()
    assert (told.state, told.error) == ("running", None)


async def test_one_that_is_done_by_its_checkpoint_is_told_and_not_begun(store: MemoryStore) -> None:
    owner = Owner(store)
    asked = await sent(store, owner)
    await reached(store, owner, backfilled=Backfilled(asked.id, 30))
    (told,) = await owner.beat()
    assert (told.state, told.rows, owner.begun) == ("done", 30, [])


async def test_one_that_ends_while_another_change_is_stored_is_told_with_the_next(store: MemoryStore) -> None:
    owner = Owner(store)
    await sent(store, owner)
    await owner.beat()
    known = await store.read_steering("p")
    owner.begun[-1][1].answer((RunReport("p", ()), [SourceError("no such column")]))
    assert await store.save_steering("p", replace(known, by="somebody"))
    await owner.hear(known)
    assert owner.backfills.pending
    await owner.end()
    (told,) = (await store.read_steering("p")).backfills
    assert (told.state, told.error) == ("failed", "no such column")
    assert [type(event) for event in owner.emitted] == [events.BackfillStarted, events.CommandDropped]


async def test_the_last_ones_that_ended_are_remembered_and_all_that_have_not() -> None:
    one = BackfillStatus(id="x", table="t", at=EPOCH, by="me")
    many = [replace(one, id=str(number), state="running" if number % 10 == 0 else "done") for number in range(50)]
    found = kept(many)
    assert [int(each.id) for each in found if each.pending] == [0, 10, 20, 30, 40]
    assert [int(each.id) for each in found if not each.pending] == [n for n in range(50) if n % 10][-20:]


async def test_one_is_not_sent_where_another_of_the_table_is_pending(store: MemoryStore) -> None:
    owner, asking = Owner(store), Asking(store, "p")
    asked = await sent(store, owner)
    assert (await asking.send("t", ENDS)).id == asked.id
    other = await asking.send("u", ENDS)
    with pytest.raises(TargetBusy, match="has not ended"):
        await asking.send("t", CursorRange("2024-01-05", None))
    known = await store.read_steering("p")
    cancelled = replace(known.backfills[0], cancelled_by="me")
    assert await store.save_steering("p", replace(known, backfills=(cancelled, other)))
    with pytest.raises(TargetBusy, match="is being cancelled"):
        await asking.send("t", ENDS)
    await owner.beat()
    assert [one.table for one, _ in owner.begun] == ["u"]
    with pytest.raises(ConfigError, match="no backfill of this table waits or runs"):
        await asking.cancel("t")


async def test_a_store_of_a_version_that_knew_no_backfills_goes_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    assert await store.save_steering("p", Steering(by="me"))
    await owned(store)
    await store.aclose()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        ((body,),) = connection.execute("SELECT body FROM retl_steering").fetchall()
        old = {key: value for key, value in json.loads(body).items() if key != "backfills"}
        connection.execute("UPDATE retl_steering SET body = ?", (json.dumps(old),))
        connection.commit()
    assert await store.read_steering("p") == Steering(revision=1, by="me")
    asked = await Asking(store, "p").send("t", ENDS)
    assert (await store.read_steering("p")).backfills == (asked,)
    await store.aclose()
