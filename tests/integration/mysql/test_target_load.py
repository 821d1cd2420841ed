"""Slices and refreshes on their way into the target: several connections, refused rows among many, keys that repeat."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest

import retl
from retl.connectors import DuckDB
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.encode import Encoder
from retl.model.actions import PreAction
from retl.model.errors import LeaseLost, RepeatedKey, RowsRejected, TargetBusy
from retl.model.window import Scope, Slice
from retl.testing import table_spec
from retl.testing.target_base import Session
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.servers.database import Server
from tests.support import Warehouse


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


def numbered(first: int, rows: int, *, name: str = "row") -> pa.RecordBatch:
    ids = np.arange(first, first + rows)
    return pa.RecordBatch.from_arrays([pa.array(ids), pa.array([f"{name} {number}" for number in ids])], schema=PEOPLE)


def expected(*batches: pa.RecordBatch) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in pa.Table.from_batches(batches).to_pylist())


async def _until(holds: Callable[[], object]) -> None:
    """Wait for something that only the server can tell."""
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.01)


# Tables that are replaced as a whole -------------------------------------------


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap"])
async def test_several_connections_load_all_rows(scene: Scene, writers: int, pre_action: str) -> None:
    batches = [numbered(5000 * number, 5000) for number in range(8)]
    table = spec(pre_action=pre_action)
    async with scene.session(writers=writers) as session:
        await scan(session, [people((-1, "old"))])
        writer = await session.prepare(session.load(table, schema=PEOPLE, unique_key=True))
        for half in (batches[:5], batches[5:]):
            done = await commit(session, writer, half)
            assert done.rows == done.changed == 5000 * len(half)
        assert await writer.count() == 40_000
        await session.finish(writer)
        assert await session.checkpoint() is not None
    assert await scene.many("people") == expected(*batches)


async def test_rows_of_all_connections_are_invisible_until_the_commit(scene: Scene) -> None:
    async with scene.session(writers=3) as session:
        writer = await session.prepare(session.load(spec(pre_action="truncate"), schema=PEOPLE, unique_key=True))
        for number in range(4):
            await writer.write(numbered(10 * number, 10))
        assert scene.rows("people") == []
        await writer.discard()
        await writer.write(numbered(0, 3))
        await session.commit(writer)
        await session.finish(writer)
    assert scene.rows("people") == expected(numbered(0, 3))


async def test_an_old_fence_commits_on_no_connection(scene: Scene) -> None:
    async with scene.session(writers=3) as old:
        writer = await old.prepare(old.load(spec(pre_action="truncate"), schema=PEOPLE, unique_key=True))
        for number in range(3):
            await writer.write(numbered(10 * number, 10))
        async with scene.session():
            with pytest.raises(LeaseLost):
                await old.commit(writer)
        await old.abort(writer)
    assert scene.rows("people") == []


async def test_refused_rows_are_found_on_every_connection(scene: Scene) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("at", pa.date32())])
    batches = []
    for number in range(4):
        days = ["2024-01-01"] * 1000
        days[number * 100] = "never"
        days[number * 100 + 50] = "2023-02-29"
        ids = [str(1000 * number + row) for row in range(1000)]
        batches.append(pa.record_batch([ids, days], names=["id", "at"]))
    async with scene.session(writers=2) as session:
        table = spec(pre_action="truncate", max_rejects=8)
        done = await scan(session, batches, table, schema=schema, unique_key=True, rejects_left=8)
    blamed = {1000 * number + number * 100 + more for number in range(4) for more in (0, 50)}
    assert {reject.key for reject in done.rejects} == {f'{{"id":{number}}}' for number in blamed}
    assert {row[0] for row in await scene.many("people")} == set(range(4000)) - blamed
    assert (done.rows, done.changed) == (4000, 3992)


@pytest.mark.parametrize("pre_action", ["none", "swap"])
async def test_a_warning_that_names_no_row_is_not_passed_over(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str
) -> None:
    """The servers count a row as 0 where they do not know which one it is."""
    query = MySQLConnection.query

    async def vague(connection: MySQLConnection, sql: str) -> list[tuple[Any, ...]]:
        rows = await query(connection, sql)
        if sql != "SHOW WARNINGS":
            return rows
        return [(level, code, re.sub(r"at row \d+", "at row 0", text)) for level, code, text in rows]

    monkeypatch.setattr(MySQLConnection, "query", vague)
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("at", pa.date32())])
    batch = pa.record_batch([["1", "2", "3"], ["2024-01-01", "never", "2024-01-03"]], names=["id", "at"])
    async with scene.session() as session:
        table = spec(pre_action=pre_action, max_rejects=1)
        done = await scan(session, [batch], table, schema=schema, rejects_left=1)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":2}', "at")]
    assert [row[0] for row in scene.rows("people")] == [1, 3]


async def test_keys_that_repeat_in_a_refresh_are_rejects_and_block_nobody(scene: Scene) -> None:
    batches = [numbered(0, 100), numbered(50, 100), numbered(140, 20)]
    async with scene.session(lock_timeout=1) as session:
        done = await scan(session, batches, spec(pre_action="swap", max_rejects=60), rejects_left=60)
    assert {reject.key for reject in done.rejects} == {
        f'{{"id":{number}}}' for number in [*range(50, 100), *range(140, 150)]
    }
    assert all("Duplicate entry" in reject.reason for reject in done.rejects)
    assert scene.rows("people") == sorted(expected(numbered(0, 160)), key=repr)


async def test_a_refresh_that_is_given_up_leaves_no_connection_and_no_lock(scene: Scene) -> None:
    async with scene.session(writers=2) as session:
        await scan(session, [numbered(0, 10)])
        writer = await session.prepare(session.load(spec(pre_action="swap"), schema=PEOPLE, unique_key=True))
        for number in range(4):
            await writer.write(numbered(20_000 * number, 20_000))
        await session.abort(writer)
        assert scene.tables() == ["people"]
    await _until(lambda: [row[3] for row in scene.run("SHOW PROCESSLIST")].count(scene.database) == 1)
    assert scene.rows("people") == sorted(expected(numbered(0, 10)), key=repr)


async def test_a_load_runs_while_the_next_batch_is_made_ready(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    both, go = asyncio.Event(), asyncio.Event()
    real = MySQLConnection.load

    async def load(self: MySQLConnection, sql: str, chunks: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            both.set()
        await go.wait()
        try:
            return await real(self, sql, chunks)
        finally:
            running -= 1

    monkeypatch.setattr(MySQLConnection, "load", load)
    async with scene.session(writers=2) as session:
        writer = await session.prepare(session.load(spec(pre_action="truncate"), schema=PEOPLE, unique_key=True))
        await writer.write(numbered(0, 10))
        await writer.write(numbered(10, 10))  # returns although no load has ended
        with anyio.fail_after(10):
            await both.wait()
        go.set()
        await writer.write(numbered(20, 10))
        await session.commit(writer)
        await session.finish(writer)
    assert most == 2
    assert scene.rows("people") == sorted(expected(numbered(0, 30)), key=repr)


# Slices ------------------------------------------------------------------------


# The first load of an upsert ----------------------------------------------------


def staged(said: list[str]) -> bool:
    return any("retl_stage" in statement for statement in said)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is executed from now on."""
    found: list[str] = []
    execute = MySQLConnection.execute

    async def noted(self: MySQLConnection, sql: str) -> Any:
        found.append(sql)
        return await execute(self, sql)

    monkeypatch.setattr(MySQLConnection, "execute", noted)
    return found


