"""What is special about a state store in a file. What every store must do: ``tests/contract/test_state_stores.py``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, StateError, TargetBusy
from retl.state.base import STATE_VERSION, LeaseRow, StateStore
from retl.state.sqlite import SqliteStore
from retl.testing.state_base import PAUSED, owned, race, reject, report


async def test_a_beat_between_look_and_take_keeps_the_lease_with_its_owner(tmp_path: Path) -> None:
    """The statement that takes it compares the beat itself: what it was told before may be old."""
    store, other = SqliteStore(tmp_path / "state.db"), SqliteStore(tmp_path / "state.db")
    fence = await owned(store)
    seen = await other.read_lease("p")
    assert await store.beat(fence)
    assert await other.take_lease(seen, "other", 15.0) is None
    assert (await store.read_lease("p")).owner == "me"
    assert await store.beat(fence)
    for each in (store, other):
        await each.aclose()


async def test_two_that_open_a_new_file_at_once_both_find_a_whole_store(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"state{number}.db"
        first, second = SqliteStore(path), SqliteStore(path)
        assert len(await race([first, second], LeaseRow("p", None, 0, 0, 0.0))) == 1
        await first.aclose()
        await second.aclose()


# Rejects --------------------------------------------------------------------


# The file -------------------------------------------------------------------

Step = Callable[[StateStore], Any]
STEPS: dict[str, Step] = {
    "load": lambda store: store.load("p"),
    "save": lambda store: store.save(FencedCheckpoint(Fence("p", "me", 1), "t", Checkpoint())),
    "read_lease": lambda store: store.read_lease("p"),
    "read_steering": lambda store: store.read_steering("p"),
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
    await store.save_steering("p", PAUSED)
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
        (
            "UPDATE retl_steering SET body = '{'",
            "read_steering",
            "what is asked of 'p' in the state store cannot be read",
        ),
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
        ("UPDATE retl_steering SET body = '{'", lambda store: store.read_steering("it's")),
    ],
)
async def test_the_statement_that_the_remedy_names_mends_the_store(tmp_path: Path, damage: str, step: Step) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    await store.save(FencedCheckpoint(await owned(store, "it's"), "t", Checkpoint(watermark="1")))
    await store.save_steering("it's", PAUSED)
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
        with pytest.raises(TargetBusy, match=r"state.db is locked by another connection.* raise busy_timeout"):
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
