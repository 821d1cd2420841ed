"""The state store inside a DuckDB file. What every store must do is proved by the tests of all stores; this is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from retl.connectors import DuckDB
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import LeaseLost, StateError
from retl.model.report import ScanReport
from retl.state.base import LeaseRow, StateStore
from tests.integration.duckdb.scenes import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.duckdb")


def opened(scene: Scene) -> StateStore:
    store = DuckDB(str(scene.path)).target().state_store()
    assert store is not None
    return store


def report(number: int) -> ScanReport:
    return ScanReport(
        pipeline="p",
        table="t",
        to="t",
        scan_id=f"scan-{number:06d}",
        status="done",
        mode="full",
        started_at=f"2024-01-01T00:00:00.{number:06d}",
        seconds=0.5,
    )


async def test_reading_creates_no_table(scene: Scene) -> None:
    store = opened(scene)
    assert await store.load("p") == {}
    assert await store.read_lease("p") == LeaseRow("p", None, 0, 0, 0.0)
    assert await store.rejects("p") == []
    assert await store.count_rejects("p") == {}
    assert await store.reports() == []
    assert await store.last_reports("p") == {}
    assert scene.run("SELECT table_name FROM duckdb_tables()") == []
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence == Fence("p", "me", 1)


async def test_every_step(scene: Scene) -> None:
    store = opened(scene)
    seen = await store.read_lease("p")
    fence = await store.take_lease(seen, "me", 15.0)
    assert fence == Fence("p", "me", 1)
    assert await store.take_lease(seen, "you", 15.0) is None
    assert await store.beat(fence)
    assert (await store.read_lease("p")).beat == 1

    fenced = FencedCheckpoint(
        fence, "t", Checkpoint(watermark="2024-02-29 23:59:59.123456789", columns={"naïve": "text"})
    )
    for _ in range(2):
        await store.save(fenced)
    assert await store.load("p") == {"t": fenced.checkpoint}

    refused = [Reject(table="t", key=str(number), reason="r", content="{}", at=f"2024-0{number}") for number in (1, 2)]
    for _ in range(2):  # the same row again replaces what is known of it
        await store.add_rejects("p", refused)
    assert await store.rejects("p") == refused[::-1]
    assert await store.count_rejects("p") == {"t": 2}
    assert await store.clear_rejects("p") == 2

    await store.give_up_lease(fence)
    assert (await store.read_lease("p")).owner is None
    assert not await store.beat(fence)
    with pytest.raises(LeaseLost):
        await store.save(fenced)
    assert await store.forget("p") == 1


async def test_the_history_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retl.state.records.KEPT_REPORTS", 3)
    store = opened(scene)
    for number in range(8):
        await store.add_report(report(number))
    assert [found.scan_id for found in await store.reports("p", "t")] == ["scan-000007", "scan-000006", "scan-000005"]
    assert await store.last_reports("p") == {"t": report(7)}


async def test_no_thread_and_no_file_stay_open_between_steps(scene: Scene) -> None:
    store = opened(scene)
    await store.load("p")
    await store.add_report(report(1))
    assert scene.run("SELECT value FROM retl_meta") == [("1",)]
    # Nothing was closed: the fixture of all tests looks for what is left.


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE retl_meta SET value = '99'", "version 99"),
        ("DROP TABLE retl_checkpoints; CREATE TABLE retl_checkpoints (i INTEGER)", "cannot be used"),
        ("UPDATE retl_checkpoints SET body = '{'", "cannot be read"),
    ],
)
async def test_a_damaged_store_is_told(scene: Scene, damage: str, message: str) -> None:
    store = opened(scene)
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence is not None
    await store.save(FencedCheckpoint(fence, "t", Checkpoint()))
    scene.run(damage)
    with pytest.raises(StateError, match=message):
        await opened(scene).load("p")


async def test_what_only_has_the_name_of_a_state_table_is_refused(scene: Scene) -> None:
    scene.run("CREATE TABLE other (pipeline VARCHAR)", "CREATE VIEW retl_leases AS SELECT * FROM other")
    store = opened(scene)
    with pytest.raises(StateError, match="'retl_leases' is a view where only retl's own table 'retl_leases' may be"):
        await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 15.0)
    assert scene.run("SELECT table_name FROM duckdb_tables()") == [("other",)]
    scene.run("DROP VIEW retl_leases")
    assert await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 15.0) is not None
    await store.aclose()