async def test_an_empty_table_is_loaded_itself_and_the_rest_by_way_of_staging(scene: Scene, said: list[str]) -> None:
    async with scene.session() as session:
        load = session.load(spec(), schema=PEOPLE, unique_key=True)
        writer = await session.prepare(load)
        done = await commit(session, writer, [numbered(0, 500), numbered(500, 500)])
        assert done.rows == done.changed == 1000
        # A row that was changed while it was read comes twice; the later one counts.
        done = await commit(session, writer, [numbered(900, 200, name="newer")])
        assert done.rows == 200
        await session.finish(writer)
        assert not staged(said)
        await scan(session, [numbered(1050, 100, name="later")], unique_key=True)
    assert staged(said)
    assert await scene.many("people") == expected(
        numbered(0, 900), numbered(900, 150, name="newer"), numbered(1050, 100, name="later")
    )


async def test_what_is_not_committed_of_a_first_load_is_not_there(scene: Scene, said: list[str]) -> None:
    async with scene.session() as session:
        load = session.load(spec(), schema=PEOPLE, unique_key=True)
        writer = await session.prepare(load)
        await commit(session, writer, [numbered(0, 10)])
        await writer.write(numbered(10, 10))
        await writer.discard()
        await commit(session, writer, [numbered(20, 10)])
        await writer.write(numbered(30, 10))
        await session.abort(writer)
    assert not staged(said)
    assert await scene.many("people") == expected(numbered(0, 10), numbered(20, 10))


async def test_a_bad_row_of_a_first_load_is_a_reject(scene: Scene, said: list[str]) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(10))")
    async with scene.session() as session:
        batch = people((1, "a"), (2, "b" * 11), (3, "c"))
        done = await scan(session, [batch], spec(max_rejects=1), rejects_left=1, unique_key=True)
    assert not staged(said)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":2}', "name")]
    assert scene.rows("people") == [(1, "a"), (3, "c")]


