"""PostgreSQL's SQL. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

import pyarrow as pa

from retl.connectors.postgres.types import logical_field
from retl.connectors.sql.dialect import Dialect
from retl.model.cursor import CursorFamily
from retl.model.errors import ConfigError
from retl.model.schema import collation, native_type

_LONGEST_NAME = 63
_LARGEST = 2**63 - 1
_FAMILIES = (
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz, "timestamptz"),
    (pa.types.is_timestamp, "timestamp"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
)
_TEXTS = ("text", "character varying")
_BYTEWISE = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8", "ucs_basic", "pg_c_utf8"})
"""Collations that sort UTF-8 by its bytes."""

_SETTLE = (
    "DO $settle$ DECLARE c record; BEGIN FOR c IN SELECT o.name AS old, o.own, t.name AS here FROM (SELECT {table}) AS t (name), "
    "LATERAL (SELECT k.conname, {name} || CASE k.contype WHEN 'p' THEN '_pkey' ELSE '_' || a.attname || '_not_null' END "
    "FROM pg_constraint AS k JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] "
    "WHERE k.conrelid = t.name::regclass AND k.contype IN ('p', 'n') AND starts_with(k.conname, '_retl_new_')) AS o (name, own), "
    "pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace WHERE r.oid = t.name::regclass AND octet_length(o.own) <= 63 "
    "AND to_regclass(format('%I.%I', n.nspname, o.own)) IS NULL "
    "LOOP EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', c.here, c.old, c.own); END LOOP; END $settle$"
)
"""The server has named the constraints of a first load after its shadow."""


class PostgreSQLDialect(Dialect):
    """PostgreSQL, in a session whose settings are ours: text with standard strings, times in UTC."""

    name: ClassVar[str] = "postgres"
    has_indexes: ClassVar[bool] = True
    without_locks: ClassVar[str] = " CONCURRENTLY"
    longest_name: ClassVar[int | None] = _LONGEST_NAME
    begin: ClassVar[str] = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

    def identifier(self, name: str) -> str:
        """A quoted name. The server would cut one of more than 63 bytes in silence, so it is refused."""
        if len(name.encode()) > _LONGEST_NAME:
            raise ConfigError(
                f"the name {name!r} has {len(name.encode())} bytes in UTF-8, but PostgreSQL keeps only {_LONGEST_NAME}.",
                remedy="choose a shorter one: rename for a column, to for a table.",
            )
        return super().identifier(name)

    give_up_soon: ClassVar[tuple[str, ...]] = ("SET LOCAL lock_timeout = '300ms'",)

    def empty(self, table: str) -> str:
        return f"TRUNCATE TABLE {table}"

    def settle(self, table: str, name: str) -> list[str]:
        return [_SETTLE.format(table=self.string(table), name=self.string(name))]

    def drop_unused(self, table: str) -> str:
        body = f"BEGIN LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT; DROP TABLE {table}; "
        return f"DO {self.string(f'{body}EXCEPTION WHEN lock_not_available OR undefined_table THEN NULL; END')}"

    def differs(self, left: str, right: str, column: pa.Field) -> str:
        # By their bytes: 1.0 and 1.00, a month and 30 days, and 0.0 and -0.0 are equal to IS DISTINCT FROM.
        return f"record_image_ne(ROW({left}), ROW({right}))"

    def content(self, columns: Sequence[str]) -> list[str]:
        # Not every type can be grouped: json and xml have no equality.
        return [f"CAST(ROW({', '.join(columns)}) AS text)"]

    def literal(self, text: str, column: pa.Field) -> str:
        if pa.types.is_integer(column.type):
            return str(int(text))
        if pa.types.is_decimal(column.type):
            return format(Decimal(text), "f")
        # Without the column's own precision, to which the text would be rounded.
        word = next((word for test, word in _FAMILIES if test(column.type)), None)
        return f"CAST({self.string(text)} AS {word})" if word else self.string(text)

    def logical_field(self, name: str, native: str) -> pa.Field:
        return logical_field(name, native)

    def as_text(self, expression: str) -> str:
        return f"CAST({expression} AS text)"

    def select_expression(self, column: pa.Field, expression: str) -> str:
        # As text it would have the sign and the marks of a currency.
        return f"CAST({expression} AS numeric)" if native_type(column) == "money" else expression

    def family(self, column: pa.Field) -> CursorFamily | None:
        native = native_type(column)
        if native == "numeric":
            return "decimal"
        if native.startswith(_TEXTS) and collation(column) in _BYTEWISE:
            return "text"
        return super().family(column)

    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        if pa.types.is_integer(column.type):
            # The distance between two whole numbers may be too long for one.
            return f"CAST({expression} AS numeric)"
        if pa.types.is_date(column.type):
            return f"CASE WHEN isfinite({expression}) THEN {expression} - DATE '1970-01-01' END"
        if pa.types.is_timestamp(column.type):
            return f"CASE WHEN isfinite({expression}) THEN EXTRACT(EPOCH FROM {expression}) * 1000000 END"
        return None

    def divide(self, dividend: str, divisor: int) -> str:
        return f"DIV({dividend}, {divisor})"

    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        row = f"CAST(ROW({self.identifiers(columns)}) AS text)"
        return f"(hashtextextended({row}, 0) & {_LARGEST}) % {modulus} = {remainder}"

    def now(self, column: pa.Field) -> str:
        return "CAST(clock_timestamp() AT TIME ZONE 'UTC' AS text)"


DIALECT = PostgreSQLDialect()
