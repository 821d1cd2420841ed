"""Arrow's types in MySQL and MariaDB: how a column is declared, and what fits into what. No I/O.

A column from a server of the same kind is declared as it was there: its spelling of the type
travels in the field's metadata. That text is foreign: it is used only if it is understood to
the last character, and the members of an ENUM or SET are quoted anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from retl.connectors.mysql.dialect import MySQLDialect, logical_field
from retl.connectors.sql.tables import TypeMap
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.schema import is_bytes, is_json, is_text, native_type, value_type, vector_size

_WHOLE: dict[pa.DataType, str] = {
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.uint8(): "tinyint unsigned",
    pa.uint16(): "smallint unsigned",
    pa.uint32(): "int unsigned",
    pa.uint64(): "bigint unsigned",
}
BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_DIGITS_OF_BITS = {8: 3, 16: 5, 24: 8, 32: 10, 64: 20}
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
_CHOICES = frozenset({"enum", "set"})
_ADDRESSES = {"uuid": 36, "inet4": 15, "inet6": 45}
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_SHAPES = frozenset(
    {
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geomcollection",
        "geometrycollection",
    }
)
_TIMES = frozenset({"datetime", "timestamp", "time"})
_UNICODE = frozenset({"utf8mb4", "utf8mb3", "utf8", "utf16", "utf16le", "utf32", "ucs2", "gb18030"})
_MEMBER = r"'(?:[^'\\]|''|\\[\\0nr])*'"
_MEMBERS = rf"{_MEMBER}(?:,{_MEMBER})*"
_ESCAPE = re.compile(r"''|\\(.)")
_ESCAPED = {None: "'", "\\": "\\", "0": "\0", "n": "\n", "r": "\r"}
_TYPE = re.compile(
    rf"([a-z][a-z0-9]*)(?:\((\d+(?:,\d+)?|{_MEMBERS})\))?((?: unsigned| zerofill)*)(?: character set (\w+))?"
    r"(?: collate \w+)?(?: null)?(?: /\*[^*]*\*/)?"
)
# Declared as they are, if the Arrow type is the one that belongs to them.
_KEPT = re.compile(
    r"(?:tinyint|smallint|mediumint|int|bigint)(?:\(\d+\))?(?: unsigned)?(?: zerofill)?|year(?:\(4\))?|bit\(\d+\)|"
    r"(?:float|double|decimal)(?:\(\d+,\d+\))?(?: unsigned)?(?: zerofill)?|date|(?:datetime|timestamp|time)(?:\(\d\))?|"
    rf"(?:enum|set)\({_MEMBERS}\)|binary\(\d+\)|tinyblob|blob|mediumblob|longblob|vector\(\d+\)|{'|'.join(_SHAPES)}"
)
_LENGTH = re.compile(r"(?:(?:var)?(?:char|binary)|character(?: varying)?)\((\d+)\)", re.IGNORECASE)

_INDEX_BYTES = 3072
_KEY_BYTES = 16
"""Bytes in an index for a key column that is neither text nor bytes: an upper bound."""
_ROW_BYTES = 65_535 - 4_096
_CHARACTER_BYTES = 4


@dataclass(frozen=True)
class ColumnType:
    """A column's type, taken apart: ``decimal(10,2) unsigned`` is ``decimal``, ``10,2``, unsigned."""

    word: str
    inner: str = ""
    suffix: str = ""
    charset: str = ""
    known: bool = True
    """Whether its spelling was understood to the last character."""

    @property
    def unsigned(self) -> bool:
        return bool(self.suffix)

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(number) for number in self.inner.split(",")) if self.inner else ()

    @property
    def fraction(self) -> int:
        """Digits of a second that it keeps."""
        return int(self.inner or 0)

    @property
    def members(self) -> list[str]:
        """The members of an ENUM or SET."""
        return [_ESCAPE.sub(lambda found: _ESCAPED[found[1]], text[1:-1]) for text in re.findall(_MEMBER, self.inner)]

    @property
    def sql(self) -> str:
        """The type for a statement, built from its parts. Raises ``UnsupportedError`` if they are unknown."""
        if not self.known:
            raise UnsupportedError(
                f"the type {self.word[:100]!r} is unknown to retl.", remedy="leave the column out with columns."
            )
        inner = ",".join(map(MySQLDialect().string, self.members)) if self.word in _CHOICES else self.inner
        return self.word + (f"({inner})" if inner else "") + self.suffix

    @property
    def is_bytes(self) -> bool:
        """Whether its values are bytes, which travel as hexadecimal digits."""
        return self.word in _BYTES or self.word in _SHAPES or self.word == "vector"


