"""Sheets and data tables: their cells as tables of Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from retl.connectors.yuque.answers import Object, as_number, as_object, as_objects, as_text
from retl.connectors.yuque.markdown import table_of


def parsed(value: Any) -> Any:
    """JSON that comes as a text, or as it is; ``None`` where it cannot be read."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def sheet_text(content: Any) -> str | None:
    """The sheets of a ``body_sheet``, each under its name; ``None`` where there is nothing of that form."""
    sheets = as_objects(as_object(content).get("data"))
    if not sheets:
        return None
    blocks: list[str] = []
    for number, sheet in enumerate(sheets, 1):
        rows = [[_plain(cell) for cell in row] for row in sheet.get("table") or () if isinstance(row, list)]
        blocks.append(f"## {as_text(sheet.get('name')) or f'Sheet{number}'}")
        if table := table_of(_trimmed(rows)):
            blocks.append(table)
    return "\n\n".join(blocks)


def _trimmed(rows: list[list[str]]) -> list[list[str]]:
    """The rows without the empty ones and the empty cells at their ends."""
    width = max((number for row in rows for number, cell in enumerate(row, 1) if cell), default=0)
    height = max((number for number, row in enumerate(rows, 1) if any(row)), default=0)
    return [row[:width] for row in rows[:height]]


class DataTable:
    """A data table: columns and options of its ``body``, and the records of its pages."""

    def __init__(self, body: Any) -> None:
        self._columns = as_objects(_columns_in(parsed(body)))
        self.records: list[Object] = []
        self._known: set[str] = set()
        self.total: int | None = None

    def add(self, page: Any) -> int:
        """Take the records of one page that were not on an earlier one; returns how many those are."""
        content = as_object(parsed(page))
        total = as_number(content.get("totalCount"))
        self.total = self.total if total is None else total
        new = 0
        for record in as_objects(content.get("records")):
            identity = as_text(record.get("id") or record.get("uuid")) or ""
            if identity and identity in self._known:
                continue
            self._known.add(identity)
            self.records.append(record)
            new += 1
        return new

    @property
    def is_full(self) -> bool:
        """Whether as many records came as the table says it has."""
        return self.total is not None and len(self.records) >= self.total

    @property
    def names(self) -> list[str]:
        """The names of the columns; those that the service does not tell are numbered."""
        width = max([len(self._columns), *(len(_values(record)) for record in self.records)], default=0)
        told = [_named(column) for column in self._columns]
        return [(told[at] if at < len(told) else "") or f"column {at + 1}" for at in range(width)]

    def cells(self) -> list[list[Any]]:
        """The values of each record in the order of the columns, options by their names."""
        options = [_options(column) for column in self._columns]
        return [
            [_resolved(value, options[at] if at < len(options) else {}) for at, value in enumerate(_values(record))]
            for record in self.records
        ]

    def text(self) -> str:
        """The table as Markdown."""
        return table_of([self.names, *([_plain(value) for value in row] for row in self.cells())])

    def data(self) -> Object:
        """The table as JSON: columns, and rows of values, with the times of each record."""
        times = ("id", "createdAt", "updatedAt")
        rows = [
            {"values": cells} | {word: record[word] for word in times if record.get(word) is not None}
            for cells, record in zip(self.cells(), self.records, strict=True)
        ]
        kinds = [as_text(column.get("type")) for column in self._columns]
        names = self.names
        columns = [{"name": name, "type": kinds[at] if at < len(kinds) else None} for at, name in enumerate(names)]
        return {"columns": columns, "rows": rows}


def _columns_in(body: Any) -> Any:
    """The list of columns, wherever the body keeps it: ``columns``, ``meta.columns``, ``sheet[0].columns``."""
    content = as_object(body)
    for holder in (content, *(as_object(content.get(word)) for word in ("meta", "data", "table", "sheet", "sheets"))):
        if holder.get("columns"):
            return holder["columns"]
    return None


def _named(column: Object) -> str:
    return as_text(column.get("name") or column.get("title") or column.get("label")) or ""


def _options(column: Object) -> dict[str, str]:
    """The name of each option of a column of choices, by its id."""
    found: dict[str, str] = {}
    held = column.get("options") or as_object(column.get("config")).get("options")
    for option in as_objects(held):
        identity = as_text(option.get("id") or option.get("key"))
        name = as_text(option.get("name") or option.get("label") or option.get("title") or option.get("value"))
        if identity is not None and name is not None:
            found[identity] = name
    return found


def _values(record: Object) -> Sequence[Any]:
    values = record.get("values")
    if not isinstance(values, list):
        return ()
    return [item.get("value") if isinstance(item, dict) and "value" in item else item for item in values]


def _resolved(value: Any, options: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_resolved(item, options) for item in value]
    return options.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> str:
    """A value as people read it: dates by their text, users and files by their names."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        if value.get("src"):
            return f"[{as_text(value.get('name')) or value['src']}]({value['src']})"
        shown = next((value[word] for word in ("text", "name", "title", "login", "value") if value.get(word)), None)
        return msgspec.json.encode(value).decode() if shown is None else _plain(shown)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
