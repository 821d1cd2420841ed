"""What tests rely on: a PostgreSQL that keeps what it has committed, and users with few rights."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from tests.servers.postgres import PostgresServer, any_server

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("version", [15, 18])
def test_a_killed_server_keeps_what_it_has_committed(version: int) -> None:
    with any_server(version) as server, server.fresh_database() as name:  # type: ignore[arg-type]
        server.query("CREATE TABLE t AS SELECT 1 AS a", database=name)
        server.kill()
        server.start()
        assert server.query("SELECT a FROM t", database=name) == [(1,)]
        assert server.version // 10_000 == version


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
