"""What Redshift's types are in Arrow, and how their values travel. No I/O."""

from __future__ import annotations

import re

import pyarrow as pa

from retl.model.schema import field

SKETCHES = ("hllsketch",)
"""Types whose values cannot be read, except through a function."""
SPATIAL = ("geometry", "geography")
NESTED = ("struct", "array", "map")
"""Of external tables."""

_NUMERIC = re.compile(r"(?:numeric|decimal)\((\d+),\s*(\d+)\)")
_TEXT = re.compile(r"(character varying|varchar|nvarchar|character|char|bpchar|nchar)(?:\((\d+)\))?")
_CHAR = ("character", "char", "bpchar", "nchar")
_WORDS: dict[str, tuple[str, pa.DataType]] = {
    "smallint": ("smallint", pa.int16()),
    "int2": ("smallint", pa.int16()),
    "integer": ("integer", pa.int32()),
    "int": ("integer", pa.int32()),
    "int4": ("integer", pa.int32()),
    "bigint": ("bigint", pa.int64()),
    "int8": ("bigint", pa.int64()),
    "boolean": ("boolean", pa.bool_()),
    "bool": ("boolean", pa.bool_()),
    "real": ("real", pa.float32()),
    "float4": ("real", pa.float32()),
    "double precision": ("double precision", pa.float64()),
    "double": ("double precision", pa.float64()),
    "float8": ("double precision", pa.float64()),
    "float": ("double precision", pa.float64()),
    "date": ("date", pa.date32()),
    "timestamp without time zone": ("timestamp without time zone", pa.timestamp("us")),
    "timestamp": ("timestamp without time zone", pa.timestamp("us")),
    "timestamp with time zone": ("timestamp with time zone", pa.timestamp("us", tz="UTC")),
    "timestamptz": ("timestamp with time zone", pa.timestamp("us", tz="UTC")),
    "time without time zone": ("time without time zone", pa.time64("us")),
    "time": ("time without time zone", pa.time64("us")),
    "time with time zone": ("time with time zone", pa.string()),
    "timetz": ("time with time zone", pa.string()),
    "varbyte": ("varbyte", pa.binary()),
    "varbinary": ("varbyte", pa.binary()),
    "binary varying": ("varbyte", pa.binary()),
}


def spelled(data_type: str, length: int | None, precision: int | None, scale: int | None) -> str:
    """A type of ``SVV_ALL_COLUMNS`` in one word, with its length or digits."""
    base = data_type.strip().lower()
    if base in ("numeric", "decimal") and precision:
        return f"numeric({precision},{scale or 0})"
    return f"{base}({length})" if length and _TEXT.fullmatch(base) else base


def logical_field(name: str, native: str, nullable: bool = True) -> pa.Field:
    """The Arrow field of a column; ``string`` for whatever travels as text."""
    word = native.strip().lower()
    if digits := _NUMERIC.fullmatch(word):
        kind = pa.decimal128(int(digits[1]), int(digits[2]))
        return field(name, kind, native=f"numeric({digits[1]},{digits[2]})", nullable=nullable)
    if text := _TEXT.fullmatch(word):
        # The length counts bytes, so as many characters are always enough.
        base = "char" if text[1] in _CHAR else "varchar"
        return field(name, pa.string(), native=f"{base}({text[2]})" if text[2] else "varchar(65535)", nullable=nullable)
    base = re.sub(r"\(\d+\)", "", word)
    if base == "super":
        return field(name, pa.string(), native="super", nullable=nullable, json=True)
    spelling, kind = _WORDS.get(base, (word, pa.string()))
    return field(name, kind, native=spelling, nullable=nullable)
