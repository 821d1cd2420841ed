"""Elasticsearch as a target: indices that are emptied and switched, and what becomes of documents."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.elasticsearch.state.store import ElasticsearchStore
from retl.connectors.elasticsearch.target import refresh
from retl.connectors.elasticsearch.target.loader import Bulk
from retl.model.actions import Action
from retl.model.errors import ConfigError, ConnectionFailed, LeaseLost, SchemaDrift, TargetError, UnsupportedError
from retl.model.schema import field
from retl.testing import table_spec
from tests.integration.elasticsearch.scene import NANOS, Scene, batch_of, load_of, scan, whole
from tests.servers.proxy import Proxy
from tests.servers.search import SearchServer

OWN = {
    "settings": {"index": {"number_of_shards": 2, "number_of_replicas": 0, "refresh_interval": "7s"}},
    "mappings": {"_meta": {"team": "a"}, "properties": {"n": {"type": "integer"}, "old": {"type": "keyword"}}},
}


@pytest.fixture
def scene(elasticsearch_server: SearchServer, prefix: str) -> Scene:
    return Scene(elasticsearch_server, prefix)


def numbered(*numbers: int) -> list[tuple[str, None, dict[str, int]]]:
    return [(str(number), None, {"n": number}) for number in numbers]


def contents(scene: Scene, name: str) -> dict[str, Any]:
    return scene.server.documents(name)


def of(*numbers: int) -> dict[str, Any]:
    return {str(number): {"n": number} for number in numbers}


# Emptying -----------------------------------------------------------------------


def prepared(scene: Scene, name: str) -> None:
    """An index with settings, a mapping and an alias of its own, and two documents."""
    scene.ask("PUT", f"/{name}", {**OWN, "aliases": {f"{name}-view": {"filter": {"range": {"n": {"gte": 3}}}}}})
    scene.server.put(name, {"1": {"n": 1}, "2": {"n": 2}})


def is_as_it_was(scene: Scene, name: str) -> None:
    about = scene.about(name)
    assert about["settings"]["index"]["refresh_interval"] == "7s"
    assert (about["settings"]["index"]["number_of_shards"], about["settings"]["index"]["number_of_replicas"]) == (
        "2",
        "0",
    )
    assert about["mappings"]["properties"]["n"] == {"type": "integer"}
    assert about["mappings"]["properties"]["old"] == {"type": "keyword"}
    assert about["mappings"]["_meta"]["team"] == "a"
    assert about["aliases"][f"{name}-view"]["filter"] == {"range": {"n": {"gte": 3}}}


async def test_truncate_keeps_mapping_settings_and_aliases(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    prepared(scene, name)
    before = scene.about(name)["settings"]["index"]["uuid"]
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name, pre_action="truncate")), numbered(3, 4))
    is_as_it_was(scene, name)
    assert scene.about(name)["settings"]["index"]["uuid"] != before
    assert contents(scene, name) == of(3, 4)
    assert scene.indices() == [name]


@pytest.mark.parametrize("lost", ["PUT", "DELETE"])
async def test_a_crash_while_an_index_is_created_anew_loses_nothing(
    scene: Scene, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{scene.prefix}-t"
    prepared(scene, name)
    drop = refresh.drop
    dropped: list[str] = []

    async def crash(client: Any, index: str) -> None:
        if lost == "DELETE" and index == name:
            raise ConnectionFailed("gone")
        await drop(client, index)
        dropped.append(index)
        if index == name:
            raise ConnectionFailed("gone")

    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="truncate"))
        with monkeypatch.context() as patch, pytest.raises(ConnectionFailed):
            patch.setattr(refresh, "drop", crash)
            await session.prepare(load)
        assert (name in scene.indices()) == (lost == "DELETE")
        await scan(session, load, numbered(3, 4))
    is_as_it_was(scene, name)
    assert contents(scene, name) == of(3, 4)
    assert scene.indices() == [name]


async def test_truncate_by_query_leaves_the_index_itself_alone(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    prepared(scene, name)
    before = scene.about(name)["settings"]["index"]["uuid"]
    async with scene.session(truncate="delete_by_query") as session:
        writer = await session.prepare(load_of(session, whole(name, pre_action="truncate")))
        assert contents(scene, name) == {}
        await writer.abort()
        await scan(session, load_of(session, whole(name, pre_action="truncate")), numbered(3, 4))
    is_as_it_was(scene, name)
    assert scene.about(name)["settings"]["index"]["uuid"] == before
    assert contents(scene, name) == of(3, 4)


async def test_truncate_without_drop_deletes_the_documents(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    prepared(scene, name)
    before = scene.about(name)["settings"]["index"]["uuid"]
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="truncate"), blacklist=frozenset({Action.DROP}))
        assert any("_delete_by_query" in line for line in (await session.target.preview(load)).statements)
        await scan(session, load, numbered(3))
    assert scene.about(name)["settings"]["index"]["uuid"] == before
    assert contents(scene, name) == of(3)


async def test_truncate_behind_an_alias(scene: Scene) -> None:
    name, behind = f"{scene.prefix}-t", f"{scene.prefix}-t-000001"
    scene.ask("PUT", f"/{behind}", {**OWN, "aliases": {name: {}}})
    scene.server.put(behind, {"1": {"n": 1}})
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name, pre_action="truncate")), numbered(3))
    assert list(scene.about(name)["aliases"]) == [name]
    assert scene.indices() == [behind]
    assert contents(scene, name) == of(3)


# Switching ----------------------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "index", "alias"])
@pytest.mark.parametrize("keep", [False, True])
async def test_swap(scene: Scene, before: str, keep: bool) -> None:
    name, behind = f"{scene.prefix}-t", f"{scene.prefix}-t-000001"
    old = behind if before == "alias" else name
    if before != "nothing":
        aliases = {f"{name}-view": {"filter": {"range": {"n": {"gte": 4}}}}}
        scene.ask("PUT", f"/{old}", {**OWN, "aliases": {**aliases, **({name: {}} if before == "alias" else {})}})
        scene.server.put(old, {"1": {"n": 1}})
    async with scene.session(keep_replaced=keep) as session:
        load = load_of(session, whole(name, pre_action="swap"), index={"mappings": OWN["mappings"], "settings": {}})
        warned = [text for text in (await session.target.preview(load)).warnings if "cannot be kept" in text]
        assert bool(warned) == (keep and before == "index")
        writer = await session.prepare(load)
        (shadow,) = [index for index in scene.indices() if index.startswith("retl-")]
        loading = scene.about(shadow)["settings"]["index"]
        assert (loading["number_of_replicas"], loading["refresh_interval"], loading["hidden"]) == ("0", "-1", "true")
        await writer.write(batch_of(load, numbered(3, 4)))
        await session.commit(writer)
        assert await writer.count() == 2
        if before != "nothing":
            assert contents(scene, name) == of(1)
            assert scene.ask("GET", f"/{scene.prefix}*/_count")["count"] == 1, "patterns do not see what is loaded"
        await session.finish(writer)
    assert contents(scene, name) == of(3, 4)
    about = scene.about(name)
    assert about["mappings"]["properties"]["n"] == {"type": "integer"}
    settings = about["settings"]["index"]
    assert settings.get("hidden") is None
    assert settings.get("refresh_interval") == (None if before == "nothing" else "7s")
    assert settings["number_of_replicas"] == ("1" if before == "nothing" else "0")
    kept = [behind] if keep and before == "alias" else []
    assert scene.indices() == sorted([shadow, *kept])
    if before != "nothing":
        assert contents(scene, f"{name}-view") == of(4)
    for index in kept:
        assert contents(scene, index) == of(1)
        assert list(scene.about(index)["aliases"]) == [f"retl-{name}-replaced"]


@pytest.mark.parametrize("pre_action", ["swap", "truncate"])
async def test_a_template_for_names_that_begin_alike_does_not_make_data_streams_of_what_serves_an_index(
    scene: Scene, pre_action: str
) -> None:
    """As that of many clusters for ``logs-*-*``."""
    name = f"{scene.prefix}logs"
    template = {"index_patterns": [f"{name}-*-*"], "data_stream": {}, "priority": 100}
    scene.ask("PUT", f"/_index_template/{scene.prefix}", template)
    scene.server.put(name, {"1": {"n": 1}})
    async with scene.session() as session:
        for number in (2, 3):
            load = load_of(session, whole(name, pre_action=pre_action), scan_id=f"20240501T12000{number}.000001-a")
            await scan(session, load, numbered(number))
    assert contents(scene, name) == of(3)
    assert len(scene.indices()) == 1


@pytest.mark.parametrize("finished", [True, False])
async def test_what_is_loaded_is_not_seen_by_the_alias_of_a_template(scene: Scene, finished: bool) -> None:
    name, readers = f"{scene.prefix}-t", f"{scene.prefix}-readers"
    template = {"index_patterns": [f"*{name}*"], "priority": 100, "template": {"aliases": {readers: {}}}}
    scene.ask("PUT", f"/_index_template/{scene.prefix}", template)
    scene.server.put(name, {"1": {"n": 1}})
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="swap"))
        writer = await session.prepare(load)
        await writer.write(batch_of(load, numbered(2)))
        await session.commit(writer)
        assert contents(scene, readers) == of(1)
        if finished:
            await session.finish(writer)
        else:
            await writer.abort()
    assert contents(scene, name) == contents(scene, readers) == (of(2) if finished else of(1))
    assert len(scene.indices()) == 1


async def test_swaps_one_after_another_leave_one_index(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    for number in range(3):
        async with scene.session() as session:
            await scan(session, load_of(session, whole(name, pre_action="swap")), numbered(number))
        assert contents(scene, name) == of(number)
        assert len(scene.indices()) == 1


async def test_kept_indices_outlive_the_next_swaps(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    for number in range(3):
        async with scene.session(keep_replaced=True) as session:
            await scan(session, load_of(session, whole(name, pre_action="swap")), numbered(number))
    assert contents(scene, name) == of(2)
    assert contents(scene, f"retl-{name}-replaced") == of(0, 1)


@pytest.mark.parametrize("pre_action", ["none", "swap"])
async def test_an_index_that_was_switched_in_once_is_never_dropped_as_a_leftover(scene: Scene, pre_action: str) -> None:
    """Not even where its user has taken every alias off it."""
    name, own = f"{scene.prefix}-t", f"{scene.prefix}-own"
    async with scene.session(keep_replaced=True) as session:
        load = load_of(session, whole(name, pre_action="swap"))
        await scan(session, load, numbered(1))
        (first,) = scene.ask("GET", f"/_alias/{name}")
        await scan(session, dataclasses.replace(load, scan_id="20240501T120000.000002-b"), numbered(2))
        (second,) = scene.ask("GET", f"/_alias/{name}")
        scene.server.put(own, {"3": {"n": 3}})
        moved = [
            {"remove": {"index": first, "alias": "*"}},
            {"remove": {"index": second, "alias": name}},
            {"add": {"index": own, "alias": name}},
        ]
        scene.ask("POST", "/_aliases", {"actions": moved})
        load = load_of(session, whole(name, pre_action=pre_action), scan_id="20240501T120000.000003-c")
        await scan(session, load, numbered(4))
    assert (contents(scene, first), contents(scene, second)) == (of(1), of(2))
    assert contents(scene, name) == (of(3, 4) if pre_action == "none" else of(4))


@pytest.mark.parametrize("settled", [False, True])
async def test_a_shadow_whose_owner_died_while_it_was_dropped_goes_with_the_next_scan(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    name = f"{scene.prefix}-t"

    async def gone(*arguments: Any, **words: Any) -> None:
        raise ConnectionFailed("gone")

    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="swap"))
        with monkeypatch.context() as patch:
            patch.setattr(refresh, "switch" if settled else "settle", gone)
            patch.setattr(refresh, "drop", gone)
            with pytest.raises(ConnectionFailed):
                await scan(session, load, numbered(1))
        assert len(scene.indices()) == 1
        await scan(session, load_of(session, whole(name)), numbered(2))
    assert scene.indices() == [name]
    assert contents(scene, name) == of(2)


async def test_a_switch_whose_answer_is_lost_does_not_lose_the_index(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{scene.prefix}-t"
    switch = refresh.switch

    async def lost(*arguments: Any, **words: Any) -> None:
        await switch(*arguments, **words)
        raise ConnectionFailed("the answer is lost")

    monkeypatch.setattr(refresh, "switch", lost)
    async with scene.session() as session:
        with pytest.raises(ConnectionFailed):
            await scan(session, load_of(session, whole(name, pre_action="swap")), numbered(1, 2))
    assert contents(scene, name) == of(1, 2)


async def test_a_swap_that_fails_leaves_everything_as_it_was(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{scene.prefix}-t"
    prepared(scene, name)

    async def failing(*arguments: Any, **words: Any) -> None:
        raise TargetError("no")

    monkeypatch.setattr(refresh, "settle", failing)
    async with scene.session() as session:
        with pytest.raises(TargetError):
            await scan(session, load_of(session, whole(name, pre_action="swap")), numbered(3))
    is_as_it_was(scene, name)
    assert contents(scene, name) == of(1, 2)
    assert scene.indices() == [name]


async def test_what_somebody_else_has_switched_in_meanwhile_is_not_switched_out(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    prepared(scene, name)
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="swap"))
        writer = await session.prepare(load)
        await writer.write(batch_of(load, numbered(3)))
        await session.commit(writer)
        scene.ask("DELETE", f"/{name}")
        scene.ask("PUT", f"/{name}", OWN)
        with pytest.raises(TargetError, match="replaced by somebody else"):
            await session.finish(writer)
        await writer.abort()
    assert contents(scene, name) == {}
    assert scene.indices() == [name]


async def test_a_former_owner_cannot_switch_what_a_new_one_has_begun(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped just after it has seen that the lease is its own."""
    name = f"{scene.prefix}-t"
    prepared(scene, name)
    switch = refresh.switch

    async def late(*arguments: Any, **words: Any) -> None:
        monkeypatch.setattr(refresh, "switch", switch)
        async with scene.session() as new:
            await scan(
                new, load_of(new, whole(name, pre_action="swap"), scan_id="20250101T000000.000000-new"), numbered(9)
            )
        await switch(*arguments, **words)

    monkeypatch.setattr(refresh, "switch", late)
    async with scene.session() as old:
        with pytest.raises((ConfigError, TargetError)):
            await scan(old, load_of(old, whole(name, pre_action="swap")), numbered(3))
    assert contents(scene, name) == of(9)
    assert len(scene.indices()) == 1


