"""Tables, and a client that sees what the wire had, for the tests of the stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
import pymysql
import pytest

from tests.servers.database import Server

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
