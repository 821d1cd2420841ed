"""The SQL of StarRocks and Doris, and what their types are in Arrow. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from retl.connectors.mysql.dialect import MySQLDialect
from retl.model.schema import field, native_type

SKETCHES = ("bitmap", "hll", "percentile", "quantile_state", "agg_state")
"""Types whose values cannot be read, except through a function."""
NESTED = ("array", "map", "struct")

_DECIMAL = re.compile(r"decimal(?:v2|v3|32|64|128|256)?\((\d+),\s*(\d+)\)")
_DATETIME = re.compile(r"datetime(?:v2)?(?:\((\d)\))?")
_LENGTH = re.compile(r"(?:var)?char\((\d+)\)")
_WHOLE = {"tinyint": pa.int8(), "smallint": pa.int16(), "int": pa.int32(), "integer": pa.int32(), "bigint": pa.int64()}
_PLAIN: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    # 39 digits: from -2^127 to 2^127 - 1.
    "largeint": pa.decimal256(39, 0),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "datev2": pa.date32(),
    "timestamptz": pa.timestamp("us", tz="UTC"),
    "varbinary": pa.binary(),
    "binary": pa.binary(),
}
_JSON = ("json", "jsonb", "variant")


class OlapDialect(MySQLDialect):
    """What both systems have in common."""

    datetime_digits: ClassVar[int]
    """How many fractional digits DATETIME has if its type does not say."""
    has_indexes: ClassVar[bool] = False

    def literal(self, text: str, column: pa.Field) -> str:
        if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
            return self.time_literal(text, column)
        if native_type(column) == "largeint":
            # As a plain number the lowest one is the negative of one too high.
            return f"CAST({self.string(str(int(text)))} AS LARGEINT)"
        return super().literal(text, column)

    def time_literal(self, text: str, column: pa.Field) -> str:
        return self.string(text)

    def as_text(self, expression: str) -> str:
        return f"CAST({expression} AS VARCHAR)"

    def select_expression(self, column: pa.Field, expression: str) -> str:
        if pa.types.is_float32(column.type):
            return f"CAST({expression} AS DOUBLE)"
        if pa.types.is_timestamp(column.type) and column.type.tz:
            # With its zone a value would carry that of the session, which is UTC, as +00:00.
            return f"CAST({expression} AS DATETIME(6))"
        return expression

    def to_json(self, column: pa.Field) -> str:
        """The expression that makes JSON of an array, a map or a struct."""
        return f"to_json({self.identifier(column.name)})"

    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        if pa.types.is_integer(column.type):
            # The distance between two whole numbers may be too long for one.
            return f"CAST({expression} AS LARGEINT)" if column.type.bit_width == 64 else expression
        if not pa.types.is_timestamp(column.type):
            return super().bucket_number(column, expression)
        expression = self.select_expression(column, expression)
        # By the calendar alone: functions of an epoch look at the session's zone.
        seconds = f"TO_DAYS({expression}) * 86400 + HOUR({expression}) * 3600 + MINUTE({expression}) * 60 + SECOND({expression})"
        return f"(({seconds}) * 1000000 + CAST(DATE_FORMAT({expression}, '%f') AS BIGINT))"

    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        # A NULL argument would make the hash NULL, and the row would be in no part.
        texts = ", ".join(f"IFNULL(CAST({self.identifier(name)} AS VARCHAR), '')" for name in columns)
        return f"ABS(CAST(MURMUR_HASH3_32({texts}) AS BIGINT)) % {modulus} = {remainder}"

    def now(self, column: pa.Field) -> str:
        return self.as_text("UTC_TIMESTAMP()")

    def logical_field(self, name: str, native: str, nullable: bool = True) -> pa.Field:
        """The Arrow field of a column by its COLUMN_TYPE.

        ``information_schema`` writes BOOLEAN as ``tinyint(1)`` and LARGEINT as ``bigint(20) unsigned``; neither system has
        unsigned numbers, and a TINYINT is ``tinyint(4)`` there (StarRocks: ScalarType.toMysqlColumnTypeString).
        """
        word = native.strip().lower()
        if word == "tinyint(1)":
            word = "boolean"
        elif word.startswith("bigint") and word.endswith("unsigned"):
            word = "largeint"
        base = re.split(r"[\s(<]", word, maxsplit=1)[0]
        if base == "timestamp":  # so a result calls it
            base = "timestamptz"
        if base in _WHOLE:
            return field(name, _WHOLE[base], native=base, nullable=nullable)
        if base in _PLAIN:
            return field(name, _PLAIN[base], native=base, nullable=nullable)
        if decimal := _DECIMAL.match(word):
            digits, scale = int(decimal[1]), int(decimal[2])
            kind = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
            return field(name, kind, native=f"decimal({digits},{scale})", nullable=nullable)
        if time := _DATETIME.fullmatch(word):
            digits = self.datetime_digits if time[1] is None else int(time[1])
            return field(name, pa.timestamp("us"), native=f"datetime({digits})", nullable=nullable)
        if base == "timestamp_ns":
            return field(name, pa.timestamp("ns"), native=word, nullable=nullable)
        if base in _JSON:
            return field(name, pa.string(), native="json", nullable=nullable, json=True)
        if length := _LENGTH.match(word):
            # The length counts bytes, so as many characters are always enough.
            return field(name, pa.string(), native=f"varchar({length[1]})", nullable=nullable)
        return field(name, pa.string(), native="string" if base in ("text", "string") else word, nullable=nullable)


def is_sketch(column: pa.Field) -> bool:
    return native_type(column).startswith(SKETCHES)


def is_nested(column: pa.Field) -> bool:
    return native_type(column).startswith(NESTED)
