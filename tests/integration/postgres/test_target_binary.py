"""What is sent in COPY's binary format is stored as it is by CSV, to the last byte."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retl.connectors.postgres import binary
from tests import tiers
from tests.integration.postgres.formats import DOMAINS, both, rejected, tables
from tests.integration.postgres.targets import Scene, column, with_id
from tests.integration.scene import people
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(not binary.is_available(), reason="pgpq has no wheel for this platform")
wide = settings(
    max_examples=tiers.number(25),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # the values that differ are told anyway
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    scene = Scene(pg, pg_database)
    scene.run(DOMAINS)
    return scene


# Every type at its extremes ---------------------------------------------------------


class Values(NamedTuple):
    edges: list[Any]
    others: st.SearchStrategy[Any]

    def map(self, change: Callable[[Any], Any]) -> Values:
        return Values(list(map(change, self.edges)), self.others.map(change))


def whole(bits: int, *, signed: bool = True) -> Values:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Values([low, high, 0], st.integers(low, high))


def decimals(digits: int, places: int) -> Values:
    most = 10**digits - 1
    edges = [0, 1, -1, most, -most, 10 ** (digits // 2), 10 ** max(0, min(places, digits - 1))]
    return Values(edges, st.integers(-most, most)).map(
        lambda number: Decimal((number < 0, tuple(map(int, str(abs(number)))), -places))
    )


def moments(step: int = 1) -> Values:
    edges = ["0001-01-01", "1969-12-31T23:59:59.999999", "1970-01-01", "2000-01-01", "9999-12-31T23:59:59.999999"]
    return Values(list(map(dt.datetime.fromisoformat, edges)), st.datetimes()).map(
        lambda value: value.replace(microsecond=value.microsecond // step * step)
    )


def zoned(value: dt.datetime) -> dt.datetime:
    return value.replace(tzinfo=dt.UTC)


BITS = Values([True, False], st.booleans())
SINGLES = Values([-0.0, math.inf, -math.inf, math.nan, 1.401298464324817e-45], st.floats(width=32))
DOUBLES = Values([-0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308], st.floats())
DAYS = Values([dt.date.min, dt.date.max, dt.date(2000, 1, 1)], st.dates())
CLOCKS = Values([dt.time.min, dt.time.max], st.times())
WORDS = Values(
    ["NULL", "\\N", "\\.", "a\n\\.\nb", '"', "\r\n", "🙂 ", "", " "],
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
)
JSON = Values(['{"b": 1, "a": [1.0, null]}', "null", '" "', "[]", "1e400", '{"a": 1,  "a": 2}'], st.integers().map(str))
BYTES = Values([b"", b"\x00\xff", b"\\"], st.binary(max_size=12))
TYPES: list[tuple[str, pa.DataType, Values]] = [
    ("boolean", pa.bool_(), BITS),
    ("boolean", pa.int8(), BITS.map(int)),
    ("smallint", pa.int8(), whole(8)),
    ("smallint", pa.int16(), whole(16)),
    ("smallint", pa.uint8(), whole(8, signed=False)),
    ("integer", pa.int32(), whole(32)),
    ("integer", pa.int64(), whole(32)),
    ("integer", pa.uint16(), whole(16, signed=False)),
    ("bigint", pa.int64(), whole(64)),
    ("bigint", pa.int32(), whole(32)),
    ("bigint", pa.uint32(), whole(32, signed=False)),
    ("numeric(20,0)", pa.uint64(), whole(64, signed=False)),
    ("numeric(30,2)", pa.int64(), whole(64)),
    ("numeric", pa.int64(), whole(64)),
    ("numeric(18,4)", pa.decimal128(18, 4), decimals(18, 4)),
    ("numeric(38,19)", pa.decimal128(18, 4), decimals(18, 4)),
    ("numeric(38,0)", pa.decimal128(38, 0), decimals(38, 0)),
    ("numeric(38,38)", pa.decimal128(38, 38), decimals(38, 38)),
    ("numeric", pa.decimal128(38, 30), decimals(38, 30)),
    ("numeric", pa.decimal128(9, 3), decimals(9, 3)),
    ("numeric", pa.decimal128(5, -2), decimals(5, -2)),
    ("numeric(65,10)", pa.decimal256(30, 10), decimals(30, 10)),
    ("real", pa.float32(), SINGLES),
    ("real", pa.float16(), Values([-0.0, 65504.0], st.floats(width=16))),
    ("double precision", pa.float64(), DOUBLES),
    ("double precision", pa.int32(), whole(32)),
    ("date", pa.date32(), DAYS),
    ("timestamp", pa.timestamp("us"), moments()),
    ("timestamp", pa.timestamp("s"), moments(1_000_000)),
    ("timestamp", pa.date32(), DAYS),
    ("timestamp(3)", pa.timestamp("ms"), moments(1_000)),
    ("timestamptz", pa.timestamp("us", "UTC"), moments().map(zoned)),
    ("timestamptz", pa.timestamp("us", "+03:30"), moments().map(zoned)),
    ("time", pa.time64("us"), CLOCKS),
    ("time(0)", pa.time32("s"), CLOCKS.map(lambda value: value.replace(microsecond=0))),
    ("text", pa.string(), WORDS),
    ("text", pa.large_string(), WORDS),
    ("text", pa.dictionary(pa.int32(), pa.string()), WORDS),
    ("text", pa.int64(), whole(64)),
    ("text", pa.null(), Values([None], st.none())),
    ("varchar(12)", pa.string(), WORDS),
    ("char(12)", pa.string(), WORDS.map(str.rstrip)),
    ("letters", pa.string(), WORDS),
    ("positive", pa.int64(), Values([1, 2**31 - 1], st.integers(1, 2**31 - 1))),
    ("json", pa.string(), JSON),
    ("jsonb", pa.string(), JSON),
    ("jsonb", pa.json_(), JSON),
    ("jsonb", pa.list_(pa.int64()), Values([[], [1, None]], st.lists(st.integers(-5, 5), max_size=3))),
    ("bytea", pa.binary(), BYTES),
    ("bytea", pa.binary(4), Values([b"\0" * 4], st.binary(min_size=4, max_size=4))),
    ("uuid", pa.uuid(), Values([uuid.UUID(int=0)], st.uuids()).map(lambda value: value.bytes)),
]
EVERY = with_id(*(column(f"c{number}", kind) for number, (_, kind, _) in enumerate(TYPES)))
DECLARED = ", ".join(f"c{number} {declared}" for number, (declared, _, _) in enumerate(TYPES))
ROWS = st.lists(
    st.tuples(*(st.none() | st.sampled_from(values.edges) | values.others for _, _, values in TYPES)),
    min_size=1,
    max_size=6,
)


def batch_of(columns: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Columns of every type, with a key before them."""
    arrays = [_array(values, kind) for values, kind in zip(columns, EVERY.types[1:], strict=True)]
    return pa.RecordBatch.from_arrays([pa.array(list(range(len(columns[0])))), *arrays], schema=EVERY)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


