"""Indices that cannot be read as they are, and what of an index is read: told at once, and by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import retl
from retl.connectors import Elasticsearch
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed
from retl.testing import Scans, collect, table_spec
from tests.integration.elasticsearch.between import between
from tests.integration.elasticsearch.test_source import by_id, create, documents
from tests.servers.search import SearchServer


@pytest.fixture(params=["elasticsearch_server", "opensearch_server"])
def server(request: pytest.FixtureRequest) -> SearchServer:
    found: SearchServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prefix(server: SearchServer) -> Iterator[str]:
    with server.fresh_names() as name:
        yield name


# Red and closed ----------------------------------------------------------------------


async def test_a_red_index_is_told_at_once_with_its_reason(server: SearchServer, prefix: str) -> None:
    nowhere = {"index.routing.allocation.require._name": "nowhere", "number_of_replicas": 0, "number_of_shards": 2}
    server.ask("PUT", f"/{prefix}-red?wait_for_active_shards=0", {"settings": nowhere})
    create(server, f"{prefix}-green", shards=1)
    async with between(server) as way:
        source = Scans(Elasticsearch(way.url).source())
        with anyio.fail_after(10):
            for name in (f"{prefix}-red", f"{prefix}-*"):
                with pytest.raises(ConnectionFailed) as error:
                    await source.plan(documents(name), Checkpoint())
                assert (
                    f"cannot give all of '{prefix}-red': the primary of shard 0 of {prefix}-red is unassigned (INDEX_CREATED)"
                    in (str(error.value))
                )
            await source.plan(documents(f"{prefix}-green"), Checkpoint())
        await source.aclose()
        assert [asked.path for asked in way.asked if "_refresh" in asked.path] == [f"/{prefix}-green/_refresh"]


async def test_a_closed_index_is_named(server: SearchServer, prefix: str) -> None:
    for name in ("open", "closed"):
        create(server, f"{prefix}-{name}", shards=1)
        server.put(f"{prefix}-{name}", {name: {"n": 1}})
    server.ask("POST", "/_aliases", {"actions": [{"add": {"index": f"{prefix}-*", "alias": f"{prefix}all"}}]})
    server.ask("POST", f"/{prefix}-closed/_close")
    source = Scans(Elasticsearch(server.url).source())
    for name in (f"{prefix}-closed", f"{prefix}-open,{prefix}-closed", f"{prefix}all"):
        for table in (documents(name), table_spec(name)):
            with pytest.raises(ConfigError, match=f"'{prefix}-closed' .*is closed") as error:
                await source.plan(table, Checkpoint())
            assert f"POST /{prefix}-closed/_open" in str(error.value)
    plan = await source.plan(documents(f"{prefix}-*"), Checkpoint())
    assert plan.warnings == (f"closed indices are not read: {prefix}-closed.",)
    assert list(by_id(await collect(source.source, documents(f"{prefix}-*")))) == ["open"]
    await source.aclose()


# What is read --------------------------------------------------------------------------

FIELDS = {
    "n": {"type": "long"},
    "vector": {"type": "keyword"},
    "user": {"properties": {"name": {"type": "keyword"}, "age": {"type": "long"}}},
    "a.b": {"type": "long"},
    "same": {"type": "alias", "path": "vector"},
}
DOCUMENT = {"n": 1, "vector": "v", "user": {"name": "ann", "age": 7}, "a": {"b": 2}}


@pytest.mark.parametrize(
    ("exclude", "left", "columns"),
    [
        (
            ["vector"],
            {"n": 1, "user": {"name": "ann", "age": 7}, "a": {"b": 2}},
            ["_id", "a.b", "n", "user.age", "user.name"],
        ),
        (["user.age", "vector"], {"n": 1, "user": {"name": "ann"}, "a": {"b": 2}}, ["_id", "a.b", "n", "user.name"]),
        (["user", "a.b"], {"n": 1, "vector": "v"}, ["_id", "n", "vector"]),
        (["user.*", "a"], {"n": 1, "vector": "v"}, ["_id", "n", "vector"]),
    ],
)
async def test_exclude_leaves_fields_out(
    server: SearchServer, prefix: str, exclude: list[str], left: dict[str, Any], columns: list[str]
) -> None:
    index = create(server, prefix, {"dynamic": "strict", "properties": FIELDS})
    server.put(index, {"1": DOCUMENT})
    source = Scans(Elasticsearch(server.url).source())
    assert sorted((await source.plan(table_spec(index, exclude=exclude), Checkpoint())).schema.names) == columns
    (row,) = (await collect(source.source, table_spec(index, exclude=exclude))).to_pylist()
    assert sorted(row) == columns
    found = by_id(await collect(source.source, documents(index, exclude=exclude)))
    assert {name: part for name, part in json.loads(found["1"]).items() if part not in ({}, None)} == left
    await source.aclose()
    async with retl.Pipeline(
        "copy",
        source=Elasticsearch(server.url),
        target=Elasticsearch(server.url, state_index=f".{prefix}-state"),
        tables=[retl.Table(index, to=f"{prefix}-copy", exclude=exclude)],
    ) as pipeline:
        await pipeline.run_once()
    (about,) = server.ask("GET", f"/{prefix}-copy").values()
    copied = about["mappings"]["properties"]
    assert "vector" not in copied or "vector" not in exclude
    assert ("same" in copied) == ("vector" in copied)
    assert set(copied.get("user", {}).get("properties", ())) == set(left.get("user", ()))
    (hit,) = server.hits(f"{prefix}-copy")
    assert bytes(hit.source) == found["1"]


async def test_a_field_that_is_to_be_left_out_must_be_there(server: SearchServer, prefix: str) -> None:
    index = create(server, prefix, {"dynamic": "strict", "properties": FIELDS})
    source = Scans(Elasticsearch(server.url).source())
    for table in (documents(index, exclude=["vectr"]), table_spec(index, exclude=["vectr"])):
        with pytest.raises(ConfigError, match=r"exclude names 'vectr'.*did you mean 'vector'"):
            await source.plan(table, Checkpoint())
    await source.aclose()


async def test_a_field_on_which_indices_disagree_can_be_left_out(server: SearchServer, prefix: str) -> None:
    for number, kind in enumerate(("long", "keyword")):
        create(server, f"{prefix}-{number}", {"properties": {"x": {"type": kind}, "n": {"type": "long"}}}, shards=1)
        server.put(f"{prefix}-{number}", {str(number): {"x": 1, "n": number}})
    found = await collect(Elasticsearch(server.url), table_spec(f"{prefix}-*", exclude=["x"]))
    assert sorted(found.to_pylist(), key=str) == [{"_id": "0", "n": 0}, {"_id": "1", "n": 1}]


# What is offered -------------------------------------------------------------------------


async def test_each_document_is_offered_once(server: SearchServer, prefix: str) -> None:
    create(server, f"{prefix}-orders", shards=1)
    server.put(f"{prefix}-orders", {"1": {"n": 1}})
    create(server, f"{prefix}-hidden", shards=1, hidden=True)
    few = {"add": {"index": f"{prefix}-orders", "alias": f"{prefix}-few", "filter": {"term": {"n": 1}}}}
    both = {"add": {"index": f"{prefix}-orders", "alias": f"{prefix}-view"}}
    behind = {"add": {"index": f"{prefix}-hidden", "alias": f"{prefix}-shown"}}
    server.ask("POST", "/_aliases", {"actions": [few, both, behind]})
    target = Elasticsearch(server.url, state_index=f".{prefix}-state", keep_replaced=True)
    for _ in range(2):
        async with retl.Pipeline(
            "copy",
            source=Elasticsearch(server.url),
            target=target,
            tables=[retl.Table(f"{prefix}-orders", to=f"{prefix}-copy", pre_action=retl.PreAction.SWAP)],
        ) as pipeline:
            await pipeline.run_once()
    assert len(server.ask("GET", f"/retl-{prefix}-copy-*")) == 2
    source = Scans(Elasticsearch(server.url).source())
    listed = [name for name in await source.list_tables() if prefix in name]
    assert listed == [f"{prefix}-copy", f"{prefix}-orders", f"{prefix}-shown"]
    # Who asks for an alias by its name gets it, and is told of it where he misspells it.
    assert list(by_id(await collect(source.source, documents(f"{prefix}-few")))) == ["1"]
    with pytest.raises(ConfigError, match=f"did you mean '{prefix}-view'"):
        await source.plan(documents(f"{prefix}-vieww"), Checkpoint())
    await source.aclose()
