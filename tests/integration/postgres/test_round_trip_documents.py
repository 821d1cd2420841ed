"""Documents of Elasticsearch become rows of PostgreSQL: every field at its extremes, and what has no place there."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import strategies as st

from retl.connectors import Elasticsearch
from tests.integration.elasticsearch.test_source_columns import TYPES, create
from tests.integration.every_type import EVERY_BYTE, Column
from tests.integration.round_trip import APostgres, by_key, carry
from tests.servers.postgres import PostgresServer
from tests.servers.search import SearchServer

COLUMNS = {
    "t": Column("text", "as it is", st.none()),
    "k": Column("text", "as it is", st.none()),
    "ip": Column("text", "as it is", st.none()),
    "by": Column("smallint", "whole", st.none()),
    "l": Column("bigint", "whole", st.none()),
    "f": Column("real", "single", st.none()),
    "d": Column("double precision", "signed", st.none()),
    "ok": Column("boolean", "as it is", st.none()),
    "bin": Column("bytea", "bytes", st.none()),
    "day": Column("timestamp with time zone", "moment", st.none()),
    "at": Column("timestamp with time zone", "moment", st.none()),
    "geo": Column("jsonb", "json", st.none()),
    "user.name": Column("text", "as it is", st.none()),
    "user.deep.age": Column("integer", "whole", st.none()),
    "parts": Column("jsonb", "json", st.none()),
    "flat": Column("jsonb", "json", st.none()),
    "raw": Column("jsonb", "json", st.none()),
}
LOW = {
    "id": 1,
    "t": "",
    "k": "\\. NULL \"'\r\n🙂",
    "ip": "2001:db8::1",
    "by": -128,
    "l": -(2**63),
    "f": 1.401298464324817e-45,
    "d": -0.0,
    "ok": False,
    "bin": base64.b64encode(EVERY_BYTE).decode(),
    "day": "0001-01-01T00:00:00.001Z",
    "at": "1970-01-01T00:00:00.000001Z",
    "geo": {"type": "Point", "coordinates": [-180.0, 90.0]},
    "user": {"name": "\\N", "deep": {"age": -(2**31)}},
    "parts": [],
    "flat": {},
    "raw": {},
}
HIGH = {
    **LOW,
    "id": 2,
    "by": 127,
    "l": 2**63 - 1,
    "f": 3.4028234663852886e38,
    "d": 1.7976931348623157e308,
    "ok": True,
    "bin": "",
    "day": "9999-12-31T23:59:59.999Z",
    "at": "2262-04-11T23:47:16.854775Z",
    "parts": [{"a": 2**63 - 1}, {"a": None}],
    "flat": {"x": {"y": "ü"}},
}
BIG = b'{"id":3,"raw":{"n":123456789012345678901234567890.000000000000000000000000000001,"e":1e300,"":[{}]}}'
LOW_ROW: dict[str, Any] = {
    **{name: LOW[name] for name in ("t", "k", "ip", "by", "l", "f", "d", "ok", "day", "at")},
    "bin": EVERY_BYTE,
    "geo": '{"type": "Point", "coordinates": [-180.0, 90.0]}',
    "user.name": "\\N",
    "user.deep.age": -(2**31),
    "parts": "[]",
    "flat": "{}",
    "raw": "{}",
}
HIGH_ROW = {
    **LOW_ROW,
    **{name: HIGH[name] for name in ("by", "l", "f", "d", "ok", "day", "at")},
    "bin": b"",
    "parts": '[{"a": 9223372036854775807}, {"a": null}]',
    "flat": '{"x": {"y": "ü"}}',
}
NONE_ROW = dict.fromkeys(COLUMNS)
BIG_ROW = {**NONE_ROW, "raw": BIG[len('{"id":3,"raw":') : -1].decode()}
BAD = {
    "nul": {"id": 5, "t": "a\0b"},
    "deep": {"id": 6, "raw": {"a": "\0"}},
    "fine": {"id": 7, "at": "2024-01-01T00:00:00.000000001Z"},
    "half": b'{"id":8,"t":"cut \\ud83d"}',
}


@pytest.fixture
def target(pg: PostgresServer, pg_database: str) -> APostgres:
    return APostgres(pg, pg_database)


async def test_every_field_arrives_but_nul_half_of_a_sign_and_nanoseconds(
    elasticsearch_server: SearchServer, prefix: str, target: APostgres
) -> None:
    index = create(elasticsearch_server, f"{prefix}-origin", {**TYPES, "id": {"type": "long"}, "day": {"type": "date"}})
    elasticsearch_server.put(index, {"low": LOW, "high": HIGH, "big": BIG, "none": {"id": 4}, **BAD})
    source = Elasticsearch(elasticsearch_server.url)
    done = await carry(source, target, COLUMNS, table_name=index, key=["id"], columns=["id", *COLUMNS])
    rows = {1: LOW_ROW, 2: HIGH_ROW, 3: BIG_ROW, 4: NONE_ROW}
    assert done.rows == by_key(COLUMNS, [[key, *(row[name] for name in COLUMNS)] for key, row in rows.items()])
    assert done.refused == {5: {"t"}, 6: {"raw"}, 7: {"at"}, 8: {"t"}}
    assert target.types("arrived") == {name: column.declared for name, column in COLUMNS.items()}
