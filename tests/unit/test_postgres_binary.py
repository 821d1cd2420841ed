"""Whom retl sends binary rows, and what of a table has such a form."""

from __future__ import annotations

import pyarrow as pa
import pytest

from retl.connectors.postgres import binary
from retl.connectors.postgres.encode import Encoder
from retl.connectors.postgres.types import logical_field

SERVERS = [
    ("PostgreSQL 18.1 on x86_64-pc-linux-gnu, compiled by gcc", True),
    ("PostgreSQL 15.12-YB-2025.1.0.0-b0 on x86_64-pc-linux-gnu", False),
    ("PostgreSQL 12.12 (Greenplum Database 7.0.0)", False),
    ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0.77", False),
    ("CockroachDB CCL v25.1.0 (x86_64-pc-linux-gnu)", False),
]


def encoder(kind: pa.DataType, native: str) -> Encoder:
    return Encoder(pa.schema([("v", kind)]), {"v": logical_field("v", native)}, key=(), strict=())


@pytest.mark.skipif(not binary.is_available(), reason="pgpq has no wheel for this platform")
@pytest.mark.parametrize(("version", "sends"), SERVERS)
def test_binary_rows_are_sent_to_postgresql_alone(version: str, sends: bool) -> None:
    one = encoder(pa.int64(), "bigint")
    one.meet(version)
    assert one.sends_binary is sends
    data = one.encode(pa.record_batch([pa.array([7])], ["v"]))
    assert data.options["format"] == ("binary" if sends else "csv")
    assert data.is_binary is sends


def test_without_the_package_rows_are_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "pgpq", None)
    one = encoder(pa.int64(), "bigint")
    one.meet(SERVERS[0][0])
    assert not one.has_binary_form
    assert bytes(one.encode(pa.record_batch([pa.array([7, None])], ["v"])).data) == b"7\nNULL\n"


@pytest.mark.skipif(not binary.is_available(), reason="pgpq has no wheel for this platform")
def test_rows_are_written_as_the_format_says() -> None:
    one = encoder(pa.int32(), "integer")
    one.meet(SERVERS[0][0])
    data = bytes(one.encode(pa.record_batch([pa.array([7, None], pa.int32())], ["v"]), first=1).data)
    head, row, null = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\0\x02\0\0\0\x08", b"\xff\xff\xff\xff"
    seven, one_, two = bytes.fromhex("00000004 00000007"), (1).to_bytes(8, "big"), (2).to_bytes(8, "big")
    assert data == head + row + one_ + seven + row + two + null + b"\xff\xff"


@pytest.mark.skipif(not binary.is_available(), reason="pgpq has no wheel for this platform")
@pytest.mark.parametrize(
    ("kind", "native", "has"),
    [
        (pa.int64(), "bigint", True),
        (pa.dictionary(pa.int8(), pa.string()), "text", True),
        (pa.decimal128(18, 4), "numeric(18,4)", True),
        (pa.timestamp("us", "UTC"), "timestamp with time zone", True),
        (pa.json_(), "jsonb", True),
        (pa.uuid(), "uuid", True),
        (pa.float32(), "double precision", False),
        (pa.string(), "interval", False),
        (pa.string(), "public.mood", False),
        (pa.list_(pa.float32(), 3), "vector(3)", False),
        (pa.time64("us"), "time with time zone", False),
        (pa.decimal128(19, 2), "money", False),
    ],
    ids=str,
)
def test_which_columns_have_a_binary_form(kind: pa.DataType, native: str, has: bool) -> None:
    assert encoder(kind, native).has_binary_form is has
