# ruff: noqa: DTZ001  # times without a zone are what is tested
"""Every type at its extremes, typed and as text: what arrives is what was sent, or the row is refused."""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retl
from retl.connectors import DuckDB, SQLite
from retl.connectors.duckdb.types import TYPES
from retl.connectors.rows.text import to_text
from retl.model.errors import RowsRejected, SchemaDrift, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.schema import field
from retl.model.window import Slice
from tests import tiers
from tests.integration.duckdb.scenes import Scene
from tests.integration.scene import scan, spec

M = 2**63 - 1
DAY = 86_400


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.duckdb")


def whole(kind: pa.DataType) -> list[int]:
    bits = kind.bit_width
    signed = pa.types.is_signed_integer(kind)
    return [-(2 ** (bits - 1)), -1, 0, 2 ** (bits - 1) - 1] if signed else [0, 1, 2**bits - 1]


def raw(numbers: Sequence[int | None], kind: pa.DataType) -> pa.Array:
    """An array from its bits: Python has no times beyond the year 9999."""
    return pa.array(numbers, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


# Each type with its extremes and the type that it gets in DuckDB.
CASES: dict[str, tuple[pa.Array, str]] = {
    "bool": (pa.array([True, False]), "BOOLEAN"),
    **{
        str(kind): (pa.array(whole(kind), kind), native)
        for kind, native in (
            (pa.int8(), "TINYINT"),
            (pa.int16(), "SMALLINT"),
            (pa.int32(), "INTEGER"),
            (pa.int64(), "BIGINT"),
            (pa.uint8(), "UTINYINT"),
            (pa.uint16(), "USMALLINT"),
            (pa.uint32(), "UINTEGER"),
            (pa.uint64(), "UBIGINT"),
        )
    },
    "float16": (pa.array([1.5, -65504.0, float("inf")], pa.float16()), "FLOAT"),
    "float32": (pa.array([3.4028234663852886e38, 1e-45, -0.0, float("inf"), float("nan")], pa.float32()), "FLOAT"),
    "float64": (pa.array([1.7976931348623157e308, 5e-324, -0.0, 0.1, float("-inf"), float("nan")]), "DOUBLE"),
    "decimal": (
        pa.array([Decimal("9" * 28 + "." + "9" * 10), Decimal("-0.0000000001")], pa.decimal128(38, 10)),
        "DECIMAL(38,10)",
    ),
    "decimal64": (pa.array([Decimal("-99999999.99")], pa.decimal64(10, 2)), "DECIMAL(10,2)"),
    "decimal of fractions": (pa.array([Decimal("0.00099")], pa.decimal128(5, 5)), "DECIMAL(5,5)"),
    "decimal of thousands": (pa.array([Decimal("99000")], pa.decimal128(5, -3)), "DECIMAL(8,0)"),
    "decimal256 that fits": (pa.array([Decimal("1.50")], pa.decimal256(20, 2)), "DECIMAL(20,2)"),
    "decimal256": (pa.array([Decimal("-" + "9" * 66 + "." + "9" * 10)], pa.decimal256(76, 10)), "VARCHAR"),
    "string": (pa.array(["", "NULL", "null", "\\N", "\x00", 'a"b\n\t', "ünï😀", "x" * 100_000]), "VARCHAR"),
    "large_string": (pa.array(["", "x"], pa.large_string()), "VARCHAR"),
    "string_view": (pa.array(["", "x" * 50], pa.string_view()), "VARCHAR"),
    "binary": (pa.array([b"", b"\x00\xff", b"\\x41"], pa.binary()), "BLOB"),
    "fixed binary": (pa.array([b"\x00\xff\x27"], pa.binary(3)), "BLOB"),
    "binary_view": (pa.array([b"", b"\x00" * 50], pa.binary_view()), "BLOB"),
    "date": (raw([-(2**31) + 2, 0, -1, 2**31 - 2, 2**31 - 1, -(2**31) + 1], pa.date32()), "DATE"),
    "date64": (pa.array([0, -86_400_000, 253402214400000], pa.date64()), "DATE"),
    "time32[s]": (pa.array([0, DAY - 1], pa.time32("s")), "TIME"),
    "time32[ms]": (pa.array([0, DAY * 1000 - 1], pa.time32("ms")), "TIME"),
    "time64[us]": (raw([0, DAY * 10**6 - 1, DAY * 10**6], pa.time64("us")), "TIME"),
    "time64[ns]": (pa.array([0, 1, DAY * 10**9 - 1], pa.time64("ns")), "TIME_NS"),
    "timestamp[s]": (raw([-9_223_372_022_400, -1, 0, 9_223_372_036_854], pa.timestamp("s")), "TIMESTAMP_S"),
    "timestamp[ms]": (raw([-9_223_372_022_400_000, -1, 0, 9_223_372_036_854_775], pa.timestamp("ms")), "TIMESTAMP_MS"),
    "timestamp[us]": (raw([-9_223_372_022_400_000_000, -1, 0, M - 1, M, -M], pa.timestamp("us")), "TIMESTAMP"),
    "timestamp[ns]": (raw([-9_223_286_400_000_000_000, -1, 0, M - 1, M, -M], pa.timestamp("ns")), "TIMESTAMP_NS"),
    "timestamp[s, tz]": (
        raw([-9_223_372_022_400, 0, 9_223_372_036_854], pa.timestamp("s", "UTC")),
        "TIMESTAMP WITH TIME ZONE",
    ),
    "timestamp[us, tz]": (raw([0, -1, M - 1, M, -M], pa.timestamp("us", "Europe/Berlin")), "TIMESTAMP WITH TIME ZONE"),
    "timestamp[ns, tz]": (raw([1, -1, 10**18 + 1], pa.timestamp("ns", "UTC")), "VARCHAR"),
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), "VARCHAR"),
    "uuid": (
        pa.array([uuid.UUID(int=0).bytes, uuid.UUID(int=2**128 - 1).bytes], pa.binary(16)).cast(pa.uuid()),
        "UUID",
    ),
    "json": (pa.array(['{"a":  1, "a": 2}', "null", "12345678901234567890.5", '"\\u00fc"'], pa.json_()), "JSON"),
    "list": (pa.array([[1, None], []], pa.list_(pa.int32())), "JSON"),
    "struct": (pa.array([{"a": 1, "b": "x"}, {"a": None, "b": ""}]), "JSON"),
    "null": (pa.nulls(2), "VARCHAR"),
}


