"""A real pgbouncer that hands a session on after every transaction, between PostgreSQL and its source."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anyio
import pytest

import retl
from retl.connectors import PostgreSQL
from retl.model.checkpoint import Checkpoint
from retl.testing import Scans
from tests.integration.postgres.reading import rows_of, run, spec
from tests.servers.pgbouncer import pooled
from tests.servers.postgres import PostgresServer

ROWS = 20_000


@pytest.fixture
def front(pg: PostgresServer, pg_database: str) -> Iterator[PostgresServer]:
    run(
        pg,
        pg_database,
        "CREATE TABLE t (id integer PRIMARY KEY, v bytea, at timestamptz)",
        f"INSERT INTO t SELECT i, '\\xff', now() - make_interval(secs => {ROWS} - i) FROM generate_series(1, {ROWS}) AS i",
        f"ALTER DATABASE {pg_database} SET bytea_output = 'escape'",
        f"ALTER DATABASE {pg_database} SET DateStyle = 'SQL, DMY'",
    )
    with pooled(pg) as server:
        yield server


async def test_a_scan_keeps_its_snapshot_and_its_settings(front: PostgresServer, pg_database: str) -> None:
    async with Scans(PostgreSQL(front.url(pg_database)).source()) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="at", slice_rows=7_000)), Checkpoint())
        rows = await rows_of(source, plan)
    assert [int(row[0]) for row in rows] == list(range(1, ROWS + 1))
    assert {row[1] for row in rows} == {b"\xff"}
    assert plan.exact_rows


async def test_many_doors_share_two_sessions(front: PostgresServer, pg_database: str) -> None:
    async def scan() -> None:
        source = PostgreSQL(front.url(pg_database)).source()
        for _ in range(3):
            assert await source.list_tables() == ["t"]
            described = await source.describe("t")
            assert described is not None and described.key == ("id",)
        await source.aclose()

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(scan)


async def test_a_read_that_is_left_early_ends_at_the_server(front: PostgresServer, pg_database: str) -> None:
    source = PostgreSQL(front.url(pg_database)).source()
    async with source.connect_scan() as reader:
        task = asyncio.ensure_future(reader.query("SELECT 'mine', pg_sleep(60)"))
        sleeping = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%''mine''%' AND state = 'active' AND pid <> pg_backend_pid()"
        with anyio.fail_after(15):
            await _until(front, sleeping, there=True)
            task.cancel()
            await asyncio.wait([task])
            await _until(front, sleeping, there=False)
    await source.aclose()


async def _until(server: PostgresServer, sql: str, *, there: bool) -> None:
    while bool(await server.run(sql)) is not there:  # noqa: ASYNC110  # the server tells nobody
        await asyncio.sleep(0.05)
