"""Documents that tests read, made by libraries of others or byte by byte."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import docx
import openpyxl
import pptx

Section = tuple[str, int, str]
"""Title, level and text."""


def word(*sections: Section, title: str = "", table: Sequence[Sequence[str]] = ()) -> bytes:
    """A file of Word with headings, and a table at its end."""
    document = docx.Document()
    document.core_properties.title = title
    for heading, level, text in sections:
        document.add_heading(heading, level)
        for paragraph in text.split("\n\n"):
            document.add_paragraph(paragraph)
    if table:
        made = document.add_table(len(table), len(table[0]))
        for row, cells in zip(made.rows, table, strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
    return saved(document)


def slides(*pages: tuple[str, str], notes: str = "") -> bytes:
    """A file of PowerPoint: a title and a body for each slide."""
    presentation = pptx.Presentation()
    for title, body in pages:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = body
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
    return saved(presentation)


def workbook(**sheets: Sequence[Sequence[Any]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    return saved(book)


def saved(document: Any) -> bytes:
    kept = io.BytesIO()
    document.save(kept)
    return kept.getvalue()


def packed(**members: bytes) -> bytes:
    """A zip; two underscores in a name are a slash, and one is a dot."""
    kept = io.BytesIO()
    with ZipFile(kept, "w", ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name.replace("__", "/").replace("_", "."), data)
    return kept.getvalue()


def bomb(size: int) -> bytes:
    """A zip that says that it unpacks to so many bytes."""
    kept = io.BytesIO()
    with ZipFile(kept, "w") as made:
        made.writestr("word/document.xml", b"x")
        made.filelist[0].file_size = size
    return kept.getvalue()


def book(title: str, *pages: str) -> bytes:
    """An EPUB whose spine has the pages in their order, though the manifest has not."""
    names = [f"p{number}.xhtml" for number in range(len(pages))]
    items = "".join(f'<item id="i{name}" href="text/{name}" media-type="x"/>' for name in sorted(names, reverse=True))
    spine = "".join(f'<itemref idref="i{name}"/>' for name in names)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
    )
    kept = io.BytesIO()
    with ZipFile(kept, "w", ZIP_DEFLATED) as made:
        made.writestr("META-INF/container.xml", container)
        made.writestr("OEBPS/content.opf", package)
        for name, page in zip(names, pages, strict=True):
            made.writestr(f"OEBPS/text/{name}", f"<html><body>{page}</body></html>")
    return kept.getvalue()


def pdf(*pages: str, title: str = "", loop: bool = False, encrypted: bool = False) -> bytes:
    """A PDF of pages with lines of text. With ``loop`` its tree of pages holds itself."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        lines = " ".join(f"({_escaped(line)}) Tj 0 -14 Td" for line in page.split("\n"))
        stream = zlib.compress(f"BT /F1 12 Tf 50 780 Td {lines} ET".encode("latin-1"))
        objects.append(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream))
        content = len(objects)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % content
        )
        kids.append(b"%d 0 R" % len(objects))
    count = 10**9 if loop else len(pages)
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, b" ".join([*kids, b"2 0 R"] if loop else kids))
    objects.append(b"<< /Title (%s) >>" % _escaped(title).encode("latin-1"))
    trailer = b"/Root 1 0 R /Info %d 0 R" % len(objects)
    if encrypted:
        key = b"<" + b"ab" * 32 + b">"
        objects.append(b"<< /Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O %s /U %s >>" % (key, key))
        trailer += b" /Encrypt %d 0 R /ID [<00> <00>]" % len(objects)
    return _pdf_file(objects, trailer)


def _pdf_file(objects: Sequence[bytes], trailer: bytes) -> bytes:
    made = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    made += b"trailer\n<< /Size %d %s >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, start)
    return bytes(made)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
