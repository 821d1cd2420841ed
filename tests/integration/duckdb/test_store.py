"""The state store inside a DuckDB file. What every store must do is proved by the tests of all stores; this is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from retl.connectors import DuckDB
from retl.connectors.duckdb.file import DuckDBFile
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import StateError
from retl.state.base import LeaseRow, StateStore
from retl.testing.state_base import report
from tests.integration.duckdb.scenes import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.duckdb")


@pytest.fixture
async def store(scene: Scene) -> AsyncIterator[StateStore]:
    store = opened(scene)
    yield store
    await store.aclose()


def opened(scene: Scene) -> StateStore:
    store = DuckDB(str(scene.path)).target().state_store()
    assert store is not None
    return store


async def test_reading_creates_no_table(scene: Scene, store: StateStore) -> None:
    assert await store.load("p") == {}
    assert await store.read_lease("p") == LeaseRow("p", None, 0, 0, 0.0)
    assert await store.rejects("p") == []
    assert await store.count_rejects("p") == {}
    assert await store.reports() == []
    assert await store.last_reports("p") == {}
    assert scene.run("SELECT table_name FROM duckdb_tables()") == []
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence == Fence("p", "me", 1)


async def test_a_moment_after_a_step_no_thread_and_no_file_stay_open(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens, connect = [], DuckDBFile._connect
    closed, close = anyio.Event(), DuckDBFile.close

    def connecting(file: DuckDBFile) -> Any:
        opens.append(file)
        return connect(file)

    async def closing(file: DuckDBFile) -> None:
        await close(file)
        closed.set()

    monkeypatch.setattr(DuckDBFile, "_connect", connecting)
    monkeypatch.setattr(DuckDBFile, "close", closing)
    store = opened(scene)
    await store.load("p")
    await store.add_report(report(1))
    assert len(opens) == 1
    assert scene.run("SELECT value FROM retl_meta") == [("1",)]
    with anyio.fail_after(10):
        await closed.wait()
    # Nobody has closed it: the fixture of all tests looks for what is left.


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE retl_meta SET value = '99'", "version 99"),
        ("DROP TABLE retl_checkpoints; CREATE TABLE retl_checkpoints (i INTEGER)", "cannot be used"),
        ("UPDATE retl_checkpoints SET body = '{'", "cannot be read"),
    ],
)
async def test_a_damaged_store_is_told(scene: Scene, store: StateStore, damage: str, message: str) -> None:
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence is not None
    await store.save(FencedCheckpoint(fence, "t", Checkpoint()))
    scene.run(damage)
    other = opened(scene)
    with pytest.raises(StateError, match=message):
        await other.load("p")
    await other.aclose()


async def test_what_only_has_the_name_of_a_state_table_is_refused(scene: Scene) -> None:
    scene.run("CREATE TABLE other (pipeline VARCHAR)", "CREATE VIEW retl_leases AS SELECT * FROM other")
    store = opened(scene)
    with pytest.raises(StateError, match="'retl_leases' is a view where only retl's own table 'retl_leases' may be"):
        await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 15.0)
    assert scene.run("SELECT table_name FROM duckdb_tables()") == [("other",)]
    scene.run("DROP VIEW retl_leases")
    assert await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 15.0) is not None
    await store.aclose()
