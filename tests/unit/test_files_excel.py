"""Workbooks to Arrow."""

from __future__ import annotations

import io
from datetime import date, datetime, time, timedelta
from typing import Any

import openpyxl
import pyarrow as pa
import pytest

from retl.connectors.files.formats import LINE, FileUnreadable, format_for
from retl.connectors.files.store import FileChanged
from retl.model.errors import ConfigError
from tests.formats import good, read, reasons, types

at = datetime.fromisoformat


def workbook(*rows: list[Any], sheet: str = "Sales", start: str = "A1") -> bytes:
    book = openpyxl.Workbook()
    book.active.title = "Cover"
    page = book.create_sheet(sheet)
    top, left = openpyxl.utils.cell.coordinate_to_tuple(start)
    for down, row in enumerate(rows):
        for right, value in enumerate(row):
            page.cell(top + down, left + right, value)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def test_cells_keep_their_types() -> None:
    data = workbook(
        ["id", "zip", "ratio", "day", "at", "clock", "ok", "mixed"],
        [1, "007", 0.1, date(2024, 2, 29), at("2024-01-01 10:11:12"), time(10, 11), True, 5],
        [2.0, "1", 3, date(2024, 3, 1), at("2024-01-02"), time(0, 0, 1), False, "x"],
    )
    assert types(data, "a.xlsx", sheet="Sales") == {
        "id": "int64",
        "zip": "string",
        "ratio": "double",
        "day": "date32[day]",
        "at": "timestamp[us]",
        "clock": "time64[us]",
        "ok": "bool",
        "mixed": "string",
    }
    first, second = read(data, "a.xlsx", sheet="Sales")
    assert first == {
        "id": 1,
        "zip": "007",
        "ratio": 0.1,
        "day": date(2024, 2, 29),
        "at": at("2024-01-01 10:11:12"),
        "clock": time(10, 11),
        "ok": True,
        "mixed": "5",
    }
    assert (second["id"], second["ratio"], second["at"], second["mixed"]) == (2, 3.0, at("2024-01-02"), "x")


def test_empty_rows_are_left_out_and_lines_are_those_of_the_sheet() -> None:
    data = workbook(["a", None, "a"], [1, "x", None], [], [2, None, timedelta(hours=30)], start="C3")
    schema = pa.schema([("a", pa.int64()), ("a_2", pa.string()), (LINE, pa.int64())])
    assert read(data, "a.xlsx", schema, sheet=2, range="C3:E") == [
        {"a": 1, "a_2": None, LINE: 4},
        {"a": 2, "a_2": "30:00:00", LINE: 6},
    ]
    assert read(data, "a.xlsx", sheet="Sales", range="D4:E4", header=False, columns=["b", "c"]) == [
        {"b": "x", "c": None}
    ]


def test_a_cell_that_does_not_fit_rejects_its_row_alone() -> None:
    data = workbook(["a"], [1], [1.5], ["x"], [4])
    rows = read(data, "a.xlsx", pa.schema([("a", pa.int64())]), sheet=2)
    assert good(rows) == [{"a": 1}, {"a": 4}]
    assert reasons(rows) == ["line 3: '1.5' is not of type int64", "line 4: 'x' is not of type int64"]


def test_what_is_no_workbook_or_lacks_the_sheet_is_unreadable() -> None:
    data = workbook(["a"])
    with pytest.raises(FileUnreadable, match=r"a.xlsx: it has no sheet 'Slaes'. What to do: did you mean 'Sales'"):
        read(data, "a.xlsx", sheet="Slaes")
    for broken in (b"", data[:500], b"PK\3\4"):
        with pytest.raises(FileUnreadable, match=r"^a.xlsx: it is no workbook that can be read"):
            read(broken, "a.xlsx")
    with pytest.raises(ConfigError, match=r"range of the format is 'B3'"):
        format_for({"range": "B3"}, "a.xlsx")


def test_what_the_store_says_of_a_file_is_told() -> None:
    class Changed(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise FileChanged("a: it was written to meanwhile.")

    with pytest.raises(FileChanged):
        format_for({}, "a.xlsx").schema(Changed(workbook(["a"])), "a.xlsx")


def test_an_empty_sheet_has_no_rows() -> None:
    assert read(workbook(), "a.xlsx") == []
