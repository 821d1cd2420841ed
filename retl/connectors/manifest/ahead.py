"""Work on several things at once, whose results come in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from retl.threads import end_task

I = TypeVar("I")  # noqa: E741  # an item
T = TypeVar("T")

_PATIENCE = 10.0


async def ahead(
    items: Iterable[I], work: Callable[[I], Coroutine[Any, Any, T]], *, at_once: int
) -> AsyncGenerator[tuple[I, asyncio.Task[T]], None]:
    """Each item with its task, which is done, in order, while the next ones are worked on. Closing it ends them."""
    tasks: deque[tuple[I, asyncio.Task[T]]] = deque()
    waiting = iter(items)
    try:
        while True:
            for item in waiting:
                tasks.append((item, _started(work(item))))
                if len(tasks) >= at_once:
                    break
            if not tasks:
                return
            item, task = tasks[0]
            await asyncio.wait([task])
            tasks.popleft()
            yield item, task
    finally:
        for _, task in tasks:
            await end_task(task, patience=_PATIENCE)


def _started(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose error is raised where its result is asked for, and nowhere else."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
