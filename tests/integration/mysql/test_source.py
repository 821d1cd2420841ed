"""Every type at its extremes, odd names, large rows, and the rules of cursors, on real servers."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retl
from retl.connectors import MySQL
from retl.connectors.mysql.connection import MySQLConnection, connected
from retl.connectors.mysql.source import MySQLSource
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, SourceError
from retl.model.schema import is_json, native_type
from retl.testing import Scans, collect
from tests import tiers
from tests.integration.mysql.reading import opened, read, rows_of, spec
from tests.servers.database import Server
from tests.servers.sql import Row
from tests.servers.statements import counted

# A type, the Arrow type it is, and values: as they are written in SQL, and as they must arrive.
Case = tuple[str, pa.DataType, list[tuple[str, Any]]]

NUMBERS: list[Case] = [
    ("TINYINT", pa.int8(), [("-128", "-128"), ("127", "127")]),
    ("TINYINT UNSIGNED", pa.uint8(), [("0", "0"), ("255", "255")]),
    ("SMALLINT", pa.int16(), [("-32768", "-32768"), ("32767", "32767")]),
    ("SMALLINT UNSIGNED", pa.uint16(), [("65535", "65535")]),
    ("MEDIUMINT", pa.int32(), [("-8388608", "-8388608"), ("8388607", "8388607")]),
    ("MEDIUMINT UNSIGNED", pa.uint32(), [("16777215", "16777215")]),
    ("INT", pa.int32(), [("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
    ("INT UNSIGNED", pa.uint32(), [("4294967295", "4294967295")]),
    ("BIGINT", pa.int64(), [(str(-(2**63)), str(-(2**63))), (str(2**63 - 1), str(2**63 - 1))]),
    ("BIGINT UNSIGNED", pa.uint64(), [("0", "0"), (str(2**64 - 1), str(2**64 - 1))]),
    ("INT(8) ZEROFILL", pa.uint32(), [("42", "42")]),
    ("DECIMAL(8,2) ZEROFILL", pa.decimal128(8, 2), [("1.5", "1.50")]),
    ("BIT(1)", pa.uint64(), [("b'0'", "0"), ("b'1'", "1")]),
    ("BIT(64)", pa.uint64(), [("b'0'", "0"), ("0xFFFFFFFFFFFFFFFF", str(2**64 - 1))]),
    ("YEAR", pa.int16(), [("0", "0000"), ("1901", "1901"), ("2155", "2155")]),
    ("DECIMAL(65,30)", pa.decimal256(65, 30), [("-" + "9" * 35 + "." + "9" * 30,) * 2, ("0." + "0" * 29 + "1",) * 2]),
    ("DECIMAL(5,5)", pa.decimal128(5, 5), [("-0.99999", "-0.99999")]),
    ("DECIMAL(38,0)", pa.decimal128(38, 0), [("9" * 38, "9" * 38)]),
    ("DOUBLE", pa.float64(), [("1.7976931348623157e308",) * 2, ("5e-324",) * 2, ("-0.1", "-0.1"), ("1e16", "1e16")]),
]
TIMES: list[Case] = [
    ("DATE", pa.date32(), [("'1000-01-01'", "1000-01-01"), ("'9999-12-31'", "9999-12-31"), ("'0000-00-00'", "0000-00-00")]),
    ("DATETIME", pa.timestamp("us"), [("'9999-12-31 23:59:59'", "9999-12-31 23:59:59")]),
    *(
        (f"DATETIME({digits})", pa.timestamp("us"), [(f"'1000-01-01 00:00:00.{'1' * digits}'", f"1000-01-01 00:00:00.{'1' * digits}")])
        for digits in range(1, 7)
    ),
    (
        "TIMESTAMP(6) NULL",
        pa.timestamp("us", tz="UTC"),
        [("'1970-01-01 00:00:01.000001'", "1970-01-01 00:00:01.000001Z"), ("'2038-01-19 03:14:07.999999'", "2038-01-19 03:14:07.999999Z")],
    ),
    ("TIME", pa.time64("us"), [("'-838:59:59'", "-838:59:59"), ("'838:59:59'", "838:59:59")]),
    ("TIME(6)", pa.time64("us"), [("'-00:00:00.000001'", "-00:00:00.000001"), ("'23:59:59.999999'", "23:59:59.999999")]),
]  # fmt: skip
OTHERS: list[Case] = [
    ("CHAR(3)", pa.string(), [("'a '", "a"), ("'漢字🗼'", "漢字🗼")]),
    ("VARCHAR(9)", pa.string(), [("''", ""), ("' a '", " a "), ("'a\\0b'", "a\0b"), ("'NULL'", "NULL")]),
    ("VARCHAR(9) CHARACTER SET latin1", pa.string(), [("'é€'", "é€")]),
    ("VARCHAR(9) CHARACTER SET gbk", pa.string(), [("'漢字'", "漢字")]),
    ("LONGTEXT COLLATE utf8mb4_bin", pa.string(), [("'\\'\"\\\\\\n\\t,'", "'\"\\\n\t,")]),
    ("ENUM('','a,b','é')", pa.string(), [("''", ""), ("'a,b'", "a,b"), ("3", "é")]),
    ("SET('a','b','c')", pa.string(), [("''", ""), ("'c,a'", "a,c")]),
    ("BINARY(4)", pa.binary(), [("0x61", b"a\0\0\0"), ("0xFF00FE0A", b"\xff\0\xfe\n")]),
    ("VARBINARY(9)", pa.binary(), [("''", b""), ("0xFFFE00", b"\xff\xfe\0")]),
    ("LONGBLOB", pa.binary(), [("0x00FFFB", b"\0\xff\xfb")]),
    ("GEOMETRY", pa.binary(), [("ST_GeomFromText('POINT(1 2)', 4326)", struct.pack("<IBIdd", 4326, 1, 1, 1.0, 2.0))]),
    ("POINT", pa.binary(), [("ST_GeomFromText('POINT(1 2)')", struct.pack("<IBIdd", 0, 1, 1, 1.0, 2.0))]),
]
ONLY: dict[str, list[Case]] = {
    "MySQL": [
        ("JSON", pa.string(), [("'{\"a\": [1.5, null, \"\\\\u6f22\"]}'", '{"a": [1.5, null, "漢"]}'), ("'null'", "null")]),
        ("VECTOR(2)", pa.binary(), [("STRING_TO_VECTOR('[1,-2]')", struct.pack("<ff", 1.0, -2.0))]),
    ],
    "MariaDB": [
        ("JSON", pa.string(), [("'{\"a\": [1.5, null]}'", '{"a": [1.5, null]}'), ("'null'", "null")]),
        ("UUID", pa.string(), [("'123e4567-e89b-12d3-a456-426655440000'", "123e4567-e89b-12d3-a456-426655440000")]),
        ("INET6", pa.string(), [("'2001:db8::ff00:42:8329'", "2001:db8::ff00:42:8329"), ("'::'", "::")]),
        ("INET4", pa.string(), [("'10.0.0.255'", "10.0.0.255")]),
    ],
}  # fmt: skip
LOOSE = "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION', time_zone = '+00:00'"


def run(server: Server, database: str, *statements: str) -> None:
    """Statements in one session, which takes what a strict one refuses."""
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        for statement in (LOOSE, *statements):
            cursor.execute(statement)


def _swapped(server: Server, written: str) -> str:
    """MySQL reads latitude first where the system of reference says so."""
    return written.replace("POINT(1 2)', 4326", "POINT(2 1)', 4326") if server.product == "MySQL" else written


async def test_a_parameter_is_a_value_whatever_stands_in_it(server: Server, database: str) -> None:
    text = "O'Neil \\'; DROP TABLE t; -- :id # %s"
    query = "SELECT :id AS id, :text AS t FROM DUAL WHERE 7 IN (:ids) AND ':text' <> :text;"
    table = retl.Table("q", query=query, params={"id": -1, "text": text, "ids": [6, 7]}, key="id")
    assert (await read(server, database, table))[1] == [("-1", text)]


@pytest.mark.parametrize("through", ["table", "query", "expression"])
async def test_every_type_arrives_to_its_last_digit(server: Server, database: str, through: str) -> None:
    """By the catalog, and by what a result says of itself; NULL in every column too."""
    cases = [*NUMBERS, *TIMES, *OTHERS, *ONLY[server.product]]
    height = max(len(values) for _, _, values in cases)
    columns = ", ".join(f"c{number} {native}" for number, (native, _, _) in enumerate(cases))
    written = [["NULL"] * len(cases), *([_swapped(server, values[row % len(values)][0]) for _, _, values in cases] for row in range(height))]  # fmt: skip
    rows = ", ".join(f"({number}, {', '.join(row)})" for number, row in enumerate(written))
    run(server, database, f"CREATE TABLE t (id INT PRIMARY KEY, {columns})", f"INSERT INTO t VALUES {rows}")
    names = [f"c{number}" for number in range(len(cases))]
    table = {
        "table": retl.Table("t"),
        "query": retl.Table("q", query="SELECT * FROM t -- and so on"),
        "expression": retl.Table("t", columns=["id"], expressions={name: name for name in names}),
    }[through]

    schema, got = await read(server, database, table)

    assert schema.names == ["id", *names]
    want = [(0, *[None] * len(cases)), *((row + 1, *(values[row % len(values)][1] for _, _, values in cases)) for row in range(height))]  # fmt: skip
    assert len(got) == len(want)
    for found, wished in zip(sorted(got, key=lambda row: int(row[0])), want, strict=True):
        for (native, _, _), one, other in zip(cases, found[1:], wished[1:], strict=True):
            if through != "table" and "ZEROFILL" in native and one is not None:
                one = format(Decimal(one), "f")  # a result does not say of itself that it is filled
            assert one == other, native
    for (native, kind, _), column in zip(cases, list(schema)[1:], strict=True):
        if through == "table":
            assert column.type == kind, native
            assert is_json(column) == (native == "JSON"), native
        elif "MEDIUMINT" not in native:
            assert column.type == kind, (native, native_type(column))


async def test_expressions_have_types(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, d DECIMAL(20,6), at TIMESTAMP(6), n BIGINT UNSIGNED)")
    run(server, database, f"INSERT INTO t VALUES (1, 1.5, '2024-01-01 00:00:00.000001', {2**64 - 1})")
    expressions = {
        "count": "(SELECT COUNT(*) FROM t)",
        "sum": "(SELECT SUM(d) FROM t)",
        "text": "CONCAT(id, '漢')",
        "bytes": "UNHEX('FF')",
        "real": "id / 3e0",
        "big": "n",
        "latest": "(SELECT MAX(at) FROM t)",
        "day": "DATE(at)",
        "null": "NULL",
        "where_not": "id > 5",
    }
    schema, rows = await read(server, database, retl.Table("t", columns=["id"], expressions=expressions))
    assert rows == [
        (
            "1", "1", "1.500000", "1漢", b"\xff", rows[0][5], str(2**64 - 1), "2024-01-01 00:00:00.000001Z", "2024-01-01",
            None, "0",
        )
    ]  # fmt: skip
    assert float(rows[0][5]) == 1 / 3
    kinds = {column.name: column.type for column in schema}
    assert kinds["count"] == pa.int64() and kinds["big"] == pa.uint64()
    assert pa.types.is_decimal(kinds["sum"]) and kinds["sum"].scale == 6
    assert (kinds["text"], kinds["bytes"], kinds["real"]) == (pa.string(), pa.binary(), pa.float64())
    assert (kinds["latest"], kinds["day"]) == (pa.timestamp("us", tz="UTC"), pa.date32())
    assert kinds["null"] == pa.string()


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.text(min_size=240, max_size=260)
ANY_TIME = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59))  # noqa: DTZ001
PROPERTIES: dict[str, tuple[str, st.SearchStrategy[Any], Any]] = {
    "text": ("LONGTEXT", ANY_TEXT, str),
    "bytes": ("LONGBLOB", st.binary(max_size=300), bytes),
    "decimal": ("DECIMAL(40,12)", st.decimals(-(10**27), 10**27, places=12), Decimal),
    "double": ("DOUBLE", st.floats(allow_nan=False, allow_infinity=False), float),
    "float": ("FLOAT", st.floats(allow_nan=False, allow_infinity=False, width=32), float),
    "unsigned": ("BIGINT UNSIGNED", st.integers(0, 2**64 - 1), int),
    "moment": ("DATETIME(6)", ANY_TIME, datetime.fromisoformat),
    "year": ("YEAR", st.integers(1901, 2155), int),
}


@pytest.fixture
def kept(server: Server, database: str) -> Iterator[tuple[Server, str, Any]]:
    columns = ", ".join(f"v_{name} {native}" for name, (native, _, _) in PROPERTIES.items())
    run(server, database, f"CREATE TABLE t (id INT PRIMARY KEY, {columns})")
    with closing(server.connect(database)) as connection:
        yield server, database, connection


@given(rows=st.lists(st.tuples(*(st.none() | values for _, values, _ in PROPERTIES.values())), max_size=8))
@settings(max_examples=tiers.number(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_value_arrives_as_it_was_stored(kept: tuple[Server, str, Any], rows: list[Row]) -> None:
    server, database, connection = kept
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE t")
        marks = ", ".join(["%s"] * (len(PROPERTIES) + 1))
        # The driver writes a float to 15 digits only.
        written = [[repr(value) if isinstance(value, float) else value for value in row] for row in rows]
        for number, values in enumerate(written):
            cursor.execute(f"INSERT INTO t VALUES ({marks})", (number, *values))
    _, got = await read(server, database, "t")
    parsed = [
        tuple(None if value is None else parse(value) for value, (_, _, parse) in zip(found[1:], PROPERTIES.values(), strict=True))
        for found in sorted(got, key=lambda found: int(found[0]))
    ]  # fmt: skip
    assert parsed == rows


ODD_NAMES = ["select", "a b", "a.b", 'quo"te', "it's", "back\\slash", "back`tick", "漢字", "%s", "{x}", "-- x", "name;"]


async def test_odd_names(server: Server, database: str) -> None:
    def quoted(name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    columns = ", ".join(f"{quoted(name)} VARCHAR(40)" for name in ODD_NAMES)
    for name in ODD_NAMES:
        run(server, database, f"CREATE TABLE {quoted(name)} (id INT, {columns}, PRIMARY KEY (id, {quoted(name)}))")
        values = ", ".join("'" + each.replace("\\", "\\\\").replace("'", "''") + "'" for each in ODD_NAMES)
        run(server, database, f"INSERT INTO {quoted(name)} VALUES (1, {values})")
    async with opened(server, database) as source:
        listed = await source.list_tables()
        assert len(listed) == len(ODD_NAMES)
        for table in listed:
            described = await source.describe(table)
            assert described is not None and described.names == ["id", *ODD_NAMES]
            assert described.key[0] == "id" and described.key[1] in ODD_NAMES
            plan = await source.plan(spec(retl.Table(table, cursor="id")))
            assert await rows_of(source, plan) == [("1", *ODD_NAMES)]
            await source.leave()  # each scan has a connection of those that the source may have
    # The names of the target are the target's own affair.
    odd = {"id": "🗼", "select": " space ", "a b": "x" * 300}
    schema, rows = await read(server, database, retl.Table("`a.b`", rename=odd, columns=["id", "select", "a b"]))
    assert schema.names == list(odd.values()) and rows == [("1", "select", "a b")]


async def test_names_that_differ_by_case_only(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE T (big INT PRIMARY KEY)", "CREATE TABLE t (small INT PRIMARY KEY)")
    run(server, database, "INSERT INTO T VALUES (1)", "INSERT INTO t VALUES (2)")
    for table, column, value in (("T", "big", "1"), ("t", "small", "2")):
        schema, rows = await read(server, database, table)
        assert schema.names == [column] and rows == [(value,)]


async def test_empty_results(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME(6))")
    for table in (retl.Table("t"), retl.Table("t", cursor="at"), retl.Table("q", query="SELECT * FROM t")):
        schema, rows = await read(server, database, table)
        assert schema.names == ["id", "at"] and rows == []


@contextmanager
def large_packets(server: Server) -> Iterator[None]:
    ((before,),) = server.query("SELECT @@GLOBAL.max_allowed_packet")
    server.query("SET GLOBAL max_allowed_packet = 67108864")
    try:
        yield
    finally:
        server.query(f"SET GLOBAL max_allowed_packet = {before}")


async def test_rows_of_sixteen_megabytes_and_more(server: Server, database: str) -> None:
    """Around the size at which the protocol begins another packet, with small rows between."""
    edge = 2**24 - 1
    # A row of one value has its length before it, in four bytes or in nine.
    sizes = [edge - 5, edge - 4, edge - 3, edge, 20 * 10**6, 2 * edge - 9]
    with large_packets(server):
        run(server, database, "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGTEXT, n VARCHAR(9))")
        for size in sizes:
            run(server, database, f"INSERT INTO t (v, n) VALUES (REPEAT('x', {size}), 'after'), ('small', NULL)")
        for columns in (["v"], ["v", "n"]):
            _, rows = await read(server, database, retl.Table("t", columns=columns, key="v"))
            assert [len(row[0]) for row in rows] == list(itertools.chain(*((size, 5) for size in sizes)))
            assert all(row[0] == "small" or row[0].strip("x") == "" for row in rows)
            if len(columns) > 1:
                assert [row[1] for row in rows] == ["after", None] * len(sizes)


async def test_an_error_after_some_rows_comes_after_them(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, pad VARCHAR(2000))")
    rows = ", ".join(f"({number}, REPEAT('x', 2000))" for number in range(3000))
    run(server, database, f"INSERT INTO t VALUES {rows}")
    late = "CASE WHEN id < 2900 THEN id ELSE (SELECT id FROM t AS u WHERE u.id >= t.id) END"
    async with opened(server, database) as source:
        plan = await source.plan(spec(retl.Table("t", expressions={"late": late})))
        got: list[Row] = []
        with pytest.raises(SourceError, match="more than 1 row") as failed:
            async for batch in source.read(plan, plan.slices[0]):
                got.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        assert failed.value.code == 1242  # type: ignore[attr-defined]
        assert got == [(str(number), "x" * 2000, str(number)) for number in range(2900)]
        again = await source.plan(spec(retl.Table("t", columns=["id"])))
        assert await rows_of(source, again) == [(str(number),) for number in range(3000)]


# Cursors -----------------------------------------------------------------------------------------------------------

CURSORS: list[tuple[str, list[str]]] = [
    ("DATE", ["2024-01-01", "2024-01-02"]),
    ("DATETIME", ["2024-01-01 00:00:00", "2024-01-01 00:00:01"]),
    *(
        (f"DATETIME({digits})", [f"2024-01-01 00:00:00.{'9' * (digits - 1)}{last}" for last in (8, 9)])
        for digits in range(1, 7)
    ),
    ("TIMESTAMP(6) NULL", ["2024-01-01 00:00:00.999998", "2024-01-01 00:00:00.999999"]),
    ("BIGINT", ["9007199254740992", "9007199254740993"]),
    ("BIGINT", ["-2", "-1"]),
    ("BIGINT UNSIGNED", [str(2**64 - 2), str(2**64 - 1)]),
    ("DECIMAL(65,30)", ["9" * 35 + "." + "9" * 29 + last for last in "89"]),
    ("YEAR", ["2023", "2024"]),
]


@pytest.mark.parametrize(("native", "values"), CURSORS, ids=[f"{native} {values[0][:5]}" for native, values in CURSORS])
async def test_a_watermark_keeps_its_last_digit_and_ties_are_read(
    server: Server, database: str, native: str, values: list[str]
) -> None:
    low, high = values
    run(server, database, f"CREATE TABLE t (id INT PRIMARY KEY, n {native})")
    run(server, database, f"INSERT INTO t VALUES (1, '{low}'), (2, NULL)")
    table = spec(retl.Table("t", cursor="n", columns=["id"]))
    async with opened(server, database) as source:
        first = await source.plan(table)
        assert first.slices[-1].watermark == low and first.null_cursor_rows == 1
        assert await rows_of(source, first) == [("1",)]
        # One that ties and one that is a unit above; the one far below was never late, so it is not read.
        run(server, database, f"INSERT INTO t VALUES (3, '{low}'), (4, '{high}')")
        mark = Checkpoint(watermark=low)
        second = await source.plan(table, mark)
        assert second.window is not None and (second.window.lower, second.window.upper) == (low, high)
        assert sorted(await rows_of(source, second)) == [("1",), ("3",), ("4",)]
        third = await source.plan(table, Checkpoint(watermark=high))
        assert await rows_of(source, third) == [("4",)]


@pytest.mark.parametrize(
    "key", [["id"], ["code"], None, ["computed"]], ids=["number", "text with NULLs", "none", "computed"]
)
async def test_ten_thousand_rows_of_one_moment_are_cut_by_a_hash(
    server: Server, database: str, key: list[str] | None
) -> None:
    run(
        server,
        database,
        "CREATE TABLE t (id INT, code VARCHAR(20), f DOUBLE, g GEOMETRY, b BLOB, at DATETIME(6))",
        "INSERT INTO t SELECT d.n, IF(d.n % 10, CONCAT('c', d.n), NULL), d.n / 3, ST_GeomFromText('POINT(1 2)'), "
        "UNHEX('FF'), '2024-01-01 00:00:00.123456' FROM (SELECT a.n + 10 * b.n + 100 * c.n + 1000 * e.n AS n FROM "
        + ", ".join(
            f"(SELECT {' UNION ALL SELECT '.join(f'{n} AS n' for n in range(10))}) AS {name}" for name in "abce"
        )
        + ") AS d",
        "INSERT INTO t VALUES (20000, 'later', 1, NULL, NULL, '2024-01-01 00:00:00.123457')",
    )
    expressions = {"computed": "id * 2"} if key == ["computed"] else None
    words: dict[str, Any] = {"cursor": "at", "slice_rows": 1000, "expressions": expressions, "columns": ["id"]}
    table = spec(retl.Table("t", key=key if key != ["code"] else None, **words))
    async with opened(server, database) as source:
        plan = await source.plan(table)
        assert [(slice_.remainder, slice_.modulus) for slice_ in plan.slices] == [*((n, 10) for n in range(10)), (0, 1)]
        parts = [
            [int(row[0]) for batch in [b async for b in source.read(plan, slice_)] for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]
            for slice_ in plan.slices
        ]  # fmt: skip
    assert sorted(itertools.chain(*parts)) == [*range(10_000), 20_000]
    assert parts[-1] == [20_000]
    assert all(700 < len(slice_) < 1300 for slice_ in parts[:-1])


async def test_rows_too_long_to_be_hashed_are_in_one_part(server: Server, database: str) -> None:
    """What joins to more than a packet is NULL in the hash: such a row was in no part."""
    run(server, database, "CREATE TABLE t (a LONGTEXT, b LONGTEXT, at DATETIME)")
    ((most,),) = server.query("SELECT @@max_allowed_packet")
    half = most // 2 + 10
    with large_packets(server):
        for letter in "xyz":
            run(
                server,
                database,
                f"INSERT INTO t VALUES ('{letter}', REPEAT('{letter}', {min(half, 9_000_000)}), '2024-01-01')",
            )
            run(server, database, f"UPDATE t SET a = REPEAT('{letter}', {min(half, 9_000_000)}) WHERE a = '{letter}'")
    server.query("SET GLOBAL max_allowed_packet = 16777216")
    try:
        async with opened(server, database) as source:
            table = retl.Table("t", cursor="at", slice_rows=1, expressions={"la": "LEFT(a, 1)"}, columns=["at"])
            plan = await source.plan(spec(table))
            assert len(plan.slices) == 3
            assert sorted(row[1] for row in await rows_of(source, plan)) == ["x", "y", "z"]
    finally:
        server.query(f"SET GLOBAL max_allowed_packet = {most}")


@pytest.mark.parametrize(
    ("native", "values"),
    [
        ("BIGINT", [-(2**63), -(2**62), -1, 0, 1, 2**62, 2**63 - 1]),
        ("BIGINT UNSIGNED", [0, 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]),
        ("DECIMAL(30,3)", [Decimal("-99.001"), Decimal("0.001"), Decimal("0.002"), Decimal(10) ** 26]),
        ("DATETIME(6)", ["1000-01-01 00:00:00.000001", "1969-12-31 23:59:59.999999", "1970-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999"]),
        ("DATE", ["1000-01-01", "1969-12-31", "1970-01-01", "9999-12-31"]),
    ],
)  # fmt: skip
async def test_slices_over_the_whole_range(server: Server, database: str, native: str, values: list[Any]) -> None:
    run(server, database, f"CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n {native})")
    for value in values:
        run(server, database, *[f"INSERT INTO t (n) VALUES ('{value}')"] * 3)
    async with opened(server, database) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="n", slice_rows=3, columns=["id"])))
        assert len(plan.slices) == len(values)
        got = [[int(row[0]) for batch in [b async for b in source.read(plan, slice_)] for row in batch.to_pylist() for row in [list(row.values())]] for slice_ in plan.slices]  # fmt: skip
    assert got == [[3 * n + 1, 3 * n + 2, 3 * n + 3] for n in range(len(values))]


async def test_settle_goes_by_the_servers_clock_in_the_columns_zone(server: Server, database: str) -> None:
    zone = "Asia/Shanghai"
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, local DATETIME(6), utc TIMESTAMP(6) NULL)")
    ((now,),) = server.query("SELECT UTC_TIMESTAMP(6)")
    for number, age in enumerate((7200, 30, -7200)):
        moment = now - timedelta(seconds=age)
        local = moment.replace(tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        run(server, database, f"INSERT INTO t VALUES ({number}, '{local}', '{moment}')")
    for words, cursor, want in (
        ({"timezone": zone}, "local", ["0"]),
        ({"timezone": "+08:00"}, "local", ["0"]),
        ({}, "utc", ["0"]),
        ({"timezone": zone}, "utc", ["0"]),
    ):
        async with opened(server, database, **words) as source:
            table = spec(retl.Table("t", cursor=cursor, settle="10m", columns=["id"]))
            ((before,),) = server.query("SELECT UTC_TIMESTAMP(6)")
            plan = await source.plan(table)
            ((after,),) = server.query("SELECT UTC_TIMESTAMP(6)")
            assert [row[0] for row in await rows_of(source, plan)] == want, (words, cursor)
            assert plan.window is not None
            away = timedelta(minutes=-10) + (timedelta(hours=8) if cursor == "local" else timedelta())
            assert before + away <= datetime.fromisoformat(plan.window.upper) <= after + away


class ClockSource(MySQLSource):
    """A source whose server's clock stands still at a moment, in UTC."""

    moment: str

    async def open(self) -> MySQLConnection:
        connection = await super().open()
        await connection.execute(f"SET timestamp = UNIX_TIMESTAMP('{self.moment}')")
        return connection