def as_text(column: pa.Array) -> pa.Array:
    """Canonical text, as a source may send it."""
    if column.type == pa.uuid():
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return to_text(column)


def with_null(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return pa.array([*column.to_pylist(), None], column.type.value_type).dictionary_encode()
    return pa.concat_arrays([column, pa.nulls(1, column.type)])


def numbered(column: pa.Array, logical: pa.Field) -> tuple[pa.RecordBatch, pa.Schema]:
    """A batch of the column with a key beside it, and the schema that was promised of it."""
    key = pa.field("id", pa.int32(), nullable=False)
    promised = pa.schema([key, logical])
    sent = pa.schema([key, logical.with_type(column.type)])
    return pa.RecordBatch.from_arrays([pa.array(range(len(column)), pa.int32()), column], schema=sent), promised


def stored(scene: Scene, table: str = "people", *, types: bool = False) -> Any:
    with duckdb.connect(str(scene.path)) as connection:
        if types:
            return connection.execute(f"SELECT typeof(v) FROM {table} LIMIT 1").fetchall()[0][0]
        relation: Any = connection.sql(f"SELECT v FROM {table} ORDER BY id")
        table_ = (getattr(relation, "to_arrow_table", None) or relation.fetch_arrow_table)()
        return table_.column(0).combine_chunks()


def _numbers(column: pa.Array) -> str:
    # To the last bit, but for the sign of zero: DuckDB's storage takes the two zeros for one.
    return repr([0.0 if value == 0 else value and float(value) for value in column.to_pylist()])


def same(sent: pa.Array, found: pa.Array) -> bool:
    """Whether both hold the same values, to the last bit."""
    if isinstance(found.type, pa.BaseExtensionType):
        sent = sent.storage if isinstance(sent.type, pa.BaseExtensionType) else as_text(sent)
        found = found.storage
    if pa.types.is_dictionary(sent.type):
        sent = sent.dictionary_decode()
    if pa.types.is_nested(sent.type) or (pa.types.is_string(found.type) and sent.type != found.type):
        sent = as_text(sent)
    if pa.types.is_floating(sent.type):
        return _numbers(sent) == _numbers(found)
    if pa.types.is_timestamp(sent.type) and sent.type.unit != found.type.unit:
        return bool(sent.cast(found.type).equals(found))
    if (
        pa.types.is_temporal(sent.type)
        and sent.type.bit_width == found.type.bit_width
        and not pa.types.is_date64(sent.type)
    ):
        kind = pa.int32() if sent.type.bit_width == 32 else pa.int64()
        return bool(sent.view(kind).equals(found.view(kind)))
    return bool(sent.cast(found.type).equals(found))


@pytest.mark.parametrize("name", CASES)
async def test_a_type_keeps_its_extremes(scene: Scene, name: str) -> None:
    values, native = CASES[name]
    column = with_null(values)
    logical = pa.field("v", column.type)
    batch, promised = numbered(column, logical)
    assert TYPES.declare(logical, in_key=False) == native
    async with scene.session() as session:
        await scan(session, [batch], schema=promised)
        await scan(session, [batch], schema=promised)  # into the table that is there
    if native not in ("TIME_NS",):  # comes back from DuckDB with microseconds
        assert same(column, stored(scene))
    else:
        texts = [text for (text,) in scene.run("SELECT v::VARCHAR FROM people ORDER BY id")]
        assert texts[:3] == ["00:00:00", "00:00:00.000000001", "23:59:59.999999999"]
    assert scene.run("SELECT v::VARCHAR FROM people") is not None  # DuckDB can show every value that it took
    assert stored(scene, types=True) == native


# Arrow cannot write bytes as text, nor years beyond 9999, nor the end of a day.
WITHOUT_TEXT = re.compile(r".*binary.*|date|timestamp\[[a-z]+\]|timestamp\[u?s, tz\]|time64\[us\]|float16")
TEXTS = [name for name in CASES if not WITHOUT_TEXT.fullmatch(name)]


@pytest.mark.parametrize("name", TEXTS)
async def test_a_type_keeps_its_extremes_as_text(scene: Scene, name: str) -> None:
    values, native = CASES[name]
    column = with_null(values)
    batch, promised = numbered(as_text(column), pa.field("v", column.type))
    async with scene.session() as session:
        await scan(session, [batch], schema=promised)
    if native != "TIME_NS":
        assert same(column, stored(scene))


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (pa.timestamp("s"), [-9_223_372_022_401, 9_223_372_036_855, M, -M, -M - 1]),
        (pa.timestamp("ms"), [-9_223_372_022_400_001, 9_223_372_036_854_776, M]),
        (pa.timestamp("us"), [-9_223_372_022_400_000_001, -M - 1]),
        (pa.timestamp("ns"), [-9_223_286_400_000_000_001, -M - 1]),
        (pa.timestamp("s", "UTC"), [9_223_372_036_855, M]),
        (pa.timestamp("us", "UTC"), [-M - 1]),
        (pa.date32(), [-(2**31)]),
        (pa.time64("us"), [-1, DAY * 10**6 + 1]),
        (pa.time64("ns"), [-1, DAY * 10**9 + 1]),
        (pa.time32("s"), [-1, DAY + 1]),
    ],
    ids=str,
)
async def test_times_that_duckdb_cannot_hold_are_refused(scene: Scene, kind: pa.DataType, numbers: list[int]) -> None:
    batch, promised = numbered(raw([0, *numbers], kind), pa.field("v", kind))
    async with scene.session() as session:
        done = await scan(session, [batch], schema=promised, rejects_left=len(numbers))
    assert [(reject.column, reject.key) for reject in done.rejects] == [
        ("v", f'{{"id":{number}}}') for number in range(1, len(numbers) + 1)
    ]
    assert scene.run("SELECT id FROM people") == [(0,)]


