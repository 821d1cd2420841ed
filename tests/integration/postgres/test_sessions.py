"""How few connections and statements a source needs."""

from __future__ import annotations

from functools import partial

import pytest

import retl
from retl.connectors import PostgreSQL
from retl.model.checkpoint import Checkpoint
from retl.testing import Scans
from tests.integration.postgres.reading import rows_of, run, spec
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import log_statements, sent

OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


@pytest.fixture
def filled(pg: PostgresServer, pg_database: str) -> str:
    run(
        pg,
        pg_database,
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz)",
        "INSERT INTO t SELECT i, now() - make_interval(secs => i) FROM generate_series(1, 100) AS i",
    )
    return pg_database


async def test_an_idle_scan_is_five_statements_and_no_login(pg: PostgresServer, filled: str) -> None:
    table, reader = spec(retl.Table("t", cursor="at")), pg.as_reader(filled)
    log_statements(pg, reader.user)
    async with Scans(PostgreSQL(reader.url(filled)).source()) as source:
        with sent(pg) as first:
            plan = await source.plan(table)
            assert plan.window is not None
            seen = Checkpoint(cursor="at", cursor_type=plan.cursor_type, watermark=plan.window.upper)
            await source.leave()
        with sent(pg) as idle:
            plan = await source.plan(table, seen)
            assert len(await rows_of(source, plan)) == 1
            await source.leave()
    assert len(first.processes) == 1 and idle.processes == first.processes
    begun, catalog, bounds, copied, ended = idle.statements
    assert begun.startswith("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL")
    assert "pg_attribute" in catalog and "MAX(" in bounds and copied.startswith("COPY (") and ended == "ROLLBACK"


async def test_scan_after_scan_has_the_same_connection(pg: PostgresServer, filled: str) -> None:
    async with Scans(PostgreSQL(pg.as_reader(filled).url(filled), max_connections=2).source()) as source:
        for _ in range(3):
            assert len(await rows_of(source, await source.plan(spec("t")))) == 100
            await source.leave()
            assert await pg.run(OPEN, filled) == [(1,)]


async def test_an_idle_connection_is_closed_at_once_where_that_is_wished(pg: PostgresServer, filled: str) -> None:
    door = PostgreSQL(pg.as_reader(filled).url(filled), keep_idle=0).source()
    assert await door.list_tables() == ["t"]
    await door.aclose()
    assert await pg.run(OPEN, filled) == [(0,)]


async def test_a_connection_that_ends_while_nobody_looks_is_replaced(pg: PostgresServer, filled: str) -> None:
    """The event loop has no turn between the end of the connections and the next question."""
    async with Scans(PostgreSQL(pg.as_reader(filled).url(filled)).source()) as source:
        for ask in (source.source.list_tables, lambda: source.plan(spec("t"))):
            assert await source.source.list_tables() == ["t"]
            pg.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", filled)
            while pg.query(OPEN, filled) != [(0,)]:
                pass
            assert await ask()


async def test_so_is_one_of_a_target(pg: PostgresServer, filled: str) -> None:
    target = PostgreSQL(pg.as_documented(filled).url(filled)).target()
    store = target.state_store()
    for ask in (partial(target.count, "t"), partial(store.load, "p")):
        await ask()
        pg.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", filled)
        while pg.query(OPEN, filled) != [(0,)]:
            pass
        await ask()
    await target.aclose()


async def test_a_connection_that_the_server_has_ended_is_replaced(pg: PostgresServer, filled: str) -> None:
    door = PostgreSQL(pg.as_reader(filled).url(filled)).source()
    assert await door.list_tables() == ["t"]
    await pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", filled)
    while await pg.run(OPEN, filled) != [(0,)]:
        pass  # meanwhile the end of the connection arrives here too
    assert await door.list_tables() == ["t"]
    await door.aclose()
