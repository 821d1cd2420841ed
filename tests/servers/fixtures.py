"""Servers as fixtures, for all tests: each is started once, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_redshift import Cluster
from tests.servers import elasticsearch, mariadb, mysql, opensearch, postgres, redshift, s3, sshd
from tests.servers.cache import DOWNLOAD_SECONDS
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.servers.search import SearchServer

SERVERS = ("mysql", "mariadb")
POSTGRES = ("postgres15", "postgres")
SEARCH_SERVERS = ("elasticsearch", "elasticsearch9", "opensearch", "opensearch2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs one of these servers."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        asked = {*getattr(item, "fixturenames", ()), *(f"{system}_server" for system in params.get("route", ()))}
        search = not asked.isdisjoint(f"{name}_server" for name in (*SEARCH_SERVERS, "search", "secured"))
        sql = not asked.isdisjoint(
            ["pg", *(f"{name}_server" for name in (*SERVERS, *POSTGRES, "redshift", "s3", "ssh"))]
        )
        if params.get("server") in SERVERS or sql or search:
            item.add_marker("integration")
        if search:
            # The first of them may have to download a gigabyte, and starts the server.
            item.add_marker(pytest.mark.timeout(DOWNLOAD_SECONDS + 300))


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server]:
    """A MySQL 9 for all tests; one that kills it starts it again."""
    with mysql.any_server() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A MariaDB 10.11 for all tests; one that kills it starts it again."""
    with mariadb.any_server() as server:
        yield server


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """The test runs twice: against MySQL and against MariaDB."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The name of a database on ``server`` that is the test's own."""
    with server.fresh_database() as name:
        yield name


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server for all tests, each of which makes buckets of its own."""
    with s3.started() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL 18 with pgvector for all tests; one that kills it starts it again."""
    with postgres.any_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres15_server() -> Iterator[PostgresServer]:
    """A PostgreSQL 15 with TLS for all tests; one that kills it starts it again."""
    with postgres.any_server(15) as server:
        yield server


@pytest.fixture(scope="session", params=POSTGRES)
def pg(request: pytest.FixtureRequest) -> PostgresServer:
    """The test runs twice: against PostgreSQL 15 and 18."""
    found: PostgresServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def pg_database(pg: PostgresServer) -> Iterator[str]:
    """The name of a database on ``pg`` that is the test's own."""
    with pg.fresh_database() as name:
        yield name


@pytest.fixture(scope="session")
def elasticsearch_server() -> Iterator[SearchServer]:
    """An Elasticsearch 8 for all tests; one that kills it starts it again."""
    with elasticsearch.any_server() as server:
        yield server


@pytest.fixture(scope="session")
def elasticsearch9_server() -> Iterator[SearchServer]:
    """An Elasticsearch 9, where there is a JDK of 21 or newer."""
    with elasticsearch.any_server(9) as server:
        yield server


@pytest.fixture(scope="session")
def secured_server() -> Iterator[SearchServer]:
    """An Elasticsearch 8 that insists on https and on logins: another cluster than that of the other tests."""
    with elasticsearch.started(secured=True) as server:
        yield server


@pytest.fixture(scope="session")
def opensearch_server() -> Iterator[SearchServer]:
    """An OpenSearch 3, where there is a JDK of 21 or newer."""
    with opensearch.any_server() as server:
        yield server


@pytest.fixture(scope="session")
def opensearch2_server() -> Iterator[SearchServer]:
    """An OpenSearch 2."""
    with opensearch.any_server(2) as server:
        yield server


@pytest.fixture(scope="session", params=SEARCH_SERVERS)
def search_server(request: pytest.FixtureRequest) -> SearchServer:
    """The test runs four times: against Elasticsearch 8 and 9 and OpenSearch 3 and 2."""
    found: SearchServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def prefix(elasticsearch_server: SearchServer) -> Iterator[str]:
    """What the names of the test's own indices, aliases and templates on ``elasticsearch_server`` begin with."""
    with elasticsearch_server.fresh_names() as name:
        yield name


@pytest.fixture
def search_prefix(search_server: SearchServer) -> Iterator[str]:
    """What the names of the test's own indices, aliases and templates on ``search_server`` begin with."""
    with search_server.fresh_names() as name:
        yield name


@pytest.fixture(scope="session")
def redshift_server() -> Iterator[Cluster]:
    """A Redshift for all tests: the stand-in, or a cluster that a variable names."""
    with redshift.any_server() as server:
        yield server


@pytest.fixture(scope="session")
def ssh_server() -> Iterator[sshd.SSHServer]:
    """An OpenSSH server for all tests, which reads what its user may read."""
    with sshd.started() as server:
        yield server
