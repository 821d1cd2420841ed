"""Ingest pipelines of the target, and what else makes of documents something that was not sent."""

from __future__ import annotations

from typing import Any

import pytest

import retl
from retl.connectors.elasticsearch.target.refresh import shadow_name
from retl.model.checkpoint import Checkpoint
from retl.model.errors import TargetError
from tests.integration.elasticsearch.scene import NANOS, Scene, batch_of, load_of, scan, whole
from tests.servers.search import SearchServer

ROWS = [(str(n), None, {"n": n}) for n in range(30)]


@pytest.fixture
def scene(elasticsearch_server: SearchServer, prefix: str) -> Scene:
    return Scene(elasticsearch_server, prefix)


def ingest(scene: Scene, *processors: dict[str, Any], kind: str = "default_pipeline") -> str:
    """An index whose documents go through these processors, with one document in it; its name."""
    name = f"{scene.prefix}-t"
    scene.ask("PUT", f"/_ingest/pipeline/{name}", {"processors": list(processors)})
    scene.ask("PUT", f"/{name}", {"settings": {"number_of_replicas": 0}})
    scene.server.put(name, {"old": {"n": 99}})
    scene.ask("PUT", f"/{name}/_settings", {f"index.{kind}": name})
    return name


DROPS = {"drop": {"if": "ctx.n % 3 == 0"}}


DROPPING = [("none", "default_pipeline"), ("truncate", "final_pipeline"), ("swap", "default_pipeline")]


async def test_every_product_tells_what_its_pipelines_drop(search_server: SearchServer, search_prefix: str) -> None:
    scene = Scene(search_server, search_prefix)
    name = ingest(scene, DROPS)
    async with scene.session() as session:
        done = await scan(session, load_of(session, whole(name)), ROWS)
        assert (done.rows, done.dropped) == (30, 10)
        scene.ask("PUT", f"/_ingest/pipeline/{name}", {"processors": [{"set": {"field": "_id", "value": "one"}}]})
        with pytest.raises(TargetError, match="written as 'one'"):
            await scan(session, load_of(session, whole(name)), ROWS)
        scene.ask("PUT", f"/{name}/_settings", {"index.default_pipeline": "none-such"})
        with pytest.raises(TargetError, match="does not exist"):
            await scan(session, load_of(session, whole(name)), ROWS[:1])


@pytest.mark.parametrize(("mode", "kind"), DROPPING)
async def test_documents_that_a_pipeline_drops_are_counted_apart(scene: Scene, mode: str, kind: str) -> None:
    name = ingest(scene, DROPS, kind=kind)
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action=mode))
        assert any("ingest pipeline" in text for text in (await session.target.preview(load)).warnings)
        done = await scan(session, load, ROWS)
    assert (done.rows, done.dropped) == (30, 10)
    kept = {key: content for key, _, content in ROWS if content["n"] % 3}
    assert scene.server.documents(name) == {**kept, **({"old": {"n": 99}} if mode == "none" else {})}


@pytest.mark.parametrize(
    ("mode", "change"), [("none", "_id"), ("none", "_index"), ("truncate", "_index"), ("swap", "_index")]
)
async def test_a_pipeline_that_sends_documents_elsewhere_ends_the_scan(scene: Scene, mode: str, change: str) -> None:
    name = ingest(scene, {"set": {"if": "ctx.n > 25", "field": change, "value": f"{scene.prefix}-other"}})
    async with scene.session() as session:
        with pytest.raises(TargetError, match=f"{scene.prefix}-other.*an ingest pipeline"):
            await scan(session, load_of(session, whole(name, pre_action=mode)), ROWS)
        assert session.store is not None
        assert await session.store.rejects("contract") == []
    if mode == "swap":
        assert scene.server.documents(name) == {"old": {"n": 99}}, "nothing was switched"


@pytest.mark.parametrize("mode", ["truncate", "swap"])
async def test_fewer_documents_than_were_acknowledged_are_not_switched_in(scene: Scene, mode: str) -> None:
    name = ingest(scene)
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action=mode))
        writer = await session.prepare(load)
        await writer.write(batch_of(load, ROWS))
        await session.commit(writer)
        written = shadow_name(load) if mode == "swap" else name
        await scene.server.run("POST", f"/{written}/_refresh")
        await scene.server.run("DELETE", f"/{written}/_doc/7")
        with pytest.raises(TargetError, match="holds 29 documents, though 30 different ones were acknowledged"):
            await session.finish(writer)
        await writer.abort()
    assert len(scene.server.documents(name)) == (1 if mode == "swap" else 29)


