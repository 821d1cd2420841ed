"""The functions that queries may use, and how DuckDB computes them.

A function that a system does not document is refused, as the system would. That StarRocks counts time differences down
to milliseconds only (``timestampdiff``, ``date_diff``; it has no ``microseconds_diff``), while Doris has
``microseconds_diff``, is from their function references. Of ``murmur_hash3_32`` the seed is that of StarRocks' and
Doris' source (104729); its value was not compared with a real server's.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_COMMON = """
    ABS ANY_VALUE APPROX_COUNT_DISTINCT ARRAY ARRAY_LENGTH AVG BITMAP_COUNT BITMAP_FROM_STRING BITMAP_TO_STRING CAST CEIL
    CHAR_LENGTH COALESCE CONCAT CONNECTION_ID CONVERT COUNT CRC32 CURDATE CURRENT_DATE CURRENT_TIMESTAMP CURRENT_USER
    DATABASE DATE DATE_ADD DATE_FORMAT DATE_SUB DATE_TRUNC DATEDIFF DAY DAYS_ADD DAYS_DIFF FLOOR FROM_UNIXTIME GREATEST
    HEX HLL_CARDINALITY HLL_EMPTY HLL_HASH HOUR HOURS_ADD HOURS_DIFF IF IFNULL LAST_QUERY_ID LEAST LEFT LENGTH LOWER MAX
    MD5 MICROSECONDS_ADD MICROSECONDS_SUB MILLISECONDS_DIFF MIN MINUTE MINUTES_ADD MINUTES_DIFF MOD MONTH
    MURMUR_HASH3_32 NAMED_STRUCT NDV NOW NULLIF NVL REPLACE RIGHT ROUND ROW ROW_NUMBER SCHEMA SECOND SECONDS_ADD
    SECONDS_DIFF STR_TO_DATE SUBSTR SUBSTRING SUM TIMESTAMPDIFF TO_BITMAP TO_DAYS TRIM UNHEX UNIX_TIMESTAMP UPPER USER
    UTC_TIMESTAMP VERSION YEAR
"""
STARROCKS = frozenset(_COMMON.split()) | {
    *("CURRENT_VERSION", "DATE_DIFF", "GENERATE_SERIES", "MAP", "PARSE_JSON", "PERCENTILE_HASH", "TO_BINARY", "TO_JSON")
}
DORIS = frozenset(_COMMON.split()) | {"MAP", "MICROSECOND", "MICROSECONDS_DIFF", "NUMBERS", "STRUCT", "TO_JSON"}

# Renamed before they are parsed: sqlglot takes some of them for the same, knows MAP with two arguments only, and counts
# TO_DAYS from a year 0 that DuckDB has otherwise. The others are answered by the session.
MARKED = frozenset(
    {"CONNECTION_ID", "CURRENT_USER", "CURRENT_VERSION", "DATABASE", "LAST_QUERY_ID"}
    | {"MAP", "SCHEMA", "TO_DAYS", "USER", "VERSION"}
)
CLOCK = frozenset({"NOW", "CURRENT_TIMESTAMP", "UTC_TIMESTAMP", "CURDATE", "CURRENT_DATE"})
MARK = "RETL_"

# Calls that DuckDB knows by another name.
RENAMED = {
    **{name: f"retl_{name.lower()}" for name in ("CRC32", "MURMUR_HASH3_32", "TO_DAYS", "TO_JSON", "BITMAP_TO_STRING")},
    **{f"{unit}S_DIFF": f"retl_{unit.lower()}s_diff" for unit in ("MICROSECOND", "MILLISECOND", "SECOND", "MINUTE")},
    **{f"{unit}S_DIFF": f"retl_{unit.lower()}s_diff" for unit in ("HOUR", "DAY")},
    **{f"{unit}S_ADD": f"retl_{unit.lower()}s_add" for unit in ("MICROSECOND", "SECOND", "MINUTE", "HOUR", "DAY")},
    "MICROSECONDS_SUB": "retl_microseconds_sub",
    "MICROSECOND": "retl_microsecond",
    "UNIX_TIMESTAMP": "retl_unix_timestamp",
    "BITMAP_COUNT": "retl_bitmap_count",
    "NDV": "approx_count_distinct",
    "ARRAY_LENGTH": "len",
    # Sketches are held as text: what they were made of.
    **dict.fromkeys(("BITMAP_FROM_STRING", "TO_BITMAP", "HLL_HASH", "PERCENTILE_HASH"), "retl_sketch"),
    "HLL_EMPTY": "retl_empty_sketch",
}

_UNITS = {"microsecond": 1, "millisecond": 1_000, "second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000}
_DAY = 86_400_000_000

_MACROS = """
CREATE MACRO retl_text(x) AS CASE
    WHEN typeof(x) = 'BOOLEAN' THEN CASE CAST(x AS VARCHAR) WHEN 'true' THEN '1' WHEN 'false' THEN '0' END
    WHEN typeof(x) = 'TIMESTAMP' AND contains(CAST(x AS VARCHAR), '.') THEN rpad(CAST(x AS VARCHAR), 26, '0')
    WHEN typeof(x) IN ('FLOAT', 'DOUBLE') THEN regexp_replace(CAST(x AS VARCHAR), '\\.0$', '')
    ELSE CAST(x AS VARCHAR) END;
