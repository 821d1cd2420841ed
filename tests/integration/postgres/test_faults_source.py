"""A source that is left early, cut off, killed, or replays what others delete: nothing is lost, nothing goes on."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pyarrow as pa
import pytest

import retl
from retl import events
from retl.connectors import PostgreSQL
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.settings import reading
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConnectionFailed
from retl.testing import Scans
from tests import tiers
from tests.adversity.patches import patch_backoff
from tests.integration.postgres.reading import opened, rows_of, run, spec
from tests.servers import postgres
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Direction, Proxy
from tests.servers.standby import following
from tests.support import Database, Recorder

ROWS = 20_000
FILL = (
    "CREATE TABLE t (id integer PRIMARY KEY, pad text, at timestamp)",
    f"INSERT INTO t SELECT i, i || repeat('x', 400), timestamp '2024-01-01' + make_interval(secs => i) FROM generate_series(1, {ROWS}) AS i",
)
LARGE = retl.Table("t", columns=["id", "pad"], expressions={"more": "repeat(pad, 9)"})
"""More than sockets hold: the server cannot have sent all of it."""
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"  # not its parallel workers
)


@pytest.fixture
def filled(pg: PostgresServer, pg_database: str) -> str:
    run(pg, pg_database, *FILL)
    return pg_database


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Ask the server again and again: it tells nobody."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def all_ended(server: PostgresServer, database: str) -> None:
    async def ended() -> bool:
        return await server.run(OTHERS, database) == [(0,)]

    await until(ended)


@pytest.mark.parametrize("batches", [0, 1, 3])
async def test_a_stream_that_is_left_early_is_gone_on_the_server(pg: PostgresServer, filled: str, batches: int) -> None:
    async with opened(pg, filled) as source:
        plan = await source.plan(spec(LARGE))
        stream = source.read(plan, plan.slices[0])
        for _ in range(batches):
            await anext(stream)
        await stream.aclose()
        await all_ended(pg, filled)


async def test_a_query_that_sends_nothing_yet_is_ended_too(pg: PostgresServer, filled: str) -> None:
    endless = "SELECT count(*) AS n FROM t AS a, t AS b, t AS c WHERE a.id + b.id * c.id < 0"
    source = PostgreSQL(pg.as_reader(filled).url(filled)).source()
    async with (
        source.connect_scan() as reader,
        aclosing(reader.stream(endless, pa.schema([("n", pa.int64())]))) as rows,
    ):
        reading = asyncio.ensure_future(anext(rows))

        async def busy() -> bool:
            return await pg.run(OTHERS, filled) == [(1,)]

        await until(busy)
        reading.cancel()
        await asyncio.wait([reading])
        await all_ended(pg, filled)
    await source.aclose()


@pytest.mark.parametrize("rows_before", [3, ROWS])
async def test_a_stream_that_is_left_as_its_connection_is_lost_leaves_nothing_behind(
    pg: PostgresServer, filled: str, rows_before: int
) -> None:
    """Where the server is waited for, and where it waits for us."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    slow = f"SELECT pad AS n FROM t WHERE id <= {rows_before} UNION ALL SELECT pg_sleep(60)::text"
    source = PostgreSQL(pg.as_reader(filled).url(filled)).source()
    async with source.connect_scan() as reader:
        rows = reader.stream(slow, pa.schema([("n", pa.string())]))
        reading = asyncio.ensure_future(anext(rows))

        async def busy() -> bool:
            return await pg.run(OTHERS, filled) == [(1,)]

        await until(busy)
        connection = await reader.connection()
        connection._driver._transport.abort()  # as when the server dies: the driver hears of it in a moment
        reading.cancel()
        await asyncio.wait([reading])
        await rows.aclose()
        del rows, reading, connection
        gc.collect()
        await asyncio.sleep(0)
    await source.aclose()
    assert told == []


