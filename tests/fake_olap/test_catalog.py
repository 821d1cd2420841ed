"""What the stand-ins tell of their tables."""

from __future__ import annotations

import aiomysql
import pymysql
import pytest

from tests.fake_olap import FakeDoris, FakeOlap, FakeStarRocks
from tests.fake_olap.client import DAYS, DORIS_TABLE, STARROCKS_TABLE, ask, client, refused


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