@pytest.mark.parametrize("kind", [pa.duration("us"), pa.month_day_nano_interval()], ids=str)
def test_a_type_without_a_lossless_form_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedError, match="no lossless form"):
        TYPES.declare(pa.field("v", kind), in_key=False)


# Text that a cast of DuckDB's would take and change.
LOSSY = {
    "INTEGER": (pa.int32(), ["1.5", "1e3", "0x10", "1_000", "2147483648", "x", ""]),
    "DECIMAL(10,2)": (pa.decimal128(10, 2), ["1.999", "1e2", "123456789.00", ".", "1_0"]),
    "DOUBLE": (pa.float64(), ["1e999", "-1e999", "1_0", "x"]),
    "FLOAT": (pa.float32(), ["1e39", "x"]),
    "TIMESTAMP": (pa.timestamp("us"), ["2024-01-01 00:00:00.1234567", "2024-01-01 00:00:00+05", "2024-01-01T00:00:00Z", "0000-00-00 00:00:00", "2024-02-30 00:00:00", "2024-1-1 1:2:3"]),
    "TIMESTAMP_S": (pa.timestamp("s"), ["2024-01-01 00:00:00.9"]),
    "TIMESTAMP_MS": (pa.timestamp("ms"), ["2024-01-01 00:00:00.1239"]),
    "TIMESTAMP_NS": (pa.timestamp("ns"), ["0001-01-01 00:00:00"]),
    "TIMESTAMP WITH TIME ZONE": (pa.timestamp("us", "UTC"), ["2024-01-01 00:00:00 Europe/Berlin", "2024-01-01 00:00:00.1234567Z"]),
    "DATE": (pa.date32(), ["2024-01-01 10:00:00", "2024-02-30", "infinity?"]),
    "TIME": (pa.time64("us"), ["23:59:59.9999999", "25:00:00", "-838:59:59"]),
    "BOOLEAN": (pa.bool_(), ["2", "maybe"]),
    "JSON": (pa.json_(), ['{"a":1', "", "'x'"]),
}  # fmt: skip


