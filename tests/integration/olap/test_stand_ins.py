"""The stand-ins for StarRocks and Doris, looked at through aiomysql alone: what a client of the real ones would see."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiomysql
import pymysql
import pytest
from pymysql.constants import ER

from tests.servers.database import Server
from tests.servers.fake_olap import FakeDoris, FakeOlap, FakeStarRocks, Fault, VolumeServer, flavour

STARROCKS_TABLE = """
CREATE TABLE every (
    id BIGINT NOT NULL COMMENT 'the key', flag BOOLEAN, tiny TINYINT, small SMALLINT, whole INT, large LARGEINT,
    money DECIMAL(38, 9), single FLOAT, twice DOUBLE, fixed CHAR(5), text VARCHAR(20), long STRING, day DATE, moment DATETIME,
    doc JSON, tags ARRAY<STRING>, pairs MAP<VARCHAR(10), INT>, inner STRUCT<x INT, y VARCHAR(9)>, raw VARBINARY
) ENGINE=OLAP PRIMARY KEY (id) COMMENT "all of them" DISTRIBUTED BY HASH(id) BUCKETS 2 PROPERTIES ("replication_num" = "1")
"""
DORIS_TABLE = """
CREATE TABLE every (
    id BIGINT NOT NULL, flag BOOLEAN, tiny TINYINT, small SMALLINT, whole INT, large LARGEINT, money DECIMAL(38, 9),
    single FLOAT, twice DOUBLE, fixed CHAR(5), text VARCHAR(20), long STRING, day DATE, second DATETIME, milli DATETIME(3),
    micro DATETIME(6), doc JSON, free VARIANT, tags ARRAY<STRING>, pairs MAP<STRING, INT>, inner STRUCT<x: INT, y: VARCHAR(9)>,
    address IPV4
) UNIQUE KEY (id) DISTRIBUTED BY HASH(id) BUCKETS 2 PROPERTIES ("replication_num" = "1")
"""
DAYS = """
CREATE TABLE days (id BIGINT, day DATE, note VARCHAR(20)) DUPLICATE KEY (id)
PARTITION BY RANGE (day) (PARTITION jan VALUES LESS THAN ("2024-02-01"), PARTITION feb VALUES LESS THAN ("2024-03-01"))
DISTRIBUTED BY HASH(id) BUCKETS 2 PROPERTIES ("replication_num" = "1")
"""


@pytest.fixture(scope="module")
def starrocks() -> Iterator[FakeStarRocks]:
    with FakeStarRocks() as server:
        yield server


@pytest.fixture(scope="module")
def doris() -> Iterator[FakeDoris]:
    with FakeDoris() as server:
        yield server


@pytest.fixture(params=["starrocks", "doris"])
def olap(request: pytest.FixtureRequest) -> FakeOlap:
    found: FakeOlap = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(olap: FakeOlap) -> Iterator[str]:
    with olap.fresh_database() as name:
        yield name


@asynccontextmanager
async def client(server: Server, database: str | None = None, **words: Any) -> AsyncIterator[aiomysql.Connection]:
    """A connection whose values stay as the wire had them."""
    given = {"user": server.user, "password": server.password, "autocommit": None, "conv": {}, **words}
    connection = await aiomysql.connect(host=server.host, port=server.port, db=database, **given)
    try:
        yield connection
    finally:
        connection.close()


async def ask(connection: aiomysql.Connection, sql: str) -> list[tuple[Any, ...]]:
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        return list(await cursor.fetchall())


async def refused(connection: aiomysql.Connection, sql: str) -> tuple[int, str]:
    """The code of the error, and its message."""
    with pytest.raises(pymysql.MySQLError) as caught:
        await ask(connection, sql)
    code, message = caught.value.args
    return code, message


async def definitions(connection: aiomysql.Connection, sql: str) -> dict[str, tuple[int, int, int, int]]:
    """Type code, charset, length and decimals of each column."""
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        fields = cursor._result.fields
    return {field.name: (field.type_code, field.charsetnr, field.length, field.scale) for field in fields}


# Handshake and login


async def test_each_says_who_it_is(starrocks: FakeStarRocks, doris: FakeDoris) -> None:
    async with client(starrocks) as connection:
        assert connection.server_version == "8.0.33"
        assert await ask(connection, "SELECT @@version_comment, current_version(), version()") == [
            ("StarRocks version 3.5.2-8cfd2ad", "3.5.2-8cfd2ad", "8.0.33")
        ]
        assert connection.server_language == 33
    async with client(doris) as connection:
        assert connection.server_version == "5.7.99"
        assert await ask(connection, "SELECT @@version_comment") == [("Doris version doris-3.0.6-rc01-5b4e0a5e7b",)]
        assert (await refused(connection, "SELECT current_version()"))[0] == 1105


async def test_an_old_version_and_a_clear_password() -> None:
    with FakeStarRocks(version="5.1.0", clear_password=True) as server:
        async with client(server) as connection:
            assert connection.server_version == "5.1.0"
            assert await ask(connection, "SELECT 1") == [("1",)]
        with pytest.raises(pymysql.MySQLError) as caught:
            async with client(server, password="wrong"):
                pass
        assert caught.value.args[0] == ER.ACCESS_DENIED_ERROR


@pytest.mark.parametrize("words", [{"password": "wrong"}, {"password": ""}, {"user": "nobody"}])
async def test_a_wrong_login_is_refused(olap: FakeOlap, words: dict[str, str]) -> None:
    with pytest.raises(pymysql.MySQLError) as caught:
        async with client(olap, **words):
            pass
    user = words.get("user", olap.user)
    assert caught.value.args == (1045, f"Access denied for user '{user}' (using password: YES)")


async def test_an_unknown_database_is_refused_at_login(olap: FakeOlap) -> None:
    with pytest.raises(pymysql.MySQLError, match="Unknown database 'nowhere'"):
        async with client(olap, "nowhere"):
            pass


# Types


async def test_starrocks_types_at_their_extremes(starrocks: FakeStarRocks) -> None:
    largest, smallest = 2**127 - 1, -(2**127)
    most = [
        2**63 - 1,
        True,
        127,
        32767,
        2**31 - 1,
        largest,
        Decimal("9" * 29 + ".999999999"),
        3.4e38,
        1.7976931348623157e308,
    ]
    least = [-(2**63), False, -128, -32768, -(2**31), smallest, Decimal("-0.000000001"), 1.5, -0.1]
    rows: list[list[Any]] = [
        [
            *(
                *most,
                "äöü",
                'it\'s \\ "x"',
                "NULL 😀\n",
                "9999-12-31",
                "9999-12-31 23:59:59.999999",
                '{"a":[1,null,"é"]}',
            ),
            *(['"', "\\", None], {"k": 1, "l": None}, (1, 'q"'), bytes(range(256))),
        ],
        [*least, "", "", "", "0001-01-01", "0001-01-01 00:00:00", "[]", [], {}, (None, ""), b""],
        [0, *[None] * 18],
    ]
    with starrocks.fresh_database() as database:
        starrocks.query(STARROCKS_TABLE, database=database)
        starrocks.insert("every", rows, database)
        async with client(starrocks, database) as connection:
            found = await ask(connection, "SELECT * FROM every ORDER BY id DESC")
            wire = await definitions(connection, "SELECT * FROM every")
    assert found[0] == (
        *("9223372036854775807", "1", "127", "32767", "2147483647", str(largest), "9" * 29 + ".999999999"),
        *("3.4e+38", "1.7976931348623157e+308", "äöü", 'it\'s \\ "x"', "NULL 😀\n"),
        *("9999-12-31", "9999-12-31 23:59:59.999999", '{"a": [1, null, "é"]}'),
        *('["\\"","\\\\",null]', '{"k":1,"l":null}', '{"x":1,"y":"q\\""}', bytes(range(256))),
    )
    assert found[1] == ("0", *[None] * 18)
    assert found[2] == (
        *("-9223372036854775808", "0", "-128", "-32768", "-2147483648", str(smallest), "-0.000000001", "1.5", "-0.1"),
        *("", "", "", "0001-01-01", "0001-01-01 00:00:00", "[]", "[]", "{}", '{"x":null,"y":""}', b""),
    )
    assert wire == {
        "id": (8, 63, 20, 0),
        "flag": (1, 63, 1, 0),
        "tiny": (1, 63, 4, 0),
        "small": (2, 63, 6, 0),
        "whole": (3, 63, 11, 0),
        "large": (254, 33, 40, 0),
        "money": (246, 63, 42, 9),
        "single": (4, 63, 12, 31),
        "twice": (5, 63, 22, 31),
        "fixed": (254, 33, 15, 0),
        "text": (253, 33, 60, 0),
        "long": (253, 33, 196599, 0),
        "day": (10, 63, 10, 0),
        "moment": (12, 63, 19, 0),
        "doc": (254, 33, 60, 0),
        "tags": (253, 33, 60, 0),
        "pairs": (253, 33, 60, 0),
        "inner": (253, 33, 60, 0),
        "raw": (252, 63, 192, 0),
    }


async def test_doris_types_at_their_extremes(doris: FakeDoris) -> None:
    row: list[Any] = [1, True, -128, -32768, -(2**31), -(2**127), Decimal("9" * 29 + ".999999999"), 0.1, 1e-7]
    row += [
        "äöü",
        "it's",
        "😀",
        "2024-02-29",
        "2024-01-01 23:59:59.5",
        "2024-01-01 00:00:00.0005",
        "2024-01-01 00:00:00.1",
    ]
    row += ['{"a": 1}', '{"b": [1, 2]}', ["a", None], {"k": 1}, (1, "z"), "10.0.0.1"]
    with doris.fresh_database() as database:
        doris.query(DORIS_TABLE, database=database)
        doris.insert("every", [row, [2, *[None] * 21]], database)
        async with client(doris, database) as connection:
            found = await ask(connection, "SELECT * FROM every ORDER BY id")
            wire = await definitions(connection, "SELECT * FROM every")
    assert found == [
        (
            *("1", "1", "-128", "-32768", "-2147483648", str(-(2**127)), "9" * 29 + ".999999999", "0.1", "1e-07"),
            # STRING is a BLOB whose charset says that it is text.
            *("äöü", "it's", "😀", "2024-02-29"),
            # What has more digits than the column is rounded up: into the future, if need be.
            *("2024-01-02 00:00:00", "2024-01-01 00:00:00.001", "2024-01-01 00:00:00.100000"),
            *('{"a":1}', '{"b":[1,2]}', '["a", null]', '{"k":1}', '{"x":1, "y":"z"}', "10.0.0.1"),
        ),
        ("2", *[None] * 21),
    ]
    codes = {name: (code, charset, decimals) for name, (code, charset, _, decimals) in wire.items()}
    assert codes["flag"] == (1, 63, 0) and wire["flag"][2] == 1
    assert codes["large"] == (254, 33, 0)
    assert codes["money"] == (246, 63, 9)
    assert codes["long"] == (252, 33, 0)
    assert [codes[name] for name in ("second", "milli", "micro")] == [(12, 63, 0), (12, 63, 3), (12, 63, 6)]
    assert codes["doc"] == codes["free"] == (245, 33, 0)
    # 400 in its source, of which one byte arrives.
    assert codes["pairs"] == (144, 33, 0)
    assert codes["tags"] == codes["inner"] == codes["address"] == codes["text"] == (254, 33, 0)


async def test_sketches_are_null_until_they_are_asked(starrocks: FakeStarRocks) -> None:
    with starrocks.fresh_database() as database:
        starrocks.query(
            "CREATE TABLE s (k INT, b BITMAP BITMAP_UNION, h HLL HLL_UNION, n BIGINT SUM, r INT REPLACE) AGGREGATE KEY (k) "
            "DISTRIBUTED BY HASH(k)",
            database=database,
        )
        starrocks.query("INSERT INTO s VALUES (1, bitmap_from_string('1,5'), hll_hash('x'), 10, 1)", database=database)
        starrocks.query("INSERT INTO s VALUES (1, bitmap_from_string('7'), hll_hash('y'), 5, NULL)", database=database)
        async with client(starrocks, database) as connection:
            assert await ask(connection, "SELECT k, b, h, n, r FROM s") == [("1", None, None, "15", None)]
            assert await ask(connection, "SELECT bitmap_to_string(b) FROM s") == [("7",)]
            assert (await definitions(connection, "SELECT b FROM s"))["b"][:2] == (254, 33)


# Key models


async def test_a_key_replaces_and_duplicates_stay(olap: FakeOlap, database: str) -> None:
    model = "UNIQUE" if olap.flavour.doris else "PRIMARY"
    olap.query(f"CREATE TABLE k (id INT, v INT) {model} KEY (id) DISTRIBUTED BY HASH(id)", database=database)
    olap.query("CREATE TABLE d (id INT, v INT) DUPLICATE KEY (id) DISTRIBUTED BY HASH(id)", database=database)
    for table in ("k", "d"):
        olap.insert(table, [[1, 1], [2, 1], [1, 2]], database)
        olap.insert(table, [[2, 3]], database)
    olap.query("UPDATE k SET v = 9 WHERE id = 1", database=database)
    olap.query("DELETE FROM d WHERE v = 3", database=database)
    async with client(olap, database) as connection:
        assert await ask(connection, "SELECT id, v FROM k ORDER BY id") == [("1", "9"), ("2", "3")]
        assert await ask(connection, "SELECT id, v FROM d ORDER BY id, v") == [("1", "1"), ("1", "2"), ("2", "1")]
        assert "update" in (await refused(connection, "UPDATE d SET v = 1 WHERE id = 1"))[1]


# The dialect


async def test_windows_and_aggregates(olap: FakeOlap, database: str) -> None:
    olap.query(
        "CREATE TABLE w (id INT, at DATETIME(6)) DUPLICATE KEY (id) DISTRIBUTED BY HASH(id)".replace(
            "DATETIME(6)", "DATETIME(6)" if olap.flavour.doris else "DATETIME"
        ),
        database=database,
    )
    olap.insert("w", [[n, f"2024-01-01 00:00:00.{n:06}"] for n in range(10)] + [[10, None]], database)
    async with client(olap, database) as connection:
        assert await ask(connection, "SELECT MAX(at) AS m, COUNT(*), COUNT(at), MIN(id) FROM w") == [
            ("2024-01-01 00:00:00.000009", "11", "10", "0")
        ]
        assert (await definitions(connection, "SELECT MAX(at) AS m FROM w"))["m"][0] == 12
        window = "at >= '2024-01-01 00:00:00.000003' AND at <= '2024-01-01 00:00:00.000005'"
        assert await ask(connection, f"SELECT id, CAST(at AS VARCHAR) FROM w WHERE {window}") == [
            (str(n), f"2024-01-01 00:00:00.{n:06}") for n in (3, 4, 5)
        ]
        assert await ask(connection, "SELECT id DIV 4 AS part, COUNT(*) FROM w GROUP BY id DIV 4 ORDER BY part") == [
            ("0", "4"),
            ("1", "4"),
            ("2", "3"),
        ]
        text = "SELECT date_format(at, '%Y-%m-%d %H:%i:%s.%f'), unix_timestamp(at), to_days(at), datediff(at, '2023-12-31')"
        assert await ask(connection, f"{text} FROM w WHERE id = 7") == [
            ("2024-01-01 00:00:00.000007", "1704067200", "739251", "1")
        ]
        counted = "SELECT crc32('123456789'), timestampdiff(SECOND, '2024-01-01 00:00:00.9', '2024-01-01 00:00:02')"
        assert await ask(connection, counted) == [("3421780262", "1")]


async def test_only_doris_counts_microseconds(starrocks: FakeStarRocks, doris: FakeDoris) -> None:
    sql = "SELECT microseconds_diff('2024-01-01 00:00:00.000005', '2024-01-01')"
    async with client(doris) as connection:
        assert await ask(connection, sql) == [("5",)]
    async with client(starrocks) as connection:
        assert (await refused(connection, sql))[0] == 1064
        assert await ask(connection, "SELECT milliseconds_diff('2024-01-01 00:00:00.005', '2024-01-01')") == [("5",)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT 1 FROM",
        "SELECT a::int FROM t",
        "SELECT * FROM t WHERE a ILIKE 'x'",
        "SELECT DISTINCT ON (a) a FROM t",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x (a SERIAL) DUPLICATE KEY (a) DISTRIBUTED BY HASH(a)",
        "CREATE TABLE x (a INT) ENGINE=OLAP WITHOUT ROWID",
        "SHOW PARTITIONS t",
        "COPY t TO 'x'",
    ],
)
async def test_what_the_real_one_would_not_parse_fails(olap: FakeOlap, database: str, sql: str) -> None:
    async with client(olap, database) as connection:
        code, message = await refused(connection, sql)
        assert code == (1105 if olap.flavour.doris else 1064)
        assert re.search("mismatched input|Getting syntax error at line 1, column", message)
        assert await ask(connection, "SELECT 1") == [("1",)]


async def test_what_is_not_there_is_refused(olap: FakeOlap, database: str) -> None:
    doris = olap.flavour.doris
    olap.query(DAYS, database=database)
    async with client(olap, database) as connection:
        assert await refused(connection, "SELECT * FROM nope") == (
            (1105, f"errCode = 2, detailMessage = Table [nope] does not exist in database [{database}].")
            if doris
            else (5502, f"Getting analyzing error. Detail message: Unknown table '{database}.nope'.")
        )
        assert await refused(connection, "SELECT nope FROM days") == (
            (1105, "errCode = 2, detailMessage = Unknown column 'nope' in 'table list'")
            if doris
            else (1064, "Getting analyzing error. Detail message: Column 'nope' cannot be resolved.")
        )
        assert (await refused(connection, "SELECT id FROM days PARTITION (mar)"))[0] == (1105 if doris else 1735)
        assert (await refused(connection, "SELECT frobnicate(id) FROM days"))[0] == (1105 if doris else 1064)


# Session variables


async def test_variables(olap: FakeOlap) -> None:
    async with client(olap) as connection:
        default = "900" if olap.flavour.doris else "300"
        assert await ask(connection, "SELECT @@query_timeout, @@sql_select_limit") == [(default, "9223372036854775807")]
        await ask(connection, "SET query_timeout = 3600, time_zone = '+08:00'")
        await ask(connection, "SET @@session.sql_select_limit = 2")
        assert await ask(connection, "SELECT @@session.query_timeout, @@time_zone, from_unixtime(0)") == [
            ("3600", "+08:00", "1970-01-01 08:00:00")
        ]
        assert await ask(connection, "SHOW VARIABLES LIKE 'query_timeout'") == [("query_timeout", "3600")]
        assert (await refused(connection, "SET frobnicate = 1"))[0] == 1193
        assert (await refused(connection, "SELECT @@frobnicate"))[0] == 1193
        assert (await refused(connection, "SET query_timeout = 0"))[0] == 1231
        assert (await refused(connection, "SET time_zone = 'Nowhere/At_all'"))[0] == 1298
        own, others = (
            ("session_context", "custom_query_id") if olap.flavour.doris else ("custom_query_id", "session_context")
        )
        await ask(connection, f"SET {own} = 'x'")
        assert (await refused(connection, f"SET {others} = 'x'"))[0] == 1193
    async with client(olap) as connection:
        assert await ask(connection, "SELECT @@query_timeout") == [(default,)]


async def test_sql_select_limit_cuts_what_has_no_limit(olap: FakeOlap, database: str) -> None:
    olap.query("CREATE TABLE n (id INT) DUPLICATE KEY (id) DISTRIBUTED BY HASH(id)", database=database)
    olap.insert("n", [[n] for n in range(5)], database)
    async with client(olap, database) as connection:
        await ask(connection, "SET sql_select_limit = 2")
        assert await ask(connection, "SELECT id FROM n ORDER BY id") == [("0",), ("1",)]
        assert await ask(connection, "SELECT id FROM n ORDER BY id LIMIT 3") == [("0",), ("1",), ("2",)]


# The catalog


async def test_columns_as_information_schema_tells_them(olap: FakeOlap, database: str) -> None:
    olap.query(DORIS_TABLE if olap.flavour.doris else STARROCKS_TABLE, database=database)
    sql = (
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, COLUMN_KEY, IS_NULLABLE, NUMERIC_PRECISION, NUMERIC_SCALE, "
        f"DATETIME_PRECISION FROM information_schema.columns WHERE TABLE_SCHEMA = '{database}' AND TABLE_NAME = 'every' "
        "ORDER BY ORDINAL_POSITION"
    )
    async with client(olap) as connection:
        found = {row[0]: row[1:] for row in await ask(connection, sql)}
    assert found["id"] == ("bigint", "bigint(20)", "UNI" if olap.flavour.doris else "PRI", "NO", "19", "0", None)
    assert found["money"] == ("decimal", "decimal(38,9)", "", "YES", "38", "9", None)
    assert found["large"] == ("bigint unsigned", "largeint", "", "YES", "39", "0", None)
    if olap.flavour.doris:
        assert found["milli"] == ("datetime", "datetime(3)", "", "YES", None, None, "3")
        assert found["free"][:2] == ("variant", "variant")
    else:
        assert found["long"][:2] == ("varchar", "varchar(65533)")
        assert found["pairs"][:2] == ("map", "map<varchar(10),int>")


async def test_key_models_as_starrocks_tells_them(starrocks: FakeStarRocks) -> None:
    with starrocks.fresh_database() as database:
        for model in ("PRIMARY", "UNIQUE", "DUPLICATE", "AGGREGATE"):
            value = "v INT SUM" if model == "AGGREGATE" else "v INT"
            starrocks.query(
                f"CREATE TABLE {model.lower()} (a INT, b INT, {value}) {model} KEY (a, b) DISTRIBUTED BY HASH(a)",
                database=database,
            )
        async with client(starrocks, database) as connection:
            assert await ask(
                connection,
                "SELECT TABLE_NAME, TABLE_MODEL, PRIMARY_KEY, DISTRIBUTE_KEY FROM information_schema.tables_config "
                f"WHERE TABLE_SCHEMA = '{database}' ORDER BY TABLE_NAME",
            ) == [
                ("aggregate", "AGG_KEYS", "", "`a`"),
                ("duplicate", "DUP_KEYS", "", "`a`"),
                ("primary", "PRI_KEYS", "`a`, `b`", "`a`"),
                ("unique", "UNQ_KEYS", "`a`, `b`", "`a`"),
            ]
            assert await ask(connection, "SHOW TABLES LIKE '%i%a%'") == [("duplicate",), ("primary",)]


async def test_doris_has_no_such_tables(doris: FakeDoris) -> None:
    async with client(doris) as connection:
        assert (await refused(connection, "SELECT * FROM information_schema.tables_config"))[0] == 1105
        assert (await refused(connection, "SELECT * FROM information_schema.partitions_meta"))[0] == 1105


async def versions(server: FakeOlap, connection: aiomysql.Connection) -> dict[str, str]:
    """The visible versions, as each system tells them."""
    async with connection.cursor(aiomysql.DictCursor) as cursor:
        await cursor.execute("SHOW PARTITIONS FROM days")
        return {row["PartitionName"]: row["VisibleVersion"] for row in await cursor.fetchall()}


async def test_partitions_and_their_versions(olap: FakeOlap, database: str) -> None:
    olap.query(DAYS, database=database)
    async with client(olap, database) as connection:
        assert await versions(olap, connection) == {"jan": "1", "feb": "1"}
        olap.insert("days", [[1, "2024-01-05", "a"], [2, "2024-02-05", "b"], [3, None, "c"]], database)
        assert await versions(olap, connection) == {"jan": "2", "feb": "2"}
        olap.query("DELETE FROM days WHERE id = 2", database=database)
        olap.insert("days", [[4, "2024-02-06", "d"]], database)
        assert await versions(olap, connection) == {"jan": "2", "feb": "4"}
        assert olap.version_of(database, "days", "feb") == 4
        # Rows without a day lie in the lowest partition.
        assert await ask(connection, "SELECT id, note FROM days PARTITION (jan) ORDER BY id") == [
            ("1", "a"),
            ("3", "c"),
        ]
        assert await ask(connection, f"SELECT x.id FROM {database}.days PARTITION (jan, feb) AS x WHERE x.id > 1") == [
            ("3",),
            ("4",),
        ]
        with pytest.raises(pymysql.MySQLError, match="filtered data"):
            olap.insert("days", [[5, "2025-01-01", "e"]], database)


async def test_starrocks_tells_versions_in_a_table(starrocks: FakeStarRocks) -> None:
    with starrocks.fresh_database() as database:
        starrocks.query(
            "CREATE TABLE d (id INT, day DATETIME) PRIMARY KEY (id, day) PARTITION BY date_trunc('day', day) "
            "DISTRIBUTED BY HASH(id) BUCKETS 3",
            database=database,
        )
        starrocks.insert("d", [[1, "2024-01-01 10:00:00"], [2, "2024-01-03 10:00:00"]], database)
        starrocks.insert("d", [[3, "2024-01-03 11:00:00"]], database)
        async with client(starrocks) as connection:
            assert await ask(
                connection,
                "SELECT PARTITION_NAME, VISIBLE_VERSION, PARTITION_KEY, ROW_COUNT, BUCKETS, IS_TEMP "
                f"FROM information_schema.partitions_meta WHERE DB_NAME = '{database}' AND TABLE_NAME = 'd' ORDER BY 1",
            ) == [("p20240101", "2", "day", "1", "3", "0"), ("p20240103", "3", "day", "2", "3", "0")]


async def test_tablets_are_parts_of_a_table(olap: FakeOlap, database: str) -> None:
    olap.query(DAYS, database=database)
    olap.insert("days", [[n, "2024-01-05", "x"] for n in range(50)], database)
    show = "SHOW TABLETS FROM days" if olap.flavour.doris else "SHOW TABLET FROM days"
    async with client(olap, database) as connection:
        tablets = [row[0] for row in await ask(connection, f"{show} PARTITION (jan)")]
        assert len(tablets) == 2
        parts = [
            {row[0] for row in await ask(connection, f"SELECT id FROM days TABLET ({tablet})")} for tablet in tablets
        ]
        assert all(parts) and parts[0].isdisjoint(parts[1])
        assert parts[0] | parts[1] == {str(n) for n in range(50)}


# Faults


@pytest.fixture
def numbers(olap: FakeOlap, database: str) -> str:
    """A table of 5,000 numbers."""
    olap.query("CREATE TABLE n (id INT) DUPLICATE KEY (id) DISTRIBUTED BY HASH(id)", database=database)
    source = "numbers('number' = '5000')" if olap.flavour.doris else "TABLE(generate_series(0, 4999))"
    column = "number" if olap.flavour.doris else "generate_series"
    olap.query(f"INSERT INTO n SELECT {column} FROM {source}", database=database)
    return database


async def streamed(connection: aiomysql.Connection, sql: str) -> tuple[list[int], Exception | None]:
    """The rows that came, and the error that ended them."""
    rows: list[int] = []
    cursor = await connection.cursor(aiomysql.SSCursor)
    try:
        await cursor.execute(sql)
        while row := await cursor.fetchone():
            rows.append(int(row[0]))
    except (pymysql.MySQLError, OSError) as error:
        return rows, error
    await cursor.close()
    return rows, None


async def test_a_backend_is_lost_in_the_middle_of_a_result(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(error=olap.errors.backend_lost(), after_rows=1234, on="FROM n"))
    async with client(olap, numbers) as connection:
        assert await ask(connection, "SELECT 1") == [("1",)]
        rows, error = await streamed(connection, "SELECT id FROM n")
        assert rows == list(range(1234))
        assert error and error.args[0] == (1105 if olap.flavour.doris else 5077)
        # Once; and the connection is as good as before.
        assert await streamed(connection, "SELECT id FROM n") == (list(range(5000)), None)


async def test_the_line_is_cut_in_the_middle_of_a_result(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(cut=True, after_rows=100))
    async with client(olap, numbers) as connection:
        rows, error = await streamed(connection, "SELECT id FROM n")
        assert rows == list(range(100))
        assert isinstance(error, (pymysql.OperationalError, ConnectionError))


async def test_a_query_waits_too_long_in_the_queue(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(error=olap.errors.queue_timeout(300)))
    async with client(olap, numbers) as connection:
        code, message = await refused(connection, "SELECT id FROM n")
        assert code == (1105 if olap.flavour.doris else 1064)
        assert "queue timeout" in message or "pending timeout [300]" in message


async def test_query_timeout_counts_until_the_last_row(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(hold=True, after_rows=10))
    async with client(olap, numbers) as connection:
        await ask(connection, "SET query_timeout = 1")
        rows, error = await streamed(connection, "SELECT id FROM n")
        assert rows == list(range(10))
        assert error and error.args[0] == (1105 if olap.flavour.doris else 5024)
        assert re.search("(?i)timeout", error.args[1])


async def test_a_table_may_not_be_read(olap: FakeOlap, numbers: str) -> None:
    olap.denied.add("n")
    try:
        async with client(olap, numbers) as connection:
            code, message = await refused(connection, "SELECT id FROM n")
            assert code == (1142 if olap.flavour.doris else 5203) and "denied" in message
    finally:
        olap.denied.clear()


@pytest.mark.parametrize("by", ["number", "name"])
async def test_kill_query_ends_a_running_result(olap: FakeOlap, numbers: str, by: str) -> None:
    fault = olap.inject(Fault(hold=True, after_rows=10, on="FROM n"))
    async with client(olap, numbers) as connection, client(olap) as killer:
        await ask(
            connection,
            "SET session_context = 'trace_id:mine'" if olap.flavour.doris else "SET custom_query_id = 'mine'",
        )
        running = asyncio.create_task(streamed(connection, "SELECT id FROM n"))
        assert await asyncio.to_thread(fault.reached.wait, 10)
        await ask(killer, f"KILL QUERY {connection.thread_id()}" if by == "number" else "KILL QUERY 'mine'")
        rows, error = await asyncio.wait_for(running, 10)
        assert rows == list(range(10))
        assert error and re.search("(?i)cancel", error.args[1])
        assert await streamed(connection, "SELECT id FROM n") == (list(range(5000)), None)
        # What does not run can't be killed.
        assert (await refused(killer, "KILL QUERY 'mine'"))[0] == (1097 if olap.flavour.doris else 1365)
        assert (await refused(killer, "KILL QUERY 999999"))[0] == 1094


async def test_a_server_goes_and_comes_again(numbers: str, olap: FakeOlap) -> None:
    port = olap.port
    async with client(olap, numbers) as connection:
        olap.kill()
        with pytest.raises((pymysql.MySQLError, OSError)):
            await ask(connection, "SELECT 1")
        with pytest.raises(pymysql.MySQLError):
            async with client(olap, numbers):
                pass
    olap.start()
    assert olap.port == port
    async with client(olap, numbers) as connection:
        assert await ask(connection, "SELECT COUNT(*) FROM n") == [("5000",)]


async def test_statements_are_remembered_but_the_administrator_s(olap: FakeOlap, numbers: str) -> None:
    olap.forget()
    olap.query("SELECT 2")
    async with client(olap, numbers) as connection:
        await ask(connection, "SELECT 1")
        await refused(connection, "SELEC 1")
    assert olap.statements == ["SELECT 1", "SELEC 1"]


# Volume


@pytest.fixture
def volume(mariadb_server: Server) -> Iterator[VolumeServer]:
    with VolumeServer(mariadb_server, flavour.STARROCKS) as server:
        yield server


@pytest.fixture
def filled(volume: VolumeServer) -> Iterator[str]:
    """A table of 200,000 rows."""
    with volume.behind.fresh_database() as database:
        volume.query("CREATE TABLE n (id INT PRIMARY KEY, text VARCHAR(50), at DATETIME(6))", database=database)
        volume.query("INSERT INTO n SELECT seq, REPEAT('x', 50), '2024-01-01' FROM seq_0_to_199999", database=database)
        yield database


async def test_volume_speaks_as_starrocks(volume: VolumeServer, filled: str) -> None:
    async with client(volume, filled) as connection:
        assert connection.server_version == "8.0.33"
        await ask(connection, "SET query_timeout = 3600")
        await ask(connection, "SET query_timeout = 7200, time_zone = '+00:00'")
        assert await ask(
            connection, "SELECT @@version_comment AS c, current_version(), @@query_timeout, @@time_zone"
        ) == [("StarRocks version 3.5.2-8cfd2ad", "3.5.2-8cfd2ad", "7200", "+00:00")]
        assert [row[1] for row in await ask(connection, "SHOW PARTITIONS FROM n")] == ["n"]
        assert await ask(
            connection,
            "SELECT TABLE_NAME, TABLE_MODEL, PRIMARY_KEY FROM information_schema.tables_config "
            f"WHERE TABLE_SCHEMA = '{filled}'",
        ) == [("n", "PRI_KEYS", "`id`")]
        assert await ask(
            connection,
            f"SELECT m.PARTITION_NAME FROM information_schema.partitions_meta AS m WHERE m.DB_NAME = '{filled}'",
        ) == [("n",)]
        assert await ask(
            connection, "SELECT CAST(id AS VARCHAR) FROM n PARTITION (n) TABLET (1, 2) WHERE id IN (3, 5) ORDER BY id"
        ) == [("3",), ("5",)]


async def test_volume_relays_all_rows(volume: VolumeServer, filled: str) -> None:
    async with client(volume, filled) as connection:
        assert await streamed(connection, "SELECT id, text, at FROM n ORDER BY id") == (list(range(200_000)), None)


async def test_volume_cuts_the_line_once(volume: VolumeServer, filled: str) -> None:
    volume.cut_after(1_000_000)
    async with client(volume, filled) as connection:
        rows, error = await streamed(connection, "SELECT id, text FROM n ORDER BY id")
        assert isinstance(error, (pymysql.OperationalError, ConnectionError))
        assert 0 < len(rows) < 200_000 and rows == list(range(len(rows)))
    async with client(volume, filled) as connection:
        assert await streamed(connection, "SELECT id, text FROM n ORDER BY id") == (list(range(200_000)), None)


async def test_volume_kills_by_name(volume: VolumeServer, filled: str) -> None:
    async with client(volume, filled) as connection, client(volume, filled) as killer:
        await ask(connection, "SET custom_query_id = 'mine'")
        cursor = await connection.cursor(aiomysql.SSCursor)
        # More than the buffers on its way hold, so that it runs until somebody reads on.
        await cursor.execute("SELECT a.id, b.text FROM n a, n b")
        assert await cursor.fetchone() == ("0", "x" * 50)
        await ask(killer, "KILL QUERY 'mine'")
        with pytest.raises(pymysql.MySQLError) as caught:
            while await cursor.fetchone():
                pass
        assert caught.value.args[0] == ER.QUERY_INTERRUPTED
