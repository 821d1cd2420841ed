"""What tests rely on: a PostgreSQL that keeps what it has committed, and users with few rights."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from tests.servers.postgres import PostgresServer, any_server

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("version", [15, 18], ids=["postgres15", "postgres"])
def test_a_killed_server_keeps_what_it_has_committed(version: int) -> None:
    with any_server(version) as server, server.fresh_database() as name:  # type: ignore[arg-type]
        server.query("CREATE TABLE t AS SELECT 1 AS a", database=name)
        server.kill()
        server.start()
        assert server.query("SELECT a FROM t", database=name) == [(1,)]
        assert server.version // 10_000 == version


def test_a_database_that_is_used_again_is_as_empty_as_a_new_one(pg: PostgresServer) -> None:
    look = "SELECT (SELECT count(*) FROM pg_class WHERE oid >= 16384), nspowner::regrole::text, nspacl::text FROM pg_namespace"
    look += " WHERE nspname = 'public'"
    with pg.fresh_database() as name:
        pg._drop(name)
        pg.query(f"CREATE DATABASE {name} TEMPLATE template0")
        new = pg.query(look, database=name)
        writer = pg.as_documented(name)
        writer.query("CREATE TABLE own (a serial)", database=name)
        left = pg.connect(name, autocommit=False)
        left.execute("LOCK TABLE own")
    with pg.fresh_database() as again, closing(left):
        assert again == name
        assert pg.query(look, database=again) == new
        assert pg.query("SELECT datname FROM pg_stat_activity WHERE datname = %s", again) == []
        assert pg.query("SELECT 1 FROM pg_roles WHERE rolname = %s", writer.user) == []
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")


@pytest.mark.parametrize(
    "odd",
    ["CREATE SCHEMA more", "ALTER DATABASE {} SET TimeZone = 'UTC'", "CREATE PUBLICATION p", "SELECT lo_create(0)"],
)
def test_a_database_that_is_no_longer_as_it_was_is_not_used_again(pg: PostgresServer, odd: str) -> None:
    with pg.fresh_database() as name:
        pg.query(odd.format(name), database=name)
    assert pg.query("SELECT 1 FROM pg_database WHERE datname = %s", name) == []


def test_a_reader_may_only_read(pg: PostgresServer, pg_database: str) -> None:
    reader = pg.as_reader(pg_database)
    pg.query("CREATE TABLE t AS SELECT 1 AS a", database=pg_database)
    assert reader.query("SELECT a FROM t", database=pg_database) == [(1,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.query("DELETE FROM t", database=pg_database)


def test_the_documented_user_owns_what_it_creates(pg: PostgresServer, pg_database: str) -> None:
    writer = pg.as_documented(pg_database)
    pg.query("CREATE TABLE theirs (a int)", database=pg_database)
    writer.query("INSERT INTO theirs VALUES (1)", database=pg_database)
    writer.query("CREATE TABLE own (a int)", database=pg_database)
    writer.query("ALTER TABLE own RENAME TO mine", database=pg_database)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.query("ALTER TABLE theirs RENAME TO mine_too", database=pg_database)


def test_the_older_one_speaks_tls(postgres15_server: PostgresServer) -> None:
    assert postgres15_server.folder is not None
    authority = str(postgres15_server.folder / "ca.pem")
    with closing(postgres15_server.connect(sslmode="verify-full", sslrootcert=authority)) as connection:
        assert connection.pgconn.ssl_in_use
