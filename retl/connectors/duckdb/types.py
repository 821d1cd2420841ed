"""Arrow's types in DuckDB: how a column is declared, what fits into what, and how a value gets there unchanged. No I/O.

DuckDB's casts silently round, cut off digits and drop time zones. So text must match a
pattern of its type, or its row is rejected.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.rows.text import to_text, unprintable_times
from retl.connectors.rows.vectors import to_numbers
from retl.connectors.sql.tables import TypeMap
from retl.model.errors import UnsupportedError
from retl.model.schema import is_bytes, is_json, is_text, native_type, value_type, vector_size

_TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"
_SIMPLE: dict[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float16(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.string_view(): "VARCHAR",
    pa.null(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.binary_view(): "BLOB",
    pa.date32(): "DATE",
    pa.date64(): "DATE",
    pa.time32("s"): "TIME",
    pa.time32("ms"): "TIME",
    pa.time64("us"): "TIME",
    pa.time64("ns"): "TIME_NS",
    pa.timestamp("s"): "TIMESTAMP_S",
    pa.timestamp("ms"): "TIMESTAMP_MS",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("ns"): "TIMESTAMP_NS",
    pa.uuid(): "UUID",
    pa.json_(): "JSON",
}
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_WHOLE = frozenset({*_INTEGERS, *(f"U{name}" for name in _INTEGERS)})
_FLOAT_BITS = {"FLOAT": 24, "DOUBLE": 53}
_DIGITS = {"TIMESTAMP_S": 0, "TIMESTAMP_MS": 3, "TIMESTAMP": 6, _TIMESTAMPTZ: 6, "TIMESTAMP_NS": 9}
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_OF_EPOCHS = (
    "; of seconds since 1970 an expression of the source makes a time: to_timestamp(x) in DuckDB, DATETIME(x, 'unixepoch') in "
    "SQLite, FROM_UNIXTIME(x) in MySQL"
)
_VECTOR = re.compile(r"FLOAT\[(\d+)\]")
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")

# The range of DuckDB's types, in nanoseconds since 1970.
_REACH = (-9_223_372_022_400 * 10**9, (2**63 - 2) * 10**3)
_REACH_NS = (-9_223_286_400 * 10**9, 2**63 - 2)
_DAY = 86_400 * 10**9
_INFINITE = 2**63 - 1

_ZONE = r"( ?UTC|Z|[+-]\d\d(:?\d\d(:\d\d)?)?)?"
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_ENDLESS = r"(?i)[+-]?(inf|infinity|nan)"


class DuckDBTypes(TypeMap):
    """Arrow's types in DuckDB. A type that it lacks is kept as canonical text."""

    def declare(self, column: pa.Field, *, in_key: bool) -> str:
        kind = value_type(column.type)
        if (dimensions := vector_size(column)) is not None:
            return f"FLOAT[{dimensions}]"
        if is_json(column) or pa.types.is_nested(kind):
            return "JSON"
        if pa.types.is_decimal(kind):
            return _declare_decimal(kind, native_type(column))
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            return "VARCHAR" if kind.unit == "ns" else _TIMESTAMPTZ
        if pa.types.is_fixed_size_binary(kind):
            return "BLOB"
        if pa.types.is_string(kind) and native_type(column).upper() == "UUID":
            return "UUID"
        if kind in _SIMPLE:
            return _SIMPLE[kind]
        raise UnsupportedError(
            f"column {column.name!r} is of type {kind}, which has no lossless form in DuckDB.",
            remedy="convert it with expressions, or leave it out with columns.",
        )

    def why_incompatible(self, column: pa.Field, existing: pa.Field) -> str | None:
        stored, declared = native_type(existing), self.declare(column, in_key=False)
        kind = value_type(column.type)
        if stored == declared or pa.types.is_null(kind):
            return None
        if stored == "VARCHAR":
            return "bytes are not text" if declared == "BLOB" else None
        if (dimensions := vector_size(column)) is not None:
            return None if stored == "JSON" else f"it does not hold vectors of {dimensions} dimensions"
        if declared == "JSON":
            return "it does not hold JSON"
        if is_text(kind):
            takes = stored in ("JSON", "UUID") or stored.startswith("ENUM(") or stored == native_type(column)
            return None if takes else "text can be read in more than one way"
        if pa.types.is_integer(kind):
            return _why_not_whole(kind.bit_width, stored)
        if pa.types.is_decimal(kind):
            return _why_not_decimal(kind, stored)
        if pa.types.is_floating(kind):
            return None if stored == "DOUBLE" else "it would be rounded"
        if pa.types.is_temporal(kind):
            return _why_not_time(kind, declared, stored)
        return "it is of another kind"


