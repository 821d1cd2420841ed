"""The same scans against every product and version that can be had."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch import pages
from retl.model.checkpoint import Checkpoint
from retl.model.errors import SourceError
from retl.testing import collect, table_spec
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.servers.search import SearchServer

NANOS = {"properties": {"at": {"type": "date_nanos"}, "day": {"type": "date"}, "n": {"type": "long"}}}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_FIRST_ROWS", 7)
    monkeypatch.setattr(pages.PageSize, "came", lambda self, rows, size: None)


@pytest.fixture
def index(search_server: SearchServer, search_prefix: str) -> str:
    """A hundred documents of three shards, ten to each nanosecond."""
    settings = {"number_of_shards": 3, "number_of_replicas": 0}
    search_server.ask("PUT", f"/{search_prefix}", {"settings": settings, "mappings": NANOS})
    search_server.put(search_prefix, {str(n): _document(n) for n in range(100)})
    return search_prefix


def _document(n: int) -> dict[str, Any]:
    return {"at": f"2024-05-01T12:00:00.{n // 10:09d}Z", "day": f"2024-05-01T12:00:00.{n // 10:03d}Z", "n": n // 10}


def _documents(found: pa.Table) -> list[tuple[str, Any]]:
    ids, sources = found["_id"].to_pylist(), found["_source"].to_pylist()
    return [(key, json.loads(source)) for key, source in zip(ids, sources, strict=True)]


async def test_ping(search_server: SearchServer) -> None:
    source = Elasticsearch(search_server.url).source()
    info = await source.ping()
    assert (info.product, info.version) == (search_server.product, search_server.version)


async def test_a_full_scan(search_server: SearchServer, index: str) -> None:
    table = dataclasses.replace(table_spec(index), documents=True)
    found = _documents(await collect(Elasticsearch(search_server.url), table))
    assert sorted(found) == sorted((str(n), _document(n)) for n in range(100))


@pytest.mark.parametrize("cursor", ["at", "day", "n"])
async def test_a_window_and_the_next_one(search_server: SearchServer, index: str, cursor: str) -> None:
    table = dataclasses.replace(table_spec(index, cursor=cursor), documents=True)
    source = Elasticsearch(search_server.url).source()
    read = await collect(source, table)
    found = _documents(read)
    assert sorted(found) == sorted((str(n), _document(n)) for n in range(100))
    assert [document["n"] for _, document in found] == sorted(n // 10 for n in range(100))
    values = read[cursor].cast(pa.string()).to_pylist()
    assert values == sorted(values)
    plan = await source.plan(table, Checkpoint())
    checkpoint = Checkpoint(cursor=cursor, cursor_type=plan.cursor_type, watermark=values[75])
    again = _documents(await collect(source, table, checkpoint))
    assert sorted(again) == sorted((str(n), _document(n)) for n in range(70, 100))
    await source.aclose()


async def test_a_window_after_a_lost_point_in_time(search_server: SearchServer, index: str) -> None:
    table = dataclasses.replace(table_spec(index, cursor="at"), documents=True)
    async with between(search_server) as way:

        async def lose(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
            if asked.is_page and len(way.pages) == 6:
                pit = asked.json["pit"]["id"]
                opensearch = search_server.product == "OpenSearch"
                path = "/_search/point_in_time" if opensearch else "/_pit"
                await search_server.run("DELETE", path, {"pit_id": [pit]} if opensearch else {"id": pit})
            return await forward()

        way.hook = lose
        found = _documents(await collect(Elasticsearch(way.url), table))
        assert len([asked for asked in way.pages if "search_after" not in asked.json]) == 2
    assert sorted(found) == sorted((str(n), _document(n)) for n in range(100))


async def test_columns(search_server: SearchServer, index: str) -> None:
    found = await collect(Elasticsearch(search_server.url), table_spec(index, cursor="at"))
    rows = found.select(["_id", "n"]).to_pylist()
    assert sorted((row["_id"], row["n"]) for row in rows) == sorted((str(n), n // 10) for n in range(100))
    times = found["at"].cast(pa.string()).to_pylist()
    assert times == [f"2024-05-01 12:00:00.{n // 10:09d}Z" for n in range(100)]


async def test_text_that_is_too_long_for_its_index_is_not_lost(search_server: SearchServer, search_prefix: str) -> None:
    short = {"type": "keyword", "ignore_above": 3}
    mappings = {"properties": {"k": short, "tags": short, "deep": {"properties": {"k": short}}}}
    search_server.ask("PUT", f"/{search_prefix}", {"settings": {"number_of_replicas": 0}, "mappings": mappings})
    rows = {
        "long": {"k": "longer", "tags": ["a", "longer"], "deep": {"k": "longer"}},
        "short": {"k": "a", "tags": "a", "deep.k": ["a"]},
        "none": {"k": None, "tags": None},
    }
    search_server.put(search_prefix, rows)
    table = table_spec(search_prefix, format={"arrays": ["tags"]})
    found = {row["_id"]: row for row in (await collect(Elasticsearch(search_server.url), table)).to_pylist()}
    assert {key: (row["k"], row["deep.k"]) for key, row in found.items()} == {
        "long": ("longer", "longer"),
        "short": ("a", "a"),
        "none": (None, None),
    }
    tags = {key: row["tags"] and json.loads(row["tags"]) for key, row in found.items()}
    assert tags == {"long": ["a", "longer"], "short": ["a"], "none": None}


async def test_a_value_that_is_malformed_is_an_error(search_server: SearchServer, search_prefix: str) -> None:
    mappings = {"properties": {"n": {"type": "long", "ignore_malformed": True}}}
    search_server.ask("PUT", f"/{search_prefix}", {"settings": {"number_of_replicas": 0}, "mappings": mappings})
    search_server.put(search_prefix, {"good": {"n": 1}, "bad": {"n": "one"}})
    for words in ({}, {"format": {"arrays": ["n"]}}):
        with pytest.raises(SourceError, match="'n' of the document 'bad' holds what is no long"):
            await collect(Elasticsearch(search_server.url), table_spec(search_prefix, **words))


async def test_tables_are_listed(search_server: SearchServer, index: str) -> None:
    search_server.ask("POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": f"{index}-alias"}}]})
    source = Elasticsearch(search_server.url).source()
    assert [name for name in await source.list_tables() if index in name] == [index, f"{index}-alias"]
    await source.aclose()
