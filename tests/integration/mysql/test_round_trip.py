"""Every type at its extremes through every pair: what comes out is what went in, or the row is refused with a reason."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import re
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import retl
from retl.connectors import DuckDB, IteratorSource, MySQL, SQLite
from retl.connectors.base import Connector, Source
from retl.model.schema import field as schema_field
from tests.servers.database import Server
from tests.support import Database, Warehouse

Values = st.SearchStrategy[Any]
Rows = dict[int, dict[str, Any]]
"""Rows by their key, every value in the form that ``same`` gives it."""

FEW = settings(
    max_examples=3, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)


@dataclass(frozen=True)
class Column:
    """A column of the table that an example makes. ``kind`` says how its values are read and compared."""

    declared: str
    kind: str
    values: Values


Columns = Mapping[str, Column]


def example_rows(columns: Columns) -> Values:
    """A table: every column NULL now and then, every value in some row."""
    row = st.fixed_dictionaries({name: st.none() | column.values | column.values for name, column in columns.items()})
    return st.lists(row, min_size=1, max_size=12)


# Values ---------------------------------------------------------------------------


def whole(low: int, high: int) -> Values:
    return st.sampled_from([low, high, 0 if low <= 0 else low, 1]) | st.integers(low, high)


def decimals(digits: int, scale: int) -> Values:
    """As text, so that no driver has a say in it."""
    most = 10**digits - 1
    unscaled = st.sampled_from([most, -most, 0, 1, -1]) | st.integers(-most, most)
    exact = decimal.Context(prec=200)
    return unscaled.map(lambda number: format(Decimal(number).scaleb(-scale, exact), "f"))


def clocks(hours: int, digits: int, *, negative: bool = True) -> Values:
    """TIME as text: ``-838:59:59``."""
    most = hours * 3600 + 3599 if hours < 838 else 838 * 3600 + 3599

    def text(seconds: int, fraction: int) -> str:
        sign, away = ("-" if seconds < 0 else ""), abs(seconds)
        part = f".{fraction:06}"[: digits + 1] if digits and away < most else ""
        return f"{sign}{away // 3600:02}:{away // 60 % 60:02}:{away % 60:02}{part}"

    seconds = st.integers(-most if negative else 0, most) | st.sampled_from([most, -most if negative else 0, 0])
    return st.builds(text, seconds, st.integers(0, 999_999))


def moments(low: dt.datetime, high: dt.datetime, digits: int) -> Values:
    def text(moment: dt.datetime) -> str:
        return moment.isoformat(" ", "microseconds")[: 19 + digits + (digits > 0)]

    return (st.sampled_from([low, high]) | st.datetimes(low, high)).map(text)


FIRST, LAST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001  # as MySQL has them
ODD_TEXTS = [
    "",
    " ",
    "a  ",
    "NULL",
    "\\N",
    "\\",
    '"',
    "'",
    '""',
    "\x00",
    "a\x00b",
    ",",
    "\n",
    "\r\n",
    "\t",
    "🙂",
    "ü\\'\"",
]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(st.characters(codec="utf-8"), max_size=10)
EVERY_BYTE = bytes(range(256))
BYTES = st.sampled_from([b"", b"\x00", b"\xff\xfe", b"NULL", b"\\N", b"'\"\\,\n"]) | st.binary(max_size=20)
SINGLES = st.sampled_from([2.0**-149, 2.0**-126, float(2**24 + 2), 3.4028234663852886e38, -0.0]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)
DOUBLES = st.sampled_from(
    [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 1 / 3, -0.0, 1e22, 123456789.123456789]
) | st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([2**53 + 1, 2**64 - 1, -(2**63), 0.1, 1e300, 1.5e-7])
PRECISE = st.sampled_from(["123456789012345678901234567890", "0.12345678901234567890123", "18446744073709551616.5"])


def documents() -> Values:
    names = st.sampled_from(["a", "ü🙂", "", 'say "x"', "back\\slash"]) | st.text(
        st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5
    )
    leaves = st.none() | st.booleans() | NUMBERS | TEXTS
    trees = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
    )
    return st.builds(lambda tree, ascii_only: json.dumps(tree, ensure_ascii=ascii_only), trees, st.booleans())


def same(kind: str, value: Any) -> Any:
    """A value in the one form of its kind, so that ``==`` says whether every digit and every sign is the same."""
    if value is None:
        return None
    if kind == "uuid":
        return str(value)
    if kind in ("whole", "bits"):
        return int(value)
    if kind == "decimal":
        return Decimal(str(value))
    if kind in ("single", "double"):
        return struct.pack(">d", float(value) or 0.0)  # SQLite keeps no sign of zero
    if kind == "moment":
        return _moment(str(value))
    if kind == "clock":
        return _clock(str(value))
    if kind == "json":
        return _plain_json(json.loads(value, parse_float=Decimal, parse_int=Decimal))
    return value


def _moment(text: str) -> str:
    """``2024-01-01 00:00:00.5``: no zone, no zeros that say nothing."""
    day, _, clock = text.replace("T", " ").removesuffix("Z").removesuffix("+00").partition(" ")
    seconds, _, fraction = (clock or "00:00:00").partition(".")
    return f"{day} {seconds}.{fraction.rstrip('0')}"


def _clock(text: str) -> tuple[str, int, str]:
    found = re.fullmatch(r"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d*))?", text)
    assert found, text
    return found[1], int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4]), (found[5] or "").rstrip("0")


def _plain_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain_json(inner) for inner in value]
    # True is no 1.
    return (type(value).__name__, value)


# Systems --------------------------------------------------------------------------


class AServer:
    """A database of a MySQL or MariaDB."""

    forms: Mapping[str, str] = {
        "bits": "CAST({} AS UNSIGNED)",
        "single": "CAST({} AS DOUBLE)",
        "moment": "CAST({} AS CHAR)",
        "clock": "CAST({} AS CHAR)",
    }

    def __init__(self, server: Server, database: str) -> None:
        self._server, self._database = server, database

    def connector(self) -> Connector:
        return MySQL(self._server.url(self._database))

    def run(self, *statements: str, values: Sequence[Sequence[Any]] = ()) -> list[Any]:
        begin = "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE'"
        with (
            closing(self._server.connect(self._database, init_command=begin)) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            for row in values:
                cursor.execute(f"INSERT INTO origin VALUES ({', '.join(['%s'] * len(row))})", row)
            return list(cursor.fetchall()) if not values else []

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        names = ", ".join(f"`{name}` {column.declared} NULL" for name, column in columns.items())
        self.run(
            "DROP TABLE IF EXISTS origin",
            f"CREATE TABLE origin (id INT UNSIGNED PRIMARY KEY, {names}) ROW_FORMAT=DYNAMIC",
            values=_numbered(columns, rows),
        )

    def clear(self) -> None:
        self.run("DROP TABLE IF EXISTS arrived, retl_meta, retl_checkpoints, retl_leases, retl_rejects, retl_scans")

    def read(self, table: str, columns: Columns) -> Rows:
        chosen = [self.forms.get(column.kind, "{}").format(f"`{name}`") for name, column in columns.items()]
        return _by_key(columns, self.run(f"SELECT id, {', '.join(chosen)} FROM `{table}`"))


class ADuckDB:
    """A DuckDB file."""

    forms: Mapping[str, str] = {
        "moment": "CAST({} AS VARCHAR)",
        "clock": "CAST({} AS VARCHAR)",
        "json": "CAST({} AS VARCHAR)",
    }

    def __init__(self, folder: Path) -> None:
        self._file = Warehouse(folder / "w.duckdb")

    def connector(self) -> Connector:
        return DuckDB(str(self._file.path))

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        with closing(duckdb.connect(str(self._file.path))) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            declared = ", ".join(f'"{name}" {column.declared}' for name, column in columns.items())
            connection.execute(f"CREATE OR REPLACE TABLE origin (id INTEGER PRIMARY KEY, {declared})")
            taken = ", ".join(f"CAST(? AS {column.declared})" for column in columns.values())
            for row in _numbered(columns, rows):
                connection.execute(f"INSERT INTO origin VALUES (?, {taken})", row)

    def clear(self) -> None:
        for companion in ("", ".wal"):
            Path(f"{self._file.path}{companion}").unlink(missing_ok=True)

    def read(self, table: str, columns: Columns) -> Rows:
        chosen = [self.forms.get(column.kind, "{}").format(f'"{name}"') for name, column in columns.items()]
        return _by_key(columns, self._file.run("SET TimeZone = 'UTC'", f"SELECT id, {', '.join(chosen)} FROM {table}"))


class ASQLite:
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._file = Database(folder / "app.db")

    def connector(self) -> Connector:
        return SQLite(str(self._file.path))

    def make(self, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        declared = ", ".join(f'"{name}" {column.declared}' for name, column in columns.items())
        self._file.run("DROP TABLE IF EXISTS origin", f"CREATE TABLE origin (id INTEGER PRIMARY KEY, {declared})")
        for row in _numbered(columns, rows):
            self._file.run(f"INSERT INTO origin VALUES ({', '.join('?' * len(row))})", values=row)

    def clear(self) -> None:
        for companion in ("", "-wal", "-shm", "-journal"):
            Path(f"{self._file.path}{companion}").unlink(missing_ok=True)

    def read(self, table: str, columns: Columns) -> Rows:
        names = ", ".join(f'"{name}"' for name in columns)
        return _by_key(columns, self._file.run(f"SELECT id, {names} FROM {table}"))


System = AServer | ADuckDB | ASQLite


def _numbered(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [[number, *(row[name] for name in columns)] for number, row in enumerate(rows)]


def _by_key(columns: Columns, rows: Sequence[Sequence[Any]]) -> Rows:
    return {
        row[0]: {name: same(column.kind, value) for (name, column), value in zip(columns.items(), row[1:], strict=True)}
        for row in rows
    }


@dataclass
class Outcome:
    """What became of the rows of a scan."""

    rows: Rows
    refused: dict[int, set[str]] = field(default_factory=dict)
    """The columns that each refused row is refused for."""

    def holds(self, expected: Rows) -> None:
        """Every row has arrived as it was, or is refused; none twice, none of its own."""
        assert self.rows.keys() | self.refused.keys() == expected.keys()
        assert not self.rows.keys() & self.refused.keys()
        for key, row in self.rows.items():
            different = {
                name: (expected[key][name], value) for name, value in row.items() if value != expected[key][name]
            }
            assert not different


async def carry(source: Connector | Source, target: System, columns: Columns, **words: Any) -> Outcome:
    """Scan ``origin`` into ``arrived`` of a target that holds nothing yet."""
    target.clear()
    table = retl.Table("origin", to="arrived", max_rejects=1000, **words)
    job = retl.Pipeline("trip", source=source, target=target.connector(), tables=[table])
    try:
        await job.run_once()
        refused: dict[int, set[str]] = {}
        for reject in await job.rejects():
            assert reject.reason
            refused.setdefault(int(json.loads(reject.key)["id"]), set()).add(reject.column)
    finally:
        await job.aclose()
    return Outcome(target.read("arrived", columns), refused)


# A server as source ------------------------------------------------------------------

SERVER_COLUMNS: dict[str, Column] = {
    "i8": Column("tinyint", "whole", whole(-(2**7), 2**7 - 1)),
    "u8": Column("tinyint unsigned", "whole", whole(0, 2**8 - 1)),
    "i16": Column("smallint", "whole", whole(-(2**15), 2**15 - 1)),
    "u16": Column("smallint unsigned", "whole", whole(0, 2**16 - 1)),
    "i24": Column("mediumint", "whole", whole(-(2**23), 2**23 - 1)),
    "u24": Column("mediumint unsigned", "whole", whole(0, 2**24 - 1)),
    "i32": Column("int", "whole", whole(-(2**31), 2**31 - 1)),
    "u32": Column("int unsigned", "whole", whole(0, 2**32 - 1)),
    "i64": Column("bigint", "whole", whole(-(2**63), 2**63 - 1)),
    "u64": Column("bigint unsigned", "whole", whole(0, 2**64 - 1)),
    "truth": Column("bool", "whole", st.integers(0, 1)),
    "money": Column("decimal(12,2)", "decimal", decimals(12, 2)),
    "wide": Column("decimal(65,0)", "decimal", decimals(65, 0)),
    "fine": Column("decimal(65,30)", "decimal", decimals(65, 30)),
    "tiny": Column("decimal(30,30)", "decimal", decimals(30, 30)),
    "f32": Column("float", "single", SINGLES),
    "f64": Column("double", "double", DOUBLES),
    "day": Column("date", "moment", moments(FIRST, LAST, 0).map(lambda text: text[:10])),
    "dt0": Column("datetime", "moment", moments(FIRST, LAST, 0)),
    "dt3": Column("datetime(3)", "moment", moments(FIRST, LAST, 3)),
    "dt6": Column("datetime(6)", "moment", moments(FIRST, LAST, 6)),
    "ts6": Column(
        "timestamp(6)",
        "moment",
        moments(dt.datetime(1970, 1, 1, 0, 0, 1), dt.datetime(2038, 1, 19, 3, 14, 7), 6),  # noqa: DTZ001  # in UTC
    ),
    "t0": Column("time", "clock", clocks(23, 0, negative=False) | clocks(838, 0)),
    "t6": Column("time(6)", "clock", clocks(23, 6, negative=False) | clocks(838, 6)),
    "y": Column("year", "whole", st.sampled_from([1901, 2155, 0]) | st.integers(1901, 2155)),
    "c": Column("char(10)", "text", TEXTS),
    "v": Column("varchar(40)", "text", TEXTS),
    "t": Column("text", "text", TEXTS),
    "lt": Column("longtext", "text", TEXTS),
    "b": Column("binary(20)", "bytes", BYTES),
    "vb": Column("varbinary(20)", "bytes", BYTES),
    "blob": Column("blob", "bytes", BYTES | st.just(EVERY_BYTE)),
    "lb": Column("longblob", "bytes", BYTES | st.just(EVERY_BYTE)),
    "choice": Column(
        "enum('a','B c','it''s','','ü','NULL')", "text", st.sampled_from(["a", "B c", "it's", "", "ü", "NULL"])
    ),
    "several": Column(
        "set('x','y z','NULL')", "text", st.sampled_from(["", "x", "y z", "x,y z", "NULL", "x,y z,NULL"])
    ),
    "b1": Column("bit(1)", "bits", st.integers(0, 1)),
    "b64": Column("bit(64)", "bits", whole(0, 2**64 - 1)),
    "doc": Column("json", "json", documents()),
}
SERVER_ROWS = example_rows(SERVER_COLUMNS)


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

DUCKDB_COLUMNS: dict[str, Column] = {
    "truth": Column("BOOLEAN", "whole", st.booleans()),
    "i8": Column("TINYINT", "whole", whole(-(2**7), 2**7 - 1)),
    "u8": Column("UTINYINT", "whole", whole(0, 2**8 - 1)),
    "i16": Column("SMALLINT", "whole", whole(-(2**15), 2**15 - 1)),
    "u16": Column("USMALLINT", "whole", whole(0, 2**16 - 1)),
    "i32": Column("INTEGER", "whole", whole(-(2**31), 2**31 - 1)),
    "u32": Column("UINTEGER", "whole", whole(0, 2**32 - 1)),
    "i64": Column("BIGINT", "whole", whole(-(2**63), 2**63 - 1)),
    "u64": Column("UBIGINT", "whole", whole(0, 2**64 - 1)),
    "i128": Column("HUGEINT", "whole", whole(-(2**127), 2**127 - 1)),
    "u128": Column("UHUGEINT", "whole", whole(0, 2**128 - 1)),
    "money": Column("DECIMAL(12,2)", "decimal", decimals(12, 2)),
    "fine": Column("DECIMAL(38,30)", "decimal", decimals(38, 30)),
    "wide": Column("DECIMAL(38,0)", "decimal", decimals(38, 0)),
    "f32": Column("FLOAT", "single", SINGLES | SINGLES | st.sampled_from([float("nan"), float("inf"), float("-inf")])),
    "f64": Column("DOUBLE", "double", DOUBLES | DOUBLES | st.sampled_from([float("nan"), float("inf"), float("-inf")])),
    "day": Column(
        "DATE",
        "moment",
        moments(FIRST, LAST, 0).map(lambda text: text[:10]) | st.sampled_from(["infinity", "0044-03-15 (BC)"]),
    ),
    "s": Column("TIMESTAMP_S", "moment", moments(FIRST, LAST, 0)),
    "ms": Column("TIMESTAMP_MS", "moment", moments(FIRST, LAST, 3)),
    "us": Column(
        "TIMESTAMP", "moment", moments(FIRST, LAST, 6) | st.sampled_from(["-infinity", "12024-01-01 00:00:00"])
    ),
    "tz": Column("TIMESTAMPTZ", "moment", moments(FIRST, LAST, 6).map(lambda text: f"{text}+00")),
    "clock": Column("TIME", "clock", clocks(23, 6, negative=False)),
    "v": Column("VARCHAR", "text", TEXTS),
    "b": Column("BLOB", "bytes", BYTES | st.just(EVERY_BYTE)),
    "u": Column("UUID", "uuid", st.uuids().map(str)),
    "choice": Column("ENUM('a', 'B c', '🙂', '')", "text", st.sampled_from(["a", "B c", "🙂", ""])),
    "doc": Column("JSON", "json", documents()),
    "list": Column("INTEGER[]", "json", st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3).map(json.dumps)),
}
ENDLESS = {same("double", float(text)) for text in ("nan", "inf", "-inf")}


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


SQLITE_COLUMNS: dict[str, Column] = {
    "i": Column("INTEGER", "whole", whole(-(2**63), 2**63 - 1)),
    "r": Column("REAL", "double", DOUBLES | DOUBLES | st.sampled_from([float("inf"), float("-inf")])),
    "d": Column("DECIMAL TEXT(38,10)", "decimal", decimals(38, 10)),
    "w": Column("DECIMAL TEXT(65,30)", "decimal", decimals(65, 30)),
    "truth": Column("BOOLEAN", "whole", st.integers(0, 1)),
    "day": Column("DATE", "moment", moments(FIRST, LAST, 0).map(lambda text: text[:10])),
    "us": Column("TIMESTAMP", "moment", moments(FIRST, LAST, 6)),
    "tz": Column("TIMESTAMPTZ", "moment", moments(FIRST, LAST, 6).map(lambda text: f"{text}Z")),
    "clock": Column("TIME", "clock", clocks(23, 6, negative=False) | clocks(838, 6)),
    "v": Column("TEXT", "text", TEXTS),
    "b": Column("BLOB", "bytes", BYTES | st.just(EVERY_BYTE)),
    "doc": Column("JSON TEXT", "json", documents()),
}


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
    expected = _by_key(THING_COLUMNS, _numbered(THING_COLUMNS, spelled))
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
