"""Workbooks: each sheet as a table below its name."""

from __future__ import annotations

from datetime import datetime
from typing import Any, BinaryIO

from retl.connectors.documents.text.parsed import Parsed, Unreadable, heading, joined, table


def parse(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    import python_calamine

    try:
        book = python_calamine.CalamineWorkbook.from_filelike(file)
        sheets = [(name, book.get_sheet_by_name(name).to_python()) for name in book.sheet_names]
    except python_calamine.CalamineError as error:
        encrypted = "password" in str(error).lower() or "encrypt" in str(error).lower()
        raise Unreadable("it is encrypted" if encrypted else f"it is no workbook that can be read: {error}") from None
    blocks = (joined([heading(1, name), table([_text(cell) for cell in row] for row in rows)]) for name, rows in sheets)
    return Parsed(joined(blocks))


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return cell.isoformat(" ") if isinstance(cell, datetime) else str(cell)
