"""Every type of PostgreSQL into every neighbour: each value comes out as it went in, or its row is rejected for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

import retl
from tests.integration.every_type import EVERY_BYTE, ODD_TEXTS, Column
from tests.integration.round_trip import ADuckDB, AnIndex, APostgres, AServer, ASQLite, Outcome, carry
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer
from tests.servers.search import SearchServer

TEXTS = [text for text in ODD_TEXTS if "\x00" not in text]
MOMENTS = ["0001-01-01 00:00:00", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999"]
BEYOND = ["infinity", "-infinity", "4713-01-01 00:00:00 BC", "10000-01-01 00:00:00", "294276-12-31 23:59:59.999999"]
NUMERICS = ["NaN", "0", "-0.50", "1.50", "9" * 1000, "-0." + "0" * 999 + "1", "0." + "1" * 500]
DOCUMENTS = [
    "null",
    '""',
    '"\\ud83d\\ude42 ü \\\\u0000"',
    '{"a": [0.1, 1.50, 1e-7, 18446744073709551615], "": {}}',
    "[1e300, true]",
]
REPEATED = '{"a": 1,  "a": 2}'
BIG_DOCUMENTS = ['{"a": 12345678901234567890.12345678901234567890}', "[18446744073709551616]"]


def of(declared: str, kind: str, *values: Any) -> tuple[Column, list[Any]]:
    return Column(declared, kind, st.none()), list(values)


TYPES = {
    "truth": of("boolean", "whole", True, False),
    "i16": of("smallint", "whole", 2**15 - 1, -(2**15)),
    "i32": of("integer", "whole", 2**31 - 1, -(2**31)),
    "i64": of("bigint", "whole", 2**63 - 1, -(2**63)),
    "oid": of("oid", "whole", 2**32 - 1, 0),
    "money": of("money", "money", "92233720368547758.07", "-92233720368547758.08"),
    "f32": of("real", "single", 3.4028234663852886e38, 1.401298464324817e-45, "0.1", "NaN", "Infinity", "-Infinity"),
    "f64": of("double precision", "signed", 1.7976931348623157e308, 5e-324, 0.1, -0.0, "NaN", "Infinity", "-Infinity"),
    "n12": of("numeric(12,2)", "decimal", "9999999999.99", "-0.01", "NaN"),
    "n38": of("numeric(38,10)", "decimal", "9" * 28 + "." + "9" * 10, "-0.0000000001"),
    "n65": of("numeric(65,30)", "decimal", "-" + "9" * 35 + "." + "9" * 30),
    "n1000": of("numeric(1000,500)", "native", "9" * 500 + "." + "9" * 500, "-0." + "0" * 499 + "1"),
    "n": of("numeric", "native", *NUMERICS, "Infinity", "-Infinity"),
    "rounded": of("numeric(5,-2)", "decimal", "9999900", "-100"),
    "day": of("date", "moment", "0001-01-01", "9999-12-31", "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"),
    "at": of("timestamp", "moment", *MOMENTS, *BEYOND),
    "at3": of("timestamp(3)", "moment", "9999-12-31 23:59:59.999"),
    "zoned": of("timestamptz", "moment", *(f"{moment}+00" for moment in MOMENTS), "infinity"),
    "clock": of("time", "clock", "00:00:00", "23:59:59.999999", "24:00:00"),
    "off": of("timetz", "native", "23:59:59.999999-15:59:59", "24:00:00+00"),
    "gap": of("interval", "native", "1 mon", "30 days", "-178000000 years", "1 year -2 mons +3 days -04:05:06.789"),
    "c": of("char(4)", "as it is", "ab", "ü🙂"),
    "v": of("varchar(40)", "text", *TEXTS),
    "t": of("text", "text", *TEXTS, "a\n\\.\nb", "\\.", "x" * 100_000),
    "b": of("bytea", "bytes", EVERY_BYTE, b"", b"\\x00", b"NULL"),
    "u": of("uuid", "uuid", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "doc": of("jsonb", "json", *DOCUMENTS, *BIG_DOCUMENTS),
    "js": of("json", "json", REPEATED, *DOCUMENTS),
    "list": of("integer[]", "native", "{}", "{{1,NULL},{3,4}}", "[-1:0]={1,2}"),
    "words": of("text[]", "native", '{"a,b","\\"","\\\\",NULL,"NULL",""}'),
    "mood": of("mood", "text", "glad", "ü🙂", ""),
    "short": of("short", "text", "abc"),
    "span": of("int4range", "native", "[1,5)", "empty", "(,)"),
    "spans": of("tstzmultirange", "native", '{["2024-01-01 00:00:00+00","infinity")}'),
    "address": of("inet", "native", "10.0.0.1/8", "2001:db8::/64"),
    "bits": of("bit(3)", "native", "101"),
    "more": of("bit varying", "native", "", "10101"),
    "point": of("point", "native", "(1.5,-2)"),
    "found": of("tsvector", "native", "'a':1A 'b':2"),
    "letter": of('"char"', "native", "x", ""),
}
"""Each with its type, how it is compared, and values at its extremes."""
COLUMNS = {name: column for name, (column, _) in TYPES.items()}
CASES = [(name, value) for name, (_, values) in TYPES.items() for value in values]
MADE = (
    "CREATE TYPE mood AS ENUM ('glad', 'ü🙂', '')",
    "CREATE DOMAIN short AS varchar(3) CHECK (value <> 'bad')",
)


@pytest.fixture
def source(pg: PostgresServer, pg_database: str) -> APostgres:
    """A table with a row for each value, in which all other columns are NULL, and one in which all are."""
    made = APostgres(pg, pg_database)
    made.run(*MADE)
    nothing = dict.fromkeys(COLUMNS)
    made.make(COLUMNS, [*(nothing | {name: value} for name, value in CASES), nothing])
    return made


def as_text(*names: str) -> Mapping[str, Column]:
    """The columns, some of which are compared as the texts that PostgreSQL shows."""
    return {
        name: dataclasses.replace(column, kind="native") if name in names else column
        for name, column in COLUMNS.items()
    }


def refused(done: Outcome) -> dict[str, list[Any]]:
    """The values that were rejected, by their column; each row was rejected for just the value that it has."""
    found: dict[str, list[Any]] = {}
    for number, names in sorted(done.refused.items()):
        name, value = CASES[number]
        assert names <= {name, ""}
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("goal", ["postgres15", "postgres"])
async def test_between_versions_of_postgresql_everything_arrives(
    postgres_server: PostgresServer, postgres15_server: PostgresServer, source: APostgres, goal: str
) -> None:
    server = postgres15_server if goal == "postgres15" else postgres_server
    columns = as_text(*(name for name, column in COLUMNS.items() if column.kind not in ("bytes", "json", "as it is")))
    with server.fresh_database() as database:
        target = APostgres(server, database)
        done = await carry(source.connector(), target, columns)
        types = target.types("arrived")
    done.holds(source.read("origin", columns))
    assert refused(done) == {}
    changed = {name: kind for name, kind in types.items() if kind != source.types("origin")[name]}
    assert changed == {"mood": "text", "short": "text", "js": "jsonb"}


async def test_the_plan_says_which_types_another_postgresql_does_not_know(
    postgres_server: PostgresServer, source: APostgres
) -> None:
    with postgres_server.fresh_database() as database:
        job = retl.Pipeline(
            "trip",
            source=source.connector(),
            target=APostgres(postgres_server, database).connector(),
            tables=["origin"],
        )
        (plan,) = await job.plan()
        await job.aclose()
    assert plan.target is not None
    assert plan.target.casts == ("js: json -> jsonb", "mood: mood -> text", "short: short -> text")


MYSQL_TYPES = {
    "truth": "tinyint(1)",
    "i16": "smallint",
    "i32": "int",
    "i64": "bigint",
    "oid": "int unsigned",
    "money": "decimal(19,2)",
    "f32": "float",
    "f64": "double",
    "n12": "decimal(12,2)",
    "n38": "decimal(38,10)",
    "n65": "decimal(65,30)",
    "rounded": "decimal(7,0)",
    "day": "date",
    **dict.fromkeys(("at", "at3", "zoned"), "datetime(6)"),
    "clock": "time(6)",
    "c": "varchar(4)",
    "v": "varchar(40)",
    "b": "longblob",
    "u": "varchar(36)",
}
DUCKDB_TYPES = {
    "truth": "BOOLEAN",
    "i16": "SMALLINT",
    "i32": "INTEGER",
    "i64": "BIGINT",
    "oid": "UINTEGER",
    "money": "DECIMAL(19,2)",
    "f32": "FLOAT",
    "f64": "DOUBLE",
    "n12": "DECIMAL(12,2)",
    "n38": "DECIMAL(38,10)",
    "rounded": "DECIMAL(7,0)",
    "day": "DATE",
    **dict.fromkeys(("at", "at3"), "TIMESTAMP"),
    "zoned": "TIMESTAMP WITH TIME ZONE",
    "clock": "TIME",
    "b": "BLOB",
    "u": "UUID",
    **dict.fromkeys(("doc", "js"), "JSON"),
}
SQLITE_TYPES = {
    "truth": "BOOLEAN",
    **dict.fromkeys(("i16", "i32", "i64", "oid"), "INTEGER"),
    **dict.fromkeys(("f32", "f64"), "REAL"),
    "money": "DECIMAL TEXT(19,2)",
    "n12": "DECIMAL TEXT(12,2)",
    "n38": "DECIMAL TEXT(38,10)",
    "n65": "DECIMAL TEXT(65,30)",
    "rounded": "DECIMAL TEXT(7,0)",
    "day": "DATE",
    **dict.fromkeys(("at", "at3"), "TIMESTAMP"),
    "zoned": "TIMESTAMPTZ",
    "clock": "TIME",
    "b": "BLOB",
    **dict.fromkeys(("doc", "js"), "JSON TEXT"),
}
INDEX_TYPES = {
    "truth": "boolean",
    "i16": "short",
    "i32": "integer",
    **dict.fromkeys(("i64", "oid"), "long"),
    "f32": "float",
    **dict.fromkeys(("f64", "money", "n12", "n38", "n65", "rounded"), "double"),
    **dict.fromkeys(("day", "at", "at3", "zoned"), "date"),
    "clock": "keyword",
    "b": "binary",
}


def rest(types: dict[str, str], other: str) -> dict[str, str]:
    """The types of all columns: those that are not named are of one other type."""
    return {**dict.fromkeys(COLUMNS, other), **types}


NO_TIMES = {
    "day": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"],
    "at": BEYOND,
    "zoned": ["infinity"],
}
"""What lies outside the years 1 to 9999."""
NO_NUMBERS = {"f32": ["NaN", "Infinity", "-Infinity"], "f64": ["NaN", "Infinity", "-Infinity"], "n12": ["NaN"]}


async def test_into_mysql_and_mariadb_all_arrives_but_what_they_have_no_word_for(
    source: APostgres, server: Server, database: str
) -> None:
    # MariaDB reads -0 as 0.
    columns = (
        {**COLUMNS, "f64": dataclasses.replace(COLUMNS["f64"], kind="double")}
        if server.product == "MariaDB"
        else COLUMNS
    )
    target = AServer(server, database)
    done = await carry(source.connector(), target, columns)
    done.holds(source.read("origin", columns))
    json_type = "json" if server.product == "MySQL" else "longtext"
    assert target.types("arrived") == rest({**MYSQL_TYPES, "doc": json_type, "js": json_type}, "longtext")
    rounded = {"doc": BIG_DOCUMENTS} if server.product == "MySQL" else {}
    assert refused(done) == {**NO_NUMBERS, **NO_TIMES, **rounded}


async def test_into_duckdb_all_arrives_but_nan_in_decimals_and_times_that_are_none(
    source: APostgres, tmp_path: Path
) -> None:
    target = ADuckDB(tmp_path)
    done = await carry(source.connector(), target, COLUMNS)
    done.holds(source.read("origin", COLUMNS))
    assert target.types("arrived") == rest(DUCKDB_TYPES, "VARCHAR")
    assert refused(done) == {"n12": ["NaN"], **NO_TIMES}


async def test_into_sqlite_all_arrives_but_nan_and_times_that_are_none(source: APostgres, tmp_path: Path) -> None:
    columns = {**COLUMNS, "f64": dataclasses.replace(COLUMNS["f64"], kind="double")}
    target = ASQLite(tmp_path)
    done = await carry(source.connector(), target, columns)
    done.holds(source.read("origin", columns))
    assert target.types("arrived") == rest(SQLITE_TYPES, "TEXT")
    assert refused(done) == {"f32": ["NaN"], "f64": ["NaN"], "n12": ["NaN"], **NO_TIMES}


async def test_into_elasticsearch_all_arrives_but_what_json_has_no_word_for(
    source: APostgres, elasticsearch_server: SearchServer, prefix: str
) -> None:
    target = AnIndex(elasticsearch_server, prefix)
    done = await carry(source.connector(), target, COLUMNS)
    assert target.types(target.arrived) == rest(INDEX_TYPES, "text")
    expected = source.read("origin", COLUMNS)
    done.holds({key: {name: _or_none(value) for name, value in row.items()} for key, row in expected.items()})
    # The first value of a field, a text here, decides what it holds.
    others = {"doc": [DOCUMENTS[3], BIG_DOCUMENTS[0]], "js": [REPEATED, DOCUMENTS[3]]}
    assert refused(done) == {**NO_NUMBERS, **NO_TIMES, **others}


def _or_none(value: Any) -> Any:
    """A value of a document, to which NULL is what ``null`` is."""
    return None if value == ("NoneType", None) else value
