"""The types of StarRocks and Doris: how a table says them, how DuckDB holds them, how the wire shows them.

The wire follows ``PrimitiveType.toMysqlType()``, ``Type.getMysqlResultSetField{CharsetIndex,Length,Decimals}()`` of
StarRocks, and ``MysqlSerializer.java`` with ``PrimitiveType.toMysqlType()`` of Doris. The text follows StarRocks'
``be/src/util/mysql_row_buffer.cpp`` and ``map_column.cpp`` (nested: no spaces, ``"`` and ``\\`` alone are escaped, map
keys as they are) and the examples in the documentation of Doris (nested: a space after each comma, nothing escaped).

Not shown: years before 1 and after 9999, more than 38 digits in anything but the text of a DECIMAL, TIMESTAMP_NS. How
FLOAT and DOUBLE are written at the edge of exponents, and BOOLEAN within nested values of Doris, is believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from decimal import Decimal
from typing import Any

import numpy as np

UTF8, BINARY = 33, 63

TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG = 1, 2, 3, 4, 5, 8
TIMESTAMP, DATE, TIME, DATETIME = 7, 10, 11, 12
# 400 in the source of Doris, of which one byte fits into the packet.
MAP = 400 & 0xFF
JSON, NEWDECIMAL, BLOB, VAR_STRING, STRING = 245, 246, 252, 253, 254


@dataclass(frozen=True)
class Type:
    """A type as a table declares it: ``Type("DECIMAL", (38, 9))``, ``Type("MAP", (), (("key", ...), ("value", ...)))``."""

    name: str
    args: tuple[int, ...] = ()
    children: tuple[tuple[str, Type], ...] = ()

    def sql(self) -> str:
        """As ``information_schema`` writes it, in lower case."""
        name = self.name.lower()
        if self.name == "STRUCT":
            return f"struct<{', '.join(f'{child} {inner.sql()}' for child, inner in self.children)}>"
        if self.children:
            return f"{name}<{','.join(inner.sql() for _, inner in self.children)}>"
        return f"{name}({','.join(map(str, self.args))})" if self.args else name


@dataclass(frozen=True)
class Wire:
    """What a column definition packet says of a column."""

    code: int
    charset: int
    length: int
    decimals: int = 0


# How text columns of information_schema are declared, near enough.
NAME = Type("VARCHAR", (64,))
BIGINT = Type("BIGINT")

SYNONYMS = {
    "INTEGER": "INT",
    "BOOL": "BOOLEAN",
    "DATEV2": "DATE",
    "DATETIMEV2": "DATETIME",
    "DECIMALV2": "DECIMAL",
    "DECIMALV3": "DECIMAL",
    "DECIMAL32": "DECIMAL",
    "DECIMAL64": "DECIMAL",
    "DECIMAL128": "DECIMAL",
    "NUMERIC": "DECIMAL",
    "TEXT": "STRING",
    "JSONB": "JSON",
    "BINARY": "VARBINARY",
}
SKETCHES = frozenset({"BITMAP", "HLL", "PERCENTILE", "QUANTILE_STATE", "AGG_STATE"})
_COMMON = frozenset(
    [
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "INT",
        "BIGINT",
        "LARGEINT",
        "FLOAT",
        "DOUBLE",
        "DECIMAL",
        "CHAR",
        "VARCHAR",
        "STRING",
        "DATE",
        "DATETIME",
        "JSON",
        "ARRAY",
        "MAP",
        "STRUCT",
        "BITMAP",
        "HLL",
        "VARBINARY",
    ]
)
STARROCKS = _COMMON | {"PERCENTILE"}
DORIS = _COMMON | {"VARIANT", "IPV4", "IPV6", "QUANTILE_STATE", "AGG_STATE", "TIMESTAMPTZ"}

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(\d+)|`([^`]*)`|([<>(),:]))")


def parse_type(text: str, known: frozenset[str]) -> Type:
    """Read a type; ``ValueError`` if the system does not know it."""
    tokens = [next(filter(None, found)) for found in _TOKEN.findall(text)]
    if "".join(tokens) != re.sub(r"[\s`]", "", text):
        raise ValueError(text)
    kind, rest = _type(tokens, known)
    if rest:
        raise ValueError(text)
    return kind


def _type(tokens: list[str], known: frozenset[str]) -> tuple[Type, list[str]]:
    if not tokens:
        raise ValueError("a type is missing")
    name = tokens[0].upper()
    name, rest = SYNONYMS.get(name, name), tokens[1:]
    if name not in known:
        raise ValueError(name)
    args: list[int] = []
    children: list[tuple[str, Type]] = []
    if rest and rest[0] == "(":
        close = rest.index(")")
        args = [int(word) for word in rest[1:close] if word != ","]
        rest = rest[close + 1 :]
    elif rest and rest[0] == "<" and name in {"ARRAY", "MAP", "STRUCT"}:
        while rest[0] != ">":
            rest = rest[1:]
            label = ""
            if name == "STRUCT":
                label, rest = rest[0], rest[2:] if rest[1] == ":" else rest[1:]
            child, rest = _type(rest, known)
            children.append((label, child))
            if not rest:
                raise ValueError("> is missing")
        rest = rest[1:]
        if len(children) != {"ARRAY": 1, "MAP": 2}.get(name, len(children)):
            raise ValueError(name)
    if name == "DECIMAL":
        args = [*args, *(10, 0)[len(args) :]] if len(args) < 2 else args
    return Type(name, tuple(args), tuple(children)), rest


def held(kind: Type) -> str:
    """The type of DuckDB that holds a column."""
    match kind.name:
        case "DECIMAL" if kind.args[0] <= 38:
            return f"DECIMAL({kind.args[0]},{kind.args[1]})"
        case "ARRAY":
            return f"{held(kind.children[0][1])}[]"
        case "MAP":
            return f"MAP({held(kind.children[0][1])}, {held(kind.children[1][1])})"
        case "STRUCT":
            return f"STRUCT({', '.join(f'{_quoted(name)} {held(child)}' for name, child in kind.children)})"
    plain = {"LARGEINT": "HUGEINT", "INT": "INTEGER", "DATETIME": "TIMESTAMP", "VARBINARY": "BLOB"}
    same = {"BOOLEAN", "TINYINT", "SMALLINT", "BIGINT", "FLOAT", "DOUBLE", "DATE", "TIMESTAMPTZ"}
    return kind.name if kind.name in same else plain.get(kind.name, "VARCHAR")


def of_duckdb(text: str, *, largeint: bool) -> Type:
    """The type of an expression, as DuckDB computed it; sums of BIGINT stay BIGINT in both systems."""
    plain = {"INTEGER": "INT", "TIMESTAMP": "DATETIME", "BLOB": "VARBINARY", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
    if text in {"BOOLEAN", "TINYINT", "SMALLINT", "BIGINT", "FLOAT", "DOUBLE", "DATE"}:
        return Type(text)
    if text in plain:
        return Type(plain[text])
    if text == "HUGEINT":
        return Type("LARGEINT" if largeint else "BIGINT")
    if found := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", text):
        return Type("DECIMAL", (int(found[1]), int(found[2])))
    return Type("VARCHAR", (65533,))


def starrocks_wire(kind: Type) -> Wire:
    """How StarRocks announces a column."""
    if wire := _numbers(kind, sign=3):
        return wire
    length = (kind.args[0] if kind.args else 64) * 3
    match kind.name:
        case "LARGEINT":
            return Wire(STRING, UTF8, 40)
        case "DATETIME":
            return Wire(DATETIME, BINARY, 19)
        case "JSON":
            return Wire(STRING, UTF8, 60)
        case "CHAR" | "BITMAP" | "HLL":
            return Wire(STRING, UTF8, length)
        case "PERCENTILE":
            return Wire(STRING, BINARY, 60)
        case "VARBINARY":
            return Wire(BLOB, BINARY, length)
        case "STRING":
            return Wire(VAR_STRING, UTF8, 65533 * 3)
        case "ARRAY" | "MAP" | "STRUCT":
            return Wire(VAR_STRING, UTF8, 60)
    return Wire(VAR_STRING, UTF8, length)


def doris_wire(kind: Type) -> Wire:
    """How Doris announces a column. All text has the length 255, whatever it holds."""
    if wire := _numbers(kind, sign=1):
        return wire
    match kind.name:
        case "DATETIME":
            return Wire(DATETIME, BINARY, 19, _scale(kind))
        case "TIMESTAMPTZ":
            return Wire(TIMESTAMP, BINARY, 32, _scale(kind))
        case "JSON" | "VARIANT":
            return Wire(JSON, UTF8, 255)
        case "STRING":
            return Wire(BLOB, UTF8, 255)
        case "VARBINARY":
            return Wire(BLOB, BINARY, 255)
        case "MAP":
            return Wire(MAP, UTF8, 255)
    return Wire(STRING, UTF8, 255)


def _numbers(kind: Type, sign: int) -> Wire | None:
    """What both say alike but for the length of a DECIMAL."""
    plain = {
        "BOOLEAN": Wire(TINY, BINARY, 1),
        "TINYINT": Wire(TINY, BINARY, 4),
        "SMALLINT": Wire(SHORT, BINARY, 6),
        "INT": Wire(LONG, BINARY, 11),
        "BIGINT": Wire(LONGLONG, BINARY, 20),
        "FLOAT": Wire(FLOAT, BINARY, 12, 31),
        "DOUBLE": Wire(DOUBLE, BINARY, 22, 31),
        "DATE": Wire(DATE, BINARY, 10),
    }
    if kind.name == "DECIMAL":
        precision, scale = kind.args
        return Wire(NEWDECIMAL, BINARY, precision + (scale > 0) + sign, scale)
    return plain.get(kind.name)


NO_UTF8 = "\uf8ff".encode()
"""Stands for a byte that is no UTF-8, which a VARCHAR of these systems may hold, and one of DuckDB not."""


class Text:
    """Writes values as rows carry them, for one session."""

    def __init__(self, *, doris: bool, zone: tzinfo) -> None:
        self._doris = doris
        self._zone = zone
        self._comma = ", " if doris else ","

    def writer(self, kind: Type) -> Callable[[Any], bytes | None]:
        """A function from a value of DuckDB's to the bytes of its column, None for NULL."""
        if kind.name in SKETCHES:
            return lambda _: None
        if kind.name == "VARBINARY":
            return lambda value: value
        return lambda value: None if value is None else self.text(value, kind).encode().replace(NO_UTF8, b"\xff")

    def text(self, value: Any, kind: Type) -> str:
        match kind.name:
            case "BOOLEAN":
                return str(int(value))
            case "FLOAT":
                return str(np.float32(value)).removesuffix(".0")
            case "DOUBLE":
                return repr(float(value)).removesuffix(".0")
            case "DECIMAL" if isinstance(value, Decimal):
                return f"{value:f}"
            case "DATETIME":
                return self._datetime(value, kind)
            case "TIMESTAMPTZ":
                return str(value.astimezone(self._zone).isoformat(" ", "microseconds"))
            case "ARRAY":
                return f"[{self._comma.join(self._inner(item, kind.children[0][1]) for item in value)}]"
            case "MAP":
                key, inner = kind.children[0][1], kind.children[1][1]
                pairs = (f"{self._inner(k, key)}:{self._inner(v, inner)}" for k, v in _pairs(value))
                return f"{{{self._comma.join(pairs)}}}"
            case "STRUCT":
                fields = (f'"{name}":{self._inner(value[name], child)}' for name, child in kind.children)
                return f"{{{self._comma.join(fields)}}}"
        return value.isoformat() if isinstance(value, date) else str(value)

    def _inner(self, value: Any, kind: Type) -> str:
        if value is None or kind.name in SKETCHES:
            return "null"
        if kind.name == "VARBINARY":
            return f'"{value.hex().upper()}"'
        text = self.text(value, kind)
        bare = kind.children or kind.name in {
            *("BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "LARGEINT", "FLOAT", "DOUBLE", "DECIMAL")
        }
        if bare:
            return text
        return f'"{text}"' if self._doris else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _datetime(self, value: datetime, kind: Type) -> str:
        if self._doris:
            scale = _scale(kind)
            return value.isoformat(" ", "microseconds")[: 19 + (scale > 0) + scale]
        return value.isoformat(" ")


def json_text(text: str | None, *, doris: bool) -> str | None:
    """JSON as it comes back: StarRocks writes it with spaces, Doris without; ``ValueError`` if it is none."""
    if text is None:
        return None
    separators = (",", ":") if doris else (", ", ": ")
    return json.dumps(json.loads(text), ensure_ascii=False, separators=separators)


def _scale(kind: Type) -> int:
    return kind.args[0] if kind.args else 0


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    # DuckDB gives a map with keys that Python can't hash as two lists.
    if isinstance(value, Mapping) and set(value) == {"key", "value"} and isinstance(value["key"], list):
        return list(zip(value["key"], value["value"], strict=True))
    return list(value.items())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
