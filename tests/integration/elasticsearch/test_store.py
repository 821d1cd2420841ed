"""The state store in an index: what every store must do, and what is special about this one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.connection import SharedClient
from retl.connectors.elasticsearch.state import store as store_module
from retl.connectors.elasticsearch.state.store import ElasticsearchStore
from retl.model.checkpoint import CHECKPOINT_VERSION, Checkpoint, Fence, FencedCheckpoint
from retl.model.errors import ConnectionFailed, LeaseLost, StateError
from retl.model.manifest import ManifestChange, ManifestEntry
from retl.state.base import STATE_VERSION, LeaseRow, Manifest
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.servers.process import free_port
from tests.servers.search import SearchServer
from tests.unit.test_state import (  # noqa: F401  # collected here too, with the fixture ``store`` of this module
    owned,
    race,
    reject,
    report,
    test_a_checkpoint_comes_back_to_its_last_digit,
    test_a_checkpoint_is_replaced_and_belongs_to_one_pipeline,
    test_a_claim_takes_the_place_of_the_older_one_of_its_table_and_can_be_given_up,
    test_a_fence_holds_only_with_owner_epoch_and_pipeline,
    test_a_former_owner_claims_nothing,
    test_a_lease_is_not_taken_from_what_was_never_there,
    test_a_lease_is_taken_as_seen_and_raises_the_epoch,
    test_a_lease_that_was_given_up_is_free_but_its_epoch_is_not_used_again,
    test_a_reject_of_the_same_key_replaces_the_old_one,
    test_a_table_of_the_target_knows_who_writes_it,
    test_an_empty_store_knows_nothing,
    test_an_owner_that_beats_cannot_be_taken_over_by_what_was_seen_before,
    test_an_owner_that_does_not_beat_is_taken_over_and_fenced_off,
    test_forgetting_takes_one_table_or_all_of_one_pipeline,
    test_old_rejects_are_removed_and_too_many_of_a_table,
    test_rejects_are_cleared_by_table_or_all,
    test_rejects_are_kept_with_all_they_say_newest_first,
    test_the_history_tells_everything_newest_first,
    test_the_last_report_of_each_table_is_told_however_many_there_are,
)


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


async def test_of_two_that_take_a_lease_at_once_exactly_one_wins(
    elasticsearch_server: SearchServer, index: str
) -> None:
    first, second = opened(elasticsearch_server, index), opened(elasticsearch_server, index)
    for epoch in range(1, 16):
        fences = await race(first, second, await first.read_lease("p"))
        (winner,) = [fence for fence in fences.values() if fence is not None]
        assert winner.epoch == epoch
        held = await second.read_lease("p")
        assert (held.owner, held.epoch) == (winner.owner, epoch)
    await first.aclose()
    await second.aclose()


async def test_two_that_create_the_index_at_once_both_find_it(elasticsearch_server: SearchServer) -> None:
    for _ in range(3):
        with elasticsearch_server.fresh_names() as prefix:
            first, second = (opened(elasticsearch_server, f".{prefix}") for _ in range(2))
            fences = await race(first, second, LeaseRow("p", None, 0, 0, 0.0))
            assert sorted(fence is None for fence in fences.values()) == [False, True]
            await first.aclose()
            await second.aclose()


async def test_many_steps_at_once_all_take_effect(elasticsearch_server: SearchServer, index: str) -> None:
    stores = [opened(elasticsearch_server, index) for _ in range(3)]
    fence = await owned(stores[0])
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            fenced = FencedCheckpoint(fence, f"t{number}", Checkpoint(watermark=str(number)))
            tasks.start_soon(partial(stores[number % 3].save, fenced))
            tasks.start_soon(stores[number % 3].beat, fence)
    assert await stores[1].load("p") == {f"t{n}": Checkpoint(watermark=str(n)) for n in range(12)}
    assert (await stores[2].read_lease("p")).beat == 12
    for store in stores:
        await store.aclose()


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


async def test_the_history_of_a_table_is_bounded(store: ElasticsearchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_module._KEPT_REPORTS == 1000
    monkeypatch.setattr(store_module, "_KEPT_REPORTS", 4)
    await store.add_report(report(0, table="quiet"))
    await store.add_report(report(0, pipeline="q"))
    for number in range(1, 8):
        await store.add_report(report(number))
    assert [one.scan_id[-1] for one in await store.reports("p", "t")] == ["7", "6", "5", "4"]
    assert await store.reports("p", "quiet") == [report(0, table="quiet")]
    assert await store.reports("q") == [report(0, pipeline="q")]


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
    assert (known.table, known.scan_id, known.started_at) == ("t", broken.scan_id, "2024-02-29T23:59:59.123+00:00")
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


ODD_NAMES = ["A", "a", "b/ü.csv", "b/é", "Z z", "\uffee", "🙂", " lead", "x" * 1000, 'q"\\\n']


async def test_a_manifest_is_read_page_by_page_in_the_order_of_its_bytes(store: ElasticsearchStore) -> None:
    fence = await owned(store)
    entries = [ManifestEntry(name=name, identity=f"v-{name[:3]}", rows=7, facts={"size": "1"}) for name in ODD_NAMES]
    change = ManifestChange(put=tuple(entries))
    await store.save(FencedCheckpoint(fence, "files", Checkpoint(watermark="1"), change))
    await store.save(FencedCheckpoint(fence, "others", Checkpoint(), ManifestChange(put=(entries[0],))))
    in_order = sorted(entries, key=lambda entry: entry.name.encode())
    first = await store.read_manifest("p", "files", limit=4)
    rest = await store.read_manifest("p", "files", after=first[-1].name)
    assert (len(first), [*first, *rest]) == (4, in_order)
    newer = ManifestEntry(name="a", identity="v2")
    change = ManifestChange(put=(newer,), remove=("A", "a", "never there"))
    await store.save(FencedCheckpoint(fence, "files", Checkpoint(watermark="2"), change))
    left = [newer if entry.name == "a" else entry for entry in in_order if entry.name != "A"]
    assert [entry async for entry in Manifest(store, "p", "files")] == left
    assert await store.forget("p", "files") == 1
    assert await store.read_manifest("p", "files") == []
    assert await store.read_manifest("p", "others") == [entries[0]]
    assert (await store.forget("p"), await store.read_manifest("p", "others")) == (1, [])


async def test_a_former_owner_changes_nothing_of_a_manifest(store: ElasticsearchStore) -> None:
    old = await owned(store, owner="old")
    entry = ManifestEntry(name="a", identity="1")
    await store.save(FencedCheckpoint(old, "files", Checkpoint(), ManifestChange(put=(entry,))))
    assert await owned(store, owner="new") == Fence("p", "new", 2)
    late = ManifestChange(put=(ManifestEntry(name="b", identity="1"),), remove=("a",))
    with pytest.raises(LeaseLost):
        await store.save(FencedCheckpoint(old, "files", Checkpoint(), late))
    assert await store.read_manifest("p", "files") == [entry]
