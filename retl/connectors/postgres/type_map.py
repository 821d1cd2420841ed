"""How PostgreSQL stores Arrow's types: how a column is declared, and what fits into what. No I/O.

A column from another PostgreSQL is declared as it was there. Its spelling travels in the field's
metadata; that text is foreign, so it is used only if every PostgreSQL knows the type.
"""

from __future__ import annotations

import re

import pyarrow as pa

from retl.connectors.postgres.types import JSON, logical_type
from retl.connectors.postgres.vectors import declare_vector, why_no_vectors
from retl.connectors.sql.tables import TypeMap
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.schema import is_bytes, is_json, is_text, native_type, value_type, vector_size

_DECLARED: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.uint8(): "smallint",
    pa.uint16(): "integer",
    pa.uint32(): "bigint",
    pa.uint64(): "numeric(20,0)",
    pa.float16(): "real",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.date32(): "date",
    pa.date64(): "date",
    pa.null(): "text",
    pa.uuid(): "uuid",
}
_KEPT = re.compile(
    r"(?:boolean|smallint|integer|bigint|oid|real|double precision|money|bytea|date|text|uuid|jsonb|xml|inet|cidr|macaddr8?|"
    r"pg_lsn|tsvector|tsquery|point|line|lseg|box|path|polygon|circle|(?:int4|int8|num|ts|tstz|date)(?:multi)?range|"
    r'numeric(?:\(\d+,-?\d+\))?|character(?: varying)?(?:\(\d+\))?|bit(?: varying)?(?:\(\d+\))?|"char"|name|'
    r"(?:timestamp|time)(?:\(\d\))? with(?:out)? time zone|"
    r"interval(?: (?:year|month|day|hour|minute|second)(?: to (?:month|hour|minute|second))?)?(?:\(\d\))?)(?:\[\])*"
)
"""Types of every PostgreSQL, as ``format_type`` spells them."""
_OTHER_NAMES = {"UUID": "uuid"}
"""What DuckDB calls them, where its text is the same to the last letter."""
_FREE = re.compile(r"text|citext|name|character(?: varying)?(?:\(\d+\))?|bpchar")
"""Types that take any text."""
_ROUNDING = re.compile(r"numeric\(\d+,-\d+\)")
_FLOAT_BITS = {pa.float32(): 24, pa.float64(): 53}
_EXACT_DIGITS = 15
"""Decimal digits that a double keeps."""


class PostgresTypes(TypeMap):
    """Arrow's types in PostgreSQL."""

    def declare(self, column: pa.Field, *, in_key: bool) -> str:
        if (dimensions := vector_size(column)) is not None:
            return declare_vector(dimensions)
        kind, native = value_type(column.type), _OTHER_NAMES.get(native_type(column), native_type(column))
        if is_json(column) or kind == pa.json_():
            return _declare_json(column, in_key)
        if _KEPT.fullmatch(native) and logical_type(native) == kind:
            return native
        declared = _DECLARED.get(kind) or _declare_other(kind)
        if declared is None:
            raise UnsupportedError(
                f"column {column.name!r} is of type {column.type}, which has no lossless form in PostgreSQL.",
                remedy="convert it with expressions, or leave it out with columns.",
            )
        return declared

    def why_incompatible(self, column: pa.Field, existing: pa.Field) -> str | None:
        kind, stored = value_type(column.type), native_type(existing)
        if (dimensions := vector_size(column)) is not None:
            return why_no_vectors(dimensions, stored)
        if pa.types.is_null(kind) or stored == native_type(column):
            return None
        if is_json(column) or kind == pa.json_():
            return None if stored in JSON or _FREE.fullmatch(stored) else "it does not hold JSON"
        if is_bytes(kind) or is_bytes(existing.type):
            return None if is_bytes(kind) and is_bytes(existing.type) else "bytes are not text"
        if is_text(existing.type):
            return _why_not_text(kind, stored)
        if is_text(kind) or kind == pa.uuid():
            return "text can be read in more than one way"
        return _why_not_value(kind, existing.type, stored)


