"""Every type of Redshift, as it arrives by each way to read."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from retl.connectors.redshift.types import logical_field
from retl.model.errors import SourceError, UnsupportedError
from retl.model.table import TableSpec
from tests.integration.redshift.scene import Scene

COLUMNS = """
    id BIGINT, small SMALLINT, whole INTEGER, exact NUMERIC(38, 10), single REAL, twice DOUBLE PRECISION, flag BOOLEAN,
    fixed CHAR(5), text VARCHAR(65535), day DATE, moment TIMESTAMP, instant TIMESTAMPTZ, clock TIME, doc SUPER, raw VARBYTE(100),
    shape GEOMETRY
"""
WAYS = ("whole", "cursor", "unload")


@pytest.fixture
def every(lake_scene: Scene) -> Scene:
    lake_scene.create("every", COLUMNS)
    lake_scene.run(
        "INSERT INTO {}.every SELECT 9223372036854775807, -32768, 2147483647, 1234567890123456789012345678.0123456789, 0.1, "
        "1e-300, true, 'ab', 'it''s \\\\ \"q\"\n\u4f60\U0001f600', '0001-01-01', '2024-02-29 23:59:59.123456', '2024-01-01 02:00:00.5+02', "
        "'23:59:59.5', JSON_PARSE('{\"a\":[1,null,\"\u00e9\"]}'), FROM_HEX('00ff10'), ST_GeomFromText('POINT(1 2)')"
    )
    lake_scene.run("INSERT INTO {}.every (id) VALUES (1)")
    return lake_scene


def words(scene: Scene, way: str) -> dict[str, Any]:
    return scene.unload() if way == "unload" else {"read": way}


@pytest.mark.parametrize("way", WAYS)
async def test_every_type_arrives_as_it_is(every: Scene, way: str) -> None:
    found = {row["id"]: row for row in (await every.collect("every", **words(every, way))).to_pylist()}
    row = found[2**63 - 1]
    assert (row["small"], row["whole"], row["flag"], row["twice"]) == (-32768, 2**31 - 1, True, 1e-300)
    assert Decimal(row["exact"]) == Decimal("1234567890123456789012345678.0123456789")
    assert row["single"] == pytest.approx(0.1)
    assert row["fixed"] == "ab"
    assert row["text"] == 'it\'s \\ "q"\n\u4f60\U0001f600'
    assert row["day"] == dt.date(1, 1, 1)
    assert row["moment"] == dt.datetime(2024, 2, 29, 23, 59, 59, 123456)  # noqa: DTZ001  # it has no zone
    assert row["instant"] == dt.datetime(2024, 1, 1, 0, 0, 0, 500000, tzinfo=dt.UTC)
    assert row["clock"] == dt.time(23, 59, 59, 500000)
    assert json.loads(row["doc"]) == {"a": [1, None, "\u00e9"]}
    assert row["raw"] == b"\x00\xff\x10"
    assert row["shape"] == "POINT(1 2)"
    assert set(found[1].values()) == {1, None}


@pytest.mark.parametrize("way", ["whole", "cursor"])
async def test_a_moment_before_christ_arrives_as_text_and_spoils_no_other(every: Scene, way: str) -> None:
    every.run("INSERT INTO {}.every (id, moment) VALUES (2, '0044-03-15 12:00:00 BC')")
    batches = await every.sent(TableSpec("every", "every", columns=("id", "moment")), read=way)
    found = {row["id"]: row["moment"] for batch in batches for row in batch.to_pylist()}
    assert found[2] == "0044-03-15 12:00:00 BC"
    assert found[2**63 - 1] == "2024-02-29 23:59:59.123456"


async def test_super_is_never_cast_to_text(every: Scene) -> None:
    await every.collect("every", read="cursor")
    selects = [sql for sql in every.statements() if "JSON_SERIALIZE" in sql]
    assert selects
    assert not any('CAST("doc"' in sql or '"doc"::' in sql for sql in selects)


async def test_no_statement_selects_a_star_of_a_table(every: Scene) -> None:
    await every.collect("every", read="whole")
    assert not any("SELECT *" in sql for sql in every.statements())


@pytest.mark.parametrize("way", WAYS)
async def test_a_long_text_is_not_cut_by_a_cast(lake_scene: Scene, way: str) -> None:
    lake_scene.create("longs", "id INTEGER, c CHAR(300)")
    lake_scene.insert("longs", (1, "x" * 300))
    assert (await lake_scene.collect("longs", **words(lake_scene, way))).to_pylist() == [{"id": 1, "c": "x" * 300}]


async def test_a_super_that_is_too_long_for_an_answer_names_unload_which_reads_it(lake_scene: Scene) -> None:
    lake_scene.create("docs", "id INTEGER, doc SUPER")
    lake_scene.run("INSERT INTO {}.docs SELECT 1, JSON_PARSE('[\"' || REPEAT('x', 70000) || '\"]')")
    with pytest.raises(SourceError, match="too long for one answer") as raised:
        await lake_scene.collect("docs", read="whole")
    assert "unload" in raised.value.remedy
    ((_, doc),) = [tuple(row.values()) for row in (await lake_scene.collect("docs", **lake_scene.unload())).to_pylist()]
    assert json.loads(doc) == ["x" * 70_000]


async def test_a_sketch_is_refused_with_its_remedy(scene: Scene) -> None:
    scene.create("sketches", "id INTEGER, h HLLSKETCH")
    with pytest.raises(UnsupportedError, match="HLL_CARDINALITY"):
        await scene.collect("sketches")


async def test_the_schema_tells_native_types(every: Scene) -> None:
    async with every.source() as source:
        described = await source.describe("every")
    assert described is not None
    assert described.columns.field("text") == logical_field("text", "character varying(65535)")
    assert described.columns.field("doc") == logical_field("doc", "super")
    assert described.columns.field("raw") == logical_field("raw", "varbyte")


async def test_expressions_and_queries_are_typed_by_the_cluster(scene: Scene) -> None:
    scene.create("orders", "id INTEGER, price NUMERIC(10, 2), name VARCHAR(30)")
    scene.insert("orders", (1, "2.50", "a"), (2, "3.00", "b"))
    table = TableSpec("orders", "orders", columns=("id",), expressions={"double": "price * 2", "loud": "UPPER(name)"})
    found = (await scene.collect(table)).to_pylist()
    assert [(row["id"], Decimal(row["double"]), row["loud"]) for row in sorted(found, key=lambda row: row["id"])] == [
        (1, Decimal(5), "A"),
        (2, Decimal(6), "B"),
    ]
    query = TableSpec("top", "top", query=f"SELECT MAX(id) AS id FROM {scene.schema}.orders -- of all")
    assert (await scene.collect(query)).to_pylist() == [{"id": 2}]
