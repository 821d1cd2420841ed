"""Elasticsearch as columns: what becomes of every type, of objects, of arrays, and of what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors import Elasticsearch
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, SourceError, UnsupportedError
from retl.model.schema import is_json
from retl.testing import Scans, collect, table_spec
from tests.servers.search import SearchServer

TYPES = {
    "t": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
    "k": {"type": "keyword", "ignore_above": 10},
    "ip": {"type": "ip"},
    "by": {"type": "byte"},
    "l": {"type": "long"},
    "f": {"type": "float"},
    "d": {"type": "double"},
    "ok": {"type": "boolean"},
    "bin": {"type": "binary"},
    "day": {"type": "date", "format": "dd/MM/yyyy||epoch_second"},
    "at": {"type": "date_nanos"},
    "geo": {"type": "geo_point"},
    "user": {"properties": {"name": {"type": "keyword"}, "deep": {"properties": {"age": {"type": "integer"}}}}},
    "parts": {"type": "nested", "properties": {"a": {"type": "long"}}},
    "flat": {"type": "flattened"},
    "raw": {"type": "object", "enabled": False},
    "other": {"type": "alias", "path": "k"},
}
ALL = {
    "t": 'a "text"',
    "k": "longer than ten",
    "ip": "::1",
    "by": -128,
    "l": 2**63 - 1,
    "f": 0.5,
    "d": 1e300,
    "ok": "true",
    "bin": "AAH/",
    "day": "31/12/2023",
    "at": "2262-01-01T00:00:00.123456789Z",
    "geo": {"lat": 1.5, "lon": 2.5},
    "user": {"name": "ann", "deep": {"age": 7}},
    "parts": [{"a": 1}, {"a": 2}],
    "flat": {"x": {"y": "z"}},
    "raw": {"n": 1},
}
EXPECTED = {
    "_id": "all",
    "t": 'a "text"',
    "k": "longer than ten",
    "ip": "::1",
    "by": -128,
    "l": 2**63 - 1,
    "f": 0.5,
    "d": 1e300,
    "ok": True,
    "bin": b"\x00\x01\xff",
    "day": "2023-12-31 00:00:00.000Z",
    "at": "2262-01-01 00:00:00.123456789Z",
    "geo": '{"coordinates":[2.5,1.5],"type":"Point"}',
    "user.name": "ann",
    "user.deep.age": 7,
    "parts": '[{"a": 1}, {"a": 2}]',
    "flat": '{"x": {"y": "z"}}',
    "raw": '{"n": 1}',
}


def create(server: SearchServer, index: str, properties: Any) -> str:
    server.ask(
        "PUT",
        f"/{index}",
        {"settings": {"number_of_replicas": 0}, "mappings": {"dynamic": False, "properties": properties}},
    )
    return index


async def read(server: SearchServer, index: str, **words: Any) -> dict[str, dict[str, Any]]:
    """The rows by their ids, times as text."""
    found = await collect(Elasticsearch(server.url), table_spec(index, **words))
    plain = [column.with_type(pa.string()) if pa.types.is_timestamp(column.type) else column for column in found.schema]
    return {row["_id"]: row for row in found.cast(pa.schema(plain)).to_pylist()}


async def test_every_type(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, TYPES)
    elasticsearch_server.put(index, {"all": ALL, "none": {}, "nulls": dict.fromkeys(ALL)})
    rows = await read(elasticsearch_server, index)
    shown = {**rows["all"], "geo": json.loads(rows["all"]["geo"])}
    assert shown == {**EXPECTED, "geo": json.loads(str(EXPECTED["geo"]))}
    for empty in ("none", "nulls"):
        assert rows[empty] == {"_id": empty, **dict.fromkeys(name for name in EXPECTED if name != "_id")}


async def test_the_schema_tells_types_and_what_is_json(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, TYPES)
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    plan = await source.plan(table_spec(index), Checkpoint())
    await source.aclose()
    assert {name for name in plan.schema.names if is_json(plan.schema.field(name))} == {"geo", "parts", "flat", "raw"}
    assert sorted(plan.schema.names) == sorted(EXPECTED)
    assert plan.schema.names[0] == "_id"
    assert plan.schema.field("at").type == pa.timestamp("ns", "UTC")
    assert plan.schema.field("day").type == pa.timestamp("ms", "UTC")
    assert plan.key == ("_id",)
    assert plan.unique_key


async def test_dots_in_names_and_objects_in_arrays(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(
        elasticsearch_server, prefix, {"a.b.c": {"type": "long"}, "a.raw": {"type": "object", "enabled": False}}
    )
    documents = {
        "objects": {"a": {"b": {"c": 1}, "raw": {"x": 1}}},
        "dots": {"a.b.c": 2, "a.raw": {"x": 2}},
        "mixed": {"a": {"b.c": 3}, "a.raw": [1]},
        "array": {"a": [{"b": {"c": 4}}, {"raw": 5}]},
    }
    elasticsearch_server.put(index, documents)
    rows = await read(elasticsearch_server, index)
    assert {key: row["a.b.c"] for key, row in rows.items()} == {"objects": 1, "dots": 2, "mixed": 3, "array": 4}
    raws = {key: row["a.raw"] for key, row in rows.items()}
    assert raws == {"objects": '{"x": 1}', "dots": '{"x": 2}', "mixed": "[1]", "array": "[5]"}


async def test_json_columns_keep_every_digit(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, {"raw": {"type": "object", "enabled": False}})
    text = b'{"raw":{"n":12345678901234567890.123456789,"e":1E+5,"z":1.10}}'
    elasticsearch_server.put(index, {"1": text})
    assert (await read(elasticsearch_server, index))["1"]["raw"].encode() == text[len(b'{"raw":') : -1]


async def test_arrays_are_json_where_they_are_declared_and_an_error_elsewhere(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    index = create(elasticsearch_server, prefix, {"tags": {"type": "keyword"}, "n": {"type": "long"}})
    elasticsearch_server.put(index, {"a": {"tags": ["x", "y"], "n": [7]}, "b": {"tags": "z"}, "c": {"n": 1}})
    rows = await read(elasticsearch_server, index, format={"arrays": ["tags"]})
    assert {key: (row["tags"], row["n"]) for key, row in rows.items()} == {
        "a": ('["x","y"]', 7),
        "b": ('["z"]', None),
        "c": (None, 1),
    }
    with pytest.raises(SourceError, match=r"'tags' of the document 'a' has several values.*arrays = \[\"tags\"\]"):
        await read(elasticsearch_server, index)
    assert (await read(elasticsearch_server, index, columns=["_id", "n"]))["a"] == {"_id": "a", "n": 7}


async def test_a_value_that_the_index_ignores_is_an_error_and_text_is_not_lost(
    elasticsearch_server: SearchServer, prefix: str
) -> None:
    properties = {"n": {"type": "long", "ignore_malformed": True}, "k": {"type": "keyword", "ignore_above": 3}}
    index = create(elasticsearch_server, prefix, properties)
    elasticsearch_server.put(index, {"good": {"n": 1, "k": "long text"}, "bad": {"n": "one", "k": "x"}})
    with pytest.raises(
        SourceError, match="'n' of the document 'bad' holds a value that is not a valid long, such as \"one\""
    ) as error:
        await read(elasticsearch_server, index)
    where = '{"bool": {"must_not": {"term": {"_ignored": "n"}}}}'
    assert f"where = '{where}'" in str(error.value)
    assert await read(elasticsearch_server, index, where=where) == {"good": {"_id": "good", "n": 1, "k": "long text"}}


async def test_columns_renames_and_keys(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, {"n": {"type": "long"}, "user.name": {"type": "keyword"}})
    elasticsearch_server.put(index, {"a": {"n": 1, "user": {"name": "x"}}})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    words = {"columns": ["user.name", "n", "_id"], "rename": {"user.name": "name", "_id": "id"}}
    plan = await source.plan(table_spec(index, **words), Checkpoint())
    assert plan.schema.names == ["name", "n", "id"]
    assert plan.key == ("id",)
    found = await collect(source.source, table_spec(index, **words))
    assert found.to_pylist() == [{"name": "x", "n": 1, "id": "a"}]
    keyed = await source.plan(table_spec(index, key="n"), Checkpoint())
    assert (keyed.key, keyed.unique_key) == (("n",), False)
    with pytest.raises(UnsupportedError, match="computes no columns"):
        await source.plan(table_spec(index, expressions={"x": "1"}), Checkpoint())
    with pytest.raises(ConfigError, match="arrays"):
        await source.plan(table_spec(index, format={"array": ["n"]}), Checkpoint())
    await source.aclose()


async def test_a_cursor_that_is_not_among_the_columns(elasticsearch_server: SearchServer, prefix: str) -> None:
    index = create(elasticsearch_server, prefix, {"n": {"type": "long"}, "at": {"type": "date"}})
    elasticsearch_server.put(index, {str(n): {"n": n, "at": f"2024-05-0{n}"} for n in range(1, 6)})
    source = Scans(Elasticsearch(elasticsearch_server.url).source())
    table = table_spec(index, columns=["_id", "n"], cursor="at")
    plan = await source.plan(table, Checkpoint())
    assert plan.slices[0].ordered_by is None
    assert plan.slices[0].watermark == "2024-05-05T00:00:00.000Z"
    assert (await collect(source.source, table))["n"].to_pylist() == [1, 2, 3, 4, 5]
    await source.aclose()


async def test_indices_that_disagree(elasticsearch_server: SearchServer, prefix: str) -> None:
    create(
        elasticsearch_server, f"{prefix}-1", {"n": {"type": "integer"}, "x": {"type": "long"}, "k": {"type": "text"}}
    )
    create(
        elasticsearch_server, f"{prefix}-2", {"n": {"type": "long"}, "x": {"type": "keyword"}, "k": {"type": "keyword"}}
    )
    elasticsearch_server.put(f"{prefix}-1", {"a": {"n": 1, "x": 1, "k": "one"}})
    elasticsearch_server.put(f"{prefix}-2", {"b": {"n": 2**40, "x": "x", "k": "two"}})
    with pytest.raises(
        ConfigError, match=r"disagree on the field 'x': it is keyword in retl\w+-2 and long in retl\w+-1"
    ):
        await read(elasticsearch_server, f"{prefix}-*")
    rows = await read(elasticsearch_server, f"{prefix}-*", columns=["_id", "n", "k"])
    assert rows == {"a": {"_id": "a", "n": 1, "k": "one"}, "b": {"_id": "b", "n": 2**40, "k": "two"}}