@pytest.mark.parametrize("native", LOSSY)
async def test_text_that_would_be_changed_is_refused(scene: Scene, native: str) -> None:
    kind, texts = LOSSY[native]
    assert TYPES.declare(pa.field("v", kind), in_key=False) == native
    batch, promised = numbered(pa.array([None, *texts]), pa.field("v", kind))
    async with scene.session() as session:
        done = await scan(session, [batch], schema=promised, rejects_left=len(texts))
    assert len(done.rejects) == len(texts)
    assert all(native in reject.reason and reject.column == "v" for reject in done.rejects)
    assert scene.run("SELECT id, v FROM people") == [(0, None)]


EXACT = {
    "INTEGER": (pa.int32(), ["+5", "-0", "12.00"], ["5", "0", "12"]),
    "DECIMAL(10,2)": (pa.decimal128(10, 2), ["1.5", "1.5000", "-.25", "7"], ["1.50", "1.50", "-0.25", "7.00"]),
    "DOUBLE": (pa.float64(), ["1e-7", "NaN", "-inf", "Infinity"], ["1e-07", "nan", "-inf", "inf"]),
    "TIMESTAMP": (pa.timestamp("us"), ["2024-01-01T10:00:00.5000000", "2024-01-01"], ["2024-01-01 10:00:00.5", "2024-01-01 00:00:00"]),
    "TIMESTAMP WITH TIME ZONE": (pa.timestamp("us", "UTC"), ["2024-01-01 00:00:00+05:30", "2024-01-01T00:00:00.25Z", "2024-01-01 00:00:00"], ["2023-12-31 18:30:00+00", "2024-01-01 00:00:00.25+00", "2024-01-01 00:00:00+00"]),
    "DATE": (pa.date32(), ["2024-01-01 00:00:00", "0001-01-01"], ["2024-01-01", "0001-01-01"]),
    "BOOLEAN": (pa.bool_(), ["true", "False", "1", "0"], ["true", "false", "true", "false"]),
}  # fmt: skip