@pytest.mark.parametrize(
    ("moment", "settle", "settled"),
    [
        # The last day of March has 23 hours in Berlin, and one of October has 25.
        ("2024-03-30 22:59:59", "0s", "2024-03-29"),
        ("2024-03-30 23:00:00", "0s", "2024-03-30"),
        ("2024-03-31 21:59:59", "0s", "2024-03-30"),
        ("2024-03-31 22:00:00", "0s", "2024-03-31"),
        ("2024-10-26 21:59:59", "0s", "2024-10-25"),
        ("2024-10-26 22:00:00", "0s", "2024-10-26"),
        ("2024-10-27 22:59:59", "0s", "2024-10-26"),
        ("2024-10-27 23:00:00", "0s", "2024-10-27"),
        # Three hours after the day, although the clock has moved by four.
        ("2024-03-31 01:59:59", "3h", "2024-03-29"),
        ("2024-03-31 02:00:00", "3h", "2024-03-30"),
        # The clock has moved by three hours after four: later is safe.
        ("2024-10-27 01:59:59", "3h", "2024-10-25"),
        ("2024-10-27 02:00:00", "3h", "2024-10-26"),
    ],
)
async def test_a_day_settles_although_the_clocks_change(
    server: Server, database: str, moment: str, settle: str, settled: str
) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, day DATE)")
    run(server, database, "INSERT INTO t VALUES (1, '2024-03-01'), (2, '2024-11-01')")
    door = ClockSource(MySQL(server.url(database), timezone="Europe/Berlin"))
    door.moment = moment
    async with Scans(door) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="day", settle=settle, columns=["id"])))
        assert plan.window is not None
        assert plan.window.upper == settled
        assert await rows_of(source, plan) == [("1",)]


