"""Word's and PowerPoint's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from retl.connectors.documents.text.parsed import Parsed, Unreadable, heading, joined, one_line, table

MOST_UNPACKED = 1024 * 1024 * 1024
"""What the files in a packed document may unpack to, together."""
_OLE = b"\xd0\xcf\x11\xe0"
_LEVEL = re.compile(r"heading (\d)", re.IGNORECASE)


def check_packed(file: BinaryIO) -> None:
    """Raise ``Unreadable`` for what is no packed document, or would unpack to too much."""
    start = file.read(4)
    file.seek(0)
    if start == _OLE:
        raise Unreadable("it is encrypted, or a file of an older program")
    try:
        with ZipFile(file) as packed:
            size = sum(item.file_size for item in packed.infolist())
    except (BadZipFile, OSError) as error:
        raise Unreadable(f"it is broken: {error}") from None
    if size > MOST_UNPACKED:
        raise Unreadable(f"it unpacks to {size:,} bytes, more than the {MOST_UNPACKED:,} that are allowed")
    file.seek(0)


def parse_docx(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    """Paragraphs and tables in their order; styles of headings are headings."""
    import docx

    check_packed(file)
    document = docx.Document(file)
    return Parsed(joined(_blocks(document)), one_line(document.core_properties.title or ""))


def _blocks(document: Any) -> Iterator[str]:
    for item in document.iter_inner_content():
        if hasattr(item, "rows"):
            yield table([_cells(row) for row in item.rows])
            continue
        style = item.style.name if item.style is not None else ""
        level = _LEVEL.match(style or "")
        if level or style == "Title":
            yield heading(int(level[1]) if level else 1, item.text)
        else:
            yield f"- {item.text}" if (style or "").startswith("List") and item.text.strip() else item.text


def _cells(row: Any) -> list[str]:
    """The cells of a row; a merged one comes once."""
    found: list[Any] = []
    for cell in row.cells:
        if not found or cell._tc is not found[-1]._tc:
            found.append(cell)
    return [cell.text for cell in found]


def parse_pptx(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    """Slide by slide, each below its title, with its notes."""
    import pptx

    check_packed(file)
    presentation = pptx.Presentation(file)
    slides = [joined(_slide(slide, number)) for number, slide in enumerate(presentation.slides, 1)]
    return Parsed(joined(slides), one_line(presentation.core_properties.title or ""))


def _slide(slide: Any, number: int) -> Iterator[str]:
    title = slide.shapes.title
    yield heading(1, title.text if title is not None and title.text.strip() else f"Slide {number}")
    for shape in slide.shapes:
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape(shape)
    if slide.has_notes_slide:
        yield slide.notes_slide.notes_text_frame.text


def _shape(shape: Any) -> Iterator[str]:
    if shape.has_text_frame:
        yield "\n".join(paragraph.text for paragraph in shape.text_frame.paragraphs)
    elif getattr(shape, "has_table", False):
        yield table([[cell.text for cell in row.cells] for row in shape.table.rows])
    for inner in getattr(shape, "shapes", ()):
        yield from _shape(inner)
