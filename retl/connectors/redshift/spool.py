"""Batches between a reader that must not wait and a target that may be slow: a few in memory, the others in a file.

A cluster keeps a place in its queue until the last row of an answer is read. So rows are taken as fast as they come, up
to a limit on disk, and only then does the cluster wait.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import IO

import pyarrow as pa

from retl.model.errors import SourceError
from retl.threads import Worker, shielded

_IN_MEMORY = 8 * 1024 * 1024


class Spool:
    """Batches in their order, from one task to another. Holds ``most_bytes`` on disk at most."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._ready: deque[pa.RecordBatch] = deque()
        self._held = 0
        self._stored: deque[tuple[int, int, pa.Schema]] = deque()
        """Where each lies in the file, and its columns."""
        self._end = 0
        self._file: IO[bytes] | None = None
        self._worker = Worker("spool")
        self._changed = asyncio.Event()
        self._over = False
        self._error: BaseException | None = None

    @property
    def stored_bytes(self) -> int:
        """How large the file is."""
        return self._end

    async def fill(self, batches: AsyncGenerator[pa.RecordBatch, None]) -> None:
        """Take all batches; their error is raised by ``take``, behind those that came before it."""
        try:
            async with aclosing(batches):
                async for batch in batches:
                    await self._put(batch)
        except Exception as error:
            self._error = error
        finally:
            self._over = True
            self._changed.set()

    async def _put(self, batch: pa.RecordBatch) -> None:
        if not self._stored and self._held < _IN_MEMORY:
            self._ready.append(batch)
            self._held += batch.nbytes
        else:
            await self._store(batch)
        self._changed.set()

    async def _store(self, batch: pa.RecordBatch) -> None:
        data = batch.serialize()
        if not self._stored:
            self._end = 0
        while self._end + data.size > self._most and (self._stored or self._ready):
            await self._change()
            if not self._stored:
                self._end = 0
        start = self._end
        try:
            await self._worker.run(self._write, start, data)
        except OSError as error:
            raise SourceError(
                f"rows that wait for the target cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}.",
                remedy="free space there, set TMPDIR, or lower spool_mb.",
            ) from error
        self._end = start + data.size
        self._stored.append((start, data.size, batch.schema))

    async def take(self) -> pa.RecordBatch | None:
        """The next batch; ``None`` after the last one."""
        while not (self._ready or self._stored):
            if self._over:
                if self._error is not None:
                    raise self._error
                return None
            await self._change()
        if self._ready:
            batch = self._ready.popleft()
            self._held -= batch.nbytes
        else:
            start, size, schema = self._stored[0]
            data = await self._worker.run(self._read, start, size)
            self._stored.popleft()
            batch = pa.ipc.read_record_batch(pa.py_buffer(data), schema)
        self._changed.set()
        return batch

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _write(self, start: int, data: pa.Buffer) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="retl-spool-")  # noqa: SIM115  # closed by ``close``
        self._file.seek(start)
        self._file.write(data)

    def _read(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(start)
        return self._file.read(size)

    async def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            await self._worker.run(self._file.close)
        self._worker.close()


async def spooled(
    batches: AsyncGenerator[pa.RecordBatch, None], most_bytes: int
) -> AsyncGenerator[pa.RecordBatch, None]:
    """The same batches, read ahead. Closed early, it closes those too."""
    spool = Spool(most_bytes)
    filling = asyncio.create_task(spool.fill(batches))
    try:
        while (batch := await spool.take()) is not None:
            yield batch
    finally:
        filling.cancel()
        await shielded(_ended(filling))
        await shielded(spool.close())


async def _ended(task: asyncio.Task[None]) -> None:
    with suppress(asyncio.CancelledError):
        await task
