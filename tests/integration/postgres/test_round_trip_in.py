"""Every type of every neighbour into PostgreSQL: what comes out is what went in, or the row is rejected with a reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retl
from retl.connectors import SQLite
from tests.integration.every_type import (
    DUCKDB_COLUMNS,
    FEW,
    SERVER_COLUMNS,
    SQLITE_COLUMNS,
    Column,
    Columns,
    Rows,
    example_rows,
)
from tests.integration.olap.scenes import opened
from tests.integration.olap.test_sources import everything
from tests.integration.round_trip import ADuckDB, APostgres, AServer, ASQLite, Outcome, by_key, carry
from tests.servers import olap
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer
from tests.support import Database

DAY_SECONDS = 86_400


@pytest.fixture
def target(pg: PostgresServer, pg_database: str) -> APostgres:
    return APostgres(pg, pg_database)


def signed(columns: Columns) -> dict[str, Column]:
    """The same columns, whose 0.0 is not -0.0."""
    return {
        name: dataclasses.replace(column, kind="signed") if column.kind == "double" else column
        for name, column in columns.items()
    }


Bad = Callable[[str, Any], bool]


def holds(done: Outcome, expected: Rows, bad: Bad) -> None:
    """Every row has arrived, but for those with a value that PostgreSQL cannot hold: these are rejects of their column."""
    done.holds(expected)
    wrong = {
        key: {name for name, value in row.items() if value is not None and bad(name, value)}
        for key, row in expected.items()
    }
    assert done.refused.keys() == {key for key, names in wrong.items() if names}
    assert all(names <= wrong[key] for key, names in done.refused.items())


def has_nul(value: Any) -> bool:
    """Whether a text, or one anywhere in a document, holds the character that PostgreSQL's text lacks."""
    return isinstance(value, str | tuple | dict | list) and "\\x00" in repr(value)


def unknown_clock(value: tuple[str, int, str]) -> bool:
    """Whether a clock shows no time from 00:00:00 to 24:00:00."""
    sign, seconds, fraction = value
    return sign == "-" or seconds > DAY_SECONDS or (seconds == DAY_SECONDS and bool(fraction))


def is_dated(moment: str) -> bool:
    """Whether a moment lies in the years 1 to 9999."""
    return re.match(r"\d{4}-\d\d-\d\d [^(]*$", moment) is not None


SERVER = signed(SERVER_COLUMNS)
SERVER_TYPES = {
    **dict.fromkeys(("i8", "u8", "i16", "truth", "y"), "smallint"),
    **dict.fromkeys(("u16", "i24", "i32"), "integer"),
    **dict.fromkeys(("u24", "u32", "i64"), "bigint"),
    **dict.fromkeys(("u64", "b1", "b64"), "numeric(20,0)"),
    "money": "numeric(12,2)",
    "wide": "numeric(65,0)",
    "fine": "numeric(65,30)",
    "tiny": "numeric(30,30)",
    "f32": "real",
    "f64": "double precision",
    "day": "date",
    **dict.fromkeys(("dt0", "dt3", "dt6"), "timestamp without time zone"),
    "ts6": "timestamp with time zone",
    **dict.fromkeys(("t0", "t6"), "time without time zone"),
    **dict.fromkeys(("c", "v", "t", "lt", "choice", "several"), "text"),
    **dict.fromkeys(("b", "vb", "blob", "lb"), "bytea"),
    "doc": "jsonb",
}


@FEW
@given(rows=example_rows(SERVER))
async def test_from_mysql_all_arrives_but_nul_and_times_that_are_no_time_of_day(
    server: Server, database: str, target: APostgres, rows: list[dict[str, Any]]
) -> None:
    source = AServer(server, database)
    source.make(SERVER, rows)
    done = await carry(source.connector(), target, SERVER)
    assert target.types("arrived") == SERVER_TYPES
    texts = ("c", "v", "t", "lt", "doc")
    holds(
        done,
        source.read("origin", SERVER),
        lambda name, value: (name in texts and has_nul(value)) or (name in ("t0", "t6") and unknown_clock(value)),
    )


