"""Which batches are sent in binary and which as CSV; rejects are the same either way."""

from __future__ import annotations

import re
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.postgres import binary
from retl.connectors.postgres.types import logical_field
from tests.integration.postgres.formats import DOMAINS, as_csv, both, rejected, tables, ways
from tests.integration.postgres.targets import Scene, column, with_id
from tests.integration.scene import people, scan, spec
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(not binary.is_available(), reason="pgpq has no wheel for this platform")


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    scene = Scene(pg, pg_database)
    scene.run(DOMAINS)
    return scene


# Rejects ---------------------------------------------------------------------------

BAD = [
    ("v smallint", pa.int64(), [1, 40_000, None, -40_000]),
    ("v varchar(3)", pa.string(), ["abc", "abcd", None, "abc ", "äöüß"]),
    ("v text", pa.string(), ["a", "a\x00b", None]),
    ("v jsonb", pa.string(), ["{}", "{", '"\\u0000"', None]),
    ("v numeric(5,2)", pa.decimal128(20, 2), [Decimal("1.00"), Decimal("1000.00"), None]),
    ("v timestamp(3)", pa.timestamp("us"), [1_000, 1_001, None, 2**62]),
    ("v date", pa.date32(), [0, 2**30, None]),
    ("v positive", pa.int64(), [1, 0, -1, None]),
    ("v integer NOT NULL", pa.int32(), [1, None, 3]),
    ("v integer CHECK (v < 3)", pa.int32(), [1, 2, 3, 4]),
    ("v integer UNIQUE", pa.int32(), [1, 2, 1, 3]),
    ("v bigint", pa.string(), ["1", "x", None, "9223372036854775808"]),
]


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(("declared", "kind", "values"), BAD, ids=[declared for declared, _, _ in BAD])
async def test_rows_are_rejected_as_they_are_by_csv(
    scene: Scene, staged: bool, declared: str, kind: pa.DataType, values: list[Any]
) -> None:
    if "NOT NULL" in declared and staged:
        declared += " DEFAULT 0"
    schema = with_id(column("v", kind))
    batch = people(*enumerate(values), schema=schema)
    given = with_id(column("v", pa.int64())) if declared == "v bigint" else schema
    one, other, _ = await both(scene, declared, batch, staged=staged, schema=given)
    assert rejected(one) == rejected(other) != []
    assert one.changed == other.changed == len(values) - len(one.rejects)


@pytest.mark.parametrize("staged", [False, True])
async def test_rows_that_the_server_takes_as_csv_alone_are_sent_so_from_then_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, staged: bool
) -> None:
    """Another product may mean something else by a binary value, or know no binary format."""
    monkeypatch.setattr(binary, "_written", lambda forms, kinds: b"whatever")
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)")
    if staged:
        scene.run("INSERT INTO people VALUES (0, 'old')")
    async with scene.session() as session:
        with ways() as formats:
            done = await scan(session, [people((1, "a"), (2, None)), people((3, "b"))])
    assert formats == (["binary", "csv"] if staged else ["binary", "binary", "csv", "csv"][: len(formats)])
    assert done.changed == 3
    assert [row for row in scene.rows("people") if row[0]] == [(1, "a"), (2, None), (3, "b")]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding_gets_what_it_gets_by_csv(pg: PostgresServer, encoding: str) -> None:
    name = f"retl_binary_{encoding.lower()}"
    pg.query(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    scene = Scene(pg, name)
    try:
        async with scene.session() as session:
            with ways() as formats:
                batch = people((1, "é"), (2, "表"), (3, "z"))
                done = await scan(session, [batch], rejects_left=1)
        assert formats[0] == "binary"
        found = scene.run("SELECT id, encode(convert_to(name, 'UTF8'), 'hex') FROM people ORDER BY id")
        kept = [(1, "c3a9"), *([(2, "e8a1a8")] if encoding == "SQL_ASCII" else []), (3, "7a")]
        assert [(key, text if isinstance(text, str) else text.decode()) for key, text in found] == kept
        assert [reject.key for reject in done.rejects] == ([] if encoding == "SQL_ASCII" else ['{"id":2}'])
    finally:
        pg.query(f"DROP DATABASE {name} WITH (FORCE)")
        pg.query(f"DROP ROLE IF EXISTS {scene.user.user}")


# Which way is taken ------------------------------------------------------------------

ONLY_TEXT = [
    ("v interval", pa.string(), "1 day"),
    ("v integer[]", pa.string(), "{1}"),
    ("v mood", pa.string(), "glad"),
    ("v inet", pa.string(), "10.0.0.1"),
    ("v numeric", pa.string(), "1.50"),
    ("v timestamp", pa.string(), "infinity"),
    ("v time", pa.string(), "24:00:00"),
    ("v uuid", pa.string(), str(uuid.UUID(int=7))),
    ("v money", pa.decimal128(19, 2), Decimal("1.25")),
    ("v double precision", pa.float32(), 0.1),
    ("v double precision", pa.decimal128(9, 4), Decimal("0.1")),
]


@pytest.mark.parametrize(("declared", "kind", "value"), ONLY_TEXT, ids=[f"{d}-{k}" for d, k, _ in ONLY_TEXT])
async def test_a_column_without_a_sure_form_sends_its_batches_as_csv(
    scene: Scene, declared: str, kind: pa.DataType, value: Any
) -> None:
    scene.run("CREATE TYPE mood AS ENUM ('glad')")
    batch = people((1, value), (2, None), schema=with_id(column("v", kind)))
    there = logical_field("v", re.sub(r"(time(?:stamp)?)$", r"\1 without time zone", declared[2:]))
    one, _, formats = await both(
        scene, declared, batch, schema=with_id(there) if pa.types.is_string(kind) else batch.schema
    )
    assert formats == ["csv"]
    assert one.changed == 2


async def test_without_the_encoder_rows_are_sent_as_csv(scene: Scene) -> None:
    async with scene.session() as session:
        with as_csv(), ways() as formats:
            (copy,) = [
                sql
                for sql in (await session.target.preview(session.load(spec(), schema=people().schema))).statements
                if sql.startswith("COPY")
            ]
            await scan(session, [people((1, "a"))])
    assert formats == ["csv"]
    assert "FORMAT 'csv'" in copy


def test_one_batch_is_encoded_in_many_pieces(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a piece is encoded, no other thread runs."""
    monkeypatch.setattr(binary, "_CELLS", 7)
    batch = people(*((number, None if number % 3 else f"text {number}") for number in range(50)))
    with tables(scene, "id bigint, name text") as two:
        assert two.fill(batch) == "binary"
