"""Names in their order, as many as there are: a few in memory, the others in a file."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from typing import IO

import anyio.to_thread
import msgspec

_IN_MEMORY = 10_000


class KeptNames:
    """Takes names and gives them back in groups."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._file: IO[bytes] | None = None
        self.count = 0

    async def add(self, name: str) -> None:
        self._names.append(name)
        self.count += 1
        if len(self._names) >= _IN_MEMORY:
            await anyio.to_thread.run_sync(self._store)

    def _store(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="retl-names-")  # noqa: SIM115  # closed by ``close``
        self._file.write(b"".join(msgspec.json.encode(name) + b"\n" for name in self._names))
        self._names.clear()

    async def groups(self, size: int) -> AsyncGenerator[tuple[str, ...], None]:
        """All names, so many at a time."""
        if self._file is not None:
            await anyio.to_thread.run_sync(self._file.seek, 0)
            while stored := await anyio.to_thread.run_sync(self._load, size):
                yield stored
        for start in range(0, len(self._names), size):
            yield tuple(self._names[start : start + size])

    def _load(self, size: int) -> tuple[str, ...]:
        assert self._file is not None
        lines = (self._file.readline() for _ in range(size))
        return tuple(msgspec.json.decode(line, type=str) for line in lines if line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
