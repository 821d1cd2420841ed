"""SQLite's SQL and types. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

import pyarrow as pa

from retl.connectors.sql.dialect import Dialect, split_name
from retl.connectors.sql.tables import TypeMap
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.schema import field, is_bytes, is_json, is_text, native_type

Affinity = Literal["INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC"]

_ARGUMENTS = 99
_FRACTION = re.compile(r":\d\d\.\d+$", re.ASCII)
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC)[A-Z ]*\((\d+)\s*,\s*(\d+)\)")


def affinity(declared: str) -> Affinity:
    """A column's affinity by the five rules of https://www.sqlite.org/datatype3.html#determination_of_column_affinity."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


class SQLiteTypes(TypeMap):
    """Arrow's types in SQLite.

    The declared names are those that people know, chosen so that their *affinity* leaves
    every value as it is: a decimal would lose digits as NUMERIC, hence ``DECIMAL TEXT``.
    """

    def declare(self, column: pa.Field, *, in_key: bool) -> str:
        kind = column.type
        if is_json(column):
            return "JSON TEXT"
        if pa.types.is_boolean(kind):
            return "BOOLEAN"
        if pa.types.is_integer(kind):
            return "INTEGER"
        if pa.types.is_floating(kind):
            return "REAL"
        if pa.types.is_decimal(kind):
            return f"DECIMAL TEXT({kind.precision},{kind.scale})"
        if pa.types.is_timestamp(kind):
            return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
        if pa.types.is_date(kind):
            return "DATE"
        if pa.types.is_time(kind):
            return "TIME"
        if is_bytes(kind):
            return "BLOB"
        if is_text(kind):
            return "TEXT"
        if pa.types.is_dictionary(kind):
            return self.declare(column.with_type(kind.value_type), in_key=in_key)
        if pa.types.is_null(kind):
            return "TEXT"
        raise UnsupportedError(
            f"column {column.name!r} is of type {kind}, which has no lossless form in SQLite.",
            remedy="convert it with expressions, or leave it out with columns.",
        )

    def why_incompatible(self, column: pa.Field, existing: pa.Field) -> str | None:
        kind, stored = column.type, affinity(native_type(existing))
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if stored == "BLOB":
            return None
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
            if stored == "REAL" and pa.types.is_integer(kind) and kind.bit_width > 32:
                return "a REAL keeps only 53 bits of a whole number"
            return None
        if pa.types.is_floating(kind):
            return "a REAL would be turned into text of 15 digits" if stored == "TEXT" else None
        if pa.types.is_temporal(kind) or stored == "TEXT":
            return None
        if is_bytes(kind):
            return None
        if pa.types.is_decimal(kind) and kind.precision <= 15:
            return None
        return f"the column's affinity is {stored}, so text that looks like a number would be changed"


class StrictTypes(SQLiteTypes):
    """The same in a STRICT table, which knows none but these names."""

    def declare(self, column: pa.Field, *, in_key: bool) -> str:
        declared = super().declare(column, in_key=in_key)
        return {"INTEGER": "INTEGER", "REAL": "REAL", "BLOB": "BLOB", "BOOLEAN": "INTEGER"}.get(declared, "TEXT")


