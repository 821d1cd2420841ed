"""DuckDB's SQL and types. No I/O."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from retl.connectors.sql.dialect import Dialect
from retl.model.schema import field, native_type

_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")

_PLAIN: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "HUGEINT": pa.decimal256(39, 0),
    "UHUGEINT": pa.decimal256(39, 0),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "UUID": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP_S": pa.timestamp("s"),
    "TIMESTAMP_MS": pa.timestamp("ms"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
}

# Types that Arrow lacks, or that DuckDB would send with a loss: they travel as text.
_AS_TEXT = re.compile(
    r"HUGEINT|UHUGEINT|BIGNUM|VARINT|UUID|INTERVAL|BIT|TIME WITH TIME ZONE|TIME_NS|ENUM\(.*|GEOMETRY.*|\"NULL\""
)


_LOOSE = ("INTERVAL", "TIME WITH TIME ZONE")
"""Types that call different values equal: a month and 30 days, a time in two zones."""


def _exact(text: str) -> str:
    return f'{text} COLLATE "binary"'


def _folded(text: str) -> str:
    return f"translate({text}, '{string.ascii_uppercase}', '{string.ascii_lowercase}')"


# Per bucket expression: whole numbers at the type's own precision.
_BUCKETS = {
    "DATE": "date_diff('day', DATE '1970-01-01', {0})",
    "TIMESTAMP": "epoch_us({0})",
    "TIMESTAMP_S": "epoch_us({0})",
    "TIMESTAMP_MS": "epoch_us({0})",
    "TIMESTAMP_NS": "epoch_ns({0})",
    "TIMESTAMP WITH TIME ZONE": "epoch_us({0})",
}


class DuckDBDialect(Dialect):
    """DuckDB."""

    name: ClassVar[str] = "duckdb"

    folds_names: ClassVar[bool] = True

    savepoints: ClassVar[bool] = False

    def equals(self, left: str, right: str, column: pa.Field) -> str:
        # Without an exact collation no index is usable; a column may have its own.
        return f"{_exact(left)} = {_exact(right)}" if native_type(column) == "VARCHAR" else f"{left} = {right}"

    def differs(self, left: str, right: str, column: pa.Field) -> str:
        native = native_type(column)
        if native == "VARCHAR":  # a column's collation calls different texts equal
            left, right = _exact(left), _exact(right)
        elif native in ("FLOAT", "DOUBLE"):
            return f"({left} IS DISTINCT FROM {right} OR signbit({left}) IS DISTINCT FROM signbit({right}))"
        elif is_nested(native) or native in _LOOSE:
            left, right = f"CAST({left} AS VARCHAR)", f"CAST({right} AS VARCHAR)"
        return f"{left} IS DISTINCT FROM {right}"

    def logical_field(self, name: str, native: str) -> pa.Field:
        return logical_field(name, native)

    def calls_others_equal(self, column: pa.Field) -> bool:
        """Whether DuckDB calls values of a type equal that differ in bytes."""
        native = native_type(column)
        return native in ("FLOAT", "DOUBLE", *_LOOSE) or is_nested(native)

    def same_name(self, left: str, right: str) -> str:
        """A condition for two texts that are one name."""
        return f"{_folded(left)} = {_folded(right)}"

    def literal(self, text: str, column: pa.Field) -> str:
        return f"CAST({self.string(text)} AS {native_type(column)})"

    def as_text(self, expression: str) -> str:
        return f"CAST({expression} AS VARCHAR)"

    def select_expression(self, column: pa.Field, expression: str) -> str:
        native = native_type(column)
        if is_nested(native):
            return f"CAST(to_json({expression}) AS VARCHAR)"
        if _AS_TEXT.fullmatch(native) or native == "JSON":
            return f"CAST({expression} AS VARCHAR)"
        return expression

    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        if pa.types.is_integer(column.type):
            return f"CAST({expression} AS HUGEINT)"
        pattern = _BUCKETS.get(native_type(column))
        return pattern.format(expression) if pattern else None

    def divide(self, dividend: str, divisor: int) -> str:
        return f"({dividend} // {divisor})"

    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        return f"hash({self.identifiers(columns)}) % {modulus} = {remainder}"

    def now(self, column: pa.Field) -> str:
        return "CAST(now() AT TIME ZONE 'UTC' AS VARCHAR)"


def is_nested(native: str) -> bool:
    """Whether a DuckDB type is a list, struct, map or union."""
    return native.endswith("]") or native.startswith(("STRUCT(", "MAP(", "UNION(", "VARIANT"))


def logical_field(name: str, native: str, nullable: bool = True) -> pa.Field:
    """The Arrow field of a DuckDB column."""
    if is_nested(native) or native == "JSON":
        return field(name, pa.string(), native=native, nullable=nullable, json=True)
    decimal = _DECIMAL.fullmatch(native)
    if decimal:
        return field(name, pa.decimal128(int(decimal[1]), int(decimal[2])), native=native, nullable=nullable)
    return field(name, _PLAIN.get(native, pa.string()), native=native, nullable=nullable)


DIALECT = DuckDBDialect()


def full_name(schema: str, name: str) -> str:
    """A table's name with its schema, both quoted."""
    return f"{DIALECT.identifier(schema)}.{DIALECT.identifier(name)}"