def _declare_json(column: pa.Field, in_key: bool) -> str:
    if in_key:
        raise ConfigError(f"column {column.name!r} holds JSON, which cannot be part of a key.")
    return "jsonb"


def _declare_other(kind: pa.DataType) -> str | None:
    if is_text(kind):
        return "text"
    if is_bytes(kind):
        return "bytea"
    if pa.types.is_decimal(kind):
        scale = max(kind.scale, 0)
        return f"numeric({max(kind.precision - min(kind.scale, 0), scale)},{scale})"
    if pa.types.is_timestamp(kind):
        return f"timestamp {'with' if kind.tz else 'without'} time zone"
    return "time without time zone" if pa.types.is_time(kind) else None


def _why_not_text(kind: pa.DataType, stored: str) -> str | None:
    """Of a column that travels as text. A single text that such a type does not know is rejected by itself."""
    if is_text(kind) or _FREE.fullmatch(stored) or (kind == pa.uuid() and stored == "uuid"):
        return None
    number = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return (
        None
        if number and logical_type(stored) == pa.string() and stored.startswith("numeric")
        else "it is of another kind"
    )


def _why_not_value(kind: pa.DataType, there: pa.DataType, stored: str) -> str | None:
    if pa.types.is_boolean(there) and kind in (pa.int8(), pa.uint8()):
        return None  # what MySQL has for a boolean; a number but 0 and 1 is rejected alone
    if pa.types.is_boolean(kind) or pa.types.is_boolean(there):
        return None if kind == there else "it is of another kind"
    if pa.types.is_integer(kind):
        return _why_not_whole(kind, there, stored)
    if pa.types.is_decimal(kind):
        return _why_not_decimal(kind, there, stored)
    if pa.types.is_floating(kind):
        wide = _FLOAT_BITS.get(there, 0) >= _FLOAT_BITS.get(kind, 24)
        return None if wide else "it would be rounded"
    return _why_not_time(kind, there)


def _why_not_whole(kind: pa.DataType, there: pa.DataType, stored: str) -> str | None:
    # A number that is too large for a smaller type is rejected alone.
    if _ROUNDING.fullmatch(stored):
        return "it rounds whole numbers"
    if pa.types.is_integer(there) or pa.types.is_decimal(there):
        return None
    room = _FLOAT_BITS.get(there)
    if room is None:
        return "it takes no numbers"
    return None if kind.bit_width <= room else f"it keeps only {room} bits of a whole number"


def _why_not_decimal(kind: pa.DataType, there: pa.DataType, stored: str) -> str | None:
    if _ROUNDING.fullmatch(stored):
        return "it rounds whole numbers"
    if there in _FLOAT_BITS:
        return None if there == pa.float64() and kind.precision <= _EXACT_DIGITS else "it would be rounded"
    if not pa.types.is_integer(there) and not pa.types.is_decimal(there):
        return "it takes no numbers"
    room = there.scale if pa.types.is_decimal(there) else 0
    return None if kind.scale <= room else f"it keeps only {room} digits after the point"


def _why_not_time(kind: pa.DataType, there: pa.DataType) -> str | None:
    """A single time that has more digits than the column keeps is rejected alone."""
    if pa.types.is_time(kind) and pa.types.is_time(there):
        return None
    if pa.types.is_date(kind):
        plain = pa.types.is_date(there) or (pa.types.is_timestamp(there) and not there.tz)
        return None if plain else "it is of another kind"
    if not pa.types.is_timestamp(kind):
        return "it is of another kind"
    if pa.types.is_date(there):
        return "it drops the time of day"
    if not pa.types.is_timestamp(there):
        return "it takes no times"
    return None if bool(kind.tz) == bool(there.tz) else "only one of them has a time zone"


TYPES = PostgresTypes()