async def test_rows_of_the_hour_after_a_change_of_clocks_settle_too(server: Server, database: str) -> None:
    """At five past three the clock of ten minutes before shows five to two: what lies between was never shown."""
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME)")
    run(server, database, "INSERT INTO t VALUES (1, '2024-03-31 01:54:59'), (2, '2024-03-31 01:56:00')")
    door = ClockSource(MySQL(server.url(database), timezone="Europe/Berlin"))
    door.moment = "2024-03-31 01:05:00"
    async with Scans(door) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="at", settle="10m", columns=["id"])))
        assert plan.window is not None
        assert plan.window.upper == "2024-03-31 01:55:00"
        assert await rows_of(source, plan) == [("1",)]


async def test_an_hour_that_comes_twice_is_warned_of(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME, stamp TIMESTAMP NULL)")
    run(server, database, "INSERT INTO t VALUES (1, '2024-05-01 12:00:00', '2024-05-01 12:00:00')")
    for words, cursor, lookback, warned in (
        ({"timezone": "Europe/Berlin"}, "at", 0, True),
        ({"timezone": "Europe/Berlin"}, "at", 3600, False),
        ({"timezone": "Europe/Berlin"}, "stamp", 0, False),
        ({"timezone": "Asia/Shanghai"}, "at", 0, False),
        ({}, "at", 0, False),  # the clock of the tests' servers is not put back
    ):
        async with opened(server, database, **words) as source:
            plan = await source.plan(spec(retl.Table("t", cursor=cursor, lookback=lookback)))
        assert [("put back by 60 minutes" in warning) for warning in plan.warnings] == [True] * warned, words