# Documents ----------------------------------------------------------------------


async def test_documents_arrive_to_the_byte_with_their_routing(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    source = {
        "mappings": {
            "_routing": {"required": True},
            "properties": {
                "who": {"type": "nested", "properties": {"name": {"type": "keyword"}}},
                "a.b": {"type": "long"},
            },
        },
        "settings": {"number_of_shards": "3", "uuid": "x", "analysis": {"analyzer": {"mine": {"type": "keyword"}}}},
    }
    rows = [
        (
            f"ü {number}",
            f"way {number % 3}",
            b'{"a.b": %d,"who":[{"name":"\xf0\x9f\x99\x82"}, {}],"big":12345678901234567890.10}' % number,
        )
        for number in range(50)
    ]
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name), index=source), rows)
    assert scene.server.texts(name) == {key: text for key, _, text in rows}
    assert {hit.id: hit.routing for hit in scene.server.hits(name)} == {key: way for key, way, _ in rows}
    about = scene.about(name)
    assert about["settings"]["index"]["number_of_shards"] == "3"
    assert about["settings"]["index"]["analysis"] == source["settings"]["analysis"]  # type: ignore[index]
    assert about["mappings"]["_routing"] == {"required": True}
    assert about["mappings"]["properties"]["who"]["type"] == "nested"


