"""What a user's values become: kept whole, or an error that names column and value."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pytest

import retl
from retl.connectors import IteratorSource
from retl.connectors.function.types import declared_schema, learn
from retl.model.schema import field
from retl.testing import collect, table_spec

NAIVE = datetime.fromisoformat("2024-05-01 12:30:00.000001")
AWARE = NAIVE.replace(tzinfo=UTC)
JSON = field("x", pa.string(), json=True)


class Precise(datetime):
    """As pandas' Timestamp is: a datetime with more digits."""

    nanosecond = 789


def column(kind: pa.DataType | pa.Field) -> pa.Schema:
    return pa.schema([kind if isinstance(kind, pa.Field) else pa.field("x", kind)])


async def read_function(function: Any, schema: Any = None) -> pa.Table:
    source = IteratorSource(function, schema=schema)
    try:
        return await collect(source, "t")
    finally:
        await source.aclose()


async def read(rows: Any, schema: Any = None) -> pa.Table:
    source = IteratorSource(lambda: rows, schema=schema)
    try:
        return await collect(source, "t")
    finally:
        await source.aclose()


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Size(StrEnum):
    BIG = "big"


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (pa.float64(), 3, 3.0),
        (pa.float64(), np.float32(0.5), 0.5),
        (pa.int64(), np.int16(3), 3),
        (pa.int64(), Level.HIGH, 3),
        (pa.bool_(), np.bool_(True), True),
        (pa.string(), Color.RED, "red"),
        (pa.string(), Size.BIG, "big"),
        (pa.string(), UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pa.decimal128(10, 2), 3, Decimal("3.00")),
        (pa.decimal128(10, 2), Decimal("1.5"), Decimal("1.50")),
        (pa.decimal128(38, 0), 10**30, Decimal(10**30)),
        (pa.timestamp("us", tz="UTC"), AWARE.astimezone(timezone(timedelta(hours=9))), AWARE),
        (pa.timestamp("us"), NAIVE, NAIVE),
        (pa.timestamp("s"), NAIVE.replace(microsecond=0), NAIVE.replace(microsecond=0)),
        (pa.date32(), date(2024, 5, 1), date(2024, 5, 1)),
        (pa.time64("us"), time(1, 2, 3), time(1, 2, 3)),
        (pa.duration("us"), timedelta(days=1), timedelta(days=1)),
        (pa.binary(), bytearray(b"\x00"), b"\x00"),
        (pa.list_(pa.int64()), [1, None], [1, None]),
        (JSON, {"a": [1, Decimal("1.10"), AWARE]}, '{"a":[1,"1.10","2024-05-01T12:30:00.000001Z"]}'),
        (JSON, "[1]", "[1]"),
        (JSON, 5, "5"),
        (JSON, [np.int64(1), np.float64(2.5), np.array([3])], "[1,2.5,[3]]"),
        (pa.int64(), msgspec.UNSET, None),
        (pa.int64(), None, None),
    ],
)
async def test_a_value_that_fits_is_kept(kind: Any, value: Any, stored: Any) -> None:
    assert (await read([{"x": value}], column(kind)))["x"].to_pylist() == [stored]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), "3"),
        (pa.int64(), 3.0),
        (pa.int64(), True),
        (pa.int64(), 2**63),
        (pa.int8(), 300),
        (pa.float64(), "1.5"),
        (pa.float64(), True),
        (pa.float64(), 2**53 + 1),
        (pa.float64(), Decimal("1.5")),
        (pa.bool_(), 1),
        (pa.string(), 5),
        (pa.string(), b"bytes"),
        (pa.string(), "\ud800"),
        (pa.binary(), "text"),
        (pa.decimal128(10, 2), 1.5),
        (pa.decimal128(10, 2), Decimal("1.234")),
        (pa.decimal128(4, 2), Decimal(1000)),
        (pa.timestamp("us"), AWARE),
        (pa.timestamp("us", tz="UTC"), NAIVE),
        (pa.timestamp("s"), NAIVE),
        (pa.timestamp("us"), date(2024, 5, 1)),
        (pa.timestamp("us"), 5),
        (pa.timestamp("us"), "2024-05-01"),
        (pa.timestamp("ns"), datetime.fromisoformat("9999-01-01 00:00:00")),
        (pa.date32(), NAIVE),
        (pa.date32(), 5),
        (pa.time64("us"), time(1, tzinfo=UTC)),
        (pa.time32("s"), time(1, 2, 3, 4)),
        (JSON, "no JSON"),
        (JSON, {"a": [1.5, float("nan")]}),
        (JSON, ["\ud800"]),
        (pa.timestamp("us"), Precise(2024, 5, 1)),
        (pa.decimal128(10, 2), Decimal("NaN")),
    ],
)
async def test_a_value_that_does_not_fit_is_named(kind: Any, value: Any) -> None:
    good: Sequence[dict[str, Any]] = [{"x": None}] * 3
    with pytest.raises(retl.SourceError) as caught:
        await read([*good, {"x": value}, *good], column(kind))
    assert "column 'x' is" in caught.value.message
    assert repr(value) in caught.value.message


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (pa.array([1], pa.int32()), pa.int64()),
        (pa.array([1], pa.int64()), pa.float64()),
        (pa.array([1.5], pa.float32()), pa.float64()),
        (pa.array(["a"], pa.large_string()), pa.string()),
        (pa.array(["a"]).dictionary_encode(), pa.string()),
        (pa.array([None]), pa.int64()),
        (pa.array([NAIVE], pa.timestamp("us")), pa.timestamp("ns")),
        (pa.array([Decimal("1.5")], pa.decimal128(4, 1)), pa.decimal128(10, 2)),
    ],
)
async def test_an_arrow_column_is_widened(array: pa.Array, wanted: pa.DataType) -> None:
    table = await read([pa.record_batch([array], ["x"])], column(wanted))
    assert table["x"].type == wanted
    assert table["x"].to_pylist() == array.to_pylist()


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (pa.array(["1"]), pa.int64()),
        (pa.array([1.0]), pa.int64()),
        (pa.array([300]), pa.int8()),
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([NAIVE]), pa.timestamp("us", tz="UTC")),
        (pa.array([NAIVE]), pa.timestamp("s")),
        (pa.array([NAIVE]), pa.date32()),
        (pa.array([1]), pa.string()),
    ],
)
async def test_an_arrow_column_that_does_not_fit_is_named(array: pa.Array, wanted: pa.DataType) -> None:
    with pytest.raises(retl.SourceError, match="column 'x' is"):
        await read(pa.table({"x": array}), column(wanted))


