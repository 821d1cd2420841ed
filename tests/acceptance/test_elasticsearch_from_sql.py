"""Tables of real SQL databases become indices: their mapping, their documents, and what follows later changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import retl
from retl.connectors import DuckDB, Elasticsearch, MySQL, SQLite
from retl.model.actions import PreAction
from retl.model.errors import RowsRejected
from tests.integration.elasticsearch.scene import Scene
from tests.integration.mysql.targets import Scene as Tables
from tests.servers.database import Server
from tests.servers.search import SearchServer
from tests.support import Database, Warehouse


@pytest.fixture
def scene(elasticsearch_server: SearchServer, prefix: str) -> Scene:
    return Scene(elasticsearch_server, prefix)


@pytest.fixture
def mysql(mysql_server: Server) -> Iterator[Tables]:
    with mysql_server.fresh_database() as name:
        yield Tables(mysql_server, name)


@dataclass
class Shop:
    """A database: how statements are run in it, how it is read, and its type of a time with microseconds."""

    run: Callable[..., Any]
    source: Callable[[], MySQL | SQLite | DuckDB]
    time: str

    async def do(self, *statements: str) -> None:
        await anyio.to_thread.run_sync(self.run, *statements)


@pytest.fixture(params=["mysql", "sqlite", "duckdb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    if request.param == "mysql":
        tables: Tables = request.getfixturevalue("mysql")
        return Shop(tables.run, tables.options, "DATETIME(6)")
    if request.param == "sqlite":
        path = tmp_path / "shop.db"
        return Shop(Database(path).run, lambda: SQLite(str(path)), "TIMESTAMP")
    path = tmp_path / "shop.duckdb"
    return Shop(Warehouse(path).run, lambda: DuckDB(str(path)), "TIMESTAMP")


def pipeline(source: MySQL | SQLite | DuckDB, target: Elasticsearch, to: str, **words: Any) -> retl.Pipeline:
    return retl.Pipeline("p", source=source, target=target, tables=[retl.Table("orders", to=to, **words)])


async def documents(scene: Scene, name: str) -> dict[str, Any]:
    """Documents with their numbers as text, to the last digit."""
    texts = await anyio.to_thread.run_sync(scene.server.texts, name)
    return {key: json.loads(text, parse_float=str) for key, text in texts.items()}


def mapped(scene: Scene, name: str) -> dict[str, str]:
    """The type of each field of an index."""
    properties = scene.about(name)["mappings"]["properties"]
    return {field: spec.get("type", "object") for field, spec in properties.items()}


# Every type -----------------------------------------------------------------------

EVERY_TYPE = """CREATE TABLE orders (
    region VARCHAR(10), id BIGINT, tiny TINYINT, small SMALLINT, name TEXT, total DECIMAL(30, 10), price DOUBLE, day DATE,
    at DATETIME(6), stamp TIMESTAMP(6) NULL, seen DATETIME, clock TIME(3), doc JSON, raw VARBINARY(10), kind ENUM('a', 'b'),
    PRIMARY KEY (region, id))"""
FULL = r"""INSERT INTO orders VALUES ('e"u', 9007199254740993, -128, 32767, 'Zoë 🙂 "\\" \n', 12345678901234567890.0123456789,
    0.1, '1000-01-01', '1969-12-31 23:59:59.999999', '2024-05-01 12:00:00.000001', '9999-12-31 23:59:59', '-12:34:56.789',
    '{"a": [{"b.c": null}, {"b.c": 1.5}], "d": {}}', X'00FF', 'b')"""
EMPTY = "INSERT INTO orders (region, id) VALUES ('us', 8)"
FULL_DOCUMENT = {
    "region": 'e"u',
    "id": 9007199254740993,
    "tiny": -128,
    "small": 32767,
    "name": 'Zoë 🙂 "\\" \n',
    "total": "12345678901234567890.0123456789",
    "price": "0.1",
    "day": "1000-01-01",
    "at": "1969-12-31T23:59:59.999999",
    "stamp": "2024-05-01T12:00:00.000001Z",
    "seen": "9999-12-31T23:59:59",
    "clock": "-12:34:56.789",
    "doc": {"a": [{"b.c": None}, {"b.c": "1.5"}], "d": {}},
    "raw": "AP8=",
    "kind": "b",
}
EMPTY_DOCUMENT = {**dict.fromkeys(FULL_DOCUMENT), "region": "us", "id": 8}
KEYS = {'["e\\"u","9007199254740993"]': FULL_DOCUMENT, '["us","8"]': EMPTY_DOCUMENT}
TYPES = {
    "region": "keyword",
    "id": "long",
    "tiny": "byte",
    "small": "short",
    "name": "text",
    "total": "double",
    "price": "double",
    "day": "date",
    "at": "date",
    "stamp": "date",
    "seen": "date",
    "clock": "keyword",
    "raw": "binary",
    "kind": "text",
}


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap"])
async def test_a_mysql_table_of_every_type(scene: Scene, mysql: Tables, pre_action: str) -> None:
    name = f"{scene.prefix}-orders"
    await anyio.to_thread.run_sync(mysql.run, EVERY_TYPE, "SET time_zone = '+00:00'", FULL, EMPTY)
    job = pipeline(mysql.options(), scene.options(times="date"), name, pre_action=PreAction(pre_action))
    for _ in range(2):
        report = await job.run_once()
        assert report.ok, report
        assert await documents(scene, name) == KEYS
    found = mapped(scene, name)
    assert found.pop("doc") == "object"
    assert found == TYPES
    # Times before 1970 are found as all others are.
    query = {"query": {"range": {"at": {"lt": "1970-01-01"}}}}
    assert scene.ask("POST", f"/{name}/_count", query)["count"] == 1
    await job.aclose()


async def test_times_before_1970_are_refused_by_date_nanos_with_what_to_do(scene: Scene, mysql: Tables) -> None:
    name = f"{scene.prefix}-orders"
    await anyio.to_thread.run_sync(mysql.run, EVERY_TYPE, "SET time_zone = '+00:00'", FULL, EMPTY)
    job = pipeline(mysql.options(), scene.options(), name)
    with pytest.raises(RowsRejected, match='let retl create the index anew with times = "date"') as refused:
        await job.run_once()
    assert "1969-12-31T23:59:59.999999" in str(refused.value)
    await job.aclose()
    assert mapped(scene, name)["at"] == "date_nanos"
    # What the message says.
    await scene.server.run("DELETE", f"/{name}")
    job = pipeline(mysql.options(), scene.options(times="date"), name)
    assert (await job.run_once()).ok
    assert await documents(scene, name) == KEYS
    await job.aclose()


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap"])
async def test_an_index_that_maps_times_as_date_keeps_doing_so(scene: Scene, mysql: Tables, pre_action: str) -> None:
    name = f"{scene.prefix}-orders"
    scene.ask("PUT", f"/{name}", {"mappings": {"properties": {key: {"type": "date"} for key in ("at", "seen")}}})
    await anyio.to_thread.run_sync(mysql.run, EVERY_TYPE, "SET time_zone = '+00:00'", FULL, EMPTY)
    job = pipeline(mysql.options(), scene.options(), name, pre_action=PreAction(pre_action))
    report = await job.run_once()
    assert report.ok, report
    assert await documents(scene, name) == KEYS
    assert (mapped(scene, name)["at"], mapped(scene, name)["stamp"]) == ("date", "date_nanos")
    await job.aclose()


# The life of a table ----------------------------------------------------------------

OLD = {
    '["eu","1"]': {
        "region": "eu",
        "id": 1,
        "total": "0.5",
        "doc": {"n": [{"m": None}, {"m": "1.5"}]},
        "day": "1969-07-20",
        "changed": "1969-07-20T20:17:40.123456",
    },
    '["eu","2"]': {
        "region": "eu",
        "id": 2,
        "total": None,
        "doc": None,
        "day": None,
        "changed": "1969-07-20T20:17:40.123457",
    },
    '["us","1"]': {
        "region": "us",
        "id": 1,
        "total": "2.5",
        "doc": {},
        "day": "2024-02-29",
        "changed": "2024-02-29T00:00:00.000000",
    },
}
LATER = {
    '["us","1"]': {**OLD['["us","1"]'], "doc": {"n": []}, "changed": "2024-02-29T00:00:00.000001", "note": None},
    '["us","2"]': {
        "region": "us",
        "id": 2,
        "total": "7.5",
        "doc": {"n": [{"k": True}]},
        "day": "2024-03-01",
        "changed": "2024-03-01T00:00:00.000000",
        "note": "now known",
    },
}


def literal(value: Any) -> str:
    if isinstance(value, bool | dict | list):
        return f"'{json.dumps(value)}'"
    return "NULL" if value is None else f"'{value}'".replace("T", " ", 1)


def insert(document: dict[str, Any]) -> str:
    return f"INSERT INTO orders ({', '.join(document)}) VALUES ({', '.join(map(literal, document.values()))})"


@pytest.mark.parametrize("mode", ["incremental", "swap", "truncate"])
async def test_rows_change_and_columns_are_added(scene: Scene, shop: Shop, mode: str) -> None:
    name = f"{scene.prefix}-orders"
    await shop.do(
        "CREATE TABLE orders (region VARCHAR(10) NOT NULL, id INTEGER NOT NULL, total DECIMAL(10, 1), doc JSON, day DATE, "
        f"changed {shop.time}, PRIMARY KEY (region, id))",
        *map(insert, OLD.values()),
    )
    words = {"cursor": "changed"} if mode == "incremental" else {"pre_action": PreAction(mode)}
    job = pipeline(shop.source(), scene.options(times="date"), name, **words)
    for _ in range(2):
        report = await job.run_once()
        assert report.ok, report
        assert await documents(scene, name) == OLD
    await shop.do(
        "ALTER TABLE orders ADD COLUMN note VARCHAR(20)",
        "DELETE FROM orders WHERE region = 'us' OR id = 1",
        *map(insert, LATER.values()),
    )
    for _ in range(2):
        report = await job.run_once()
        assert report.ok, report
        kept = OLD if mode == "incremental" else {'["eu","2"]': {**OLD['["eu","2"]'], "note": None}}
        assert await documents(scene, name) == {**kept, **LATER}
    found = mapped(scene, name)
    assert (found["region"], found["day"], found["changed"], found["note"]) == ("keyword", "date", "date", "text")
    await job.aclose()
