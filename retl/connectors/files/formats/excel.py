"""Excel's and OpenDocument's sheets: xlsx, xlsm, xlsb, xls, ods."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from retl.connectors.files.formats.base import Format, unreadable
from retl.connectors.files.formats.columnar import Watched, seekable
from retl.connectors.files.formats.csv import distinct_names
from retl.connectors.files.formats.options import FormatOptions
from retl.connectors.files.formats.rejects import FoundRows, cast_rows
from retl.connectors.files.formats.types import inferred
from retl.model.errors import ConfigError

_BATCH_ROWS = 8192
_SAMPLE_ROWS = 20_000
_EXACT = 2**53
"""Up to here a double is a whole number for certain."""
_RANGE = re.compile(r"([A-Z]{1,3})([1-9]\d*):([A-Z]{1,3})([1-9]\d*)?", re.IGNORECASE)

Row = tuple[int, list[Any]]
"""The number of a row in its sheet, and its cells."""


@dataclass(frozen=True)
class _Cells:
    """What is read of a sheet: from a cell to another, both counted from 0."""

    top: int = 0
    left: int = 0
    bottom: int | None = None
    right: int | None = None


class Excel(Format):
    """One sheet. A cell with an error, and all but the first of merged cells, are NULL."""

    seeks = True

    def __init__(self, options: FormatOptions) -> None:
        super().__init__(options)
        self._cells = _cells(options.range)

    def schema(self, file: BinaryIO, name: str) -> pa.Schema:
        names, rows = self._open(file, name)
        sample = [cells for _, cells in islice(rows, _SAMPLE_ROWS)]
        return pa.schema(
            [self.declared(self._column(column, [row[place] for row in sample])) for place, column in enumerate(names)]
        )

    def _column(self, column: str, values: list[Any]) -> pa.Field:
        kinds = {_kind(value) for value in values if self._text(value) is not None}
        text = pa.array(map(self._text, values), pa.string())
        kind = inferred(text, self.options.style(column)) if len(kinds) <= 1 else pa.string()
        if kinds == {"number"} and not pa.types.is_integer(kind):
            kind = pa.float64()
        if kinds == {"date"}:
            # A time at midnight arrives as a date.
            kind = pa.timestamp("us") if any(isinstance(value, datetime) for value in values) else pa.date32()
        return pa.field(column, pa.string() if kinds == {"text"} else kind)

    def read(self, file: BinaryIO, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        names, rows = self._open(file, name)
        wanted = [(place, column) for place, column in enumerate(names) if column in schema.names]
        while batch := list(islice(rows, _BATCH_ROWS)):
            columns = {
                column: pa.array([self._text(cells[place]) for _, cells in batch], pa.string())
                for place, column in wanted
            }
            lines = np.array([number for number, _ in batch], np.int64)
            yield cast_rows(FoundRows(columns, lines), schema, self.options)

    def _open(self, file: BinaryIO, name: str) -> tuple[list[str], Iterator[Row]]:
        """The names of the columns, and the rows after them."""
        with seekable(file) as movable:
            rows = self._rows(self._sheet(movable, name))
        rows = islice(rows, self.options.skip_lines, None)
        first = next((row for row in rows if _is_filled(row)), None)
        if first is None:
            return list(self.options.columns or ()), iter(())
        number, cells = first
        given = self.options.columns
        if given is not None and len(given) != len(cells):
            raise unreadable(
                name, f"its rows have {len(cells)} cells, and columns of the format names {len(given)}", line=number
            )
        header = [_as_text(cell) or "" for cell in cells] if self.options.header else [""] * len(cells)
        following = filter(_is_filled, rows)
        names = list(given) if given is not None else distinct_names(header)
        return names, following if self.options.header else chain([first], following)

    def _sheet(self, file: BinaryIO, name: str) -> Any:
        calamine = _calamine()
        watched = Watched(file)
        try:
            book = calamine.CalamineWorkbook.from_filelike(watched)
            return book.get_sheet_by_name(self._sheet_name(book.sheet_names, name))
        except calamine.CalamineError as error:
            raise watched.error or unreadable(name, f"it is no workbook that can be read: {error}") from None

    def _sheet_name(self, names: Sequence[str], name: str) -> str:
        wanted = self.options.sheet if self.options.sheet is not None else 1
        if isinstance(wanted, int) and 1 <= wanted <= len(names):
            return names[wanted - 1]
        if isinstance(wanted, str) and wanted in names:
            return wanted
        close = difflib.get_close_matches(str(wanted), names, n=1)
        raise unreadable(
            name,
            f"it has no sheet {wanted!r}",
            remedy=f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}.",
        )

    def _rows(self, sheet: Any) -> Iterator[Row]:
        if sheet.start is None:
            return
        cells, (_, indent) = self._cells, sheet.start
        width = (sheet.end[1] + 1 if cells.right is None else cells.right + 1) - cells.left
        for number, row in enumerate(sheet.iter_rows()):
            if cells.bottom is not None and number > cells.bottom:
                return
            if number >= cells.top:
                whole = [""] * indent + row
                found = whole[cells.left : cells.left + width]
                yield number + 1, found + [""] * (width - len(found))

    def _text(self, value: Any) -> str | None:
        text = _as_text(value)
        return None if text in self.options.null else text


def _is_filled(row: Row) -> bool:
    return any(cell != "" for cell in row[1])


def _kind(value: Any) -> str:
    """``bool`` is a number to Python, and no number to us."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "clock" if isinstance(value, time | timedelta) else "date"


def _as_text(value: Any) -> str | None:
    """A cell as the text that other formats would have; ``None`` where it is empty."""
    return _TEXTS.get(type(value), str)(value)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else repr(value)


def _duration(value: timedelta) -> str:
    seconds = value // timedelta(seconds=1)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


_TEXTS: dict[type, Callable[[Any], str | None]] = {
    str: lambda text: text or None,
    bool: lambda truth: "true" if truth else "false",
    float: _number,
    datetime: lambda moment: moment.isoformat(" "),
    date: date.isoformat,
    time: time.isoformat,
    timedelta: _duration,
}


def _cells(written: str | None) -> _Cells:
    if written is None:
        return _Cells()
    found = _RANGE.fullmatch(written)
    if found is None:
        raise ConfigError(
            f"range of the format is {written!r}.", remedy="write it as B3:F200, or as B3:F to the last row."
        )
    left, top, right, bottom = found.groups()
    return _Cells(int(top) - 1, _column_number(left), int(bottom) - 1 if bottom else None, _column_number(right))


def _column_number(letters: str) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _calamine() -> Any:
    try:
        import python_calamine
    except ImportError:
        raise ConfigError(
            "Excel files need the Python package 'python-calamine', which is not installed.",
            remedy="pip install 'retl[excel]'",
        ) from None
    return python_calamine