async def test_documents_that_the_mapping_refuses_are_put_aside(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    mapping = {"properties": {"n": {"type": "integer"}, "d": {"type": "date", "ignore_malformed": True}}}
    scene.ask("PUT", f"/{name}", {"mappings": mapping})
    rows = [
        ("1", None, {"n": 1}),
        ("2", None, {"n": "two"}),
        ("3", None, {"d": "no date"}),
        ("4", None, {"n": {"a": 1}}),
    ]
    async with scene.session() as session:
        done = await scan(session, load_of(session, whole(name)), rows, rejects_left=2)
        assert session.store is not None
        kept = await session.store.rejects("contract")
    assert contents(scene, name) == {"1": {"n": 1}, "3": {"d": "no date"}}
    assert done.rows == 2
    found = {json.loads(reject.key)["_id"]: reject for reject in done.rejects}
    assert set(found) == {"2", "4"}
    assert found["2"].column == "n"
    assert "failed to parse field [n] of type [integer]" in found["2"].reason
    assert json.loads(found["2"].content)["_source"] == {"n": "two"}
    assert sorted(reject.key for reject in kept) == sorted(reject.key for reject in done.rejects)


async def test_the_mapping_grows_with_that_of_the_source(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    scene.ask("PUT", f"/{name}", OWN)
    wider = {"mappings": {"properties": {"n": {"type": "long"}, "who": {"properties": {"x": {"type": "ip"}}}}}}
    async with scene.session() as session:
        with pytest.raises(SchemaDrift, match=r"who\.x"):
            await session.target.preview(load_of(session, whole(name, new_columns="fail"), index=wider))
        ignoring = load_of(session, whole(name, new_columns="ignore"), index=wider)
        assert any("who.x" in text for text in (await session.target.preview(ignoring)).warnings)
        forbidden = load_of(session, whole(name), index=wider, blacklist=frozenset({Action.ALTER}))
        assert any("ALTER" in text for text in (await session.target.preview(forbidden)).warnings)
        await session.prepare(forbidden)
        assert "who" not in scene.about(name)["mappings"]["properties"]
        await scan(session, load_of(session, whole(name), index=wider), [("1", None, {"who": {"x": "::1"}})])
    mappings = scene.about(name)["mappings"]
    assert mappings["properties"]["who"]["properties"] == {"x": {"type": "ip"}}
    assert mappings["properties"]["n"] == {"type": "integer"}
    assert mappings["_meta"]["team"] == "a"


async def test_a_document_of_50_mb(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    text = json.dumps({"n": 1, "blob": "x" * 50_000_000}).encode()
    mapping = {
        "mappings": {
            "properties": {"n": {"type": "long"}, "blob": {"type": "keyword", "index": False, "doc_values": False}}
        }
    }
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name), index=mapping), [("1", None, text), *numbered(2)])
    found = scene.server.texts(name)
    assert set(found) == {"1", "2"}
    assert found["1"] == text


