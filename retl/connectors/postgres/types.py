"""What PostgreSQL's types are in Arrow. No I/O."""

from __future__ import annotations

import re

import pyarrow as pa

from retl.model.schema import field

_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_MOST_DIGITS = 76
_WORDS: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "oid": pa.uint32(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "money": pa.decimal128(19, 2),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    "time without time zone": pa.time64("us"),
}
_PRECISION = re.compile(r"\(\d+\)")
JSON = ("json", "jsonb")


def logical_type(base: str) -> pa.DataType:
    """The Arrow type of a type as ``format_type`` spells it; ``string`` for whatever travels as text."""
    digits = _NUMERIC.fullmatch(base)
    if digits:
        return _decimal(int(digits[1]), int(digits[2]))
    return _WORDS.get(_PRECISION.sub("", base, count=1), pa.string())


def _decimal(precision: int, scale: int) -> pa.DataType:
    # Since 15 a scale may be negative, or larger than the precision.
    digits = max(precision - min(scale, 0), scale, 1)
    if digits > _MOST_DIGITS:
        return pa.string()
    return (pa.decimal128 if digits <= 38 else pa.decimal256)(digits, max(scale, 0))


def logical_field(
    name: str, native: str, nullable: bool = True, *, base: str = "", collation: str | None = None
) -> pa.Field:
    """The Arrow field of a column. ``base``: what a domain is made of."""
    kind = base or native
    return field(name, logical_type(kind), native=native, nullable=nullable, json=kind in JSON, collation=collation)
