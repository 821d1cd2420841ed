"""What the stand-ins understand, refuse and replace, and their session variables."""

from __future__ import annotations

import re

import pytest

from tests.fake_olap import FakeDoris, FakeOlap, FakeStarRocks
from tests.fake_olap.client import DAYS, ask, client, definitions, refused


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