DUCKDB = signed(DUCKDB_COLUMNS)
DUCKDB_TYPES = {
    "truth": "boolean",
    **dict.fromkeys(("i8", "u8", "i16"), "smallint"),
    **dict.fromkeys(("u16", "i32"), "integer"),
    **dict.fromkeys(("u32", "i64"), "bigint"),
    "u64": "numeric(20,0)",
    **dict.fromkeys(("i128", "u128"), "numeric(39,0)"),
    "money": "numeric(12,2)",
    "fine": "numeric(38,30)",
    "wide": "numeric(38,0)",
    "f32": "real",
    "f64": "double precision",
    "day": "date",
    **dict.fromkeys(("s", "ms", "us"), "timestamp without time zone"),
    "tz": "timestamp with time zone",
    "clock": "time without time zone",
    **dict.fromkeys(("v", "choice"), "text"),
    "b": "bytea",
    "u": "uuid",
    **dict.fromkeys(("doc", "list"), "jsonb"),
}


@FEW
@given(rows=example_rows(DUCKDB))
async def test_from_duckdb_all_arrives_but_nul_and_times_without_a_year_of_four_digits(
    target: APostgres, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source = ADuckDB(tmp_path)
    source.clear()
    source.make(DUCKDB, rows)
    done = await carry(source.connector(), target, DUCKDB)
    assert target.types("arrived") == DUCKDB_TYPES
    holds(
        done,
        source.read("origin", DUCKDB),
        lambda name, value: (
            (name in ("v", "doc") and has_nul(value)) or (name in ("day", "us") and not is_dated(value))
        ),
    )


SQLITE_TYPES = {
    "i": "bigint",
    "r": "double precision",
    "d": "numeric(38,10)",
    "w": "numeric(65,30)",
    "truth": "boolean",
    "day": "date",
    "us": "timestamp without time zone",
    "tz": "timestamp with time zone",
    "clock": "time without time zone",
    "v": "text",
    "b": "bytea",
    "doc": "jsonb",
}


@FEW
@given(rows=example_rows(SQLITE_COLUMNS))
async def test_from_sqlite_all_arrives_but_nul_and_times_that_are_no_time_of_day(
    target: APostgres, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source = ASQLite(tmp_path)
    source.clear()
    source.make(SQLITE_COLUMNS, rows)
    done = await carry(source.connector(), target, SQLITE_COLUMNS)
    assert target.types("arrived") == SQLITE_TYPES
    holds(
        done,
        source.read("origin", SQLITE_COLUMNS),
        lambda name, value: (name in ("v", "doc") and has_nul(value)) or (name == "clock" and unknown_clock(value)),
    )


# What is no value of one field ------------------------------------------------------

OWN: dict[str, tuple[str, str, str, str]] = {
    "gap": (
        "INTERVAL",
        "INTERVAL '1 year 2 months -3 days 04:05:06.789'",
        "text",
        "1 year 2 months -3 days 04:05:06.789",
    ),
    "off": ("TIMETZ", "TIMETZ '23:59:59.999999-15:59'", "text", "23:59:59.999999-15:59"),
    "bits": ("BIT", "BIT '0101'", "text", "0101"),
    "whose": ("UUID", "UUID '00000000-0000-0000-0000-00000000000A'", "uuid", "00000000-0000-0000-0000-00000000000a"),
    "nano": (
        "TIMESTAMP_NS",
        "TIMESTAMP_NS '2024-01-01 00:00:00.123456'",
        "timestamp without time zone",
        "2024-01-01 00:00:00.123456",
    ),
    "list": ("VARCHAR[]", "['a,b', NULL, '\"']", "jsonb", '["a,b", null, "\\""]'),
    "pair": ('STRUCT(a INTEGER, "b c" VARCHAR)', "{'a': 1, 'b c': 'x''y'}", "jsonb", '{"a": 1, "b c": "x\'y"}'),
    "map": ("MAP(VARCHAR, DOUBLE)", "MAP {'k': 0.1}", "jsonb", '{"k": 0.1}'),
}
"""Types that only DuckDB has: how they are declared, a value, and both as they are in PostgreSQL."""


async def test_duckdbs_own_types_arrive_as_text_or_json(target: APostgres, tmp_path: Path) -> None:
    source = ADuckDB(tmp_path)
    columns = {name: Column(own[0], "native", st.none()) for name, own in OWN.items()}
    source.make(columns, [])
    values = ", ".join(own[1] for own in OWN.values())
    source.run(f"INSERT INTO origin VALUES (1, {values})")
    source.run("INSERT INTO origin (id, nano) VALUES (2, TIMESTAMP_NS '2024-01-01 00:00:00.123456789')")
    done = await carry(source.connector(), target, columns)
    assert done.rows == {1: {name: own[3] for name, own in OWN.items()}}
    assert done.refused == {2: {"nano"}}
    assert target.types("arrived") == {name: own[2] for name, own in OWN.items()}


OLAP_TYPES = {
    "BOOLEAN": "boolean",
    "TINYINT": "smallint",
    "SMALLINT": "smallint",
    "INT": "integer",
    "BIGINT": "bigint",
    "LARGEINT": "numeric(39,0)",
    "DECIMAL": "numeric(38,9)",
    "FLOAT": "real",
    "DOUBLE": "double precision",
    "CHAR": "text",
    "VARCHAR": "text",
    "STRING": "text",
    "VARBINARY": "bytea",
    "DATE": "date",
    "DATETIME": "timestamp without time zone",
    "TIMESTAMPTZ": "timestamp with time zone",
    "JSON": "jsonb",
    "VARIANT": "jsonb",
    "IPV4": "text",
    "IPV6": "text",
}


@pytest.mark.parametrize("kind", ["starrocks", "doris"])
async def test_from_starrocks_and_doris_every_type_arrives_at_its_extremes(target: APostgres, kind: str) -> None:
    with olap.any_server(kind) as server, opened(kind, server) as scene:
        types = everything(scene)
        scene.create("origin", ", ".join(["id BIGINT NOT NULL", *(f"{name} {of[0]}" for name, of in types.items())]))
        rows = [[number, *(of[2][number][0] for of in types.values())] for number in (0, 1)]
        scene.insert("origin", *rows, [2, *[None] * len(types)])
        columns = {name: Column("", _olap_kind(of[1], name), st.none()) for name, of in types.items()}
        done = await carry(scene.connector(), target, columns)
    assert done.refused == {}
    expected = by_key(columns, [[number, *(of[2][number][1] for of in types.values())] for number in (0, 1)])
    assert done.rows == {**expected, 2: dict.fromkeys(types)}
    assert target.types("arrived") == {name: OLAP_TYPES[of[0].partition("(")[0]] for name, of in types.items()}


def _olap_kind(kind: pa.DataType, name: str) -> str:
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return "decimal"
    if pa.types.is_floating(kind):
        return "single" if kind == pa.float32() else "signed"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "moment"
    return "json" if name in ("doc", "free") else "as it is"


# Names -------------------------------------------------------------------------------

LONGEST = "漢字" * 10 + "字"
"""Of 63 bytes, the most that a name may have."""


async def test_a_name_of_63_bytes_is_kept_and_a_longer_one_refused_before_it_is_cut(
    target: APostgres, tmp_path: Path
) -> None:
    source = Database(tmp_path / "app.db")
    for name in (LONGEST, f"{LONGEST}字"):
        source.run(
            f'CREATE TABLE "{name}" (id INTEGER PRIMARY KEY, "{name}" TEXT)', f"INSERT INTO \"{name}\" VALUES (1, 'a')"
        )
    fits = retl.Pipeline("fits", source=SQLite(str(source.path)), target=target.connector(), tables=[LONGEST])
    async with fits:
        await fits.run_once()
    assert target.run(f'SELECT id, "{LONGEST}" FROM "{LONGEST}"') == [(1, "a")]
    long = retl.Pipeline("long", source=SQLite(str(source.path)), target=target.connector(), tables=[f"{LONGEST}字"])
    async with long:
        with pytest.raises(retl.ConfigError, match="has 66 bytes in UTF-8, but PostgreSQL keeps only 63"):
            await long.run_once()
