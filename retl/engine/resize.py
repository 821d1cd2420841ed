"""Cut and join batches to the size that a target likes."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from retl.model.plan import BatchSize

Sized = tuple[pa.RecordBatch, int]
"""A batch and its bytes, which are expensive to compute, so it is done once."""


class Resizer:
    """Keeps order and content; only the borders between batches change.

    A batch that fits is passed on as it is, so a source that already yields good batches
    pays nothing.
    """

    def __init__(self, size: BatchSize) -> None:
        self._size = size
        self._held: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def push(self, batch: pa.RecordBatch) -> Iterator[Sized]:
        """Take a batch in; yields those that are ready."""
        if not batch.num_rows:
            return
        for piece, size in self._cut(batch):
            rows = piece.num_rows
            if self._held and (
                self._rows + rows > self._size.rows
                or self._bytes + size > self._size.bytes
                or not piece.schema.equals(self._held[0].schema)
            ):
                yield from self.flush()
            self._held.append(piece)
            self._rows += rows
            self._bytes += size
            if 2 * self._rows >= self._size.rows or 2 * self._bytes >= self._size.bytes:
                yield from self.flush()

    def flush(self) -> Iterator[Sized]:
        """Yield what is held back, if anything."""
        if not self._held:
            return
        held, size = self._held, self._bytes
        self.clear()
        yield (held[0] if len(held) == 1 else pa.concat_batches(held)), size

    def clear(self) -> None:
        """Forget what is held back."""
        self._held, self._rows, self._bytes = [], 0, 0

    def _cut(self, batch: pa.RecordBatch) -> Iterator[Sized]:
        size = batch.nbytes
        pieces = max(-(-batch.num_rows // self._size.rows), -(-size // self._size.bytes))
        if pieces <= 1 or batch.num_rows == 1:
            yield batch, size
            return
        step = max(1, batch.num_rows // pieces)
        for start in range(0, batch.num_rows, step):
            # Rows differ in size: a piece may still be too large.
            yield from self._cut(batch.slice(start, step))