@pytest.mark.parametrize("native", EXACT)
async def test_text_in_another_form_means_the_same(scene: Scene, native: str) -> None:
    kind, texts, expected = EXACT[native]
    batch, promised = numbered(pa.array(texts), pa.field("v", kind))
    async with scene.session() as session:
        await scan(session, [batch], schema=promised)
    shown = scene.run("SET TimeZone = 'UTC'", "SELECT v::VARCHAR FROM people ORDER BY id")
    assert [text for (text,) in shown] == expected


# Columns that are there -----------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "native"),
    [
        (pa.int64(), "INTEGER"), (pa.int32(), "DOUBLE"), (pa.int16(), "FLOAT"), (pa.int64(), "HUGEINT"),
        (pa.int64(), "DECIMAL(18,2)"), (pa.decimal128(10, 0), "BIGINT"), (pa.decimal128(10, 2), "DECIMAL(12,4)"),
        (pa.decimal128(15, 2), "DOUBLE"), (pa.decimal128(12, 2), "VARCHAR"), (pa.float32(), "DOUBLE"),
        (pa.timestamp("s"), "TIMESTAMP"), (pa.timestamp("us"), "TIMESTAMP_NS"), (pa.date32(), "TIMESTAMP"),
        (pa.time64("us"), "TIME_NS"), (pa.timestamp("ms", "UTC"), "TIMESTAMPTZ"), (pa.bool_(), "VARCHAR"),
        (pa.string(), "JSON"), (pa.string(), "UUID"), (pa.string(), "ENUM('1', 'b')"), (pa.null(), "INTEGER"),
        (pa.timestamp("us"), "VARCHAR"), (pa.list_(pa.int8()), "VARCHAR"), (pa.uuid(), "VARCHAR"),
    ],
    ids=str,
)  # fmt: skip
async def test_a_column_that_holds_the_type_is_written(scene: Scene, kind: pa.DataType, native: str) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, v {native})")
    values: dict[str, Any] = {"UUID": str(uuid.UUID(int=7)), "JSON": "[1]"}
    value: Any = values.get(native, "1") if pa.types.is_string(kind) else True if pa.types.is_boolean(kind) else 1
    if pa.types.is_null(kind):
        column = pa.nulls(1)
    elif kind == pa.uuid():
        column = pa.array([uuid.UUID(int=7).bytes], pa.binary(16)).cast(pa.uuid())
    elif pa.types.is_nested(kind):
        column = pa.array([[1]], kind)
    else:
        column = pa.array([Decimal(1) if pa.types.is_decimal(kind) else value], kind)
    batch, promised = numbered(column, pa.field("v", kind))
    async with scene.session() as session:
        await scan(session, [batch], schema=promised)
    assert scene.run("SELECT COUNT(*) FROM people") == [(1,)]


