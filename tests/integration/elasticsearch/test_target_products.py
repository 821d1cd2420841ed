"""The same target on every product and version that can be had, and whole pipelines."""

from __future__ import annotations

import pytest

import retl
from retl.model.actions import PreAction
from retl.model.errors import LeaseLost
from tests.integration.elasticsearch.scene import NANOS, Scene, load_of, scan, whole
from tests.servers.search import SearchServer


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
