"""The batches of a slice, kept for when they are needed once more."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from typing import IO

import anyio.to_thread
import pyarrow as pa

_MEMORY_BYTES = 2 * 1024 * 1024
_MOST_BYTES = 512 * 1024 * 1024


class BatchSpool:
    """Keeps a few batches in memory, more of them in a temporary file, and none once they are too many."""

    def __init__(self) -> None:
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._places: list[int] = []
        self.complete = True
        """Whether all batches are here: not if they were too many, or the disk took no more."""

    async def add(self, batch: pa.RecordBatch) -> None:
        if not self.complete:
            return
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes > _MEMORY_BYTES:
            await anyio.to_thread.run_sync(self._write_out)

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """All batches, in their order. Closed early, the rest stays."""
        for place in self._places:
            yield await anyio.to_thread.run_sync(self._read, place)
        for batch in self._held:
            yield batch

    async def close(self) -> None:
        """Remove the file."""
        self._held = []
        if self._file is not None:
            await anyio.to_thread.run_sync(self._drop)

    def _write_out(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        self._bytes += sum(batch.nbytes for batch in held)
        try:
            if self._bytes > _MOST_BYTES:
                raise OSError("too large")
            for batch in held:
                self._write(batch)
        except OSError:
            self.complete = False
            self._drop()

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="retl-slice-")  # noqa: SIM115  # closed by ``close``
        self._places.append(self._file.tell())
        # Each with its own schema: a column may be text in one batch and typed in the next.
        with pa.ipc.new_stream(pa.PythonFile(self._file, "w"), batch.schema) as stream:
            stream.write_batch(batch)

    def _read(self, place: int) -> pa.RecordBatch:
        assert self._file is not None
        self._file.seek(place)
        return pa.ipc.open_stream(pa.PythonFile(self._file, "r")).read_next_batch()

    def _drop(self) -> None:
        file, self._file, self._places = self._file, None, []
        if file is not None:
            file.close()
