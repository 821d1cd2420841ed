"""Which column a type becomes in MySQL, and which existing column it fits into."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.connectors.mysql.dialect import logical_field
from retl.connectors.mysql.types import MySQLTypes, parse_type
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.schema import field

BIN = "character set utf8mb4 collate utf8mb4_0900_bin"


def declared(column: pa.Field, *, in_key: bool = False, mariadb: bool = False) -> str:
    schema = pa.schema([column])
    return MySQLTypes(schema, [column.name] if in_key else [], mariadb=mariadb).declare(column, in_key=in_key)


@pytest.mark.parametrize(
    ("kind", "native", "expected"),
    [
        (pa.bool_(), "", "tinyint(1)"),
        (pa.int8(), "", "tinyint"),
        (pa.uint64(), "", "bigint unsigned"),
        (pa.decimal128(38, 30), "", "decimal(38,30)"),
        (pa.decimal256(65, 0), "", "decimal(65,0)"),
        (pa.decimal128(5, -2), "", "decimal(7,0)"),
        (pa.float32(), "", "float"),
        (pa.float64(), "", "double"),
        (pa.date32(), "", "date"),
        (pa.timestamp("s"), "", "datetime"),
        (pa.timestamp("ms"), "", "datetime(3)"),
        (pa.timestamp("us"), "TIMESTAMP", "datetime(6)"),
        (pa.timestamp("s", "Asia/Shanghai"), "", "datetime(6)"),
        (pa.time64("us"), "", "time(6)"),
        (pa.string(), "VARCHAR", "longtext"),
        (pa.string(), "varchar(20)", "varchar(20)"),
        (pa.string(), "char(2)", "varchar(2)"),
        (pa.string(), "varchar(65533)", "longtext"),
        (pa.string(), "text", "longtext"),
        (pa.string(), "uuid", "varchar(36)"),
        (pa.uuid(), "", "varchar(36)"),
        (pa.binary(), "", "longblob"),
        (pa.binary(16), "", "varbinary(16)"),
        (pa.binary(), "varbinary(300)", "varbinary(300)"),
        (pa.json_(), "", "json"),
        (pa.list_(pa.int8()), "", "json"),
        (pa.dictionary(pa.int8(), pa.string()), "", "longtext"),
        (pa.null(), "", "longtext"),
    ],
    ids=str,
)
def test_a_type_is_declared_without_loss(kind: pa.DataType, native: str, expected: str) -> None:
    assert declared(field("c", kind, native=native)) == expected


@pytest.mark.parametrize(
    "native",
    [
        "tinyint(1)", "mediumint unsigned", "int(11)", "bigint unsigned zerofill", "year", "bit(10)", "decimal(20,6)", "float",
        "double(10,2)", "datetime", "datetime(3)", "time(2)", "enum('a','B c','it''s')", "set('x','y')", "binary(16)",
        "varbinary(33)", "point", "json", "date", "longblob",
    ],
)  # fmt: skip
def test_a_type_of_the_same_kind_of_server_is_taken_over(native: str) -> None:
    column = logical_field("c", native)
    assert declared(column) == native
    assert MySQLTypes(pa.schema([column]), [], mariadb=False).why_incompatible(column, column) is None


@pytest.mark.parametrize(
    "native",
    [
        "enum('a'), PRIMARY KEY (id)) SELECT * FROM other.salaries -- )",
        "enum('a') NOT NULL, DROP COLUMN name, RENAME TO other.t -- ')",
        "set('a','b'); DROP TABLE people; -- ')",
        "enum('a\\') , x INT) -- ')",
        "enum('a\\','b')",
        "enum('a' 'b')",
        "enum('a\nb','c') /* ) */ -- ')",
        "enum('a','b') comment 'x'",
        "enum()",
        "enum('a',)",
        "enum('a'b')",
        "int unsigned, x INT",
        "decimal(10,2)) -- ",
        "varchar(20) , x INT",
        "binary(16), x INT",
        "point, x INT",
    ],
)
def test_what_a_source_calls_a_type_never_becomes_a_statement(native: str) -> None:
    for text in (native, native.upper()):
        column = field("c", pa.binary() if text.lower().startswith(("binary", "point")) else pa.string(), native=text)
        for in_key in (False, True):
            assert not set(declared(column, in_key=in_key)) & set(";-'*")
        if text == native:
            with pytest.raises(UnsupportedError, match="unknown to retl"):
                parse_type(text).sql  # noqa: B018


@given(st.lists(st.text(), min_size=1), st.sampled_from(["enum", "set"]))
def test_any_members_come_back_as_they_were(members: list[str], word: str) -> None:
    # As both servers spell them in information_schema.
    spelled = [
        text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0").replace("\n", "\\n").replace("\r", "\\r")
        for text in members
    ]
    found = parse_type(f"{word}({','.join(map(chr(39).__add__, (text + chr(39) for text in spelled)))})")
    assert found.members == members
    literals = re.findall(r"'((?:[^'\\]|''|\\.)*)'", found.sql, re.DOTALL)
    assert [text.replace("''", "'").replace("\\\\", "\\") for text in literals] == members


def test_a_timestamp_that_may_be_null_says_so() -> None:
    assert declared(logical_field("c", "timestamp(6)")) == "timestamp(6) null"
    assert declared(logical_field("c", "timestamp(6)", nullable=False)) == "timestamp(6)"


@pytest.mark.parametrize(
    ("kind", "native", "expected"),
    [
        (pa.string(), "", f"varchar(768) {BIN}"),
        (pa.string(), "varchar(20)", f"varchar(20) {BIN}"),
        (pa.string(), "enum('a')", f"enum('a') {BIN}"),
        (pa.binary(), "", "varbinary(3072)"),
        (pa.binary(), "blob", "varbinary(3072)"),
        (pa.int64(), "", "bigint"),
    ],
    ids=str,
)
def test_a_key_fits_into_an_index_and_tells_everything_apart(kind: pa.DataType, native: str, expected: str) -> None:
    assert declared(field("c", kind, native=native), in_key=True) == expected
    for_mariadb = expected.replace("0900_bin", "nopad_bin")
    assert declared(field("c", kind, native=native), in_key=True, mariadb=True) == for_mariadb


@pytest.mark.parametrize(
    "kind",
    [pa.decimal128(38, 31), pa.decimal256(66, 0), pa.timestamp("ns"), pa.time64("ns"), pa.duration("s")],
    ids=str,
)
def test_what_has_no_lossless_form_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedError, match="no lossless form"):
        declared(pa.field("c", kind))


def test_json_is_no_key() -> None:
    with pytest.raises(ConfigError, match="part of a key"):
        declared(pa.field("c", pa.json_()), in_key=True)


@pytest.mark.parametrize(
    ("kind", "existing", "fits"),
    [
        (pa.int32(), "int", True),
        (pa.int64(), "int", False),
        (pa.int64(), "bigint unsigned", False),
        (pa.uint32(), "bigint", True),
        (pa.uint64(), "bigint", False),
        (pa.int32(), "decimal(10,0)", True),
        (pa.int32(), "decimal(10,2)", False),
        (pa.int64(), "double", False),
        (pa.int32(), "double", True),
        (pa.int16(), "year", False),
        (pa.bool_(), "tinyint(1)", True),
        (pa.decimal128(10, 2), "decimal(10,2)", True),
        (pa.decimal128(10, 2), "decimal(10,1)", False),
        (pa.decimal128(10, 2), "decimal(10,3)", False),
        (pa.decimal128(10, 2), "float", False),
        (pa.decimal128(10, 2), "double", True),
        (pa.decimal128(18, 2), "double", False),
        (pa.decimal128(9, 0), "int", True),
        (pa.float64(), "float", False),
        (pa.float32(), "double", True),
        (pa.float64(), "double(10,2)", False),
        (pa.float64(), "decimal(10,2)", False),
        (pa.date32(), "datetime", True),
        (pa.timestamp("us"), "date", False),
        (pa.timestamp("us"), "datetime", False),
        (pa.timestamp("us"), "datetime(6)", True),
        (pa.timestamp("ms"), "datetime(3)", True),
        (pa.timestamp("us"), "timestamp(6)", False),
        (pa.timestamp("us", "UTC"), "timestamp(6)", True),
        (pa.timestamp("us", "UTC"), "datetime(6)", True),
        (pa.time64("us"), "time(3)", False),
        (pa.string(), "varchar(3)", True),
        (pa.string(), "text character set latin1", False),
        (pa.string(), "text character set utf8mb3", True),
        (pa.string(), "enum('a')", True),
        (pa.string(), "int", False),
        (pa.string(), "datetime", False),
        (pa.string(), "json", True),
        (pa.string(), "blob", True),
        (pa.binary(), "text", False),
        (pa.binary(), "varbinary(3)", True),
        (pa.json_(), "longtext", True),
        (pa.json_(), "int", False),
        (pa.null(), "int", True),
    ],
    ids=str,
)
def test_what_would_lose_is_a_misfit(kind: pa.DataType, existing: str, fits: bool) -> None:
    column = pa.field("c", kind)
    there = logical_field("c", existing)
    assert (MySQLTypes(pa.schema([column]), [], mariadb=False).why_incompatible(column, there) is None) == fits


def test_wide_columns_share_a_row() -> None:
    columns = [field(f"c{number}", pa.string(), native=f"varchar({1000 * number})") for number in range(1, 8)]
    types = MySQLTypes(pa.schema(columns), [], mariadb=False)
    found = [types.declare(column, in_key=False) for column in columns]
    assert found == [*(f"varchar({1000 * number})" for number in range(1, 6)), "longtext", "longtext"]


def test_the_members_of_an_enumeration_are_read() -> None:
    assert parse_type("enum('a','B, c','it''s')").members == ["a", "B, c", "it's"]
