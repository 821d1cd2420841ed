"""What several tasks produce, as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from retl.threads import shielded

T = TypeVar("T")
Put = Callable[[T], Awaitable[None]]
Producer = Callable[[Put[T]], Coroutine[Any, Any, None]]


class FanIn(Generic[T]):
    """Tasks that are ``ahead`` items before their reader at most. They run until ``close``."""

    def __init__(self, producers: Iterable[Producer[T]], *, ahead: int) -> None:
        self._queue: asyncio.Queue[tuple[T | None, Exception | None]] = asyncio.Queue(maxsize=ahead)
        self._tasks = [asyncio.create_task(self._run(producer)) for producer in producers]

    async def _run(self, producer: Producer[T]) -> None:
        error: Exception | None = None
        try:
            await producer(self._put)
        except Exception as failure:
            error = failure
        await self._queue.put((None, error))

    async def _put(self, item: T) -> None:
        await self._queue.put((item, None))

    async def items(self) -> AsyncGenerator[T, None]:
        """All items, in the order in which they come, until the last task has ended.

        An error of one is raised after what came before it.
        """
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
        """End all tasks. Safe to call again."""
        for task in self._tasks:
            task.cancel()
        await shielded(_ended(self._tasks))


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


async def fan_in(producers: Iterable[Producer[T]], *, ahead: int) -> AsyncGenerator[T, None]:
    """The items of some producers; closing it ends them all: a generator may own tasks, since it holds no scope open."""
    running = FanIn(producers, ahead=ahead)
    try:
        async for item in running.items():
            yield item
    finally:
        await running.close()
