"""Two workers of one load in turn: while one commits its slice, the next slice goes to the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio

W = TypeVar("W")


class Lanes(Generic[W]):
    """The workers of a load. ``more`` opens the second one, if the pool has room for it."""

    def __init__(self, first: W, more: Callable[[], Awaitable[W | None]]) -> None:
        self.workers = [first]
        self._more = more
        self._committing: W | None = None
        self._committed = anyio.Event()

    async def free(self) -> W:
        """A worker that is not committing; a second one is opened when it is needed."""
        if self._committing is not None and len(self.workers) == 1:
            worker = await self._more()
            if worker is None:
                await self._committed.wait()
            else:
                self.workers.append(worker)
        free = [worker for worker in self.workers if worker is not self._committing]
        return free[0]

    async def idle(self) -> None:
        """Wait until no worker is committing."""
        while self._committing is not None:
            await self._committed.wait()

    @contextmanager
    def committing(self, worker: W) -> Iterator[None]:
        """While this block lasts, the worker takes no other slice."""
        self._committing, self._committed = worker, anyio.Event()
        try:
            yield
        finally:
            self._committing = None
            self._committed.set()