# Versions -----------------------------------------------------------------------


async def test_an_older_document_never_replaces_a_newer_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    name, base = f"{scene.prefix}-t", 1_714_564_800_000_000_000
    # However slow the machine is, the former owner takes its fence for held.
    monkeypatch.setattr("retl.connectors.elasticsearch.target.writer._PROOF_SECONDS", 600.0)
    async with scene.session() as old:
        load = load_of(old, whole(name, cursor="at"), cursor=NANOS)
        await scan(old, load, [("1", None, {"v": "first"}, base), ("2", None, {"v": "first"}, base)])
        late = await old.prepare(load)
        async with scene.session() as new:
            fresh = load_of(new, whole(name, cursor="at"), cursor=NANOS)
            await scan(new, fresh, [("1", None, {"v": "newest"}, base + 2)])
            # Written by a former owner that has not noticed yet.
            await late.write(
                batch_of(load, [("1", None, {"v": "late"}, base + 1), ("2", None, {"v": "late"}, base + 1)])
            )
            with pytest.raises(LeaseLost):
                await old.commit(late)
            await late.abort()
        assert contents(scene, name) == {"1": {"v": "newest"}, "2": {"v": "late"}}


async def test_the_same_moment_is_written_again(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        load = load_of(session, whole(name, cursor="at"), cursor=NANOS)
        await scan(session, load, [("1", None, {"v": 1}, 5)])
        await scan(session, load, [("1", None, {"v": 2}, 5)])
        await scan(session, load, [("1", None, {"v": 3}, None), ("2", None, {"v": 3}, -7)])
    assert contents(scene, name) == {"1": {"v": 3}, "2": {"v": 3}}


async def test_versions_of_another_cursor_are_not_compared(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    number = field("seq", pa.int64())
    async with scene.session() as session:
        timed = load_of(session, whole(name, cursor="at"), cursor=NANOS)
        await scan(session, timed, [("1", None, {"v": 1}, 10**18)])
        counted = load_of(session, whole(name, cursor="seq"), cursor=number)
        (warning,) = (await session.target.preview(counted)).warnings
        assert "at (time)" in warning
        await scan(session, counted, [("1", None, {"v": 2}, 7)])
        assert contents(scene, name) == {"1": {"v": 2}}


async def test_a_number_is_no_version_of_documents_that_were_written_without(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        for value in range(5):
            await scan(session, load_of(session, whole(name)), [("1", None, {"v": value})])
        counted = load_of(session, whole(name, cursor="seq"), cursor=field("seq", pa.int64()))
        await scan(session, counted, [("1", None, {"v": 99}, 1)])
        assert contents(scene, name) == {"1": {"v": 99}}


async def test_a_full_scan_after_numbers_ends_their_comparison(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        counted = load_of(session, whole(name, cursor="seq"), cursor=field("seq", pa.int64()))
        await scan(session, counted, [("1", None, {"v": 1}, 1)])
        for value in range(5):
            await scan(session, load_of(session, whole(name)), [("1", None, {"v": value})])
        await scan(session, counted, [("1", None, {"v": 99}, 2)])
        assert contents(scene, name) == {"1": {"v": 99}}


# What is forbidden --------------------------------------------------------------


async def test_without_insert_and_without_update(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        plain = load_of(session, whole(name))
        await scan(session, plain, [("1", "a", {"v": 1, "gone": 1}), ("2", "b", {"v": 1})])
        only_new = load_of(session, whole(name), blacklist=frozenset({Action.UPDATE}))
        done = await scan(session, only_new, [("1", "a", {"v": 2}), ("3", None, {"v": 2})])
        assert done.rows == 2
        assert contents(scene, name) == {"1": {"v": 1, "gone": 1}, "2": {"v": 1}, "3": {"v": 2}}
        only_old = load_of(session, whole(name), blacklist=frozenset({Action.INSERT}))
        await scan(session, only_old, [("1", "a", {"v": 3}), ("4", None, {"v": 3}), ("2", "b", b'{"v": 1.10}')])
    assert scene.server.texts(name) == {"1": b'{"v": 3}', "2": b'{"v": 1.10}', "3": b'{"v": 2}'}


async def test_what_cannot_be_is_refused_beforehand(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    for number in (1, 2):
        scene.ask("PUT", f"/{name}-{number}", {"aliases": {f"{name}-both": {}}})
    async with scene.session() as session:

        async def refused(kind: type[Exception], match: str, table: Any, **words: Any) -> None:
            with pytest.raises(kind, match=match):
                await session.target.preview(load_of(session, table, **words))

        await refused(UnsupportedError, "swap", whole(name, pre_action="rename_and_create"))
        await refused(ConfigError, "small letters", whole("Big"))
        await refused(ConfigError, "small letters", whole("a*"))
        await refused(ConfigError, "no _ or - in front", whole("_search"))
        await refused(ConfigError, "blacklist", whole(name), blacklist=frozenset({Action.CREATE}))
        await refused(ConfigError, "2 indices", whole(f"{name}-both", pre_action="swap"))
        await refused(ConfigError, "is_write_index", whole(f"{name}-both"))
        with pytest.raises(ConfigError, match="_source"):
            await session.target.preview(
                session.load(
                    table_spec(name, key="id"), schema=pa.schema([("id", pa.int64()), ("_source", pa.string())])
                )
            )


# Aliases and data streams --------------------------------------------------------


async def test_an_alias_is_written_where_it_says(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    scene.ask("PUT", f"/{name}-1", {"aliases": {name: {}}})
    scene.ask("PUT", f"/{name}-2", {"aliases": {name: {"is_write_index": True}}})
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name)), numbered(1))
    assert contents(scene, f"{name}-2") == of(1)
    assert contents(scene, f"{name}-1") == {}


async def test_a_data_stream_takes_new_documents_once(scene: Scene) -> None:
    name = f"{scene.prefix}-s"
    template = {"index_patterns": [f"{name}*"], "data_stream": {}, "priority": 500}
    scene.ask("PUT", f"/_index_template/{name}", template)
    scene.ask("POST", f"/{name}/_bulk?refresh=true", b'{"create":{"_id":"0"}}\n{"@timestamp":"2024-05-01"}\n')
    rows = [(str(number), None, {"@timestamp": "2024-05-01", "n": number}) for number in range(1, 4)]
    wanted = {"0": {"@timestamp": "2024-05-01"}, **{key: document for key, _, document in rows}}
    async with scene.session() as session:
        load = load_of(session, whole(name))
        assert any("data stream" in text for text in (await session.target.preview(load)).warnings)
        await scan(session, load, rows)
        done = await scan(session, load, rows)
        assert done.rows == 3
        assert contents(scene, name) == wanted
        with pytest.raises(UnsupportedError, match="data stream"):
            await session.target.preview(load_of(session, whole(name, pre_action="swap")))
        await scan(session, load_of(session, whole(name, pre_action="truncate")), rows[:1])
    assert contents(scene, name) == {"1": wanted["1"]}


# What goes wrong -----------------------------------------------------------------


async def test_an_index_that_is_deleted_meanwhile_is_noticed(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        load = load_of(session, whole(name))
        writer = await session.prepare(load)
        await writer.write(batch_of(load, numbered(1)))
        await session.commit(writer, "1")
        scene.ask("DELETE", f"/{name}")
        await writer.write(batch_of(load, numbered(2)))
        with pytest.raises(TargetError, match="was deleted while it was written"):
            await session.commit(writer, "2")
        await writer.abort()
        checkpoint = await session.checkpoint()
        assert checkpoint is not None
        assert checkpoint.watermark == "1"


@pytest.mark.parametrize("write", ["upsert", "append"])
@pytest.mark.parametrize("after", [1_000, 200_000, 700_000])
async def test_a_bulk_that_is_cut_in_the_middle_neither_loses_nor_doubles(scene: Scene, write: str, after: int) -> None:
    name = f"{scene.prefix}-t"
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), ("text", pa.string())])
    rows = [{"id": number, "text": "x" * 100} for number in range(5000)]
    table = table_spec(name, write=write, **({"key": "id"} if write == "upsert" else {}))
    async with Proxy(scene.server.host, scene.server.port) as proxy:
        url = scene.server.at(proxy.host, proxy.port).url
        async with scene.session(url=url) as session:
            writer = await session.prepare(session.load(table, schema=schema))
            proxy.break_after(after, "to_server")
            (batch,) = pa.Table.from_pylist(rows, schema=schema).to_batches()
            await writer.write(batch)
            proxy_broken = proxy.broken
            proxy.break_after(after // 10, "to_client")
            await session.commit(writer)
            await session.finish(writer)
            assert proxy.broken >= max(1, proxy_broken)
    found = await scene.server.run("GET", f"/{name}/_search?size=10000")
    assert sorted(hit["_source"]["id"] for hit in found["hits"]["hits"]) == list(range(5000))


# Rows without a key --------------------------------------------------------------

LOG = pa.schema([field("n", pa.int64()), field("@timestamp", pa.timestamp("ms", "UTC"))])


def log(*numbers: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"n": number, "@timestamp": 0} for number in numbers], schema=LOG)


def logged(scene: Scene, name: str) -> list[int]:
    return sorted(document["n"] for document in contents(scene, name).values())


def logs_to(scene: Scene, kind: str) -> str:
    """What rows are appended to: an index, one behind an alias, or a data stream."""
    name = f"{scene.prefix}-log"
    if kind == "alias":
        scene.ask("PUT", f"/{name}-1", {"aliases": {name: {}}})
        scene.ask("PUT", f"/{name}-2", {"aliases": {name: {"is_write_index": True}}})
    if kind == "data stream":
        template = {"index_patterns": [f"{name}*"], "data_stream": {}, "priority": 500}
        scene.ask("PUT", f"/_index_template/{name}", template)
        scene.ask("POST", f"/{name}/_bulk?refresh=true", b'{"create":{"_id":"0"}}\n{"@timestamp":"2024-05-01","n":0}\n')
    else:
        scene.server.put(name, {"0": {"@timestamp": "2024-05-01", "n": 0}})
    return name


@pytest.mark.parametrize("kind", ["index", "alias", "data stream"])
async def test_appended_rows_of_a_slice_that_is_read_again_are_not_doubled(scene: Scene, kind: str) -> None:
    """Although the second reading brings other rows, in another order."""
    name = logs_to(scene, kind)
    async with scene.session() as session:
        writer = await session.prepare(session.load(table_spec(name, write="append"), schema=LOG))
        await writer.write(log(1, 2))
        await session.commit(writer, "1")
        await writer.write(log(*range(3, 12_000)))
        await writer.discard()
        await writer.discard()
        await writer.write(log(4, 3, 5))
        done = await session.commit(writer, "2")
        await session.finish(writer)
    assert done.rows == 3
    assert logged(scene, name) == [0, 1, 2, 3, 4, 5]


async def test_appended_rows_of_a_scan_that_is_given_up_do_not_stay(scene: Scene) -> None:
    name = logs_to(scene, "index")
    async with scene.session() as session:
        writer = await session.prepare(session.load(table_spec(name, write="append"), schema=LOG))
        await writer.write(log(1))
        await session.commit(writer)
        await writer.write(log(2))
        await writer.abort()
    assert logged(scene, name) == [0, 1]


async def test_appended_rows_that_a_checkpoint_may_count_stay(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    name = logs_to(scene, "index")
    save = ElasticsearchStore.save

    async def lost(*arguments: Any) -> None:
        await save(*arguments)
        raise ConnectionFailed("the answer is lost")

    async with scene.session() as session:
        writer = await session.prepare(session.load(table_spec(name, write="append"), schema=LOG))
        await writer.write(log(1))
        monkeypatch.setattr(ElasticsearchStore, "save", lost)
        with pytest.raises(ConnectionFailed):
            await session.commit(writer)
        await writer.abort()
    assert logged(scene, name) == [0, 1]


async def test_appended_rows_that_are_no_longer_found_end_the_scan(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = logs_to(scene, "alias")
    settle = Bulk.settle

    async def rolled_over(bulk: Bulk) -> None:
        await settle(bulk)
        written = {f"{name}-1": True, f"{name}-2": False}
        actions = [{"add": {"index": one, "alias": name, "is_write_index": yes}} for one, yes in written.items()]
        await scene.server.run("POST", "/_aliases", {"actions": actions})

    async with scene.session() as session:
        writer = await session.prepare(session.load(table_spec(name, write="append"), schema=LOG))
        await writer.write(log(1, 2))
        monkeypatch.setattr(Bulk, "settle", rolled_over)
        with pytest.raises(TargetError, match=r"of 2 rows .* only 0 could be taken back"):
            await writer.discard()
        await writer.abort()


# Rows of SQL ---------------------------------------------------------------------


async def test_rows_become_documents(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    schema = pa.schema(
        [
            field("region", pa.string(), nullable=False),
            field("id", pa.int64(), nullable=False),
            field("price", pa.decimal128(30, 10)),
            field("at", pa.timestamp("us")),
            field("raw", pa.binary()),
            field("more", pa.string(), json=True),
            field("inner", pa.struct([("a", pa.list_(pa.int32()))])),
        ]
    )
    batch = pa.RecordBatch.from_pylist(
        [
            {
                "region": 'e"u',
                "id": 7,
                "price": 12345678901234567890,
                "at": 1_714_564_800_123_456,
                "raw": b"\x00\xff",
                "more": '{"k": [{"x": null}]}',
                "inner": {"a": [1, 2]},
            },
            {"region": "us", "id": 8},
        ],
        schema=schema,
    )
    async with scene.session() as session:
        load = session.load(table_spec(name, key=["region", "id"]), schema=schema)
        writer = await session.prepare(load)
        await writer.write(batch)
        await session.commit(writer)
        await session.finish(writer)
        described = await session.target.describe(name)
        assert described is not None
        assert described.names == schema.names
        assert described.key == ("region", "id")
        # Once more: what was created fits itself.
        await session.target.preview(load)
    found = scene.server.texts(name)
    assert set(found) == {'["e\\"u","7"]', '["us","8"]'}
    assert b'"price":12345678901234567890.0000000000' in found['["e\\"u","7"]']
    first = json.loads(found['["e\\"u","7"]'])
    assert first["at"] == "2024-05-01T12:00:00.123456"
    assert first["more"] == {"k": [{"x": None}]}
    assert first["inner"] == {"a": [1, 2]}
    assert first["raw"] == "AP8="
    assert json.loads(found['["us","8"]']) == {
        "region": "us",
        "id": 8,
        "price": None,
        "at": None,
        "raw": None,
        "more": None,
        "inner": None,
    }


async def test_one_target_has_several_loads_open_at_once(scene: Scene) -> None:
    names = [f"{scene.prefix}-{mode}" for mode in ("given-up", "swap", "truncate", "none")]
    modes = ["swap", "swap", "truncate", "none"]
    rows = [(str(n), None, {"n": n}) for n in range(5)]
    async with scene.session() as session:
        loads = [load_of(session, whole(name, pre_action=mode)) for name, mode in zip(names, modes, strict=True)]
        writers = [await session.prepare(load) for load in loads]
        for load, writer in zip(loads, writers, strict=True):
            await writer.write(batch_of(load, rows))
        await session.abort(writers[0])
        for writer in writers[1:]:
            await session.commit(writer)
        for writer in writers[1:]:
            await session.finish(writer)
    assert not any("given-up" in index for index in scene.indices())
    for name in names[1:]:
        assert scene.server.documents(name) == {str(n): {"n": n} for n in range(5)}