async def test_a_row_with_a_column_too_many_is_named_unless_columns_are_chosen() -> None:
    rows = [{"x": 1}, {"x": 2, "y": "new"}]
    with pytest.raises(retl.SourceError, match=r"column 'y' \(value 'new'\), which is not in the schema"):
        await read(rows, column(pa.int64()))
    source = IteratorSource(lambda: rows, schema=column(pa.int64()))
    assert (await collect(source, table_spec("t", columns=["x"]))).to_pylist() == [{"x": 1}, {"x": 2}]


async def test_a_missing_entry_is_null_or_named() -> None:
    assert (await read([{"x": 1}, {}], column(pa.int64())))["x"].to_pylist() == [1, None]
    with pytest.raises(retl.SourceError, match="'x' may not be NULL"):
        await read([{"x": 1}, {}], column(pa.field("x", pa.int64(), nullable=False)))


@pytest.mark.parametrize("given", [5, "text", [5], [None]])
async def test_what_is_no_row_is_named(given: Any) -> None:
    with pytest.raises(retl.SourceError, match="gave"):
        await read(given, column(pa.int64()))


async def test_one_dict_filled_again_is_as_many_rows_as_it_was() -> None:
    def one_dict() -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {"tags": []}
        for number in range(5):
            row["x"] = number
            row["tags"].append(number)
            yield row

    async def one_page() -> AsyncIterator[list[dict[str, Any]]]:
        page = [{"x": 0}, {"x": 0}]
        for number in range(0, 6, 2):
            page[0]["x"], page[1]["x"] = number, number + 1
            yield page

    table = await read_function(one_dict)
    assert table["x"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["tags"].to_pylist() == ["[0]", "[0,1]", "[0,1,2]", "[0,1,2,3]", "[0,1,2,3,4]"]
    assert (await read_function(one_page))["x"].to_pylist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("wrap", [list, iter, lambda rows: [rows], lambda rows: (row for row in rows)])
async def test_one_dict_that_stands_for_many_rows_is_refused(wrap: Any) -> None:
    row = {"x": 4}
    with pytest.raises(retl.SourceError, match="one and the same object for several rows"):
        await read_function(lambda: wrap([row, row, row]))


@pytest.mark.parametrize("wrap", [iter, lambda rows: (row for row in rows), lambda rows: map(dict, rows)])
async def test_an_iterator_that_is_handed_out_twice_is_refused(wrap: Any) -> None:
    one_shot = wrap([{"x": number} for number in range(300)])
    with pytest.raises(retl.SourceError, match=r"the same .* a second time"):
        await read_function(lambda: one_shot)


async def test_rows_that_came_only_for_the_columns_are_missed() -> None:
    queue = [{"x": number} for number in range(20)]
    with pytest.raises(retl.SourceError, match="none when it was asked for all rows"):
        await read_function(lambda: (queue.pop() for _ in range(len(queue))))


@pytest.mark.parametrize("schema", [None, pa.schema([("a", pa.string()), ("b", pa.string())])])
async def test_a_value_without_a_name_is_named(schema: Any) -> None:
    def lines() -> Any:
        return csv.DictReader(["a,b", "1,2", "3,4,5"])

    with pytest.raises(retl.SourceError, match=r"a row has \['5'\] under None.*has beyond its head"):
        await read_function(lines, schema)


async def test_all_forms_of_rows_may_be_mixed() -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    class Other(msgspec.Struct):
        x: int

    batch = pa.record_batch([pa.array([3, 4])], ["x"])
    rows = [{"x": 1}, Point(2), batch, [Other(5), {"x": 6}], pa.table({"x": [7]}), ({"x": n} for n in (8, 9))]
    assert (await read(rows, column(pa.int64())))["x"].to_pylist() == list(range(1, 10))


class Inner(msgspec.Struct):
    a: int


class Everything(msgspec.Struct):
    id: int
    flag: bool
    ratio: float | None
    name: str | msgspec.UnsetType
    price: Annotated[Decimal, pa.decimal128(18, 2)]
    size: Decimal
    at: datetime
    local: Annotated[datetime, msgspec.Meta(tz=False)]
    day: date
    color: Color
    word: Literal["a", "b"]
    number: int | float
    inner: Inner
    tags: list[str] | None
    anything: Any


def test_a_struct_is_a_schema() -> None:
    schema = declared_schema(Everything)
    types = {
        "id": pa.int64(),
        "flag": pa.bool_(),
        "ratio": pa.float64(),
        "name": pa.string(),
        "price": pa.decimal128(18, 2),
        "size": pa.decimal128(38, 18),
        "at": pa.timestamp("us", tz="UTC"),
        "local": pa.timestamp("us"),
        "day": pa.date32(),
        "color": pa.string(),
        "word": pa.string(),
        "number": pa.float64(),
        "inner": JSON.type,
        "tags": JSON.type,
        "anything": JSON.type,
    }
    assert {column.name: column.type for column in schema} == types
    assert {column.name for column in schema if column.nullable} == {"ratio", "name", "tags", "anything"}
    assert {column.name for column in schema if column.metadata == JSON.metadata} == {"inner", "tags", "anything"}


def test_a_typed_dict_and_a_dataclass_are_schemas_and_a_number_is_none() -> None:
    class Typed(TypedDict, total=False):
        id: int

    @dataclasses.dataclass
    class Plain:
        id: int

    assert declared_schema(Typed) == pa.schema([pa.field("id", pa.int64())])
    assert declared_schema(Plain) == pa.schema([pa.field("id", pa.int64(), nullable=False)])
    with pytest.raises(retl.ConfigError, match="schema is 5"):
        declared_schema(5)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], pa.int64()),
        ([1, 2**63], pa.decimal128(38, 0)),
        ([1, 2.5], pa.float64()),
        ([True], pa.bool_()),
        ([Decimal("1.25"), 3], pa.decimal128(38, 2)),
        ([NAIVE], pa.timestamp("us")),
        ([AWARE], pa.timestamp("us", tz="UTC")),
        ([date(2024, 5, 1)], pa.date32()),
        ([Color.RED, "x"], pa.string()),
        ([[1], {"a": 1}, 5], pa.string()),
        ([None], pa.string()),
        ([b"x", bytearray(b"y")], pa.binary()),
    ],
)
def test_columns_are_learnt_from_values(values: list[Any], kind: pa.DataType) -> None:
    assert learn([{"x": value} for value in values]).field("x").type == kind


@pytest.mark.parametrize("values", [[1, "a"], [True, 1], [NAIVE, AWARE], [date(2024, 5, 1), NAIVE], [object()]])
def test_values_that_do_not_go_together_are_not_guessed_at(values: list[Any]) -> None:
    with pytest.raises(retl.SourceError, match="column 'x' holds"):
        learn([{"x": value} for value in values])
