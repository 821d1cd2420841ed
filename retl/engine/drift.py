"""Changes since the last scan: in the declaration, and at the source."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from retl.engine import guard
from retl.engine.checkpoints import columns_of, selection
from retl.model.checkpoint import Checkpoint, check_cursor_type
from retl.model.errors import ConfigError, SchemaDrift
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec

Warn = Callable[[str], None]


def usable(table: TableSpec, checkpoint: Checkpoint, warn: Warn) -> Checkpoint:
    """The checkpoint as a scan of this table may use it.

    Refuses a watermark that belongs to another column; warns where the selection has changed.
    """
    if table.cursor is None or (checkpoint.watermark is None and checkpoint.position is None):
        return msgspec.structs.replace(checkpoint, watermark=None, position=None)
    if checkpoint.cursor != table.cursor:
        raise ConfigError(
            f"the checkpoint was made with the cursor {checkpoint.cursor!r}, but the table now has {table.cursor!r}.",
            remedy=f"run `retl reset` for table {table.name!r}: its next scan then reads everything once.",
        )
    if checkpoint.selection is not None and checkpoint.selection != selection(table):
        warn(
            "the query, columns, filter or expressions have changed since the last scan; rows below the watermark are not read again. "
            f"`retl reset` for table {table.name!r} reads everything once."
        )
    return checkpoint


def check_plan(table: TableSpec, checkpoint: Checkpoint, plan: SourcePlan, warn: Warn) -> None:
    """Compare the source's columns with those of the last scan: warn, or raise before anything is written."""
    for warning in plan.warnings:
        warn(warning)
    null_warning = guard.check_null_cursor(plan)
    if null_warning:
        warn(null_warning)
    if table.cursor is not None and plan.cursor_type is not None:
        check_cursor_type(table.name, table.cursor, checkpoint, plan.cursor_type)
    if checkpoint.columns is None or checkpoint.selection != selection(table):
        return
    after = columns_of(plan)
    _check_gone([name for name in checkpoint.columns if name not in after], table, warn)
    added = [name for name in after if name not in checkpoint.columns]
    if added and table.new_columns == "add" and checkpoint.watermark is not None and plan.slices:
        warn(
            f"the source has the new {_columns(added)}; a column that the target gets now is NULL in all rows below the "
            f"watermark, which are not read again. `retl reset` for table {table.name!r} reads everything once."
        )


def _check_gone(gone: list[str], table: TableSpec, warn: Warn) -> None:
    if not gone:
        return
    text = f"the source no longer has the {_columns(gone)}"
    if table.new_columns == "fail":
        raise SchemaDrift(f'{text}, and new_columns is "fail".', remedy="list the columns to read in columns.")
    warn(f"{text}; the target keeps the values that it has.")


def _columns(names: Iterable[str]) -> str:
    listed = list(names)
    return f"column{'s' if len(listed) > 1 else ''} {', '.join(listed)}"