def parse_type(native: str) -> ColumnType:
    """Take a type apart, as ``information_schema`` or ``declare`` spells it."""
    # The members of an ENUM keep their case.
    found = _TYPE.fullmatch(native) or _TYPE.fullmatch(native.lower())
    if found is None or not found[1]:
        return ColumnType(native.lower(), known=False)
    word = {"integer": "int", "numeric": "decimal"}.get(found[1], found[1])
    return ColumnType(word, found[2] or "", found[3], found[4] or "")


class MySQLTypes(TypeMap):
    """Arrow's types in one table, whose key must fit into an index and whose columns must fit into a row."""

    def __init__(self, schema: pa.Schema, key: Sequence[str], *, mariadb: bool, version: tuple[int, ...] = ()) -> None:
        self._exact = exact_collation(mariadb, version)
        self._has_vectors = version >= ((11, 7) if mariadb else (9, 0))
        wide = [column for column in schema if column.name in key and _is_wide(column.type)]
        room = _INDEX_BYTES - _KEY_BYTES * (len(key) - len(wide))
        self._key_bytes = room // max(1, len(wide))
        self._long = self._too_long(schema, key)

    def _too_long(self, schema: pa.Schema, key: Sequence[str]) -> set[str]:
        """Columns that together would make a row too long; the longest ones are kept outside of it."""
        lengths = {column.name: _row_bytes(column) for column in schema if column.name not in key}
        total = sum(lengths.values()) + (_INDEX_BYTES if key else 0)
        chosen: set[str] = set()
        for name in sorted(lengths, key=lambda name: -lengths[name]):
            if total <= _ROW_BYTES:
                break
            total -= lengths[name]
            chosen.add(name)
        return chosen

    def declare(self, column: pa.Field, *, in_key: bool) -> str:
        kind = value_type(column.type)
        dimensions = vector_size(column)
        if dimensions is not None and self._has_vectors:
            return f"vector({dimensions})"
        json = is_json(column) or pa.types.is_nested(kind) or kind == pa.json_()
        if json:
            if in_key:
                raise ConfigError(f"column {column.name!r} holds JSON, which cannot be part of a key.")
            return "json"
        kept = _kept(column, kind)
        if kept is not None:
            return self._in_key(kept, in_key) + (" null" if kept.startswith("timestamp") and column.nullable else "")
        if is_text(kind) or kind == pa.uuid():
            return self._declare_text(column, kind, in_key)
        if is_bytes(kind):
            return self._declare_bytes(column, kind, in_key)
        declared = _declare_value(column.name, kind)
        if declared is None:
            raise UnsupportedError(
                f"column {column.name!r} is of type {column.type}, which has no lossless form in MySQL.",
                remedy="convert it with expressions (fewer digits, or text), or leave it out with columns.",
            )
        return declared

    def _in_key(self, declared: str, in_key: bool) -> str:
        if not in_key:
            return declared
        if declared.startswith(("enum", "set")):
            return f"{declared} {self._exact}"
        if parse_type(declared).word in _BYTES - {"binary"}:
            return f"varbinary({self._key_bytes})"
        return declared

    def _declare_text(self, column: pa.Field, kind: pa.DataType, in_key: bool) -> str:
        declared = _text_length(column, kind)
        if in_key:
            most = self._key_bytes // _CHARACTER_BYTES
            return f"varchar({min(declared or most, most)}) {self._exact}"
        if declared is None or column.name in self._long:
            return "longtext"
        return f"varchar({declared})"

    def _declare_bytes(self, column: pa.Field, kind: pa.DataType, in_key: bool) -> str:
        declared = _bytes_length(column, kind)
        if in_key:
            return f"varbinary({min(declared or self._key_bytes, self._key_bytes)})"
        if declared is None or column.name in self._long:
            return "longblob"
        return f"varbinary({declared})"

    def why_incompatible(self, column: pa.Field, existing: pa.Field) -> str | None:
        kind, there = value_type(column.type), parse_type(native_type(existing))
        if there.charset and there.charset not in _UNICODE:
            return f"its character set {there.charset} does not hold every character"
        if pa.types.is_null(kind):
            return None
        if there.word == "vector" and (dimensions := vector_size(column)) is not None:
            return None if there.inner == str(dimensions) else f"it holds vectors of {there.inner} dimensions"
        kept = _kept(column, kind)
        if kept is not None and parse_type(kept) == there:
            return None
        if is_json(column) or pa.types.is_nested(kind) or kind == pa.json_():
            return None if there.word == "json" or there.word in _TEXTS else "it does not hold JSON"
        if is_text(kind) or kind == pa.uuid():
            takes = there.word in _TEXTS or there.word in _CHOICES or there.word in ("json", *_ADDRESSES)
            return None if takes or there.word in _BYTES else "text can be read in more than one way"
        if is_bytes(kind):
            return None if there.word in _BYTES else "bytes are not text" if there.word in _TEXTS else _OTHER
        if pa.types.is_boolean(kind):
            return None if there.word in (*BITS, "bit", "decimal") else _OTHER
        if pa.types.is_integer(kind):
            return _misfit_whole(kind, there)
        if pa.types.is_decimal(kind):
            return _misfit_decimal(kind, there)
        if pa.types.is_floating(kind):
            if there.word not in ("float", "double"):
                return "it would be rounded" if there.word in ("decimal", *BITS) else _OTHER
            narrow = there.word == "float" and not kind.bit_width <= 32
            return "it would be rounded" if narrow or there.inner else None
        return _misfit_time(column, kind, there)