async def test_a_connection_that_is_lost_while_rows_wait_to_be_taken_fails_when_they_are(
    pg: PostgresServer, filled: str
) -> None:
    source = PostgreSQL(pg.as_reader(filled).url(filled)).source()
    async with source.connect_scan() as reader:
        connection = await reader.connection()
        async with aclosing(
            connection.copy_out(f"SELECT repeat(pad, 9) FROM t UNION ALL SELECT '{'x' * 99}'")
        ) as blocks:
            await anext(blocks)
            connection._driver._transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(ConnectionFailed):
                async with asyncio.timeout(10):
                    [block async for block in blocks]
    await source.aclose()


async def test_a_copy_whose_connection_is_lost_while_the_server_takes_no_more_fails(
    pg: PostgresServer, filled: str
) -> None:
    connection = await PostgresConnection.open(PostgreSQL(pg.url(filled)).login("source", reading("public", 30, 60)))
    await connection.begin()
    with pg.connect(filled) as other:
        other.execute("BEGIN; LOCK TABLE t")
        copying = asyncio.ensure_future(connection.copy_in("t", ["pad"], memoryview(b"x\n" * 16_000_000)))

        async def full() -> bool:
            return bool(connection._driver._transport.get_write_buffer_size())

        await until(full)
        connection._driver._transport.abort()
        with pytest.raises(ConnectionFailed):
            async with asyncio.timeout(10):
                await copying


