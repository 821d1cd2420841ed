"""Where the sections of a text begin and end, and the runs of a long one. Pure functions.

A section is what stands below one heading. A run is cut by its content: a paragraph whose hash says so begins one. So
what a changed paragraph moves ends with its run, and the chunks of all others stay as they are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_RUN_CHUNKS = 6
"""How many chunks a run has, on average."""
_MOST_CHUNKS = 4 * _RUN_CHUNKS
_HASHES = 2**32
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(?:(=+)|(-+))[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_OTHER_BLOCK = re.compile(r" {0,3}(?:[>*+|-]|\d+[.)])|    |\t")
"""How a line begins that a line of ``---`` below does not make a heading."""
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
_CUT = re.compile(r"\n+|(?<=[.!?])\s+|(?<=[。！？])")  # full stops of Chinese
_CLOSES = (")", "]", "}", "end", "else", "elif", "except", "finally", "catch")
"""How a line of code begins that belongs to what is above it, though it is not indented."""


class Section(NamedTuple):
    """A part of a text: its place, where its body begins behind its headings, and the headings that it stands below."""

    start: int
    body: int
    end: int
    headings: tuple[str, ...] = ()


class _Line(NamedTuple):
    start: int
    end: int
    text: str

    @property
    def is_blank(self) -> bool:
        return not self.text.strip()


def _lines(text: str, start: int, end: int) -> Iterator[_Line]:
    while start < end:
        found = text.find("\n", start, end)
        after = end if found < 0 else found + 1
        yield _Line(start, after, text[start:after].rstrip("\r\n"))
        start = after


class _Fences:
    """Whether the lines that it is shown stand in fenced code."""

    def __init__(self) -> None:
        self._open = ""

    def holds(self, line: str) -> bool:
        """Whether a line, the next one, is code or begins or ends it."""
        found = _FENCE.match(line)
        if not self._open:
            self._open = found[1] if found else ""
        elif found and found[1].startswith(self._open) and not line[found.end() :].strip():
            self._open = ""
        else:
            return True
        return found is not None


# Sections -------------------------------------------------------------------


def markdown_sections(text: str) -> Iterator[Section]:
    """The sections of a Markdown text, in order and without a gap.

    A heading without a text of its own belongs to the section that follows.
    """
    path: list[tuple[int, str]] = []
    start = body = 0
    for place, after, level, title in _headings(text):
        if text[body:place].strip():
            yield Section(start, body, place, tuple(name for _, name in path))
            start = place
        path = [(other, name) for other, name in path if other < level]
        path.append((level, title))
        body = after
    yield Section(start, body, len(text), tuple(name for _, name in path))


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """Start, end, level and title of each heading outside of code."""
    fences = _Fences()
    matter = _FRONT_MATTER.match(text)
    title: _Line | None = None
    blank = True
    for line in _lines(text, matter.end() if matter else 0, len(text)):
        if fences.holds(line.text):
            title, blank = None, True
        elif found := _HEADING.fullmatch(line.text):
            yield line.start, line.end, len(found[1]), (found[2] or "").strip()
            title, blank = None, True
        elif title is not None and (under := _UNDERLINE.fullmatch(line.text)):
            yield title.start, line.end, 1 if under[1] else 2, title.text.strip()
            title, blank = None, True
        else:
            # A paragraph of one line alone: of a longer one, its last line would be the title.
            title = line if blank and not line.is_blank and not _OTHER_BLOCK.match(line.text) else None
            blank = line.is_blank


# Runs -----------------------------------------------------------------------


def runs(text: str, section: Section, size: int, *, code: bool = False) -> Iterator[Section]:
    """A section as runs of whole paragraphs, of about six chunks of ``size`` characters; a short one is one run."""
    start, most = section.start, _MOST_CHUNKS * size
    if section.end - start > size:
        for place, end in _units(text, section, size, code=code):
            if end - start > most or (place - start >= size and _begins_run(text[place:end], size)):
                if place > start:
                    yield _part(section, start, place)
                start = place
    yield _part(section, start, section.end)


def _part(section: Section, start: int, end: int) -> Section:
    return section._replace(start=start, body=min(max(start, section.body), end), end=end)


def _begins_run(unit: str, size: int) -> bool:
    wanted = _HASHES * len(unit) // (_RUN_CHUNKS * size)
    return zlib.crc32(unit.strip().encode("utf-8", "surrogatepass")) < wanted


def _units(text: str, section: Section, size: int, *, code: bool) -> Iterator[tuple[int, int]]:
    """The places where a run may begin, each with the end of what stands there: paragraphs, and the sentences and lines
    of long ones."""
    for start, end in _paragraphs(text, section.body, section.end, code=code):
        at = start
        if end - start > size:
            for cut in _CUT.finditer(text, start, end):
                yield from _pieces(at, cut.end(), size)
                at = cut.end()
        yield from _pieces(at, end, size)


def _pieces(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """What no sign divides, in pieces of bounded length."""
    while end - start > _RUN_CHUNKS * size:
        yield start, start + _RUN_CHUNKS * size
        start += _RUN_CHUNKS * size
    if end > start:
        yield start, end


def _paragraphs(text: str, start: int, end: int, *, code: bool) -> Iterator[tuple[int, int]]:
    """What stands between blank lines; in code, only what is not indented begins anew."""
    fences = _Fences()
    blank = False
    for line in _lines(text, start, end):
        inside = not code and fences.holds(line.text)
        begins = blank and not line.is_blank
        if code:
            begins = begins and not line.text[0].isspace() and not line.text.startswith(_CLOSES)
        if begins and line.start > start:
            yield start, line.start
            start = line.start
        blank = not inside and (line.is_blank or (code and blank and not begins))
    if end > start:
        yield start, end
