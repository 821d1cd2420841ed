"""Columns of every type of each system, and values at their extremes."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

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
    if kind in ("decimal", "money"):
        return Decimal(str(value))
    if kind in ("single", "double"):
        return struct.pack(">d", float(value) or 0.0)  # SQLite keeps no sign of zero
    if kind == "signed":
        return "NaN" if math.isnan(float(value)) else struct.pack(">d", float(value))
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


# Tables of every type -----------------------------------------------------------------

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
