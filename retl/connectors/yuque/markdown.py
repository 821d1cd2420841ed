"""HTML, and the Lake format that is much like it, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import msgspec

_BLOCKS = frozenset(
    {"p", "div", "section", "article", "header", "footer", "main", "figure", "figcaption", "blockquote", "pre", "table"}
    | {"ul", "ol", "li", "tr", "hr", "dl", "dt", "dd", *(f"h{level}" for level in range(1, 7))}
)
_SILENT = frozenset({"script", "style", "head", "template", "noscript", "title"})
_MARKS = {"strong": "**", "b": "**", "em": "*", "i": "*", "del": "~~", "s": "~~"}
_SPACE = re.compile(r"[ \t\r\n\f]+")
_CELL = str.maketrans({"|": "\\|", "\n": " ", "\r": " "})


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown; the first is its head."""
    width = max((len(row) for row in rows), default=0)
    if not width:
        return ""
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    lines = [f"| {' | '.join(text.translate(_CELL) for text in row)} |" for row in filled]
    return "\n".join([lines[0], f"| {' | '.join(['---'] * width)} |", *lines[1:]])


def from_html(text: str) -> str:
    """The text of a page, with its headings, lists, links, code and tables."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    """Collects blocks of Markdown while the tags go by; what is not closed ends with the text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[str] = []
        self._line: list[str] = []
        self._lists: list[int | None] = []
        """Of each list that is open, the last number; ``None`` where it has none."""
        self._prefix = ""
        self._quotes = 0
        self._silent = 0
        self._code: list[str] | None = None
        self._rows: list[list[str]] | None = None
        self._cell: list[str] | None = None
        self._links: list[str] = []

    def text(self) -> str:
        self._end_block()
        return "\n\n".join(self._blocks).strip()

    # Tags -------------------------------------------------------------------

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag in _SILENT:
            self._silent += 1
        elif tag == "card":
            self._card(told)
        elif tag == "br":
            self._put("\n")
        elif tag == "img":
            self._put(f"![{told.get('alt', '')}]({told.get('src', '')})")
        elif tag == "a":
            self._links.append(told.get("href", ""))
            self._put("[")
        elif tag in _MARKS:
            self._put(_MARKS[tag])
        elif tag == "code" and self._code is None:
            self._put("`")
        elif tag in ("td", "th") and self._rows is not None:
            self._cell = []
        elif tag in _BLOCKS:
            self._open_block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SILENT:
            self.handle_starttag(tag, attrs)

    def _open_block(self, tag: str) -> None:
        if self._cell is not None:  # blocks within a cell are one line
            self._put(" ")
            return
        self._end_block()
        if tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._prefix = self._item()
        elif tag == "pre":
            self._code = []
        elif tag == "blockquote":
            self._quotes += 1
        elif tag == "table":
            self._rows = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag == "hr":
            self._blocks.append("---")
        elif len(tag) == 2 and tag[1].isdigit():
            self._prefix = "#" * int(tag[1]) + " "

    def _item(self) -> str:
        depth = "  " * max(0, len(self._lists) - 1)
        if not self._lists or self._lists[-1] is None:
            return f"{depth}- "
        self._lists[-1] += 1
        return f"{depth}{self._lists[-1]}. "

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "a" and self._links:
            self._put(f"]({self._links.pop()})")
        elif tag in _MARKS:
            self._put(_MARKS[tag])
        elif tag == "code" and self._code is None:
            self._put("`")
        elif tag in ("td", "th") and self._cell is not None:
            self._end_cell()
        elif tag in _BLOCKS and self._cell is None:
            self._close_block(tag)

    def _close_block(self, tag: str) -> None:
        if tag == "pre" and self._code is not None:
            code, self._code = "".join(self._code).strip("\n"), None
            self._blocks.append(fenced(code))
        elif tag == "table" and self._rows is not None:
            rows, self._rows = [row for row in self._rows if row], None
            if rows:
                self._blocks.append(table_of(rows))
        else:
            self._end_block()
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        elif tag == "blockquote":
            self._quotes = max(0, self._quotes - 1)

    # Text -------------------------------------------------------------------

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._code is not None:
            self._code.append(data)
        else:
            self._put(_SPACE.sub(" ", data))

    def _put(self, text: str) -> None:
        (self._line if self._cell is None else self._cell).append(text)

    def _end_cell(self) -> None:
        text, self._cell = "".join(self._cell or ()), None
        if self._rows:
            self._rows[-1].append(text.strip())

    def _end_block(self) -> None:
        text = "\n".join(line.strip() for line in "".join(self._line).split("\n")).strip()
        self._line = []
        if not text:
            return
        prefix, self._prefix = self._prefix, ""
        block = prefix + text
        if self._quotes:
            block = "\n".join(f"{'> ' * self._quotes}{line}" for line in block.split("\n"))
        self._blocks.append(block)

    def _card(self, told: dict[str, str]) -> None:
        """A card of Lake: a picture, a file, a block of code; anything else by its address, if it has one."""
        value = card_value(told.get("value", ""))
        name = str(value.get("name") or value.get("title") or "")
        src = str(value.get("src") or value.get("url") or "")
        if told.get("name") == "codeblock":
            self._end_block()
            self._blocks.append(fenced(str(value.get("code") or ""), str(value.get("mode") or "")))
        elif told.get("name") == "image":
            self._put(f"![{name}]({src})")
        elif src:
            self._put(f"[{name or src}]({src})")
        elif told.get("name") == "hr":
            self._end_block()
            self._blocks.append("---")


def fenced(code: str, language: str = "") -> str:
    """A block of code, fenced by more backticks than it holds in a row."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def card_value(text: str) -> dict[str, Any]:
    """What a card of Lake holds: JSON in an address, ``data:%7B...``; empty where it cannot be read."""
    if not text.startswith("data:"):
        return {}
    try:
        found = msgspec.json.decode(unquote(text[5:]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
