"""Mappings of Elasticsearch and Arrow columns, without a server."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.elasticsearch.source import merging
from retl.connectors.elasticsearch.source.cursor import CursorField
from retl.connectors.elasticsearch.source.pages import PAGE_BYTES, PageSize
from retl.connectors.elasticsearch.target import plan
from retl.connectors.elasticsearch.types import field_type, from_arrow, leaf_fields
from retl.model.errors import ConfigError
from retl.model.schema import field


def test_leaves_are_dotted_paths_and_views_are_none() -> None:
    properties = {
        "a": {"properties": {"b": {"type": "long"}, "c": {"properties": {"d": {"type": "date"}}}}},
        "n": {"type": "nested", "properties": {"x": {"type": "long"}}},
        "off": {"type": "object", "enabled": False, "properties": {"y": {"type": "long"}}},
        "empty": {"type": "object"},
        "other": {"type": "alias", "path": "a.b"},
        "t": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "e.f": {"type": "ip"},
    }
    paths = [path for path, _ in leaf_fields(properties)]
    assert paths == ["a.b", "a.c.d", "n", "off", "empty", "t", "e.f"]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("integer", "long", "long"),
        ("long", "byte", "long"),
        ("long", "float", "double"),
        ("date", "date_nanos", "date_nanos"),
        ("text", "keyword", "text"),
        ("ip", "keyword", "keyword"),
        ("constant_keyword", "text", "text"),
        ("ip", "constant_keyword", "keyword"),
        ("long", "keyword", "conflict"),
        ("date", "long", "conflict"),
        ("object", "keyword", "conflict"),
    ],
)
def test_several_mappings_become_one_that_is_wide_enough(left: str, right: str, expected: str) -> None:
    both = merging.merged([{"properties": {"f": {"type": left}}}, {"properties": {"f": {"type": right}}}])
    assert field_type(both["f"]) == expected


def test_objects_of_several_mappings_are_joined() -> None:
    one = {"properties": {"o": {"properties": {"a": {"type": "long"}}}}}
    other = {"properties": {"o": {"properties": {"b": {"type": "long"}}}, "x": {"type": "ip"}}}
    assert [path for path, _ in leaf_fields(merging.merged([one, other, {}]))] == ["o.a", "o.b", "x"]


def test_what_is_constant_in_each_index_is_not_in_all() -> None:
    one, other = ({"properties": {"c": {"type": "constant_keyword", "value": value}}} for value in "ab")
    assert merging.merged([one, one])["c"] == {"type": "constant_keyword", "value": "a"}
    assert merging.merged([one, other])["c"] == {"type": "keyword"}


def test_a_conflict_names_the_field_and_the_indices() -> None:
    def of(type_: str) -> dict[str, Any]:
        inner = {"type": "nested", "properties": {"x": {"type": type_}}}
        return {"properties": {"a": {"type": "ip"}, "o": {"properties": {"n": inner}}}}

    mappings = {f"i{number}": of("long") for number in range(5)} | {"last": of("keyword"), "without": {}}
    both = merging.with_index_names(merging.merged(list(mappings.values())), mappings)
    assert both["a"] == {"type": "ip"}
    assert list(plan.conflicts(both)) == [("o.n.x", "keyword in last and long in i0, i1, i2 ...")]


def test_arrow_columns_have_a_mapping() -> None:
    schema = pa.schema(
        [
            field("_id", pa.string()),
            field("key", pa.string()),
            field("text", pa.large_string()),
            field("small", pa.int8()),
            field("unsigned", pa.uint32()),
            field("most", pa.uint64()),
            field("money", pa.decimal128(38, 9)),
            field("real", pa.float32()),
            field("yes", pa.bool_()),
            field("day", pa.date32()),
            field("second", pa.timestamp("s")),
            field("micro", pa.timestamp("us", "UTC")),
            field("clock", pa.time64("us")),
            field("bytes", pa.binary()),
            field("json", pa.string(), json=True),
            field("list", pa.list_(pa.int64())),
            field("object", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.struct([("c", pa.bool_())])))])),
        ]
    )
    keyword = {"type": "keyword", "ignore_above": 256}
    whole = from_arrow(schema, times="date")["properties"]
    assert (whole["micro"], whole["second"], whole["clock"]) == (
        {"type": "date"},
        {"type": "date"},
        {"type": "keyword"},
    )
    assert from_arrow(schema, ("key",)) == {
        "properties": {
            "key": {"type": "keyword", "ignore_above": 8191},
            "text": {"type": "text", "fields": {"keyword": keyword}},
            "small": {"type": "byte"},
            "unsigned": {"type": "long"},
            "most": {"type": "unsigned_long"},
            "money": {"type": "double"},
            "real": {"type": "float"},
            "yes": {"type": "boolean"},
            "day": {"type": "date"},
            "second": {"type": "date"},
            "micro": {"type": "date_nanos"},
            "clock": {"type": "keyword"},
            "bytes": {"type": "binary"},
            "list": {"type": "long"},
            "object": {
                "type": "object",
                "properties": {
                    "a": {"type": "long"},
                    "b": {"type": "object", "properties": {"c": {"type": "boolean"}}},
                },
            },
        }
    }


@pytest.mark.parametrize("kind", ["text", "keyword", "double", "boolean", "nested", "geo_point"])
def test_what_has_no_order_is_no_cursor(kind: str) -> None:
    with pytest.raises(ConfigError, match=kind):
        CursorField.of("c", {"type": kind})


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("date_nanos", 1714564800123456789, "2024-05-01T12:00:00.123456789Z"),
        ("date_nanos", 1, "1970-01-01T00:00:00.000000001Z"),
        ("date", -62135596800000, "0001-01-01T00:00:00.000Z"),
        ("date", -63549360000000, "-0044-03-15T00:00:00.000Z"),
        ("date", 1699999999999000, "+55840-11-08T22:13:19.000Z"),
        ("date", -1, "1969-12-31T23:59:59.999Z"),
        ("date", "2024-05-01T12:00:00.000Z", "2024-05-01T12:00:00.000Z"),
        ("long", -(2**63), str(-(2**63))),
    ],
)
def test_sort_values_become_bounds_to_the_last_digit(kind: str, value: Any, text: str) -> None:
    assert CursorField.of("c", {"type": kind}).text(value) == text


def test_bounds_are_written_to_the_last_digit_since_the_server_rounds_up() -> None:
    cursor = CursorField.of("c", {"type": "date"})
    found = cursor.range("2024-05-01 12:00:00", "2024-05-01T12:00:00.5Z", lower_exclusive=True)["range"]["c"]
    assert (found["gt"], found["lte"]) == ("2024-05-01T12:00:00.000000000", "2024-05-01T12:00:00.500000000Z")


def test_pages_grow_and_shrink_with_what_came() -> None:
    size = PageSize(10_000, 10)
    assert size.rows == 500
    size.came(500, 500 * 10)
    assert size.rows == 4000
    size.came(4000, 4000 * 10)
    assert size.rows == 10_000
    size.came(10_000, 10_000 * 4096)
    assert size.rows == PAGE_BYTES // 4096
    size.came(1024, 50_000_000 * 1024)
    assert size.rows == 1
    # A document may be sixty times what it takes on disk; of one that nothing is known of little is asked.
    assert PageSize(10_000, 20_000_000).rows == 1
    assert PageSize(10_000, 1000).rows == PAGE_BYTES // 60_000
    assert (PageSize(100, 10).rows, PageSize(10_000).rows) == (100, 50)
    size = PageSize(10_000, 10)
    for rows in (125, 31, 7, 1, 1):
        size.shrink()
        assert size.rows == rows
