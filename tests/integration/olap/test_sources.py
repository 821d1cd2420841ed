"""StarRocks and Doris as sources: types, keys and names. On their stand-ins, or on real ones that a variable names."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retl.connectors import StarRocks
from retl.connectors.olap import session as sessions
from retl.model.checkpoint import Checkpoint
from retl.model.errors import UnsupportedError
from retl.model.schema import is_json, native_type
from retl.testing import Scans, collect, table_spec
from tests.fake_olap.tables import COLUMN_KEYS
from tests.integration.olap.scenes import DORIS, STARROCKS, Scene, by_id, ids, sent

LARGEST, SMALLEST = 2**127 - 1, -(2**127)
TINIEST = 1.401298464324817e-45

# Column: its type, the Arrow type, and per row what goes in and the text, bytes or truth value that comes out.
Values = list[tuple[Any, Any]]
BOTH: dict[str, tuple[str, pa.DataType, Values]] = {
    "flag": ("BOOLEAN", pa.bool_(), [(True, True), (False, False)]),
    "tiny": ("TINYINT", pa.int8(), [(127, "127"), (-128, "-128")]),
    "small": ("SMALLINT", pa.int16(), [(32767, "32767"), (-32768, "-32768")]),
    "whole": ("INT", pa.int32(), [(2**31 - 1, "2147483647"), (-(2**31), "-2147483648")]),
    "big": ("BIGINT", pa.int64(), [(2**63 - 1, "9223372036854775807"), (-(2**63), "-9223372036854775808")]),
    "large": ("LARGEINT", pa.decimal256(39, 0), [(LARGEST, str(LARGEST)), (SMALLEST, str(SMALLEST))]),
    "money": (
        "DECIMAL(38, 9)",
        pa.decimal128(38, 9),
        [(Decimal("9" * 29 + ".999999999"), "9" * 29 + ".999999999"), (Decimal("-0.000000001"), "-0.000000001")],
    ),
    "single": (
        "FLOAT",
        pa.float32(),
        [(0.1, repr(float(np.float32(0.1)))), (float(np.finfo(np.float32).max), "3.4028234663852886e+38")],
    ),
    "twice": ("DOUBLE", pa.float64(), [(1.7976931348623157e308, "1.7976931348623157e+308"), (-0.1, "-0.1")]),
    "fixed": ("CHAR(9)", pa.string(), [("äöü", "äöü"), ("", "")]),
    "text": ("VARCHAR(40)", pa.string(), [('it\'s \\ "x"', 'it\'s \\ "x"'), ("NULL", "NULL")]),
    "long": ("STRING", pa.string(), [("a\nb\t\\N 😀", "a\nb\t\\N 😀"), ("x" * 60_000, "x" * 60_000)]),
    "day": ("DATE", pa.date32(), [("9999-12-31", "9999-12-31"), ("0001-01-01", "0001-01-01")]),
    "raw": ("VARBINARY", pa.binary(), [(bytes(range(256)), bytes(range(256))), (b"", b"")]),
}
ONLY_STARROCKS: dict[str, tuple[str, pa.DataType, Values]] = {
    "moment": (
        "DATETIME",
        pa.timestamp("us"),
        [("9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999"), ("0001-01-01", "0001-01-01 00:00:00")],
    ),
    "doc": ("JSON", pa.string(), [('{"a":[1,null,"é"]}', '{"a": [1, null, "é"]}'), ('"x"', '"x"')]),
}
ONLY_DORIS: dict[str, tuple[str, pa.DataType, Values]] = {
    **{
        f"moment{digits}": (
            f"DATETIME({digits})",
            pa.timestamp("us"),
            [
                ("2024-02-29 23:59:59.999999"[: 20 + digits].rstrip("."),) * 2,
                ("0001-01-01", "0001-01-01 00:00:00" + ("." + "0" * digits if digits else "")),
            ],
        )
        for digits in range(7)
    },
    "bare": ("DATETIME", pa.timestamp("us"), [("2024-01-01 01:02:03", "2024-01-01 01:02:03"), (None, None)]),
    "zoned": (
        "TIMESTAMPTZ",
        pa.timestamp("us", tz="UTC"),
        [
            ("2024-01-01 02:00:00.000001+03:00", "2023-12-31 23:00:00.000001Z"),
            ("2024-01-01 00:00:00+00:00", "2024-01-01 00:00:00.000000Z"),
        ],
    ),
    "doc": ("JSON", pa.string(), [('{"a": 1}', '{"a":1}'), ("[]", "[]")]),
    "free": ("VARIANT", pa.string(), [('{"b": [1, 2]}', '{"b":[1,2]}'), ("null", "null")]),
    "four": ("IPV4", pa.string(), [("255.255.255.255", "255.255.255.255"), ("0.0.0.0", "0.0.0.0")]),
    "six": ("IPV6", pa.string(), [("2001:db8::1", "2001:db8::1"), ("::", "::")]),
}


def everything(scene: Scene) -> dict[str, tuple[str, pa.DataType, Values]]:
    return {**BOTH, **(ONLY_DORIS if scene.doris else ONLY_STARROCKS)}


# Types ----------------------------------------------------------------------


async def test_every_type_at_its_extremes(scene: Scene) -> None:
    types = everything(scene)
    scene.create(
        "every_type", ", ".join(["id BIGINT NOT NULL", *(f"{name} {kind[0]}" for name, kind in types.items())])
    )
    rows = [[number, *(kind[2][number][0] for kind in types.values())] for number in (0, 1)]
    scene.insert("every_type", *rows, [2, *[None] * len(types)])

    async with scene.source() as source:
        plan = await source.plan(table_spec("every_type"))
        (batch,) = await sent(source, plan)

    assert {column.name: column.type for column in plan.schema} == {
        "id": pa.int64(),
        **{name: kind[1] for name, kind in types.items()},
    }
    found = sorted(batch.to_pylist(), key=lambda row: row["id"])
    for number in (0, 1):
        assert found[number] == {"id": str(number), **{name: kind[2][number][1] for name, kind in types.items()}}
    assert found[2] == {"id": "2", **dict.fromkeys(types)}
    assert {is_json(plan.schema.field(name)) for name in types if name in ("doc", "free")} == {True}


async def test_values_mean_what_they_meant(scene: Scene) -> None:
    """The canonical text, read by Arrow: nothing is lost on the way to a typed column."""
    scene.create(
        "every_type",
        f"id INT NOT NULL, large LARGEINT, single FLOAT, money DECIMAL(38,38), at {scene.moment}, day DATE",
    )
    scene.insert(
        "every_type",
        [1, LARGEST, 0.1, "0." + "9" * 38, "2024-02-29 23:59:59.999999", "2024-02-29"],
        [2, SMALLEST, TINIEST, "-0." + "0" * 37 + "1", "1969-12-31 23:59:59.000001", "1582-10-04"],
    )
    assert by_id(await scene.collect("every_type")) == [
        {
            "id": 1,
            "large": Decimal(LARGEST),
            "single": float(np.float32(0.1)),
            "money": Decimal("0." + "9" * 38),
            "at": datetime.fromisoformat("2024-02-29 23:59:59.999999"),
            "day": date(2024, 2, 29),
        },
        {
            "id": 2,
            "large": Decimal(SMALLEST),
            "single": TINIEST,
            "money": Decimal("-0." + "0" * 37 + "1"),
            "at": datetime.fromisoformat("1969-12-31 23:59:59.000001"),
            "day": date(1582, 10, 4),
        },
    ]


@DORIS
@pytest.mark.parametrize("words", [{}, {"query": "SELECT * FROM zoned", "key": "id"}])
async def test_doris_times_with_a_zone_are_instants(scene: Scene, words: dict[str, Any]) -> None:
    scene.create("zoned", "id INT NOT NULL, at TIMESTAMPTZ")
    scene.insert("zoned", [1, "2024-01-01 02:00:00.000001+03:00"], [2, "2024-01-01 00:00:00-11:30"])
    assert by_id(await scene.collect(table_spec("zoned", **words))) == [
        {"id": 1, "at": datetime.fromisoformat("2023-12-31 23:00:00.000001").replace(tzinfo=UTC)},
        {"id": 2, "at": datetime.fromisoformat("2024-01-01 11:30:00").replace(tzinfo=UTC)},
    ]


async def test_the_catalog_s_own_words_for_a_type_are_kept(scene: Scene) -> None:
    scene.create(
        "native",
        f"id BIGINT NOT NULL, flag BOOLEAN, large LARGEINT, money DECIMAL(10, 2), text VARCHAR(20), long STRING, at {scene.moment}",
    )
    async with scene.source() as source:
        found = await source.describe("native")
    assert found is not None
    assert {column.name: native_type(column) for column in found.columns} == {
        "id": "bigint",
        "flag": "boolean",
        "large": "largeint",
        "money": "decimal(10,2)",
        "text": "varchar(20)",
        # StarRocks keeps a STRING as VARCHAR(65533).
        "long": "string" if scene.doris else "varchar(65533)",
        "at": "datetime(6)",
    }
    assert [column.name for column in found.columns if not column.nullable] == ["id"]


async def test_arrays_maps_and_structs_arrive_as_the_server_writes_them(scene: Scene) -> None:
    struct = "STRUCT<x: INT, y: VARCHAR(9)>" if scene.doris else "STRUCT<x INT, y VARCHAR(9)>"
    scene.create("nested", f"id INT NOT NULL, tags ARRAY<STRING>, pairs MAP<VARCHAR(10), INT>, inner_ {struct}")
    scene.insert(
        "nested", [1, ["a", 'b"', None], {"k": 1, "l": None}, (1, "z")], [2, [], {}, (None, "")], [3, None, None, None]
    )
    async with scene.source() as source:
        plan = await source.plan(table_spec("nested"))
        (batch,) = await sent(source, plan)
    assert [column.type for column in plan.schema] == [pa.int32(), pa.string(), pa.string(), pa.string()]
    assert not any(is_json(column) for column in plan.schema)
    quote, comma = ('b"', ", ") if scene.doris else ('b\\"', ",")
    assert sorted(batch.to_pylist(), key=lambda row: row["id"]) == [
        {
            "id": "1",
            "tags": comma.join(['["a"', f'"{quote}"', "null]"]),
            "pairs": comma.join(['{"k":1', '"l":null}']),
            "inner_": comma.join(['{"x":1', '"y":"z"}']),
        },
        {"id": "2", "tags": "[]", "pairs": "{}", "inner_": comma.join(['{"x":null', '"y":""}'])},
        {"id": "3", "tags": None, "pairs": None, "inner_": None},
    ]
    (warning,) = plan.warnings
    assert warning.startswith("tags, pairs, inner_: arrays, maps and structs arrive as the server writes them")


async def test_arrays_maps_and_structs_as_json_by_an_expression(scene: Scene) -> None:
    struct = "STRUCT<x: INT, y: VARCHAR(9)>" if scene.doris else "STRUCT<x INT, y VARCHAR(9)>"
    scene.create("nested", f"id INT NOT NULL, tags ARRAY<STRING>, inner_ {struct}")
    scene.insert("nested", [1, ["a", 'b"', None], (1, "z")], [2, None, None])
    async with scene.source() as source:
        plain = await source.plan(table_spec("nested"))
        # The warning's own advice.
        advice = {name: f"to_json(`{name}`)" for name in ("tags", "inner_")}
        if not scene.doris:
            advice["tags"] = "CAST(`tags` AS JSON)"
        assert all(f'{name} = "{expression}"' in plain.warnings[0] for name, expression in advice.items())
        plan = await source.plan(table_spec("nested", expressions=advice))
        (batch,) = await sent(source, plan)
    assert plan.warnings == ()
    rows = sorted(batch.to_pylist(), key=lambda row: row["id"])
    assert json.loads(rows[0]["tags"]) == ["a", 'b"', None] and json.loads(rows[0]["inner_"]) == {"x": 1, "y": "z"}
    assert rows[1] == {"id": "2", "tags": None, "inner_": None}


@pytest.mark.parametrize(
    "kind", ["BITMAP BITMAP_UNION", "HLL HLL_UNION", "PERCENTILE PERCENTILE_UNION", "QUANTILE_STATE QUANTILE_UNION"]
)
async def test_a_sketch_is_refused_with_what_to_do(scene: Scene, kind: str) -> None:
    word = kind.split()[0]
    if word == ("PERCENTILE" if scene.doris else "QUANTILE_STATE"):
        return  # that is the other system's
    scene.create("sketches", f"id INT, sketch {kind}, n BIGINT SUM", model="AGGREGATE")
    async with scene.source() as source:
        with pytest.raises(
            UnsupportedError, match=rf"'sketch' is of type {word.lower()}.*does not show.*expressions = "
        ):
            await source.plan(table_spec("sketches", key="id"))
        # What is not asked for does no harm.
        plan = await source.plan(table_spec("sketches", columns=["id", "n"], key="id"))
        assert plan.schema.names == ["id", "n"]


async def test_what_a_function_makes_of_a_sketch_is_read(scene: Scene) -> None:
    scene.create("visitors", "id INT, seen BITMAP BITMAP_UNION", model="AGGREGATE")
    scene.run("INSERT INTO visitors VALUES (1, bitmap_from_string('1,5')), (2, bitmap_from_string('7'))")
    table = table_spec(
        "visitors",
        key="id",
        columns=["id"],
        expressions={"who": "bitmap_to_string(seen)", "many": "bitmap_count(seen)"},
    )
    assert by_id(await scene.collect(table)) == [{"id": 1, "who": "1,5", "many": 2}, {"id": 2, "who": "7", "many": 1}]


async def test_what_a_result_says_of_an_expression(scene: Scene) -> None:
    scene.create("sums", "id INT NOT NULL, price DECIMAL(10, 2), at DATE")
    scene.insert("sums", [1, Decimal("1.10"), "2024-01-31"], [2, None, None])
    table = table_spec(
        "sums",
        columns=["id"],
        expressions={
            "dear": "price > 1",
            "gross": "CAST(price AS DECIMAL(20, 4))",
            "text": "CONCAT('a', id)",
            "month": "DATE_FORMAT(at, '%Y-%m')",
        },
    )
    async with scene.source() as source:
        plan = await source.plan(table)
    kinds = [column.type for column in plan.schema]
    # StarRocks announces two digits more than there are.
    assert kinds == [pa.int32(), pa.bool_(), pa.decimal128(20 if scene.doris else 22, 4), pa.string(), pa.string()]
    assert by_id(await scene.collect(table)) == [
        {"id": 1, "dear": True, "gross": Decimal("1.1000"), "text": "a1", "month": "2024-01"},
        {"id": 2, "dear": None, "gross": None, "text": "a2", "month": None},
    ]


async def test_a_query_is_a_table(scene: Scene) -> None:
    scene.create("orders", "id INT NOT NULL, city VARCHAR(20), total DECIMAL(10, 2)")
    scene.insert("orders", *[[number, f"city {number % 2}", Decimal(number)] for number in range(6)])
    table = table_spec(
        "totals", query="SELECT city, SUM(total) AS total FROM orders GROUP BY city -- all of them", key="city"
    )
    found = await scene.collect(table)
    assert sorted(found.to_pylist(), key=str) == [
        {"city": "city 0", "total": Decimal(6)},
        {"city": "city 1", "total": Decimal(9)},
    ]


# Keys -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [("PRIMARY", ("day", "id")), ("UNIQUE", ("day", "id")), ("DUPLICATE", ()), ("AGGREGATE", ())],
)
async def test_only_keys_that_tell_rows_apart_are_keys(scene: Scene, model: str, expected: tuple[str, ...]) -> None:
    if scene.doris and model == "PRIMARY":
        return  # StarRocks' own
    value = "n BIGINT SUM" if model == "AGGREGATE" else "n BIGINT"
    scene.create("keyed", f"day DATE, id INT, {value}", model=model, key="day, id")
    async with scene.source() as source:
        schema = await source.describe("keyed")
        plan = await source.plan(table_spec("keyed"))
    assert schema is not None and schema.key == expected
    assert (plan.key, plan.unique_key) == (expected, bool(expected))


@STARROCKS
async def test_a_key_by_its_mark_alone_is_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.create("log", "id INT, line VARCHAR(20)", model="DUPLICATE")
    monkeypatch.setitem(COLUMN_KEYS, "DUPLICATE", "PRI")
    async with scene.source() as source:
        schema = await source.describe("log")
    assert schema is not None and schema.key == ()


async def test_duplicates_of_a_table_without_a_key_are_all_read(scene: Scene) -> None:
    scene.create("log", "id INT, line VARCHAR(20)", model="DUPLICATE")
    scene.insert("log", [1, "a"], [1, "a"], [2, None])
    found = await scene.collect(table_spec("log", write="append"))
    assert by_id(found) == [{"id": 1, "line": "a"}, {"id": 1, "line": "a"}, {"id": 2, "line": None}]


# Names ----------------------------------------------------------------------


async def test_odd_names(scene: Scene) -> None:
    names = [
        "with space",
        "select",
        "per%cent",
        "it's",
        'double"quote',
        "semi;colon",
        "ünïcode",
        "a.b",
        "100",
        "back\\slash",
    ]
    columns = ", ".join(f"`{name}` INT" for name in names)
    scene.create("`odd table; -- 'x'`", f"id INT NOT NULL, {columns}")
    scene.insert("`odd table; -- 'x'`", [1, *range(len(names))])
    async with scene.source() as source:
        assert await source.list_tables() == ["odd table; -- 'x'"]
        plan = await source.plan(table_spec("odd table; -- 'x'", cursor="with space"))
        assert plan.window is not None and plan.window.upper == "0"
        (batch,) = await sent(source, plan)
    assert batch.to_pylist() == [{"id": "1", **{name: str(number) for number, name in enumerate(names)}}]


async def test_names_with_dots_are_listed_as_they_must_be_written(scene: Scene) -> None:
    scene.create("`a.b`", "id INT NOT NULL")
    scene.insert("`a.b`", [1])
    async with scene.source() as source:
        (name,) = await source.list_tables()
    assert name == "`a.b`"
    assert by_id(await scene.collect(name)) == [{"id": 1}]
    assert by_id(await scene.collect(f"{scene.database}.`a.b`")) == [{"id": 1}]


async def test_without_a_database_names_carry_theirs(scene: Scene) -> None:
    scene.create("orders", "id INT NOT NULL")
    scene.insert("orders", [1])
    whole = Scene(scene.kind, scene.server, "")
    async with whole.source() as source:
        assert f"{scene.database}.orders" in await source.list_tables()
        schema = await source.describe(f"{scene.database}.orders")
    assert schema is not None and schema.key == ("id",)
    assert by_id(await whole.collect(f"{scene.database}.orders")) == [{"id": 1}]


# What is said to the server ---------------------------------------------------


async def test_what_the_session_is_told(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}")
    scene.insert("orders", [1, "2024-01-01"])
    scene.statements()
    await scene.collect(table_spec("orders", cursor="at"), query_timeout=77)
    said = scene.statements()
    told = sessions.settings(scene.kind, 77, scene.fake.flavour.variables)
    assert said.count(told) == 1  # what plans reads too
    assert len([sql for sql in said if sql.startswith("SET query_timeout")]) == 1
    assert said.count("SELECT @@version_comment") == said.count("SHOW VARIABLES") == said.count("SYNC") == 1
    named = [sql for sql in said if sql.startswith("SET custom_query_id = 'retl-")]
    assert len(named) == (0 if scene.doris else 1)


async def test_a_scan_that_finds_nothing_new_asks_little_on_a_warm_connection(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}")
    scene.insert("orders", [1, "2024-01-01"], [2, "2024-01-02"])
    table, before = table_spec("orders", cursor="at"), Checkpoint(watermark="2024-01-02 00:00:00")
    source = scene.connector().source()
    try:
        await collect(source, table, before)
        scene.statements()
        assert ids(await collect(source, table, before)) == [2]
        said = [sql for sql in scene.statements() if sql != "SELECT 1"]  # which proves a connection that was idle
        assert len(said) == (3 if scene.doris else 4), said
    finally:
        await source.aclose()


ODD = {
    "time_zone": "'Asia/Shanghai'",
    "sql_select_limit": "2",
    "sql_mode": "'PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES'",
    "query_timeout": "1",
    "wait_timeout": "1",
    "net_write_timeout": "1",
    "group_concat_max_len": "4",
    "sql_dialect": "'trino'",
    "serde_dialect": "'presto'",
    "default_order_by_limit": "1",
    "query_freshness_tolerance_ms": "60000",
}


@pytest.mark.parametrize(
    "words", [{}, {"cursor": "at", "slice_rows": 2}, {"cursor": "note", "query": "SELECT * FROM o"}]
)
async def test_what_is_set_globally_changes_nothing(scene: Scene, words: dict[str, Any]) -> None:
    """Every variable that the server has and that we set; the odd value is what a new session begins with."""
    scene.create("o", f"id INT NOT NULL, at {scene.moment}, note BIGINT, text VARCHAR(40)")
    rows = [[number, f"2024-01-01 00:00:0{number}", number, f"a\\{number}"] for number in range(8)]
    scene.insert("o", *rows)
    table = table_spec("o", key="id", expressions={"slash": r"CONCAT('\\', id)"}, **words)
    before = by_id(await scene.collect(table))
    assert [row["slash"] for row in before] == [f"\\{number}" for number in range(8)]
    variables = scene.fake.engine.variables
    known = scene.fake.flavour.variables
    told = {**sessions.BOTH, **sessions.WHERE_KNOWN["both"], **sessions.WHERE_KNOWN[scene.kind], "query_timeout": ""}
    for name in set(told) & set(known):
        odd = ODD.get(name) or ("true" if known[name] == "false" else "false")
        scene.run(f"SET GLOBAL {name} = {odd}")
        assert variables[name] != known[name]
    try:
        assert by_id(await scene.collect(table)) == before
    finally:
        variables.clear()


async def test_nothing_is_sorted_and_every_column_is_named(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}, name VARCHAR(20)")
    scene.insert("orders", *[[number, f"2024-01-01 00:00:{number // 10:02d}", "x"] for number in range(300)])
    scene.insert("orders", [1000, None, "null"])
    scene.statements()
    for words in ({}, {"cursor": "at", "slice_rows": 50}, {"cursor": "at", "slice_rows": 5, "null_cursor": "include"}):
        await scene.collect(table_spec("orders", **words))
    for sql in scene.statements():
        assert "SELECT *" not in sql
        # The catalog may be sorted, and what is counted for a histogram: a few thousand rows at most.
        assert "ORDER BY" not in sql or "information_schema" in sql or ("COUNT(*)" in sql and "GROUP BY" in sql)


@STARROCKS
async def test_an_older_handshake_version_changes_nothing(scene: Scene) -> None:
    from tests.fake_olap import FakeStarRocks

    with FakeStarRocks(version="5.1.0") as server, server.fresh_database() as database:
        server.query("CREATE TABLE t (id INT) PRIMARY KEY (id) DISTRIBUTED BY HASH(id)", database=database)
        source = Scans(StarRocks(server.url(database)).source())
        info = await source.ping()
        assert (info.product, info.version) == ("StarRocks", "3.5.2-8cfd2ad")
        assert await source.list_tables() == ["t"]
        await source.aclose()
