"""The checkpoint after a slice, and after a whole scan. Pure functions."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from retl.model.checkpoint import Checkpoint
from retl.model.cursor import compare, cursor_family
from retl.model.errors import ConfigError
from retl.model.plan import SourcePlan
from retl.model.schema import native_type
from retl.model.table import TableSpec
from retl.model.window import Slice


def after_slice(
    before: Checkpoint, plan: SourcePlan, slice_: Slice, scan_id: str, highest: pa.Scalar | None
) -> Checkpoint:
    """The checkpoint once this slice is committed; ``highest`` is the cursor value that a stream has reached."""
    watermark = slice_.watermark
    if slice_.ordered_by is not None and highest is not None:
        watermark = _not_below(_text(highest), before.watermark, highest.type)
    return msgspec.structs.replace(
        before,
        scan_id=scan_id,
        cursor=plan.table.cursor,
        cursor_type=plan.cursor_type,
        position=slice_.position,
        watermark=before.watermark if watermark is None else watermark,
        detail={**before.detail, **slice_.detail},
        unfinished=bool(plan.table.after_sql),
    )


def with_rows(before: Checkpoint, rows: int) -> Checkpoint:
    """The same with more rows written."""
    return msgspec.structs.replace(before, written=before.written + rows)


def after_scan(before: Checkpoint, plan: SourcePlan, scan_id: str, digest: str | None = None) -> Checkpoint:
    """The checkpoint once all slices are committed and the target is finished; ``digest`` tells what its window held."""
    return msgspec.structs.replace(
        before,
        scan_id=scan_id,
        underway=None,
        cursor=plan.table.cursor,
        cursor_type=plan.cursor_type,
        refresh=None,
        unfinished=False,
        position=None,
        columns=columns_of(plan),
        selection=selection(plan.table),
        window_digest=digest,
        detail={**before.detail, **plan.finished},
    )


def columns_of(plan: SourcePlan) -> dict[str, str]:
    """The columns of a scan and their native types, as the checkpoint remembers them."""
    return {column.name: native_type(column) for column in plan.schema}


def selection(table: TableSpec) -> str:
    """A fingerprint of the selection at the source."""
    computed, renamed = sorted(table.expressions.items()), sorted(table.rename.items())
    query = table.query if not table.params else (table.query, sorted(table.params.items()))
    chosen = (query, table.columns, table.exclude, table.where, computed, renamed)
    return hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]


def higher(highest: Any, batch: pa.RecordBatch, column: str) -> Any:
    """The higher of a value and the highest of a batch's column."""
    found = pc.max(batch.column(column))
    if not found.is_valid:
        return highest
    if highest is None or pc.greater(found, highest).as_py():
        return found
    return highest


def _text(value: pa.Scalar) -> str:
    if cursor_family(value.type) is None:
        raise ConfigError(
            f"a column of type {value.type} cannot be a cursor.", remedy="choose a column of time or whole numbers."
        )
    return str(value.cast(pa.string()).as_py())


def _not_below(found: str, watermark: str | None, type: pa.DataType) -> str:
    """The higher of the two: rows that ``lookback`` reads again do not move the watermark back."""
    family = cursor_family(type)
    assert family is not None
    return watermark if watermark is not None and compare(found, watermark, family) < 0 else found
