"""Parquet, Arrow, ORC and Avro to Arrow, by whoever they were written."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow as pa
import pytest
from pyarrow import feather, ipc, orc, parquet

from retl.connectors.files.formats import LINE, FileUnreadable, format_for
from retl.connectors.files.store import FileChanged
from tests.formats import good, read, reasons, types

TABLE = pa.table(
    {
        "id": pa.array([1, 2, None], pa.int64()),
        "name": pa.array(["x", None, "中"]),
        "price": pa.array([Decimal("1.50"), Decimal("2.25"), None], pa.decimal128(10, 2)),
        "day": pa.array([date(2024, 2, 29), None, date(1, 1, 1)]),
        "at": pa.array([datetime(2024, 1, 1, tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
        "list": pa.array([[1, 2], None, []], pa.list_(pa.int64())),
    }
)
ROWS = TABLE.to_pylist()


def as_parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


def as_feather(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(table, sink)
    return sink.getvalue()


def as_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return sink.getvalue()


def as_orc(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    orc.write_table(table, sink)
    return sink.getvalue()


WRITERS: dict[str, tuple[str, Callable[[pa.Table], bytes]]] = {
    "parquet": ("a.parquet", as_parquet),
    "feather": ("a.feather", as_feather),
    "stream": ("a.arrows", as_stream),
    "orc": ("a.orc", as_orc),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_files_with_types_are_read_as_they_are(kind: str) -> None:
    name, write = WRITERS[kind]
    rows = [{**row, "at": row["at"] and row["at"].astimezone(UTC)} for row in read(write(TABLE), name)]
    assert rows == ROWS


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_are_found_by_name_with_the_number_of_their_row(kind: str) -> None:
    name, write = WRITERS[kind]
    schema = pa.schema([("price", pa.string()), ("none", pa.int64()), ("id", pa.int64()), (LINE, pa.int64())])
    assert read(write(TABLE), name, schema) == [
        {"price": "1.50", "none": None, "id": 1, LINE: 1},
        {"price": "2.25", "none": None, "id": 2, LINE: 2},
        {"price": None, "none": None, "id": None, LINE: 3},
    ]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_value_that_does_not_fit_rejects_its_row_alone(kind: str) -> None:
    name, write = WRITERS[kind]
    data = write(pa.table({"a": [1, 2**40, 3], "t": ["5", "x", "y"]}))
    rows = read(data, name, pa.schema([("a", pa.int32()), ("t", pa.string())]))
    assert good(rows) == [{"a": 1, "t": "5"}, {"a": 3, "t": "y"}]
    assert reasons(rows) == ["line 2: '1099511627776' is not of type int32"]
    rows = read(data, name, pa.schema([("t", pa.int64())]))
    assert good(rows) == [{"t": 5}]
    assert len(reasons(rows)) == 2


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("cut", [0, 4, 8, 40, 200])
def test_a_file_that_is_cut_is_unreadable(kind: str, cut: int) -> None:
    name, write = WRITERS[kind]
    data = write(TABLE)
    with pytest.raises(FileUnreadable, match=f"^{name}: "):
        read(data[:-cut] if cut else b"", name, TABLE.schema)


class Changed(io.BytesIO):
    """A file that turns out to be another one while it is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        found = super().read(size)
        if at < 30_000 < self.tell():
            raise FileChanged("a: it was written to meanwhile.")
        return found


@pytest.mark.parametrize("kind", WRITERS)
def test_what_the_store_says_of_a_file_is_told_whoever_reads_it(kind: str) -> None:
    name, write = WRITERS[kind]
    data = write(
        pa.table({"a": [f"{number * 7919 % 100_003}" for number in range(20_000 if kind != "stream" else 200)]})
    )
    with pytest.raises(FileChanged):
        read_from(Changed(data), name)


def read_from(file: io.BytesIO, name: str) -> None:
    assert list(format_for({}, name).read(file, name, pa.schema([("a", pa.string())])))


def test_a_parquet_file_of_many_row_groups_is_read_in_bounded_batches() -> None:
    table = pa.table({"a": range(100_000), "b": ["x" * 1000] * 100_000})
    data = as_parquet(table, row_group_size=30_000)
    batches = list(format_for({}, "a.parquet").read(io.BytesIO(data), "a.parquet", table.schema))
    assert [number for batch in batches for number in batch["a"].to_pylist()] == list(range(100_000))
    assert max(batch.nbytes for batch in batches) < 32 * 1024 * 1024


