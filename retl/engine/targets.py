"""The target's table before a scan: is it still the one that the checkpoint speaks of?"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from retl.connectors.base import Target, TargetTable
from retl.model.checkpoint import Checkpoint
from retl.model.errors import GuardStopped
from retl.model.table import TableSpec


async def starting_point(
    target: Target, table: TableSpec, checkpoint: Checkpoint, warn: Callable[[str], None]
) -> tuple[Checkpoint, TargetTable | None]:
    """The checkpoint to go on from, and the target's table as it stands, where the target can tell.

    A checkpoint whose table is gone would leave out all that it counts as delivered: raises
    ``GuardStopped``, or with ``lost_target = "reload"`` starts over.
    """
    found = await target.inspect(table.to)
    lost = _what_was_lost(table, checkpoint, found)
    if lost is None:
        return checkpoint, found
    if table.lost_target == "reload":
        warn(f'{lost}; lost_target is "reload", so everything is read again.')
        return Checkpoint(), found
    raise GuardStopped(
        f"{lost}; a scan from there on would never bring back what is missing.",
        remedy=f"restore the table, or run `retl reset --table {shlex.quote(table.name)}`: its next scan then reads "
        'everything once. lost_target = "reload" does that by itself.',
    )


def _what_was_lost(table: TableSpec, checkpoint: Checkpoint, found: TargetTable | None) -> str | None:
    """In words; ``None`` where nothing was, where nobody can tell, or where the scan reads everything anyway."""
    if found is None or not _leaves_out(table, checkpoint):
        return None
    since = f"the watermark {checkpoint.watermark}" if checkpoint.watermark is not None else "an earlier scan"
    if not found.exists:
        return f"the target table {table.to!r} is gone, but the checkpoint goes on from {since}"
    if found.empty and checkpoint.written:
        return (
            f"the target table {table.to!r} is empty, though {checkpoint.written:,} rows were written to it, "
            f"and the checkpoint goes on from {since}"
        )
    if None not in (found.identity, checkpoint.target) and found.identity != checkpoint.target:
        return (
            f"the target table {table.to!r} is not the one that was written before: it was dropped and made again, "
            f"and the checkpoint goes on from {since}"
        )
    return None


def _leaves_out(table: TableSpec, checkpoint: Checkpoint) -> bool:
    """Whether a scan from here leaves out what is counted as delivered."""
    if table.replaces:
        return False
    incremental = checkpoint.watermark is not None or checkpoint.position is not None
    return (incremental and not table.full) or bool(checkpoint.detail)