async def test_lookback_reads_what_came_late(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME(3))")
    run(server, database, "INSERT INTO t VALUES (1, '2024-01-01 00:00:00.499'), (2, '2024-01-01 00:00:00.500'), (3, '2024-01-01 00:00:05.500')")  # fmt: skip
    async with opened(server, database) as source:
        table = spec(retl.Table("t", cursor="at", lookback="5s"))
        plan = await source.plan(table, Checkpoint(watermark="2024-01-01 00:00:05.500"))
        assert plan.window is not None and plan.window.lower == "2024-01-01 00:00:00.500"
        assert await rows_of(source, plan) == [("2", "2024-01-01 00:00:00.500"), ("3", "2024-01-01 00:00:05.500")]


@pytest.mark.parametrize("native", ["FLOAT", "TIME", "VARCHAR(20)", "JSON", "BLOB"])
async def test_what_does_not_order_change_is_no_cursor(server: Server, database: str, native: str) -> None:
    run(server, database, f"CREATE TABLE t (id INT PRIMARY KEY, n {native})")
    async with opened(server, database) as source:
        with pytest.raises(ConfigError, match="does not order change"):
            await source.plan(spec(retl.Table("t", cursor="n")))


async def test_a_quick_server_does_not_keep_the_loop(server: Server, database: str) -> None:
    """Rows that are there already are waited for by nobody: others have their turns between the batches all the same."""
    digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) AS"
    query = f"SELECT REPEAT('x', 60000) AS text FROM {digits} a, {digits} b, {digits} c"  # 7.5 MB
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with (
        connected(MySQL(server.url(database)).login("source", ())) as connection,
        aclosing(connection.stream(query)) as batches,
    ):
        await anext(batches)
        while not connection._wire._reader._paused:  # noqa: ASYNC110  # until as much waits as may
            await asyncio.sleep(0.001)
        task = asyncio.create_task(others())
        try:
            for _ in range(2):
                before = turns
                await anext(batches)
                assert turns > before
        finally:
            task.cancel()


