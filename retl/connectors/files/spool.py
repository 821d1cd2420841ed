"""One file on its way: one side fills it from the store, a worker thread reads what is there and waits for the rest.

So a slow target never holds a request to the store open, any format can move in the file, and memory stays flat.
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import threading
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import anyio.to_thread

from retl.connectors.files.store import FileChanged, FileInfo, FileStore, changed
from retl.model.errors import SourceError
from retl.threads import shielded

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Interrupted(Exception):
    """Nobody wants the rest of the file any more."""


class Spool(io.RawIOBase):
    """A temporary file that is read while it is filled. ``read`` waits for bytes that have not come yet."""

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile(prefix="retl-file-", buffering=0)  # noqa: SIM115  # closed by ``close``
        self._changed = threading.Condition()
        self._filled = 0
        self._at = 0
        self._over = False
        self._error: BaseException | None = None

    # The side that fills ----------------------------------------------------

    def add(self, block: bytes) -> None:
        """Append a block. Blocks for as long as the disk takes."""
        view = memoryview(block)
        while view:
            written = os.pwrite(self._file.fileno(), view, self._filled)
            view = view[written:]
            with self._changed:
                self._filled += written
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more comes. With ``error``, the reader gets that, wherever it stands."""
        with self._changed:
            self._error = self._error or error
            self._over = True
            self._changed.notify_all()

    # The side that reads ----------------------------------------------------

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        filled = self._wait_beyond(self._at)
        size = min(len(view), max(0, filled - self._at))
        found = os.preadv(self._file.fileno(), [view[:size]], self._at) if size else 0
        self._at += found
        return found

    def _wait_beyond(self, place: int) -> int:
        """Wait for bytes behind a place, or for the end; returns how many there are in all."""
        with self._changed:
            while self._filled <= place and not self._over:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            return self._filled

    def wait(self) -> int:
        """Wait for the whole file; returns its size."""
        with self._changed:
            while not self._over:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            return self._filled

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (self.wait() if base is None else base)
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


async def fetched(store: FileStore, file: FileInfo) -> bytes:
    """A whole small file. Raises ``FileChanged`` where it is not as long as it was listed."""
    found = bytearray()
    async with aclosing(store.read(file)) as blocks:
        async for block in blocks:
            found += block
    if len(found) != file.size:
        raise _other_size(file, len(found))
    return bytes(found)


def _other_size(file: FileInfo, came: int) -> FileChanged:
    return changed(file, f"it was listed with {file.size:,} bytes, and {came:,} came")


class Filling:
    """A task that fills a spool from a store."""

    def __init__(self, store: FileStore, file: FileInfo) -> None:
        self._store = store
        self._file = file
        self.spool = Spool()
        self._task = asyncio.create_task(self._fill())

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self._task.done()

    async def _fill(self) -> None:
        error: BaseException | None = Interrupted()
        try:
            await self._copy()
            error = None
        except Exception as failure:
            error = failure
        finally:
            self.spool.end(error)

    async def _copy(self) -> None:
        size = 0
        async with aclosing(self._store.read(self._file)) as blocks:
            async for block in blocks:
                size += len(block)
                await anyio.to_thread.run_sync(self._keep, block)
        if size != self._file.size:
            raise _other_size(self._file, size)

    def _keep(self, block: bytes) -> None:
        try:
            self.spool.add(block)
        except OSError as error:
            raise SourceError(
                f"the file {self._file.name!r} cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}.",
                remedy="free space there, or set TMPDIR.",
            ) from error

    async def arrived(self) -> None:
        """Wait until the whole file has come under one identity; raises what stopped it."""
        await asyncio.wait([self._task])
        await anyio.to_thread.run_sync(self.spool.wait)

    def stop(self) -> None:
        """Wake a reader that waits for more."""
        self.spool.end(Interrupted())

    async def close(self) -> None:
        """Stop filling, and remove the file."""
        self.stop()
        self._task.cancel()
        await shielded(self._ended())
        self.spool.close()

    async def _ended(self) -> None:
        with suppress(asyncio.CancelledError):
            await self._task
