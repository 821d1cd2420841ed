"""Servers as fixtures, for all tests: each is started once, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import elasticsearch, mariadb, mysql
from tests.servers.database import Server
from tests.servers.search import SearchServer

SERVERS = ("mysql", "mariadb")
SEARCH_SERVERS = ("elasticsearch",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs one of these servers."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        asked = set(getattr(item, "fixturenames", ()))
        named = {f"{name}_server" for name in (*SERVERS, *SEARCH_SERVERS)}
        if params.get("server") in SERVERS or not asked.isdisjoint(named):
            item.add_marker("integration")


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
def elasticsearch_server() -> Iterator[SearchServer]:
    """An Elasticsearch 8 for all tests; one that kills it starts it again."""
    with elasticsearch.any_server() as server:
        yield server


@pytest.fixture
def prefix(elasticsearch_server: SearchServer) -> Iterator[str]:
    """What the names of the test's own indices, aliases and templates begin with."""
    with elasticsearch_server.fresh_names() as name:
        yield name
