"""Every type at its extremes, odd names, and what one snapshot means, on real servers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
import pytest

import retl
from retl.model.actions import Write
from retl.model.errors import ConfigError, SourceError
from retl.model.schema import is_json, native_type
from tests.integration.postgres.reading import opened, planned, read, rows_of, run, spec
from tests.servers.postgres import PostgresServer
from tests.servers.postgres import rows as rows_by

# A type, the Arrow type it is, and values: as they are written in SQL, and as they must arrive.
Case = tuple[str, pa.DataType, list[tuple[str, Any]]]

NUMBERS: list[Case] = [
    ("smallint", pa.int16(), [("-32768", "-32768"), ("32767", "32767")]),
    ("integer", pa.int32(), [("-2147483648", "-2147483648")]),
    ("bigint", pa.int64(), [(str(-(2**63)), str(-(2**63))), (str(2**63 - 1), str(2**63 - 1))]),
    ("numeric", pa.string(), [("1e1000", "1" + "0" * 1000), ("1.0", "1.0"), ("'NaN'", "NaN"), ("'-Infinity'", "-Infinity")]),
    ("numeric(1000,500)", pa.string(), [("9" * 500 + "." + "9" * 500,) * 2]),
    ("numeric(76,38)", pa.decimal256(76, 38), [("-" + "9" * 38 + "." + "9" * 38,) * 2]),
    ("numeric(10,2)", pa.decimal128(10, 2), [("1.5", "1.50"), ("'NaN'", "NaN")]),
    ("numeric(2,-3)", pa.decimal128(5, 0), [("12345", "12000")]),
    ("numeric(3,5)", pa.decimal128(5, 5), [("0.00123", "0.00123")]),
    ("real", pa.float32(), [("3.4028235e38", 3.4028234663852886e38), ("1e-45", 1.401298464324817e-45), ("'-Infinity'", -math.inf), ("'-0'", -0.0)]),
    ("double precision", pa.float64(), [("1.7976931348623157e308", 1.7976931348623157e308), ("5e-324", 5e-324), ("0.1", 0.1)]),
    ("money", pa.decimal128(19, 2), [("-92233720368547758.08", "-92233720368547758.08")]),
    ("oid", pa.uint32(), [("4294967295", "4294967295")]),
    ("boolean", pa.bool_(), [("true", True), ("false", False)]),
]  # fmt: skip
TIMES: list[Case] = [
    ("date", pa.date32(), [("'0001-01-01'", "0001-01-01"), ("'infinity'", "infinity"), ("'0044-03-15 BC'", "0044-03-15 BC"), ("'294276-12-31'", "294276-12-31")]),
    ("timestamp", pa.timestamp("us"), [("'2024-05-01 12:00:00'", "2024-05-01 12:00:00.000000"), ("'9999-12-31 23:59:59.999999'", "9999-12-31 23:59:59.999999")]),
    ("timestamp(3)", pa.timestamp("us"), [("'0001-01-01 00:00:00.1'", "0001-01-01 00:00:00.100000"), ("'-infinity'", "-infinity")]),
    ("timestamp", pa.timestamp("us"), [("'4713-01-01 00:00:00 BC'", "4713-01-01 00:00:00 BC"), ("'294276-12-31 23:59:59.999999'",) * 2, ("'1999-01-08 04:05:06'", "1999-01-08 04:05:06.000000")]),
    ("timestamptz", pa.timestamp("us", "UTC"), [("'2024-05-01 12:00:00.000001+08'", "2024-05-01 04:00:00.000001Z")]),
    ("timestamptz", pa.timestamp("us", "UTC"), [("'infinity'", "infinity"), ("'2024-05-01 12:00:00+00'", "2024-05-01 12:00:00.000000Z")]),
    ("time", pa.time64("us"), [("'23:59:59.999999'", "23:59:59.999999"), ("'00:00'", "00:00:00.000000")]),
    ("time", pa.time64("us"), [("'24:00:00'", "24:00:00"), ("'12:30'", "12:30:00.000000")]),
    ("timetz", pa.string(), [("'12:30:00.5+02:30'", "12:30:00.5+02:30")]),
    ("interval", pa.string(), [("'1 mon'", "1 mon"), ("'30 days'", "30 days"), ("'-1 year 2 mons 3 days 04:05:06.000007'", "-10 mons +3 days 04:05:06.000007")]),
]  # fmt: skip
OTHERS: list[Case] = [
    ("text", pa.string(), [("''", ""), ("'NULL'", "NULL"), ("'\\N'", "\\N"), ("'\\.'", "\\."), ("E'a\\tb\\nc\\rd\\\\e\\bf\\fg\\x0bh'", "a\tb\nc\rd\\e\bf\fg\vh")]),
    ("text", pa.string(), [("E'\\\\n'", "\\n"), ("E'\\\\\\\\n\\n\\\\'", "\\\\n\n\\"), ("'\"q\",;'", '"q",;'), ("'漢字🗼'", "漢字🗼"), ("' '", " ")]),
    ("varchar(9)", pa.string(), [("'a '", "a ")]),
    ("char(3)", pa.string(), [("'a'", "a  ")]),
    ("\"char\"", pa.string(), [("'x'", "x")]),
    ("bytea", pa.binary(), [("''", b""), ("'\\x00ff0a5c'", b"\x00\xff\n\\")]),
    ("uuid", pa.string(), [("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    ("json", pa.string(), [("'{\"a\":  1.0, \"a\": 2}'", '{"a":  1.0, "a": 2}'), ("'null'", "null")]),
    ("jsonb", pa.string(), [("'{\"a\": \"\\n\\\\\", \"b\": 1.00}'", '{"a": "\\n\\\\", "b": 1.00}')]),
    ("integer[]", pa.string(), [("'{1,NULL,3}'", "{1,NULL,3}"), ("'{}'", "{}")]),
    ("text[]", pa.string(), [("ARRAY['a,b', NULL, 'NULL', '', E'\\\\\"']", '{"a,b",NULL,"NULL","","\\\\\\""}')]),
    ("int4range", pa.string(), [("'[1,5]'", "[1,6)"), ("'empty'", "empty")]),
    ("tstzrange", pa.string(), [("'[2024-01-01 00:00+08,)'", '["2023-12-31 16:00:00+00",)')]),
    ("bit(3)", pa.string(), [("B'101'", "101")]),
    ("inet", pa.string(), [("'::1'", "::1")]),
    ("point", pa.string(), [("'(1.5,2)'", "(1.5,2)")]),
    ("mood", pa.string(), [("'so, so'", "so, so")]),
    ("posint", pa.int32(), [("7", "7")]),
    ("pair", pa.string(), [("ROW(1, 'x y')", '(1,"x y")')]),
    ("citext", pa.string(), [("'Ann'", "Ann")]),
]  # fmt: skip
CASES = [*NUMBERS, *TIMES, *OTHERS]
MADE = (
    "CREATE TYPE mood AS ENUM ('sad', 'so, so')",
    "CREATE DOMAIN posint AS integer CHECK (value > 0)",
    "CREATE TYPE pair AS (a integer, b text)",
    "CREATE EXTENSION citext",
)


@pytest.mark.every_system
async def test_every_type_arrives_to_its_last_digit(pg: PostgresServer, pg_database: str) -> None:
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(CASES))
    run(pg, pg_database, *MADE, f"CREATE TABLE t (n integer, {columns})")
    longest = max(len(found) for _, _, found in CASES)
    rows: list[tuple[Any, ...]] = []
    for n in range(longest + 1):
        cells = [found[n] if n < len(found) else ("NULL", None) for _, _, found in CASES]
        run(pg, pg_database, f"INSERT INTO t VALUES ({n}, {', '.join(sql for sql, _ in cells)})")
        rows.append(
            (
                str(n),
                *(
                    value.strip("'") if isinstance(value, str) and value.startswith("'2942") else value
                    for _, value in cells
                ),
            )
        )
    schema, found = await read(pg, pg_database, "t")
    assert [column.type for column in schema][1:] == [kind for _, kind, _ in CASES]
    assert sorted(found, key=lambda row: int(row[0])) == rows


async def test_columns_keep_their_own_types_and_say_what_is_json(pg: PostgresServer, pg_database: str) -> None:
    run(pg, pg_database, *MADE, "CREATE TABLE t (a varchar(20) NOT NULL, b jsonb, c mood, d posint, e numeric(7,3)[])")
    schema, _ = await read(pg, pg_database, "t")
    assert [native_type(column) for column in schema] == [
        "character varying(20)",
        "jsonb",
        "mood",
        "posint",
        "numeric(7,3)[]",
    ]
    assert [is_json(column) for column in schema] == [False, True, False, False, False]
    assert [column.nullable for column in schema] == [False, True, True, True, True]


async def test_a_parameter_is_a_value_whatever_stands_in_it(pg: PostgresServer, pg_database: str) -> None:
    text = "O'Neil \\'; DROP TABLE t; -- :id $$ %s"
    query = "SELECT :id AS id, CAST(:text AS text) AS t WHERE 7 IN (:ids) AND ':text' <> :text;"
    table = retl.Table("q", query=query, params={"id": -1, "text": text, "ids": [6, 7]}, key="id")
    assert (await read(pg, pg_database, table))[1] == [("-1", text)]


async def test_queries_and_expressions_keep_their_digits(pg: PostgresServer, pg_database: str) -> None:
    run(pg, pg_database, "CREATE TABLE t AS SELECT 1 AS id, 1.50::numeric(10,2) AS n, 'x'::varchar(9) AS v")
    by_query = retl.Table("q", query="SELECT id, n, v, now() AS at, '{}'::jsonb AS j FROM t -- a comment", key="id")
    schema, _ = await read(pg, pg_database, by_query)
    assert [native_type(column) for column in schema] == [
        "integer",
        "numeric(10,2)",
        "character varying(9)",
        "timestamp with time zone",
        "jsonb",
    ]
    computed = retl.Table("t", expressions={"more": "n * 2", "exact": "CAST(n * 2 AS numeric(12,4))"})
    schema, rows = await read(pg, pg_database, computed)
    assert {column.name: native_type(column) for column in schema}["exact"] == "numeric(12,4)"
    assert rows == [("1", "1.50", "x", "3.00", "3.0000")]


async def test_odd_names_are_read(pg: PostgresServer, pg_database: str) -> None:
    odd = ['a "b"', "SELECT", "漢字", " x ", "a.b", "Ünï", "?", "%s", "x" * 63]
    columns = ", ".join('"' + name.replace('"', '""') + f'" integer DEFAULT {n}' for n, name in enumerate(odd))
    run(pg, pg_database, f'CREATE TABLE "Odd.table" ({columns})', 'INSERT INTO "Odd.table" DEFAULT VALUES')
    schema, rows = await read(pg, pg_database, '"Odd.table"')
    assert schema.names == odd
    assert rows == [tuple(map(str, range(len(odd))))]
    async with opened(pg, pg_database) as source:
        assert await source.source.list_tables() == ['"Odd.table"']


async def test_tables_lie_in_the_schema_of_the_option_and_others_are_qualified(
    pg: PostgresServer, pg_database: str
) -> None:
    run(
        pg,
        pg_database,
        'CREATE SCHEMA "App"',
        'CREATE TABLE "App".t AS SELECT 1 AS a',
        "CREATE TABLE t AS SELECT 2 AS a",
        f'GRANT USAGE ON SCHEMA "App" TO "{pg.as_reader(pg_database).user}"',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA "App" TO "{pg.as_reader(pg_database).user}"',
    )
    assert (await read(pg, pg_database, "t"))[1] == [("2",)]
    assert (await read(pg, pg_database, "App.t"))[1] == [("1",)]
    assert (await read(pg, pg_database, "t", schema="App"))[1] == [("1",)]
    async with opened(pg, pg_database, schema="App") as source:
        assert await source.source.list_tables() == ["public.t", "t"]


async def test_views_partitioned_tables_and_materialised_views_are_read(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE parts (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE high PARTITION OF parts DEFAULT",
        "INSERT INTO parts VALUES (1, 'a'), (11, 'b')",
        "CREATE VIEW seen AS SELECT * FROM parts",
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM parts",
    )
    for name in ("parts", "seen", "kept"):
        assert sorted((await read(pg, pg_database, name))[1]) == [("1", "a"), ("11", "b")]
    async with opened(pg, pg_database) as source:
        assert await source.source.list_tables() == ["kept", "parts", "seen"]
        assert (await source.plan(spec("parts"))).key == ("id",)
        assert (await source.source.location("parts") or "").startswith("postgres:")
        assert await source.source.location("seen") is None


async def test_a_key_is_one_that_the_server_guarantees(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE partial (a integer NOT NULL)",
        "CREATE UNIQUE INDEX ON partial (a) WHERE a > 0",
        "CREATE TABLE computed (a text NOT NULL)",
        "CREATE UNIQUE INDEX ON computed (lower(a))",
        "CREATE TABLE nulls (a integer UNIQUE)",
        "CREATE TABLE two (a integer NOT NULL, b integer NOT NULL, c integer NOT NULL UNIQUE, UNIQUE (a, b))",
        "CREATE TABLE more (a integer NOT NULL, b text)",
        "CREATE UNIQUE INDEX ON more (a) INCLUDE (b)",
    )
    async with opened(pg, pg_database) as source:
        keys = {
            name: (await source.plan(spec(retl.Table(name, write=Write.APPEND)))).key
            for name in await source.source.list_tables()
        }
    assert keys == {"computed": (), "more": ("a",), "nulls": (), "partial": (), "two": ("c",)}


# One snapshot -----------------------------------------------------------------


async def test_bounds_counts_and_rows_are_of_one_snapshot(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE t (id integer PRIMARY KEY, at timestamp)",
        "INSERT INTO t SELECT i, timestamp '2024-01-01' + make_interval(secs => i) FROM generate_series(1, 100) AS i",
    )
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="at", slice_rows=30)))
        assert plan.exact_rows and plan.rows == 100
        run(pg, pg_database, "DELETE FROM t WHERE id % 2 = 0", "INSERT INTO t VALUES (50, '2024-01-01 00:00:50.5')")
        rows = await rows_of(source, plan)
    assert sorted(int(row[0]) for row in rows) == list(range(1, 101))


async def test_counts_are_not_exact_where_no_snapshot_holds_them(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE t AS SELECT i AS id, 1 AS v FROM generate_series(1, 100) AS i",
        "CREATE VIEW w AS SELECT * FROM t",
    )
    assert not (await planned(pg, pg_database, retl.Table("w", key="id"))).exact_rows
    assert not (await planned(pg, pg_database, retl.Table("q", query="SELECT * FROM t", key="id"))).exact_rows
    # Rows that share one value are cut by a hash, whose parts are not counted.
    cut = await planned(pg, pg_database, retl.Table("t", cursor="v", key="id", slice_rows=30))
    assert [slice_.modulus for slice_ in cut.slices] == [4] * 4 and not cut.exact_rows


async def test_an_open_scan_holds_no_lock_that_writers_wait_for(pg: PostgresServer, pg_database: str) -> None:
    run(pg, pg_database, "CREATE TABLE t AS SELECT 1 AS id")
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec("t"))
        run(pg, pg_database, "SET lock_timeout = '1s'", "UPDATE t SET id = 2", "CREATE INDEX ON t (id)", "ANALYZE t")
        assert await rows_of(source, plan) == [("1",)]
    # Nor does one that is over: its connection is kept, outside of any transaction.
    run(pg, pg_database, "SET lock_timeout = '1s'", "DROP TABLE t")


async def test_rows_that_policies_hide_are_warned_of(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 4) AS i",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY above ON t USING (id > 2)",
    )
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec(retl.Table("t", write=Write.APPEND)))
        assert "row-level security" in plan.warnings[0]
        assert sorted(await rows_of(source, plan)) == [("3",), ("4",)]


async def test_a_reader_without_rights_is_told(pg: PostgresServer, pg_database: str) -> None:
    run(pg, pg_database, "CREATE TABLE t AS SELECT 1 AS id", f'REVOKE ALL ON t FROM "{pg.as_reader(pg_database).user}"')
    run(pg, pg_database, "CREATE SCHEMA hidden", "CREATE TABLE hidden.t AS SELECT 1 AS id")
    reader = pg.as_reader(pg_database)
    run(pg, pg_database, f'REVOKE ALL ON t FROM "{reader.user}"')
    async with opened(pg, pg_database) as source:
        run(pg, pg_database, f'REVOKE ALL ON t FROM "{reader.user}"')
        for name in ("t", "hidden.t"):
            with pytest.raises(ConfigError, match="refused a right: permission denied"):
                await source.plan(spec(name))


# Encodings ----------------------------------------------------------------------


@contextmanager
def encoded(server: PostgresServer, encoding: str) -> Iterator[str]:
    """A database of another encoding."""
    name = f"retl_{encoding.lower()}"
    server.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    server.query(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        yield name
    finally:
        server.query(f"DROP DATABASE {name} WITH (FORCE)")
        for user in ("least", "reads"):
            server.query(f"DROP ROLE IF EXISTS {user}_{name[-24:]}")


async def test_other_encodings_are_read_as_utf8(pg: PostgresServer) -> None:
    with encoded(pg, "LATIN1") as database:
        run(pg, database, "CREATE TABLE t AS SELECT 'é'::text AS v")
        assert (await read(pg, database, "t"))[1] == [("é",)]


async def test_bytes_that_are_no_text_end_the_scan_with_advice(pg: PostgresServer) -> None:
    with encoded(pg, "SQL_ASCII") as database:
        run(
            pg,
            database,
            "CREATE TABLE t (id integer, v text)",
            "INSERT INTO t VALUES (1, convert_from('\\xe9', 'SQL_ASCII'))",
        )
        with pytest.raises(SourceError, match="cannot be UTF-8") as failed:
            await read(pg, database, retl.Table("t", key="id"))
        assert "convert_to" in failed.value.remedy
        known = retl.Table("t", key="id", expressions={"v": "convert_to(v, 'SQL_ASCII')"})
        assert (await read(pg, database, known))[1] == [("1", b"\xe9")]


# Cursors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "first", "second", "third"),
    [
        ("integer", "1", "2", "3"),
        ("bigint", str(2**62), str(2**62 + 1), str(2**63 - 1)),
        ("numeric", "1.1", "1.11", "1e20"),
        ("numeric(20,6)", "0.000001", "0.000002", "12345678901234.123456"),
        ("date", "'2024-01-01'", "'2024-01-02'", "'2024-03-01'"),
        ("timestamp", "'2024-01-01'", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"),
        ("timestamptz", "'2024-01-01 00:00+08'", "'2024-01-01 00:00:00.000001+08'", "'2024-01-01 00:00+00'"),
        ("timestamp(0)", "'2024-01-01'", "'2024-01-01 00:00:01'", "'2024-01-01 00:00:02'"),
        ('text COLLATE "C"', "'A'", "'a'", "'é'"),
        ('varchar(9) COLLATE "C"', "'a'", "'a '", "'b'"),
    ],
)
async def test_every_kind_of_cursor_finds_what_is_new(
    pg: PostgresServer, pg_database: str, kind: str, first: str, second: str, third: str
) -> None:
    run(
        pg,
        pg_database,
        f"CREATE TABLE t (id integer PRIMARY KEY, c {kind})",
        f"INSERT INTO t VALUES (1, {first}), (2, {second})",
    )
    table = retl.Table("t", cursor="c")
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec(table))
        assert sorted(row[0] for row in await rows_of(source, plan)) == ["1", "2"]
        assert plan.window is not None
        seen = retl.model.checkpoint.Checkpoint(cursor="c", cursor_type=plan.cursor_type, watermark=plan.window.upper)
        await source.leave()
        run(pg, pg_database, f"INSERT INTO t VALUES (3, {third})")
        plan = await source.plan(spec(table), seen)
        assert sorted(row[0] for row in await rows_of(source, plan)) == ["2", "3"]


@pytest.mark.parametrize(
    "kind", ['text COLLATE "en-x-icu"', "char(5)", "interval", "time", "boolean", "jsonb", "citext"]
)
async def test_a_cursor_that_does_not_order_change_is_refused(pg: PostgresServer, pg_database: str, kind: str) -> None:
    if "icu" in kind and not pg.query("SELECT 1 FROM pg_collation WHERE collname = 'en-x-icu'"):
        pytest.skip("this server was built without ICU")
    run(pg, pg_database, "CREATE EXTENSION IF NOT EXISTS citext", f"CREATE TABLE t (id integer PRIMARY KEY, c {kind})")
    with pytest.raises(ConfigError, match="does not order change"):
        await planned(pg, pg_database, retl.Table("t", cursor="c"))


@pytest.mark.parametrize(
    ("kind", "value"), [("timestamp", "infinity"), ("date", "infinity"), ("timestamptz", "infinity")]
)
async def test_an_infinite_cursor_never_becomes_a_watermark(
    pg: PostgresServer, pg_database: str, kind: str, value: str
) -> None:
    run(
        pg,
        pg_database,
        f"CREATE TABLE t (id integer PRIMARY KEY, c {kind})",
        f"INSERT INTO t VALUES (1, '2024-01-01'), (2, '{value}'), (3, '-infinity')",
    )
    with pytest.raises(SourceError, match="no change could be found") as failed:
        await planned(pg, pg_database, retl.Table("t", cursor="c"))
    assert "c < 'infinity'" in failed.value.remedy
    table = retl.Table("t", cursor="c", where="c < 'infinity'")
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec(table))
        assert sorted(row[0] for row in await rows_of(source, plan)) == ["1", "3"]


async def test_a_numeric_that_is_no_number_never_becomes_a_watermark(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg, pg_database, "CREATE TABLE t (id integer PRIMARY KEY, c numeric)", "INSERT INTO t VALUES (1, 1), (2, 'NaN')"
    )
    with pytest.raises(SourceError, match="'NaN' is not a number"):
        await planned(pg, pg_database, retl.Table("t", cursor="c"))


async def test_settle_asks_the_clock_of_the_source_in_its_zone(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE t (id integer PRIMARY KEY, c timestamp)",
        "INSERT INTO t SELECT i, now() AT TIME ZONE 'Asia/Shanghai' - make_interval(mins => i) FROM generate_series(1, 4) AS i",
    )
    table = retl.Table("t", cursor="c", settle="150s")
    async with opened(pg, pg_database, timezone="Asia/Shanghai") as source:
        plan = await source.plan(spec(table))
        assert sorted(row[0] for row in await rows_of(source, plan)) == ["3", "4"]


async def test_a_cursor_with_a_zone_settles_whatever_the_zone_of_the_server_is(
    pg: PostgresServer, pg_database: str
) -> None:
    run(
        pg,
        pg_database,
        f"ALTER DATABASE {pg_database} SET TimeZone = 'America/New_York'",
        "CREATE TABLE t (id integer PRIMARY KEY, c timestamptz)",
        "INSERT INTO t SELECT i, now() - make_interval(mins => i) FROM generate_series(1, 4) AS i",
    )
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec(retl.Table("t", cursor="c", settle="150s")))
        assert sorted(row[0] for row in await rows_of(source, plan)) == ["3", "4"]


async def test_the_hour_that_comes_twice_at_the_server_is_warned_of(pg: PostgresServer, pg_database: str) -> None:
    run(
        pg,
        pg_database,
        f"ALTER DATABASE {pg_database} SET TimeZone = 'America/New_York'",
        "CREATE TABLE t (id integer PRIMARY KEY, c timestamp)",
        "INSERT INTO t VALUES (1, '2024-01-01')",
    )
    (warning,) = (await planned(pg, pg_database, retl.Table("t", cursor="c"))).warnings
    assert "put back by 60 minutes" in warning
    assert (await planned(pg, pg_database, retl.Table("t", cursor="c", lookback="1h"))).warnings == ()


async def test_settings_of_the_role_and_the_database_change_nothing(pg: PostgresServer, pg_database: str) -> None:
    odd = {
        "DateStyle": "'SQL, DMY'", "IntervalStyle": "'sql_standard'", "bytea_output": "'escape'", "extra_float_digits": "'-15'",
        "search_path": "''", "standard_conforming_strings": "off", "TimeZone": "'Asia/Tokyo'", "client_encoding": "'LATIN1'",
        "default_transaction_isolation": "'read committed'", "idle_in_transaction_session_timeout": "'50ms'",
        "transform_null_equals": "on", "array_nulls": "off", "lc_monetary": "'C.UTF-8'",
    }  # fmt: skip
    run(
        pg,
        pg_database,
        "CREATE TABLE t AS SELECT 1 AS id, '2024-02-03 04:05:06+00'::timestamptz AS at, '\\xff'::bytea AS b, 0.1::float8 AS f, "
        "'1 mon'::interval AS i, E'\\\\漢'::text AS v",
        *(f"ALTER DATABASE {pg_database} SET {name} = {value}" for name, value in odd.items()),
    )
    pg.query(f"ALTER ROLE \"{pg.as_reader(pg_database).user}\" SET statement_timeout = '200ms'")
    with closing(pg.connect(pg_database)) as connection:
        assert rows_by(connection, "SHOW bytea_output") == [("escape",)]
    table = retl.Table("t", key="id", where="v = '\\漢'", expressions={"slow": "CAST(pg_sleep(0.4) AS text)"})
    async with opened(pg, pg_database) as source:
        plan = await source.plan(spec(table))
        await asyncio.sleep(0.1)  # longer than a transaction of the database may be idle
        assert await rows_of(source, plan) == [("1", "2024-02-03 04:05:06.000000Z", b"\xff", 0.1, "1 mon", "\\漢", "")]
