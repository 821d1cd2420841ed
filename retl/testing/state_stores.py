"""The contract suite of state stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from retl.model.alerts import AlertState, Notice, TableFares, Told
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import LeaseLost
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.model.steering import Steering
from retl.state.base import Claim, LeaseRow, Manifest, StateStore
from retl.testing.state_base import NAMES, PAUSED, RICH, entry, moment, owned, race, reject, report


class StateStoreContract:
    """Holds a store to every sentence of ``retl.state.base.StateStore``.

    Inherit it in a test module, under a name that begins with ``Test``, and fill in ``new_store``.
    A suite's object lives for one test, so what a test sets up may be kept in attributes.
    """

    pytestmark: ClassVar[Any] = [pytest.mark.anyio]

    atomic: ClassVar[bool] = True
    """Whether a checkpoint and its change of the manifest are one transaction; otherwise the manifest comes first."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    def new_store(self) -> StateStore:
        """Another object on the one store under test, which is empty when a test begins; the suite closes it."""
        raise NotImplementedError

    def keep_reports(self, monkeypatch: pytest.MonkeyPatch, most: int) -> bool:
        """Make the store keep so few reports of a table; ``False`` where that cannot be done."""
        return False

    @pytest.fixture
    async def store(self) -> AsyncIterator[StateStore]:
        made = self.new_store()
        yield made
        await made.aclose()
        await made.aclose()

    @pytest.fixture
    async def other(self) -> AsyncIterator[StateStore]:
        """A second object, as another process has it."""
        made = self.new_store()
        yield made
        await made.aclose()

    async def test_an_empty_store_knows_nothing(self, store: StateStore) -> None:
        assert await store.load("p") == {}
        assert await store.read_lease("p") == LeaseRow("p", None, 0, 0, 0.0)
        assert (await store.rejects("p"), await store.reports(), await store.claims("here")) == ([], [], [])
        assert (await store.count_rejects("p"), await store.last_reports("p")) == ({}, {})
        assert await store.read_manifest("p", "t") == []
        assert await store.forget("p") == await store.clear_rejects("p") == await store.release_claims("p") == 0
        assert not await store.beat(Fence("p", "me", 1))
        await store.give_up_lease(Fence("p", "me", 1))
        with pytest.raises(LeaseLost):
            await store.save(FencedCheckpoint(Fence("p", "me", 1), "t", Checkpoint()))
        await store.prune_rejects("p", moment(9999), 0)
        assert await store.read_steering("p") == Steering()
        assert await store.hear(Fence("p", "me", 1), Steering()) is None

    # Checkpoints --------------------------------------------------------------

    async def test_checkpoints_come_back_to_their_last_digit(self, store: StateStore, other: StateStore) -> None:
        first, second = await owned(store, "p"), await owned(store, "q")
        for _ in range(2):  # the same values again are no news to an UPDATE
            await store.save(FencedCheckpoint(first, "orders", RICH))
        # Names differ in every character; one pipeline sees nothing of another.
        for name in ("t", "T", "t ", "a.b", ".", "ü"):
            await store.save(FencedCheckpoint(first, name, Checkpoint(watermark=name)))
        await store.save(FencedCheckpoint(second, "t", Checkpoint(watermark="7")))
        await store.save(FencedCheckpoint(first, "t", Checkpoint(watermark="2")))
        marks = {"t": "2", "T": "T", "t ": "t ", "a.b": "a.b", ".": ".", "ü": "ü"}
        expected = {"orders": RICH, **{name: Checkpoint(watermark=mark) for name, mark in marks.items()}}
        assert await store.load("p") == await other.load("p") == expected
        assert await store.load("q") == {"t": Checkpoint(watermark="7")}

    async def test_forgetting_takes_one_table_or_all_of_one_pipeline(self, store: StateStore) -> None:
        for pipeline in ("p", "q"):
            fence = await owned(store, pipeline)
            for table in ("a", "b", "c"):
                change = ManifestChange(put=(entry(table),))
                await store.save(FencedCheckpoint(fence, table, Checkpoint(watermark=table), change))
        assert await store.forget("p", "b") == 1
        assert await store.forget("p", "nothing") == 0
        assert set(await store.load("p")) == {"a", "c"}
        assert (await store.read_manifest("p", "b"), await store.read_manifest("p", "a")) == ([], [entry("a")])
        assert await store.forget("p") == 2
        assert (await store.load("p"), await store.read_manifest("p", "a")) == ({}, [])
        assert set(await store.load("q")) == {"a", "b", "c"}
        assert await store.read_manifest("q", "b") == [entry("b")]

    # Lease and fence ----------------------------------------------------------

    async def test_a_lease_is_taken_as_seen_and_raises_the_epoch(self, store: StateStore) -> None:
        assert await store.take_lease(LeaseRow("p", "ghost", 4, 2, 15.0), "me", 15.0) is None
        assert (await store.read_lease("p")).epoch == 0
        free = LeaseRow("p", None, 0, 0, 0.0)
        assert await store.take_lease(free, "it's \\me", 15.0) == Fence("p", "it's \\me", 1)
        held = await store.read_lease("p")
        assert (held.owner, held.epoch, held.ttl) == ("it's \\me", 1, 15.0)
        assert await store.take_lease(free, "second", 5.0) is None
        assert await store.take_lease(held, "second", 5.0) == Fence("p", "second", 2)
        held = await store.read_lease("p")
        assert (held.owner, held.epoch, held.ttl) == ("second", 2, 5.0)

    async def test_an_owner_that_beats_cannot_be_taken_over_by_what_was_seen_before(
        self, store: StateStore, other: StateStore
    ) -> None:
        fence = await owned(store)
        seen = await other.read_lease("p")
        assert await store.beat(fence)
        assert (await store.read_lease("p")).beat > seen.beat
        assert await other.take_lease(seen, "other", 15.0) is None
        assert (await store.read_lease("p")).owner == "me"
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1")))
        assert await store.load("p") == {"t": Checkpoint(watermark="1")}

    async def test_a_former_owner_changes_nothing(self, store: StateStore, other: StateStore) -> None:
        old = await owned(store, owner="old")
        kept = ManifestChange(put=(entry("a"),))
        await store.save(FencedCheckpoint(old, "t", Checkpoint(watermark="1"), kept))
        new = await owned(other, owner="new")
        held = await store.read_lease("p")
        late = ManifestChange(put=(entry("b"),), remove=("a",))
        with pytest.raises(LeaseLost, match="another process has taken this pipeline over") as caught:
            await store.save(FencedCheckpoint(old, "t", Checkpoint(watermark="2"), late))
        assert caught.value.pipeline == "p"
        with pytest.raises(LeaseLost):
            await store.save(FencedCheckpoint(old, "another", Checkpoint(watermark="2")))
        with pytest.raises(LeaseLost):
            await store.claim(old, Claim("p", "t", "here", True))
        assert not await store.beat(old)
        await store.give_up_lease(old)
        assert await store.read_lease("p") == held
        assert await store.load("p") == {"t": Checkpoint(watermark="1")}
        assert (await store.read_manifest("p", "t"), await store.claims("here")) == ([entry("a")], [])
        await other.save(FencedCheckpoint(new, "t", Checkpoint(watermark="3"), late))
        assert await store.load("p") == {"t": Checkpoint(watermark="3")}
        assert await store.read_manifest("p", "t") == [entry("b")]

    async def test_what_alerts_have_told_is_kept_under_the_fence(self, store: StateStore, other: StateStore) -> None:
        assert await store.read_alerts("p") == AlertState()
        old = await owned(store)
        notice = Notice(
            pipeline="p", table="t", condition="failures", message="naïve 'it' 😀", failures=3, at=moment(1)
        )
        state = AlertState({"t": TableFares(3, moment(1), None, "gone")}, {"key": Told(notice, delivered=True)})
        await store.save_alerts(old, AlertState())
        await store.save_alerts(old, state)
        await owned(other, owner="new")
        with pytest.raises(LeaseLost):
            await store.save_alerts(old, AlertState())
        await other.forget("p")
        assert await other.read_alerts("p") == state
        assert await other.read_alerts("q") == AlertState()

    async def test_a_fence_holds_only_with_owner_epoch_and_pipeline(self, store: StateStore) -> None:
        await owned(store)
        for fence in (Fence("p", "other", 1), Fence("p", "me", 2), Fence("p", "me", 0), Fence("q", "me", 1)):
            with pytest.raises(LeaseLost):
                await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1")))
            assert not await store.beat(fence)
        assert await store.load("p") == await store.load("q") == {}
        assert (await store.read_lease("p")).owner == "me"

    async def test_a_lease_that_was_given_up_is_free_but_its_epoch_is_not_used_again(self, store: StateStore) -> None:
        old = await owned(store)
        await store.give_up_lease(old)
        free = await store.read_lease("p")
        assert (free.owner, free.epoch) == (None, 1)
        assert not await store.beat(old)
        with pytest.raises(LeaseLost):
            await store.save(FencedCheckpoint(old, "t", Checkpoint()))
        assert await store.take_lease(free, "me", 15.0) == Fence("p", "me", 2)

    async def test_of_those_that_take_a_lease_at_once_exactly_one_wins(
        self, store: StateStore, other: StateStore
    ) -> None:
        for epoch in range(1, 5):
            (winner,) = await race([store, other], await store.read_lease("p"))
            assert winner.epoch == epoch
            held = await other.read_lease("p")
            assert (held.owner, held.epoch) == (winner.owner, epoch)

    async def test_many_steps_at_once_all_take_effect(self, store: StateStore, other: StateStore) -> None:
        fence = await owned(store)
        async with anyio.create_task_group() as tasks:
            for number in range(12):
                one = (store, other)[number % 2]
                change = ManifestChange(put=(entry(str(number)),))
                fenced = FencedCheckpoint(fence, f"t{number}", Checkpoint(watermark=str(number)), change)
                tasks.start_soon(partial(one.save, fenced))
                tasks.start_soon(one.beat, fence)
        assert await other.load("p") == {f"t{n}": Checkpoint(watermark=str(n)) for n in range(12)}
        assert [await store.read_manifest("p", f"t{n}") for n in range(12)] == [[entry(str(n))] for n in range(12)]
        assert (await store.read_lease("p")).beat >= 12  # a save may show too that the owner lives

    # Steering -----------------------------------------------------------------

    async def test_what_is_asked_of_a_pipeline_is_kept_whoever_owns_it(
        self, store: StateStore, other: StateStore
    ) -> None:
        assert await store.save_steering("p", PAUSED)  # before there ever was an owner
        assert await store.save_steering("q", Steering(by="q"))
        kept = msgspec.structs.replace(PAUSED, revision=1)
        fence = await owned(store)
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1")))
        await store.give_up_lease(fence)
        await store.forget("p")
        assert await store.read_steering("p") == await other.read_steering("p") == kept
        assert await other.save_steering("p", Steering(revision=1, by=PAUSED.by))
        assert await store.read_steering("p") == Steering(revision=2, by=PAUSED.by)
        assert await store.read_steering("q") == Steering(revision=1, by="q")
        assert (await owned(store)).epoch == 2

    async def test_of_two_that_ask_at_once_the_second_must_look_again(
        self, store: StateStore, other: StateStore
    ) -> None:
        for revision in range(3):
            seen = await store.read_steering("p")
            assert seen.revision == revision
            assert await other.save_steering("p", msgspec.structs.replace(seen, by="first"))
            assert not await store.save_steering("p", msgspec.structs.replace(seen, by="second"))
            assert await store.read_steering("p") == Steering(revision=revision + 1, by="first")
        assert not await store.save_steering("p", Steering(revision=9))
        assert not await store.save_steering("nothing", Steering(revision=1))

    async def test_an_owner_hears_with_its_beat_what_is_asked_of_it(self, store: StateStore, other: StateStore) -> None:
        fence = await owned(store)
        await owned(other, "q")
        beat = (await store.read_lease("p")).beat
        known = await store.hear(fence, Steering())
        assert known == Steering()
        assert await other.save_steering("q", PAUSED)
        assert await store.hear(fence, known) == known
        assert await other.save_steering("p", PAUSED)
        heard = await store.hear(fence, known)
        assert heard == msgspec.structs.replace(PAUSED, revision=1)
        assert await store.hear(fence, heard) == heard
        assert (await store.read_lease("p")).beat == beat + 4  # each of them was a sign of life
        await owned(other, owner="new")
        assert await store.hear(fence, Steering()) is None
        assert await store.hear(fence, heard) is None

    # Manifests ----------------------------------------------------------------

    async def test_a_manifest_is_read_in_the_order_of_code_points_page_by_page(self, store: StateStore) -> None:
        fence = await owned(store)
        entries = [entry(name, f"v-{name[:3]}", rows=7, facts={"size": "1", "ü": "'\\"}) for name in NAMES]
        await store.save(FencedCheckpoint(fence, "files", Checkpoint(), ManifestChange(put=tuple(entries))))
        await store.save(FencedCheckpoint(fence, "Files", Checkpoint(), ManifestChange(put=(entries[0],))))
        in_order = sorted(entries, key=lambda one: one.name)
        pages: list[ManifestEntry] = []
        while page := await store.read_manifest("p", "files", pages[-1].name if pages else "", 4):
            assert len(page) == min(4, len(NAMES) - len(pages))
            pages += page
        assert pages == in_order
        assert [one async for one in Manifest(store, "p", "files")] == in_order
        assert await store.read_manifest("p", "Files") == [entries[0]]
        assert await store.read_manifest("q", "files") == []

    async def test_a_change_of_a_manifest_puts_replaces_and_removes(self, store: StateStore) -> None:
        fence = await owned(store)
        many = tuple(entry(f"{number:05d}") for number in range(1_200))
        for names in (many, many[:2]):  # the same entries again are those that were there
            await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1"), ManifestChange(put=names)))
        newer = entry("00001", "2", rows=9)
        gone = ("never there", "00000", *(one.name for one in many[100:]))
        change = ManifestChange(put=(newer, entry("00000a")), remove=gone)
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="2"), change))
        assert await store.read_manifest("p", "t") == [entry("00000a"), newer, *many[2:100]]
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="3")))
        assert len(await store.read_manifest("p", "t")) == 100

    @pytest.mark.parametrize("delay", [0, 0.001, 0.005])
    async def test_a_cancelled_save_leaves_no_checkpoint_without_its_entries(
        self, store: StateStore, delay: float
    ) -> None:
        fence = await owned(store)
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1"), ManifestChange(put=(entry("a"),))))
        change = ManifestChange(put=tuple(entry(f"b{number}") for number in range(300)), remove=("a",))
        with anyio.move_on_after(delay):
            await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="2"), change))
        saved = (await store.load("p"))["t"].watermark == "2"
        found = {one.name for one in await store.read_manifest("p", "t")}
        after = {one.name for one in change.put}
        assert found == after if saved else not self.atomic or found == {"a"}
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="2"), change))
        assert {one.name for one in await store.read_manifest("p", "t")} == after

    # Claims -------------------------------------------------------------------

    async def test_a_table_of_the_target_knows_who_writes_it(self, store: StateStore) -> None:
        long = "mysql:server/" + "x" * 300
        mine, theirs = Claim("p", "a", "here", True), Claim("q", "b", "here", False)
        fence = await owned(store, "p")
        await store.claim(fence, mine)
        await store.claim(await owned(store, "q"), theirs)
        await store.claim(await owned(store, "r"), Claim("r", "c", long, False))
        assert sorted(await store.claims("here"), key=repr) == [mine, theirs]
        assert await store.claims(long) == [Claim("r", "c", long, False)]
        assert await store.claims(long[:-1] + "y") == await store.claims("HERE") == []
        # A claim takes the place of the older one of its table.
        await store.claim(fence, Claim("p", "a", "there", False))
        await store.claim(fence, Claim("p", "b", "there", True))
        assert await store.claims("here") == [theirs]
        assert await store.release_claims("p", "a") == 1
        assert await store.claims("there") == [Claim("p", "b", "there", True)]
        assert await store.release_claims("nothing") == await store.release_claims("p", "a") == 0
        assert await store.release_claims("p") == 1
        assert await store.claims("there") == []

    # Rejects ------------------------------------------------------------------

    async def test_rejects_are_kept_with_all_they_say_newest_first(self, store: StateStore) -> None:
        long = "k" * 300
        first, second, third = reject(long + "1", 1), reject("2", 2, table="u"), reject(long + "2", 3, reason="r'\\")
        for _ in range(2):  # the same row again replaces what is known of it
            await store.add_rejects("p", [first, second])
        await store.add_rejects("p", [third])
        await store.add_rejects("q", [reject("9", 9)])
        assert await store.rejects("p") == [third, second, first]
        assert await store.rejects("p", "t") == [third, first]
        assert await store.rejects("p", limit=2) == [third, second]
        assert await store.count_rejects("p") == {"t": 2, "u": 1}
        newer = reject(long + "1", 4, reason="still too long")
        await store.add_rejects("p", [newer])
        assert await store.rejects("p", "t") == [newer, third]
        assert await store.count_rejects("p") == {"t": 2, "u": 1}

    async def test_rejects_are_cleared_by_table_or_all_and_pruned(self, store: StateStore) -> None:
        await store.add_rejects("p", [reject(str(number), number) for number in range(6)])
        await store.add_rejects("p", [reject("9", 1, table="u"), reject("8", 3, table="u")])
        await store.add_rejects("q", [reject("1", 0)])
        await store.prune_rejects("p", moment(2), 3)
        assert [one.key for one in await store.rejects("p", "t")] == ["5", "4", "3"]
        assert [one.key for one in await store.rejects("p", "u")] == ["8"]
        assert await store.clear_rejects("p", "t") == 3
        assert await store.rejects("p") == [reject("8", 3, table="u")]
        await store.prune_rejects("p", moment(9999), 3)
        assert await store.clear_rejects("p") == 0
        assert await store.count_rejects("p") == {}
        assert await store.count_rejects("q") == {"t": 1}

    # History ------------------------------------------------------------------

    async def test_the_history_tells_everything_newest_first(self, store: StateStore) -> None:
        reports = [
            report(1, rows=5, warnings=("a", "b"), watermark="2024-01-01 00:00:00.000001"),
            report(2, table="u", error="it broke.", error_type="TargetError"),
            report(3, pipeline="q"),
            report(4),
        ]
        for one in reports:
            await store.add_report(one)
        first, second, third, fourth = reports
        assert await store.reports() == [fourth, third, second, first]
        assert await store.reports("p") == [fourth, second, first]
        assert await store.reports("p", "t") == [fourth, first]
        assert await store.reports(None, "t") == [fourth, third, first]
        assert await store.reports("p", limit=2) == [fourth, second]

    async def test_the_last_report_of_each_table_is_told_however_many_there_are(self, store: StateStore) -> None:
        for number in range(21):
            await store.add_report(report(number, table=f"t{number}"))
        await store.add_report(report(60, pipeline="q", table="t1"))
        newest = report(61, table="t1", rows=7)
        await store.add_report(newest)
        found = await store.last_reports("p")
        assert list(found) == ["t0", *(f"t{number}" for number in range(2, 21)), "t1"]
        assert (found["t1"], found["t0"]) == (newest, report(0, table="t0"))
        assert await store.last_reports("nothing") == {}

    async def test_the_history_of_a_table_is_bounded_and_pushes_no_other_out(
        self, store: StateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not self.keep_reports(monkeypatch, 4):
            pytest.skip("how many reports are kept cannot be changed here")
        await store.add_report(report(0, table="quiet"))
        await store.add_report(report(0, pipeline="q"))
        for number in range(1, 8):
            await store.add_report(report(number))
        assert [one.scan_id[-1] for one in await store.reports("p", "t")] == ["7", "6", "5", "4"]
        assert await store.reports("p", "quiet") == [report(0, table="quiet")]
        assert await store.reports("q") == [report(0, pipeline="q")]
