"""One scan over several connections: one snapshot, each row once, and one connection where more cannot be had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest

import retl
from retl.connectors import PostgreSQL
from retl.connectors.postgres import parallel
from retl.model.errors import ConnectionFailed
from retl.testing import Scans
from tests.integration.postgres.reading import run, spec
from tests.servers.pgbouncer import pooled
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import log_statements, sent

ROWS = 20_000
SCAN = retl.Table("t", cursor="at", slice_rows=3_000)
READERS = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND xact_start IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY backend_start"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LARGE_ROWS", 1)
    monkeypatch.setattr(parallel, "LEAST_BLOCKS", 3)


@pytest.fixture
def filled(pg: PostgresServer, pg_database: str) -> str:
    run(
        pg,
        pg_database,
        "CREATE TABLE t (id integer PRIMARY KEY, pad text, at timestamp)",
        f"INSERT INTO t SELECT i, repeat('x', 200), timestamp '2024-01-01' + make_interval(secs => i) FROM generate_series(1, {ROWS}) AS i",
        "DELETE FROM t WHERE id % 10 = 0",
        "UPDATE t SET pad = 'moved' WHERE id % 7 = 0",
    )
    return pg_database


LEFT = [number for number in range(1, ROWS + 1) if number % 10]


@asynccontextmanager
async def opened(server: PostgresServer, database: str, **words: Any) -> AsyncIterator[Scans]:
    options = {"parallel_reads": 3, **words}
    async with Scans(PostgreSQL(server.as_reader(database).url(database), **options).source()) as source:
        yield source


async def ids(source: Scans, plan: Any) -> list[list[int]]:
    """The ids of each slice, as they come."""
    found = []
    for slice_ in plan.slices:
        batches = [batch async for batch in source.read(plan, slice_)]
        found.append([int(value) for batch in batches for value in batch.column("id").to_pylist()])
    return found


@pytest.mark.parametrize(("table", "statements"), [(retl.Table("t"), 20), (SCAN, 6)])
async def test_several_connections_read_each_row_of_one_snapshot_once(
    pg: PostgresServer, filled: str, table: retl.Table, statements: int
) -> None:
    log_statements(pg, pg.as_reader(filled).user)
    with sent(pg) as read:
        async with opened(pg, filled) as source:
            plan = await source.plan(spec(table))
            await pg.run("UPDATE t SET pad = 'late', id = id + 100000, at = at + interval '1 hour'", database=filled)
            await pg.run("INSERT INTO t SELECT -i, 'late', now() FROM generate_series(1, 5000) AS i", database=filled)
            found = await ids(source, plan)
    assert complete(found)
    assert len(read.processes) == 3
    assert sum(statement.startswith("COPY") for statement in read.statements) >= statements


async def test_slices_that_are_read_ahead_come_in_their_order(pg: PostgresServer, filled: str) -> None:
    async with opened(pg, filled) as source:
        plan = await source.plan(spec(SCAN))
        found = await ids(source, plan)
    assert [slice_.rows for slice_ in plan.slices] == [len(one) for one in found]
    assert all(sorted(one) == cut for one, cut in zip(found, _cut(LEFT, [len(one) for one in found]), strict=True))


def complete(found: list[list[int]]) -> bool:
    """Whether each row came once; the difference of two long lists would take minutes to show."""
    return sorted(value for one in found for value in one) == LEFT


def _cut(values: list[int], lengths: list[int]) -> list[list[int]]:
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return [values[start : start + length] for start, length in zip(starts, lengths, strict=True)]


async def test_where_the_pool_has_no_room_one_connection_reads(pg: PostgresServer, filled: str) -> None:
    log_statements(pg, pg.as_reader(filled).user)
    for table in (retl.Table("t"), SCAN):
        with sent(pg) as read:
            async with opened(pg, filled, max_connections=2) as source:
                assert complete(await ids(source, await source.plan(spec(table))))
        assert len(read.processes) == 1


@pytest.mark.parametrize("table", [retl.Table("t"), SCAN])
async def test_behind_a_pooler_the_snapshot_is_shared_too(pg: PostgresServer, filled: str, table: retl.Table) -> None:
    run(pg, filled, "CREATE TABLE u AS SELECT 1")
    with pooled(pg) as front:
        async with Scans(PostgreSQL(front.url(filled), parallel_reads=2).source()) as source:
            plan = await source.plan(spec(table))
            await pg.run("DELETE FROM t", database=filled)
            assert complete(await ids(source, plan))


@pytest.mark.parametrize("table", [retl.Table("t"), SCAN])
async def test_a_scan_that_is_left_early_leaves_no_reader_behind(
    pg: PostgresServer, filled: str, table: retl.Table
) -> None:
    async with opened(pg, filled) as source:
        plan = await source.plan(spec(table))
        async with aclosing(source.read(plan, plan.slices[0])) as batches:
            assert (await anext(batches)).num_rows
            with anyio.fail_after(15):
                while len(await pg.run(READERS, filled)) < 3:
                    pass  # the others join while the first one reads
        await source.leave()
        while await pg.run(READERS, filled):
            pass  # a connection that was cut ends in its own time
        assert await source.source.list_tables() == ["t"]


@pytest.mark.parametrize("words", [{}, {"cursor": "at", "slice_rows": 9_000}])
async def test_a_reader_that_is_lost_is_tried_again(
    pg: PostgresServer, filled: str, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any]
) -> None:
    monkeypatch.setattr(parallel, "_AHEAD", 1)
    # More than sockets hold: the server cannot have sent all of it.
    table = spec(retl.Table("t", expressions={"more": "repeat(pad, 20)"}, **words))
    async with opened(pg, filled, parallel_reads=2) as source:
        plan = await source.plan(table)
        batches = source.read(plan, plan.slices[0])
        assert (await anext(batches)).num_rows
        readers = await pg.run(READERS, filled)
        await pg.run("SELECT pg_terminate_backend(%s)", readers[-1][0])
        with pytest.raises(ConnectionFailed):
            async for _ in batches:
                pass
            await ids(source, plan)
        await batches.aclose()
        await source.leave()
        assert complete(await ids(source, await source.plan(table)))


async def test_a_server_that_shares_no_snapshot_is_read_over_one_connection(
    pg: PostgresServer, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_EXPORT", "SELECT no_such_function(), {oid}")
    async with opened(pg, filled) as source:
        plan = await source.plan(spec("t"))
        with pytest.raises(ConnectionFailed, match="cannot be shared: function no_such_function"):
            await ids(source, plan)
        await source.leave()
        assert complete(await ids(source, await source.plan(spec("t"))))


async def test_partitions_heirs_views_and_queries_are_read_whole(pg: PostgresServer, filled: str) -> None:
    run(
        pg,
        filled,
        "CREATE TABLE p (id integer, at timestamp) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (9000)",
        "CREATE TABLE p2 PARTITION OF p DEFAULT",
        "INSERT INTO p SELECT id, at FROM t",
        "CREATE TABLE parent (id integer)",
        "CREATE TABLE heir () INHERITS (parent)",
        "INSERT INTO parent SELECT id FROM t WHERE id < 5000",
        "INSERT INTO heir SELECT id FROM t WHERE id >= 5000",
        "CREATE VIEW v AS SELECT id FROM t",
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM t",
    )
    async with opened(pg, filled) as source:
        asked = retl.Table("q", query="SELECT id FROM t"), retl.Table("t", where="id > 0 -- all")
        for table in (*map(retl.Table, ("p", "parent", "v", "m")), *asked):
            assert complete(await ids(source, await source.plan(spec(table))))
            await source.leave()
