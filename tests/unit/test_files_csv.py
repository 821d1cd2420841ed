"""CSV files to Arrow: every value exactly, every row that does not fit a reject with its line."""

from __future__ import annotations

import codecs
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.base import REJECT
from retl.connectors.files.formats import LINE, FileUnreadable, format_for, merged
from retl.model.errors import ConfigError
from tests.formats import good, read, reasons, types

at = datetime.fromisoformat

# After the descriptions of csv-spectrum: files that break readers, and what they hold.
SPECTRUM: dict[str, tuple[bytes, list[dict[str, Any]]]] = {
    "comma_in_quotes": (
        b'first,last,address\nJohn,Doe,"120 any st., Anytown, WW 08123"\n',
        [{"first": "John", "last": "Doe", "address": "120 any st., Anytown, WW 08123"}],
    ),
    "empty": (b'a,b,c\n1,"",""\n2,3,4\n', [{"a": 1, "b": "", "c": ""}, {"a": 2, "b": "3", "c": "4"}]),
    "empty_crlf": (b'a,b,c\r\n1,"",""\r\n2,3,4\r\n', [{"a": 1, "b": "", "c": ""}, {"a": 2, "b": "3", "c": "4"}]),
    "escaped_quotes": (b'a,b\n1,"ha ""ha"" ha"\n3,4\n', [{"a": 1, "b": 'ha "ha" ha'}, {"a": 3, "b": "4"}]),
    "json": (
        b'key,val\n1,"{""type"": ""Point"", ""coordinates"": [102.0, 0.5]}"\n',
        [{"key": 1, "val": '{"type": "Point", "coordinates": [102.0, 0.5]}'}],
    ),
    "newlines": (
        b'a,b,c\n1,2,3\n"Once upon \na time",5,6\n7,8,9\n',
        [{"a": "1", "b": 2, "c": 3}, {"a": "Once upon \na time", "b": 5, "c": 6}, {"a": "7", "b": 8, "c": 9}],
    ),
    "newlines_crlf": (
        b'a,b\r\n1,2\r\n"Once upon \r\na time",5\r\n',
        [{"a": "1", "b": 2}, {"a": "Once upon \r\na time", "b": 5}],
    ),
    "quotes_and_newlines": (b'a,b\n1,"ha \n""ha"" \nha"\n3,4\n', [{"a": 1, "b": 'ha \n"ha" \nha'}, {"a": 3, "b": "4"}]),
    "utf8": ("a,b\n1,ʤ\n4,中文\n".encode(), [{"a": 1, "b": "ʤ"}, {"a": 4, "b": "中文"}]),
    "lone carriage returns": (b"a,b\r1,2\r3,4\r", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
    "no last line break": (b"a,b\n1,2\n3,4", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
    "the end mark of COPY": (b"a\nx\n\\.\ny\n", [{"a": "x"}, {"a": "\\."}, {"a": "y"}]),
    "a NUL": (b"a,b\nx\0y,1\n", [{"a": "x\0y", "b": 1}]),
    "a quote inside a value": (b'a,b\n5" pipe,1\n6 pipe,"2"\n', [{"a": '5" pipe', "b": 1}, {"a": "6 pipe", "b": 2}]),
    "NULL and the empty text": (b'a,b\n,""\nx,y\n', [{"a": None, "b": ""}, {"a": "x", "b": "y"}]),
    "one column with empty lines": (b'a\n1\n\n""\n3\n', [{"a": "1"}, {"a": ""}, {"a": "3"}]),
    "header only": (b"a,b\n", []),
    "nothing": (b"", []),
    "names that are empty or twice": (
        b"a,,a,a_2\n1,2,3,4\n",
        [{"a": 1, "column_2": 2, "a_3": 3, "a_2": 4}],
    ),
}


@pytest.mark.parametrize("case", SPECTRUM)
def test_files_that_break_readers_are_read_as_they_are_meant(case: str) -> None:
    data, expected = SPECTRUM[case]
    assert read(data) == expected


def test_types_are_inferred_without_changing_a_value() -> None:
    text = b"id,zip,price,day,ok,huge\n1,007,1.50,2024-02-29,true,1e400\n-2,12345,20.25,2024-03-01,false,1\n"
    assert types(text) == {
        "id": "int64",
        "zip": "string",
        "price": "decimal128(22, 2)",
        "day": "date32[day]",
        "ok": "bool",
        "huge": "string",
    }
    assert read(text)[0] == {
        "id": 1,
        "zip": "007",
        "price": Decimal("1.50"),
        "day": date(2024, 2, 29),
        "ok": True,
        "huge": "1e400",
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-5", ""], "int64"),
        (["9223372036854775807"], "int64"),
        (["9223372036854775808"], "decimal128(38, 0)"),
        (["1" * 39], "decimal256(39, 0)"),
        (["1" * 77], "string"),
        (["007"], "string"),
        (["+5"], "string"),
        (["-0"], "string"),
        ([" 5"], "string"),
        (["0x1A"], "string"),
        (["1_000"], "string"),
        (["0.1", "2"], "decimal128(21, 1)"),
        (["0.1", "0.25"], "decimal128(38, 18)"),
        (["-0.0"], "string"),
        (["1." + "3" * 60], "string"),
        (["1e-7", "2.5"], "double"),
        (["3.3333333333333335e-05"], "double"),
        (["1.23456789012345678901e-05"], "string"),
        (["NaN"], "string"),
        (["true", "FALSE"], "bool"),
        (["t"], "string"),
        (["2024-02-29"], "date32[day]"),
        (["2023-02-29"], "string"),
        (["2024-02-29 10:11"], "timestamp[us]"),
        (["2024-02-29T10:11:12.123456"], "timestamp[us]"),
        (["2024-02-29T10:11:12.123456789"], "timestamp[ns]"),
        (["2024-02-29T10:11:12Z", "2024-02-29 10:11:12+08:00"], "timestamp[us, tz=UTC]"),
        (["2024-02-29T10:11:12Z", "2024-02-29T10:11:12"], "string"),
        (["10:11:12", "23:59:59.5"], "time64[us]"),
        (["24:00:00"], "string"),
        (["", ""], "null"),
    ],
)
def test_the_type_of_a_column_holds_all_its_values_exactly(values: list[str], kind: str) -> None:
    data = "a,b\n" + "".join(f"{value},x\n" for value in values)
    assert types(data.encode())["a"] == kind
    written = [None if value == "" else value for value in values]
    assert [row["a"] for row in read(data.encode(), all_text=True)] == written


def test_a_ragged_row_is_a_reject_with_its_line() -> None:
    rows = read(b'a,b\n1,2\n\n3\n4,"x\ny"\n5,6,7\n8,9')
    assert good(rows) == [{"a": 1, "b": "2"}, {"a": 4, "b": "x\ny"}, {"a": 8, "b": "9"}]
    assert reasons(rows) == [
        "line 4: the row has 1 values where the header has 2",
        "line 7: the row has 3 values where the header has 2",
    ]
    assert [row[REJECT]["content"] for row in rows if row.get(REJECT)] == [
        '{"line":4,"text":"3"}',
        '{"line":7,"text":"5,6,7"}',
    ]


def test_rows_that_are_too_short_end_in_nulls_where_that_is_wanted() -> None:
    rows = read(b'a,b,c\n1,2,3\n4\n5,"x,y"\n6,7,8,9\n', ragged="fill", types={"b": "text", "c": "text"})
    assert sorted(good(rows), key=lambda row: row["a"]) == [
        {"a": 1, "b": "2", "c": "3"},
        {"a": 4, "b": None, "c": None},
        {"a": 5, "b": "x,y", "c": None},
    ]
    assert reasons(rows) == ["line 5: the row has 4 values where the header has 3"]


def test_a_cell_that_does_not_fit_rejects_its_row_alone() -> None:
    schema = pa.schema([("a", pa.int64()), (LINE, pa.int64())])
    rows = read(b"a\n1\n007\nx\n4\n", schema=schema)
    assert good(rows) == [{"a": 1, LINE: 2}, {"a": 4, LINE: 5}]
    assert reasons(rows) == ["line 3: '007' is not of type int64", "line 4: 'x' is not of type int64"]


@pytest.mark.parametrize(
    ("kind", "fit", "unfit"),
    [
        (pa.int64(), {"5": 5, "-5": -5}, ["005", "5.0", "9223372036854775808", "0x1A", "-0", "x", '""']),
        (pa.int16(), {"5": 5}, ["32768"]),
        (pa.decimal128(5, 2), {"1.5": Decimal("1.50"), "1e2": Decimal(100)}, ["1.234", "1000", "01.5", "x"]),
        (pa.float64(), {"1e-7": 1e-7, "0.1": 0.1}, ["1e400", "nan", "inf", "0.12345678901234567891", "01"]),
        (pa.bool_(), {"true": True, "0": False, "TRUE": True}, ["yes", "2"]),
        (pa.date32(), {"2024-02-29": date(2024, 2, 29)}, ["2024-02-30", "29.02.2024", "2024-2-9"]),
        (pa.time64("us"), {"10:11:12": time(10, 11, 12)}, ["25:00:00", "10.11"]),
        (pa.timestamp("us"), {"2024-02-29 01:02:03": at("2024-02-29 01:02:03")}, ["2024-02-29T01:02:03Z", "x"]),
        (
            pa.timestamp("us", "UTC"),
            {"2024-02-29T01:02:03+01:00": datetime(2024, 2, 29, 0, 2, 3, tzinfo=UTC)},
            ["2024-02-29T01:02:03"],
        ),
    ],
    ids=str,
)
def test_what_fits_a_type_and_what_does_not(kind: pa.DataType, fit: dict[str, Any], unfit: list[str]) -> None:
    data = "a,b\n" + "".join(f"{value},x\n" for value in [*unfit, *fit])
    rows = read(data.encode(), schema=pa.schema([("a", kind)]))
    assert good(rows) == [{"a": value} for value in fit.values()]
    shown = ["" if value == '""' else value for value in unfit]
    assert reasons(rows) == [f"line {n}: {value!r} is not of type {kind}" for n, value in enumerate(shown, start=2)]


def test_a_type_that_the_user_gives_takes_leading_zeros() -> None:
    assert read(b"a,b\n007,+1.50\n-000,2\n", types={"a": "integer", "b": "decimal(5,2)"}) == [
        {"a": 7, "b": Decimal("1.50")},
        {"a": 0, "b": Decimal("2.00")},
    ]


def test_columns_are_found_by_name_and_missing_ones_are_null() -> None:
    schema = pa.schema([("c", pa.string()), ("b", pa.int64())])
    assert read(b"a,b\n1,2\n", schema=schema) == [{"c": None, "b": 2}]
    assert read(b"x\n1\n", schema=schema) == [{"c": None, "b": None}]


ENCODED = [
    ("utf-8", codecs.BOM_UTF8, None),
    ("utf-16-le", codecs.BOM_UTF16_LE, None),
    ("utf-16-be", codecs.BOM_UTF16_BE, None),
    ("utf-32-le", codecs.BOM_UTF32_LE, None),
    ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16"),
    ("utf-16-be", codecs.BOM_UTF16_BE, "utf-16-le"),
    ("utf-16-le", b"", "utf-16-le"),
    ("gb18030", b"", "gb18030"),
    ("shift_jis", b"", "shift_jis"),
    ("euc_jp", b"", "euc-jp"),
    ("big5", b"", "big5"),
]


@pytest.mark.parametrize(("codec", "mark", "encoding"), ENCODED)
def test_text_of_any_encoding_is_read(codec: str, mark: bytes, encoding: str | None) -> None:
    data = mark + '名,b\r\n"日\n本",1\r\n山,2\r\n'.encode(codec)
    options = {} if encoding is None else {"encoding": encoding}
    assert read(data, **options) == [{"名": "日\n本", "b": 1}, {"名": "山", "b": 2}]


def test_bytes_that_are_no_text_of_the_encoding_reject_their_row() -> None:
    rows = read(b"a,b\nx\xffy,1\ny,2\n")
    assert good(rows) == [{"a": "y", "b": 2}]
    assert reasons(rows) == ["line 2: 'x\\\\xffy' is not text of its encoding"]
    rows = read(b"a,b\n\x81\x20,1\ny,2\n", encoding="shift_jis")
    assert good(rows) == [{"a": "y", "b": 2}]
    assert len(reasons(rows)) == 1


def test_each_option_of_a_dialect() -> None:
    assert read(b"a;b\n'x;y';2\n", delimiter=";", quote="'") == [{"a": "x;y", "b": 2}]
    assert read(b"a\tb\nx\t2\n", "a.tsv") == [{"a": "x", "b": 2}]
    assert read(b'a,b\n"x\\"y",2\nu\\,v,3\n', escape="\\") == [{"a": 'x"y', "b": 2}, {"a": "u,v", "b": 3}]
    assert read(b'a,b\n"x,2\n', quote="") == [{"a": '"x', "b": 2}]
    assert read(b"1,x\n2,y\n", header=False) == [{"column_1": 1, "column_2": "x"}, {"column_1": 2, "column_2": "y"}]
    assert read(b"1,x\n", header=False, columns=["id", "name"]) == [{"id": 1, "name": "x"}]
    assert read(b"A,B\n1,x\n", columns=["id", "name"]) == [{"id": 1, "name": "x"}]
    assert read(b'Report of "today\n\na,b\n1,2\n', skip_lines=2) == [{"a": 1, "b": 2}]
    assert read(b'# by, "me\na,b\n# more\n1,"# no comment\n# none"\n', comment="#") == [
        {"a": 1, "b": "# no comment\n# none"}
    ]
    assert read(b'a,b\nNA,x\n-,"NA"\n', null=["NA", "-"], types={"a": "text"}) == [
        {"a": None, "b": "x"},
        {"a": None, "b": "NA"},
    ]
    assert read(b'a,b\n"NA",x\n', null=["NA"], quoted_null=True) == [{"a": None, "b": "x"}]


def test_numbers_and_dates_as_a_country_writes_them() -> None:
    text = "n;d;t\n1.234,50;29.2.2024;1.2.2024 10:11:12\n-7;1.12.2024;2.2.2024 00:00:00\n"
    options: dict[str, Any] = {
        "delimiter": ";",
        "decimal": ",",
        "thousands": ".",
        "date_formats": ["%d.%m.%Y %H:%M:%S", "%d.%m.%Y"],
    }
    assert read(text.encode(), **options, types={"d": "date"}) == [
        {"n": Decimal("1234.50"), "d": date(2024, 2, 29), "t": at("2024-02-01 10:11:12")},
        {"n": Decimal(-7), "d": date(2024, 12, 1), "t": at("2024-02-02")},
    ]
    schema = pa.schema([("n", pa.decimal128(10, 2)), ("d", pa.date32())])
    rows = read(b"n;d;t\n1.5;31.2.2024;\n12.34,5;1.1.2024;\n1,5;1.1.24;\n1,5;2024-01-01;\n", schema=schema, **options)
    assert reasons(rows) == [
        "line 2: '1.5' is not of type decimal128(10, 2)",
        "line 3: '12.34,5' is not of type decimal128(10, 2)",
        "line 4: '1.1.24' is not of type date32[day]",
    ]
    assert good(rows) == [{"n": Decimal("1.50"), "d": date(2024, 1, 1)}]


@pytest.mark.parametrize(
    ("pattern", "written", "found"),
    [
        ("%m/%d/%y", ["2/9/24", "12/31/99"], [date(2024, 2, 9), date(1999, 12, 31)]),
        ("%d %b %Y", ["29 Feb 2024", "1 Mar 2024"], [date(2024, 2, 29), date(2024, 3, 1)]),
        ("%Y%m%d", ["20240229", "20240301"], ["20240229", "20240301"]),
        ("%d.%m.%Y", ["31.2.2024"], ["31.2.2024"]),
        ("%d.%m.%Y", ["1.2.2024x"], ["1.2.2024x"]),
    ],
)
def test_a_date_by_a_pattern_is_one_that_is_written_so(pattern: str, written: list[str], found: list[Any]) -> None:
    rows = read("".join(f"{value},x\n" for value in ["a", *written]).encode(), date_formats=[pattern])
    assert [str(row["a"]) for row in rows] == [str(value) for value in found]


def test_a_quote_that_is_never_closed_makes_a_file_unreadable() -> None:
    with pytest.raises(
        FileUnreadable, match=r"a.csv, line 2: a quote that opens in the row of this line is never closed"
    ):
        read(b'a,b\n1,"2\n3,4\n')
    with pytest.raises(FileUnreadable, match=r"line 3: the row that begins here is longer than 1,024 bytes"):
        read(b'a,b\n1,2\n3,"' + b"x\n" * 2_000_000, max_row_bytes=1024)


def test_text_after_a_closing_quote_rejects_its_row() -> None:
    rows = read(b'a,b\n1,"x"y\n2,z\n')
    assert good(rows) == [{"a": 2, "b": "z"}]
    assert reasons(rows) == ["line 2: text follows a closing quote"]


def test_a_value_as_long_as_is_allowed_is_read() -> None:
    long = b"x\n" * 4_000_000
    rows = read(
        b'a,b\n1,"' + long + b'"\n2,y\n', schema=pa.schema([("a", pa.int64()), ("b", pa.string()), (LINE, pa.int64())])
    )
    assert [(row["a"], len(row["b"]), row[LINE]) for row in rows] == [(1, 8_000_000, 2), (2, 1, 4_000_003)]


def test_rows_keep_their_line_over_many_blocks() -> None:
    rows = [f'{n},"{"x" * (n % 90)}{chr(10) * (n % 3)}"' for n in range(60_000)]
    lines = [1 + 1 + sum(n % 3 for n in range(at)) + at for at in (0, 30_000, 59_999)]
    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), (LINE, pa.int64())])
    found = read(("a,b\n" + "\n".join(rows)).encode(), schema=schema)
    assert [row["a"] for row in found] == list(range(60_000))
    assert [found[at][LINE] for at in (0, 30_000, 59_999)] == lines