def test_layouts_of_text_and_dictionaries_are_plain_text() -> None:
    table = pa.table(
        {
            "d": pa.array(["x", "y", "x"]).dictionary_encode(),
            "l": pa.array(["x", None, "z"], pa.large_string()),
            "v": pa.array(["x", None, "z"], pa.string_view()),
        }
    )
    assert types(as_stream(table), "a.arrows") == {"d": "string", "l": "string", "v": "string"}
    assert read(as_stream(table), "a.arrows") == table.to_pylist()


def test_parquet_of_duckdb_is_read_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    query = """SELECT 170141183460469231731687303715884105727::DECIMAL(38,0) AS big, 1.10::DECIMAL(9,2) AS small,
        TIMESTAMP '2024-01-01 00:00:00.123456' AS at, TIMESTAMP_NS '2024-01-01 00:00:00.123456789' AS nanos,
        {'a': [1, 2]} AS nested, 'x'::ENUM('x', 'y') AS word, 18446744073709551615::UBIGINT AS unsigned"""
    query = query.replace("170141183460469231731687303715884105727", "9" * 38)
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    schema = pa.schema([(name, pa.string()) for name in ("big", "small", "at", "nanos", "nested", "word", "unsigned")])
    assert read(path.read_bytes(), "a.parquet", schema) == [
        {
            "big": "9" * 38,
            "small": "1.10",
            "at": "2024-01-01 00:00:00.123456",
            "nanos": "2024-01-01 00:00:00.123456789",
            "nested": '{"a":[1,2]}',
            "word": "x",
            "unsigned": "18446744073709551615",
        }
    ]


def test_parquet_of_polars_is_read(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    path = tmp_path / "a.parquet"
    polars.DataFrame({"a": [1, None], "s": ["x", "中"], "l": [[1.5], []]}).write_parquet(path, compression="zstd")
    assert read(path.read_bytes(), "a.parquet") == [{"a": 1, "s": "x", "l": [1.5]}, {"a": None, "s": "中", "l": []}]


AVRO = {
    "type": "record",
    "name": "row",
    "fields": [
        {"name": "id", "type": ["null", "long"]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "word", "type": {"type": "enum", "name": "word", "symbols": ["x", "y"]}},
        {"name": "nested", "type": {"type": "map", "values": "int"}},
        {"name": "either", "type": ["int", "string"]},
    ],
}


def as_avro(rows: list[dict[str, Any]], codec: str = "deflate") -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, AVRO, rows, codec=codec)
    return sink.getvalue()


def test_avro_is_read_with_its_logical_types() -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {"id": 1, "price": Decimal("1.50"), "at": moment, "word": "x", "nested": {"k": 1}, "either": "5"},
        {"id": None, "price": Decimal("-0.01"), "at": moment, "word": "y", "nested": {}, "either": 5},
    ]
    assert types(as_avro(rows), "a.avro") == {
        "id": "int64",
        "price": "decimal128(10, 2)",
        "at": "timestamp[us, tz=UTC]",
        "word": "string",
        "nested": "string",
        "either": "string",
    }
    assert read(as_avro(rows), "a.avro") == [
        {**rows[0], "nested": '{"k":1}', "either": '"5"'},
        {**rows[1], "nested": "{}", "either": "5"},
    ]
    for broken in (b"", as_avro(rows)[:-5], as_avro(rows)[:60], as_avro(rows, "null")[:-40] + b"x" * 40):
        with pytest.raises(FileUnreadable, match=r"^a.avro: "):
            read(broken, "a.avro", pa.schema([("id", pa.int64())]))


MOMENT = datetime.fromisoformat("2024-01-01T00:00:00.000007")


@pytest.mark.parametrize("codec", ["uncompressed", "deflate", "snappy"])
def test_avro_of_polars_is_read(tmp_path: Path, codec: Any) -> None:
    polars = pytest.importorskip("polars")
    path = tmp_path / "a.avro"
    rows: list[dict[str, Any]] = [
        {"i": 2**62, "f": 0.1, "s": "中\n", "b": True, "d": date(2024, 2, 29), "at": MOMENT, "l": [1]},
        {"i": None, "f": None, "s": None, "b": None, "d": None, "at": None, "l": []},
    ]  # fmt: skip
    polars.DataFrame(rows).write_avro(path, compression=codec)
    found = read(path.read_bytes(), "a.avro")
    expected = [{**row, "l": json.dumps(row["l"])} for row in rows]
    assert [{**row, "at": row["at"] and row["at"].replace(tzinfo=None)} for row in found] == expected