async def test_a_pipeline_that_is_missing_for_a_while_loses_nothing(scene: Scene) -> None:
    name = ingest(scene)
    scene.ask("PUT", f"/{name}/_settings", {"index.default_pipeline": f"{name}-gone"})
    source = f"{scene.prefix}-in"
    scene.ask("PUT", f"/{source}", {"mappings": {"properties": {"at": {"type": "date"}}}})
    scene.server.put(source, {str(n): {"at": f"2024-05-{n:02}"} for n in range(1, 11)})
    table = retl.Table(source, to=name, cursor="at", max_rejects=1000)
    job = retl.Pipeline("p", source=scene.options(), target=scene.options(), tables=[table])
    try:
        with pytest.raises(TargetError, match=r"pipeline with id \[.*-gone\], which does not exist"):
            await job.run_once()
        scene.ask("PUT", f"/_ingest/pipeline/{name}-gone", {"processors": []})
        report = (await job.run_once()).scans[0]
    finally:
        await job.aclose()
    assert (report.rows, report.rejects) == (10, 0)
    assert scene.server.documents(name).keys() == {*scene.server.documents(source), "old"}


# Versions of a predecessor ----------------------------------------------------------


async def test_a_row_that_is_older_than_what_is_there_is_counted_as_older(scene: Scene) -> None:
    """In the window that lookback reads again its cursor was set back."""
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        first = load_of(session, whole(name, cursor="at"), cursor=NANOS)
        rows = [("1", None, {"at": "2024-05-02", "v": 1}, 1714608000 * 10**9), ("2", None, {"at": "2024-05-01"}, 5)]
        done = await scan(session, first, rows)
        assert (done.rows, done.older) == (2, 0)
        later = load_of(session, whole(name, cursor="at"), cursor=NANOS, checkpoint=Checkpoint(columns={"at": "date"}))
        done = await scan(session, later, [("1", None, {"at": "2024-05-01", "v": 2}, 1714521600 * 10**9)])
        assert (done.rows, done.older) == (1, 1)
    assert scene.server.documents(name)["1"]["v"] == 1


@pytest.mark.parametrize("kind", ["time", "number"])
@pytest.mark.parametrize("lost", ["dated 2099", "deleted", "never"])
async def test_a_scan_that_begins_from_nothing_is_not_bound_by_what_is_there(
    scene: Scene, kind: str, lost: str
) -> None:
    source, name = f"{scene.prefix}-in", f"{scene.prefix}-t"
    days = {n: f"2024-05-{n:02}" if kind == "time" else n for n in range(1, 10)}
    far: Any = "2099-01-01" if kind == "time" else 10**12
    scene.ask("PUT", f"/{source}", {"mappings": {"properties": {"at": {"type": "date" if kind == "time" else "long"}}}})
    scene.server.put(source, {"1": {"at": days[1], "v": 1}, "2": {"at": far, "v": 1}, "3": {"at": days[2], "v": 1}})
    job = retl.Pipeline(
        "p",
        source=scene.options(),
        target=scene.options(),
        tables=[retl.Table(source, to=name, cursor="at")],
        settle="0s" if kind == "time" else None,
    )
    try:
        if lost == "dated 2099" and kind == "time":
            # A time to come is no upper bound, so what was written must have been so by hand.
            scene.server.bulk(
                name, [({"index": {"_id": "2", "version": 4 * 10**18, "version_type": "external"}}, {"at": far})]
            )
        await job.run_once()
        scene.server.put(source, {"2": {"at": days[3], "v": 2}})
        if lost == "deleted":
            query: dict[str, Any] = {"query": {"match_all": {}}}
            scene.ask("POST", f"/{name}/_delete_by_query?refresh=true", query)
        await job.reset()
        report = (await job.run_once()).scans[0]
        assert report.rows == 3
        assert scene.server.documents(name) == scene.server.documents(source)
        # And what is written in its place does not keep out what comes after it.
        scene.server.put(source, {str(n): {"at": days[n + 3], "v": 3} for n in (1, 2, 3)})
        await job.run_once()
        assert scene.server.documents(name) == scene.server.documents(source)
    finally:
        await job.aclose()
