"""Values arrive as they are, or not at all: every type, both ways to send them, and what the server would change in silence."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retl.model.errors import RowsRejected
from retl.model.schema import field
from retl.testing import Scans, table_spec
from tests import tiers
from tests.integration.mysql.targets import Scene, texts
from tests.integration.scene import people, scan, spec
from tests.servers.database import Server

moment = dt.datetime.fromisoformat


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


def _times(unit: str) -> Callable[[dt.datetime], dt.datetime]:
    step = {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    return lambda value: value.replace(microsecond=value.microsecond // step * step)


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FLOAT64 = st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes()
TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["NULL", "\\N", '"', "a\\", "\n", "🙂 ", "'", ","]
)
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "truth": (pa.bool_(), st.booleans()),
    "i8": (pa.int8(), st.integers(-(2**7), 2**7 - 1)),
    "i16": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "i32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "i64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u8": (pa.uint8(), st.integers(0, 2**8 - 1)),
    "u16": (pa.uint16(), st.integers(0, 2**16 - 1)),
    "u32": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "u64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "f32": (pa.float32(), FLOAT32),
    "f64": (pa.float64(), FLOAT64),
    "small": (pa.decimal128(12, 4), st.decimals(-99_999_999, 99_999_999, places=4)),
    "tiny": (pa.decimal128(38, 30), st.decimals(-99_999_999, 99_999_999, places=30)),
    "large": (pa.decimal256(65, 0), st.integers(-(10**65) + 1, 10**65 - 1).map(Decimal)),
    "day": (pa.date32(), st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))),
    "seconds": (pa.timestamp("s"), MOMENTS.map(_times("s"))),
    "millis": (pa.timestamp("ms"), MOMENTS.map(_times("ms"))),
    "micros": (pa.timestamp("us"), MOMENTS),
    "zoned": (pa.timestamp("us", "UTC"), MOMENTS.map(lambda value: value.replace(tzinfo=dt.UTC))),
    "clock": (pa.time64("us"), st.times()),
    "words": (pa.string(), TEXT),
    "more": (pa.large_string(), TEXT),
    "chosen": (pa.dictionary(pa.int32(), pa.string()), TEXT),
    "raw": (pa.binary(), st.binary(max_size=20)),
    "four": (pa.binary(4), st.binary(min_size=4, max_size=4)),
}
EVERY = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), *(pa.field(name, kind) for name, (kind, _) in COLUMNS.items())]
)
VALUES = st.tuples(*(st.none() | values for _, values in COLUMNS.values()))


@pytest.mark.parametrize("local_infile", [True, False], ids=["load", "insert"])
@settings(max_examples=tiers.number(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(VALUES, min_size=1, max_size=20))
async def test_any_values_of_any_types_come_back(scene: Scene, local_infile: bool, rows: list[tuple[Any, ...]]) -> None:
    batch = people(*((number, *row) for number, row in enumerate(rows)), schema=EVERY)
    async with scene.session(local_infile=local_infile) as session:
        await scan(session, [batch], spec(pre_action="truncate"))
    shown = {"f32": "CAST(f32 AS DOUBLE)", "clock": "CAST(clock AS CHAR)"}
    found = scene.run(f"SELECT {', '.join(shown.get(name, name) for name in EVERY.names)} FROM people ORDER BY id")
    assert found == [(number, *map(_in_mysql, row)) for number, row in enumerate(rows)]


def _in_mysql(value: Any) -> Any:
    """A value as PyMySQL shows it."""
    if isinstance(value, dt.time):
        return value.isoformat(timespec="microseconds")
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


async def test_nested_values_become_json_and_uuids_text(scene: Scene) -> None:
    one = uuid.UUID(int=7)
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("list", pa.list_(pa.int32())),
            pa.field("u", pa.uuid()),
            pa.field("n", pa.null()),
        ]
    )
    storage = pa.array([one.bytes, None], pa.binary(16))
    arrays = [
        pa.array([1, 2]),
        pa.array([[1, None], None], pa.list_(pa.int32())),
        pa.ExtensionArray.from_storage(pa.uuid(), storage),
        pa.nulls(2),
    ]
    async with scene.session() as session:
        await scan(session, [pa.RecordBatch.from_arrays(arrays, schema=schema)])
    assert [(row[0], row[1] and row[1].replace(" ", ""), *row[2:]) for row in scene.rows("people")] == [
        (1, "[1,null]", str(one), None),
        (2, None, None, None),
    ]


async def test_a_table_of_the_same_kind_of_server_keeps_every_type(scene: Scene) -> None:
    declared = {
        "id": "bigint unsigned",
        "flag": "tinyint(1)",
        "medium": "mediumint",
        "age": "tinyint unsigned",
        "born": "year",
        "bits": "bit(10)",
        "amount": "decimal(20,6)",
        "ratio": "float",
        "exact": "double",
        "kind": r"enum('a','B c','it''s','a\\b','x\ny')",
        "tags": "set('x','y','z')",
        "code": "varchar(17)",
        "raw": "varbinary(33)",
        "digest": "binary(4)",
        "whole": "datetime",
        "millis": "datetime(3)",
        "stamp": "timestamp(6)",
        "clock": "time(2)",
        "doc": "json",
        "day": "date",
        "note": "longtext",
        "pic": "longblob",
    }
    columns = ", ".join(f"`{name}` {kind} {'NOT NULL' if name == 'id' else 'NULL'}" for name, kind in declared.items())
    scene.run(
        f"CREATE TABLE origin ({columns}, PRIMARY KEY (id))",
        "INSERT INTO origin VALUES (18446744073709551615, 1, -8388608, 255, 2024, b'1000000001', 12345678901234.000001, 1.5, 1e300, "
        "'it''s', 'x,z', 'ü🙂', X'00FF', X'01020304', '2024-02-29 01:02:03', '2024-02-29 01:02:03.456', "
        "'2037-01-01 00:00:00.000001', '-12:34:56.78', '{\"a\": [1, null]}', '0001-01-01', 'text', ''), "
        r"(0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'a\\b', '', '',"
        " '', X'00000000', NULL, NULL, NULL, NULL, NULL, NULL, '', NULL)",
    )
    async with Scans(scene.options().source()) as source, scene.session() as session:
        plan = await source.plan(table_spec("origin"))
        batches = [batch async for batch in source.read(plan, plan.slices[0])]
        await scan(session, batches, table_spec("origin", to="copied", key="id"), schema=plan.schema)
    origin, copied = scene.types("origin"), scene.types("copied")
    assert copied == origin
    assert scene.rows("copied") == scene.rows("origin")


# What LOAD DATA LOCAL stores in silence ---------------------------------------

STRICT = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("amount", pa.decimal128(10, 2)),
        pa.field("day", pa.date32()),
        pa.field("at", pa.timestamp("us")),
        field("code", pa.string(), native="varchar(3)"),
        pa.field("small", pa.int8()),
        field("kind", pa.string(), native="enum('a','b')"),
        field("tags", pa.string(), native="set('a','b')"),
    ]
)
GOOD = ("1", "1.50", "2024-02-29", "2024-02-29 01:02:03.000004", "abc", "-128", "a", "a,b")
BAD: dict[str, list[str]] = {
    "amount": ["bad decimal", "1.555", "123456789.00", ""],
    "day": ["bad date", "2023-02-29", "0000-00-00", "2024-00-01"],
    "at": ["yesterday", "2024-02-30 00:00:00", "0000-00-00 00:00:00"],
    "code": ["abcd", "🙂🙂🙂🙂"],
    "small": ["128", "-129", "x"],
    "kind": ["c", "2", "A", ""],
    "tags": ["c", "1", "b,a", "a,a"],
}


@pytest.mark.parametrize("pre_action", ["none", "truncate"])
@pytest.mark.parametrize("local_infile", [True, False], ids=["load", "insert"])
async def test_what_the_server_would_change_becomes_a_reject(scene: Scene, pre_action: str, local_infile: bool) -> None:
    rows, blamed = [GOOD], {}
    for column, values in BAD.items():
        for value in values:
            row = dict(zip(STRICT.names, GOOD, strict=True)) | {"id": str(len(rows) + 1), column: value}
            blamed[f'{{"id":{row["id"]}}}'] = column
            rows.append(tuple(row.values()))
    last = (str(len(rows) + 1), *GOOD[1:])
    table = spec(pre_action=pre_action, max_rejects=100)
    async with scene.session(local_infile=local_infile) as session:
        done = await scan(session, [texts(STRICT, *rows, last)], table, schema=STRICT, rejects_left=100)
        kept = await session.store.rejects("contract")  # type: ignore[union-attr]
    assert {reject.key: reject.column for reject in done.rejects} == blamed
    assert all(reject.reason for reject in done.rejects)
    assert {reject.key for reject in kept} == set(blamed)
    assert (done.rows, done.changed) == (2 + len(blamed), 2)
    expected = (Decimal("1.50"), dt.date(2024, 2, 29), moment("2024-02-29 01:02:03.000004"), "abc", -128, "a", "a,b")
    assert scene.rows("people") == sorted([(1, *expected), (int(last[0]), *expected)], key=repr)


async def test_too_many_refused_rows_write_nothing_and_are_shown(scene: Scene) -> None:
    rows = [(str(number), "bad", *GOOD[2:]) for number in range(500)]
    async with scene.session() as session:
        with pytest.raises(RowsRejected) as caught:
            await scan(session, [texts(STRICT, *rows)], schema=STRICT)
    assert 1 < len(caught.value.rejects) <= 102
    assert scene.rows("people") == []


async def test_times_that_would_be_rounded_are_refused(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, at DATETIME, clock TIME(1))")
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            field("at", pa.timestamp("us"), native="datetime"),
            field("clock", pa.time64("us"), native="time(1)"),
        ]
    )
    batch = texts(
        schema,
        ("1", "2024-01-01 00:00:00.000000", "100:00:00.10"),
        ("2", "2024-01-01 00:00:00.5", "00:00:00"),
        ("3", "2024-01-01 00:00:00", "00:00:00.15"),
    )
    typed = people(
        (4, moment("2024-01-01 00:00:00.000001"), None),
        (5, moment("2024-01-01"), dt.time(1, 2, 3, 400_000)),
        schema=schema,
    )
    async with scene.session() as session:
        done = await scan(session, [batch, typed], schema=schema, rejects_left=3)
    assert [(reject.key, reject.column) for reject in done.rejects] == [
        ('{"id":2}', "at"),
        ('{"id":3}', "clock"),
        ('{"id":4}', "at"),
    ]
    assert [row[:2] for row in scene.rows("people")] == [(1, moment("2024-01-01")), (5, moment("2024-01-01"))]


async def test_what_a_column_of_fixed_length_would_change_is_refused(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name CHAR(5), raw BINARY(2))")
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.string()), pa.field("raw", pa.binary())])
    batch = people((1, "ab", b"ab"), (2, "ab ", b"ab"), (3, "ab", b"a"), (4, "", b"\0\0"), schema=schema)
    async with scene.session() as session:
        done = await scan(session, [batch], rejects_left=2)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":2}', "name"), ('{"id":3}', "raw")]
    assert scene.rows("people") == [(1, "ab", b"ab"), (4, "", b"\0\0")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_numbers_that_mysql_lacks_are_refused(scene: Scene, value: float) -> None:
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("x", pa.float64())])
    async with scene.session() as session:
        done = await scan(session, [people((1, 1.5), (2, value), schema=schema)], rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":2}']
    assert scene.rows("people") == [(1, 1.5)]


async def test_emoji_arrive_where_the_database_is_latin1(scene: Scene) -> None:
    scene.run(f"ALTER DATABASE `{scene.database}` CHARACTER SET latin1")
    async with scene.session() as session:
        await scan(session, [people((1, "🙂 ü"), (2, ""))])
    assert scene.rows("people") == [(1, "🙂 ü"), (2, "")]


async def test_json_that_is_none_is_refused(scene: Scene) -> None:
    schema = pa.schema([pa.field("id", pa.int64()), field("doc", pa.string(), json=True)])
    batch = people((1, '{"a":1}'), (2, "{"), (3, None), schema=schema)
    async with scene.session() as session:
        done = await scan(session, [batch], rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":2}']
    assert [row[0] for row in scene.rows("people")] == [1, 3]
