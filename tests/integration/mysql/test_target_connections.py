"""A load holds what it needs and no more: few statements, no login where a connection is kept, any number at once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest

import retl
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.direct import FirstLoadWriter
from retl.connectors.mysql.settings import SIGN_OF_LIFE
from retl.connectors.mysql.staged import PipelinedWriter
from retl.connectors.mysql.wire import Done
from retl.model.errors import LeaseLost, RetlError
from retl.model.plain import EPOCH
from retl.model.report import ScanReport
from retl.model.window import Slice
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.servers.database import Server
from tests.servers.statements import counted


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


def report(number: int) -> ScanReport:
    return ScanReport(
        pipeline="p", table="t", to="t", scan_id=f"s{number}", status="done", mode="full", started_at=EPOCH, seconds=0
    )


async def test_a_scan_that_brings_some_rows_sends_eight_statements_and_logs_in_nowhere(scene: Scene) -> None:
    async with scene.session() as session:
        assert session.store is not None
        for number in range(2):
            await scan(session, [people((1, "a"), (2, str(number)))])
            await session.store.add_report(report(number))
        with counted(scene.server) as sent:
            await session.target.inspect("people")
            load = session.load(spec(), schema=PEOPLE)
            await session.target.preview(load)
            async with session.target.open_load(load, None) as writer:
                await writer.write(people((2, "B"), (4, "d")))
                await writer.commit(session.fenced("1"), Slice(index=0), 0)
                await writer.finish(None)
            await session.store.add_report(report(3))
    sent.statements = [sql for sql in sent.statements if sql != "SELECT @retl_session"]  # once, before a tick
    assert (len(sent), sent.logins) == (8, 0), sent.statements
    assert scene.rows("people") == [(1, "a"), (2, "B"), (4, "d")]


async def test_a_connection_that_ends_while_nobody_looks_is_replaced(scene: Scene) -> None:
    """The event loop has no turn between the end of the connections and the next question."""
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    source, target = scene.options().source(), scene.options().target()
    store = target.state_store()
    assert store is not None
    questions = (source.list_tables, partial(target.count, "people"), partial(store.load, "p"))
    for ask in (*questions, *questions):
        await ask()
        found = scene.server.query("SELECT id FROM information_schema.processlist WHERE db = %s", scene.database)
        for (number,) in found:
            scene.server.query(f"KILL {number}")
        while scene.server.query("SELECT 1 FROM information_schema.processlist WHERE db = %s", scene.database):
            pass
        await ask()
    await source.aclose()
    await target.aclose()


@pytest.mark.parametrize("kind", [FirstLoadWriter, PipelinedWriter])
@pytest.mark.parametrize("most", [8, 3], ids=["two connections", "one"])
async def test_the_next_slice_is_written_while_one_is_committed(scene: Scene, kind: type[Any], most: int) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    if kind is PipelinedWriter:
        scene.run("INSERT INTO people VALUES (0, 'zero')")
    async with scene.session(max_connections=most) as session:
        writer = await session.prepare(session.load(spec(), schema=PEOPLE, unique_key=True))
        assert isinstance(writer, kind) and writer.overlaps
        await writer.write(people((1, "a"), (2, "b")))
        for number in range(1, 5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(commit, session, writer, [])
                await anyio.lowlevel.checkpoint()
                await writer.write(people((10 * number, "next"), (10 * number + 1, "too")))
        await commit(session, writer, [])
        await session.finish(writer)
    held = [(0, "zero")] if kind is PipelinedWriter else []
    later = [(10 * n + more, name) for n in range(1, 5) for more, name in ((0, "next"), (1, "too"))]
    assert scene.rows("people") == sorted([*held, (1, "a"), (2, "b"), *later], key=repr)


@pytest.mark.parametrize("kind", [FirstLoadWriter, PipelinedWriter])
@pytest.mark.parametrize("most", [8, 3], ids=["two connections", "one"])
async def test_a_former_owner_commits_nothing_though_its_next_slice_begins(
    scene: Scene, kind: type[Any], most: int
) -> None:
    """A BEGIN would commit what the connection has loaded."""
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    held = [(0, "zero")] if kind is PipelinedWriter else []
    if held:
        scene.run("INSERT INTO people VALUES (0, 'zero')")
    async with scene.session(max_connections=most) as session:
        writer = await session.prepare(session.load(spec(), schema=PEOPLE, unique_key=True))
        assert isinstance(writer, kind)
        await writer.write(people((1, "old"), (2, "old")))
        async with scene.session():

            async def lost() -> None:
                with pytest.raises(LeaseLost):
                    await commit(session, writer, [])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lost)
                await anyio.lowlevel.checkpoint()
                await writer.write(people((1, "older")))
                await writer.write(people((3, "older")))
            with suppress(RetlError):
                await writer.write(people((4, "older")))
            await session.abort(writer)
    assert scene.rows("people") == held


async def test_a_slice_that_is_discarded_takes_nothing_from_the_one_that_is_committed(scene: Scene) -> None:
    async with scene.session() as session:
        await scan(session, [people((0, "zero"))])
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.write(people((1, "a")))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commit, session, writer, [])
            await anyio.lowlevel.checkpoint()
            await writer.write(people((2, "gone")))
            await writer.discard()
        await commit(session, writer, [people((3, "c"))])
        await writer.write(people((4, "gone too")))
        await writer.discard()
        await commit(session, writer, [people((5, "e"))])
        await session.finish(writer)
    assert scene.rows("people") == [(0, "zero"), (1, "a"), (3, "c"), (5, "e")]


async def test_a_load_that_waits_for_its_source_gives_signs_of_life(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends a session that is silent for a minute: a frozen owner must block nobody."""
    monkeypatch.setattr("retl.connectors.mysql.loader.FENCE_SECONDS", 0.03)
    heard, real = anyio.Event(), MySQLConnection.execute

    async def execute(self: MySQLConnection, sql: str) -> Done:
        done = await real(self, sql)
        if sql == SIGN_OF_LIFE:
            heard.set()
        return done

    monkeypatch.setattr(MySQLConnection, "execute", execute)
    async with scene.session() as session:
        await scan(session, [people((0, "zero"))])
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        for rows in ([(1, "a")], [(2, "b")]):
            await writer.write(people(*rows))
            heard = anyio.Event()
            with anyio.fail_after(10):
                await heard.wait()
        await commit(session, writer, [people((3, "c"))])
        await session.finish(writer)
    assert scene.rows("people") == [(0, "zero"), (1, "a"), (2, "b"), (3, "c")]


