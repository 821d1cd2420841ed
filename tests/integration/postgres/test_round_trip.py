"""PostgreSQL into each other system: every type, as it is declared there and as its values arrive."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

import retl
from retl.connectors import DuckDB, MySQL, PostgreSQL, SQLite
from tests.integration.postgres.reading import run
from tests.integration.postgres.test_source import MADE
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer

NAMES = {
    "small": "smallint", "whole": "integer", "big": "bigint", "number": "numeric", "price": "numeric(10,2)", "single": "real",
    "double": "double precision", "cash": "money", "ok": "boolean", "day": "date", "local": "timestamp", "moment": "timestamptz",
    "clock": "time", "note": "text", "name": "varchar(9)", "fixed": "char(3)", "raw": "bytea", "ident": "uuid", "doc": "jsonb",
    "list": "integer[]", "span": "int4range", "mood": "mood", "ago": "interval",
}  # fmt: skip
FIRST = (
    "-32768, 2147483647, 9223372036854775807, 12345678901234567890.000000000000000000001, -99999999.99, 3.5, 0.1, 12.34, true, "
    "'9999-12-31', '9999-12-31 23:59:59.999999', '2024-05-01 12:00:00.000001+08', '23:59:59.999999', E'a\\tb\\n\\\\漢🗼\"', "
    "'', 'ab', '\\x00ff5c0a', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\": [1, null, \"x\"]}', '{1,NULL}', '[1,5)', "
    "'so, so', '1 mon 2 days'"
)
TEXTS = ('a\tb\n\\漢🗼"', "", "ab ", b"\x00\xff\\\n", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
ODD = ("{1,NULL}", "[1,5)", "so, so", "1 mon 2 days")


@pytest.fixture
def source(pg: PostgresServer, pg_database: str) -> PostgreSQL:
    columns = ", ".join(f"{name} {kind}" for name, kind in NAMES.items())
    nulls = ", ".join(["NULL"] * len(NAMES))
    run(
        pg,
        pg_database,
        *MADE,
        f"CREATE TABLE t (id integer PRIMARY KEY, {columns})",
        f"INSERT INTO t VALUES (1, {FIRST}), (2, {nulls})",
    )
    return PostgreSQL(pg.as_reader(pg_database).url(pg_database))


async def copied(source: PostgreSQL, target: Any) -> None:
    job = retl.Pipeline("job", source=source, target=target, tables=[retl.Table("t")])
    async with job:
        await job.run_once()


async def test_into_sqlite(source: PostgreSQL, tmp_path: Path) -> None:
    await copied(source, SQLite(str(tmp_path / "t.db")))
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        one, two = connection.execute("SELECT * FROM t ORDER BY id").fetchall()
    numbers = (
        -32768,
        2147483647,
        9223372036854775807,
        "12345678901234567890.000000000000000000001",
        "-99999999.99",
        3.5,
        0.1,
        "12.34",
        1,
    )
    times = ("9999-12-31", "9999-12-31 23:59:59.999999", "2024-05-01 04:00:00.000001Z", "23:59:59.999999")
    assert one == (1, *numbers, *times, *TEXTS, '{"a": [1, null, "x"]}', *ODD)
    assert two == (2, *[None] * len(NAMES))


async def test_into_duckdb(source: PostgreSQL, tmp_path: Path) -> None:
    await copied(source, DuckDB(str(tmp_path / "t.duckdb")))
    with closing(duckdb.connect(str(tmp_path / "t.duckdb"))) as connection:
        types = [
            kind
            for (kind,) in connection.execute(
                "SELECT data_type FROM duckdb_columns() WHERE table_name = 't' ORDER BY column_index"
            ).fetchall()
        ]
        shown = ", ".join(name if name == "raw" else f"CAST({name} AS VARCHAR)" for name in NAMES)
        one, two = connection.execute(f"SELECT {shown} FROM t ORDER BY id").fetchall()
    assert types == [
        "INTEGER", "SMALLINT", "INTEGER", "BIGINT", "VARCHAR", "DECIMAL(10,2)", "FLOAT", "DOUBLE", "DECIMAL(19,2)", "BOOLEAN",
        "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIME", "VARCHAR", "VARCHAR", "VARCHAR", "BLOB", "UUID", "JSON",
        "VARCHAR", "VARCHAR", "VARCHAR", "VARCHAR",
    ]  # fmt: skip
    numbers = (
        "-32768",
        "2147483647",
        "9223372036854775807",
        "12345678901234567890.000000000000000000001",
        "-99999999.99",
        "3.5",
        "0.1",
        "12.34",
        "true",
    )
    times = ("9999-12-31", "9999-12-31 23:59:59.999999", "2024-05-01 04:00:00.000001+00", "23:59:59.999999")
    assert one == (*numbers, *times, *TEXTS, '{"a": [1, null, "x"]}', *ODD)
    assert two == (None,) * len(NAMES)


async def test_into_mysql(source: PostgreSQL, mysql_server: Server) -> None:
    with mysql_server.fresh_database() as database:
        await copied(source, MySQL(mysql_server.url(database)))
        types = [
            kind
            for (kind,) in mysql_server.query(
                "SELECT column_type FROM information_schema.columns WHERE table_schema = %s AND table_name = 't' ORDER BY ordinal_position",
                database,
            )
        ]
        shown = ", ".join(f"`{name}`" if name == "raw" else f"CAST(`{name}` AS CHAR)" for name in NAMES)
        one, two = mysql_server.query(f"SELECT {shown} FROM t ORDER BY id", database=database)
    assert types == [
        "int", "smallint", "int", "bigint", "longtext", "decimal(10,2)", "float", "double", "decimal(19,2)", "tinyint(1)",
        "date", "datetime(6)", "datetime(6)", "time(6)", "longtext", "varchar(9)", "varchar(3)", "longblob", "varchar(36)",
        "json", "longtext", "longtext", "longtext", "longtext",
    ]  # fmt: skip
    numbers = (
        "-32768",
        "2147483647",
        "9223372036854775807",
        "12345678901234567890.000000000000000000001",
        "-99999999.99",
        "3.5",
        "0.1",
        "12.34",
        "1",
    )
    times = ("9999-12-31", "9999-12-31 23:59:59.999999", "2024-05-01 04:00:00.000001", "23:59:59.999999")
    assert one == (*numbers, *times, *TEXTS, '{"a": [1, null, "x"]}', *ODD)
    assert two == (None,) * len(NAMES)


async def test_what_a_target_cannot_hold_is_rejected_and_nothing_else(
    pg: PostgresServer, pg_database: str, mysql_server: Server
) -> None:
    run(
        pg,
        pg_database,
        "CREATE TABLE t (id integer PRIMARY KEY, day date, moment timestamptz, price numeric(10,2), double float8)",
        "INSERT INTO t (id, day) VALUES (1, '2024-01-01'), (2, 'infinity'), (3, '0044-03-15 BC')",
        "INSERT INTO t (id, moment) VALUES (4, '2024-01-01 00:00+00'), (5, '-infinity'), (6, '20000-01-01 00:00+00')",
        "INSERT INTO t (id, price, double) VALUES (7, 1.5, 'NaN'), (8, 'NaN', 1), (9, 1.5, 'Infinity')",
    )
    reader = PostgreSQL(pg.as_reader(pg_database).url(pg_database))
    with mysql_server.fresh_database() as database:
        job = retl.Pipeline(
            "job", source=reader, target=MySQL(mysql_server.url(database)), tables=[retl.Table("t", max_rejects=10)]
        )
        async with job:
            await job.run_once()
        assert [number for (number,) in mysql_server.query("SELECT id FROM t ORDER BY id", database=database)] == [1, 4]


async def test_floats_keep_their_sign_and_what_is_no_number(
    source: PostgreSQL, pg: PostgresServer, pg_database: str, tmp_path: Path
) -> None:
    run(pg, pg_database, "INSERT INTO t (id, single, double) VALUES (3, '-0', '-0'), (4, 'Infinity', '-Infinity')")
    await copied(source, DuckDB(str(tmp_path / "t.duckdb")))
    with closing(duckdb.connect(str(tmp_path / "t.duckdb"))) as connection:
        zeros, ends = connection.execute("SELECT single, double FROM t WHERE id > 2 ORDER BY id").fetchall()
    assert [math.copysign(1, value) for value in zeros] == [-1, -1]
    assert ends == (math.inf, -math.inf)