def _declare_decimal(kind: pa.DataType, native: str) -> str:
    if kind.scale == 0 and native in ("HUGEINT", "UHUGEINT"):
        return native
    scale = max(kind.scale, 0)
    precision = max(kind.precision - min(kind.scale, 0), scale)
    return f"DECIMAL({precision},{scale})" if precision <= 38 else "VARCHAR"


def _why_not_whole(bits: int, stored: str) -> str | None:
    # A number that is too large for a smaller type is rejected alone.
    if stored in _WHOLE or _DECIMAL.fullmatch(stored):
        return None
    room = _FLOAT_BITS.get(stored)
    if room is None:
        return f"it takes no numbers{_OF_EPOCHS if stored in _DIGITS else ''}"
    return None if bits <= room else f"it keeps only {room} bits of a whole number"


def _why_not_decimal(kind: pa.DataType, stored: str) -> str | None:
    scale = max(kind.scale, 0)
    if stored in _FLOAT_BITS:
        return None if stored == "DOUBLE" and kind.precision <= 15 else "it would be rounded"
    decimal = _DECIMAL.fullmatch(stored)
    if decimal is None and stored not in _WHOLE:
        return "it takes no numbers"
    room = int(decimal[2]) if decimal else 0
    return None if scale <= room else f"it keeps only {room} digits after the point"


def _why_not_time(kind: pa.DataType, declared: str, stored: str) -> str | None:
    if declared == "TIME":
        return None if stored == "TIME_NS" else "it is of another kind"
    if declared == "TIME_NS" and stored == "TIME":
        return "it keeps only microseconds"
    if stored not in _DIGITS or declared in ("TIME", "TIME_NS"):
        return "it is of another kind"
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    if zoned != (stored == _TIMESTAMPTZ):
        return "one has a time zone and the other has none"
    digits = 0 if declared == "DATE" else _UNIT_DIGITS[kind.unit]
    return None if digits <= _DIGITS[stored] else f"it keeps only {_DIGITS[stored]} digits of a second"


# Values ---------------------------------------------------------------------


