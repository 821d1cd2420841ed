"""What is special about the state store in an index."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.connection import SharedClient
from retl.connectors.elasticsearch.state.store import ElasticsearchStore
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import ConnectionFailed, LeaseLost, StateError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.state.base import STATE_VERSION, Claim, LeaseRow
from retl.testing.state_base import owned, race, reject, report
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.servers.process import free_port
from tests.servers.search import SearchServer


@pytest.fixture
def index(elasticsearch_server: SearchServer) -> Iterator[str]:
    with elasticsearch_server.fresh_names() as prefix:
        yield f".{prefix}"


def opened(server: SearchServer, index: str) -> ElasticsearchStore:
    return ElasticsearchStore(SharedClient(Elasticsearch(server.url), "target"), index)


@pytest.fixture
async def store(elasticsearch_server: SearchServer, index: str) -> AsyncIterator[ElasticsearchStore]:
    made = opened(elasticsearch_server, index)
    yield made
    await made.aclose()
    await made.aclose()


async def test_reading_creates_nothing(
    store: ElasticsearchStore, index: str, elasticsearch_server: SearchServer
) -> None:
    assert await store.load("p") == {}
    assert await store.forget("p") == await store.clear_rejects("p") == 0
    assert (await store.reports(), await store.rejects("p")) == ([], [])
    assert await store.last_reports("p") == {}
    assert not await store.beat(Fence("p", "me", 1))
    await store.give_up_lease(Fence("p", "me", 1))
    with pytest.raises(LeaseLost):
        await store.save(FencedCheckpoint(Fence("p", "me", 1), "t", Checkpoint()))
    assert elasticsearch_server.ask("GET", f"/{index}", allow=(404,))["status"] == 404


async def test_the_index_is_hidden_and_one_pipeline_is_one_document(
    store: ElasticsearchStore, index: str, elasticsearch_server: SearchServer
) -> None:
    fence = await owned(store)
    for table in ("a", "b..c", ".", "ü"):
        await store.save(FencedCheckpoint(fence, table, Checkpoint(watermark=table)))
    (found,) = elasticsearch_server.ask("GET", f"/{index}").values()
    assert found["settings"]["index"]["hidden"] == "true"
    (document,) = elasticsearch_server.documents(index).values()
    assert (document["owner"], document["epoch"], len(document["checkpoints"])) == ("me", 1, 4)
    assert {name: one.watermark for name, one in (await store.load("p")).items()} == {
        name: name for name in ("a", "b..c", ".", "ü")
    }


async def test_an_index_of_an_older_version_keeps_a_manifest_too(
    store: ElasticsearchStore, index: str, elasticsearch_server: SearchServer
) -> None:
    older = {"properties": {name: {"type": "keyword"} for name in ("kind", "pipeline", "table", "scan_id", "at")}}
    elasticsearch_server.ask("PUT", f"/{index}", {"mappings": {"dynamic": False, **older}})
    assert await store.read_manifest("p", "t") == []
    fence = await owned(store)
    change = ManifestChange(put=tuple(ManifestEntry(name=name, identity="1") for name in ("c", "a", "b")))
    await store.save(FencedCheckpoint(fence, "t", Checkpoint(), change))
    assert [entry.name for entry in await store.read_manifest("p", "t", limit=2)] == ["a", "b"]
    assert [entry.name for entry in await store.read_manifest("p", "t", after="b")] == ["c"]
    await store.claim(fence, Claim("p", "t", "place", replaces=True))
    assert await store.claims("place") == [Claim("p", "t", "place", replaces=True)]


async def test_two_that_create_the_index_at_once_both_find_it(elasticsearch_server: SearchServer) -> None:
    for _ in range(3):
        with elasticsearch_server.fresh_names() as prefix:
            first, second = (opened(elasticsearch_server, f".{prefix}") for _ in range(2))
            assert len(await race([first, second], LeaseRow("p", None, 0, 0, 0.0))) == 1
            await first.aclose()
            await second.aclose()


async def test_between_the_proof_of_the_fence_and_the_save_nobody_can_take_over(
    elasticsearch_server: SearchServer, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = opened(elasticsearch_server, index), opened(elasticsearch_server, index)
    fence = await owned(old, owner="old")
    await old.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="1")))
    read = ElasticsearchStore._read

    async def slow_read(self: ElasticsearchStore, pipeline: str) -> Any:
        found = await read(self, pipeline)
        if self is old:
            monkeypatch.setattr(ElasticsearchStore, "_read", read)
            assert await owned(new, owner="new") == Fence("p", "new", 2)
        return found

    monkeypatch.setattr(ElasticsearchStore, "_read", slow_read)
    with pytest.raises(LeaseLost):
        await old.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="2")))
    assert await new.load("p") == {"t": Checkpoint(watermark="1")}
    await old.aclose()
    await new.aclose()


async def test_very_long_names_and_keys_are_kept_apart(store: ElasticsearchStore) -> None:
    pipelines = ["p" * 2000 + end for end in "ab"]
    for pipeline in pipelines:
        fence = await owned(store, pipeline)
        await store.save(FencedCheckpoint(fence, "t" * 2000, Checkpoint(watermark=pipeline[-1])))
        await store.add_rejects(pipeline, [reject("k" * 40_000 + pipeline[-1], 1)])
    for pipeline in pipelines:
        assert await store.load(pipeline) == {"t" * 2000: Checkpoint(watermark=pipeline[-1])}
        assert await store.rejects(pipeline) == [reject("k" * 40_000 + pipeline[-1], 1)]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"version": STATE_VERSION + 1}, "upgrade retl"),
        (
            {"checkpoints": [{"table": "t", "body": "{"}]},
            "the checkpoint of table 't' in the state store cannot be read",
        ),
        (
            {"checkpoints": [{"table": "t", "body": f'{{"version": {CHECKPOINT_VERSION + 1}}}'}]},
            f"the checkpoint of table 't' is of version {CHECKPOINT_VERSION + 1}",
        ),
        ({"epoch": "one"}, "the state of 'p' in"),
    ],
)
async def test_content_that_makes_no_sense_is_refused(
    store: ElasticsearchStore, index: str, elasticsearch_server: SearchServer, damage: dict[str, Any], text: str
) -> None:
    await store.save(FencedCheckpoint(await owned(store), "t", Checkpoint(watermark="1")))
    (key,) = elasticsearch_server.documents(index)
    elasticsearch_server.ask("POST", f"/{index}/_update/{key}", {"doc": damage})
    with pytest.raises(StateError) as caught:
        await store.load("p")
    assert text in str(caught.value)
    assert caught.value.remedy


async def test_the_request_that_the_remedy_names_starts_a_pipeline_over(
    store: ElasticsearchStore, index: str, elasticsearch_server: SearchServer
) -> None:
    await store.save(FencedCheckpoint(await owned(store), "t", Checkpoint(watermark="1")))
    (key,) = elasticsearch_server.documents(index)
    elasticsearch_server.ask("POST", f"/{index}/_update/{key}", {"doc": {"epoch": "one"}})
    with pytest.raises(StateError) as caught:
        await store.read_lease("p")
    elasticsearch_server.ask("DELETE", caught.value.remedy.partition(" over by: DELETE ")[2])
    assert await store.load("p") == {}
    await store.save(FencedCheckpoint(await owned(store), "t", Checkpoint(watermark="2")))


async def test_a_report_that_cannot_be_read_hides_no_other_and_says_so(
    store: ElasticsearchStore, index: str, elasticsearch_server: SearchServer
) -> None:
    broken = msgspec.structs.replace(report(1), scan_id="20240229T235959.123456-abc")
    await store.add_report(broken)
    (key,) = elasticsearch_server.documents(index)
    elasticsearch_server.ask("POST", f"/{index}/_update/{key}?refresh=true", {"doc": {"body": "{"}})
    await store.add_report(report(2, table="u"))
    whole, known = await store.reports("p")
    assert whole == report(2, table="u")
    assert (known.table, known.scan_id, known.started_at) == (
        "t",
        broken.scan_id,
        datetime(2024, 2, 29, 23, 59, 59, 123456, UTC),
    )
    assert "a scan report in" in known.warnings[0] and "cannot be read" in known.warnings[0]
    assert await store.last_reports("p") == {"t": known, "u": whole}


async def test_a_server_that_does_not_answer_may_come_back() -> None:
    store = ElasticsearchStore(SharedClient(Elasticsearch(f"http://127.0.0.1:{free_port()}"), "target"), ".retl")
    for _ in range(2):
        with pytest.raises(ConnectionFailed):
            await store.load("p")
    await store.aclose()


async def test_rejects_are_kept_where_the_server_takes_one_megabyte_at_once(
    elasticsearch_server: SearchServer, index: str
) -> None:
    async def hook(asked: Asked, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        return (413, b"") if len(asked.body) > 2**20 else await forward()

    large = msgspec.json.encode({"_id": "large", "_source": {"text": "ü" * 1_200_000}}).decode()
    rejects = [
        msgspec.structs.replace(reject("0", 0, reason="because " * 10_000), content=large),
        *(msgspec.structs.replace(reject(str(n), n), content=large[:30_000] + '"}}') for n in range(1, 200)),
    ]
    async with between(elasticsearch_server) as line:
        line.hook = hook
        store = ElasticsearchStore(SharedClient(Elasticsearch(line.url), "target"), index)
        try:
            await store.add_rejects("p", rejects)
            kept = {one.key: one for one in await store.rejects("p")}
            assert kept.keys() == {one.key for one in rejects}
            assert "1,200,037 characters" in json.loads(kept["0"].content)
            assert json.loads(kept["0"].content).startswith('{"_id":"large","_source":{"text":"üüü')
            assert "80,000 characters" in kept["0"].reason
            assert await store.clear_rejects("p") == 200
        finally:
            await store.aclose()
    sizes = [len(asked.body) for asked in line.asked if "_bulk" in asked.path]
    assert len(sizes) > 3


@pytest.mark.parametrize("before", [True, False], ids=["a template", "settings"])
async def test_no_ingest_pipeline_keeps_the_state_from_being_kept(
    elasticsearch_server: SearchServer, index: str, before: bool
) -> None:
    ask, name = elasticsearch_server.run, index[1:]
    await ask("PUT", f"/_ingest/pipeline/{name}", {"processors": [{"drop": {}}]})
    template = {"settings": {"final_pipeline": name}, "mappings": {"_source": {"enabled": False}}}
    if before:
        await ask("PUT", f"/_index_template/{name}", {"index_patterns": [f".{name}*"], "template": template})
    store = opened(elasticsearch_server, index)
    try:
        fence = await owned(store)
        await store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="7")))
        await store.add_rejects("p", [reject("1", 1)])
        if before:
            assert await store.load("p") == {"t": Checkpoint(watermark="7")}
            assert len(await store.rejects("p")) == 1
            return
        await ask("PUT", f"/{index}/_settings", {"index": {"final_pipeline": name}})
        for write in (
            store.save(FencedCheckpoint(fence, "t", Checkpoint(watermark="8"))),
            store.add_rejects("p", [reject("2", 2)]),
            store.add_report(report(1)),
        ):
            with pytest.raises(StateError, match="did not keep it"):
                await write
        assert await store.load("p") == {"t": Checkpoint(watermark="7")}
    finally:
        await store.aclose()