class SQLiteDialect(Dialect):
    """SQLite. Text may be a cursor: its order is that of its bytes, and dates are kept as text."""

    name: ClassVar[str] = "sqlite"
    begin: ClassVar[str] = "BEGIN IMMEDIATE"
    has_indexes: ClassVar[bool] = True
    text_cursor: ClassVar[bool] = True
    folds_names: ClassVar[bool] = True
    insert: ClassVar[str] = "INSERT OR ABORT"
    update: ClassVar[str] = "UPDATE OR ABORT"  # else a table's own ON CONFLICT IGNORE or REPLACE would hold

    def table(self, name: str) -> str:
        return self.identifier(own_name(name))

    def differs(self, left: str, right: str, column: pa.Field) -> str:
        # By bytes, whatever the column's collation. To SQLite 1 is 1.0, though a column without a type keeps both.
        same = f"{left} IS NOT {right} COLLATE BINARY"
        untyped = affinity(native_type(column)) == "BLOB"
        return f"{same} OR TYPEOF({left}) <> TYPEOF({right})" if untyped else same

    def logical_field(self, name: str, native: str) -> pa.Field:
        return logical_field(name, native)

    def create_index(self, table: str, column: str) -> str:
        return f"CREATE INDEX IF NOT EXISTS {self._index(table, column)} ON {table} ({column})"

    def drop_column(self, table: str, column: str) -> list[str]:
        index = self._index(table, self.identifier(column))
        return [f"DROP INDEX IF EXISTS {index}", *super().drop_column(table, column)]

    def _index(self, table: str, column: str) -> str:
        """The name of the index on a column. In SQLite a table cannot have an index of the same name as another one's."""
        return self.identifier(f"{table}_{column}_index".replace('"', ""))

    def literal(self, text: str, column: pa.Field) -> str:
        if pa.types.is_integer(column.type):
            return str(int(text))
        return self.string(text)

    def lowest(self, text: str, column: pa.Field) -> str:
        return self.literal(without_zeros(text), column)

    def as_text(self, expression: str) -> str:
        # SQLite writes a real with 15 digits, which may be another one.
        text = f"CAST({expression} AS TEXT)"
        inexact = f"TYPEOF({expression}) = 'real' AND CAST({text} AS REAL) <> {expression}"
        return f"CASE WHEN {inexact} THEN PRINTF('%!.17g', {expression}) ELSE {text} END"

    def select_expression(self, column: pa.Field, expression: str) -> str:
        return expression

    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        return expression if pa.types.is_integer(column.type) else None

    def divide(self, dividend: str, divisor: int) -> str:
        return f"({dividend} / {divisor})"

    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        return f"{self._hash(list(map(self.identifier, columns)))} % {modulus} = {remainder}"

    def _hash(self, columns: Sequence[str]) -> str:
        # As bytes, since text need not be UTF-8; and no function takes more than a hundred arguments everywhere.
        head, rest = columns[:_ARGUMENTS], columns[_ARGUMENTS:]
        values = [f"CAST({column} AS BLOB)" for column in head]
        return f"retl_hash({', '.join([*values, self._hash(rest)] if rest else values)})"

    def now(self, column: pa.Field) -> str:
        return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def without_zeros(text: str) -> str:
    """The first in the order of text of all ways to write a time without a zone: without the zeros at its end."""
    return text.rstrip("0").rstrip(".") if _FRACTION.search(text) else text


def own_name(table: str) -> str:
    """A table's name in its file, from ``name``, ``main.name`` or one of them quoted; a dot is a dot elsewhere."""
    try:
        *schema, name = split_name(table)
    except ConfigError:
        return table
    return table if schema and schema != ["main"] else name


def logical_field(name: str, declared: str, nullable: bool = True, *, strict: bool = False) -> pa.Field:
    """The Arrow field that a declared type promises. SQLite itself holds nobody to it.

    Its native type is in capitals, whatever was declared: what others write small, such as
    MySQL's ``varchar(20)``, binds them, and here it binds nobody.
    """
    upper = declared.upper() or "BLOB"  # without a type it keeps what it is given, as one of that type
    if strict and upper == "ANY":
        upper = "BLOB"
    decimal = _DECIMAL.search(upper)
    kind: pa.DataType
    if "JSON" in upper:
        return field(name, pa.string(), native=upper, nullable=nullable, json=True)
    if decimal and int(decimal[1]) <= 76:
        digits, scale = int(decimal[1]), int(decimal[2])
        kind = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
    elif "BOOL" in upper:
        kind = pa.bool_()
    elif upper.startswith("TIMESTAMPTZ"):
        kind = pa.timestamp("us", tz="UTC")
    elif upper.startswith(("TIMESTAMP", "DATETIME")):
        kind = pa.timestamp("us")
    elif upper == "DATE":
        kind = pa.date32()
    elif upper == "TIME":
        kind = pa.time64("us")
    else:
        kind = {"INTEGER": pa.int64(), "REAL": pa.float64(), "BLOB": pa.binary()}.get(affinity(upper), pa.string())
    return field(name, kind, native=upper, nullable=nullable)


class SQLiteTargetDialect(SQLiteDialect):
    """The same for a target, whose tables have plain names: a dot in one is a dot."""

    def table(self, name: str) -> str:
        return self.identifier(name)


DIALECT = SQLiteDialect()
TARGET_DIALECT = SQLiteTargetDialect()
TYPES = SQLiteTypes()
STRICT_TYPES = StrictTypes()
