"""The window of one scan and its slices: what is read, in which order, and what may be remembered when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from retl.model.cursor import CursorFamily, compare, settled, step_back
from retl.model.errors import ConfigError
from retl.model.manifest import ManifestChange
from retl.model.range import CursorRange
from retl.model.table import TableSpec


class Window(msgspec.Struct, frozen=True):
    """The cursor range of one scan, closed at both ends unless ``lower_exclusive``.

    ``lower`` is ``None`` for a first load. All bounds are the source's own text.
    """

    cursor: str
    family: CursorFamily
    lower: str | None
    upper: str
    lower_exclusive: bool = False
    watermark: str | None = None
    """The watermark before the scan; no slice moves it back."""
    reread_from: str | None = None
    """From here on the next scan reads again; ``None`` where it reads nothing twice."""
    given: bool = False
    """Whether the lower end was given, as for a backfill: rows that tie with it are no others than the rest."""


class Position(msgspec.Struct, frozen=True):
    """How far a group of rows that share too much to be cut by the cursor has got.

    What is done of it are parts of the rows with ``lower < cursor <= upper``; ``reread_from`` is
    that of the window they were read in, ``hashed`` says what the parts were made by.
    """

    lower: str | None
    upper: str
    modulus: int
    done: int
    reread_from: str | None = None
    hashed: str = ""


class Scope(msgspec.Struct, frozen=True):
    """The rows of the target that a slice replaces: those whose ``column`` is one of ``values``.

    Of an upsert, those whose key comes again stay, and only what differs is written.
    """

    column: str
    values: tuple[str, ...]


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a scan that is read, committed, retried and handed out as a unit.

    A small value that can be pickled. Its rows are those with ``lower < cursor <= upper``
    (``lower <= cursor`` where ``lower_exclusive`` is false), or with no cursor value where
    ``nulls`` is set; of those, where ``modulus`` is more than 1, the ones whose key hashes
    to ``remainder``.
    """

    index: int
    lower: str | None = None
    upper: str | None = None
    lower_exclusive: bool = False
    nulls: bool = False
    remainder: int = 0
    modulus: int = 1
    rows: int | None = None
    """How many rows the source expects in it."""
    watermark: str | None = None
    """The watermark that is safe once this slice and all before it are committed."""
    position: Position | None = None
    """How far the current group of parts is, once this slice is committed."""
    divisible: bool = False
    """Whether the rows read so far may be committed before the rest is read."""
    ordered_by: str | None = None
    """Target column whose highest value is the watermark, for sources that cannot tell it beforehand."""
    scope: Scope | None = None
    manifest: ManifestChange | None = None
    """What the manifest says once the slice is committed as a whole: saved with its rows."""
    detail: dict[str, Any] = {}
    """The source's own: a file, a partition."""
    last: bool = False
    """Whether a source that finds its slices while it compares knows that this is the last one, and that the scan ends well."""

    def __post_init__(self) -> None:
        if self.divisible and self.scope is not None:
            raise ValueError("a slice that replaces a scope must be committed as a whole, so it cannot be divisible")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a source says of a table before a scan: one statement, so one moment.

    ``low`` and ``high`` are the extremes of the cursor among rows at or above the lower
    bound asked for, ``null`` how many rows have no cursor value, ``now`` the source's clock.
    """

    low: str | None
    high: str | None
    null: int
    now: str


def lower_bound(spec: TableSpec, family: CursorFamily, watermark: str | None) -> str | None:
    """The lower bound of the next window: the watermark less ``lookback``, by arithmetic alone."""
    if watermark is None:
        return None
    return step_back(watermark, family, spec.lookback)


def make_window(spec: TableSpec, family: CursorFamily, watermark: str | None, bounds: Bounds) -> Window | None:
    """The window of this scan, or ``None`` where the source has nothing to read.

    The upper bound is the highest cursor value that the source named, lowered by
    ``settle``. With ``write = "append"`` the lower end is open, since a row that was
    read before would be doubled. Raises ``SourceError`` for a bound that cannot be read.
    """
    assert spec.cursor is not None
    if bounds.high is None:
        return None
    upper = bounds.high
    compare(upper, upper, family)  # a value without a place in the order must not become a watermark
    if spec.settle is not None:
        upper = settled(upper, bounds.now, family, spec.settle)
    lower = lower_bound(spec, family, watermark)
    appending = spec.write == "append"
    lowered = upper != bounds.high
    if lower is None:
        if lowered and bounds.low is not None and compare(upper, bounds.low, family) < 0:
            return None
    elif upper == lower:
        if appending:
            return None
    elif (lowered or family != "text") and compare(upper, lower, family) < (1 if appending else 0):
        return None  # text is not compared here: only the source knows its collation
    top = watermark if watermark not in (None, lower) and compare(upper, watermark, family) < 0 else upper
    return Window(
        spec.cursor,
        family,
        lower,
        upper,
        lower_exclusive=appending and lower is not None,
        watermark=watermark,
        reread_from=None if appending else lower_bound(spec, family, top),
    )


def range_window(
    cursor: str,
    family: CursorFamily,
    wanted: CursorRange,
    done: str | None,
    highest: str | None,
    *,
    ties_done: bool = True,
) -> Window | None:
    """The window of a backfill, or ``None`` where nothing is left to read.

    ``wanted`` as the source writes it; ``done``: up to here it has been read already,
    with all rows of this very value unless ``ties_done`` is false. ``highest`` is the highest
    value below its end that the source has named: all rows that tie with it are read, and none of the end itself.
    """
    if highest is None:
        return None
    compare(highest, highest, family)
    if done is not None and (
        (ties_done and done == highest) or (family != "text" and compare(highest, done, family) < 0)
    ):
        return None
    lower, behind = (wanted.since, False) if done is None else (done, ties_done)
    return Window(cursor, family, lower, highest, lower_exclusive=behind, given=True)


def cut(
    window: Window,
    counts: Sequence[tuple[str, int]],
    slice_rows: int,
    position: Position | None = None,
    hashed: str = "",
) -> list[Slice]:
    """Cut a window into slices of about ``slice_rows`` rows: no gap, no overlap.

    ``counts`` are ``(highest cursor value, rows)`` of neighbouring ranges in ascending
    order. Ranges are joined up to ``slice_rows``; one that holds more (rows that share a
    cursor value cannot be cut by it) becomes several parts by a hash of the key, and the
    watermark moves on when the last of them is committed. ``position`` tells which
    parts of a group an interrupted scan has done; they are not read again, if they were
    made by the same hash: ``hashed`` names it and its key.
    """
    if slice_rows < 1:
        raise ConfigError(f"slice_rows is {slice_rows}, but it must be at least 1.")
    slices: list[Slice] = []
    lower, lower_exclusive = window.lower, window.lower_exclusive

    def add(upper: str, rows: int, modulus: int, done: int = 0) -> None:
        nonlocal lower, lower_exclusive
        for remainder in range(done, modulus):
            last = remainder == modulus - 1
            slices.append(
                Slice(
                    index=len(slices),
                    lower=lower,
                    upper=upper,
                    lower_exclusive=lower_exclusive,
                    remainder=remainder,
                    modulus=modulus,
                    rows=rows // modulus + (rows % modulus > remainder),
                    watermark=upper if last and _moves_on(window, upper) else None,
                    position=None
                    if last
                    else Position(lower, upper, modulus, remainder + 1, window.reread_from, hashed),
                )
            )
        lower, lower_exclusive = upper, True

    def add_up_to(upper: str, part_counts: Sequence[tuple[str, int]]) -> None:
        ranges = list(_join(part_counts, slice_rows))
        if not ranges or _falls_short(ranges[-1][0], upper, window.family):
            ranges.append((upper, 0))  # rows may arrive between the last value counted and the bound
        for value, rows in ranges:
            add(value, rows, max(1, -(-rows // slice_rows)))

    rest = list(counts)
    if position is not None and position.hashed == hashed and _continues(position, window):
        between = position.lower if _reaches(window, position.lower) else None
        before, rest = _split(rest, between, window.family)
        if between is not None:
            add_up_to(between, before)
        group, rest = _split(rest, position.upper, window.family)
        add(position.upper, sum(rows for _, rows in group), position.modulus, position.done)
        if compare(position.upper, window.upper, window.family) >= 0:
            return slices
    add_up_to(window.upper, rest)
    return slices


def _moves_on(window: Window, value: str) -> bool:
    """Whether a value lies at or above the watermark; without ``lookback`` every one does."""
    return window.watermark in (None, window.lower) or compare(value, window.watermark, window.family) >= 0


def _falls_short(value: str, upper: str, family: CursorFamily) -> bool:
    return value != upper and (family == "text" or compare(value, upper, family) < 0)


def _reaches(window: Window, value: str | None) -> bool:
    """Whether the window holds values up to this one that no group holds."""
    if window.lower is None or value is None:
        return value is not None
    order = compare(window.lower, value, window.family)
    return order < 0 or (order == 0 and not window.lower_exclusive and not _holds_ties(window))


def _continues(position: Position, window: Window) -> bool:
    """Whether the parts that are done need not be read again.

    They must be where the scan after the interrupted one would have read them again, for
    rows that came late, and this scan goes so far beyond that the next one will not.
    """
    family = window.family
    if compare(position.upper, window.upper, family) > 0:
        return False
    if window.lower is not None:
        order = compare(position.upper, window.lower, family)
        if order < 0 or (order == 0 and not _holds_ties(window)):
            return False
    if position.reread_from is None or window.reread_from is None:
        return True
    return (
        compare(position.upper, position.reread_from, family) < 0
        or compare(window.reread_from, position.reread_from, family) <= 0
    )


def _holds_ties(window: Window) -> bool:
    """Whether the rows that tie with the lower end are a part of the first group, as in a backfill.

    In a window from the watermark on they are read once more, before it.
    """
    return window.given and not window.lower_exclusive


def _split(
    counts: list[tuple[str, int]], value: str | None, family: CursorFamily
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The counts up to a cursor value, and those above it."""
    if value is None:
        return [], counts
    end = next((n for n, (top, _) in enumerate(counts) if compare(top, value, family) > 0), len(counts))
    return counts[:end], counts[end:]


def _join(counts: Iterable[tuple[str, int]], slice_rows: int) -> Iterable[tuple[str, int]]:
    upper: str | None = None
    total = 0
    for value, rows in counts:
        if upper is not None and total + rows > slice_rows:
            yield upper, total
            total = 0
        upper, total = value, total + rows
    if upper is not None:
        yield upper, total
