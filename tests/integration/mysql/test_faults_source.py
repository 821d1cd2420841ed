"""A source that is left early, killed, slowed down or cut off: nothing is lost, and nothing goes on behind our back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest

import retl
from retl.connectors import MySQL
from retl.connectors.mysql.source import MySQLSource
from retl.model.errors import ConnectionFailed
from retl.testing import collect
from tests.adversity.patches import patch_backoff
from tests.integration.mysql.reading import opened, query, read, rows_of, spec
from tests.integration.mysql.test_source import run
from tests.servers.database import Server
from tests.servers.proxy import Proxy
from tests.servers.sql import Row
from tests.support import Database

ROWS = 20_000
PAD = 400
# More rows than a server counts in minutes.
ENDLESS = "SELECT COUNT(*) FROM t AS a, t AS b, t AS c WHERE a.id + b.id * c.id < -7"


# Much more than sockets hold: the server cannot have sent the whole result.
LARGE = retl.Table("t", columns=["id", "pad"], expressions={"more": "REPEAT(pad, 9)"})


@pytest.fixture
def filled(server: Server, database: str) -> str:
    """A database with a table of 8 MB."""
    digits = f"(SELECT {' UNION ALL SELECT '.join(f'{n} AS n' for n in range(10))})"
    number = "a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n"
    run(
        server,
        database,
        "CREATE TABLE t (id INT PRIMARY KEY, pad VARCHAR(500), at DATETIME(6))",
        f"INSERT INTO t SELECT {number}, CONCAT({number}, REPEAT('x', {PAD})), "
        f"'2024-01-01' + INTERVAL ({number}) MICROSECOND FROM "
        f"{', '.join(f'{digits} AS {name}' for name in 'abcd')}, (SELECT 0 AS n UNION ALL SELECT 1) AS e",
    )
    return database


def expected(first: int = 0, last: int = ROWS) -> list[tuple[int, str]]:
    return [(number, f"{number}{'x' * PAD}") for number in range(first, last)]


async def connections(server: Server, database: str) -> list[Row]:
    """What others do in a database now."""
    sql = "SELECT id, command, info FROM information_schema.processlist WHERE db = %s AND id <> CONNECTION_ID()"
    return await server.run(sql, database)


async def until(holds: Callable[[], Coroutine[Any, Any, bool]], seconds: float = 15.0) -> None:
    """Ask the server again and again: it tells nobody when a connection ends."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def all_gone(server: Server, database: str) -> None:
    async def gone() -> bool:
        return not await connections(server, database)

    await until(gone)


async def running(server: Server, database: str, words: str) -> int:
    """The number of the connection that runs a statement with these words."""
    found: list[int] = []

    async def there() -> bool:
        found[:] = [int(row[0]) for row in await connections(server, database) if words in str(row[2])]
        return bool(found)

    await until(there)
    return found[0]


@pytest.mark.parametrize("batches", [0, 1, 3])
async def test_a_stream_that_is_left_early_is_gone_on_the_server(server: Server, filled: str, batches: int) -> None:
    async with opened(server, filled) as source:
        plan = await source.plan(spec("t"))
        stream = source.read(plan, plan.slices[0])
        got = [await anext(stream) for _ in range(batches)]
        assert len(got) == batches
        await stream.aclose()

        async def as_many_as_are_of_use() -> bool:
            return len(await connections(server, filled)) <= (batches == 0)  # where no query had to be ended

        await until(as_many_as_are_of_use)
    await all_gone(server, filled)


async def _stream(source: MySQLSource) -> None:
    async with (
        source.connect_scan() as reader,
        aclosing(reader.stream(ENDLESS, pa.schema([("n", pa.int64())]))) as rows,
    ):
        async for _ in rows:
            pass


async def _question(source: MySQLSource) -> None:
    await query(source, ENDLESS)


async def _plan(source: MySQLSource) -> None:
    await collect(source, spec(retl.Table("q", query=ENDLESS + " GROUP BY a.id")))


@pytest.mark.parametrize("work", [_stream, _question, _plan])
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_query_that_is_cancelled_before_its_first_row_is_gone_on_the_server(
    server: Server, filled: str, work: Callable[[MySQLSource], Coroutine[Any, Any, None]], how: str
) -> None:
    source = MySQL(server.url(filled)).source()
    try:
        if how == "task":
            task = asyncio.create_task(work(source))
            await running(server, filled, "c.id < -7")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(work, source)
                await running(server, filled, "c.id < -7")
                group.cancel_scope.cancel()
        await all_gone(server, filled)
        assert await query(source, "SELECT COUNT(*) FROM t") == [(ROWS,)]
    finally:
        await source.aclose()


async def test_cancelled_at_any_moment(server: Server, filled: str) -> None:
    """In every turn of the loop up to the end of a scan: the next one finds everything as it was."""
    table = spec(retl.Table("t", columns=["id"], where="id < 50"))
    source = MySQL(server.url(filled)).source()

    async def scan() -> list[int]:
        return list((await collect(source, table)).column("id").to_pylist())

    try:
        turns, finished = 0, False
        while not finished:
            task = asyncio.create_task(scan())
            for _ in range(turns):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
            await asyncio.wait([task])
            turns = turns + 1 + turns // 4
        assert sorted(await scan()) == list(range(50))
    finally:
        await source.aclose()
    await all_gone(server, filled)


