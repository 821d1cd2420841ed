"""SQL as a hook: in transactions of its own, or in none where a statement takes none."""

from __future__ import annotations

import pytest

import retl
from retl import SQL, Hooks
from retl.connectors import PostgreSQL
from tests.integration.postgres.reading import run
from tests.servers.postgres import PostgresServer

BUILD = (
    "CREATE PROCEDURE models.build() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO models.log VALUES ('built', 0); COMMIT; "
    "INSERT INTO models.log VALUES ('undone', 0); ROLLBACK; END $$"
)
VACUUMED = "SELECT last_vacuum IS NOT NULL FROM pg_stat_all_tables WHERE relid = 'public.orders'::regclass"


async def test_hooks_run_sql_on_both_sides(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE SCHEMA models",
        "CREATE TABLE models.sales (id integer PRIMARY KEY, price integer)",
        "INSERT INTO models.sales VALUES (1, 10), (2, 20)",
        "CREATE MATERIALIZED VIEW models.orders AS SELECT id, 2 * price AS price FROM models.sales WITH NO DATA",
        "CREATE TABLE models.log (name text, n bigint)",
        BUILD,
    )

    def job(**hooks: SQL) -> retl.Pipeline:
        return retl.Pipeline(
            "models",
            source=PostgreSQL(pg.url(pg_database), schema="models"),
            target=PostgreSQL(pg.url(pg_database), schema="public"),
            tables=[retl.Table("orders", key="id")],
            hooks=Hooks(**hooks),
        )

    done = job(
        before_run=SQL(["REFRESH MATERIALIZED VIEW orders;", "CALL models.build()"], on="source"),
        after_scan=SQL("INSERT INTO log SELECT :table || '''s', x::int FROM (SELECT :rows) AS given(x)", on="source"),
        after_run=SQL("VACUUM (ANALYZE) public.orders", on="target"),
    )
    assert (await done.run_once()).rows == 2
    assert sorted(run(pg, pg_database, "SELECT * FROM public.orders")) == [(1, 20), (2, 40)]
    assert sorted(run(pg, pg_database, "SELECT * FROM models.log")) == [("built", 0), ("orders's", 2)]
    assert run(pg, pg_database, VACUUMED) == [(True,)]


async def test_a_user_who_may_only_read_is_told_so(pg: PostgresServer, pg_database: str) -> None:
    run(pg, pg_database, "CREATE TABLE orders (id integer PRIMARY KEY)")
    job = retl.Pipeline(
        "models",
        source=PostgreSQL(pg.as_reader(pg_database).url(pg_database)),
        target=PostgreSQL(pg.url(pg_database)),
        tables=[retl.Table("orders", to="copy")],
        hooks=Hooks(before_scan=SQL("DELETE FROM orders", on="source")),
    )
    told = r"^models / orders \(postgres\): the hook before_scan failed on the source: .*permission denied.* rights that it"
    with pytest.raises(retl.HookFailed, match=told):
        await job.run_once()
