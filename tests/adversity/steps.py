"""Counting the steps of tasks, so that something can be done before any one of them."""

from __future__ import annotations

import asyncio
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Literal, TypeVar

import anyio

from tests.adversity.feed import Feed

T = TypeVar("T")
Kind = Literal["task", "scope"]


class Steps:
    """Counts every step that a task and the tasks that it starts make, and calls ``act`` before step ``at``.

    A step is what a coroutine does between two suspensions; so there is one for every
    await at which something really waits.
    """

    def __init__(self, at: int | None = None, act: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self._at = at
        self._act = act

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``, with its steps counted."""
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(self._make)
        try:
            return await self._counted(work)
        finally:
            loop.set_task_factory(before)

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(self._counted(work), loop=loop, **options)
        # One that is cancelled before its first step never reaches its work.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _counted(self, work: Awaitable[T]) -> T:
        result: T = await self._drive(work)
        return result

    @types.coroutine
    def _drive(self, work: Any) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            self.count += 1
            if self.count == self._at:
                self._act()
            try:
                waiting = work.send(value) if error is None else work.throw(error)
            except StopIteration as end:
                return end.value
            value = error = None
            try:
                value = yield waiting
            except BaseException as thrown:
                error = thrown


async def cancelled_at(step: int, kind: Kind, work: Callable[[], Awaitable[object]]) -> bool:
    """Do ``work``, cancelled before its ``step``-th step; ``False`` where it has fewer."""

    async def whole() -> None:
        await work()

    if kind == "scope":
        with anyio.CancelScope() as scope:
            steps = Steps(step, scope.cancel)
            await steps.run(whole())
    else:
        steps = Steps(step, lambda: task.cancel())
        task = asyncio.create_task(steps.run(whole()))
        with suppress(asyncio.CancelledError):
            await task
    return steps.count >= step


async def cancel_at_steps(feed: Feed, kind: Kind, points: int, settle: Callable[[], None]) -> None:
    """Cancel scans at about so many of their steps: each leaves no task, and the next scan makes everything right.

    ``settle`` returns when no server goes on any more with what was cancelled.
    """
    await feed.pipeline().run_once()
    feed.check()
    feed.more()
    steps = Steps()
    assert (await steps.run(feed.pipeline().run_once())).ok
    feed.check()
    stride = max(1, steps.count // points)
    first = random.randint(1, stride)
    print(f"every {stride}th step from step {first} on")
    tasks = asyncio.all_tasks()
    for step in range(first, steps.count, stride):
        feed.more()
        await cancelled_at(step, kind, feed.pipeline().run_once)
        assert asyncio.all_tasks() == tasks
        settle()
        feed.check_meanwhile()
        assert (await feed.pipeline().run_once()).ok
        feed.check()
