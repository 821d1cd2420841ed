"""Duplicate keys within one slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from retl.connectors.rows.text import to_text
from retl.model.actions import Write
from retl.model.errors import RepeatedKey
from retl.model.plan import WriteSpec


class KeyWatch:
    """Finds duplicate keys among the rows staged for one commit.

    Checks nothing if the source guarantees its key, or every row counts as new. It compares values, without a Python
    object per row.
    """

    def __init__(self, spec: WriteSpec) -> None:
        self._key = list(spec.key)
        keyed = spec.table.write is Write.UPSERT and not spec.table.replaces
        self._watch = bool(spec.key) and keyed and not spec.unique_key
        self._held: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        if self._watch:
            self._held.append(batch.select(self._key))

    def clear(self) -> None:
        self._held = []

    def has_duplicates(self) -> bool:
        """Whether some key occurs twice."""
        rows = sum(batch.num_rows for batch in self._held)
        if rows < 2:
            return False
        table = pa.Table.from_batches(_alike(self._held))
        if len(self._key) == 1 and pa.types.is_integer(table.column(0).type):
            values = table.column(0).to_numpy()
            steps = np.diff(values)
            if (steps > 0).all():
                return False
            return bool(len(np.unique(values)) < rows)
        return bool(table.group_by(self._key, use_threads=False).aggregate([]).num_rows < rows)


def _alike(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Batches with one schema: a column that is text in some of them becomes text in all."""
    if all(batch.schema.equals(batches[0].schema) for batch in batches):
        return batches
    return [pa.RecordBatch.from_arrays(list(map(to_text, batch.columns)), batch.schema.names) for batch in batches]


def repeated_key(key: Sequence[str], example: str, unread_cursor: str | None = None) -> RepeatedKey:
    """The error of duplicate keys if nothing tells which row is newer. The cursor may tell, if it is not read yet."""
    cursor = f"take the cursor {unread_cursor!r} into columns" if unread_cursor else "give the table a cursor"
    return RepeatedKey(
        f"the key ({', '.join(key)}) does not identify one row: {example} occurs more than once.",
        remedy=f"name more columns in key, filter the rows with where, or {cursor}, by which the newest row wins.",
    )