CREATE MACRO retl_text_scaled(x, n) AS
    left(strftime(x, '%Y-%m-%d %H:%M:%S.%f'), 19 + CASE n WHEN 0 THEN 0 ELSE 1 + n END);
CREATE MACRO retl_below(n, unit) AS CAST(n - (n % unit + unit) % unit AS BIGINT);
CREATE MACRO retl_rounded(x, unit) AS make_timestamp(retl_below(epoch_us(x) + unit // 2, unit));
CREATE MACRO retl_length(x) AS strlen(CAST(x AS VARCHAR));
CREATE MACRO retl_to_days(x) AS date_diff('day', DATE '1970-01-01', CAST(x AS DATE)) + 719528;
CREATE MACRO retl_unix_timestamp(x, shift) AS CAST(floor(epoch_us(CAST(x AS TIMESTAMP)) / 1000000) AS BIGINT) - shift;
CREATE MACRO retl_from_unixtime(x, shift) AS
    strftime(make_timestamp((CAST(x AS BIGINT) + shift) * 1000000), '%Y-%m-%d %H:%M:%S');
CREATE MACRO retl_microsecond(x) AS epoch_us(CAST(x AS TIMESTAMP)) % 1000000;
CREATE MACRO retl_crc32(x) AS retl_crc32_text(retl_text(x));
CREATE MACRO retl_murmur_hash3_32(x) AS retl_murmur_text(retl_text(x), 104729);
CREATE MACRO retl_to_json(x) AS CAST(to_json(x) AS VARCHAR);
CREATE MACRO retl_sketch(x) AS CAST(x AS VARCHAR);
CREATE MACRO retl_empty_sketch() AS '';
CREATE MACRO retl_bitmap_to_string(x) AS x;
CREATE MACRO retl_bitmap_count(x) AS CASE x WHEN '' THEN 0 ELSE len(string_split(x, ',')) END;
"""


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Teach an instance of DuckDB what queries will ask of it."""
    connection.create_function("retl_crc32_text", lambda text: zlib.crc32(text.encode()), ["VARCHAR"], "BIGINT")
    connection.create_function("retl_murmur_text", murmur_hash3_32, ["VARCHAR", "BIGINT"], "INTEGER")
    connection.execute(_MACROS)
    for unit, size in {**_UNITS, "day": _DAY}.items():
        connection.execute(
            f"CREATE MACRO retl_{unit}s_diff(a, b) AS CAST(trunc("
            f"(epoch_us(CAST(a AS TIMESTAMP)) - epoch_us(CAST(b AS TIMESTAMP))) / {size}) AS BIGINT)"
            if size > 1
            else f"CREATE MACRO retl_{unit}s_diff(a, b) AS epoch_us(CAST(a AS TIMESTAMP)) - epoch_us(CAST(b AS TIMESTAMP))"
        )
        connection.execute(
            f"CREATE MACRO retl_{unit}s_add(a, n) AS make_timestamp(epoch_us(CAST(a AS TIMESTAMP)) + CAST(n AS BIGINT) * {size})"
        )
    connection.execute("CREATE MACRO retl_microseconds_sub(a, n) AS retl_microseconds_add(a, -n)")


def murmur_hash3_32(text: str, seed: int) -> int:
    """MurmurHash3 x86, 32 bits, as a signed number."""
    data, mask = text.encode(), 0xFFFFFFFF
    value = seed & mask
    tail = len(data) & 3
    for at in range(0, len(data) - tail, 4):
        value ^= _scrambled(int.from_bytes(data[at : at + 4], "little"))
        value = ((value << 13) | (value >> 19)) & mask
        value = (value * 5 + 0xE6546B64) & mask
    if tail:
        value ^= _scrambled(int.from_bytes(data[-tail:], "little"))
    value ^= len(data)
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & mask
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & mask
    value ^= value >> 16
    return value - (1 << 32) if value >> 31 else value


def _scrambled(block: int) -> int:
    mask = 0xFFFFFFFF
    block = (block * 0xCC9E2D51) & mask
    block = ((block << 15) | (block >> 17)) & mask
    return (block * 0x1B873593) & mask
