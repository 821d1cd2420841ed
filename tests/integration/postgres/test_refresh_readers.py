"""What others see of a refresh: readers with an old snapshot, readers in a hurry, and subscribers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import anyio
import anyio.to_thread
import pytest

from retl.model.errors import TargetBusy
from tests.integration.postgres.targets import Scene
from tests.integration.scene import commit, people, scan, spec
from tests.servers.postgres import PostgresServer, rows

TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"
ROWS = "INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c')"
BEFORE, AFTER = [(1, "a"), (2, "b"), (3, "c")], [(1, "a"), (2, "B"), (4, "d")]
NEW = people(*AFTER)
ALL = "SELECT id, name FROM people ORDER BY id"


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


async def refresh(scene: Scene, pre_action: str, **options: Any) -> None:
    async with scene.session(**options) as session:
        await scan(session, [NEW], spec(pre_action=pre_action, max_shrink=1.0))


@pytest.mark.parametrize("pre_action", ["none", "mirror", "swap", "truncate", "rename_and_create"])
async def test_a_reader_with_an_old_snapshot(scene: Scene, pre_action: str) -> None:
    """Only a mirror shows him his rows: another table is empty in the eyes of a snapshot that is older than its rows."""
    scene.run(TABLE, ROWS, "CREATE TABLE other (id int)")
    with closing(scene.user.connect(scene.database)) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT * FROM other")
        await refresh(scene, pre_action)
        seen = rows(reader, ALL)
        assert seen == (BEFORE if pre_action in ("none", "mirror") else [])
        reader.execute("COMMIT")
    assert scene.rows("people") == (sorted([*AFTER, (3, "c")]) if pre_action == "none" else AFTER)


@pytest.mark.parametrize("pre_action", ["mirror", "swap"])
async def test_a_reader_sees_the_old_rows_or_the_new_ones(scene: Scene, pre_action: str) -> None:
    scene.run(TABLE, ROWS)
    seen: set[tuple[Any, ...]] = set()

    async def read() -> None:
        while True:
            seen.add(tuple(await scene.user.run(ALL, database=scene.database)))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for number in range(5):
            async with scene.session() as session:
                table = spec(pre_action=pre_action, max_shrink=1.0)
                await scan(session, [NEW if number % 2 == 0 else people(*BEFORE)], table)
        group.cancel_scope.cancel()
    assert seen <= {tuple(BEFORE), tuple(AFTER)}


@asynccontextmanager
async def reading(scene: Scene, query: str = ALL) -> AsyncIterator[None]:
    """A reader who does not end the transaction, so that nobody may lock the table."""
    with closing(scene.user.connect(scene.database)) as reader:
        reader.execute("BEGIN")
        reader.execute(query.encode())
        yield


async def wait_for_a_waiting_lock(scene: Scene) -> None:
    await anyio.to_thread.run_sync(scene.server.wait_for_a_lock_wait)


@pytest.mark.parametrize("pre_action", ["swap", "truncate", "rename_and_create"])
async def test_an_innocent_reader_does_not_wait_behind_the_lock(scene: Scene, pre_action: str) -> None:
    """While a lock is waited for, everybody who comes later waits behind it: so it is given up soon, and tried again."""
    scene.run(TABLE, ROWS)
    longest = 0.0

    async with anyio.create_task_group() as group, reading(scene):
        group.start_soon(refresh, scene, pre_action)
        for _ in range(3):
            await wait_for_a_waiting_lock(scene)
            begun = time.monotonic()
            assert await scene.user.run(ALL, database=scene.database) == BEFORE
            longest = max(longest, time.monotonic() - begun)
    assert longest < 2.0  # alone it takes 0.3 seconds at most; the machine may be busy
    assert scene.rows("people") == AFTER


@pytest.mark.parametrize("pre_action", ["swap", "rename_and_create", "truncate"])
async def test_a_reader_who_never_ends(scene: Scene, pre_action: str) -> None:
    """The lock is tried until the time for it is over; then the table is as it was."""
    scene.run(TABLE, ROWS)
    async with reading(scene):
        with pytest.raises(TargetBusy):
            await refresh(scene, pre_action, lock_timeout=1.0)
    assert scene.rows("people") == BEFORE
    assert scene.tables() == ["people"]
    await refresh(scene, pre_action)
    assert scene.rows("people") == AFTER


@pytest.mark.parametrize("pre_action", ["swap", "rename_and_create", "mirror", "truncate"])
async def test_a_host_goes_on_with_the_statements_that_it_has_prepared(scene: Scene, pre_action: str) -> None:
    scene.run(TABLE, ROWS)
    with closing(scene.user.connect(scene.database)) as host:
        for _ in range(3):
            assert host.execute(ALL.encode(), prepare=True).fetchall() == BEFORE
        await refresh(scene, pre_action)
        host.execute("BEGIN")
        assert host.execute(ALL.encode(), prepare=True).fetchall() == AFTER
        host.execute("COMMIT")


async def test_a_load_that_is_given_up_does_not_wait_for_readers_of_another_table(scene: Scene) -> None:
    """To drop a shadow with foreign keys locks the tables that they refer to."""
    scene.run(
        "CREATE TABLE names (name text PRIMARY KEY)",
        "INSERT INTO names VALUES ('a'), ('b'), ('B'), ('c'), ('d')",
        "CREATE TABLE people (id bigint PRIMARY KEY, name text REFERENCES names)",
        ROWS,
    )
    async with scene.session(lock_timeout=0.5) as session:
        writer = await session.prepare(session.load(spec(pre_action="swap", max_shrink=1.0), schema=NEW.schema))
        await commit(session, writer, [people((1, "a"))])
        async with reading(scene, "SELECT * FROM names"), reading(scene):
            with pytest.raises(TargetBusy):
                await session.finish(writer)
            begun = time.monotonic()
            await session.abort(writer)
            assert time.monotonic() - begun < 5.0
    assert scene.rows("people") == BEFORE
    await refresh(scene, "none")  # whose preparation drops what was left
    assert scene.tables() == ["names", "people"]


def changes(scene: Scene, slot: str) -> list[str]:
    """What a subscriber has been told since it last asked."""
    words = f"SELECT data FROM pg_logical_slot_get_changes('{slot}', NULL, NULL, 'include-xids', '0')"
    return [data for (data,) in scene.run_as_admin(words) if "table public.people" in data]


async def test_a_subscriber_sees_of_a_mirror_the_differences_alone(scene: Scene) -> None:
    scene.run(TABLE, ROWS)
    slot = f"slot_{scene.database}"
    scene.run_as_admin(f"SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')")
    try:
        await refresh(scene, "mirror")
        told = changes(scene, slot)
        assert sorted(told) == [
            "table public.people: DELETE: id[bigint]:3",
            "table public.people: INSERT: id[bigint]:4 name[text]:'d'",
            "table public.people: UPDATE: id[bigint]:2 name[text]:'B'",
        ]
        await refresh(scene, "mirror")
        assert changes(scene, slot) == []
    finally:
        scene.run_as_admin(f"SELECT pg_drop_replication_slot('{slot}')")


async def test_a_subscriber_is_told_nothing_of_a_shadow_of_a_mirror(scene: Scene) -> None:
    """As ``pgoutput`` tells it: with all tables published, neither the shadow nor the stage reaches anybody."""
    scene.run(TABLE, ROWS)
    scene.run_as_admin("CREATE PUBLICATION everything FOR ALL TABLES")
    slot = f"slot_{scene.database}"
    scene.run_as_admin(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    words = f"'{slot}', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything'"
    try:
        await refresh(scene, "mirror")
        told = scene.run_as_admin(f"SELECT data FROM pg_logical_slot_get_binary_changes({words})")
        names = {bytes(data)[5:].split(b"\0")[1] for (data,) in told if bytes(data)[:1] == b"R"}
        assert b"people" in names
        assert not any(name.startswith(b"_retl") for name in names)
        kinds = [bytes(data)[:1] for (data,) in told]
        assert kinds.count(b"D") == 1
    finally:
        scene.run_as_admin(f"SELECT pg_drop_replication_slot('{slot}')", "DROP PUBLICATION everything")


async def test_a_table_keeps_its_place_in_a_publication(scene: Scene) -> None:
    """Downstream would go silent; what a swap loads it does not see, of which ``plan`` warns."""
    scene.run(TABLE, ROWS)
    scene.run_as_admin(f'GRANT CREATE ON DATABASE "{scene.database}" TO "{scene.user.user}"')
    scene.run("CREATE PUBLICATION narrow FOR TABLE people WHERE (id > 1)")
    table = spec(pre_action="swap", max_shrink=1.0)
    async with scene.session() as session:
        preview = await session.target.preview(session.load(table, schema=NEW.schema, fence=None))
        assert any("subscribers keep the old rows" in warning for warning in preview.warnings)
        await scan(session, [NEW], table)
    assert scene.run("SELECT tablename, rowfilter FROM pg_publication_tables WHERE pubname = 'narrow'") == [
        ("people", "(id > 1)")
    ]