@pytest.mark.parametrize("what", ["QUERY", "CONNECTION"])
async def test_killed_from_outside(server: Server, filled: str, what: str) -> None:
    async with opened(server, filled) as source:
        assert isinstance(source.source, MySQLSource)
        task = asyncio.create_task(_stream(source.source))
        await server.run(f"KILL {what} {await running(server, filled, 'c.id < -7')}")
        with pytest.raises(ConnectionFailed):
            await task
        # In the middle of a result: the first rows come, then the error.
        plan = await source.plan(spec(LARGE))
        got: list[Row] = []
        stream = source.read(plan, plan.slices[0])
        got.extend(_rows(await anext(stream)))
        await server.run(f"KILL {what} {await running(server, filled, 'FROM `t`')}")
        with pytest.raises(ConnectionFailed):
            async for batch in stream:
                got.extend(_rows(batch))
        assert 0 < len(got) < ROWS
        assert got == expected(0, len(got))
        # One that is idle: it is looked at before it is used, and replaced.
        await source.leave()
        for identifier, _, _ in await connections(server, filled):
            await server.run(f"KILL CONNECTION {identifier}")
        assert await query(source.source, "SELECT 1") == [(1,)]
    await all_gone(server, filled)


def _rows(batch: Any) -> list[tuple[int, str]]:
    return [(int(row["id"]), row["pad"]) for row in batch.to_pylist()]


async def test_a_reader_that_takes_its_time_is_waited_for(server: Server, filled: str) -> None:
    """Whatever the server's own patience is."""
    ((before,),) = server.query("SELECT @@GLOBAL.net_write_timeout")
    server.query("SET GLOBAL net_write_timeout = 1")
    try:
        async with opened(server, filled) as source:
            plan = await source.plan(spec(LARGE))
            stream = source.read(plan, plan.slices[0])
            got = _rows(await anext(stream))
            await asyncio.sleep(2.5)
            async for batch in stream:
                got.extend(_rows(batch))
        assert got == expected()
    finally:
        server.query(f"SET GLOBAL net_write_timeout = {before}")


# A line that is cut ------------------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.host, server.port) as proxy:
        yield proxy


async def _read_until_cut(stream: AsyncIterator[Any]) -> tuple[list[tuple[int, str]], ConnectionFailed | None]:
    got: list[tuple[int, str]] = []
    try:
        async for batch in stream:
            got.extend(_rows(batch))
    except ConnectionFailed as error:
        return got, error
    return got, None


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_cut_after_every_so_many_kilobytes(server: Server, filled: str, proxy: Proxy, how: Any) -> None:
    table = spec(retl.Table("t", columns=["id", "pad"], where="id < 1000"))
    async with opened(server.at(proxy.host, proxy.port), filled) as source:
        plan = await source.plan(table)
        at = 1
        while True:
            proxy.break_after(at, "to_client", how)
            got, error = await _read_until_cut(source.read(plan, plan.slices[0]))
            if error is None:
                break
            assert f"{proxy.host}:{proxy.port}" in str(error)
            assert got == expected(0, len(got)) and len(got) < 1000
            at += 1024 * 7 + 13
        assert at > 400_000
        assert got == expected(0, 1000)
        proxy.mend()


async def test_a_line_that_falls_silent_ends_with_its_scan(server: Server, filled: str, proxy: Proxy) -> None:
    async with opened(server.at(proxy.host, proxy.port), filled, connect_timeout=1) as source:
        plan = await source.plan(spec("t"))
        stream = source.read(plan, plan.slices[0])
        await anext(stream)
        proxy.stall()
        begun = time.monotonic()
        with anyio.move_on_after(0.5) as scope:
            while True:
                await anext(stream)
        assert scope.cancelled_caught
        await stream.aclose()
        assert time.monotonic() - begun < 6
        with pytest.raises(ConnectionFailed, match="in time"):
            async for _ in source.read(plan, plan.slices[0]):
                pass
        proxy.resume()
    await all_gone(server, filled)


@pytest.mark.parametrize("after", [0, 1_000, 50_000, 1_000_000, 3_000_000, 7_000_000])
@pytest.mark.parametrize("cursor", ["at", None])
async def test_a_pipeline_reads_again_what_was_cut_off(
    server: Server,
    filled: str,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    cursor: str | None,
) -> None:
    patch_backoff(monkeypatch, 0.01)
    app = Database(tmp_path / "app.db")
    table = retl.Table("t", cursor=cursor or False, slice_rows=4000)
    job = retl.Pipeline(
        "cut", source=MySQL(server.at(proxy.host, proxy.port).url(filled)), target=app.target(), tables=[table]
    )
    proxy.break_after(after, "to_client")
    report = await job.run_once()
    assert proxy.broken == 1
    assert report.ok
    assert sorted(app.run("SELECT id, pad FROM t")) == expected()
    _, source_rows = await read(server, filled, "t")
    assert sorted(app.run("SELECT CAST(id AS TEXT), pad, at FROM t")) == sorted(source_rows)


async def test_a_server_that_starts_again(server: Server, filled: str) -> None:
    """Between two scans and in the middle of one."""
    async with opened(server, filled) as source:
        plan = await source.plan(spec(LARGE))
        stream = source.read(plan, plan.slices[0])
        got = _rows(await anext(stream))
        await anyio.to_thread.run_sync(server.restart)
        with pytest.raises(ConnectionFailed):
            async for batch in stream:
                got.extend(_rows(batch))
        assert got == expected(0, len(got))
        again = await source.plan(spec(retl.Table("t", columns=["id", "pad"])))
        rows = [(int(number), pad) for number, pad in await rows_of(source, again)]
        assert rows == expected()
