"""PDF, by PDFium."""

from __future__ import annotations

from typing import Any, BinaryIO

from retl.connectors.documents.text.parsed import Parsed, Unreadable, joined


def parse(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    """The text of all pages in their order. Scanned pages have none."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        encrypted = "password" in str(error).lower()
        raise Unreadable("it is encrypted" if encrypted else f"it is no PDF that can be read: {error}") from None
    title = document.get_metadata_value("Title")
    pages = [_page(document, number) for number in range(len(document))]
    text = joined(pages)
    if pages and not text:
        raise Unreadable(f"none of its {len(pages)} pages has text: it may be scanned, and needs OCR first")
    return Parsed(text, title)


def _page(document: Any, number: int) -> str:
    page = document[number]
    text_page = page.get_textpage()
    try:
        text = str(text_page.get_text_range())
    finally:
        text_page.close()
        page.close()
    # U+FFFE stands for the hyphen at which PDFium joins two lines.
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufffe", "").replace("\0", "")