@pytest.mark.parametrize(
    "definition",
    [
        "id BIGINT PRIMARY KEY, name VARCHAR(20), extra INT DEFAULT 7",  # what is not loaded would be lost
        "id BIGINT PRIMARY KEY, name VARCHAR(20) UNIQUE",  # another index would decide which row is replaced
    ],
)
async def test_a_table_that_is_more_than_its_copy_is_never_replaced_by_row(
    scene: Scene, said: list[str], definition: str
) -> None:
    scene.run(f"CREATE TABLE people ({definition})")
    async with scene.session() as session:
        await scan(session, [people((1, "a"), (2, "b"))], unique_key=True)
    assert staged(said)
    assert scene.rows("people", "id, name") == [(1, "a"), (2, "b")]


# Slices of an upsert -------------------------------------------------------------


async def test_a_bad_row_among_many_is_found_in_every_batch(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(9))")
    batches = [numbered(0, 3000), people((5000, "far too long"), (5001, "fits")), numbered(6000, 3000, name="x")]
    async with scene.session() as session:
        with pytest.raises(RowsRejected):
            await scan(session, batches)
        assert scene.rows("people") == []
        done = await scan(session, batches, rejects_left=1)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":5000}', "name")]
    assert await scene.many("people") == expected(batches[0], people((5001, "fits")), batches[2])


async def test_keys_that_only_the_target_takes_for_one_are_told(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY, name TEXT)"
    )
    schema = PEOPLE.set(0, pa.field("id", pa.string(), nullable=False))
    async with scene.session() as session:
        load = session.load(spec(), schema=schema, unique_key=True)
        assert any("collation" in warning for warning in (await session.target.preview(load)).warnings)
        await scan(session, [people(("b", "old"), schema=schema)], unique_key=True)
        rows = [people(("a", "x"), ("B", "y"), ("A", "z"), schema=schema)]
        with pytest.raises(RowsRejected, match="to the target its key is that of another row"):
            await scan(session, rows, unique_key=True)
        assert scene.rows("people") == [("b", "old")]
        done = await scan(session, rows, spec(max_rejects=2), rejects_left=2)
    assert [(reject.key, reject.reason.split("row, ")[1][:10]) for reject in done.rejects] == [
        ('{"id":"B"}', '{"id":"b"}'),
        ('{"id":"A"}', '{"id":"a"}'),
    ]
    assert scene.rows("people") == [("a", "x"), ("b", "old")]


async def test_rows_that_are_equal_in_everything_are_one(scene: Scene) -> None:
    schema = PEOPLE.append(pa.field("raw", pa.binary()))
    twice = people((1, "a", b"\0"), (2, None, None), schema=schema)
    async with scene.session() as session:
        done = await scan(session, [twice, twice, people((3, "c", b""), schema=schema)])
        with pytest.raises(RepeatedKey, match="more than once"):
            await scan(session, [twice, people((1, "A", b"\0"), schema=schema)])
    assert (done.rows, done.changed, done.older) == (5, 3, 2)
    assert scene.rows("people") == [(1, "a", b"\0"), (2, None, None), (3, "c", b"")]


async def test_a_scope_of_a_binary_column_is_replaced(scene: Scene) -> None:
    table = table_spec("people", write="append")
    schema = pa.schema([pa.field("path", pa.string()), pa.field("n", pa.int64())])
    async with scene.session() as session:
        for name, numbers in (("it's", [1, 2]), ("\\", [3]), ("it's", [4])):
            writer = await session.prepare(session.load(table, schema=schema))
            batch = people(*((name, number) for number in numbers), schema=schema)
            await commit(session, writer, [batch], slice_=Slice(index=0, scope=Scope("path", (name,))))
            await session.finish(writer)
    assert scene.rows("people") == [("\\", 3), ("it's", 4)] or scene.rows("people") == [("it's", 4), ("\\", 3)]


async def test_a_deadlock_is_tried_again(scene: Scene) -> None:
    async with scene.session(lock_timeout=10) as session:
        await scan(session, [people((1, "a"), (2, "b"))])
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.write(people((1, "A"), (2, "B")))
        with closing(scene.server.connect(scene.database, autocommit=False)) as other, other.cursor() as cursor:
            # Heavier than the merge, so that it is the merge that is rolled back.
            cursor.execute("CREATE TABLE ballast (n INT PRIMARY KEY)")
            cursor.execute("INSERT INTO ballast VALUES " + ", ".join(f"({number})" for number in range(500)))
            cursor.execute("UPDATE people SET name = 'theirs' WHERE id = 2")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.commit, writer)
                await anyio.to_thread.run_sync(scene.server.wait_for_a_lock_wait)
                await anyio.to_thread.run_sync(cursor.execute, "UPDATE people SET name = 'theirs' WHERE id = 1")
                other.commit()
        await session.finish(writer)
    assert scene.rows("people") == [(1, "A"), (2, "B")]