async def test_any_number_of_loads_go_on_at_once(scene: Scene) -> None:
    async with scene.session(max_connections=4) as session:

        async def one(number: int) -> None:
            for rows in ([(1, "a"), (2, "b")], [(2, "B"), (3, str(number))]):
                await scan(session, [people(*rows)], spec(f"people_{number}"))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(one, number)
    for number in range(6):
        assert scene.rows(f"people_{number}") == [(1, "a"), (2, "B"), (3, str(number))]


@pytest.mark.parametrize("brings", [False, True], ids=["nothing", "some rows"])
async def test_a_tick_from_mysql_to_mysql_sends_few_statements_and_logs_in_nowhere(scene: Scene, brings: bool) -> None:
    scene.run(
        "CREATE TABLE origin (id BIGINT PRIMARY KEY, at DATETIME(6) NOT NULL, KEY (at))",
        "INSERT INTO origin VALUES (1, '2024-01-01'), (2, '2024-01-02'), (3, '2024-01-02')",
    )
    pipeline = retl.Pipeline(
        "few",
        source=scene.options(),
        target=scene.options(),
        tables=[retl.Table("origin", to="copy", cursor="at")],
        interval="manual",
    )
    async with pipeline, anyio.create_task_group() as tasks:
        heard = pipeline.events()

        async def tick() -> None:
            pipeline.trigger()
            async for event in heard:
                if isinstance(event, retl.events.ScanFinished):
                    return

        tasks.start_soon(pipeline.run_forever)
        await tick()
        await tick()
        if brings:
            scene.run("INSERT INTO origin VALUES (4, '2024-02-01')")
        with counted(scene.server) as sent:
            await tick()
        pipeline.stop()
    # The lease and the checkpoints of all tables are asked for once in a run.
    others = ("SELECT @retl_session", "UPDATE retl_leases SET beat", "SELECT table_name, body FROM retl_checkpoints")
    own = [sql for sql in sent.statements if not sql.startswith(others)]
    assert sent.logins == 0
    assert len(own) <= (12 if brings else 10), own
    assert scene.rows("copy") == scene.rows("origin")