_OTHER = "it is of another kind"


def exact_collation(mariadb: bool, version: tuple[int, ...] = ()) -> str:
    """Text under which keys that differ in case, accents or trailing spaces stay different."""
    if mariadb:
        return "character set utf8mb4 collate utf8mb4_nopad_bin"
    known = not version or version >= (8, 0, 17)
    return f"character set utf8mb4 collate {'utf8mb4_0900_bin' if known else 'utf8mb4_bin'}"


def _is_wide(kind: pa.DataType) -> bool:
    kind = value_type(kind)
    return is_text(kind) or is_bytes(kind) or kind == pa.uuid()


def _kept(column: pa.Field, kind: pa.DataType) -> str | None:
    """The type that the column had at a MySQL or MariaDB source, if it can have that here too."""
    native = native_type(column)
    if not _KEPT.fullmatch(native) or (native.startswith("decimal") and not _fits_decimal(kind)):
        return None
    if native.startswith(("enum", "set")) and "?" in native:
        return None  # the catalog shows a character beyond U+FFFF like this: the member is unknown
    return parse_type(native).sql if logical_field(column.name, native).type == kind else None


def length(native: str) -> int | None:
    """The declared length of a column of text or bytes, if any."""
    found = _LENGTH.fullmatch(native)
    return int(found[1]) if found else None


def _text_length(column: pa.Field, kind: pa.DataType) -> int | None:
    if kind == pa.uuid():
        return 36
    native = native_type(column)
    if native.lower() in _ADDRESSES:
        return _ADDRESSES[native.lower()]
    declared = length(native) or 0
    return declared if 0 < declared <= _ROW_BYTES // _CHARACTER_BYTES else None


def _bytes_length(column: pa.Field, kind: pa.DataType) -> int | None:
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width) or 1
    declared = length(native_type(column)) or 0
    return declared if 0 < declared <= _ROW_BYTES else None


