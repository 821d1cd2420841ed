"""Every batch becomes exactly the JSON that its values are."""

from __future__ import annotations

import base64
import json
import math
import struct
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.elasticsearch.target.encode import Encoder, Lines
from retl.connectors.elasticsearch.types import document_schema
from retl.model.plan import WriteSpec
from retl.model.schema import field
from retl.testing import table_spec

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def encode(schema: pa.Schema, batch: pa.RecordBatch, **words: Any) -> tuple[Lines, list[Any]]:
    key = words.pop("key", ("id",))
    versions = words.pop("versions", False)
    load = WriteSpec("p", table_spec("t", key=key, **words), schema, key, "scan")
    return Encoder(load, schema.names, operation="index", versions=versions)(batch)


def exact(text: bytes) -> Any:
    """JSON with every digit of a number."""
    return json.loads(text, parse_float=Decimal)


def documents(lines: Lines) -> list[tuple[dict[str, Any], Any]]:
    """Action and document of each row; an item is two lines and nothing else."""
    found = []
    for item in lines.items.to_pylist():
        assert item.endswith(b"\n")
        action, document = item[:-1].split(b"\n")
        found.append((json.loads(action)["index"], exact(document)))
    return found


def column(type: pa.DataType, values: list[Any], *, arrays: Any = None) -> list[Any]:
    """What a column of a type becomes, in the documents."""
    schema = pa.schema([field("id", pa.int64(), nullable=False), field("v", type)])
    array = arrays if arrays is not None else pa.array(values, type)
    batch = pa.RecordBatch.from_arrays([pa.array(range(len(values)), pa.int64()), array], ["id", "v"])
    lines, refused = encode(schema, batch)
    assert refused == []
    found = documents(lines)
    assert [document["id"] for _, document in found] == list(range(len(values)))
    assert lines.ids.to_pylist() == [str(number) for number in range(len(values))]
    return [document["v"] for _, document in found]


@given(st.lists(st.none() | TEXT, max_size=8))
def test_texts(values: list[str | None]) -> None:
    assert column(pa.string(), values) == values
    assert column(pa.large_string(), values) == values
    assert column(pa.string_view(), values) == values
    assert column(pa.string(), values, arrays=pa.array(values, pa.string()).dictionary_encode()) == values


@given(st.lists(st.none() | TEXT, min_size=3, max_size=8))
def test_a_part_of_an_array(values: list[str | None]) -> None:
    whole = pa.array(["before", *values, "after"], pa.string())
    assert column(pa.string(), values, arrays=whole.slice(1, len(values))) == values
    encoded = [None if value is None else value.encode() for value in values]
    part = pa.array([b"before", *encoded, b"after"], pa.binary()).slice(1, len(values))
    shown = [None if value is None else base64.b64encode(value).decode() for value in encoded]
    assert column(pa.binary(), values, arrays=part) == shown


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8), st.booleans())
def test_whole_numbers(values: list[int | None], as_text: bool) -> None:
    arrays = pa.array(values, pa.int64())
    assert column(pa.int64(), values, arrays=arrays.cast(pa.string()) if as_text else arrays) == values
    unsigned = [None if value is None else value + 2**63 for value in values]
    assert column(pa.uint64(), unsigned) == unsigned


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_floats(values: list[float | None]) -> None:
    found = column(pa.float64(), values)
    assert all((a is None) == (b is None) for a, b in zip(found, values, strict=True))
    for was, is_now in zip(values, found, strict=True):
        if was is not None:
            assert not isinstance(is_now, int), "a whole number keeps its point"
            assert struct.pack("d", float(is_now)) == struct.pack("d", was)