@pytest.mark.parametrize("staged", [False, True])
async def test_every_type_is_stored_at_its_extremes_as_it_is_by_csv(scene: Scene, staged: bool) -> None:
    longest = max(len(values.edges) for _, _, values in TYPES)
    batch = batch_of([[None, *values.edges, *[None] * (longest - len(values.edges))] for _, _, values in TYPES])
    one, other, formats = await both(scene, DECLARED, batch, staged=staged)
    assert formats == ["binary"]
    assert rejected(one) == rejected(other) == []
    assert one.changed == batch.num_rows


@pytest.mark.every_system
def test_any_values_are_stored_as_they_are_by_csv(scene: Scene) -> None:
    with tables(scene, f"id bigint, {DECLARED}") as two:

        @wide
        @given(rows=ROWS, cut=st.integers(0, 3))
        def same(rows: list[tuple[Any, ...]], cut: int) -> None:
            batch = batch_of(list(zip(*rows, strict=True)))
            assert two.fill(batch.slice(min(cut, len(rows) - 1))) == "binary"

        same()


def test_each_nan_is_the_one_that_text_stands_for(scene: Scene) -> None:
    """A processor makes negative ones too, and the server would keep their bits: the same row would always seem changed."""
    doubles = np.frombuffer(struct.pack("<3Q", 0xFFF8_0000_0000_0000, 0x7FF8_0000_0000_0123, 0x7FF8_0000_0000_0000))
    singles = np.frombuffer(struct.pack("<3I", 0xFFC0_0000, 0x7FC0_0123, 0x7FC0_0000), np.float32)
    batch = pa.RecordBatch.from_arrays(
        [pa.array([1, 2, 3]), pa.array(doubles), pa.array(singles)],
        schema=with_id(column("v", pa.float64()), column("w", pa.float32())),
    )
    with tables(scene, "id bigint, v double precision, w real") as two:
        assert two.fill(batch) == "binary"


