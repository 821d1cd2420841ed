"""Where the rows of a CSV file begin and end, in which lines, and which of them are broken.

Almost always two numpy passes over a block tell: a line break is the end of a row where the number of quotes before it
is even. That holds where each quote stands at the edge of a value. Other blocks (``5" pipe``, escapes, comments) are
divided row by row, by a regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retl.connectors.files.formats.base import unreadable
from retl.connectors.files.formats.rejects import BrokenRow

Positions = npt.NDArray[np.int64]
_LF, _CR = 10, 13


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is divided into rows and values."""

    delimiter: str
    quote: str
    double_quote: bool
    escape: str
    comment: str

    def __post_init__(self) -> None:
        # Compiled once for each file.
        object.__setattr__(self, "row", re.compile(self._row(strict=False), re.DOTALL))
        object.__setattr__(self, "strict_row", re.compile(self._row(strict=True), re.DOTALL))

    row: re.Pattern[bytes] = field(init=False)
    """A row and its line break; no match where a quote is still open."""
    strict_row: re.Pattern[bytes] = field(init=False)
    """The same, without text that follows a closing quote."""

    def _row(self, *, strict: bool) -> bytes:
        delimiter, quote, escape = (re.escape(sign.encode()) for sign in (self.delimiter, self.quote, self.escape))
        escaped = escape and b"|" + escape + b"."
        bare = b"(?:[^" + delimiter + escape + rb"\r\n]" + escaped + b")*+"
        value = bare
        if quote:
            doubled = b"|" + quote * 2 if self.double_quote else b""
            inner = b"(?:[^" + quote + escape + b"]" + doubled + escaped + b")*+"
            after = b"" if strict else bare
            value = b"(?:" + quote + inner + quote + after + b"|(?!" + quote + b")" + bare + b")"
        row = value + b"(?:" + delimiter + value + b")*+"
        if self.comment:
            row = b"(?:" + re.escape(self.comment.encode()) + rb"[^\r\n]*+|" + row + b")"
        return row + rb"(\r\n|\n|\r|\Z)"


@dataclass(frozen=True)
class RowBlock:
    """Whole rows, without empty ones and comments."""

    data: bytes
    starts: Positions
    lines: Positions
    """The line in which each row begins."""
    broken: tuple[BrokenRow, ...] = ()

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, number: int) -> bytes:
        """One row, without its line break."""
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.data)
        return self.data[self.starts[number] : end].rstrip(b"\r\n")

    def without_first(self) -> RowBlock:
        """The rows after the first one."""
        cut = int(self.starts[1]) if len(self.starts) > 1 else len(self.data)
        return RowBlock(self.data[cut:], self.starts[1:] - cut, self.lines[1:], self.broken)


def row_blocks(
    blocks: Iterator[bytes], dialect: Dialect, name: str, max_row_bytes: int, line: int = 1
) -> Iterator[RowBlock]:
    """The rows of a text, block by block; a block is larger than those of the text only where one row is.

    Raises ``FileUnreadable`` for a row that is too long, and for a quote that is never closed.
    """
    pending: list[bytes] = []
    size = wanted = 0
    for block in blocks:
        pending.append(block)
        size += len(block)
        if size < wanted:
            continue
        text = b"".join(pending)
        found, used, line = _divide(text, dialect, line, final=False)
        if found is not None:
            yield found
        rest = text[used:]
        if len(rest) > max_row_bytes:
            raise _too_long(name, line, max_row_bytes)
        # A row that does not end here is looked at again when there is twice as much of it.
        pending, size = [rest], len(rest)
        wanted = min(2 * size, max_row_bytes + 1) if used == 0 else 0
    text = b"".join(pending)
    found, used, line = _divide(text, dialect, line, final=True)
    if found is not None:
        yield found
    if used < len(text):
        raise unreadable(name, "a quote that opens in the row of this line is never closed", line=line)


def _too_long(name: str, line: int, most: int) -> Exception:
    return unreadable(
        name,
        f"the row that begins here is longer than {most:,} bytes",
        line=line,
        remedy="look for a quote that is never closed, or raise max_row_bytes of the format.",
    )


def _divide(text: bytes, dialect: Dialect, line: int, *, final: bool) -> tuple[RowBlock | None, int, int]:
    """The whole rows at the beginning of a text, how many bytes they take, and the number of the line after them."""
    breaks = _line_breaks(text, final=final)
    ends = _row_ends(text, breaks, dialect, final=final)
    unclear: list[int] = []
    if ends is None:
        ends, unclear = _row_ends_by_pattern(text, dialect, final=final)
    if not len(ends):
        return None, 0, line
    used = int(ends[-1])
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    lines = line + np.searchsorted(breaks, starts)
    rows = _Rows(text[:used], starts, ends, lines, unclear)
    return rows.block(dialect), used, line + int(np.searchsorted(breaks, used))