@pytest.mark.parametrize(
    ("kind", "native"),
    [
        (pa.int64(), "DOUBLE"), (pa.int32(), "FLOAT"), (pa.int64(), "DATE"), (pa.int64(), "BOOLEAN"),
        (pa.bool_(), "INTEGER"), (pa.decimal128(10, 2), "DECIMAL(10,1)"), (pa.decimal128(10, 2), "BIGINT"),
        (pa.decimal128(20, 2), "DOUBLE"), (pa.float64(), "FLOAT"), (pa.float64(), "DECIMAL(18,2)"),
        (pa.float64(), "BIGINT"), (pa.timestamp("us"), "TIMESTAMP_S"), (pa.timestamp("ns"), "TIMESTAMP"),
        (pa.timestamp("us"), "DATE"), (pa.timestamp("us"), "TIMESTAMPTZ"), (pa.timestamp("us", "UTC"), "TIMESTAMP"),
        (pa.timestamp("ns", "UTC"), "TIMESTAMPTZ"), (pa.date32(), "TIMESTAMPTZ"), (pa.time64("ns"), "TIME"),
        (pa.time64("us"), "TIMESTAMP"), (pa.string(), "INTEGER"), (pa.string(), "TIMESTAMP"), (pa.string(), "BLOB"),
        (pa.binary(), "VARCHAR"), (pa.binary(), "INTEGER"), (pa.list_(pa.int8()), "TINYINT[]"),
        (pa.json_(), "INTEGER"), (pa.uuid(), "BLOB"), (pa.decimal256(50, 2), "DECIMAL(38,1)"),
    ],
    ids=str,
)  # fmt: skip
async def test_a_column_that_would_lose_something_is_refused(scene: Scene, kind: pa.DataType, native: str) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, v {native})")
    promised = pa.schema([pa.field("id", pa.int32(), nullable=False), pa.field("v", kind)])
    async with scene.session() as session:
        with pytest.raises(SchemaDrift, match="column 'v'"):
            await session.target.preview(session.load(spec(), schema=promised))


@pytest.mark.parametrize(
    ("kind", "native", "good", "bad"),
    [
        (pa.int64(), "INTEGER", 2**31 - 1, 2**31),
        (pa.int64(), "UBIGINT", 0, -1),
        (pa.int64(), "DECIMAL(4,2)", 99, 100),
        (pa.decimal128(10, 2), "DECIMAL(4,2)", Decimal("99.99"), Decimal("100.00")),
        (pa.timestamp("us"), "TIMESTAMP_NS", dt.datetime(2262, 4, 11), dt.datetime(2262, 4, 12)),
        (pa.date32(), "TIMESTAMP_NS", dt.date(1677, 9, 22), dt.date(1677, 9, 21)),
        (pa.string(), "ENUM('a', 'b')", "a", "c"),
        (pa.string(), "UUID", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"),
    ],
    ids=str,
)
async def test_a_value_that_does_not_fit_is_refused_and_the_others_are_taken(
    scene: Scene, kind: pa.DataType, native: str, good: Any, bad: Any
) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, v {native})")
    column = pa.array([good, bad, None, good], kind)
    for number, sent in enumerate((column, to_text(column))):
        batch, promised = numbered(sent, pa.field("v", kind))
        async with scene.session() as session:
            done = await scan(session, [batch], schema=promised, rejects_left=1)
        assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":1}', "v")], number
        assert scene.run("SELECT id FROM people ORDER BY id") == [(0,), (2,), (3,)]
        assert scene.run("SELECT COUNT(v) FROM people") == [(2,)]


# Any values -----------------------------------------------------------------

ANY = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "d": (pa.decimal128(30, 8), st.decimals(-(10**21), 10**21, places=8)),
    "w": (pa.decimal256(60, 20), st.decimals(-(10**39), 10**39, places=20)),
    "f": (pa.float64(), st.floats()),
    "g": (pa.float32(), st.floats(width=32)),
    "s": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
    "b": (pa.binary(), st.binary(max_size=40)),
    "t": (pa.timestamp("us"), st.datetimes()),
    "z": (pa.timestamp("us", "UTC"), st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))),
    "n": (pa.timestamp("ns"), st.integers(-9_223_286_400_000_000_000, M - 1)),
    "y": (pa.date32(), st.dates()),
    "c": (pa.time64("us"), st.times()),
    "o": (pa.bool_(), st.booleans()),
}  # fmt: skip


def arrays(rows: list[dict[str, Any]]) -> list[pa.Array]:
    return [
        raw([row[name] for row in rows], kind) if name == "n" else pa.array([row[name] for row in rows], kind)
        for name, (kind, _) in ANY.items()
    ]


