"""A window with the same rows as the last time needs no writing.

The rows that tie with the watermark, or lie within ``lookback``, are read with every scan.
The checkpoint remembers a digest of them; if the next scan reads exactly the same rows,
they are in the target already.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from retl.connectors.base import REJECT
from retl.engine.checkpoints import columns_of, selection
from retl.model.actions import Write
from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan, WriteSpec

_MOST_ROWS = 1_000
"""A larger window is written again: to compare it would cost a Python object for each value."""


def may_repeat(plan: SourcePlan, checkpoint: Checkpoint) -> bool:
    """Whether the window is small, closed at the watermark, and was read in the same way before."""
    window = plan.window
    return (
        window is not None
        and window.upper == checkpoint.watermark
        and plan.rows is not None
        and plan.rows <= _MOST_ROWS
        and plan.table.write is Write.UPSERT
        and checkpoint.position is None
        and not checkpoint.unfinished
        and not any(slice_.scope or slice_.manifest or slice_.detail for slice_ in plan.slices)
        and checkpoint.columns == columns_of(plan)
        and checkpoint.selection == selection(plan.table)
    )


def digest_of(spec: WriteSpec, plan: SourcePlan, batches: list[pa.RecordBatch]) -> str | None:
    """A digest of the rows in any order and of how they are written.

    ``None`` if one of them is a reject, or there are too many.
    """
    if sum(batch.num_rows for batch in batches) > _MOST_ROWS:
        return None
    if any(REJECT in batch.schema.names for batch in batches):
        return None
    try:
        rows = sorted(repr(row) for batch in batches for row in zip(*map(_exact, batch.columns), strict=True))
    except ValueError:
        return None  # a value that Python cannot hold
    kinds = sorted({str(batch.schema.types) for batch in batches})
    bounds = (plan.window and (plan.window.lower, plan.window.upper), plan.key, kinds)
    # What a blacklist or a missing column has held back is written once that changes.
    how = (spec.table.to, spec.table.new_columns, sorted(spec.blacklist))
    return hashlib.sha256(repr((bounds, how, rows)).encode("utf-8", "surrogatepass")).hexdigest()


def _exact(column: pa.Array) -> list[object]:
    """Values that Python tells apart to the last bit; bytes for those that it would round."""
    kind = column.type
    if pa.types.is_floating(kind):
        width = kind.bit_width
        raw = column.view(pa.int64() if width == 64 else pa.int32() if width == 32 else pa.int16())
        return list(raw.to_pylist())
    if pa.types.is_temporal(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return list(column.view(whole).to_pylist())
    return list(column.to_pylist())