@given(st.lists(st.floats(width=32), max_size=8))
def test_floats_that_json_has_no_word_for_are_put_aside(values: list[float]) -> None:
    schema = pa.schema([field("id", pa.int64(), nullable=False), field("v", pa.float32())])
    batch = pa.RecordBatch.from_pydict({"id": list(range(len(values))), "v": values}, schema=schema)
    lines, refused = encode(schema, batch)
    good = [number for number, value in enumerate(values) if math.isfinite(value)]
    assert [document["id"] for _, document in documents(lines)] == good
    assert lines.ids.to_pylist() == list(map(str, good))
    assert sorted(number for one in refused for number in one.rows.column("id").to_pylist()) == [
        number for number in range(len(values)) if number not in good
    ]
    assert {one.column for one in refused} <= {"v"}


@given(
    st.integers(0, 38).flatmap(
        lambda scale: st.tuples(
            st.just(scale), st.lists(st.none() | st.integers(-(10**38) + 1, 10**38 - 1), max_size=6)
        )
    ),
    st.booleans(),
)
def test_decimals_keep_every_digit(drawn: tuple[int, list[int | None]], as_text: bool) -> None:
    scale, unscaled = drawn
    values = [None if value is None else Decimal(value).scaleb(-scale, _wide()) for value in unscaled]
    arrays = pa.array(values, pa.decimal128(38, scale))
    if as_text:
        arrays = pa.array([None if value is None else format(value, "f") for value in values], pa.string())
    assert column(pa.decimal128(38, scale), values, arrays=arrays) == values


def _wide() -> Any:
    from decimal import Context

    return Context(prec=100)


@given(st.lists(st.none() | st.booleans(), max_size=8))
def test_truth_values(values: list[bool | None]) -> None:
    assert column(pa.bool_(), values) == values
    texts = pa.array([None if value is None else "01"[value] for value in values], pa.string())
    assert column(pa.bool_(), values, arrays=texts) == values


@given(st.lists(st.none() | st.binary(max_size=20), max_size=8))
def test_bytes(values: list[bytes | None]) -> None:
    shown = [None if value is None else base64.b64encode(value).decode() for value in values]
    assert column(pa.binary(), values) == shown
    assert column(pa.large_binary(), values) == shown


MOMENTS = st.datetimes()


@given(st.lists(st.none() | MOMENTS, max_size=8), st.booleans())
def test_times(values: list[datetime | None], as_text: bool) -> None:
    def of(type: pa.DataType, given: list[datetime | None]) -> list[Any]:
        arrays = pa.array(given, type)
        return column(type, given, arrays=arrays.cast(pa.string()) if as_text else arrays)

    plain = of(pa.timestamp("us"), values)
    assert [None if text is None else datetime.fromisoformat(text) for text in plain] == values
    assert all(text is None or text[10] == "T" for text in plain)
    aware = [None if value is None else value.replace(tzinfo=UTC) for value in values]
    zoned = of(pa.timestamp("us", "UTC"), aware)
    assert [None if text is None else datetime.fromisoformat(text) for text in zoned] == aware
    assert all(text is None or text.endswith("Z") for text in zoned)
    days = [None if value is None else value.date() for value in values]
    assert [text and date.fromisoformat(text) for text in column(pa.date32(), days)] == days
    clocks = [None if value is None else value.time() for value in values]
    assert [text and time.fromisoformat(text) for text in column(pa.time64("us"), clocks)] == clocks


@given(st.lists(st.integers(0, 2**63 - 1), max_size=8))
def test_nanoseconds_are_kept_and_are_the_version(values: list[int]) -> None:
    stamp = pa.timestamp("ns", "UTC")
    schema = pa.schema([field("id", pa.int64(), nullable=False), field("at", stamp)])
    array = pa.array(values, pa.int64()).view(stamp)
    for given_as in (array, array.cast(pa.string())):
        batch = pa.RecordBatch.from_arrays([pa.array(range(len(values)), pa.int64()), given_as], ["id", "at"])
        lines, refused = encode(schema, batch, cursor="at", versions=True)
        assert refused == []
        assert [action["version"] for action, _ in documents(lines)] == values
        assert {action["version_type"] for action, _ in documents(lines)} <= {"external_gte"}
        assert lines.versions.to_pylist() == values
        for (_, document), value in zip(documents(lines), values, strict=True):
            assert document["at"].endswith(f"{value % 10**9:09d}Z")