@settings(max_examples=tiers.number(15))
@given(
    rows=st.lists(
        st.fixed_dictionaries({name: st.none() | values for name, (_, values) in ANY.items()}), min_size=1, max_size=30
    )
)
def test_any_values_arrive_typed_and_as_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    scene = Scene(tmp_path_factory.mktemp("any") / "target.duckdb")
    logical = pa.schema([pa.field("id", pa.int32()), *(pa.field(name, kind) for name, (kind, _) in ANY.items())])
    typed = arrays(rows)
    key = pa.array(range(len(rows)), pa.int32())

    async def load() -> None:
        async with scene.session() as session:
            for to, columns in (("typed", typed), ("texts", [to_text(column) for column in typed])):
                batch = pa.RecordBatch.from_arrays([key, *columns], names=logical.names)
                await scan(session, [batch], spec(to), schema=logical)

    anyio.run(load)
    names = ", ".join(name for name in ANY if name != "w")
    assert scene.run(f"SELECT id, {names} FROM typed EXCEPT SELECT id, {names} FROM texts") == []
    with duckdb.connect(str(scene.path)) as connection:
        relation: Any = connection.sql("SELECT * EXCLUDE (id) FROM typed ORDER BY id")
        found = (getattr(relation, "to_arrow_table", None) or relation.fetch_arrow_table)()
    for name, sent in zip(ANY, typed, strict=True):
        assert same(sent, found.column(name).combine_chunks()), name


# Round trips ----------------------------------------------------------------

EVERYTHING = """
CREATE TABLE everything AS SELECT * FROM (VALUES
  (1, true, (-128)::TINYINT, 32767::SMALLINT, (-2147483648)::INTEGER, 9223372036854775807::BIGINT,
   255::UTINYINT, 65535::USMALLINT, 4294967295::UINTEGER, 9223372036854775807::UBIGINT,
   170141183460469231731687303715884105727::HUGEINT, 340282366920938463463374607431768211455::UHUGEINT,
   '-12345678901234567890123456789.012345678'::DECIMAL(38,9), 1.5::FLOAT, 0.1::DOUBLE, 'ünï😀 ''"\n', '\\x00\\xFF'::BLOB,
   DATE '9999-12-31', TIME '23:59:59.999999', TIMESTAMP '0001-01-01 00:00:00.000001', TIMESTAMP_S '2024-02-29 23:59:59',
   TIMESTAMP_MS '2024-02-29 23:59:59.999', TIMESTAMPTZ '9999-12-31 23:59:59.999999+00',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::UUID, '{"a":  [1, null]}'::JSON, [1, 2, NULL], {'a': 1, 'b': 'x'}, MAP {'k': 1.5},
   INTERVAL '1 year 2 days 00:00:03.5', '0101'::BIT, 'a'::ENUM('a', 'b'), TIMETZ '10:00:00+02')
) v(id, bo, ti, si, it, bi, ut, us, ui, ub, hu, uh, de, fl, db, va, bl, da, tm, ts, t0, t3, tz, uu, js, li, su, ma, iv, bt, en, tt)
"""


def make_everything(scene: Scene) -> list[str]:
    scene.run(EVERYTHING, "INSERT INTO everything (id) VALUES (2)")
    return [name for (name,) in scene.run("SELECT column_name FROM duckdb_columns() WHERE table_name = 'everything'")]


async def copy(source: Any, target: Any) -> None:
    pipeline = retl.Pipeline("copy", source=source, target=target, tables=[retl.Table("everything", key="id")])
    await pipeline.run_once()


def shown(scene: Scene) -> list[Any]:
    """Every value as text, nested ones as JSON."""
    return scene.run(
        "SET TimeZone = 'UTC'",
        "SELECT COLUMNS(*)::VARCHAR FROM (SELECT * REPLACE (to_json(li)::VARCHAR AS li, to_json(su)::VARCHAR AS su, "
        "to_json(ma)::VARCHAR AS ma) FROM everything) ORDER BY id",
    )