# Text that sources send for numbers and times ------------------------------------------

NUMBERS = st.from_regex(r"[-+ ]?(0x|0b)?[0-9_]{0,22}(\.[0-9]{0,5})?([eE][-+]?[0-9]{1,3})? ?", fullmatch=True)
TIMES = st.from_regex(
    r"[0-9]{4}-(0[0-9]|1[0-3])-(0[0-9]|3[0-2])[ T]?(2[0-5]|0[0-9])?(:[0-6][0-9])?(:[0-6][0-9])?(\.[0-9]{0,7})?"
    r"(Z|[-+][01][0-9](:?[0-9]{2})?| BC)?",
    fullmatch=True,
)
TEXTS = {
    "boolean": st.sampled_from(["0", "1", "t", "f", "true", "FALSE", "y", "2", "", "tru"]),
    "smallint": NUMBERS | whole(16).others.map(str),
    "bigint": NUMBERS | whole(64).others.map(str) | st.sampled_from(["-0", "007", "0x1F", "9223372036854775808"]),
    "numeric(12,3)": NUMBERS | decimals(12, 3).others.map(str) | st.sampled_from(["1", "1.5", "1e2", "-.5", "1.0005"]),
    "real": NUMBERS | SINGLES.others.map(str) | st.sampled_from(["1e39", "1e-46", "1e-45"]),
    "double precision": NUMBERS
    | DOUBLES.others.map(str)
    | st.sampled_from(["1e400", "1e-400", "0e9", "-0", "inf", "NaN"]),
    "date": TIMES | st.dates().map(str) | st.sampled_from(["0000-01-01", "infinity", "2024-02-30", "20240101"]),
    "timestamp": TIMES
    | moments().others.map(str)
    | st.sampled_from(["0000-12-31 00:00:00", "infinity", "2024-01-01 24:00:00", "2024-01-01 23:59:60"]),
    "timestamptz": TIMES | moments().others.map(str) | moments().others.map(lambda value: f"{value}Z"),
}


@pytest.mark.every_system
def test_text_that_is_sent_in_binary_is_read_as_the_server_reads_it(scene: Scene) -> None:
    """No text that the server would reject, or read as something else, is sent in binary."""
    columns = {f"c{number}": (declared, texts) for number, (declared, texts) in enumerate(TEXTS.items())}
    declared = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
    schema = with_id(*(column(name, pa.string()) for name in columns))
    with tables(scene, f"id bigint, {declared}") as two:

        @wide
        @given(rows=st.lists(st.tuples(*(texts for _, texts in columns.values())), min_size=5, max_size=20))
        def same(rows: list[tuple[str, ...]]) -> None:
            every = zip(zip(*rows, strict=True), columns, strict=True)
            arrays = [_formed(texts, two.fields[name]) for texts, name in every]
            batch = pa.RecordBatch.from_arrays([pa.array(list(range(len(rows)))), *arrays], schema=schema)
            assert two.fill(batch) == "binary"

        same()


def _formed(texts: Sequence[str], there: pa.Field) -> pa.Array:
    """The texts that have a binary form each; none if they have none together, as times with a zone and without."""
    array = pa.array([text if _has_form(pa.array([text]), there) else None for text in texts], pa.string())
    return array if _has_form(array, there) else pa.nulls(len(array), pa.string())


def _has_form(array: pa.Array, there: pa.Field) -> bool:
    return binary.encoded([(array, there)], None) is not None


@pytest.mark.parametrize(
    ("declared", "texts"),
    [
        ("bigint", ["-1", "9223372036854775807", None]),
        ("numeric(12,3)", ["1", "-1.5", "999999999.999", None]),
        ("double precision", ["0.1", "-0", "1e-320", None]),
        ("date", ["2024-02-29", "0001-01-01", None]),
        ("timestamp", ["2024-02-29 12:30:00", "2024-02-29 12:30:00.123456", None]),
        ("timestamptz", ["2024-02-29 12:30:00.123456Z", "2024-02-29 12:30:00+02", None]),
        ("timestamptz", ["2024-02-29 12:30:00.123456", None]),
        ("boolean", ["1", "0", None]),
        ("varchar(3)", ["abc", None]),
    ],
)
def test_usual_texts_are_sent_in_binary(scene: Scene, declared: str, texts: list[str | None]) -> None:
    with tables(scene, f"id bigint, v {declared}") as two:
        assert two.fill(people(*enumerate(texts), schema=with_id(column("v", pa.string())))) == "binary"
