"""Redshift's SQL. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

import pyarrow as pa

from retl.connectors.redshift.types import SPATIAL
from retl.connectors.sql.dialect import Dialect
from retl.model.schema import native_type

_LONGEST_TEXT = 65_535
_EPOCH = "1970-01-01 00:00:00"


class RedshiftDialect(Dialect):
    """Redshift, for rows that come over its protocol: whatever PostgreSQL's drivers would not know is cast to text."""

    name: ClassVar[str] = "redshift"
    folds_names: ClassVar[bool] = True
    backslash_escapes: ClassVar[bool] = True

    def literal(self, text: str, column: pa.Field) -> str:
        if pa.types.is_integer(column.type):
            return str(int(text))
        if pa.types.is_decimal(column.type):
            return format(Decimal(text), "f")
        if pa.types.is_timestamp(column.type):
            return f"CAST({self.string(text)} AS {'TIMESTAMPTZ' if column.type.tz else 'TIMESTAMP'})"
        return f"CAST({self.string(text)} AS DATE)" if pa.types.is_date(column.type) else self.string(text)

    def as_text(self, expression: str) -> str:
        # Without a length it would be cut after 256 bytes.
        return f"CAST({expression} AS VARCHAR({_LONGEST_TEXT}))"

    def select_expression(self, column: pa.Field, expression: str) -> str:
        kind, native = column.type, native_type(column)
        if native == "super":
            # A cast to text would make NULL of every array and object.
            return f"JSON_SERIALIZE({expression})"
        if native == "varbyte":
            return f"TO_HEX({expression})"
        if native in SPATIAL:
            return f"ST_AsText({expression})"
        plain = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
        return expression if plain or native.startswith("varchar") else self.as_text(expression)

    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        if pa.types.is_integer(column.type):
            # The distance between two whole numbers may be too long for one.
            return f"CAST({expression} AS NUMERIC(38, 0))" if column.type.bit_width == 64 else expression
        if pa.types.is_date(column.type):
            return f"DATEDIFF(day, {self.literal(_EPOCH[:10], column)}, {expression})"
        if pa.types.is_timestamp(column.type):
            return f"DATEDIFF(microsecond, {self.literal(_EPOCH, column)}, {expression})"
        return None

    def divide(self, dividend: str, divisor: int) -> str:
        return f"FLOOR({dividend} / {divisor})"

    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        # A remainder has the sign of its number, and the lowest number has no opposite.
        number = "0"
        for name in columns:
            number = f"FNV_HASH(COALESCE({self.as_text(self.identifier(name))}, ''), {number})"
        return f"ABS(MOD({number}, {modulus})) = {remainder}"

    def now(self, column: pa.Field) -> str:
        # The moment at which the transaction began, which is before its snapshot.
        return self.as_text("SYSDATE")


class UnloadDialect(RedshiftDialect):
    """Redshift, for rows that come in files of Parquet: what these have types for is not cast."""

    def select_expression(self, column: pa.Field, expression: str) -> str:
        kind, native = column.type, native_type(column)
        plain = pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_decimal(kind) or native == "super"
        return expression if plain else super().select_expression(column, expression)


DIALECT = RedshiftDialect()
UNLOADED = UnloadDialect()