async def test_duckdb_to_duckdb_keeps_every_type(scene: Scene, tmp_path: Path) -> None:
    origin = Scene(tmp_path / "origin.duckdb")
    make_everything(origin)
    await copy(DuckDB(str(origin.path)), DuckDB(str(scene.path)))
    assert shown(scene) == shown(origin)
    changed: dict[str, str] = dict(
        scene.run(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'everything' "
            "AND column_name IN ('hu', 'uh', 'de', 't0', 'tz', 'uu', 'js', 'li', 'iv', 'en')"
        )
    )
    assert changed == {
        "hu": "HUGEINT", "uh": "UHUGEINT", "de": "DECIMAL(38,9)", "t0": "TIMESTAMP_S", "tz": "TIMESTAMP WITH TIME ZONE",
        "uu": "UUID", "js": "JSON", "li": "JSON", "iv": "VARCHAR", "en": "VARCHAR",
    }  # fmt: skip


async def test_duckdb_to_duckdb_into_columns_of_its_own_types(scene: Scene, tmp_path: Path) -> None:
    origin = Scene(tmp_path / "origin.duckdb")
    for each in (origin, scene):
        make_everything(each)
        each.run("ALTER TABLE everything DROP li", "ALTER TABLE everything DROP su", "ALTER TABLE everything DROP ma")
        each.run("CREATE UNIQUE INDEX by_id ON everything (id)")
    scene.run("DELETE FROM everything")
    await copy(DuckDB(str(origin.path)), DuckDB(str(scene.path)))
    every = ("SET TimeZone = 'UTC'", "SELECT COLUMNS(*)::VARCHAR FROM everything ORDER BY id")
    assert scene.run(*every) == origin.run(*every)


async def test_duckdb_to_sqlite_and_back(scene: Scene, tmp_path: Path) -> None:
    origin = Scene(tmp_path / "origin.duckdb")
    make_everything(origin)
    middle = str(tmp_path / "middle.db")
    await copy(DuckDB(str(origin.path)), SQLite(middle))
    await copy(SQLite(middle), DuckDB(str(scene.path)))
    expected = shown(origin)
    # SQLite keeps whole numbers as such, and DuckDB shows the digits that a type has.
    assert shown(scene) == expected


async def test_sqlite_to_duckdb(scene: Scene, tmp_path: Path) -> None:
    middle = str(tmp_path / "origin.db")
    logical = [
        (name, values, native)
        for name, (values, native) in CASES.items()
        if native in ("BOOLEAN", "INTEGER", "BIGINT", "VARCHAR", "BLOB", "JSON", "DECIMAL(38,10)")
        and not pa.types.is_nested(values.type)
        and name not in ("timestamp[ns, tz]", "decimal256", "string_view", "binary_view")
    ]
    for number, (name, values, native) in enumerate(logical):
        column = with_null(values)
        promised = pa.schema(
            [pa.field("id", pa.int32(), nullable=False), field("v", column.type, json=native == "JSON")]
        )
        batch = pa.RecordBatch.from_arrays([pa.array(range(len(column)), pa.int32()), column], schema=promised)
        target = SQLite(middle).target()
        load = WriteSpec(
            pipeline="p", table=spec(f"t{number}"), schema=promised, key=("id",), scan_id="s", unique_key=True
        )
        async with target.open_load(load, None) as writer:
            await writer.write(batch)
            await writer.commit(None, Slice(index=0), 0)
            await writer.finish(None)
        await target.aclose()
        pipeline = retl.Pipeline(
            "back", source=SQLite(middle), target=DuckDB(str(scene.path)), tables=[retl.Table(f"t{number}", key="id")]
        )
        await pipeline.run_once()
        assert same(column, stored(scene, f"t{number}")), name


async def test_text_of_sqlite_that_is_not_what_its_type_promises_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "loose.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, price DECIMAL TEXT(10,2), at TIMESTAMP)")
        connection.execute(
            "INSERT INTO t VALUES (1, '1.50', '2024-01-01 10:00:00'), (2, '1.999', NULL), (3, NULL, 'soon')"
        )
    pipeline = retl.Pipeline("p", source=SQLite(str(path)), target=DuckDB(str(scene.path)), tables=["t"])
    with pytest.raises(RowsRejected, match="2 rows"):
        await pipeline.run_once()
    assert scene.rows("t") == []
