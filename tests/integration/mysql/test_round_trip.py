"""Every type at its extremes through every pair: what comes out is what went in, or the row is refused with a reason."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retl
from retl.connectors import IteratorSource
from retl.model.schema import field as schema_field
from tests.integration.every_type import (
    BYTES,
    DOUBLES,
    DUCKDB_COLUMNS,
    ENDLESS,
    EVERY_BYTE,
    FEW,
    NUMBERS,
    SERVER_COLUMNS,
    SERVER_ROWS,
    SQLITE_COLUMNS,
    TEXTS,
    Column,
    decimals,
    example_rows,
    whole,
)
from tests.integration.round_trip import ADuckDB, AServer, ASQLite, by_key, carry, with_numbers
from tests.servers.database import Server

# A server as source ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "goal", "pre_action"),
    [
        ("mysql", "mysql", "none"),
        ("mariadb", "mysql", "swap"),
        ("mysql", "mariadb", "swap"),
        ("mariadb", "mariadb", "none"),
    ],
)
@FEW
@given(rows=SERVER_ROWS)
async def test_between_servers_every_value_arrives(
    mysql_server: Server, mariadb_server: Server, origin: str, goal: str, pre_action: str, rows: list[dict[str, Any]]
) -> None:
    servers = {"mysql": mysql_server, "mariadb": mariadb_server}
    with servers[origin].fresh_database() as one, servers[goal].fresh_database() as other:
        source, target = AServer(servers[origin], one), AServer(servers[goal], other)
        source.make(SERVER_COLUMNS, rows)
        done = await carry(source.connector(), target, SERVER_COLUMNS, pre_action=retl.PreAction(pre_action))
        expected = source.read("origin", SERVER_COLUMNS)
    done.holds(expected)
    assert done.refused == {}


async def test_members_of_an_enumeration_that_the_catalog_cannot_show(
    mysql_server: Server, mariadb_server: Server
) -> None:
    columns = {"smile": Column("enum('🙂','😀','?')", "text", st.none())}
    for goal in (mysql_server, mariadb_server):
        with mysql_server.fresh_database() as one, goal.fresh_database() as other:
            source, target = AServer(mysql_server, one), AServer(goal, other)
            source.make(columns, [{"smile": member} for member in ("🙂", "😀", "?", None)])
            done = await carry(source.connector(), target, columns)
            assert done.rows == {0: {"smile": "🙂"}, 1: {"smile": "😀"}, 2: {"smile": "?"}, 3: {"smile": None}}


@FEW
@given(rows=SERVER_ROWS)
async def test_into_duckdb_all_arrives_but_times_that_are_no_time_of_day(
    server: Server, database: str, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source, target = AServer(server, database), ADuckDB(tmp_path)
    source.make(SERVER_COLUMNS, rows)
    done = await carry(source.connector(), target, SERVER_COLUMNS)
    expected = source.read("origin", SERVER_COLUMNS)
    done.holds(expected)
    assert done.refused.keys() == {
        key for key, row in expected.items() if any(_beyond_a_day(row[name]) for name in ("t0", "t6"))
    }
    assert set().union(*done.refused.values()) <= {"t0", "t6"}


def _beyond_a_day(clock: tuple[str, int, str] | None) -> bool:
    return clock is not None and (clock[0] == "-" or clock[1] >= 86_400)


@FEW
@given(rows=SERVER_ROWS)
async def test_into_sqlite_all_arrives_but_numbers_that_it_has_no_room_for(
    server: Server, database: str, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source, target = AServer(server, database), ASQLite(tmp_path)
    source.make(SERVER_COLUMNS, rows)
    done = await carry(source.connector(), target, SERVER_COLUMNS)
    expected = source.read("origin", SERVER_COLUMNS)
    done.holds(expected)
    assert done.refused.keys() == {
        key for key, row in expected.items() if any((row[name] or 0) >= 2**63 for name in ("u64", "b64"))
    }
    assert set().union(*done.refused.values()) <= {"u64", "b64"}


# A server as target ------------------------------------------------------------------


@FEW
@given(rows=example_rows(DUCKDB_COLUMNS))
async def test_from_duckdb_all_arrives_but_what_no_server_has_a_word_for(
    server: Server, database: str, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source, target = ADuckDB(tmp_path), AServer(server, database)
    source.clear()
    source.make(DUCKDB_COLUMNS, rows)
    done = await carry(source.connector(), target, DUCKDB_COLUMNS)
    expected = source.read("origin", DUCKDB_COLUMNS)
    done.holds(expected)
    unknown = {key: bad for key, row in expected.items() if (bad := _unknown_to_servers(row))}
    assert done.refused.keys() == unknown.keys()
    assert all(refused <= unknown[key] for key, refused in done.refused.items())


def _unknown_to_servers(row: Mapping[str, Any]) -> set[str]:
    endless = {name for name in ("f32", "f64") if row[name] in ENDLESS}
    return endless | {
        name for name in ("day", "us") if row[name] and not re.match(r"\d{4}-\d\d-\d\d [^(]*$", row[name])
    }


async def test_types_that_no_server_has_are_refused_beforehand(server: Server, database: str, tmp_path: Path) -> None:
    source, target = ADuckDB(tmp_path), AServer(server, database)
    source.make({"x": Column("TIMESTAMP_NS", "moment", st.none())}, [{"x": "2024-01-01 00:00:00.123456789"}])
    job = retl.Pipeline("trip", source=source.connector(), target=target.connector(), tables=["origin"])
    try:
        with pytest.raises(retl.ConfigError, match=r"column 'x' .*expressions"):
            await job.plan()
        with pytest.raises(retl.ConfigError, match=r"column 'x' .*expressions"):
            await job.run_once()
    finally:
        await job.aclose()
    assert [name for (name,) in target.run("SHOW TABLES") if not name.startswith("retl_")] == []


@FEW
@given(rows=example_rows(SQLITE_COLUMNS))
async def test_from_sqlite_all_arrives_but_what_no_server_has_a_word_for(
    server: Server, database: str, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source, target = ASQLite(tmp_path), AServer(server, database)
    source.clear()
    source.make(SQLITE_COLUMNS, rows)
    done = await carry(source.connector(), target, SQLITE_COLUMNS)
    expected = source.read("origin", SQLITE_COLUMNS)
    done.holds(expected)
    assert done.refused == {key: {"r"} for key, row in expected.items() if row["r"] in ENDLESS}


NONSENSE: dict[str, list[Any]] = {
    "d": ["abc", "", b"1"],
    "day": ["2024-02-30", "2024-13-01", "", "yesterday", "0000-00-00"],
    "us": ["2024-01-01 25:00:00", "2024-01-01 00:00:00.1234567", "now", "10000-01-01 00:00:00"],
    "clock": ["24:60:00", "noon", "839:00:00", "00:00:00.1234567"],
    "doc": ["{", "", "nul", "[1,]"],
}


async def test_what_sqlite_lets_into_a_column_and_is_none_of_its_type_is_refused(
    server: Server, database: str, tmp_path: Path
) -> None:
    source, target = ASQLite(tmp_path), AServer(server, database)
    nothing = dict.fromkeys(SQLITE_COLUMNS)
    cases = [(name, value) for name, values in NONSENSE.items() for value in values]
    source.make(SQLITE_COLUMNS, [nothing, *(nothing | {name: value} for name, value in cases), nothing])
    done = await carry(source.connector(), target, SQLITE_COLUMNS)
    assert done.rows == {0: nothing, len(cases) + 1: nothing}
    assert done.refused == {number: {name} for number, (name, _) in enumerate(cases, 1)}


@pytest.mark.parametrize(("name", "value"), [("i", "abc"), ("i", 1.5), ("r", b"1.5"), ("v", b"\xff\xfe")])
async def test_what_sqlite_holds_against_a_declared_type_is_that_rows_reject(
    mysql_server: Server, tmp_path: Path, name: str, value: Any
) -> None:
    source = ASQLite(tmp_path)
    nothing = dict.fromkeys(SQLITE_COLUMNS)
    source.make(SQLITE_COLUMNS, [nothing, nothing | {name: value}])
    with mysql_server.fresh_database() as database:
        done = await carry(source.connector(), AServer(mysql_server, database), SQLITE_COLUMNS)
    assert done.rows == {0: nothing}
    assert done.refused == {1: {name}}


# Rows of the user's own --------------------------------------------------------------


class Thing(msgspec.Struct):
    """A row with a column of each type that Python has."""

    id: int
    whole: int | None
    truth: bool | None
    real: float | None
    exact: Decimal | None
    day: dt.date | None
    moment: dt.datetime | None
    clock: dt.time | None
    text: str | None
    raw: bytes | None
    doc: dict[str, Any] | None


THINGS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("whole", pa.int64()),
        pa.field("truth", pa.bool_()),
        pa.field("real", pa.float64()),
        pa.field("exact", pa.decimal256(65, 30)),
        pa.field("day", pa.date32()),
        pa.field("moment", pa.timestamp("us")),
        pa.field("clock", pa.time64("us")),
        pa.field("text", pa.string()),
        pa.field("raw", pa.binary()),
        schema_field("doc", pa.string(), json=True),
    ]
)
THING_COLUMNS = {
    "whole": Column("", "whole", whole(-(2**63), 2**63 - 1)),
    "truth": Column("", "whole", st.booleans()),
    "real": Column("", "double", DOUBLES),
    "exact": Column("", "decimal", decimals(65, 30).map(Decimal)),
    "day": Column("", "moment", st.dates()),
    "moment": Column("", "moment", st.datetimes()),
    "clock": Column("", "clock", st.times()),
    "text": Column("", "text", TEXTS),
    "raw": Column("", "bytes", BYTES | st.just(EVERY_BYTE)),
    "doc": Column("", "json", st.dictionaries(TEXTS, NUMBERS | TEXTS | st.none() | st.booleans(), max_size=3)),
}


@pytest.mark.parametrize("form", ["dicts", "structs", "batches"])
@FEW
@given(rows=example_rows(THING_COLUMNS))
async def test_rows_of_the_users_own_arrive(
    server: Server, database: str, form: str, rows: list[dict[str, Any]]
) -> None:
    numbered: list[dict[str, Any]] = [{"id": number, **row} for number, row in enumerate(rows)]

    async def read() -> AsyncIterator[Any]:
        if form == "batches":
            texts = [{**row, "doc": None if row["doc"] is None else json.dumps(row["doc"])} for row in numbered]
            yield pa.RecordBatch.from_pylist(texts, THINGS)
        for row in numbered if form != "batches" else []:
            yield row if form == "dicts" else Thing(**row)

    source = IteratorSource(read, tables="origin", key="id", schema=THINGS)
    done = await carry(source, AServer(server, database), THING_COLUMNS)
    spelled = [{**row, "doc": None if row["doc"] is None else json.dumps(row["doc"])} for row in rows]
    expected = by_key(THING_COLUMNS, with_numbers(THING_COLUMNS, spelled))
    done.holds(expected)
    assert done.refused == {}


# JSON ------------------------------------------------------------------------------


async def test_numbers_in_json_that_mysql_would_round_are_refused(mysql_server: Server, mariadb_server: Server) -> None:
    columns = {"doc": Column("json", "json", st.none())}
    exact = [
        '{"a": 18446744073709551615}',
        "[-9223372036854775808, 0.1, 1e300]",
        '"123456789012345678901234567890"',
        "1.50",
        "1e2",
    ]
    rounded = ["123456789012345678901234567890", '{"a": [0.12345678901234567890123]}', "18446744073709551616.5"]
    with mariadb_server.fresh_database() as one, mysql_server.fresh_database() as other:
        source, target = AServer(mariadb_server, one), AServer(mysql_server, other)
        source.make(columns, [{"doc": text} for text in (*exact, *rounded)])
        done = await carry(source.connector(), target, columns)
        expected = source.read("origin", columns)
    done.holds(expected)
    assert done.refused == {number: {"doc"} for number in range(len(exact), len(exact) + len(rounded))}
