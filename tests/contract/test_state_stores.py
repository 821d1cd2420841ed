"""Every state store, held to its contract: in memory, in a file, and inside each kind of target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import retl
from retl.connectors import DuckDB, Elasticsearch, MySQL, PostgreSQL, SQLite
from retl.connectors.base import Connector
from retl.state.base import StateStore
from retl.state.memory import MemoryStore
from retl.state.sqlite import SqliteStore
from retl.testing import StateStoreContract
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer
from tests.servers.search import SearchServer


class TestMemoryStore(StateStoreContract):
    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self.shared = MemoryStore()

    def new_store(self) -> StateStore:
        return self.shared

    def keep_reports(self, monkeypatch: pytest.MonkeyPatch, most: int) -> bool:
        monkeypatch.setattr("retl.state.memory.KEPT_REPORTS", most)
        return True


class SqlStore(StateStoreContract):
    def keep_reports(self, monkeypatch: pytest.MonkeyPatch, most: int) -> bool:
        monkeypatch.setattr("retl.state.records.KEPT_REPORTS", most)
        return True


class TestSqliteStore(SqlStore):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "state.db"

    def new_store(self) -> StateStore:
        return SqliteStore(self.path)


def store_inside(connector: Connector) -> StateStore:
    store = connector.target().state_store()
    assert store is not None
    return store


class TestStoreInSQLite(SqlStore):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "target.db"

    def new_store(self) -> StateStore:
        return store_inside(SQLite(str(self.path)))


class TestStoreInDuckDB(SqlStore):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "target.duckdb"

    def new_store(self) -> StateStore:
        return store_inside(DuckDB(str(self.path)))


class TestStoreInMySQL(SqlStore):
    @pytest.fixture(autouse=True)
    def _database(self, server: Server, database: str) -> None:
        self.url = server.as_documented(database).url(database)

    def new_store(self) -> StateStore:
        return store_inside(MySQL(self.url))

    def keep_reports(self, monkeypatch: pytest.MonkeyPatch, most: int) -> bool:
        monkeypatch.setattr("retl.connectors.mysql.store._PRUNED_EVERY", 1)  # not only now and then
        return super().keep_reports(monkeypatch, most)


class TestStoreInPostgreSQL(SqlStore):
    @pytest.fixture(autouse=True)
    def _database(self, pg: PostgresServer, pg_database: str) -> None:
        self.url = pg.as_documented(pg_database).url(pg_database)

    def new_store(self) -> StateStore:
        return store_inside(PostgreSQL(self.url))


class TestStoreInElasticsearch(StateStoreContract):
    atomic: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _index(self, elasticsearch_server: SearchServer) -> Iterator[None]:
        with elasticsearch_server.fresh_names() as prefix:
            self.connector = Elasticsearch(elasticsearch_server.url, state_index=f".{prefix}")
            yield

    def new_store(self) -> StateStore:
        return store_inside(self.connector)

    def keep_reports(self, monkeypatch: pytest.MonkeyPatch, most: int) -> bool:
        monkeypatch.setattr("retl.connectors.elasticsearch.state.store.KEPT_REPORTS", most)
        monkeypatch.setattr("retl.connectors.elasticsearch.state.store._PRUNED_EVERY", 1)  # not only now and then
        return True


def test_a_thousand_reports_of_a_table_are_kept() -> None:
    assert retl.state.base.KEPT_REPORTS == 1_000
