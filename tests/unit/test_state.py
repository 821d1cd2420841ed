"""What every state store must do, whatever holds it; then what is special about a file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from retl.connectors import DuckDB
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint, Refresh, Reject
from retl.model.errors import ConfigError, ConnectionFailed, LeaseLost, RetlError, StateError, TargetBusy
from retl.model.report import ScanReport
from retl.model.window import Position
from retl.state import memory, records, sql
from retl.state.base import KEPT_REPORTS, STATE_VERSION, Claim, LeaseRow, StateStore
from retl.state.memory import MemoryStore
from retl.state.sqlite import SqliteStore

RICH = Checkpoint(
    cursor="updated_at",
    cursor_type="timestamp(6)",
    watermark="2024-02-29 23:59:59.123456789+05:30",
    position=Position("1", "2", 7, 3, "2"),
    refresh=Refresh("s1", "rename_and_create", archives=False),
    scan_id="s1",
    columns={"id": "bigint", "naïve": "text"},
    detail={"files": {"a/😀.csv": ["etag", 12]}},
)


@pytest.fixture(params=["memory", "sqlite", "duckdb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    made: StateStore = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "state.db")
    if request.param == "duckdb":
        inside = DuckDB(str(tmp_path / "state.duckdb")).target().state_store()
        assert inside is not None
        made = inside
    yield made
    await made.aclose()
    await made.aclose()


async def owned(store: StateStore, pipeline: str = "p", owner: str = "me") -> Fence:
    fence = await store.take_lease(await store.read_lease(pipeline), owner, 15.0)
    assert fence is not None
    return fence


def report(number: int, pipeline: str = "p", table: str = "t", **more: Any) -> ScanReport:
    return ScanReport(
        pipeline=pipeline,
        table=table,
        to=table,
        scan_id=f"scan-{number:06d}",
        status="done",
        mode="full",
        started_at=f"2024-01-01T00:00:00.{number:06d}",
        seconds=0.5,
        **more,
    )


# Checkpoints ----------------------------------------------------------------


async def test_an_empty_store_knows_nothing(store: StateStore) -> None:
    assert await store.load("p") == {}
    assert await store.read_lease("p") == LeaseRow("p", None, 0, 0, 0.0)
    assert await store.rejects("p") == []
    assert await store.count_rejects("p") == {}
    assert await store.reports() == []
    assert await store.forget("p") == 0
    assert await store.clear_rejects("p") == 0
    assert await store.claims("here") == []
    assert await store.release_claims("p") == 0


async def test_a_checkpoint_comes_back_to_its_last_digit(store: StateStore) -> None:
    fence = await owned(store)
    await store.save(FencedCheckpoint(fence, "orders", RICH))
    await store.save(FencedCheckpoint(fence, "items", Checkpoint()))
    assert await store.load("p") == {"orders": RICH, "items": Checkpoint()}


async def test_a_checkpoint_is_replaced_and_belongs_to_one_pipeline(store: StateStore) -> None:
    first, second = await owned(store, "p"), await owned(store, "q")
    await store.save(FencedCheckpoint(first, "t", Checkpoint(watermark="1")))
    await store.save(FencedCheckpoint(second, "t", Checkpoint(watermark="7")))
    await store.save(FencedCheckpoint(first, "t", Checkpoint(watermark="2")))
    assert await store.load("p") == {"t": Checkpoint(watermark="2")}
    assert await store.load("q") == {"t": Checkpoint(watermark="7")}


async def test_forgetting_takes_one_table_or_all_of_one_pipeline(store: StateStore) -> None:
    for pipeline in ("p", "q"):
        fence = await owned(store, pipeline)
        for table in ("a", "b", "c"):
            await store.save(FencedCheckpoint(fence, table, Checkpoint(watermark=table)))
    assert await store.forget("p", "b") == 1
    assert await store.forget("p", "nothing") == 0
    assert set(await store.load("p")) == {"a", "c"}
    assert await store.forget("p") == 2
    assert await store.load("p") == {}
    assert set(await store.load("q")) == {"a", "b", "c"}


# Lease and fence ------------------------------------------------------------


async def test_a_lease_is_taken_as_seen_and_raises_the_epoch(store: StateStore) -> None:
    assert await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "first", 15.0) == Fence("p", "first", 1)
    held = await store.read_lease("p")
    assert (held.owner, held.epoch, held.ttl) == ("first", 1, 15.0)
    assert await store.take_lease(held, "second", 5.0) == Fence("p", "second", 2)
    held = await store.read_lease("p")
    assert (held.owner, held.epoch, held.ttl) == ("second", 2, 5.0)


async def test_an_owner_that_beats_cannot_be_taken_over_by_what_was_seen_before(store: StateStore) -> None:
    fence = await owned(store)
    seen = await store.read_lease("p")
    assert await store.beat(fence)
    assert (await store.read_lease("p")).beat > seen.beat
    assert await store.take_lease(seen, "other", 15.0) is None
    assert (await store.read_lease("p")).owner == "me"
    await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1")))
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}


async def test_an_owner_that_does_not_beat_is_taken_over_and_fenced_off(store: StateStore) -> None:
    old = await owned(store, owner="old")
    await store.save(FencedCheckpoint(old, "t", Checkpoint(watermark="1")))
    new = await owned(store, owner="new")
    held = await store.read_lease("p")
    with pytest.raises(
        LeaseLost, match="another process has taken this pipeline over; nothing more was written"
    ) as caught:
        await store.save(FencedCheckpoint(old, "t", Checkpoint(watermark="2")))
    assert caught.value.pipeline == "p"
    with pytest.raises(LeaseLost):
        await store.save(FencedCheckpoint(old, "another", Checkpoint(watermark="2")))
    assert not await store.beat(old)
    await store.give_up_lease(old)
    assert await store.read_lease("p") == held
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}
    await store.save(FencedCheckpoint(new, "t", Checkpoint(watermark="3")))
    assert await store.load("p") == {"t": Checkpoint(watermark="3")}


@pytest.mark.parametrize(
    "fence", [Fence("p", "other", 1), Fence("p", "me", 2), Fence("p", "me", 0), Fence("q", "me", 1)]
)
async def test_a_fence_holds_only_with_owner_epoch_and_pipeline(store: StateStore, fence: Fence) -> None:
    await owned(store)
    with pytest.raises(LeaseLost):
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1")))
    assert not await store.beat(fence)
    assert await store.load("p") == await store.load("q") == {}
    assert (await store.read_lease("p")).owner == "me"


async def test_a_lease_that_was_given_up_is_free_but_its_epoch_is_not_used_again(store: StateStore) -> None:
    old = await owned(store)
    await store.give_up_lease(old)
    free = await store.read_lease("p")
    assert (free.owner, free.epoch) == (None, 1)
    assert not await store.beat(old)
    with pytest.raises(LeaseLost):
        await store.save(FencedCheckpoint(old, "t", Checkpoint()))
    assert await store.take_lease(free, "me", 15.0) == Fence("p", "me", 2)


async def test_a_lease_is_not_taken_from_what_was_never_there(store: StateStore) -> None:
    assert await store.take_lease(LeaseRow("p", "ghost", 4, 2, 15.0), "me", 15.0) is None
    assert (await store.read_lease("p")).epoch == 0
    await owned(store)
    assert await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 15.0) is None


async def test_a_beat_between_look_and_take_keeps_the_lease_with_its_owner(tmp_path: Path) -> None:
    """Between the statements of a step that has no transaction, the owner may show that it lives."""
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    fence = await owned(store)
    seen = await store.read_lease("p")
    step = sql.take_lease(seen, "other", 15.0)
    looked = step.send(None)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = connection.execute(looked.sql, looked.values).fetchall()
        assert await store.beat(fence)
        take = step.send(rows)
        changed = connection.execute(take.sql, take.values).rowcount
    with pytest.raises(StopIteration) as end:
        step.send(changed)
    assert end.value.value is None
    assert (await store.read_lease("p")).owner == "me"
    await store.aclose()


async def race(first: StateStore, second: StateStore, seen: LeaseRow) -> dict[str, Fence | None]:
    fences: dict[str, Fence | None] = {}

    async def take(store: StateStore, owner: str) -> None:
        fences[owner] = await store.take_lease(seen, owner, 15.0)

    async with anyio.create_task_group() as tasks:
        for store, owner in ((first, "a"), (second, "b")):
            tasks.start_soon(take, store, owner)
    return fences


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_of_two_that_take_a_lease_at_once_exactly_one_wins(kind: str, tmp_path: Path) -> None:
    shared = MemoryStore()
    first = shared if kind == "memory" else SqliteStore(tmp_path / "state.db")
    second = shared if kind == "memory" else SqliteStore(tmp_path / "state.db")
    for epoch in range(1, 16):
        seen = await first.read_lease("p")
        fences = await race(first, second, seen)
        (winner,) = [fence for fence in fences.values() if fence is not None]
        assert winner.epoch == epoch
        held = await second.read_lease("p")
        assert (held.owner, held.epoch) == (winner.owner, epoch)
    await first.aclose()
    await second.aclose()


async def test_two_that_open_a_new_file_at_once_both_find_a_whole_store(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"state{number}.db"
        first, second = SqliteStore(path), SqliteStore(path)
        fences = await race(first, second, LeaseRow("p", None, 0, 0, 0.0))
        assert sorted(fence is None for fence in fences.values()) == [False, True]
        await first.aclose()
        await second.aclose()


# Claims -------------------------------------------------------------------


async def test_a_table_of_the_target_knows_who_writes_it(store: StateStore) -> None:
    long = "mysql:server/" + "x" * 300
    mine, other = Claim("p", "a", "here", True), Claim("q", "b", "here", False)
    await store.claim(await owned(store, "p"), mine)
    await store.claim(await owned(store, "q"), other)
    await store.claim(await owned(store, "r"), Claim("r", "c", long, False))
    assert sorted(await store.claims("here"), key=repr) == [mine, other]
    assert await store.claims(long) == [Claim("r", "c", long, False)]
    assert await store.claims(long[:-1] + "y") == await store.claims("HERE") == []


async def test_a_claim_takes_the_place_of_the_older_one_of_its_table_and_can_be_given_up(store: StateStore) -> None:
    fence = await owned(store)
    await store.claim(fence, Claim("p", "a", "here", False))
    await store.claim(fence, Claim("p", "a", "there", True))
    await store.claim(fence, Claim("p", "b", "there", True))
    assert await store.claims("here") == []
    assert await store.release_claims("p", "a") == 1
    assert await store.claims("there") == [Claim("p", "b", "there", True)]
    assert await store.release_claims("q") == await store.release_claims("p", "a") == 0
    assert await store.release_claims("p") == 1
    assert await store.claims("there") == []


async def test_a_former_owner_claims_nothing(store: StateStore) -> None:
    old = await owned(store, owner="old")
    await owned(store, owner="new")
    with pytest.raises(LeaseLost):
        await store.claim(old, Claim("p", "a", "here", True))
    assert await store.claims("here") == []


# Rejects --------------------------------------------------------------------


def reject(key: str, at: int, table: str = "t", reason: str = "too long") -> Reject:
    return Reject(
        table=table, key=key, reason=reason, content=f'{{"id":"{key}"}}', column="name", scan_id="s", at=f"{at:04d}"
    )


async def test_rejects_are_kept_with_all_they_say_newest_first(store: StateStore) -> None:
    first, second, third = reject("1", 1), reject("2", 2, table="u"), reject("3", 3)
    await store.add_rejects("p", [first, second])
    await store.add_rejects("p", [third])
    await store.add_rejects("q", [reject("9", 9)])
    assert await store.rejects("p") == [third, second, first]
    assert await store.rejects("p", "t") == [third, first]
    assert await store.rejects("p", limit=2) == [third, second]
    assert await store.count_rejects("p") == {"t": 2, "u": 1}


async def test_a_reject_of_the_same_key_replaces_the_old_one(store: StateStore) -> None:
    await store.add_rejects("p", [reject("1", 1), reject("2", 2)])
    newer = reject("1", 3, reason="still too long")
    await store.add_rejects("p", [newer, reject("1", 3, table="u")])
    assert await store.rejects("p", "t") == [newer, reject("2", 2)]
    assert await store.count_rejects("p") == {"t": 2, "u": 1}


async def test_rejects_are_cleared_by_table_or_all(store: StateStore) -> None:
    await store.add_rejects("p", [reject("1", 1), reject("2", 2), reject("1", 3, table="u")])
    await store.add_rejects("q", [reject("1", 1)])
    assert await store.clear_rejects("p", "t") == 2
    assert await store.rejects("p") == [reject("1", 3, table="u")]
    assert await store.clear_rejects("p") == 1
    assert await store.count_rejects("p") == {}
    assert await store.count_rejects("q") == {"t": 1}


async def test_old_rejects_are_removed_and_too_many_of_a_table(store: StateStore) -> None:
    await store.add_rejects("p", [reject(str(number), number) for number in range(6)])
    await store.add_rejects("p", [reject("9", 1, table="u"), reject("8", 3, table="u")])
    await store.add_rejects("q", [reject("1", 0)])
    await store.prune_rejects("p", "0002", 3)
    assert [one.key for one in await store.rejects("p", "t")] == ["5", "4", "3"]
    assert [one.key for one in await store.rejects("p", "u")] == ["8"]
    assert await store.count_rejects("q") == {"t": 1}
    await store.prune_rejects("nothing", "9999", 0)
    await store.prune_rejects("p", "9999", 3)
    assert await store.rejects("p") == []


# History --------------------------------------------------------------------


async def test_the_history_tells_everything_newest_first(store: StateStore) -> None:
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


async def test_the_last_report_of_each_table_is_told_however_many_there_are(store: StateStore) -> None:
    for number in range(60):
        await store.add_report(report(number, table=f"t{number}"))
    await store.add_report(report(60, pipeline="q", table="t1"))
    newest = report(61, table="t1", rows=7)
    await store.add_report(newest)
    found = await store.last_reports("p")
    assert list(found) == ["t0", *(f"t{number}" for number in range(2, 60)), "t1"]
    assert found["t1"] == newest and found["t0"] == report(0, table="t0")
    assert await store.last_reports("nothing") == {}


async def test_the_history_of_a_table_is_bounded_and_pushes_no_other_out(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT_REPORTS == 1000
    monkeypatch.setattr(memory, "KEPT_REPORTS", 4)
    monkeypatch.setattr(records, "KEPT_REPORTS", 4)
    await store.add_report(report(0, table="quiet"))
    await store.add_report(report(0, pipeline="q"))
    for number in range(1, 10):
        await store.add_report(report(number))
    assert [one.scan_id[-1] for one in await store.reports("p", "t")] == ["9", "8", "7", "6"]
    assert await store.reports("p", "quiet") == [report(0, table="quiet")]
    assert await store.reports("q") == [report(0, pipeline="q")]


# The file -------------------------------------------------------------------

Step = Callable[[StateStore], Any]
STEPS: dict[str, Step] = {
    "load": lambda store: store.load("p"),
    "save": lambda store: store.save(FencedCheckpoint(Fence("p", "me", 1), "t", Checkpoint())),
    "read_lease": lambda store: store.read_lease("p"),
    "rejects": lambda store: store.rejects("p"),
    "add_report": lambda store: store.add_report(report(1)),
}


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def filled(path: Path) -> None:
    store = SqliteStore(path)
    await store.save(FencedCheckpoint(await owned(store), "t", Checkpoint(watermark="1")))
    await store.add_rejects("p", [reject("1", 1)])
    await store.add_report(report(1))
    await store.aclose()


async def refused(path: Path, step: Step, kind: type[RetlError] = StateError, **options: Any) -> str:
    """The message of the one error that a step ends in; a second try must end alike."""
    store = SqliteStore(path, **options)
    texts = []
    try:
        for _ in range(2):
            with pytest.raises(RetlError) as caught:
                await step(store)
            assert type(caught.value) is kind
            assert caught.value.remedy
            texts.append(str(caught.value))
    finally:
        await store.aclose()
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.parametrize("path", ["", ":memory:", 5, None])
def test_a_path_that_names_no_file_is_refused_at_once(path: Any) -> None:
    with pytest.raises(ConfigError, match=r"not a file|of type") as caught:
        SqliteStore(path)
    assert caught.value.remedy


async def test_a_store_stays_where_it_was_named_wherever_its_host_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    here, home = [await anyio.to_thread.run_sync(SqliteStore, path) for path in ("state.db", "~/state.db")]
    monkeypatch.chdir("/")
    for store in (here, home):
        await owned(store)
        await store.aclose()
    assert (tmp_path / "state.db").exists() and (tmp_path / "home" / "state.db").exists()


async def test_a_time_to_live_that_makes_no_sense_is_healed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    for ttl in ("'30s'", "-1", "1e300"):
        execute(path, f"UPDATE retl_leases SET ttl = {ttl}")
        store = SqliteStore(path)
        assert (await store.read_lease("p")).ttl == 30.0
        seen = await store.read_lease("p")
        assert await store.take_lease(seen, "me", 5.0) is not None
        assert (await store.read_lease("p")).ttl == 5.0
        await store.aclose()


async def test_a_store_outlives_its_object_and_needs_no_open_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    store = SqliteStore(path)
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}
    assert await store.reports() == [report(1)]
    await store.aclose()
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}  # it opens again
    await store.aclose()


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, step: Step) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    execute(path, f"UPDATE retl_meta SET value = '{STATE_VERSION + 1}'")
    text = await refused(path, step)
    assert f"is of version {STATE_VERSION + 1}, but this retl knows versions up to {STATE_VERSION}" in text
    assert "upgrade retl" in text
    execute(path, f"UPDATE retl_meta SET value = '{STATE_VERSION}'")
    store = SqliteStore(path)
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}
    await store.aclose()


async def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    execute(path, f"""UPDATE retl_checkpoints SET body = '{{"version": {CHECKPOINT_VERSION + 1}, "new": 1}}'""")
    text = await refused(path, STEPS["load"])
    assert text.startswith(f"p: the checkpoint of table 't' is of version {CHECKPOINT_VERSION + 1}")


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_file_that_is_no_database_is_refused_and_not_overwritten(tmp_path: Path, step: Step) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"these are no checkpoints\n" * 500)
    assert str(path) in await refused(path, step)
    assert path.read_bytes() == b"these are no checkpoints\n" * 500


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_damaged_file_is_refused(tmp_path: Path, step: Step) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")
    whole = path.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    path.write_bytes(whole[:page] + b"\xa5" * (len(whole) - page))
    assert str(path) in await refused(path, step)


@pytest.mark.parametrize(
    ("damage", "step", "text"),
    [
        (
            "UPDATE retl_checkpoints SET body = '{'",
            "load",
            "the checkpoint of table 't' in the state store cannot be read",
        ),
        (
            "UPDATE retl_checkpoints SET body = '[]'",
            "load",
            "the checkpoint of table 't' in the state store cannot be read",
        ),
        (
            "UPDATE retl_checkpoints SET body = x'ff'",
            "load",
            "the checkpoint of table 't' in the state store cannot be read",
        ),
        ("UPDATE retl_rejects SET body = '{}'", "rejects", "a reject in the state store cannot be read"),
        ("UPDATE retl_meta SET value = 'one'", "load", "the state store says its version is 'one'"),
        ("UPDATE retl_leases SET epoch = 'one'", "read_lease", "the lease of 'p' in the state store cannot be read"),
        ("DROP TABLE retl_meta", "load", "no such table: retl_meta"),
        ("DROP TABLE retl_checkpoints", "load", "no such table: retl_checkpoints"),
        ("DROP TABLE retl_leases", "save", "no such table: retl_leases"),
    ],
)
async def test_content_that_makes_no_sense_is_refused(tmp_path: Path, damage: str, step: str, text: str) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    execute(path, damage)
    assert text in await refused(path, STEPS[step])


@pytest.mark.parametrize(
    ("damage", "step"),
    [
        ("UPDATE retl_meta SET value = 'one'", lambda store: store.load("it's")),
        ("UPDATE retl_leases SET epoch = 'one'", lambda store: store.read_lease("it's")),
    ],
)
async def test_the_statement_that_the_remedy_names_mends_the_store(tmp_path: Path, damage: str, step: Step) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    await store.save(FencedCheckpoint(await owned(store, "it's"), "t", Checkpoint(watermark="1")))
    await store.aclose()
    execute(path, damage)
    statement = (await refused(path, step)).partition("run in its database: ")[2]
    assert statement
    execute(path, statement)
    store = SqliteStore(path)
    await store.save(FencedCheckpoint(await owned(store, "it's", "next"), "u", Checkpoint(watermark="2")))
    assert await store.load("it's") == {"t": Checkpoint(watermark="1"), "u": Checkpoint(watermark="2")}
    await store.aclose()


@pytest.mark.parametrize("damage", ["body = '{'", "body = '[]'", "body = x'ff'", "body = '', status = 'what'"])
async def test_a_report_that_cannot_be_read_hides_no_other_and_says_so(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    store = SqliteStore(path)
    await store.add_report(report(2))
    await store.add_report(report(3, table="u"))
    execute(path, f"UPDATE retl_scans SET {damage} WHERE scan_id = 'scan-000002'")
    third, second, first = await store.reports("p")
    assert (third, first) == (report(3, table="u"), report(1))
    assert await store.last_reports("p") == {"t": second, "u": third}
    assert (second.pipeline, second.table, second.started_at) == ("p", "t", report(2).started_at)
    assert second.status == ("failed" if "what" in damage else "done")
    assert "a scan report in the state store cannot be read" in second.warnings[0]
    await store.aclose()


async def test_a_read_only_store_is_refused_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect_read_only(database: str, **options: Any) -> sqlite3.Connection:
        return connect(f"file:{database}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_read_only)
    assert f"the state store {path} is read-only." in await refused(path, STEPS["add_report"])


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
async def test_a_file_without_write_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    path.chmod(0o444)
    assert f"the state store {path} is read-only." in await refused(path, STEPS["add_report"])


async def test_a_place_that_cannot_be_opened_may_come_back(tmp_path: Path) -> None:
    text = await refused(tmp_path / "missing" / "state.db", STEPS["load"], ConnectionFailed)
    assert "check that its folder exists" in text
    assert "cannot be opened" in await refused(tmp_path, STEPS["load"], ConnectionFailed)


async def test_a_locked_file_is_busy_and_works_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    store = SqliteStore(path, busy_timeout=0.02)
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}
    fence = Fence("p", "me", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TargetBusy, match=r"state.db is locked by another process.* What to do: close"):
            await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="2")))
        other.execute("ROLLBACK")
    assert await store.load("p") == {"t": Checkpoint(watermark="1")}
    await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="2")))
    assert await store.load("p") == {"t": Checkpoint(watermark="2")}
    await store.aclose()


async def test_a_new_file_that_is_locked_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked" in await refused(path, STEPS["load"], TargetBusy, busy_timeout=0.02)


async def test_reading_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path, busy_timeout=0.02)
    await store.save(FencedCheckpoint(await owned(store), "t", Checkpoint(watermark="1")))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM retl_checkpoints")
        assert await store.load("p") == {"t": Checkpoint(watermark="1")}
    await store.aclose()


async def test_many_steps_at_once_all_take_effect(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "state.db") for _ in range(3)]
    fence = await owned(stores[0])
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            fenced = FencedCheckpoint(fence, f"t{number}", Checkpoint(watermark=str(number)))
            tasks.start_soon(partial(stores[number % 3].save, fenced))
    assert await stores[1].load("p") == {f"t{n}": Checkpoint(watermark=str(n)) for n in range(30)}
    for store in stores:
        await store.aclose()
