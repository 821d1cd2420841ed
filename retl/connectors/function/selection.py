"""What a scan asks of a user's function, and which columns and rows of the answer it keeps. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.function.types import join, learn, without_values
from retl.model.cursor import cursor_family, settled
from retl.model.errors import ConfigError, SourceError
from retl.model.table import TableSpec


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """What one scan asks for.

    A function may ignore the bounds and give everything; that is only slower.
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
    """retl leaves out rows above this cursor value (``settle``); ``None`` if it leaves out none."""
    columns: tuple[str, ...] | None = None
    """The columns that will be kept, if the table names some; ``None``: all."""
    sample: bool = False
    """Whether only the first rows will be looked at, to learn the columns. One page is enough."""


def learnt(
    before: pa.Schema | None, sample: list[Mapping[str, Any]] | pa.Schema
) -> tuple[pa.Schema, bool, tuple[str, ...]]:
    """The columns, whether there are no rows, and a warning if any."""
    if isinstance(sample, pa.Schema):
        return join(before, sample), False, ()
    if not sample:
        if before is None:
            raise SourceError(
                "the function gave no row, so its columns cannot be known.", remedy="give IteratorSource a schema."
            )
        return before, True, ()
    if before is None:
        schema = learn(sample)
        blank = without_values(schema, sample)
    else:
        fresh = [{name: value for name, value in row.items() if name not in before.names} for row in sample]
        schema = join(before, learn(fresh))
        blank = []
    warning = f"no value was seen in {', '.join(blank)}, so that is taken as text; declare it with schema."
    return schema, False, (warning,) if blank else ()


def cursor_name(table: TableSpec, known: pa.Schema, names: Sequence[str]) -> str:
    """The cursor's name in the target. Raises ``ConfigError`` if the rows do not hold the watermark."""
    assert table.cursor is not None
    if table.cursor not in names:
        raise ConfigError(
            f"the cursor {table.cursor!r} is not among the columns that are read, so no watermark can be found.",
            remedy="add it to columns.",
        )
    kind = known.field(table.cursor).type
    if cursor_family(kind) is None:
        raise ConfigError(
            f"the cursor {table.cursor!r} is of type {kind}, which does not order change.",
            remedy="choose a column of time (or a whole number that only grows), or cursor = false for full scans.",
        )
    return table.target_name(table.cursor)


def call_text(window: ReadWindow) -> str:
    bounds = "".join(
        f", {word}={value!r}" for word, value in (("lower", window.lower), ("upper", window.upper)) if value
    )
    return f"read({window.table!r}{bounds})"


@dataclass(frozen=True)
class Limits:
    """Passes on the rows within the bounds, which are cursor values as text."""

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