def to_duckdb(column: pa.Array, native: str) -> pa.Array:
    """The column in a form that DuckDB reads from Arrow: typed if possible, else as canonical text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return to_duckdb(column.dictionary_decode(), native)
    if isinstance(kind, pa.BaseExtensionType):
        return column if kind == pa.uuid() else to_duckdb(column.storage, native)
    if is_text(kind) and (vector := _VECTOR.fullmatch(native)):
        return _as_vectors(column, int(vector[1]))
    if is_text(kind) or is_bytes(kind):
        return column
    if pa.types.is_nested(kind) or native == "VARCHAR":
        return to_text(column)
    if pa.types.is_time(kind) and native == "TIME_NS":
        return to_text(column)  # DuckDB reads Arrow's nanoseconds as microseconds, and 1.4 cannot cast TIME to them
    if pa.types.is_decimal(kind) and (pa.types.is_decimal256(kind) or not 0 <= kind.scale <= kind.precision):
        return to_text(column)
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_date64(kind):
        return column.cast(pa.date32())
    return column


def _as_vectors(column: pa.Array, dimensions: int) -> pa.Array:
    """Vectors as lists; as they are where one cannot be read: then its row is found, and rejected."""
    there = column.is_valid()
    try:
        numbers = to_numbers(column.filter(there), dimensions)
    except (ValueError, pa.ArrowException):
        return column
    lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), dimensions)
    places = pc.cumulative_sum(there.cast(pa.int64()))
    return lists.take(pc.if_else(there, pc.subtract(places, 1), pa.scalar(None, pa.int64())))


def invalid_values(column: pa.Array, native: str) -> list[tuple[pa.Array, str]]:
    """Which times DuckDB cannot hold, and why: it would store them, but could not read them."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return invalid_values(column.dictionary_decode(), native)
    found: pa.Array | None = None
    reason = ""
    if native == "VARCHAR":
        found = unprintable_times(column)
        reason = "the time lies outside the years 1 to 9999, or outside a day"
    elif pa.types.is_timestamp(kind):
        low, high = _REACH_NS if native == "TIMESTAMP_NS" else _REACH
        per = 10 ** (9 - _UNIT_DIGITS[kind.unit])
        endless = _INFINITE if kind.unit in ("us", "ns") and _DIGITS.get(native) == _UNIT_DIGITS[kind.unit] else None
        found = _outside(column.view(pa.int64()), -(-low // per), high // per, endless)
        reason = "the time lies outside what DuckDB can hold"
    elif pa.types.is_date32(kind):
        if native == "DATE":
            found = _outside(column.view(pa.int32()), -(2**31) + 2, 2**31 - 2, 2**31 - 1)
        else:
            low, high = (edge // _DAY for edge in (_REACH_NS if native == "TIMESTAMP_NS" else _REACH))
            found = _outside(column.view(pa.int32()), low, high, None)
        reason = "the date lies outside what DuckDB can hold"
    elif pa.types.is_time(kind):
        numbers = column.view(pa.int64() if pa.types.is_time64(kind) else pa.int32())
        day = 86_400 * 10 ** _UNIT_DIGITS[kind.unit]
        found = _outside(numbers, 0, day if native == "TIME" else day - 1, None)
        reason = "the time is not a time of day"
    return [] if found is None else [(found, reason)]


def _outside(numbers: pa.Array, low: int, high: int, endless: int | None) -> pa.Array | None:
    """Which numbers lie outside a range, plus and minus ``endless`` aside; ``None`` if all are inside."""
    width = 2 ** (numbers.type.bit_width - 1)
    low, high = (pa.scalar(max(min(edge, width - 1), -width), numbers.type) for edge in (low, high))
    bad = pc.or_(pc.less(numbers, low), pc.greater(numbers, high))
    if endless is not None:
        bad = pc.and_not(bad, pc.is_in(numbers, pa.array([endless, -endless], numbers.type)))
    return bad if pc.any(bad).as_py() else None


def cast_expression(kind: pa.DataType, native: str, value: str, *, attempt: bool) -> str:
    """The SQL that casts a value of a ``to_duckdb`` column exactly to the target's type.

    A value that cannot be cast exactly is an error; with ``attempt`` it is NULL.
    """
    if not is_text(kind):
        return f"{'TRY_CAST' if attempt else 'CAST'}({value} AS {native})"
    if native == "VARCHAR":
        return value
    if native == "BLOB":
        return f"encode({value})"
    if attempt:
        return f"CASE WHEN {_exact(native, value)} THEN TRY_CAST({value} AS {native}) END"
    return exactly(native, value)


def exactly(native: str, value: str) -> str:
    """The SQL that casts text to a type without any change; an error if that is impossible."""
    return (
        f"CASE WHEN {value} IS NULL THEN NULL WHEN {_exact(native, value)} THEN CAST({value} AS {native}) "
        f"ELSE error('not exactly a value of the type') END"
    )


def _exact(native: str, value: str) -> str:
    """A condition for text that a cast to ``native`` reads without any change."""

    def matches(pattern: str) -> str:
        return f"regexp_full_match({value}, {DIALECT.string(pattern)})"

    def fraction(digits: int) -> str:
        return rf"(\.\d{{0,{digits}}}0*)?"

    cast = f"TRY_CAST({value} AS {native})"
    decimal = _DECIMAL.fullmatch(native)
    if decimal:
        return matches(rf"[+-]?(\d+{fraction(int(decimal[2]))}|\.\d{{1,{max(int(decimal[2]), 1)}}}0*)")
    if native in _WHOLE:
        return matches(rf"[+-]?\d+{fraction(0)}")
    if native in _FLOAT_BITS:
        # A number that is too large would become infinity.
        return f"({matches(_ENDLESS)} OR ({matches(_NUMBER)} AND isfinite({cast})))"
    if native in _DIGITS:
        zone = _ZONE if native == _TIMESTAMPTZ else ""
        clock = rf"\d\d:\d\d(:\d\d{fraction(_DIGITS[native])})?"
        return matches(rf"\d{{4}}-\d\d-\d\d([ T]{clock}{zone})?")
    if native == "DATE":
        return matches(rf"\d{{4}}-\d\d-\d\d([ T]00:00(:00{fraction(0)})?)?")
    if native in ("TIME", "TIME_NS"):
        return matches(rf"\d\d:\d\d(:\d\d{fraction(6 if native == 'TIME' else 9)})?")
    if native == "BOOLEAN":
        return matches("(?i)true|false|t|f|1|0")
    if native == "JSON":
        return f"json_valid({value})"
    if native == "UUID":
        return f"CAST({cast} AS VARCHAR) = lower({value})"
    return f"CAST({cast} AS VARCHAR) = {value}"


TYPES = DuckDBTypes()
