"""What an index of the target is like: tried before anything is deleted, kept by every mode, or refused beforehand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.elasticsearch.target.refresh import shadow_name
from retl.model.actions import Action
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, TargetError
from retl.model.schema import field
from retl.testing import table_spec
from tests.integration.elasticsearch.between import Answer, Asked, between
from tests.integration.elasticsearch.scene import Scene, batch_of, load_of, scan, whole
from tests.servers.search import SearchServer

Forward = Callable[[], Awaitable[Answer]]
ROWS = [(str(n), "r", {"n": n, "at": "2024-05-01"}) for n in range(5)]
NEW = {key: content for key, _, content in ROWS}
OLD = {"old": {"n": 99, "at": "2024-05-01"}}


@pytest.fixture
def scene(elasticsearch_server: SearchServer, prefix: str) -> Scene:
    return Scene(elasticsearch_server, prefix)


def existing(scene: Scene, **body: Any) -> str:
    """An index of the target with one document; its name."""
    name = f"{scene.prefix}-t"
    settings = {"number_of_replicas": 0, **body.pop("settings", {})}
    last = {"final_pipeline": settings.pop("final_pipeline", None)}
    scene.ask("PUT", f"/{name}", {"settings": settings, **body})
    scene.server.put(name, OLD, routing="r")
    scene.ask("PUT", f"/{name}/_settings", {"index": last})
    return name


# Nothing irreversible -----------------------------------------------------------------


async def test_what_a_template_makes_a_data_stream_is_not_deleted(
    search_server: SearchServer, search_prefix: str
) -> None:
    scene = Scene(search_server, search_prefix)
    name = existing(scene)
    templates: list[dict[str, Any]] = [{"priority": 7}, {"data_stream": {}, "priority": 8}]
    for number, about in enumerate(templates):
        body = {"index_patterns": [f"{search_prefix}*"], **about}
        scene.ask("PUT", f"/_index_template/{search_prefix}-{number}", body)
    async with scene.session() as session:
        load = load_of(session, whole(name, pre_action="truncate"))
        with pytest.raises(ConfigError, match=f"template '{search_prefix}-1' makes a data stream") as caught:
            await session.target.preview(dataclasses.replace(load, fence=None))
        assert 'truncate = "delete_by_query"' in str(caught.value)
        with pytest.raises(ConfigError, match="makes a data stream"):
            await session.prepare(load)
        assert scene.server.documents(name) == OLD
        assert scene.indices() == [name]
        await scan(session, dataclasses.replace(load, blacklist=frozenset({Action.DROP})), ROWS)
    assert scene.server.documents(name) == NEW


async def test_a_name_that_a_template_has_taken_is_said_before_an_index_is_created(scene: Scene) -> None:
    name = f"{scene.prefix}-new"
    template: dict[str, Any] = {"index_patterns": [f"{scene.prefix}*"], "data_stream": {}}
    scene.ask("PUT", f"/_index_template/{scene.prefix}", template)
    async with scene.session() as session:
        load = load_of(session, whole(name))
        for attempt in (session.target.preview(dataclasses.replace(load, fence=None)), session.prepare(load)):
            with pytest.raises(ConfigError, match=f"{name}.*data stream.*PUT /_data_stream/NAME"):
                await attempt
        assert scene.indices() == []


@pytest.mark.parametrize("mode", ["none", "truncate"])
async def test_an_alias_that_is_not_to_be_written_is_refused(scene: Scene, mode: str) -> None:
    name = existing(scene, aliases={f"{scene.prefix}-a": {"is_write_index": False}})
    async with scene.session() as session:
        with pytest.raises(ConfigError, match="none is the one to write"):
            await session.prepare(load_of(session, whole(f"{scene.prefix}-a", pre_action=mode)))
    assert scene.server.documents(name) == OLD


@pytest.mark.parametrize("truncate", ["recreate", "delete_by_query"])
async def test_what_would_refuse_every_document_is_said_before_an_index_is_emptied(scene: Scene, truncate: str) -> None:
    name = existing(scene, settings={"final_pipeline": f"{scene.prefix}-gone"})
    async with scene.session(truncate=truncate) as session:
        load = load_of(session, whole(name, pre_action="truncate"))
        for attempt in (session.target.preview(load), session.prepare(load)):
            with pytest.raises(TargetError, match=f"pipeline with id .{scene.prefix}-gone., which does not exist"):
                await attempt
    assert scene.server.documents(name) == OLD


@pytest.mark.parametrize("mode", ["truncate", "swap"])
async def test_a_setting_that_no_index_can_be_created_with_is_left_out_and_said(scene: Scene, mode: str) -> None:
    name = existing(scene)

    async def hook(asked: Asked, forward: Forward) -> Answer:
        status, body = await forward()
        if (asked.method, asked.path) != ("GET", f"/{name}") or status != 200:
            return status, body
        found = json.loads(body)
        (about,) = found.values()
        own = {"resize": {"source": {"name": "x"}}, "made": {"up": "1"}, "routing": {"allocation": {"made_up": "1"}}}
        about["settings"]["index"] |= own
        return status, json.dumps(found).encode()

    async with between(scene.server) as line, scene.session(url=line.url) as session:
        line.hook = hook
        load = load_of(session, whole(name, pre_action=mode))
        (warning,) = (await session.target.preview(load)).warnings
        assert "not given the settings index.made.up, index.routing.allocation.made_up of" in warning
        await scan(session, load, ROWS)
    assert scene.server.documents(name) == NEW


async def test_aliases_and_pipelines_of_a_template_that_came_later_are_not_given(scene: Scene) -> None:
    name = existing(scene, aliases={f"{scene.prefix}-mine": {}})
    template = {"aliases": {f"{scene.prefix}-readers": {}}, "settings": {"default_pipeline": "none-such"}}
    scene.ask("PUT", f"/_index_template/{scene.prefix}", {"index_patterns": [f"{name}*"], "template": template})
    async with scene.session() as session:
        await scan(session, load_of(session, whole(name, pre_action="truncate")), ROWS)
    assert list(scene.about(name)["aliases"]) == [f"{scene.prefix}-mine"]
    assert scene.server.documents(name) == NEW


async def test_nothing_is_deleted_before_its_definition_was_tried(scene: Scene) -> None:
    name = existing(scene)

    async def hook(asked: Asked, forward: Forward) -> Answer:
        if asked.method == "PUT" and asked.json.get("settings", {}).get("index", {}).get("number_of_shards"):
            return 400, json.dumps({"error": {"type": "illegal_argument_exception", "reason": "not so"}}).encode()
        return await forward()

    async with between(scene.server) as line, scene.session(url=line.url) as session:
        load = load_of(session, whole(name, pre_action="truncate"))
        line.hook = hook
        with pytest.raises(ConfigError, match=f"cannot have an index '{name}' as it would be created: not so"):
            await session.prepare(load)
        assert ("DELETE", f"/{name}") not in {(asked.method, asked.path) for asked in line.asked}
    assert scene.server.documents(name) == OLD


@pytest.mark.parametrize("refused", ["its own name", "every name"])
async def test_what_cannot_be_created_again_after_all_is_not_lost(scene: Scene, refused: str) -> None:
    mappings = {"properties": {"n": {"type": "integer"}}}
    name = existing(scene, mappings=mappings)
    gone = [False]

    async def hook(asked: Asked, forward: Forward) -> Answer:
        path = asked.path.split("?")[0]
        gone[0] = gone[0] or (asked.method, path) == ("DELETE", f"/{name}")
        again = asked.method == "PUT" and path.count("/") == 1 and not path.endswith("-state")
        if again and gone[0] and (path == f"/{name}" or refused == "every name"):
            return 400, json.dumps({"error": {"type": "illegal_argument_exception", "reason": "no more"}}).encode()
        return await forward()

    async with between(scene.server) as line, scene.session(url=line.url) as session:
        line.hook = hook
        load = load_of(session, whole(name, pre_action="truncate"))
        with pytest.raises(TargetError, match="no more") as caught:
            await session.prepare(load)
        if refused == "every name":
            assert f"lie in the index 'retl-{name}-note'" in str(caught.value)
            assert scene.indices() == [f"retl-{name}-note"]
        else:
            assert f"is now the index 'retl-{name}-again', empty, behind the alias '{name}'" in str(caught.value)
            assert scene.server.documents(name) == {}
        line.hook = None
        await scan(session, load, ROWS)
    assert scene.server.documents(name) == NEW
    assert scene.about(name)["mappings"]["properties"]["n"] == {"type": "integer"}


# Every setting that could matter --------------------------------------------------------

DATES = {"@timestamp": {"type": "date"}, "n": {"type": "long"}}
INDICES: dict[str, dict[str, Any]] = {
    "settings": {
        "settings": {
            "hidden": True,
            "refresh_interval": "-1",
            "codec": "best_compression",
            "gc_deletes": "5m",
            "max_result_window": 77,
            "mapping.total_fields.limit": 5,
            "mapping.coerce": False,
            "analysis.analyzer.mine.type": "keyword",
            "similarity.own.type": "boolean",
            "mode": "lookup",
            "routing.allocation.include._name": "*",
            "routing.rebalance.enable": "none",
            "search.slowlog.threshold.query.warn": "10s",
            "indexing.slowlog.source": "0",
            "priority": 7,
        }
    },
    "routing partition": {
        "settings": {"number_of_shards": 4, "routing_partition_size": 2},
        "mappings": {"_routing": {"required": True}, "dynamic": False},
    },
    "strict and sorted": {
        "settings": {"sort.field": "n", "sort.order": "desc"},
        "mappings": {"dynamic": "strict", "properties": {"n": {"type": "long"}, "at": {"type": "date"}}},
    },
    "without source": {"mappings": {"_source": {"enabled": False}}},
    "source in part": {
        "mappings": {"_source": {"excludes": ["at"]}, "dynamic": "runtime", "runtime": {"r": {"type": "long"}}}
    },
    "alias": {"aliases": {"ALIAS": {"filter": {"range": {"n": {"gte": 2}}}, "search_routing": "r", "is_hidden": True}}},
}
REFUSED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "write": ({"index.blocks.write": True}, {"none", "truncate"}),
    "read_only": ({"index.blocks.read_only": True}, {"none", "truncate", "swap"}),
    "read_only_allow_delete": ({"index.blocks.read_only_allow_delete": True}, {"none", "truncate"}),
}


def own_settings(scene: Scene, name: str) -> dict[str, Any]:
    settings = scene.about(name)["settings"]["index"]
    given = ("uuid", "creation_date", "provided_name", "version")
    return {key: value for key, value in settings.items() if key not in given}


@pytest.mark.parametrize("kind", INDICES)
async def test_an_index_stays_what_it_is_in_every_mode(scene: Scene, kind: str) -> None:
    body = json.loads(json.dumps(INDICES[kind]).replace("ALIAS", f"{scene.prefix}-view"))
    name = existing(scene, **body)
    before, about = own_settings(scene, name), scene.about(name)
    async with scene.session() as session:
        for number, mode in enumerate(("none", "truncate", "swap", "swap")):
            load = load_of(session, whole(name, pre_action=mode), scan_id=f"20240501T12000{number}.000001-a")
            assert not [text for text in (await session.target.preview(load)).warnings if "not given" in text]
            await scan(session, load, ROWS)
            assert scene.ask("GET", f"/{name}/_count")["count"] == (6 if mode == "none" else 5)
            assert own_settings(scene, name) == before
            now = scene.about(name)
            assert {**now["aliases"], name: {}} == {**about["aliases"], name: {}}
            assert {key: value for key, value in now["mappings"].items() if key not in ("properties", "_meta")} == {
                key: value for key, value in about["mappings"].items() if key != "properties"
            }
    assert len(scene.indices()) == 1


@pytest.mark.parametrize("block", REFUSED)
@pytest.mark.parametrize("mode", ["none", "truncate", "swap"])
async def test_a_block_is_respected_or_put_back(scene: Scene, block: str, mode: str) -> None:
    settings, refused_in = REFUSED[block]
    name = existing(scene)
    scene.ask("PUT", f"/{name}/_settings", settings)
    try:
        async with scene.session() as session:
            load = load_of(session, whole(name, pre_action=mode))
            if mode in refused_in:
                for attempt in (session.target.preview(load), session.prepare(load)):
                    with pytest.raises((ConfigError, ConnectionFailed), match=f"'{name}'.*index.blocks.{block}"):
                        await attempt
                assert scene.server.documents(name) == OLD
                return
            await scan(session, load, ROWS)
            assert scene.server.documents(name) == NEW
            kept = own_settings(scene, name).get("blocks")
            assert kept == ({"write": "true"} if block == "write" else None)
    finally:
        scene.ask("PUT", f"/{name}/_settings", dict.fromkeys(settings))


async def test_time_series_are_refused_without_a_reject(scene: Scene) -> None:
    """The server makes their ids itself."""
    name = f"{scene.prefix}-t"
    properties = {**DATES, "d": {"type": "keyword", "time_series_dimension": True}}
    settings = {"mode": "time_series", "routing_path": ["d"], "number_of_replicas": 0}
    scene.ask("PUT", f"/{name}", {"settings": settings, "mappings": {"properties": properties}})
    async with scene.session() as session:
        with pytest.raises(RetlError, match="time_series"):
            await session.target.preview(load_of(session, whole(name)))


async def test_rows_of_sql_have_no_routing_to_give(scene: Scene) -> None:
    name = existing(scene, mappings={"_routing": {"required": True}})
    async with scene.session() as session:
        load = session.load(table_spec(name, key="id"), schema=pa.schema([field("id", pa.int64())]))
        with pytest.raises(ConfigError, match="_routing"):
            await session.target.preview(load)


# Tried beforehand -----------------------------------------------------------------------

JSON = field("_seq_no", pa.string(), json=True)
UNFIT: dict[str, tuple[list[Any], str, str]] = {
    "a and a.b": ([field("a", pa.int64()), field("a.b", pa.int64())], r"\[a\]", "rename"),
    "no name": ([field("a..b", pa.string(), json=True)], "empty", "rename"),
    "many": ([field(f"f{n}", pa.int64()) for n in range(1001)], "Limit of total fields", "total_fields.limit"),
    "of the server": ([JSON], "_seq_no", "rename"),
}


@pytest.mark.parametrize("mode", ["none", "swap"])
@pytest.mark.parametrize("kind", UNFIT)
async def test_columns_that_no_index_can_have_are_named_beforehand(scene: Scene, kind: str, mode: str) -> None:
    columns, match, way_out = UNFIT[kind]
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        table = table_spec(name, key="id", pre_action=mode)
        load = session.load(table, schema=pa.schema([field("id", pa.int64()), *columns]))
        with pytest.raises(ConfigError, match=match) as caught:
            await session.target.preview(dataclasses.replace(load, fence=None))
        assert way_out in str(caught.value)
        assert scene.indices() == []


async def test_a_new_field_whose_analyzer_the_target_lacks_is_named_beforehand(scene: Scene) -> None:
    name = existing(scene)
    source = {"mappings": {"properties": {"title": {"type": "text", "analyzer": "mine"}}}}
    async with scene.session() as session:
        load = load_of(session, whole(name), index=source)
        for attempt in (session.target.preview(dataclasses.replace(load, fence=None)), session.prepare(load)):
            with pytest.raises(ConfigError, match=f"{name}.*mine.*create the index yourself"):
                await attempt
    assert scene.indices() == [name]
    assert scene.server.documents(name) == OLD


FOREIGN: dict[str, dict[str, Any]] = {
    "runtime": {"runtime": {"r": {"type": "long"}}},
    "subobjects": {"properties": {"o": {"type": "object", "subobjects": False}}},
    "dense_vector": {"properties": {"v": {"type": "dense_vector", "dims": 3}}},
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_another_product_does_not_know_is_named_beforehand(
    opensearch_server: SearchServer, kind: str
) -> None:
    with opensearch_server.fresh_names() as prefix:
        scene = Scene(opensearch_server, prefix)
        async with scene.session() as session:
            load = load_of(session, whole(f"{prefix}-t"), index={"mappings": FOREIGN[kind]})
            for attempt in (session.target.preview(dataclasses.replace(load, fence=None)), session.prepare(load)):
                with pytest.raises(ConfigError, match=f"{prefix}-t.*{kind}.*create the index yourself"):
                    await attempt
        assert scene.indices() == []


async def test_hints_for_how_to_store_are_left_out_with_a_warning(opensearch_server: SearchServer) -> None:
    mappings = {
        "_source": {"mode": "synthetic"},
        "properties": {
            "d": {"type": "keyword", "time_series_dimension": True, "meta": {"unit": "s"}},
            "n": {"type": "long", "time_series_metric": "gauge", "synthetic_source_keep": "all"},
        },
    }
    source = {"mappings": mappings, "settings": {"index": {"mapping": {"source": {"mode": "synthetic"}}}}}
    with opensearch_server.fresh_names() as prefix:
        scene = Scene(opensearch_server, prefix)
        async with scene.session() as session:
            load = load_of(session, whole(f"{prefix}-t"), index=source)
            (warning,) = (await session.target.preview(dataclasses.replace(load, fence=None))).warnings
            assert "_source.mode, mapping.source, synthetic_source_keep, time_series_dimension" in warning
            await scan(session, load, [(key, None, content) for key, _, content in ROWS])
        assert scene.server.documents(f"{prefix}-t") == NEW


# Shadows --------------------------------------------------------------------------------


async def test_a_plan_tells_which_index_a_swap_deletes(scene: Scene) -> None:
    name, behind = existing(scene), f"{scene.prefix}-behind"
    scene.ask("PUT", f"/{behind}", {"aliases": {f"{name}-alias": {}}})
    for keep in (False, True):
        async with scene.session(keep_replaced=keep) as session:
            for to, index in ((name, name), (f"{name}-alias", behind)):
                plan = await session.target.preview(load_of(session, whole(to, pre_action="swap")))
                kept = keep and to != name
                text = f"{index} is kept as retl-{to}-replaced" if kept else f"DELETE /{index} in the same step"
                assert text in plan.statements[-1]
    assert scene.server.documents(name) == OLD


async def test_pipelines_have_shadows_of_their_own(scene: Scene) -> None:
    name = f"{scene.prefix}-t"
    async with scene.session() as session:
        mine = load_of(session, whole(name, pre_action="swap"))
        theirs = dataclasses.replace(mine, pipeline="theirs")
        assert shadow_name(mine) != shadow_name(theirs)
        writer = await session.prepare(mine)
        await writer.write(batch_of(mine, ROWS))
        await session.commit(writer)
        other = scene.options().target()
        try:
            async with other.open_load(dataclasses.replace(theirs, state_in_target=False), None):
                pass
        finally:
            await other.aclose()
        await session.finish(writer)
    assert scene.server.documents(name) == NEW