async def test_invisible_columns_are_read_where_they_are_named(server: Server, database: str) -> None:
    server.query(
        "CREATE TABLE t (id INT PRIMARY KEY, v INT, secret INT DEFAULT 7 INVISIBLE, at DATETIME DEFAULT '2024-01-01' INVISIBLE)",
        database=database,
    )
    server.query("INSERT INTO t (id, v) VALUES (1, 2)", database=database)
    cases: list[tuple[dict[str, Any], list[str], Row]] = [
        ({}, ["id", "v"], ("1", "2")),
        ({"columns": ["id", "secret"]}, ["id", "secret"], ("1", "7")),
        ({"cursor": "at"}, ["id", "v", "at"], ("1", "2", "2024-01-01 00:00:00")),
        ({"exclude": ["secret", "v"], "rename": {"at": "seen"}}, ["id", "seen"], ("1", "2024-01-01 00:00:00")),
    ]
    for words, names, row in cases:
        schema, rows = await read(server, database, retl.Table("t", **words))
        assert (schema.names, [tuple(map(str, found)) for found in rows]) == (names, [row])


async def test_a_view_that_does_not_work_is_told_as_such(server: Server, database: str) -> None:
    for statement in ("CREATE TABLE t (id INT PRIMARY KEY)", "CREATE VIEW broken AS SELECT * FROM t", "DROP TABLE t"):
        server.query(statement, database=database)
    async with opened(server, database) as source:
        with pytest.raises(ConfigError, match="is a view that the source itself cannot read") as caught:
            await source.plan(spec("broken"))
    assert "SELECT" not in caught.value.remedy


async def test_a_scan_that_finds_nothing_new_asks_little_on_a_warm_connection(server: Server, database: str) -> None:
    run(server, database, "CREATE TABLE t (id INT PRIMARY KEY, at DATETIME(6), KEY (at))")
    run(server, database, "INSERT INTO t VALUES (1, '2024-05-01 12:00:00.5'), (2, '2024-05-01 12:00:00.7')")
    before = Checkpoint(watermark="2024-05-01 12:00:00.700000")
    source = MySQL(server.url(database)).source()
    try:
        await collect(source, spec(retl.Table("t", cursor="at")), before)
        with counted(server) as sent:
            found = await collect(source, spec(retl.Table("t", cursor="at")), before)
        assert found.column("id").to_pylist() == [2]
        assert (len(sent), sent.logins) == (3, 0), sent.statements  # the catalog, the bounds, the rows that tie
        # A column that was added is noticed by the very next scan.
        run(server, database, "ALTER TABLE t ADD COLUMN more INT DEFAULT 7")
        assert (await collect(source, spec(retl.Table("t", cursor="at")), before)).column("more").to_pylist() == [7]
    finally:
        await source.aclose()
