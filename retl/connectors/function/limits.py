"""Which of a function's rows are passed on, and whether they came in the promised order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retl.model.cursor import cursor_family, settled
from retl.model.errors import ConfigError, SourceError
from retl.model.table import TableSpec


@dataclass(frozen=True)
class Limits:
    """Which rows are passed on. Bounds are cursor values as text."""

    cursor: str | None = None
    above: str | None = None
    upper: str | None = None
    ordered: bool = False

    def keep(self, batch: pa.RecordBatch, highest: Any) -> tuple[pa.RecordBatch, Any]:
        """The rows within the bounds, and the highest cursor value so far. Checks the promised order."""
        if self.cursor is None:
            return batch, None
        if self.ordered:
            highest = _check_order(batch.column(self.cursor).drop_null(), highest, self.cursor)
        for bound, holds in ((self.above, pc.greater), (self.upper, pc.less_equal)):
            if bound is not None and batch.num_rows:
                values = batch.column(self.cursor)
                inside = holds(values, _bound(bound, values.type))
                batch = batch.filter(pc.or_kleene(inside, values.is_null()))
        return batch, highest


def _bound(text: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_timestamp(kind):
        kind = pa.timestamp("ns" if kind.unit == "ns" else "us", tz=kind.tz)
    return pa.scalar(text).cast(kind)


def _check_order(values: pa.Array, highest: Any, cursor: str) -> Any:
    if not len(values):
        return highest
    falls = pc.index(pc.less(values[1:], values[:-1]), True).as_py() if len(values) > 1 else -1
    first_falls = highest is not None and pc.less(values[0], highest).as_py()
    if falls >= 0 or first_falls:
        before, after = (highest, values[0]) if first_falls else (values[falls], values[falls + 1])
        raise SourceError(
            f"the rows were promised in the order of {cursor!r}, but {after} came after {before}.",
            remedy="sort them in the function, or leave out ordered=True.",
        )
    return values[-1]


def upper_bound(table: TableSpec, cursor: pa.Field, now: datetime) -> str:
    """The highest cursor value that ``settle`` lets through, by the source's own clock."""
    assert table.settle is not None
    family = cursor_family(cursor.type)
    if family not in ("time", "date") or (family == "time" and (now.tzinfo is None) != (cursor.type.tz is None)):
        raise ConfigError(
            f"settle cannot compare the cursor {table.cursor!r} ({cursor.type}) with the clock, which says {now}.",
            remedy="the cursor must be a time, and the clock must have a zone if, and only if, the cursor has one.",
        )
    latest = "9999-12-31" if family == "date" else f"9999-12-31 00:00:00{'Z' if now.tzinfo else ''}"
    return settled(latest, str(now), family, table.settle)