@pytest.mark.parametrize("turns", range(4))
async def test_a_stream_from_a_server_that_has_just_said_goodbye_leaves_nothing_behind(
    pg: PostgresServer, filled: str, turns: int
) -> None:
    """The event loop reads the server's last words in one turn, and the end of the connection in the next."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    source = PostgreSQL(pg.as_reader(filled).url(filled)).source()
    async with source.connect_scan() as reader:
        ((own,),) = await reader.query("SELECT pg_backend_pid()")
        run(pg, filled, f"SELECT pg_terminate_backend({own}, 5000)")
        for _ in range(turns):
            await asyncio.sleep(0)
        with pytest.raises(ConnectionFailed):
            await anext(reader.stream("SELECT pad AS n FROM t", pa.schema([("n", pa.string())])))
    await source.aclose()
    del reader
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


@pytest.mark.parametrize("after", [0, 100_000, 3_000_000])
async def test_a_line_that_is_cut_is_transient(pg: PostgresServer, filled: str, after: int) -> None:
    reader = pg.as_reader(filled)
    async with (
        Proxy(pg.host, pg.port) as proxy,
        Scans(PostgreSQL(reader.at(proxy.host, proxy.port).url(filled)).source()) as source,
    ):
        plan = await source.plan(spec("t"))
        proxy.break_after(after, "to_client")
        with pytest.raises(ConnectionFailed):
            await rows_of(source, plan)


async def test_a_snapshot_never_becomes_another_one(pg: PostgresServer, filled: str) -> None:
    async with opened(pg, filled) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="at", slice_rows=ROWS // 2)))
        one = [batch async for batch in source.read(plan, plan.slices[0])]
        assert sum(batch.num_rows for batch in one) == ROWS // 2
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        pg.query(kill, filled)
        for _ in range(2):
            with pytest.raises(ConnectionFailed):
                await rows_of(source, plan)
        with pytest.raises(ConnectionFailed, match=r"snapshot .* is gone"):
            await rows_of(source, plan)


async def test_a_scan_whose_snapshot_is_lost_is_tried_again_and_reads_all(
    pg: PostgresServer, filled: str, tmp_path: Path
) -> None:
    target = Database(tmp_path / "target.db")
    job = retl.Pipeline(
        "job",
        source=PostgreSQL(pg.as_reader(filled).url(filled)),
        target=target.target(),
        tables=[retl.Table("t", cursor="at", slice_rows=ROWS // 4)],
    )
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    Recorder(job).when(events.SliceCommitted, lambda _: pg.query(kill, filled))
    async with job:
        await job.run_once()
    assert target.run("SELECT count(*), min(id), max(id), sum(length(pad)) FROM t") == run(
        pg, filled, "SELECT count(*), min(id), max(id), sum(length(pad)) FROM t"
    )


@pytest.mark.parametrize("direction", ["to_client", "to_server"])
async def test_a_line_that_is_cut_again_and_again_loses_nothing(
    pg: PostgresServer, filled: str, tmp_path: Path, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_backoff(monkeypatch, 0.0)
    target, reader = Database(tmp_path / "target.db"), pg.as_reader(filled)
    async with Proxy(pg.host, pg.port) as proxy:
        job = retl.Pipeline(
            "job",
            source=PostgreSQL(reader.at(proxy.host, proxy.port).url(filled)),
            target=target.target(),
            tables=[retl.Table("t", cursor="at", slice_rows=ROWS // 4)],
        )
        async with job:
            for kilobytes in range(0, 6_000, 6_000 // tiers.number(12)):
                proxy.break_after(kilobytes * (1_000 if direction == "to_client" else 1), direction)
                with suppress(ConnectionFailed):
                    await job.run_once()
            proxy.mend()
            await job.run_once()
    counts = "SELECT count(*), min(id), max(id), sum(length(pad)) FROM t"
    assert target.run(counts) == run(pg, filled, counts)


async def test_a_slow_target_makes_the_server_wait_and_fills_no_memory(pg: PostgresServer, filled: str) -> None:
    large = retl.Table("t", columns=["id"], expressions={"more": "repeat(pad, 20)"})
    waits = "SELECT wait_event FROM pg_stat_activity WHERE datname = %s AND query LIKE 'COPY%%'"
    async with opened(pg, filled) as source:
        plan = await source.plan(spec(large))
        stream = source.read(plan, plan.slices[0])
        await anext(stream)

        async def waiting() -> bool:
            return await pg.run(waits, filled) == [("ClientWrite",)]

        await until(waiting)
        assert pa.total_allocated_bytes() < 32_000_000
        rows = 0
        async for batch in stream:
            rows += batch.num_rows
            assert batch.nbytes < 8_000_000
        assert 0 < rows < ROWS


async def test_a_statement_that_fails_on_a_row_ends_the_scan_and_no_connection(pg: PostgresServer, filled: str) -> None:
    async with opened(pg, filled) as source:
        plan = await source.plan(spec(retl.Table("t", expressions={"bad": f"1 / (id - {ROWS})"})))
        with pytest.raises(retl.SourceError, match="division by zero"):
            await rows_of(source, plan)
        await source.leave()
        assert (await source.plan(spec("t"))).rows == ROWS


@pytest.mark.processes
@pytest.mark.parametrize("version", [15, 18], ids=["postgres15", "postgres"])
async def test_a_killed_server_is_transient(version: postgres.Version) -> None:
    with postgres.started(version) as server, server.fresh_database() as database:
        run(server, database, *FILL)
        async with Scans(PostgreSQL(server.url(database)).source()) as source:
            plan = await source.plan(spec(LARGE))
            stream = source.read(plan, plan.slices[0])
            await anext(stream)
            server.kill()
            with pytest.raises(ConnectionFailed):
                async for _ in stream:
                    pass
            await source.leave()
            server.start()
            assert len(await rows_of(source, await source.plan(spec("t")))) == ROWS


@pytest.mark.processes
@pytest.mark.parametrize("version", [15, 18], ids=["postgres15", "postgres"])
async def test_a_conflict_with_recovery_is_transient(version: postgres.Version) -> None:
    with (
        postgres.started(version) as primary,
        primary.fresh_database() as database,
        following(primary, version, "max_standby_streaming_delay=0") as standby,
    ):
        run(primary, database, *FILL)

        async def caught_up() -> bool:
            ((behind,),) = primary.query(
                "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), min(replay_lsn)) FROM pg_stat_replication"
            )
            return behind is not None and behind <= 0

        await until(caught_up, 30)
        wanted = PostgreSQL(standby.url(database), target_session_attrs="standby")
        async with Scans(wanted.source()) as source:
            assert (await source.source.ping()).detail == "a replica"
            plan = await source.plan(spec("t"))
            run(primary, database, "DELETE FROM t WHERE id > 10", "VACUUM t")
            await until(caught_up, 30)
            with pytest.raises(ConnectionFailed, match=r"rolled a transaction back|failed"):
                await rows_of(source, plan)
            await source.leave()
            assert len(await rows_of(source, await source.plan(spec("t"), Checkpoint()))) == 10
