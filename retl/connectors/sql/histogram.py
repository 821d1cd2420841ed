"""How the rows of a window spread over its range, fine enough to cut slices of a given size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from retl.connectors.sql.reader import SqlReader
from retl.connectors.sql.selection import Selection
from retl.model.window import Window

_FEWEST_BUCKETS = 64
_MOST_BUCKETS = 4096


@dataclass(frozen=True)
class Histogram:
    """The counts of one window, asked as they are needed."""

    reader: SqlReader
    chosen: Selection
    window: Window
    cursor: pa.Field

    async def totals(self) -> tuple[Any, ...]:
        """The window's rows, and the extremes of their bucket numbers."""
        return (await self.reader.query(self.chosen.totals(self.window, self.cursor)))[0]

    async def counts(self, total: Any, low: Any, high: Any, *, slice_rows: int) -> list[tuple[str, int]]:
        """``(highest cursor value, rows)`` of neighbouring ranges in ascending order."""
        if not total:
            return []
        if total <= slice_rows:
            return [(self.window.upper, int(total))]
        if low is None:
            rows = await self.reader.query(self.chosen.exact_histogram(self.window, self.cursor, slice_rows))
            return [(str(value), int(count)) for value, count in rows]
        return await self._refine(int(low), int(high), int(total), slice_rows)

    async def _refine(self, low: int, high: int, total: int, slice_rows: int) -> list[tuple[str, int]]:
        """Count by buckets of equal width; look closer where one holds too much and more than one value."""
        buckets = min(_MOST_BUCKETS, max(_FEWEST_BUCKETS, 8 * -(-total // slice_rows)))
        width = (high - low) // buckets + 1
        counts: list[tuple[str, int]] = []
        statement = self.chosen.histogram(self.window, self.cursor, low, high, width)
        for value, rows, one_value, first, last in await self.reader.query(statement):
            if rows > slice_rows and not one_value and int(first) < int(last):
                counts.extend(await self._refine(int(first), int(last), int(rows), slice_rows))
            else:
                counts.append((str(value), int(rows)))
        return counts
