"""How a load goes on: two slices at once, locks, statistics, names, and what it leaves behind."""

from __future__ import annotations

from contextlib import closing

import anyio
import anyio.to_thread
import pytest

from retl.connectors import PostgreSQL
from retl.connectors.postgres import loader
from retl.connectors.postgres.writer import PipelinedWriter
from retl.model.errors import TargetBusy
from retl.model.window import Slice
from retl.testing.target_base import Session
from tests.integration.postgres.targets import Scene, column, with_id
from tests.integration.scene import people, scan, spec
from tests.servers.pgbouncer import pooled
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import log_statements, sent

TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


@pytest.mark.parametrize("most", [8, 3], ids=["two connections", "one"])
async def test_the_next_slice_is_staged_while_one_is_committed(scene: Scene, most: int) -> None:
    scene.run(TABLE)
    with scene.server.connect(scene.database, autocommit=False) as blocker:
        async with scene.session(max_connections=most) as session:
            writer = await session.prepare(session.load(spec(), schema=people().schema))
            assert isinstance(writer, PipelinedWriter)
            await writer.write(people((1, "a"), (2, "b")))
            blocker.execute("INSERT INTO people VALUES (2, 'mine')")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.commit, writer)  # waits for the blocker's row
                await anyio.to_thread.run_sync(scene.server.wait_for_a_lock_wait)
                if most > 3:
                    await writer.write(people((3, "c")))
                    assert len([name for name in scene.tables() if name.startswith("_retl_stage_")]) == 2
                blocker.rollback()
            if most == 3:
                await writer.write(people((3, "c")))
            await writer.commit(session.fenced("2"), Slice(index=1), 0)
            await session.finish(writer)
    assert scene.rows("people") == [(1, "a"), (2, "b"), (3, "c")]
    assert scene.tables() == ["people"]


async def test_a_truncate_that_waits_keeps_no_reader_waiting(scene: Scene) -> None:
    """A statement that waits for a table's lock would make every later SELECT wait behind it."""
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'old')")
    with scene.server.connect(scene.database, autocommit=False) as reader:
        reader.execute("SELECT * FROM people")
        async with scene.session(lock_timeout=30) as session, anyio.create_task_group() as tasks:
            table = spec(pre_action="truncate")
            tasks.start_soon(scan, session, [people((2, "new"))], table)
            await anyio.to_thread.run_sync(scene.server.wait_for_a_lock_wait)
            with anyio.fail_after(20):
                assert await scene.server.run("SELECT * FROM people", database=scene.database) == [(1, "old")]
            reader.rollback()
    assert scene.rows("people") == [(2, "new")]


async def test_a_lock_that_is_never_given_ends_the_scan_and_changes_nothing(scene: Scene) -> None:
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'old')")
    with scene.server.connect(scene.database, autocommit=False) as reader:
        reader.execute("SELECT * FROM people")
        async with scene.session(lock_timeout=1) as session:
            with pytest.raises(TargetBusy, match="lock"):
                await scan(session, [people((2, "new"))], spec(pre_action="truncate"))
    assert scene.rows("people") == [(1, "old")]


@pytest.mark.parametrize("pre_action", ["none", "mirror"])
async def test_a_transaction_that_falls_to_a_deadlock_is_run_again(scene: Scene, pre_action: str) -> None:
    scene.run(TABLE, "INSERT INTO people SELECT i, 'old' FROM generate_series(0, 59) AS i")
    before = len(scene.server.log())
    with closing(scene.server.connect(scene.database)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM people WHERE id = 57 FOR UPDATE")

        def cross() -> None:
            scene.server.wait_for_a_lock_wait()
            # The server ends the one that has waited longer.
            other.execute("SELECT * FROM people WHERE id = 0 FOR UPDATE")
            other.rollback()

        async with scene.session() as session, anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, cross)
            done = await scan(session, [people(*((n, "new") for n in range(60)))], spec(pre_action=pre_action))
    assert done.rejects == []
    assert "deadlock detected" in scene.server.log()[before:]
    assert scene.run("SELECT count(*), min(name), max(name) FROM people") == [(60, "new", "new")]


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap", "mirror"])
async def test_a_table_has_statistics_after_a_large_first_load(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str
) -> None:
    monkeypatch.setattr(loader, "ANALYZED_ROWS", 100)
    monkeypatch.setattr("retl.connectors.postgres.writer.ANALYZED_ROWS", 100)
    async with scene.session() as session:
        await scan(session, [people(*((n, "x") for n in range(200)))], spec(pre_action=pre_action))
    assert scene.run("SELECT reltuples FROM pg_class WHERE relname = 'people'") == [(200.0,)]


