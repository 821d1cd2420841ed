"""What a user's function is told of the scan that calls it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """What one scan wants to know.

    A function that ignores the bounds and gives everything is right too, only slower.
    """

    table: str
    """The table's name, for a function that serves several."""
    cursor: str | None = None
    """The column that orders change, under the function's own name; ``None`` for a full scan."""
    lower: str | None = None
    """Rows at or above this cursor value are wanted, ``lookback`` already taken off; ``None``: all rows.

    It is text to its last digit: ``2024-05-01 12:30:00.123456Z``, ``4711``.
    """
    upper: str | None = None
    """Rows above this cursor value are left out by retl (``settle``); ``None`` where nothing is."""
    columns: tuple[str, ...] | None = None
    """The columns that will be kept, where the table names some; ``None``: all."""
    sample: bool = False
    """Whether only the first rows will be looked at, to learn the columns. One page is enough."""
