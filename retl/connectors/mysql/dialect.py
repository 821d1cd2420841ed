"""The SQL of MySQL and MariaDB, and what their types are in Arrow. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

import pyarrow as pa
from pymysql.constants import FIELD_TYPE, FLAG

from retl.connectors.mysql.rows import Kind
from retl.connectors.mysql.wire import VECTOR, WireField
from retl.connectors.rows.vectors import from_hex
from retl.connectors.sql.dialect import Dialect
from retl.model.errors import ConfigError
from retl.model.schema import field, native_type

_DECIMAL = re.compile(r"(?:decimal|numeric)\((\d+),(\d+)\)")
_LONG = re.compile(r"(?:var)?(?:char|binary)\((\d+)\)|(?:tiny|medium|long)?(?:text|blob)\b")
_LONGEST_NAME = 64
_MOST_INDEXED = 255
"""Characters, or bytes, of a value that stand in an index: more of them may not fit."""
_WHOLE = re.compile(r"(tinyint|smallint|mediumint|int|integer|bigint)\b")
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 32, "int": 32, "integer": 32, "bigint": 64}
_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
_UNSIGNED = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
_PLAIN: dict[str, pa.DataType] = {
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us"),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "time": pa.time64("us"),
    "year": pa.int16(),
    "bit": pa.uint64(),
}
_BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector")
_GEOMETRY = ("geometry", "point", "linestring", "polygon", "multi", "geom")
_WIRE_WHOLE = {
    FIELD_TYPE.TINY: 8,
    FIELD_TYPE.SHORT: 16,
    FIELD_TYPE.INT24: 32,
    FIELD_TYPE.LONG: 32,
    FIELD_TYPE.LONGLONG: 64,
}
_WIRE_NATIVE = {
    FIELD_TYPE.FLOAT: "float",
    FIELD_TYPE.DOUBLE: "double",
    FIELD_TYPE.DATE: "date",
    FIELD_TYPE.NEWDATE: "date",
    FIELD_TYPE.YEAR: "year",
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.GEOMETRY: "geometry",
}
_WIRE_TIMES = {FIELD_TYPE.DATETIME: "datetime", FIELD_TYPE.TIMESTAMP: "timestamp", FIELD_TYPE.TIME: "time"}
_BINARY_CHARSET = 63
_MOST_DIGITS = 76
_EXACT = frozenset({*_BITS, "decimal", "bit", "year", "date", "datetime", "timestamp", "time", "json"})
"""Types whose equal values are the same; and JSON, since MySQL does not overwrite a value with an equal one."""


class MySQLDialect(Dialect):
    """MySQL and MariaDB, in a session whose sql_mode and zone are ours."""

    backslash_escapes: ClassVar[bool] = True
    hash_comments: ClassVar[bool] = True
    name: ClassVar[str] = "mysql"
    has_indexes: ClassVar[bool] = True
    quote: ClassVar[str] = "`"
    folds_names: ClassVar[bool] = True
    begin: ClassVar[str] = "START TRANSACTION"
    newest_first: ClassVar[str] = "DESC"
    longest_name: ClassVar[int | None] = _LONGEST_NAME
    table_options: ClassVar[str] = " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4"

    def __init__(self, timezone: str | None = None) -> None:
        self._timezone = timezone

    def fold_table(self, name: str) -> str:
        return name  # the server's setting decides, and names are asked of it

    def empty(self, table: str) -> str:
        return f"TRUNCATE TABLE {table}"

    def indexed(self, column: str, native: str) -> str:
        found = _LONG.match(native.lower())
        if found is None or int(found[1] or _MOST_INDEXED + 1) <= _MOST_INDEXED:
            return self.identifier(column)
        return f"{self.identifier(column)}({_MOST_INDEXED})"

    def create_index(self, table: str, column: str) -> str:
        name = f"{column.partition('(')[0].strip('`')}_idx"[-_LONGEST_NAME:]
        return f"CREATE INDEX {self.identifier(name)} ON {table} ({column})"

    def logical_field(self, name: str, native: str) -> pa.Field:
        return logical_field(name, native)

    def same(self, left: str, right: str, word: str) -> str:
        """A condition for two equal values of a column whose type has this name."""
        as_bytes = f"CAST({left} AS BINARY) <=> CAST({right} AS BINARY)"
        if word in _EXACT:
            return f"{left} <=> {right}"
        # The text of a number may be rounded; but only the text shows the sign of zero.
        return f"{left} <=> {right} AND {as_bytes}" if word in ("float", "double") else as_bytes

    def content(self, columns: Sequence[str]) -> list[str]:
        # As one value: to compare texts by their bytes, whatever their collations.
        texts = ", ".join(f"COALESCE(HEX(CAST({column} AS BINARY)), 'N')" for column in columns)
        return [f"SHA2(CONCAT_WS(',', {texts}), 256)"]

    def literal(self, text: str, column: pa.Field) -> str:
        if pa.types.is_integer(column.type):
            return str(int(text))
        if pa.types.is_decimal(column.type):
            return format(Decimal(text), "f")
        return self.string(text)

    def as_text(self, expression: str) -> str:
        return f"CAST({expression} AS CHAR)"

    def select_expression(self, column: pa.Field, expression: str) -> str:
        native = native_type(column)
        filled = "zerofill" in native  # leading zeros are not part of the value
        if native.startswith("bit") or (filled and pa.types.is_integer(column.type)):
            return f"CAST({expression} AS UNSIGNED)"
        if filled and pa.types.is_decimal(column.type):
            return f"CAST({expression} AS DECIMAL({column.type.precision},{column.type.scale}))"
        if filled or pa.types.is_float32(column.type):
            # As FLOAT the server shows only six digits.
            return f"CAST({expression} AS DOUBLE)"
        return expression

    def text_of(self, column: pa.Field, expression: str) -> str:
        # The server's own text of a vector has six digits.
        return f"HEX({expression})" if native_type(column).startswith("vector") else self.as_text(expression)

    def read_text(self, column: pa.Field, texts: pa.Array) -> pa.Array:
        return from_hex(texts) if native_type(column).startswith("vector") else texts

    def alias(self, name: str) -> str:
        # The server keeps neither characters beyond U+FFFF nor spaces at the start; their order identifies the columns.
        kept = name == name.strip() and max(name) <= "\uffff"
        return super().alias(name) if kept else ""

    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        if pa.types.is_integer(column.type):
            # The distance between two whole numbers may be too long for one.
            return f"CAST({expression} AS DECIMAL(20,0))"
        if pa.types.is_date(column.type):
            return f"TO_DAYS({expression})"
        if pa.types.is_timestamp(column.type):
            return f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {expression})"
        return None

    def divide(self, dividend: str, divisor: int) -> str:
        return f"({dividend} DIV {divisor})"

    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        texts = ", ".join(f"IFNULL(CAST({self.identifier(name)} AS BINARY), '')" for name in columns)
        # A text too long for a packet is NULL, and its row would be in no part.
        return f"IFNULL(CRC32(CONCAT_WS('\\0', {texts})), 0) % {modulus} = {remainder}"

    def now(self, column: pa.Field) -> str:
        # In UTC: many servers have no named zones, so the cursor's own zone is applied to the answer.
        return "CAST(UTC_TIMESTAMP(6) AS CHAR)"


def logical_field(
    name: str, native: str, nullable: bool = True, *, json: bool = False, collation: str | None = None
) -> pa.Field:
    """The Arrow field of a column by its type as ``information_schema`` spells it."""
    word = native.lower()
    kind = _logical(word, name)
    return field(name, kind, native=native, nullable=nullable, json=json or word == "json", collation=collation)


def _logical(native: str, name: str) -> pa.DataType:
    decimal = _DECIMAL.match(native)
    if decimal:
        digits, scale = int(decimal[1]), int(decimal[2])
        if digits > _MOST_DIGITS:
            raise ConfigError(f"column {name!r} is {native}: Arrow's decimals have {_MOST_DIGITS} digits at most.")
        return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
    whole = _WHOLE.match(native)
    if whole:
        return (_UNSIGNED if "unsigned" in native else _SIGNED)[_BITS[whole[1]]]
    word = re.split(r"[\s(]", native, maxsplit=1)[0]
    if word in _PLAIN:
        return _PLAIN[word]
    return pa.binary() if word in _BYTES or word.startswith(_GEOMETRY) else pa.string()


def described_field(column: WireField) -> pa.Field:
    """The Arrow field of a result's column, from its description on the wire."""
    code, unsigned = column.type_code, bool(column.flags & FLAG.UNSIGNED)
    nullable = not column.flags & FLAG.NOT_NULL
    if code in _WIRE_WHOLE:
        bits = _WIRE_WHOLE[code]
        word = {8: "tinyint", 16: "smallint", 32: "int", 64: "bigint"}[bits]
        return logical_field(column.name, f"{word}{' unsigned' if unsigned else ''}", nullable)
    if code in (FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.DECIMAL):
        digits = max(1, column.length - (not unsigned) - (column.decimals > 0))
        return logical_field(column.name, f"decimal({max(digits, column.decimals)},{column.decimals})", nullable)
    if code in _WIRE_TIMES:
        # 31: the server leaves open how many digits there are.
        digits = 6 if column.decimals > 6 else column.decimals
        return logical_field(column.name, f"{_WIRE_TIMES[code]}({digits})", nullable)
    if code in _WIRE_NATIVE:
        return logical_field(column.name, _WIRE_NATIVE[code], nullable)
    if code == FIELD_TYPE.BIT:
        return logical_field(column.name, f"bit({column.length})", nullable)
    if code != FIELD_TYPE.NULL and (column.charset == _BINARY_CHARSET or code == VECTOR):
        return logical_field(column.name, "longblob", nullable)
    return logical_field(column.name, "longtext", nullable)


def wire_kind(column: pa.Field) -> Kind:
    """How the decoder reads a column of a result."""
    if pa.types.is_binary(column.type):
        return "binary"
    if pa.types.is_boolean(column.type):
        return "bool"
    return "utc" if pa.types.is_timestamp(column.type) and column.type.tz else "text"
