"""Text files of any encoding, and source code."""

from __future__ import annotations

import codecs
from typing import BinaryIO

from retl.connectors.documents.text.parsed import Parsed, Unreadable

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64 * 1024


def parse(file: BinaryIO, name: str, encoding: str | None) -> Parsed:
    """The text as it stands; its title is its first heading of Markdown."""
    text = decode(file.read(), encoding).replace("\r\n", "\n").replace("\r", "\n")
    first = next((line for line in text[:_SAMPLE].splitlines() if line.startswith("# ")), "")
    return Parsed(text, first.removeprefix("#").strip() if name.lower().endswith((".md", ".markdown", ".mdx")) else "")


def decode(data: bytes, encoding: str | None) -> str:
    """Bytes as text: by a given encoding, by their mark, as UTF-8, or by what they look like."""
    marked = next((known for mark, known in _MARKS if data.startswith(mark)), None)
    for known in (encoding, marked, "utf-8"):
        if known is None:
            continue
        try:
            return _checked(data.decode(known))
        except UnicodeDecodeError:
            if encoding is not None:
                raise Unreadable(f"it is not text of the encoding {encoding}") from None
    return _guessed(data)


def _guessed(data: bytes) -> str:
    from charset_normalizer import from_bytes

    if b"\0" in data[:_SAMPLE]:
        raise Unreadable("it is not text")
    found = from_bytes(data[:_SAMPLE]).best()
    for known in (found.encoding if found is not None else None, "gb18030"):
        if known is None:
            continue
        try:
            return _checked(data.decode(known))
        except UnicodeDecodeError:
            continue
    raise Unreadable("the encoding of its text is not known; name it: format = { type = 'documents', encoding = ... }")


def _checked(text: str) -> str:
    if "\0" in text[:_SAMPLE]:
        raise Unreadable("it is not text")
    return text.replace("\0", "")