async def test_a_large_stage_has_statistics_before_it_is_joined(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "ANALYZED_ROWS", 100)
    log_statements(scene.server, scene.user.user)
    async with scene.session() as session:
        await scan(session, [people((1, "old"))])
        with sent(scene.server) as seen:
            await scan(session, [people(*((n, "x") for n in range(200)))])
    (merged,) = (number for number, sql in enumerate(seen.statements) if " ON CONFLICT " in sql)
    (analyzed,) = (number for number, sql in enumerate(seen.statements) if sql.startswith("ANALYZE "))
    assert "_retl_stage_" in seen.statements[analyzed] and analyzed < merged


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap", "mirror"])
async def test_names_of_63_bytes_are_hashed_for_what_is_made_beside_them(scene: Scene, pre_action: str) -> None:
    """22 letters of Chinese are 66 bytes: cut in silence, two tables would have one name."""
    first, second = "表" * 20 + "一", "表" * 20 + "二"
    schema = with_id(column("名" * 21, people().schema.field("name").type))
    async with scene.session() as session:
        for number, name in enumerate((first, second)):
            for _ in range(2):
                await scan(session, [people((number, "x"), schema=schema)], spec(f'"{name}"', pre_action=pre_action))
    assert scene.rows(f'"{first}"') == [(0, "x")]
    assert scene.rows(f'"{second}"') == [(1, "x")]
    assert len(scene.tables()) == (4 if pre_action == "rename_and_create" else 2)


async def test_tables_in_schemas_with_quoted_names(scene: Scene) -> None:
    scene.run_as_admin(f'CREATE SCHEMA "My Schema" AUTHORIZATION "{scene.user.user}"')
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)")
    name = '"My Schema"."a.b ""c"""'
    async with scene.session() as session:
        for pre_action in ("none", "truncate", "swap", "mirror"):
            await scan(session, [people((1, pre_action))], spec(name, pre_action=pre_action))
            assert scene.run(f"SELECT id, name FROM {name}") == [(1, pre_action)]
    assert scene.rows("people") == []


async def test_scans_leave_nothing_in_the_catalog(scene: Scene) -> None:
    """Temporary tables would: three hundred of seven columns fill 0.8 MB of pg_attribute."""
    async with scene.session() as session:
        await scan(session, [people((1, "a"))])
        ((before,),) = scene.run("SELECT count(*) FROM pg_attribute")
        for number in range(5):
            await scan(session, [people((1, str(number)))])
        assert scene.run("SELECT count(*) FROM pg_attribute") == [(before,)]
    assert scene.tables() == ["people"]


async def test_the_store_waits_for_a_commit_that_is_still_under_way(scene: Scene) -> None:
    """Its connection was lost; whether it has committed is known when the row of the lease is free."""
    async with scene.session() as session:
        await scan(session, [people((1, "a"))])
        assert session.store is not None
        with scene.server.connect(scene.database, autocommit=False) as zombie:
            zombie.execute("UPDATE retl_leases SET beat = beat + 1")
            zombie.execute(
                'UPDATE retl_checkpoints SET body = replace(body, \'"watermark":null\', \'"watermark":"late"\')'
            )
            async with anyio.create_task_group() as tasks:
                found = []

                async def load() -> None:
                    assert session.store is not None
                    found.append(await session.store.load("contract"))

                tasks.start_soon(load)
                await anyio.to_thread.run_sync(scene.server.wait_for_a_lock_wait)
                assert found == []
                zombie.commit()
        ((checkpoint,),) = [tuple(checkpoints.values()) for checkpoints in found]
        ((body,),) = scene.run("SELECT body FROM retl_checkpoints")
        assert (checkpoint.watermark == "late") == ("late" in body)


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap", "mirror"])
async def test_loads_through_a_pooler_that_hands_the_session_on_after_every_transaction(
    scene: Scene, pre_action: str
) -> None:
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'old'), (9, 'gone')")
    with pooled(scene.user) as front:
        target = PostgreSQL(front.url(scene.database)).target()
        async with Session.of(target) as session:
            writer = await session.prepare(session.load(spec(pre_action=pre_action), schema=people().schema))
            for number in range(3):
                await writer.write(people((number, "new")))
                await session.commit(writer)
            await session.finish(writer)
    kept = [(9, "gone")] if pre_action == "none" else []
    assert scene.rows("people") == [(0, "new"), (1, "new"), (2, "new"), *kept]


async def test_a_commit_is_durable_whatever_the_database_says(scene: Scene) -> None:
    """An answered commit that a crash undoes would leave a checkpoint in another store ahead of its rows."""
    scene.run_as_admin(f"ALTER DATABASE {scene.database} SET synchronous_commit = off")
    note = "BEGIN NEW.name = current_setting('synchronous_commit'); RETURN NEW; END"
    scene.run(
        TABLE,
        f"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ {note} $$",
        "CREATE TRIGGER note BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION note()",
    )
    async with scene.session() as session:
        await scan(session, [people((1, "a"))])
    assert scene.rows("people") == [(1, "on")]
