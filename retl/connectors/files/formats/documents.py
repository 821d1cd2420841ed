"""Where the JSON documents of a text begin and end, and in which lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retl.connectors.files.formats.base import unreadable

_SPACE = b" \t\r\n"
_BETWEEN = re.compile(rb"[\s,]*")


@dataclass(frozen=True)
class DocumentBlock:
    """Some documents, each without a line break."""

    texts: list[bytes]
    lines: npt.NDArray[np.int64]
    """The line in which each document begins."""


def in_lines(blocks: Iterator[bytes], name: str, max_bytes: int) -> Iterator[DocumentBlock]:
    """One document a line; empty lines are left out."""
    pending = b""
    line = 1
    for block in blocks:
        whole, found, pending = (pending + block).rpartition(b"\n") if b"\n" in block else (b"", b"", pending + block)
        _check(pending, name, line, max_bytes)
        if found:
            texts = whole.split(b"\n")
            yield _without_empty(texts, line)
            line += len(texts)
    if pending.strip(_SPACE):
        yield _without_empty([pending], line)


def _without_empty(texts: list[bytes], line: int) -> DocumentBlock:
    lines = np.arange(line, line + len(texts))
    full = [bool(text.strip(_SPACE)) for text in texts]
    if all(full):
        return DocumentBlock(texts, lines)
    return DocumentBlock([text for text, some in zip(texts, full, strict=True) if some], lines[np.array(full)])


def _check(pending: bytes, name: str, line: int, max_bytes: int) -> None:
    if len(pending) > max_bytes:
        raise unreadable(
            name,
            f"the document that begins after this line is longer than {max_bytes:,} bytes",
            line=line,
            remedy="raise max_row_bytes of the format, or see whether the file is one of JSON lines.",
        )


def in_array(blocks: Iterator[bytes], name: str, max_bytes: int) -> Iterator[DocumentBlock]:
    """The documents of one array, however they are laid out; or documents that follow each other without one.

    Raises ``FileUnreadable`` where the file ends before its brackets are closed, and for text after them.
    """
    scanner = _Scanner(name)
    for block in blocks:
        found = scanner.feed(block)
        _check(scanner.pending, name, scanner.line, max_bytes)
        if found.texts:
            yield found
    scanner.finish()


class _Scanner:
    """Finds brackets outside of strings, with what it must remember from one block to the next."""

    def __init__(self, name: str) -> None:
        self.pending = b""
        """The beginning of a document that has not ended."""
        self.line = 1
        self._name = name
        self._depth = 0
        self._within = False
        self._backslashes = b""
        self._base: int | None = None
        """The depth between two documents: 1 in an array. Unknown before the first bracket."""
        self._closed = False

    def feed(self, block: bytes) -> DocumentBlock:
        """The documents that end in this block."""
        block = self._backslashes + block
        kept = block.rstrip(b"\\")
        # Whether a quote after them is one depends on their number.
        self._backslashes, block = block[len(kept) :], kept
        if self._base is None:
            block = self._begin(block)
        ends = self._ends(np.frombuffer(block, np.uint8))
        return self._cut(block, ends.tolist())

    def _begin(self, block: bytes) -> bytes:
        text = block.lstrip(_SPACE)
        self.line += block[: len(block) - len(text)].count(b"\n")
        if not text:
            return b""
        self._base = 1 if text.startswith(b"[") else 0
        self._depth = self._base
        return text[self._base :]

    def _ends(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The positions after the brackets that close a document, or the array."""
        within = self._in_strings(data)
        opening = ((data == ord("{")) | (data == ord("["))) & ~within
        closing = ((data == ord("}")) | (data == ord("]"))) & ~within
        places = np.flatnonzero(opening | closing)
        depth = self._depth + np.cumsum(np.where(opening[places], 1, -1))
        if len(depth):
            self._depth = int(depth[-1])
        ends: npt.NDArray[np.int64] = places[closing[places] & (depth <= (self._base or 0))] + 1
        return ends

    def _in_strings(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        quotes = data == ord('"')
        backslash = data == ord("\\")
        if backslash.any():
            quotes &= ~_after_odd(backslash)
        within: npt.NDArray[np.bool_] = (np.cumsum(quotes) + self._within) % 2 == 1
        if len(within):
            self._within = bool(within[-1])
        return within

    def _cut(self, block: bytes, ends: list[int]) -> DocumentBlock:
        texts, lines = [], []
        start = 0
        for end in ends:
            document = self._document(self.pending + block[start:end])
            self.pending, start = b"", end
            if document is not None:
                lines.append(document[0])
                texts.append(document[1])
        self.pending += block[start:]
        if self._closed and self.pending.strip(_SPACE):
            raise unreadable(self._name, "text follows the end of the array", line=self.line)
        return DocumentBlock(texts, np.array(lines, np.int64))

    def _document(self, text: bytes) -> tuple[int, bytes] | None:
        """A document with its line; ``None`` for the end of the array."""
        if self._closed:
            raise unreadable(self._name, "text follows the end of the array", line=self.line)
        between = text[: _BETWEEN.match(text).end()]  # type: ignore[union-attr]  # it matches the empty text too
        self.line += between.count(b"\n")
        line, text = self.line, text[len(between) :]
        self.line += text.count(b"\n")
        if self._base and text == b"]":
            self._closed = True
            return None
        if text[:1] not in (b"{", b"["):
            raise unreadable(self._name, "its array holds a value that is no object", line=line)
        return line, text.replace(b"\n", b" ").replace(b"\r", b" ")

    def finish(self) -> None:
        """Raises ``FileUnreadable`` where the text is not at its end."""
        whole = self._closed if self._base else not self.pending.strip(_SPACE)
        if not whole or self._within or self._backslashes:
            raise unreadable(self._name, "it ends in the middle of a document or of its array", line=self.line)


def _after_odd(backslash: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which bytes follow an odd number of backslashes."""
    places = np.arange(len(backslash))
    last_other = np.maximum.accumulate(np.where(backslash, -1, places))
    odd = (places - last_other) % 2 == 1
    return np.concatenate([[False], odd[:-1]])