def test_an_unknown_option_is_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'delimitr' of format. What to do: did you mean 'delimiter'"):
        format_for({"delimitr": ";"}, "a.csv")
    with pytest.raises(ConfigError, match=r"did you mean 'parquet'"):
        format_for({"type": "parqet"}, "a.csv")
    with pytest.raises(ConfigError, match=r"the name 'a.txt' does not tell the format of the file"):
        format_for({}, "a.txt")
    with pytest.raises(ConfigError, match=r"unknown type 'int' of column 'a'"):
        format_for({"types": {"a": "int"}}, "a.csv")
    with pytest.raises(ConfigError, match=r"unknown encoding 'utf-9'"):
        format_for({"encoding": "utf-9"}, "a.csv")
    with pytest.raises(ConfigError, match=r"date_formats of the format has '%H:%M', which has no year"):
        format_for({"date_formats": ["%H:%M"]}, "a.csv")
    with pytest.raises(ConfigError, match=r"date_formats of the format has '%Y-%m-%d %z', with a zone"):
        format_for({"date_formats": ["%Y-%m-%d %z"]}, "a.csv")
    with pytest.raises(ConfigError, match=r"delimiter of the format is ';;'"):
        format_for({"delimiter": ";;"}, "a.csv")


def schema_of(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


@pytest.mark.parametrize(
    ("one", "other", "wider"),
    [
        (pa.int64(), pa.null(), pa.int64()),
        (pa.null(), pa.null(), pa.string()),
        (pa.int64(), pa.decimal128(22, 2), pa.decimal128(22, 2)),
        (pa.decimal128(38, 18), pa.decimal128(22, 2), pa.decimal128(38, 18)),
        (pa.decimal128(38, 0), pa.decimal128(38, 18), pa.decimal256(56, 18)),
        (pa.decimal256(76, 0), pa.decimal128(38, 18), pa.string()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int32(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.decimal128(20, 0)),
        (pa.int64(), pa.bool_(), pa.string()),
        (pa.date32(), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.string()),
        (pa.string(), pa.binary(), pa.binary()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.string()),
    ],
    ids=str,
)
def test_schemas_widen_alike_in_any_order(one: pa.DataType, other: pa.DataType, wider: pa.DataType) -> None:
    schemas = [schema_of(a=one), schema_of(a=other, b=pa.int64())]
    assert merged(schemas) == schema_of(a=wider, b=pa.int64())
    assert merged(reversed(schemas)) == schema_of(a=wider, b=pa.int64())
