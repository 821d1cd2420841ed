"""Several small files of CSV as one text: what a file costs beside its rows is then paid once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retl.connectors.files.formats.lines import Dialect, Positions, quotes_tell

FIRST_LINE = 2
"""The line of a file in which its rows begin, behind the header."""


class Joined(NamedTuple):
    """One header, and the rows of all files behind it."""

    text: bytes
    begins: Positions
    """The line of the text in which the rows of each file begin."""

    def file_of(self, lines: Positions) -> Positions:
        """The number of the file that each line is of."""
        return np.searchsorted(self.begins, lines, side="right") - 1


def joined(contents: Sequence[bytes], dialect: Dialect) -> Joined | None:
    """The contents as one text; ``None`` where they differ in their headers, or a row might go on in the next file."""
    filled = [_with_last_break(content) for content in contents if content]
    header = filled[0].partition(b"\n")[0] + b"\n" if filled else b""
    if not header.strip() or b"\0" in header or (dialect.quote and dialect.quote.encode() in header):
        return None
    if not all(_ends_where_it_ends(content, header, dialect) for content in filled):
        return None
    rows = [_with_last_break(content)[len(header) :] for content in contents]
    text = b"".join([header, *rows])
    if not quotes_tell(text, dialect):
        return None
    lengths = [0, *(one.count(b"\n") for one in rows[:-1])]
    return Joined(text, FIRST_LINE + np.cumsum(lengths, dtype=np.int64))


def _ends_where_it_ends(content: bytes, header: bytes, dialect: Dialect) -> bool:
    """Whether a file has this header, no line break but LF and CR LF, and no quote that is still open at its end."""
    quotes = content.count(dialect.quote.encode()) if dialect.quote else 0
    return content.startswith(header) and content.count(b"\r") == content.count(b"\r\n") and quotes % 2 == 0


def _with_last_break(content: bytes) -> bytes:
    return content if not content or content.endswith(b"\n") else content + b"\n"
