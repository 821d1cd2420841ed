"""The same scans, loads and pipelines on every product and version that can be had."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
import pytest

import retl
from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.source import pages
from retl.connectors.elasticsearch.target.refresh import drop_shadow
from retl.model.actions import PreAction
from retl.model.checkpoint import Checkpoint
from retl.model.errors import LeaseLost, SourceError
from retl.testing import Scans, collect, table_spec
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.integration.elasticsearch.scene import NANOS, Scene, load_of, scan, whole
from tests.servers.search import SearchServer

MAPPINGS = {"properties": {"at": {"type": "date_nanos"}, "day": {"type": "date"}, "n": {"type": "long"}}}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_FIRST_ROWS", 7)
    monkeypatch.setattr(pages.PageSize, "came", lambda self, rows, size: None)


@pytest.fixture
def index(search_server: SearchServer, search_prefix: str) -> str:
    """A hundred documents of three shards, ten to each nanosecond."""
    settings = {"number_of_shards": 3, "number_of_replicas": 0}
    search_server.ask("PUT", f"/{search_prefix}", {"settings": settings, "mappings": MAPPINGS})
    search_server.put(search_prefix, {str(n): _document(n) for n in range(100)})
    return search_prefix


def _document(n: int) -> dict[str, Any]:
    return {"at": f"2024-05-01T12:00:00.{n // 10:09d}Z", "day": f"2024-05-01T12:00:00.{n // 10:03d}Z", "n": n // 10}


def _documents(found: pa.Table) -> list[tuple[str, Any]]:
    ids, sources = found["_id"].to_pylist(), found["_source"].to_pylist()
    return [(key, json.loads(source)) for key, source in zip(ids, sources, strict=True)]


# As a source -------------------------------------------------------------------


async def test_ping(search_server: SearchServer) -> None:
    source = Scans(Elasticsearch(search_server.url).source())
    info = await source.ping()
    assert (info.product, info.version) == (search_server.product, search_server.version)


async def test_a_full_scan(search_server: SearchServer, index: str) -> None:
    table = dataclasses.replace(table_spec(index), documents=True)
    found = _documents(await collect(Elasticsearch(search_server.url), table))
    assert sorted(found) == sorted((str(n), _document(n)) for n in range(100))


@pytest.mark.parametrize("cursor", ["at", "day", "n"])
async def test_a_window_and_the_next_one(search_server: SearchServer, index: str, cursor: str) -> None:
    table = dataclasses.replace(table_spec(index, cursor=cursor), documents=True)
    source = Scans(Elasticsearch(search_server.url).source())
    read = await collect(source.source, table)
    found = _documents(read)
    assert sorted(found) == sorted((str(n), _document(n)) for n in range(100))
    assert [document["n"] for _, document in found] == sorted(n // 10 for n in range(100))
    values = read[cursor].cast(pa.string()).to_pylist()
    assert values == sorted(values)
    plan = await source.plan(table, Checkpoint())
    checkpoint = Checkpoint(cursor=cursor, cursor_type=plan.cursor_type, watermark=values[75])
    again = _documents(await collect(source.source, table, checkpoint))
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


async def test_vectors_come_with_their_documents(elasticsearch9_server: SearchServer) -> None:
    """They are left out of what a search shows, unless it asks for them."""
    server = elasticsearch9_server
    vectors = {"v": {"type": "dense_vector", "dims": 3, "index": False}, "deep.w": {"type": "sparse_vector"}}
    mappings = {"properties": {**vectors, "n": {"type": "long"}}}
    document = {"a": "x", "v": [1.5, 2, 0.1], "deep": {"w": {"one": 0.5}}, "n": 0}
    with server.fresh_names() as name:
        server.ask("PUT", f"/{name}", {"settings": {"number_of_replicas": 0}, "mappings": mappings})
        server.put(name, {str(n): {**document, "n": n} for n in range(10)})
        assert server.ask("GET", f"/{name}/_search?size=1")["hits"]["hits"][0]["_source"].keys() == {"a", "n", "deep"}
        for table in (
            retl.Table(name, to=f"{name}-copy"),
            retl.Table(name, to=f"{name}-part", columns=["n", "v", "deep.*"]),
        ):
            target = Elasticsearch(server.url, state_index=f".{name}-state")
            pipeline = retl.Pipeline(str(table.to), source=Elasticsearch(server.url), target=target, tables=[table])
            report = await pipeline.run_once()
            await pipeline.aclose()
            assert report.ok, report
        assert server.texts(f"{name}-copy") == server.texts(name)
        assert server.documents(name) == {str(n): {**document, "n": n} for n in range(10)}
        part = server.documents(f"{name}-part")
        assert part == {str(n): {"n": n, "v": document["v"], "deep": document["deep"]} for n in range(10)}
        assert server.ask("GET", f"/{name}-copy/_count", {"query": {"exists": {"field": "v"}}})["count"] == 10
        rows = (await collect(Elasticsearch(server.url), table_spec(name))).to_pylist()
        assert {row["_id"]: json.loads(row["v"]) for row in rows} == {str(n): document["v"] for n in range(10)}


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
        with pytest.raises(SourceError, match="'n' of the document 'bad' holds a value that is not a valid long"):
            await collect(Elasticsearch(search_server.url), table_spec(search_prefix, **words))


async def test_tables_are_listed(search_server: SearchServer, index: str) -> None:
    search_server.ask("POST", "/_aliases", {"actions": [{"add": {"index": index, "alias": f"{index}-alias"}}]})
    source = Scans(Elasticsearch(search_server.url).source())
    assert [name for name in await source.list_tables() if index in name] == [index]
    assert await source.describe(f"{index}-alias") is not None
    await source.aclose()


# As a target -------------------------------------------------------------------


@pytest.fixture
def scene(search_server: SearchServer, search_prefix: str) -> Scene:
    return Scene(search_server, search_prefix)


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap"])
async def test_every_way_to_refresh(scene: Scene, pre_action: str) -> None:
    name = f"{scene.prefix}-t"
    for first in (0, 3):
        async with scene.session() as session:
            rows = [(str(n), f"way {n}", {"n": n}) for n in range(first, first + 5)]
            done = await scan(session, load_of(session, whole(name, pre_action=pre_action)), rows)
            assert (done.rows, list(done.rejects)) == (5, [])
    numbers = range(8) if pre_action == "none" else range(3, 8)
    assert scene.server.documents(name) == {str(n): {"n": n} for n in numbers}
    assert len(scene.indices()) == 1


async def test_a_shadow_is_dropped_until_it_is_switched_in_and_never_afterwards(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="swap"))
        writer = await session.prepare(load)
        await writer.abort()
        assert scene.indices() == []
        await scan(session, load, [("1", None, {"n": 1})])
    (shadow,) = scene.indices()
    client = await Client.open(scene.options(), "target")
    # As whoever has not heard that the switch was done.
    await drop_shadow(client, shadow)
    await client.close()
    assert scene.server.documents(name) == {"1": {"n": 1}}


@pytest.mark.parametrize("word", ["flattened", "flat_object"])
async def test_objects_that_are_not_mapped_leaf_by_leaf_are_so_in_every_product(scene: Scene, word: str) -> None:
    name = f"{scene.prefix}-t"
    inner = {"properties": {"f": {"type": word}, "n": {"type": "long"}}}
    index = {"mappings": {"properties": {"f": {"type": word}, "o": inner}}, "settings": {}}
    document = {"f": {"a": {"b": "x"}}, "o": {"f": {"c": "y"}, "n": 1}}
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name), index=index), [("1", None, document)])
    assert scene.server.documents(name) == {"1": document}
    own = {"type": "flat_object" if scene.server.product == "OpenSearch" else "flattened"}
    wanted = {"f": own, "o": {"properties": {"f": own, "n": {"type": "long"}}}}
    assert scene.about(name)["mappings"]["properties"] == wanted
    for term in ({"f.a.b": "x"}, {"o.f.c": "y"}):
        assert scene.ask("GET", f"/{name}/_count", {"query": {"term": term}})["count"] == 1


async def test_truncate_by_query(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session(truncate="delete_by_query") as session:
        for n in range(3):
            await scan(session, load_of(session, whole(name, pre_action="truncate")), [(str(n), None, {"n": n})])
    assert scene.server.documents(name) == {"2": {"n": 2}}


async def test_versions_and_fence(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as old:
        load = load_of(old, whole(name, cursor="at"), cursor=NANOS)
        await scan(old, load, [("1", None, {"v": 1}, 10**18)])
        async with scene.session() as new:
            await scan(new, load_of(new, whole(name, cursor="at"), cursor=NANOS), [("1", None, {"v": 3}, 10**18 + 2)])
            with pytest.raises(LeaseLost):
                await scan(old, load, [("1", None, {"v": 2}, 10**18 + 1)])
    assert scene.server.documents(name) == {"1": {"v": 3}}


@pytest.mark.parametrize("pre_action", ["truncate", "swap"])
async def test_a_pipeline_from_index_to_index(scene: Scene, pre_action: str) -> None:
    source, target = f"{scene.prefix}-source", f"{scene.prefix}-target"
    settings = {"index": {"number_of_shards": 2, "number_of_replicas": 0, "refresh_interval": "9s"}}
    mappings = {"properties": {"n": {"type": "short"}, "who": {"type": "nested"}}}
    scene.ask("PUT", f"/{source}", {"settings": settings, "mappings": mappings})
    documents = {str(n): {"n": n, "who": [{"a.b": "ü"}]} for n in range(500)}
    scene.server.put(source, documents, routing="x")
    pipeline = retl.Pipeline(
        "p",
        source=scene.options(),
        target=scene.options(),
        tables=[retl.Table(source, to=target, pre_action=PreAction(pre_action))],
    )
    for gone in (None, "7"):
        if gone is not None:
            scene.ask("DELETE", f"/{source}/_doc/{gone}?routing=x&refresh=true")
            del documents[gone]
        report = await pipeline.run_once()
        assert report.ok, report
        assert scene.server.texts(target) == scene.server.texts(source)
        assert {hit.routing for hit in scene.server.hits(target)} == {"x"}
    about = scene.about(target)
    assert about["mappings"]["properties"]["n"] == {"type": "short"}
    assert about["mappings"]["properties"]["who"]["type"] == "nested"
    assert (about["settings"]["index"]["number_of_shards"], about["settings"]["index"]["refresh_interval"]) == (
        "2",
        "9s",
    )
    await pipeline.aclose()


async def test_an_incremental_pipeline(scene: Scene) -> None:
    source, target = f"{scene.prefix}-source", f"{scene.prefix}-target"
    scene.ask("PUT", f"/{source}", {"mappings": {"properties": {"at": {"type": "date_nanos"}}}})
    pipeline = retl.Pipeline(
        "p",
        source=scene.options(),
        target=scene.options(),
        tables=[retl.Table(source, to=target, cursor="at", settle="0s")],
    )
    for turn in range(3):
        changed = {
            str(n): {"at": f"2024-05-01T12:00:00.{turn:03d}{n:06d}Z", "turn": turn} for n in range(turn * 50, 200)
        }
        scene.server.put(source, changed)
        report = await pipeline.run_once()
        assert report.ok, report
        assert report.scans[0].watermark is not None
        assert scene.server.texts(target) == scene.server.texts(source)
    assert report.rows <= 101
    await pipeline.aclose()


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap"])
async def test_aliases_of_the_source_are_given(scene: Scene, pre_action: str) -> None:
    name = f"{scene.prefix}-t"
    aliases = {
        f"{name}-view": {"filter": {"term": {"n": 1}}},
        f"{name}-routed": {"index_routing": "a", "search_routing": "a"},
        f"{name}-written": {"is_write_index": True},
        f"{name}-hidden": {"is_hidden": True},
    }
    source = {
        "mappings": {"properties": {"n": {"type": "long"}}},
        "settings": {},
        "aliases": aliases,
        "cluster": "else",
    }
    for turn in range(2):
        async with scene.session(aliases=True) as session:
            load = load_of(session, whole(name, pre_action=pre_action), index=source)
            await scan(session, load, [(str(n), None, {"n": n, "turn": turn}) for n in range(3)])
    found = scene.about(name)["aliases"]
    assert found == {**aliases, **({name: {}} if pre_action == "swap" else {})}
    assert scene.server.documents(f"{name}-view") == {"1": {"n": 1, "turn": 1}}
    assert len(scene.indices()) == 1


@pytest.mark.parametrize("words", [{"pre_action": "swap"}, {"cursor": "at", "settle": "0s"}], ids=["swap", "cursor"])
async def test_a_pipeline_to_another_product_and_back(
    elasticsearch_server: SearchServer, prefix: str, scene: Scene, words: dict[str, Any]
) -> None:
    """An index with an analyzer of its own, sorted, and with types that have other names elsewhere."""
    settings = {
        "index": {"number_of_shards": 2, "number_of_replicas": 0, "sort.field": "at", "sort.order": "desc"},
        "analysis": {"analyzer": {"own": {"tokenizer": "standard", "filter": ["lowercase", "asciifolding"]}}},
    }
    properties = {
        "at": {"type": "date_nanos"},
        "name": {"type": "text", "analyzer": "own", "fields": {"raw": {"type": "keyword", "ignore_above": 256}}},
        "attributes": {"type": "flattened"},
        "lines": {"type": "nested", "properties": {"price": {"type": "half_float"}}},
    }
    home = Scene(elasticsearch_server, prefix)
    home.ask("PUT", f"/{prefix}-a", {"settings": settings, "mappings": {"properties": properties}})
    documents = {
        str(n): {
            "at": f"2024-05-01T12:00:00.{n:09d}Z",
            "name": "Größe",
            "attributes": {"a": {"b": str(n)}},
            "lines": [{"price": n}],
        }
        for n in range(300)
    }
    home.server.put(f"{prefix}-a", documents, routing="x")
    there = f"{scene.prefix}-b"
    ways = [(home, f"{prefix}-a", scene, there), (scene, there, home, f"{prefix}-c")]
    for source, name, target, to in ways:
        table = retl.Table(name, to=to, **words)
        async with retl.Pipeline("p", source=source.options(), target=target.options(), tables=[table]) as pipeline:
            report = await pipeline.run_once()
        assert report.ok, report
        assert target.server.texts(to) == home.server.texts(f"{prefix}-a")
        assert {hit.routing for hit in target.server.hits(to)} == {"x"}
        for query, count in (
            ({"match": {"name": "grosse"}}, 300),
            ({"term": {"attributes.a.b": "7"}}, 1),
            ({"term": {"name.raw": "Größe"}}, 300),
        ):
            assert target.ask("GET", f"/{to}/_count", {"query": query})["count"] == count
    before, after = (home.about(f"{prefix}-{end}") for end in "ac")
    assert after["mappings"]["properties"] == before["mappings"]["properties"]
    for word in ("analysis", "sort", "number_of_shards"):
        assert after["settings"]["index"][word] == before["settings"]["index"][word]
