"""The state store inside MySQL and MariaDB."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from retl.connectors import MySQL
from retl.connectors.mysql.connection import MySQLConnection
from retl.model.checkpoint import Checkpoint, Fence, FencedCheckpoint, Reject
from retl.model.errors import ConfigError, ConnectionFailed, LeaseLost, RetlError, StateError, TargetBusy
from retl.state.base import LeaseRow, StateStore
from tests.integration.mysql.targets import Scene
from tests.servers.database import Server
from tests.servers.pooler import Refusal, pooled


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


def opened(scene: Scene) -> StateStore:
    store = scene.options().target().state_store()
    assert store is not None
    return store


async def test_reading_creates_nothing(scene: Scene) -> None:
    store = opened(scene)
    assert await store.load("p") == {}
    assert await store.read_lease("p") == LeaseRow("p", None, 0, 0, 0.0)
    assert await store.rejects("p") == []
    assert await store.count_rejects("p") == {}
    assert await store.reports() == []
    assert await store.last_reports("p") == {}
    await store.aclose()
    assert scene.run("SHOW TABLES") == []


async def test_of_many_who_want_the_lease_one_gets_it(scene: Scene) -> None:
    stores = [opened(scene) for _ in range(8)]
    won: list[Fence] = []

    async def take(store: StateStore, number: int) -> None:
        fence = await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), f"owner {number}", 15.0)
        if fence is not None:
            won.append(fence)

    async with anyio.create_task_group() as tasks:
        for number, store in enumerate(stores):
            tasks.start_soon(take, store, number)
    assert len(won) == 1
    row = await stores[0].read_lease("p")
    assert (row.owner, row.epoch) == (won[0].owner, 1)
    seen, won[:] = row, []
    async with anyio.create_task_group() as tasks:
        for number, store in enumerate(stores):

            async def take_over(store: StateStore = store, number: int = number) -> None:
                fence = await store.take_lease(seen, f"next {number}", 15.0)
                if fence is not None:
                    won.append(fence)

            tasks.start_soon(take_over)
    assert [fence.epoch for fence in won] == [2]
    for store in stores:
        await store.aclose()


async def test_a_deadlock_of_those_who_make_the_tables_at_once_is_no_error(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    fell: list[str] = []
    execute = MySQLConnection.execute

    async def fall_once(connection: MySQLConnection, sql: str) -> Any:
        if sql.startswith("CREATE TABLE") and not fell:
            fell.append(sql)
            raise TargetBusy("Deadlock found when trying to get lock; try restarting transaction")
        return await execute(connection, sql)

    monkeypatch.setattr(MySQLConnection, "execute", fall_once)
    store = opened(scene)
    fence = await store.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 15.0)
    assert fence is not None and len(fell) == 1
    assert (await store.read_lease("p")).owner == "me"
    await store.aclose()


async def test_two_owners_through_two_connections(scene: Scene) -> None:
    mine, yours = opened(scene), opened(scene)
    first = await mine.take_lease(await mine.read_lease("p"), "me", 15.0)
    assert first is not None
    await mine.save(FencedCheckpoint(first, "t", Checkpoint(watermark="1")))
    second = await yours.take_lease(await yours.read_lease("p"), "you", 15.0)
    assert second is not None
    assert not await mine.beat(first)
    with pytest.raises(LeaseLost):
        await mine.save(FencedCheckpoint(first, "t", Checkpoint(watermark="2")))
    assert await mine.load("p") == {"t": Checkpoint(watermark="1")}
    await yours.save(FencedCheckpoint(second, "t", Checkpoint(watermark="3")))
    assert await mine.load("p") == {"t": Checkpoint(watermark="3")}
    await mine.aclose()
    await yours.aclose()


async def test_a_connection_that_was_lost_is_made_again(scene: Scene) -> None:
    store = opened(scene)
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence is not None
    for number, _, _, database, command, *_ in scene.server.query("SHOW PROCESSLIST"):
        if database == scene.database and command == "Sleep":
            scene.server.query(f"KILL {number}")
    assert await store.beat(fence)
    await store.aclose()


async def test_a_store_is_held_by_steps_that_are_cancelled(scene: Scene) -> None:
    store = opened(scene)
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence is not None
    for delay in (0, 0.0005, 0.001, 0.002):
        with anyio.move_on_after(delay):
            await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark=str(delay))))
        assert await store.beat(fence)
    await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="last")))
    assert await store.load("p") == {"t": Checkpoint(watermark="last")}
    await store.aclose()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (["UPDATE retl_meta SET value = '99'"], "version 99"),
        (["DROP TABLE retl_checkpoints", "CREATE TABLE retl_checkpoints (i INTEGER)"], "cannot be used"),
        (["UPDATE retl_checkpoints SET body = '{'"], "cannot be read"),
    ],
)
async def test_a_damaged_store_is_told(scene: Scene, damage: list[str], message: str) -> None:
    store = opened(scene)
    fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
    assert fence is not None
    await store.save(FencedCheckpoint(fence, "t", Checkpoint()))
    await store.aclose()
    scene.run(*damage)
    store = opened(scene)
    with pytest.raises(StateError, match=message):
        await store.load("p")
    await store.aclose()


@pytest.mark.parametrize(
    ("refusal", "kind", "remedy"),
    [
        (Refusal("INSERT", 1665, "HY000", "statements alone"), ConfigError, "binlog_format"),
        (Refusal("COMMIT", 3101, "40000", "the plugin rolled it back"), TargetBusy, "nothing, if it passes"),
        (Refusal("INSERT", 1290, "HY000", "--read-only"), ConnectionFailed, "writable"),
        (Refusal("INSERT", 1142, "42000", "INSERT command denied"), ConfigError, "GRANT"),
        (Refusal("INSERT", 1406, "22001", "Data too long for column"), StateError, "shorter names"),
        (Refusal("INSERT", 1235, "42000", "not yet supported"), StateError, "as they were"),
        (Refusal("INSERT", 1146, "42S02", "no such table"), StateError, "restore them from a backup"),
    ],
    ids=lambda value: str(value.code) if isinstance(value, Refusal) else "",
)
async def test_a_remedy_belongs_to_its_cause(
    mysql_server: Server, refusal: Refusal, kind: type[RetlError], remedy: str
) -> None:
    """Whoever drops the state tables forgets every watermark: only what is damaged is worth that. Half a step is undone."""
    with mysql_server.fresh_database() as database:
        scene = Scene(mysql_server, database)
        store = opened(scene)
        fence = await store.take_lease(await store.read_lease("p"), "me", 15.0)
        assert fence is not None
        await store.aclose()
        async with pooled(mysql_server.host, mysql_server.port) as pooler:
            target = MySQL(mysql_server.at(pooler.host, pooler.port).url(database)).target()
            store = target.state_store()
            pooler.refusals = [refusal]
            fenced = FencedCheckpoint(fence, "t", Checkpoint(watermark="1"))
            with pytest.raises(kind) as refused:
                await store.save(fenced)
            assert remedy in refused.value.remedy
            assert ("drop the tables" in refused.value.remedy) is (refusal.code == 1146)
            pooler.refusals = []
            # Not a word of the step that was refused is committed with the next one.
            assert await store.load("p") == {}
            await store.clear_rejects("p")
            assert await store.load("p") == {}
            await store.save(fenced)
            assert await store.load("p") == {"t": Checkpoint(watermark="1")}
            await target.aclose()


async def test_half_a_step_is_never_committed_with_the_next_one(mysql_server: Server) -> None:
    two = [Reject(table="t", key=key, reason="r", content="{}") for key in ("1", "2")]
    with mysql_server.fresh_database() as database:
        async with pooled(mysql_server.host, mysql_server.port) as pooler:
            target = MySQL(mysql_server.at(pooler.host, pooler.port).url(database)).target()
            store = target.state_store()
            await store.add_rejects("p", [])
            second = "INSERT INTO retl_rejects (pipeline, table_name, row_key, rejected_at, reason, body) VALUES ('p', 't', '2'"
            pooler.refusals = [Refusal(second, 1235, "42000", "not yet supported")]
            with pytest.raises(StateError, match="not yet supported"):
                await store.add_rejects("p", two)
            pooler.refusals = []
            await store.add_rejects("q", two)
            assert await store.count_rejects("p") == {}
            assert await store.count_rejects("q") == {"t": 2}
            await target.aclose()


async def test_without_a_database_there_is_no_place_for_checkpoints(scene: Scene) -> None:
    target = Scene(scene.server, "").options().target()
    with pytest.raises(ConfigError, match="names no database"):
        target.state_store()
    await target.aclose()


@pytest.mark.parametrize(
    "prepared",
    [
        [
            "CREATE TABLE theirs LIKE retl_leases",
            "DROP TABLE retl_leases",
            "CREATE VIEW retl_leases AS SELECT * FROM theirs",
        ],
        ["CREATE TRIGGER look AFTER INSERT ON retl_rejects FOR EACH ROW SET @seen = NEW.body"],
        ["DROP TABLE retl_checkpoints", "CREATE TABLE retl_checkpoints (id INT) ENGINE=MyISAM"],
    ],
    ids=["view", "trigger", "engine"],
)
async def test_what_only_has_the_name_of_a_state_table_is_refused(scene: Scene, prepared: list[str]) -> None:
    store = opened(scene)
    await store.take_lease(await store.read_lease("p"), "me", 5.0)
    scene.run(*prepared)
    for gone in ([], ["DROP TABLE retl_scans"]):
        scene.run(*gone, "DO 0")
        other = opened(scene)
        with pytest.raises(StateError, match="only retl's own table"):
            await other.read_lease("p")
        with pytest.raises(StateError, match="only retl's own table"):
            await other.take_lease(LeaseRow("p", None, 0, 0, 0.0), "me", 5.0)
        await other.aclose()
    await store.aclose()
    assert "retl_scans" not in [name for (name,) in scene.run("SHOW TABLES")]
