"""What a parser gives, and how it writes Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_BETWEEN = re.compile(r"\s+")


@dataclass(frozen=True)
class Parsed:
    """The text of a document, with its headings as those of Markdown, and its title."""

    text: str
    title: str = ""


class Unreadable(Exception):
    """A document has no text that can be read, for this reason."""


def one_line(text: str) -> str:
    """A text as one line, as it must be in a heading and in the cell of a table."""
    return _BETWEEN.sub(" ", text).strip()


def heading(level: int, text: str) -> str:
    title = one_line(text)
    return f"{'#' * min(max(level, 1), 6)} {title}" if title else ""


def table(rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; its first row is its header."""
    lines = [f"| {' | '.join(one_line(cell).replace('|', '&#124;') for cell in row)} |" for row in rows if any(row)]
    if not lines:
        return ""
    width = max(1, lines[0].count("|") - 1)
    return "\n".join([lines[0], f"|{' --- |' * width}", *lines[1:]])


def joined(blocks: Iterable[str]) -> str:
    """Blocks with a blank line between each two."""
    return "\n\n".join(block for block in (block.strip("\n") for block in blocks) if block.strip())
