"""Guards that stop a scan before it does harm."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import REJECT
from retl.model.actions import PreAction
from retl.model.errors import ConfigError, GuardStopped, RowsRejected
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec

_MUCH_LESS_FULL = 0.1
_MUCH_LESS_INCREMENTAL = 0.5
"""The share of the counted rows that may be missing: rows of a window change while it is read."""
_MANY_REJECTS = 100
_ANY_NUMBER = 2**31


def check_null_cursor(plan: SourcePlan) -> str | None:
    """A warning about rows that have no cursor value; raises ``GuardStopped`` for ``null_cursor = "fail"``."""
    return null_cursor_warning(plan.table, plan.null_cursor_rows)


def null_cursor_warning(table: TableSpec, rows: int) -> str | None:
    """The same for a number of rows of a table."""
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


def check_deletes(before: int, deletes: int, max_shrink: float, *, table: str) -> None:
    """The same for a mirror, which deletes what the source lacks: new rows do not make up for it."""
    allowed = round(before * max_shrink)
    if deletes > allowed:
        raise GuardStopped(
            f"{deletes:,} of the {before:,} rows of the target table {table!r} are not in the source; max_shrink = "
            f'"{max_shrink:.4g}" allows to delete no more than {allowed:,}, so it was left as it is.',
            remedy="look at the source; if it is right, raise max_shrink.",
        )


def check_countable(plan: SourcePlan) -> None:
    """Refuse ``max_shrink`` if it could only be checked after the target was emptied."""
    if plan.rows is None and plan.table.max_shrink is not None and plan.table.max_shrink < 1:
        raise ConfigError(
            f'this source cannot count its rows beforehand, so max_shrink cannot protect pre_action = "{plan.table.pre_action}".',
            remedy='use pre_action = "swap", which checks before the switch.',
        )


def check_arrived(plan: SourcePlan, rows: int) -> str | None:
    """Warn if many of the counted rows did not come; stop a scan that replaces the table."""
    table, counted = plan.table, plan.rows
    if counted is None or plan.exact_rows:
        return None
    missing = max(_MUCH_LESS_FULL, table.max_shrink or 0) if table.full else _MUCH_LESS_INCREMENTAL
    if rows >= counted - counted * missing:
        return None
    what = f"the source counted {counted:,} rows before this scan, and only {rows:,} came"
    if not table.replaces:
        return f"{what}; unless the others were deleted since, look for what limits its answers."
    left = "the target holds what came" if table.pre_action is PreAction.TRUNCATE else "the rest is missing"
    if table.pre_action.has_shadow:
        left = "the target was left as it is"
    raise GuardStopped(
        f"{what}; {left}.",
        remedy="look for what limits the source's answers; if so many rows were deleted since, the next scan will do, "
        "or allow it with max_shrink.",
    )


def check_shadow(held: int, delivered: int, *, table: str) -> None:
    """Stop a switch to a table that holds fewer rows than the target reported as taken."""
    if held < delivered:
        raise GuardStopped(
            f"the new table holds {held:,} rows, but the target has taken {delivered:,}; {table!r} was left as it is.",
            remedy="look for what drops or merges rows in the target: a trigger, a rule, a pipeline, a collation of the key.",
        )


def advise(error: RowsRejected, staged: int) -> None:
    """Another remedy if most rows of a slice are rejects: a higher ``max_rejects`` would not help."""
    if 2 * len(error.rejects) >= staged or len(error.rejects) >= _MANY_REJECTS:
        error.remedy = (
            "`retl rejects` shows them. So many have one cause: correct the table, the mapping (columns, rename, "
            "expressions) or the source, and leave max_rejects as it is."
        )


def max_rejects(table: TableSpec, planned: int | None, read: int) -> int:
    """The allowed rejects: a share of the planned rows, or of those read so far if the source cannot count."""
    if table.max_reject_share is None:
        return table.max_rejects
    share = Fraction(str(table.max_reject_share))  # 0.1 has no exact float
    return int(share * (planned if planned is not None else read))


def with_reject_limit(table: TableSpec, planned: int | None) -> TableSpec:
    """The table as its target sees it. While the number of rows is unknown, a share allows no reject."""
    if table.max_reject_share is None:
        return table
    known = max_rejects(table, planned, 0) if planned is not None else _ANY_NUMBER
    return dataclasses.replace(table, max_rejects=known)