async def test_a_lock_of_somebody_elses_is_waited_for_no_longer_than_allowed(scene: Scene) -> None:
    async with scene.session(lock_timeout=1) as session:
        await scan(session, [people((1, "a"))])
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.write(people((1, "A"), (2, "B")))
        with closing(scene.server.connect(scene.database, autocommit=False)) as other, other.cursor() as cursor:
            cursor.execute("UPDATE people SET name = 'theirs' WHERE id = 1")
            with anyio.fail_after(10), pytest.raises(TargetBusy):
                await session.commit(writer, "x")
        assert scene.rows("people") == [(1, "a")]
        await session.commit(writer, "x")  # the staged rows are still there
        await session.finish(writer, "x")
    assert scene.rows("people") == [(1, "A"), (2, "B")]


# By the engine -----------------------------------------------------------------


async def test_a_pipeline_from_end_to_end(scene: Scene, tmp_path: Any) -> None:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.run(
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, moment TIMESTAMP, note VARCHAR)",
        "INSERT INTO orders SELECT range, TIMESTAMP '2024-01-01' + INTERVAL (range) SECOND, 'n' || range FROM range(25000)",
        "CREATE TABLE daily AS SELECT id AS n, note FROM orders",
    )
    pipeline = retl.Pipeline(
        "p",
        source=DuckDB(str(warehouse.path)),
        target=scene.options(),
        tables=[retl.Table("orders", cursor="moment", slice_rows=4000), retl.Table("daily", pre_action=PreAction.SWAP)],
    )
    async with pipeline:
        await pipeline.run_once()
        warehouse.run(
            "UPDATE orders SET note = 'changed', moment = TIMESTAMP '2025-01-01' WHERE id < 10",
            "DELETE FROM daily WHERE n > 20000",
        )
        await pipeline.run_once()
    assert await scene.many("orders") == sorted(warehouse.run("SELECT * FROM orders"))
    assert await scene.many("daily") == sorted(warehouse.run("SELECT * FROM daily"))


# Counts ------------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", ["none", "truncate"])
@pytest.mark.parametrize("local_infile", [None, False], ids=["load", "insert"])
async def test_rows_that_did_not_arrive_are_noticed_and_sent_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str, local_infile: bool | None
) -> None:
    """Without a warning, as a server or something before it may lose them: the count tells."""
    lost: list[int] = []
    load, inserts = Encoder.csv, Encoder.inserts

    def fewer(self: Encoder, batch: pa.RecordBatch) -> pa.Buffer:
        if not lost:
            lost.append(1)
            batch = batch.slice(1)
        return load(self, batch)

    def fewer_inserts(self: Encoder, batch: pa.RecordBatch, *words: Any, **more: Any) -> Any:
        for first, rows, statement in inserts(self, batch, *words, **more):
            if not lost:
                lost.append(1)
                ((_, _, statement),) = inserts(self, batch.slice(1), *words, **more)
            yield first, rows, statement

    monkeypatch.setattr(Encoder, "csv", fewer)
    monkeypatch.setattr(Encoder, "inserts", fewer_inserts)
    async with scene.session(local_infile=local_infile) as session:
        done = await scan(session, [numbered(0, 10)], spec(pre_action=pre_action), rejects_left=1)
    assert lost and (done.rows, done.rejects) == (10, [])
    assert scene.rows("people") == sorted(expected(numbered(0, 10)), key=repr)


@pytest.mark.parametrize("listed", [0, 1])
@pytest.mark.parametrize("pre_action", ["none", "truncate"])
async def test_a_warning_that_the_server_does_not_list_is_one(server: Server, pre_action: str, listed: int) -> None:
    """How many are listed is a setting that not every user may change."""
    with server.fresh_database() as database:
        scene = Scene(server, database)
        scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(3))")
        options = scene.options()
        ((before,),) = server.query("SELECT @@GLOBAL.max_error_count")
        server.query(f"SET GLOBAL max_error_count = {listed}")
        try:
            session = await Session.begin(options.target())
            batch = people((1, "abc"), (2, "far too long"), (3, "also too long"), (4, "d"))
            table = spec(pre_action=pre_action)
            with pytest.raises(RowsRejected):
                await scan(session, [batch], table, rejects_left=1)
            done = await scan(session, [batch], table, rejects_left=2)
            await session.target.aclose()
        finally:
            server.query(f"SET GLOBAL max_error_count = {before}")
        assert sorted(reject.key for reject in done.rejects) == ['{"id":2}', '{"id":3}']
        assert scene.rows("people") == [(1, "abc"), (4, "d")]
