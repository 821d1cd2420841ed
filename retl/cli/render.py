"""Text for people: tables, times, glyphs. Plain characters, so that any terminal shows them."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from retl.model.backfills import BackfillStatus
from retl.model.duration import format_duration
from retl.model.errors import RetlError
from retl.model.hidden import conceal, visible
from retl.model.range import CursorRange
from retl.model.report import ScanReport


def clean(text: str) -> str:
    """A text that is safe on a terminal: control characters become visible, hidden values stay hidden."""
    return visible(conceal(text))


def say(text: str, *, error: bool = False, flush: bool = False) -> None:
    """Print a text of any content, on stderr where it is an ``error``."""
    print(clean(text), file=sys.stderr if error else sys.stdout, flush=flush)


def print_error(error: RetlError) -> None:
    """An error on stderr: what happened, and below it what to do."""
    place = " / ".join(part for part in (error.pipeline, error.table) if part)
    text = f"{place}: {error.message}" if place else error.message
    for line in text.splitlines():
        say(f"retl: {line}", error=True)
    if error.remedy:
        say(f"      What to do: {error.remedy}", error=True)


def print_json(value: Any) -> None:
    """A value of the model as indented JSON."""
    print(conceal(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def clock(stream: TextIO | None = None) -> str:
    """The sign of a scheduled scan, or a word if the stream cannot show it."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "🕒".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "(scheduled)"
    return "🕒"


def width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Lines of aligned columns; those whose numbers are in ``right`` are aligned to the right."""
    rows = [[one_line(cell, 10_000) if "\n" in cell else cell for cell in row] for row in rows]
    columns = list(zip(head, *rows, strict=True))
    widths = [max(width(cell) for cell in column) for column in columns]
    lines = []
    for row in (head, *rows):
        cells = []
        for number, cell in enumerate(row):
            space = " " * (widths[number] - width(cell))
            cells.append(space + cell if number in right else cell + space)
        lines.append("  ".join(cells).rstrip())
    return lines


def ago(moment: datetime | None) -> str:
    """How long ago, or how soon, a time of day is: ``3s ago``, ``in 5m``."""
    if moment is None:
        return "never"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {format_duration(round(-seconds))}" if seconds < 0 else f"{format_duration(round(seconds))} ago"


def local_time(moment: datetime) -> str:
    """An event's time of day on the clock of this machine."""
    return f"{moment.astimezone():%H:%M:%S}"


def local_date(moment: datetime) -> str:
    """The same with its date."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def mode(report: ScanReport) -> str:
    """``incremental``, ``full``, ``full, swap`` or ``backfill since 2024-05-01``."""
    if report.mode == "backfill":
        return f"backfill {CursorRange(report.since, report.until)}"
    return report.mode if report.pre_action == "none" else f"{report.mode}, {report.pre_action}"


def backfill_text(found: BackfillStatus) -> str:
    """How far a backfill is that was sent to the owner: ``12,000 of 50,000 rows, up to 2024-05-03``."""
    of = f" of {found.rows_planned:,}" if found.pending and found.rows_planned is not None else ""
    rows = f"{found.rows:,}{of} rows" if of else plural(found.rows, "row")
    reached = f", up to {found.reached}" if found.reached is not None and found.state != "done" else ""
    alone = ", and no process runs the pipeline" if found.pending and found.owner is None else ""
    error = f"; {one_line(found.error, 500)}" if found.error else ""
    return f"{rows}{reached}{alone}{error}"


def not_written(report: ScanReport) -> str:
    """What became of rows that were read and not written: ``2 older, 1 reject``."""
    counts = ((report.older, "older"), (report.dropped, "dropped"))
    found = [f"{count:,} {what}" for count, what in counts if count]
    return ", ".join([*found, *([plural(report.rejects, "reject")] if report.rejects else [])])


def one_line(text: str, most: int = 200) -> str:
    """A text of any content as one line of bounded length."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def short_error(report: ScanReport) -> str:
    """The error of a report without the place that is printed beside it."""
    return one_line(without_place(report.error or "", report.pipeline, report.table), 500)


def without_place(text: str, pipeline: str, table: str = "") -> str:
    """An error's text without the place that is printed beside it."""
    for place in (f"{pipeline} / {table}", pipeline):
        named = re.match(rf"{re.escape(place)}( / |(\s*\(\w+\))?:\s*)", text)
        if named is not None:
            return text[named.end() :]
    return text
