"""EPUB: the pages of a book in the order of its spine."""

from __future__ import annotations

import posixpath
from typing import Any, BinaryIO
from urllib.parse import unquote
from zipfile import ZipFile

from retl.connectors.documents.text import html
from retl.connectors.documents.text.office import check_packed
from retl.connectors.documents.text.parsed import Parsed, Unreadable, joined, one_line
from retl.connectors.documents.text.plain import decode

_CONTAINER = "META-INF/container.xml"


def parse(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    check_packed(file)
    with ZipFile(file) as book:
        try:
            package = _xml(book.read(_CONTAINER)).find(".//{*}rootfile").get("full-path")
            content = _xml(book.read(package))
            pages = [book.read(page) for page in _spine(content, posixpath.dirname(package))]
        except (KeyError, AttributeError) as error:
            raise Unreadable(f"it is no EPUB that can be read: {error}") from None
    title = content.find(".//{http://purl.org/dc/elements/1.1/}title")
    text = joined(html.of_text(decode(page, None)).text for page in pages)
    return Parsed(text, one_line(title.text or "") if title is not None else "")


def _xml(data: bytes) -> Any:
    from lxml import etree

    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, recover=True))


def _spine(content: Any, folder: str) -> list[str]:
    items = {item.get("id"): unquote(item.get("href")) for item in content.iterfind(".//{*}manifest/{*}item")}
    order = [item.get("idref") for item in content.iterfind(".//{*}spine/{*}itemref")]
    return [posixpath.normpath(posixpath.join(folder, items[one])) for one in order if one in items]
