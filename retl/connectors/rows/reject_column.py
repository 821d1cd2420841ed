"""Rows that a source has read and that no target can be given: a column of their batch says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

REJECT = "retl.reject"
"""The name of the column that ``with_rejects`` adds."""
_REJECT_TYPE = pa.struct([("column", pa.string()), ("reason", pa.string()), ("content", pa.string())])


@dataclass(frozen=True, slots=True)
class RowReject:
    """Why a row that a source has read cannot be given to any target."""

    reason: str
    content: str
    """The row as text, for people: its JSON."""
    column: str = ""


def with_rejects(batch: pa.RecordBatch, rejects: Mapping[int, RowReject]) -> pa.RecordBatch:
    """A batch in which some rows, by their number, are rejects. Their other columns count for the key only."""
    if not rejects:
        return batch
    told = [rejects.get(number) for number in range(batch.num_rows)]
    values = [row and {"column": row.column, "reason": row.reason, "content": row.content} for row in told]
    schema = batch.schema.append(pa.field(REJECT, _REJECT_TYPE))
    return pa.RecordBatch.from_arrays([*batch.columns, pa.array(values, _REJECT_TYPE)], schema=schema)
