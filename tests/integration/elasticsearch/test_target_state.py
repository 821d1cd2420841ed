"""What the target tells of its indices, and pipelines whose index was lost or replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import retl
from retl.connectors import Elasticsearch
from retl.connectors.base import TargetTable
from tests.integration.elasticsearch.scene import Scene, whole
from tests.integration.elasticsearch.scene import load_of as load_whole
from tests.servers.search import SearchServer

DATES = {"mappings": {"properties": {"at": {"type": "date"}, "n": {"type": "long"}}}}


@pytest.fixture
def scene(elasticsearch_server: SearchServer, prefix: str) -> Scene:
    return Scene(elasticsearch_server, prefix)


Run = Callable[..., Any]


@pytest.fixture
def run(scene: Scene) -> Run:
    """One run of a pipeline from the index ``PREFIX-in`` to ``PREFIX-t``."""

    async def once(**words: Any) -> retl.ScanReport:
        name = words.pop("name", f"{scene.prefix}-in")
        pipeline = words.pop("pipeline", "p")
        table = retl.Table(name, **{"to": f"{scene.prefix}-t", "cursor": "at", **words})
        job = retl.Pipeline(pipeline, source=Elasticsearch(scene.server.url), target=scene.options(), tables=[table])
        try:
            return (await job.run_once()).scans[0]
        finally:
            await job.aclose()

    scene.ask("PUT", f"/{scene.prefix}-in", DATES)
    scene.server.put(f"{scene.prefix}-in", {str(n): {"at": f"2024-05-0{n}", "n": n} for n in range(1, 6)})
    return once


async def test_inspect_tells_whether_an_index_is_there_and_holds_documents(scene: Scene) -> None:
    name, behind = f"{scene.prefix}-t", f"{scene.prefix}-t-1"
    target = scene.options().target()
    try:
        assert await target.inspect(name) == TargetTable(exists=False, empty=True)
        scene.ask("PUT", f"/{behind}", {"settings": {"refresh_interval": "-1"}, "aliases": {name: {}}})
        uuid = scene.about(behind)["settings"]["index"]["uuid"]
        assert await target.inspect(name) == TargetTable(exists=True, empty=True, identity=uuid)
        scene.ask("PUT", f"/{behind}/_doc/1", {"n": 1})
        assert await target.inspect(name) == TargetTable(exists=True, empty=False, identity=uuid)
        assert await target.inspect(behind) == TargetTable(exists=True, empty=False, identity=uuid)
        scene.ask("PUT", f"/{name}-2", {"aliases": {name: {"is_write_index": True}}})
        found = await target.inspect(name)
        assert found == TargetTable(exists=True, empty=False), "an alias that rolls over is no one index"
    finally:
        await target.aclose()


async def test_location_is_one_text_for_one_index_on_both_sides(scene: Scene) -> None:
    name, behind = f"{scene.prefix}-t", f"{scene.prefix}-t-1"
    source, target = Elasticsearch(scene.server.url).source(), scene.options().target()
    cluster = scene.ask("GET", "/")["cluster_uuid"]
    try:
        assert await target.location(name) == f"elasticsearch:{cluster}/{name}"
        scene.ask("PUT", f"/{behind}", {"aliases": {name: {}}})
        for side in (source, target):
            assert await side.location(name) == await side.location(behind) == f"elasticsearch:{cluster}/{behind}"
            assert await side.location(f"{name}*") is None
    finally:
        await source.aclose()
        await target.aclose()


def make_again(scene: Scene, name: str) -> None:
    scene.ask("DELETE", f"/{name}")
    scene.server.put(name, {"9": {"n": 9}})


EVERYTHING: dict[str, Any] = {"query": {"match_all": {}}}
LOSSES: dict[str, tuple[Callable[[Scene, str], Any], str]] = {
    "gone": (lambda scene, name: scene.ask("DELETE", f"/{name}"), "is gone"),
    "emptied": (
        lambda scene, name: scene.ask("POST", f"/{name}/_delete_by_query?refresh=true", EVERYTHING),
        "is empty, though 6 rows were written",
    ),
    "made again": (make_again, "is not the one that was written before"),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_an_index_that_was_lost_is_not_passed_over(scene: Scene, run: Run, loss: str) -> None:
    name = f"{scene.prefix}-t"
    assert (await run()).rows == 5
    assert (await run()).status == "done"
    lose, text = LOSSES[loss]
    lose(scene, name)
    with pytest.raises(retl.GuardStopped, match=text):
        await run()
    report = await run(lost_target="reload")
    assert report.rows == 5
    assert {**scene.server.documents(name), "9": None} == {**scene.server.documents(f"{scene.prefix}-in"), "9": None}
    assert (await run()).status == "done"


async def test_a_swap_of_ours_is_no_loss(scene: Scene, run: Run) -> None:
    for number in (6, 7):
        assert (await run(pre_action="swap", cursor=False)).rows == number - 1
        scene.server.put(f"{scene.prefix}-in", {str(number): {"at": f"2024-05-0{number}", "n": number}})
    assert (await run()).rows == 7
    assert (await run()).status == "done"
    assert scene.server.documents(f"{scene.prefix}-t") == scene.server.documents(f"{scene.prefix}-in")


async def test_a_table_that_is_swapped_stays_one_place_and_has_one_owner(scene: Scene, run: Run) -> None:
    name = f"{scene.prefix}-t"
    source, target = Elasticsearch(scene.server.url).source(), scene.options().target()
    places = set()
    try:
        for _ in range(2):
            places.add(await target.location(name))
            await run(pre_action="swap", cursor=False)
            (behind,) = scene.ask("GET", f"/_alias/{name}")
            places |= {await target.location(name), await source.location(name), await source.location(behind)}
    finally:
        await source.aclose()
        await target.aclose()
    assert len(places) == 1
    for to in (name, behind):
        with pytest.raises(retl.ConfigError, match="pipeline 'p'"):
            await run(pipeline="q", pre_action="swap", cursor=False, to=to)
    assert list(scene.ask("GET", f"/_alias/{name}")) == [behind]


async def test_a_closed_index_is_named_beforehand(scene: Scene, run: Run) -> None:
    name = f"{scene.prefix}-t"
    scene.ask("PUT", f"/{name}-1", {"aliases": {name: {}}})
    scene.ask("POST", f"/{name}-1/_close")
    for to in (name, f"{name}-1"):
        with pytest.raises(retl.ConfigError, match=f"the index '{name}-1' of the target is closed") as caught:
            await run(to=to)
        assert f"POST /{name}-1/_open" in str(caught.value)
        async with scene.session() as session:
            with pytest.raises(retl.ConfigError, match="closed"):
                await session.target.preview(load_whole(session, whole(to)))
