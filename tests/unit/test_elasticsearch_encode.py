"""Rows that cannot be written, ids, versions, and what Arrow and SQL write otherwise than JSON does."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.elasticsearch.target.conflicts import Duplicates, version_of
from retl.connectors.elasticsearch.target.encode import Encoder, Lines, version_numbers
from retl.connectors.elasticsearch.types import document_schema
from retl.model.actions import Action
from retl.model.errors import RepeatedKey
from retl.model.plan import WriteSpec
from retl.model.schema import field
from retl.testing import table_spec

ID = field("id", pa.int64(), nullable=False)


def load_of(schema: pa.Schema, key: tuple[str, ...] = ("id",), **words: Any) -> WriteSpec:
    blacklist = words.pop("blacklist", frozenset())
    return WriteSpec("p", table_spec("t", key=key, **words), schema, key, "scan", blacklist=blacklist)


def values(column: pa.Field, array: pa.Array) -> tuple[list[Any], list[tuple[list[int], str]]]:
    """What a column becomes, and the numbers of the rows that were put aside, with the reasons."""
    schema = pa.schema([ID, column])
    batch = pa.RecordBatch.from_arrays([pa.array(range(len(array)), pa.int64()), array], ["id", column.name])
    lines, refused = Encoder(load_of(schema), schema.names, operation="index", versions=False)(batch)
    found = [json.loads(item.split(b"\n")[1])[column.name] for item in lines.items.to_pylist()]
    return found, [(one.rows.column("id").to_pylist(), one.reason) for one in refused]


@pytest.mark.parametrize("text", ['1, "id": 99', "{", '{"a": 1} {"b": 2}', "NaN", "'a'", "", '{"a":\x01}', "1}\n{"])
def test_text_that_is_no_json_cannot_break_out_of_its_field(text: str) -> None:
    found, refused = values(field("v", pa.string(), json=True), pa.array(['{"a": 1}', text, "[2]"]))
    assert found == [{"a": 1}, [2]]
    assert refused == [([1], "the text is not JSON")]


def test_numbers_as_sql_writes_them() -> None:
    texts = pa.array(["007", "+5", "-0012.50", "0", "1e5", "-0", None])
    found, refused = values(field("v", pa.decimal128(20, 2)), texts)
    assert (found, refused) == ([7, 5, -12.5, 0, 1e5, 0, None], [])
    found, refused = values(field("v", pa.float64()), pa.array(["1.5", "nan", "Infinity", "x", ".5"]))
    assert found == [1.5]
    assert [numbers for numbers, _ in refused] == [[1, 2, 3, 4]]


def test_truth_values_that_are_none() -> None:
    found, refused = values(field("v", pa.bool_()), pa.array(["1", "maybe", "false"]))
    assert (found, refused) == ([True, False], [([1], "the text is not a boolean")])


def test_zones_have_minutes() -> None:
    texts = pa.array(["2024-05-01 12:00:00.5+02", "2024-05-01 12:00:00Z", "2024-05-01 12:00:00-03:30"])
    found, _ = values(field("v", pa.timestamp("us", "UTC")), texts)
    assert found == ["2024-05-01T12:00:00.5+02:00", "2024-05-01T12:00:00Z", "2024-05-01T12:00:00-03:30"]


def test_times_that_nobody_reads_are_put_aside() -> None:
    array = pa.array([0, 2**60], pa.int64()).view(pa.timestamp("us"))
    found, refused = values(field("v", pa.timestamp("us")), array)
    assert (found, refused) == (["1970-01-01T00:00:00.000000"], [([1], "the time lies outside the years 1 to 9999")])


def test_a_nan_within_a_nested_value_is_not_made_null() -> None:
    array = pa.array([{"a": [1.0]}, {"a": [float("nan")]}, None], pa.struct([("a", pa.list_(pa.float64()))]))
    found, refused = values(field("v", array.type), array)
    assert (found, refused) == ([{"a": [1.0]}, None], [([1], "the value has no form in JSON")])


def test_maps_and_uuids() -> None:
    array = pa.array([[("a", 1)], [("b", 2), ("c", 3)]], pa.map_(pa.string(), pa.int64()))
    assert values(field("v", array.type), array)[0] == [{"a": 1}, {"b": 2, "c": 3}]
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16))], pa.binary(16)))
    assert values(field("v", pa.uuid()), uuids)[0] == ["00010203-0405-0607-0809-0a0b0c0d0e0f"]


def test_ids_that_the_server_does_not_take_are_put_aside() -> None:
    schema = pa.schema([field("id", pa.string())])
    names = ["a" * 512, "a" * 513, "ü" * 256, "ü" * 257, "", None, 'q"\n']
    batch = pa.RecordBatch.from_arrays([pa.array(names, pa.string())], schema=schema)
    lines, refused = Encoder(load_of(schema), ["id"], operation="index", versions=False)(batch)
    assert lines.ids.to_pylist() == ["a" * 512, "ü" * 256, 'q"\n']
    assert [
        json.loads(item.split(b"\n")[0])["index"]["_id"] for item in lines.items.to_pylist()
    ] == lines.ids.to_pylist()
    assert {one.reason: one.rows.column("id").to_pylist() for one in refused} == {
        "the key is NULL": [None],
        "the _id is longer than 512 bytes": ["a" * 513, "ü" * 257],
        "the _id is empty": [""],
    }


def test_appended_rows_have_ids_of_their_own() -> None:
    schema = pa.schema([field("n", pa.int64())])
    load = WriteSpec("p", table_spec("t", write="append"), schema, (), "scan")
    batch = pa.RecordBatch.from_pydict({"n": [1, 1]}, schema=schema)
    first, second = (Encoder(load, ["n"], operation="create", versions=False) for _ in range(2))
    ids = [name for encoder in (first, first, second) for name in encoder(batch)[0].ids.to_pylist()]
    assert len(set(ids)) == 6


def test_versions() -> None:
    assert version_numbers(pa.array(["2024-05-01 12:00:00.000000001Z"]), pa.timestamp("ns", "UTC")).to_pylist() == [
        1_714_564_800_000_000_001
    ]
    days = pa.array([1, -1, None], pa.int32()).view(pa.date32())
    assert version_numbers(days, pa.date32()).to_pylist() == [86_400_000_000_000, None, None]
    far = pa.array(["9999-12-31 00:00:00", "2024-05-01 12:00:00", "0001-01-01 00:00:00"])
    assert version_numbers(far, pa.timestamp("us")).to_pylist() == [None, 1_714_564_800_000_000_000, None]
    assert version_numbers(pa.array([2**64 - 1, 5], pa.uint64()), pa.uint64()).to_pylist() == [None, 5]
    assert version_numbers(pa.array(["x"]), pa.string()).to_pylist() == [None]


@pytest.mark.parametrize(("operation", "blacklist"), [("create", ()), ("index", (Action.INSERT,))])
def test_what_does_not_compare_has_no_version(operation: Any, blacklist: tuple[Action, ...]) -> None:
    schema = pa.schema([ID, field("seq", pa.int64())])
    load = load_of(schema, cursor="seq", blacklist=frozenset(blacklist))
    batch = pa.RecordBatch.from_pydict({"id": [1], "seq": [5]}, schema=schema)
    lines, _ = Encoder(load, schema.names, operation=operation, versions=True)(batch)
    assert json.loads(lines.items[0].as_py().split(b"\n")[0]) == {operation: {"_id": "1"}}


def test_some_lines_make_a_request() -> None:
    lines = documents("abcde")
    assert lines.body(pa.array([1, 2]).to_numpy()) == b"".join(lines.items.to_pylist()[1:3])
    assert lines.body(pa.array([0, 3]).to_numpy()) == lines.items[0].as_py() + lines.items[3].as_py()
    assert lines.sizes().tolist() == [len(item) for item in lines.items.to_pylist()]
    same = lines.take([1, 4]).if_unchanged([7, 8], [1, 2])
    actions = [json.loads(item.split(b"\n")[0])["index"] for item in same.items.to_pylist()]
    assert actions == [
        {"if_seq_no": 7, "if_primary_term": 1, "_id": "b"},
        {"if_seq_no": 8, "if_primary_term": 2, "_id": "e"},
    ]
    assert len(lines.take([]).if_unchanged([], [])) == 0


def documents(names: str) -> Lines:
    schema = document_schema()
    batch = pa.RecordBatch.from_arrays(
        [pa.array(list(names)), pa.nulls(len(names), pa.string()), pa.array([b"{}"] * len(names))], schema=schema
    )
    lines, _ = Encoder(load_of(schema, ("_id",)), schema.names, operation="index", versions=False)(batch)
    return lines


def repeating(*rows: tuple[int, str, int | None], batches: int = 1, cursor: str | None = "seq") -> None:
    schema = pa.schema([ID, field("v", pa.string()), field("seq", pa.int64())])
    load = load_of(schema, cursor=cursor)
    encoder = Encoder(load, schema.names, operation="index", versions=True)
    duplicates = Duplicates(load)
    size = -(-len(rows) // batches)
    for first in range(0, len(rows), size):
        part = [dict(zip(schema.names, row, strict=True)) for row in rows[first : first + size]]
        duplicates.add(encoder(pa.RecordBatch.from_pylist(part, schema=schema))[0])
    duplicates.check()


@pytest.mark.parametrize("batches", [1, 3])
def test_a_repeated_key(batches: int) -> None:
    repeating((1, "a", 1), (2, "a", 1), (1, "b", 2), batches=batches)
    repeating((1, "a", 1), (1, "a", 1), (1, "a", 1), batches=batches)
    repeating((1, "a", 1), (1, "b", 1), (1, "c", 2), batches=3)
    with pytest.raises(RepeatedKey, match="1"):
        repeating((1, "a", 2), (2, "a", 1), (1, "b", 2), batches=batches)
    with pytest.raises(RepeatedKey):
        repeating((1, "a", 1), (2, "a", 1), (1, "b", 2), batches=batches, cursor=None)


@pytest.mark.parametrize(
    ("source", "logical", "version"),
    [
        ({"at": "2024-05-02"}, pa.timestamp("ms", "UTC"), 1_714_608_000 * 10**9),
        ({"at": "2024-05-02T00:00:00.000000001Z"}, pa.timestamp("ns", "UTC"), 1_714_608_000 * 10**9 + 1),
        ({"at": "2024-05-02T02:00:00.5+02:00"}, pa.timestamp("us"), 1_714_608_000 * 10**9 + 5 * 10**8),
        ({"at": 1_714_608_000_000}, pa.timestamp("ms", "UTC"), 1_714_608_000 * 10**9),
        ({"at": 7}, pa.int64(), 7),
        ({"at": "7"}, pa.int64(), 7),
        ({"x": {"at": 7}}, pa.int64(), None),
        ({"at": "soon"}, pa.timestamp("ms", "UTC"), None),
        ({"at": ["2024-05-02"]}, pa.timestamp("ms", "UTC"), None),
        ({"at": True}, pa.int64(), None),
        ({}, pa.int64(), None),
    ],
)
def test_a_document_tells_its_own_version(source: dict[str, Any], logical: pa.DataType, version: int | None) -> None:
    """As the version that a row of this cursor would be sent with."""
    assert version_of(source, "at", logical) == version
    nested: dict[str, Any] = {"a.b": {"c": source}}
    assert version_of(nested, "a.b.c.at", logical) == version