def _row_bytes(column: pa.Field) -> int:
    """The bytes that a column with a declared length takes in a row."""
    kind = value_type(column.type)
    if is_json(column) or _kept(column, kind) is not None:
        return 16
    if is_text(kind) or kind == pa.uuid():
        return (_text_length(column, kind) or 3) * _CHARACTER_BYTES
    return (_bytes_length(column, kind) or 12) if is_bytes(kind) else 16


def _fits_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind) and kind.precision <= 65 and 0 <= kind.scale <= 30)


def _declare_value(name: str, kind: pa.DataType) -> str | None:
    """The type of a column that holds numbers or times; ``None`` if no type is lossless."""
    if kind in _WHOLE:
        return _WHOLE[kind]
    if pa.types.is_boolean(kind):
        return "tinyint(1)"
    if pa.types.is_decimal(kind):
        scale = max(kind.scale, 0)
        precision = max(kind.precision - min(kind.scale, 0), scale)
        return f"decimal({precision},{scale})" if precision <= 65 and scale <= 30 else None
    if pa.types.is_floating(kind):
        return "double" if kind.bit_width == 64 else "float"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind) and kind.unit != "ns":
        digits = 6 if kind.tz else _UNIT_DIGITS[kind.unit]
        return f"datetime({digits})" if digits else "datetime"
    if pa.types.is_time(kind) and kind.unit != "ns":
        return "time(6)"
    return "longtext" if pa.types.is_null(kind) else None


def _misfit_whole(kind: pa.DataType, there: ColumnType) -> str | None:
    signed, bits = pa.types.is_signed_integer(kind), int(kind.bit_width)
    if there.word in BITS:
        room = BITS[there.word]
        if signed:
            return None if not there.unsigned and bits <= room else "it does not hold all of these numbers"
        return None if bits < room + there.unsigned else "it does not hold all of these numbers"
    if there.word == "decimal":
        digits, scale = there.numbers
        return None if digits - scale >= _DIGITS_OF_BITS[bits] else "it has too few digits"
    if there.word == "bit":
        return None if not signed and there.numbers[0] >= bits else "it does not hold all of these numbers"
    if there.word in ("float", "double"):
        kept = 24 if there.word == "float" else 53
        return None if bits <= kept and not there.inner else f"it keeps only {kept} bits of a whole number"
    return _OTHER


def _misfit_decimal(kind: pa.DataType, there: ColumnType) -> str | None:
    scale = max(kind.scale, 0)
    digits = kind.precision - kind.scale
    if there.word == "decimal":
        room, fraction = there.numbers
        if scale > fraction:
            return f"it keeps only {fraction} digits after the point"
        return None if digits <= room - fraction else f"it keeps only {room - fraction} digits before the point"
    if there.word in BITS:
        enough = scale == 0 and digits < _DIGITS_OF_BITS[BITS[there.word]]
        return None if enough else "it keeps no digits after the point" if scale else "it has too few digits"
    if there.word in ("float", "double"):
        return None if there.word == "double" and kind.precision <= 15 and not there.inner else "it would be rounded"
    return _OTHER


def _misfit_time(column: pa.Field, kind: pa.DataType, there: ColumnType) -> str | None:
    if pa.types.is_date(kind):
        return None if there.word in ("date", "datetime") else _OTHER
    word = "time" if pa.types.is_time(kind) else "datetime"
    if word == "time" and there.word != "time":
        return _OTHER
    if word == "datetime":
        if there.word == "date":
            return "it keeps no time of day"
        if there.word == "timestamp" and not kind.tz:
            return "one has a time zone and the other has none"
        if there.word not in ("datetime", "timestamp"):
            return _OTHER
    digits = _fraction(column, kind)
    return None if digits <= there.fraction else f"it keeps only {there.fraction} digits of a second"


def _fraction(column: pa.Field, kind: Any) -> int:
    """How many digits of a second a column of times may have."""
    kept = _kept(column, kind)
    return parse_type(kept).fraction if kept is not None else _UNIT_DIGITS[kind.unit]
