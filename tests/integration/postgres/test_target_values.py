"""Values arrive as they are, or not at all: every type, and what the server would change or end in silence."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retl.connectors.postgres.dialect import DIALECT
from retl.model.errors import ConfigError, SchemaDrift
from tests import tiers
from tests.integration.postgres.targets import Scene, column, with_id
from tests.integration.scene import people, scan, spec
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import log_statements, sent

TEXT = with_id(column("v", pa.string()))


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


def _times(unit: str) -> Callable[[dt.datetime], dt.datetime]:
    step = {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    return lambda value: value.replace(microsecond=value.microsecond // step * step)


MOMENTS = st.datetimes()
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20) | st.sampled_from(
    ["NULL", "\\N", "\\.", "a\n\\.\nb", '"', "a\\", "\r\n", "🙂 ", "'", ",", "", " "]
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
    "f32": (pa.float32(), st.floats(width=32)),
    "f64": (pa.float64(), st.floats()),
    "small": (pa.decimal128(12, 4), st.decimals(-99_999_999, 99_999_999, places=4)),
    "tiny": (pa.decimal128(38, 30), st.decimals(-99_999_999, 99_999_999, places=30)),
    "large": (pa.decimal256(65, 0), st.integers(-(10**65) + 1, 10**65 - 1).map(Decimal)),
    "day": (pa.date32(), st.dates()),
    "seconds": (pa.timestamp("s"), MOMENTS.map(_times("s"))),
    "millis": (pa.timestamp("ms"), MOMENTS.map(_times("ms"))),
    "micros": (pa.timestamp("us"), MOMENTS),
    "zoned": (pa.timestamp("us", "UTC"), MOMENTS.map(lambda value: value.replace(tzinfo=dt.UTC))),
    "clock": (pa.time64("us"), st.times()),
    "words": (pa.string(), WORDS),
    "more": (pa.large_string(), WORDS),
    "chosen": (pa.dictionary(pa.int32(), pa.string()), WORDS),
    "raw": (pa.binary(), st.binary(max_size=20)),
    "four": (pa.binary(4), st.binary(min_size=4, max_size=4)),
}
EVERY = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), *(pa.field(name, kind) for name, (kind, _) in COLUMNS.items())]
)
VALUES = st.tuples(*(st.none() | values for _, values in COLUMNS.values()))


@settings(max_examples=tiers.number(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(VALUES, min_size=1, max_size=20))
async def test_any_values_of_any_types_come_back(scene: Scene, rows: list[tuple[Any, ...]]) -> None:
    batch = people(*((number, *row) for number, row in enumerate(rows)), schema=EVERY)
    async with scene.session() as session:
        await scan(session, [batch], spec(pre_action="truncate"))
    names = ["CAST(f32 AS double precision)" if name == "f32" else name for name in EVERY.names]
    found = scene.run(f"SELECT {', '.join(names)} FROM people ORDER BY id")
    assert list(map(_shown, found)) == [_shown((number, *row)) for number, row in enumerate(rows)]


def _shown(row: tuple[Any, ...]) -> list[Any]:
    """A row whose values are equal only if they are the same: NaN is NaN, and -0.0 is not 0.0."""
    return [_bits(value) if isinstance(value, float) else value for value in row]


def _bits(value: float) -> bytes | str:
    return "NaN" if math.isnan(value) else struct.pack("d", value)


DECLARED = [
    (pa.bool_(), "", "boolean"),
    (pa.int8(), "", "smallint"),
    (pa.uint16(), "", "integer"),
    (pa.uint32(), "", "bigint"),
    (pa.uint64(), "", "numeric(20,0)"),
    (pa.float32(), "", "real"),
    (pa.decimal256(50, 10), "", "numeric(50,10)"),
    (pa.decimal128(5, -2), "", "numeric(7,0)"),
    (pa.timestamp("ms"), "", "timestamp without time zone"),
    (pa.timestamp("us", "UTC"), "", "timestamp with time zone"),
    (pa.time32("s"), "", "time without time zone"),
    (pa.binary(), "", "bytea"),
    (pa.uuid(), "", "uuid"),
    (pa.list_(pa.int64()), "", "jsonb"),
    (pa.json_(), "", "jsonb"),
    (pa.string(), "character varying(20)", "character varying(20)"),
    (pa.decimal128(10, 2), "numeric(10,2)", "numeric(10,2)"),
    (pa.string(), "numeric", "numeric"),
    (pa.timestamp("us"), "timestamp(3) without time zone", "timestamp(3) without time zone"),
    (pa.string(), "interval", "interval"),
    (pa.string(), "time with time zone", "time with time zone"),
    (pa.string(), "integer[]", "integer[]"),
    (pa.string(), "int4range", "int4range"),
    (pa.string(), "tstzrange", "tstzrange"),
    (pa.string(), "inet", "inet"),
    (pa.string(), "bit(3)", "bit(3)"),
    (pa.string(), "uuid", "uuid"),
    (pa.string(), "mood", "text"),
    (pa.string(), "text; DROP TABLE people", "text"),
]


@pytest.mark.parametrize(
    ("kind", "native", "wanted"), DECLARED, ids=[f"{kind}-{native}" for kind, native, _ in DECLARED]
)
async def test_a_table_is_created_with_exact_types(scene: Scene, kind: pa.DataType, native: str, wanted: str) -> None:
    schema = with_id(column("v", kind, native), column("w", kind, native, nullable=False))
    async with scene.session() as session:
        await scan(session, [people(schema=schema)])
    assert scene.types("people") == {"id": "bigint", "v": wanted, "w": wanted}
    strict = scene.run(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnotnull AND attnum > 0"
    )
    assert {name for (name,) in strict} == {"id", "w"}


NATIVE = [
    ("numeric", "1" + "0" * 200 + "." + "1" * 100),
    ("numeric", "NaN"),
    ("interval", "1 year 2 mons -3 days 04:05:06.789"),
    ("time with time zone", "23:59:59.999999-15:59:59"),
    ("time without time zone", "24:00:00"),
    ("timestamp without time zone", "infinity"),
    ("timestamp without time zone", "4713-01-01 00:00:00 BC"),
    ("date", "-infinity"),
    ("date", "5874897-12-31"),
    ("integer[]", "{{1,NULL},{3,4}}"),
    ("text[]", '{"a,b","\\"","NULL",NULL,""}'),
    ("int4range", "[1,5)"),
    ("jsonb", '{"a": 12345678901234567890.123456789}'),
    ("json", '{"a": 1,  "a": 2}'),
    ("inet", "10.0.0.1/8"),
    ("bit varying", "10101"),
    ("money", "-12.34"),
    ("point", "(1.5,-2)"),
    ("tsvector", "'a':1A 'b':2"),
    ('"char"', "x"),
]


@pytest.mark.parametrize(("native", "text"), NATIVE)
async def test_values_of_the_servers_own_types_arrive_as_text(scene: Scene, native: str, text: str) -> None:
    scene.run(f"CREATE TABLE people (id bigint PRIMARY KEY, v {native})")
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([text])], names=["id", "v"])
    there = DIALECT.logical_field("v", native)
    async with scene.session() as session:
        await scan(session, [batch], schema=with_id(there))
    ((same,),) = scene.run(f"SELECT v::text = ('{text.replace(chr(39), chr(39) * 2)}'::{native})::text FROM people")
    assert same


@pytest.mark.parametrize("native", ["vector(3)", "halfvec(3)"])
async def test_vectors_arrive_and_those_of_another_dimension_do_not(
    postgres_server: PostgresServer, native: str
) -> None:
    with postgres_server.fresh_database() as database:
        scene = Scene(postgres_server, database)
        scene.run_as_admin("CREATE EXTENSION vector")
        scene.run(f"CREATE TABLE people (id bigint PRIMARY KEY, v {native})")
        rows = people((1, "[1,2,3]"), (2, "[1,2]"), (3, "[1,2,NaN]"), schema=TEXT)
        async with scene.session() as session:
            done = await scan(session, [rows], rejects_left=2)
        assert [reject.column for reject in done.rejects] == ["v", "v"]
        assert scene.run("SELECT id, v::text FROM people") == [(1, "[1,2,3]")]


# Rows that cannot be stored as they are ----------------------------------------------

REJECTED = [
    ("text", "a\x00b", "NUL"),
    ("jsonb", '{"a": "\\u0000"}', "unsupported Unicode escape sequence"),
    ("jsonb", '{"a": "\\ud800"}', "Unicode"),
    ("jsonb", "{", "invalid input syntax for type json"),
    ("character varying(3)", "abcd", "value too long for type character varying(3)"),
    ("character varying(3)", "abc ", "value too long for type character varying(3)"),
    ("character(3)", "ab ", "drops the spaces at the end"),
    ("name", "x" * 64, "keeps only 63 bytes"),
    ("uuid", "no", "invalid input syntax for type uuid"),
    ("mood", "angry", 'invalid input value for enum mood: "angry"'),
    ("short", "abcd", "value too long for type character varying(3)"),
    ("short", "bad", "violates check constraint"),
    ("short", "ab  ", "value too long for type character varying(3)"),
    ("interval", "a while", "invalid input syntax for type interval"),
    ("int4range", "[5,1)", "range lower bound must be less than or equal to range upper bound"),
]


@pytest.mark.parametrize(("declared", "value", "reason"), REJECTED)
async def test_a_text_that_cannot_be_stored_as_it_is_is_a_reject_with_its_reason(
    scene: Scene, declared: str, value: str, reason: str
) -> None:
    scene.run(
        "CREATE TYPE mood AS ENUM ('glad')",
        "CREATE DOMAIN short AS varchar(3) CHECK (value <> 'bad')",
        f"CREATE TABLE people (id bigint PRIMARY KEY, v {declared})",
    )
    async with scene.session() as session:
        done = await scan(session, [people((1, None), (2, value), (3, None), schema=TEXT)], rejects_left=1)
    (reject,) = done.rejects
    assert reason in reject.reason
    assert "COPY" not in reject.reason
    assert (reject.key, reject.column) == ('{"id":2}', "v")
    assert scene.rows("people") == [(1, None), (3, None)]


async def test_text_that_is_not_utf8_is_a_reject(scene: Scene) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(struct.pack("3i", 0, 2, 4)), pa.py_buffer(b"ok\xff\xfe")]
    )
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), bad], schema=TEXT)
    async with scene.session() as session:
        done = await scan(session, [batch], rejects_left=1)
    assert [reject.reason for reject in done.rejects] == ["the text is not valid UTF-8"]
    assert scene.rows("people") == [(1, "ok")]


async def test_a_time_with_more_digits_than_the_column_keeps_is_a_reject(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, v timestamp(3), w timestamp)")
    schema = with_id(column("v", pa.timestamp("us")), column("w", pa.timestamp("ns")))
    rows = people((1, 1_000, 1_000), (2, 1_001, 1_000), (3, 1_000, 1_001), (4, None, None), schema=schema)
    async with scene.session() as session:
        done = await scan(session, [rows], rejects_left=2)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":2}', "v"), ('{"id":3}', "w")]
    assert [row[0] for row in scene.rows("people")] == [1, 4]


async def test_a_number_out_of_range_is_a_reject(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, v smallint, w numeric(5,2))")
    schema = with_id(column("v", pa.int64()), column("w", pa.decimal128(20, 2)))
    rows = people((1, 1, Decimal("1.00")), (2, 40_000, None), (3, 3, Decimal("1000.00")), schema=schema)
    async with scene.session() as session:
        done = await scan(session, [rows], rejects_left=2)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":2}', "v"), ('{"id":3}', "w")]
    assert scene.rows("people") == [(1, 1, Decimal("1.00"))]


async def test_a_tinyint_becomes_the_boolean_that_it_is_elsewhere(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, v boolean)")
    schema = with_id(column("v", pa.int8(), "tinyint(1)"))
    async with scene.session() as session:
        done = await scan(session, [people((1, 1), (2, 0), (3, None), (4, 2), schema=schema)], rejects_left=1)
        again = await scan(session, [people((1, 1), (2, 1), (3, None), schema=schema)])
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":4}', "v")]
    assert (again.changed, again.unchanged) == (1, 2)
    assert scene.rows("people") == [(1, True), (2, True), (3, None)]


async def test_many_rejects_of_one_batch_are_all_found(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, v uuid)")
    rows = people(*((n, str(uuid.UUID(int=n)) if n % 7 else f"no {n}") for n in range(1_000)), schema=TEXT)
    async with scene.session() as session:
        done = await scan(session, [rows], spec(max_rejects=200), rejects_left=200)
    assert [reject.key for reject in done.rejects] == [f'{{"id":{n}}}' for n in range(0, 1_000, 7)]
    assert [row[0] for row in scene.run("SELECT id FROM people ORDER BY id")] == [n for n in range(1_000) if n % 7]


async def test_rejects_are_found_among_texts_of_several_lines(scene: Scene) -> None:
    """The server counts lines, and names that in which a row ends."""
    scene.run("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)")
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, note text, v positive)")
    schema = with_id(column("note", pa.string()), column("v", pa.int64()))
    notes = ["one line", "two\r\nlines", "\n\n", None, "carriage\r\nreturn", 'quoted "\n"', "7 is\n8"]
    values = {5: 2**40, 20: 0, 21: -5, 33: 2**40, 34: 2**41}
    rows = people(*((n, notes[n % 7], values.get(n, n)) for n in range(1, 50)), schema=schema)
    log_statements(scene.server, scene.user.user)
    with sent(scene.server) as found:
        async with scene.session() as session:
            done = await scan(session, [rows], spec(max_rejects=10), rejects_left=10)
    copies = [statement for statement in found.statements if statement.startswith("COPY")]
    if "ON_ERROR" in copies[2]:  # straight into the table, into the stage, what fits into the stage, and the others
        assert len(copies) == 3 + len(values)
    else:
        assert scene.server.version < 170_000
    assert [reject.key for reject in done.rejects] == [f'{{"id":{n}}}' for n in values]
    assert {reject.reason for reject in done.rejects if reject.key in ('{"id":20}', '{"id":21}')} == {
        'value for domain positive violates check constraint "positive_check"'
    }
    assert sorted(scene.rows("people")) == [(n, notes[n % 7], n) for n in range(1, 50) if n not in values]


async def test_a_table_of_one_column_holds_the_end_mark_of_copy(scene: Scene) -> None:
    """Up to PostgreSQL 17 a CSV COPY ends in silence at a line that is just ``\\.``."""
    schema = pa.schema([column("v", pa.string())])
    rows = people(("a",), ("\\.",), ("b",), (None,), ("NULL",), ("",), ("x\n\\.\ny",), schema=schema)
    async with scene.session() as session:
        done = await scan(session, [rows], spec(key=None, write="append"))
    assert done.changed == 7
    assert sorted(scene.run("SELECT v FROM people"), key=repr) == sorted(
        [("a",), ("\\.",), ("b",), (None,), ("NULL",), ("",), ("x\n\\.\ny",)], key=repr
    )


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        (pa.decimal128(10, 4), "numeric(10,2)"),
        (pa.int64(), "numeric(3,-2)"),
        (pa.int64(), "real"),
        (pa.float64(), "real"),
        (pa.float64(), "numeric(10,2)"),
        (pa.timestamp("us"), "date"),
        (pa.timestamp("us"), "timestamptz"),
        (pa.timestamp("us", "UTC"), "timestamp"),
        (pa.string(), "integer"),
        (pa.string(), "timestamp"),
        (pa.binary(), "text"),
        (pa.string(), "bytea"),
        (pa.list_(pa.int64()), "integer[]"),
        (pa.int64(), "boolean"),
    ],
    ids=str,
)
async def test_a_column_that_would_change_values_is_refused(scene: Scene, kind: pa.DataType, declared: str) -> None:
    scene.run(f"CREATE TABLE people (id bigint PRIMARY KEY, v {declared})")
    async with scene.session() as session:
        with pytest.raises(SchemaDrift, match="'v'"):
            await session.target.preview(session.load(spec(), schema=with_id(column("v", kind))))


async def test_a_name_of_more_than_63_bytes_is_refused_before_it_is_cut(scene: Scene) -> None:
    name = "表" * 22
    async with scene.session() as session:
        with pytest.raises(ConfigError, match="66 bytes"):
            await session.target.preview(session.load(spec(), schema=with_id(column(name, pa.string()))))
        with pytest.raises(ConfigError, match="66 bytes"):
            await session.target.preview(session.load(spec(to=name), schema=TEXT))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_databases_of_another_encoding(pg: PostgresServer, encoding: str) -> None:
    """LATIN1 refuses what it lacks; SQL_ASCII takes the bytes of UTF-8 as they are."""
    name = f"retl_{encoding.lower()}"
    pg.query(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    try:
        scene = Scene(pg, name)
        rows = people((1, "é"), (2, "表"), schema=TEXT)
        async with scene.session() as session:
            done = await scan(session, [rows], rejects_left=1)
        found = [
            (key, text if isinstance(text, str) else text.decode())  # of SQL_ASCII the driver gives bytes
            for key, text in scene.run("SELECT id, encode(convert_to(v, 'UTF8'), 'hex') FROM people ORDER BY id")
        ]
        both = [(1, "c3a9"), (2, "e8a1a8")]
        assert found == (both[:1] if encoding == "LATIN1" else both)
        assert [reject.key for reject in done.rejects] == (['{"id":2}'] if encoding == "LATIN1" else [])
    finally:
        pg.query(f"DROP DATABASE {name} WITH (FORCE)")
        pg.query(f"DROP ROLE IF EXISTS {scene.user.user}")