def _line_breaks(text: bytes, *, final: bool) -> Positions:
    """The positions of the last byte of each line break."""
    data = np.frombuffer(text, np.uint8)
    found = data == _LF
    if b"\r" in text:
        alone = data == _CR
        # A CR at the end may be half of a CR LF.
        alone[:-1] &= data[1:] != _LF
        alone[-1] &= final
        found |= alone
    return np.flatnonzero(found)


def quotes_tell(text: bytes, dialect: Dialect) -> bool:
    """Whether a line break is the end of a row just where the number of quotes before it is even."""
    return _row_ends(text, _line_breaks(text, final=True), dialect, final=True) is not None


def _row_ends(text: bytes, breaks: Positions, dialect: Dialect, *, final: bool) -> Positions | None:
    """Where the rows end, after their line breaks; ``None`` where quotes do not tell."""
    if (dialect.escape and dialect.escape.encode() in text) or (dialect.comment and dialect.comment.encode() in text):
        return None
    ends = breaks + 1
    closed = True
    if dialect.quote and dialect.quote.encode() in text:
        data = np.frombuffer(text, np.uint8)
        quotes = np.flatnonzero(data == ord(dialect.quote))
        if not _at_edges(data, quotes, dialect):
            return None
        ends = ends[np.searchsorted(quotes, breaks) % 2 == 0]
        closed = len(quotes) % 2 == 0
    if final and closed and text and (not len(ends) or ends[-1] < len(text)):
        return np.append(ends, len(text))
    return ends


def _at_edges(data: npt.NDArray[np.uint8], quotes: Positions, dialect: Dialect) -> bool:
    """Whether each quote opens or closes a value, or is one of two."""
    edges = np.zeros(256, dtype=bool)
    edges[[ord(dialect.delimiter), _LF, _CR]] = True
    edges[ord(dialect.quote)] = dialect.double_quote
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[np.maximum(opening - 1, 0)]
    after = data[np.minimum(closing + 1, len(data) - 1)]
    return bool(np.all(edges[before] | (opening == 0)) and np.all(edges[after] | (closing == len(data) - 1)))


def _row_ends_by_pattern(text: bytes, dialect: Dialect, *, final: bool) -> tuple[Positions, list[int]]:
    """Where the rows end, and the numbers of those in which text follows a closing quote."""
    ends: list[int] = []
    unclear = []
    position = 0
    while position < len(text):
        found = dialect.row.match(text, position)
        # What ends with the text may go on in the next block.
        if found is None or (not final and found[1] in (b"", b"\r") and found.end() == len(text)):
            break
        strict = dialect.strict_row.match(text, position)
        if strict is None or strict.end() != found.end():
            unclear.append(len(ends))
        position = found.end()
        ends.append(position)
    return np.array(ends, np.int64), unclear


@dataclass(frozen=True)
class _Rows:
    """All rows of a text, as they stand there."""

    text: bytes
    starts: Positions
    ends: Positions
    lines: Positions
    unclear: list[int]

    def block(self, dialect: Dialect) -> RowBlock:
        """Those with values; readers take text after a closing quote for different things, so these are broken."""
        data = np.frombuffer(self.text, np.uint8)
        first = data[self.starts]
        left_out = (first == _LF) | (first == _CR)
        if dialect.comment:
            comment = dialect.comment.encode()
            left_out |= np.array([self.text.startswith(comment, start) for start in self.starts.tolist()], bool)
        left_out[self.unclear] = True
        if not left_out.any():
            return RowBlock(self.text, self.starts, self.lines)
        return self._kept(data, ~left_out)

    def _kept(self, data: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_]) -> RowBlock:
        lengths = self.ends - self.starts
        text = data[np.repeat(kept, lengths)].tobytes()
        ends = np.cumsum(lengths[kept])
        broken = tuple(map(self._broken, self.unclear))
        return RowBlock(text, ends - lengths[kept], self.lines[kept], broken)

    def _broken(self, number: int) -> BrokenRow:
        row = self.text[self.starts[number] : self.ends[number]].rstrip(b"\r\n")
        return BrokenRow(int(self.lines[number]), "text follows a closing quote", row.decode(errors="backslashreplace"))
