"""Guards that stop a scan before it does harm."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import REJECT
from retl.model.errors import ConfigError, GuardStopped
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec


def check_null_cursor(plan: SourcePlan) -> str | None:
    """A warning about rows that have no cursor value; raises ``GuardStopped`` for ``null_cursor = "fail"``."""
    return null_cursor_warning(plan.table, plan.null_cursor_rows)


def null_cursor_warning(table: TableSpec, rows: int) -> str | None:
    """The same for so many rows of a table."""
    if not rows:
        return None
    what = f"{rows:,} row{'s have' if rows > 1 else ' has'} no value in the cursor column {table.cursor!r}"
    if table.null_cursor == "fail":
        raise GuardStopped(
            f'{what}, and null_cursor is "fail".',
            remedy='correct the rows at the source, or choose null_cursor = "include" or "warn".',
        )
    if table.null_cursor == "include":
        return None
    return f'{what} and will not be read; null_cursor = "include" reads them with every scan.'


def apply_null_cursor(table: TableSpec, batch: pa.RecordBatch, cursor: str) -> tuple[pa.RecordBatch, int]:
    """The rows that ``null_cursor`` lets through, and how many of the batch have no cursor value.

    For sources that meet such rows only while they are read. Raises ``GuardStopped``.
    """
    wanted = batch.column(cursor).is_valid()
    if REJECT in batch.schema.names:
        wanted = pc.or_(wanted, batch.column(REJECT).is_valid())
    rows = batch.num_rows - int(wanted.true_count)
    if not rows:
        return batch, 0
    null_cursor_warning(table, rows)
    return (batch if table.null_cursor == "include" else batch.filter(wanted)), rows


def check_shrink(before: int, after: int, max_shrink: float | None, *, table: str) -> None:
    """Stop where ``after`` rows would replace ``before`` rows and that is fewer than allowed.

    Without ``max_shrink`` only a table that would become empty is stopped.
    """
    if after >= before:
        return
    if max_shrink is None:
        if after:
            return
        raise GuardStopped(
            f"the source has no rows, and the target table {table!r} has {before:,}; it was left as it is.",
            remedy='if the source is right, allow it with max_shrink = "100%".',
        )
    # Whole numbers only: a share such as 0.1 has no exact float.
    allowed = before - round(before * max_shrink)
    if after < allowed:
        raise GuardStopped(
            f"the source has {after:,} rows, and the target table {table!r} has {before:,}; max_shrink = "
            f'"{max_shrink:.4g}" allows no fewer than {allowed:,}, so it was left as it is.',
            remedy="look at the source; if it is right, raise max_shrink.",
        )


def check_countable(plan: SourcePlan) -> None:
    """Refuse ``max_shrink`` where it could only be checked after the target was emptied."""
    if plan.rows is None and plan.table.max_shrink is not None:
        raise ConfigError(
            f'this source cannot count its rows beforehand, so max_shrink cannot protect pre_action = "{plan.table.pre_action}".',
            remedy='use pre_action = "swap", which checks before the switch.',
        )
