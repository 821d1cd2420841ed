"""Arrow as CSV: what a bulk loader reads is what was in the batch."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
import struct
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.rows.csv import csv_bytes, hex_text, joined_bytes, to_csv_form, uuid_text

TEXT = st.text(st.characters(codec="utf-8")) | st.sampled_from(["", "NULL", '"', "a,b", "\r\n", "\\"])


def written(*columns: pa.Array) -> str:
    """Both ways to write them, for pyarrow's own needs a new version, give the same."""
    forms = [to_csv_form(column) for column in columns]
    text = bytes(csv_bytes(forms)).decode()
    assert bytes(joined_bytes(forms)).decode() == text
    return text


@pytest.mark.parametrize(
    ("values", "kind", "lines"),
    [
        ([1, None, -(2**63)], pa.int64(), ["1", "NULL", str(-(2**63))]),
        ([True, False, None], pa.bool_(), ["1", "0", "NULL"]),
        ([0.1, 1e300, None], pa.float64(), ["0.1", "1e+300", "NULL"]),
        ([Decimal("1.50"), Decimal("0E-10")], pa.decimal128(20, 10), ['"1.5000000000"', '"0.0000000000"']),
        (["", "NULL", None, 'a"b'], pa.string(), ['""', '"NULL"', "NULL", '"a""b"']),
        ([b"", b"\x00\xff", None], pa.binary(), ['""', '"00ff"', "NULL"]),
        ([b"ab"], pa.binary(2), ['"6162"']),
        ([dt.date(1, 1, 1)], pa.date32(), ["0001-01-01"]),
        ([dt.time(1, 2, 3, 4)], pa.time64("us"), ["01:02:03.000004"]),
        ([dt.datetime.fromisoformat("2024-05-01 12:00:00.000001")], pa.timestamp("us"), ["2024-05-01 12:00:00.000001"]),
        ([dt.datetime.fromisoformat("2024-05-01 12:00:00+02:00")], pa.timestamp("s", "Europe/Berlin"), ["2024-05-01 10:00:00"]),
        (["x", None], pa.dictionary(pa.int8(), pa.string()), ['"x"', "NULL"]),
        ([[1, None], None], pa.list_(pa.int8()), ['"[1,null]"', "NULL"]),
        ([None], pa.null(), ["NULL"]),
    ],
    ids=str,
)  # fmt: skip
def test_each_type(values: list[Any], kind: pa.DataType, lines: list[str]) -> None:
    assert written(pa.array(values, kind)) == "".join(f"{line}\n" for line in lines)


@given(st.lists(st.tuples(TEXT, TEXT, st.binary()), min_size=1))
def test_any_text_and_bytes_come_back(rows: list[tuple[str, str, bytes]]) -> None:
    one, two, raw = (list(column) for column in zip(*rows, strict=True))
    text = written(pa.array(one), pa.array(two, pa.large_string()), pa.array(raw, pa.binary()))
    found = [(a, b, bytes.fromhex(c)) for a, b, c in csv.reader(io.StringIO(text, newline=""))]
    assert found == rows


@given(st.lists(st.none() | st.floats()), st.integers(0, 10))
def test_numbers_of_a_part_of_an_array(values: list[float | None], skipped: int) -> None:
    lines = written(pa.array(values, pa.float64()).slice(skipped)).splitlines()
    assert [None if line == "NULL" else struct.pack("d", float(line)) for line in lines] == [
        None if value is None else struct.pack("d", math.nan if math.isnan(value) else value)
        for value in values[skipped:]
    ]


@given(st.lists(st.none() | st.binary(max_size=30)), st.integers(0, 10))
def test_hexadecimal_digits_of_a_part_of_an_array(values: list[bytes | None], skipped: int) -> None:
    column = pa.array(values, pa.binary()).slice(skipped)
    assert hex_text(column).to_pylist() == [None if value is None else value.hex() for value in values[skipped:]]


@given(st.lists(st.none() | st.uuids()))
def test_uuids_have_their_dashes(values: list[uuid.UUID | None]) -> None:
    storage = pa.array([value and value.bytes for value in values], pa.binary(16))
    column = pa.ExtensionArray.from_storage(pa.uuid(), storage)
    assert uuid_text(column).to_pylist() == [value and str(value) for value in values]
