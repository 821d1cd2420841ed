"""Items that tasks make meanwhile, in a queue of bounded length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from retl.threads import shielded

T = TypeVar("T")
Put = Callable[[T], Awaitable[None]]


class Feed(Generic[T]):
    """What several producers put in, in the order in which it comes, until the last of them has ended.

    An error of one is raised after what came before it. ``close`` ends them all, and
    returns when they have ended: a generator may own a feed, since it holds no scope open.
    """

    def __init__(self, producers: Iterable[Callable[[Put[T]], Coroutine[Any, Any, None]]], *, ahead: int) -> None:
        self._queue: asyncio.Queue[tuple[T | None, Exception | None]] = asyncio.Queue(maxsize=ahead)
        self._tasks = [asyncio.create_task(self._run(producer)) for producer in producers]

    async def _put(self, item: T) -> None:
        await self._queue.put((item, None))

    async def _run(self, producer: Callable[[Put[T]], Coroutine[Any, Any, None]]) -> None:
        error: Exception | None = None
        try:
            await producer(self._put)
        except Exception as failure:
            error = failure
        await self._queue.put((None, error))

    async def items(self) -> AsyncIterator[T]:
        running = len(self._tasks)
        while running:
            item, error = await self._queue.get()
            if error is not None:
                raise error
            if item is None:
                running -= 1
            else:
                yield item

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await shielded(_ended(self._tasks))


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