@given(st.lists(st.none() | ANY_JSON, max_size=6), st.sampled_from([None, 2]))
def test_json_stays_what_it_is(values: list[Any], indent: int | None) -> None:
    texts = [None if value is None else json.dumps(value, indent=indent) for value in values]
    schema = pa.schema([field("id", pa.int64(), nullable=False), field("v", pa.string(), json=True)])
    batch = pa.RecordBatch.from_pydict({"id": list(range(len(values))), "v": texts}, schema=schema)
    lines, refused = encode(schema, batch)
    assert refused == []
    assert [document["v"] for _, document in documents(lines)] == [text and exact(text.encode()) for text in texts]


@given(st.lists(st.dictionaries(TEXT, ANY_JSON, max_size=3), max_size=6), st.sampled_from([None, 1]), st.data())
def test_a_document_is_not_touched(values: list[dict[str, Any]], indent: int | None, data: st.DataObject) -> None:
    sources = [
        json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass") for value in values
    ]
    ids = data.draw(
        st.lists(
            st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=len(values), max_size=len(values)
        )
    )
    routing = data.draw(st.lists(st.none() | TEXT, min_size=len(values), max_size=len(values)))
    schema = document_schema()
    batch = pa.RecordBatch.from_arrays(
        [pa.array(ids, pa.string()), pa.array(routing, pa.string()), pa.array(sources, pa.binary())], schema=schema
    )
    lines, refused = encode(schema, batch, key=("_id",))
    assert refused == []
    for item, name, way, source in zip(lines.items.to_pylist(), ids, routing, sources, strict=True):
        action, document, end = item.split(b"\n")
        wanted = {"_id": name} if way is None else {"_id": name, "routing": way}
        assert (json.loads(action), end) == ({"index": wanted}, b"")
        assert document == source if indent is None else exact(document) == exact(source)


@given(st.lists(st.tuples(TEXT, st.none() | st.integers(-5, 5)), max_size=8))
def test_the_id_of_several_columns_is_their_json(rows: list[tuple[str, int | None]]) -> None:
    schema = pa.schema([field("a", pa.string()), field("b", pa.int64())])
    batch = pa.RecordBatch.from_pylist([{"a": a, "b": b} for a, b in rows], schema=schema)
    lines, refused = encode(schema, batch, key=("a", "b"))
    wanted = [[a, str(b)] for a, b in rows if b is not None]
    assert [json.loads(name) for name in lines.ids.to_pylist()] == wanted
    assert [json.loads(action["_id"]) for action, _ in documents(lines)] == wanted
    assert sum(one.rows.num_rows for one in refused) == len(rows) - len(wanted)


NESTED = pa.struct([("s", pa.string()), ("n", pa.list_(pa.int64())), ("d", pa.decimal128(20, 5)), ("f", pa.float64())])


@given(
    st.lists(
        st.none()
        | st.fixed_dictionaries(
            {
                "s": st.none() | TEXT,
                "n": st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
                "d": st.none() | st.integers(-(10**19), 10**19).map(lambda number: Decimal(number).scaleb(-5)),
                "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            }
        ),
        max_size=5,
    )
)
def test_nested_values_are_objects(values: list[dict[str, Any] | None]) -> None:
    found = column(NESTED, values)
    for was, is_now in zip(values, found, strict=True):
        if was is None:
            assert is_now is None
            continue
        assert {name: value for name, value in is_now.items() if name != "f"} == {
            name: value for name, value in was.items() if name != "f"
        }
        assert (is_now["f"] is None) == (was["f"] is None)
        assert was["f"] is None or float(is_now["f"]) == was["f"]
