"""HTML as Markdown."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from retl.connectors.documents.text.parsed import Parsed, one_line
from retl.connectors.documents.text.plain import decode

_DROPPED = ("script", "style", "noscript", "template", "svg", "iframe", "object", "head", "nav")
_GAPS = re.compile(r"\n{3,}")
_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)|<\?xml[^>]+encoding=[\"']([\w-]+)", re.IGNORECASE)


def parse(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    """What people would read of a page, with its headings, lists, tables and links."""
    data = file.read()
    declared = _CHARSET.search(data[:4096])
    chosen = encoding or _known(declared and (declared[1] or declared[2]))
    return of_text(decode(data, chosen) if chosen is None or encoding else _lenient(data, chosen))


def of_text(text: str) -> Parsed:
    """The same for HTML that is text already."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(text, "lxml")
    title = _title(soup)
    for tag in soup(list(_DROPPED)):
        tag.decompose()
    markdown = MarkdownConverter(heading_style="ATX", bullets="-", escape_misc=False).convert_soup(soup)
    return Parsed(_GAPS.sub("\n\n", markdown).strip(), title)


def _title(soup: Any) -> str:
    found = soup.title or soup.h1
    return one_line(found.get_text()) if found is not None else ""


def _known(name: bytes | None) -> str | None:
    try:
        "".encode(name.decode()) if name else None
    except LookupError:
        return None
    return name.decode() if name else None


def _lenient(data: bytes, encoding: str) -> str:
    """What a page says of itself need not be right."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return decode(data, None)
