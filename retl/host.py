"""``running``: pipelines in the background of a service, from its start to its end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any

import anyio

from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError
from retl.pipeline import Pipeline

GRACE = "10s"
"""How long a slice under way may take when the service stops; Kubernetes kills after 30 seconds."""


class Running(Mapping[str, Pipeline]):
    """The pipelines that run, by name; and which of them have ended, and why.

    ``run_forever`` ends because ``stop`` was called, or because of a fault of retl: errors of a source or a
    target do not end it. One that ends does not end the others.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        self._pipelines = pipelines
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._taking_up = asyncio.Lock()
        self._grace = parse_duration(GRACE, what="grace").total_seconds()
        self._over = False

    def __getitem__(self, name: str) -> Pipeline:
        return self._pipelines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pipelines)

    def __len__(self) -> int:
        return len(self._pipelines)

    @property
    def ended(self) -> dict[str, BaseException | None]:
        """Those that run no more, with what they raised: ``None`` where ``stop`` was called."""
        return {name: _error(task) for name, task in self._tasks.items() if task.done()}

    @property
    def healthy(self) -> bool:
        """Whether all of them run, and none of them fails. For a readiness probe."""
        return not self.ended and all(pipeline.snapshot().healthy for pipeline in self.values())

    async def wait_ended(self) -> dict[str, BaseException | None]:
        """Wait until a further one has ended, for a host that wants to act on it; returns ``ended``."""
        before = {task for task in self._tasks.values() if task.done()}
        while not any(task.done() and task not in before for task in self._tasks.values()):
            self._changed.clear()
            await self._changed.wait()
        return self.ended

    async def take_up(self, pipelines: Iterable[Pipeline]) -> None:
        """Run these from now on and no others, such as those of ``jobs.reload()`` of a job file.

        What runs already, as the same object, is not touched. Another pipeline of its name ends first, within the grace,
        and so does each that is not among them. One that had ended by an error is tried again. What can never work does
        not raise here, and keeps no other one from running: it is in ``ended``. Raises ``ConfigError`` for two of one name.
        """
        wanted = by_name(pipelines)
        async with self._taking_up:
            await self._end_them([name for name, known in self._pipelines.items() if wanted.get(name) is not known])
            self._pipelines = wanted
            for name in [name for name in wanted if name not in self._tasks or self.ended.get(name) is not None]:
                if not self._over:
                    with suppress(Exception):
                        await self._start(wanted[name])

    async def _end_them(self, names: Iterable[str]) -> None:
        """End some of them, and forget them."""
        tasks = {name: self._tasks[name] for name in names if name in self._tasks}
        for name in tasks:
            if not tasks[name].done():
                self._pipelines[name].stop(grace=self._grace)
        if tasks:
            await asyncio.wait(tasks.values())
        for name in tasks:
            del self._tasks[name]

    async def _start(self, pipeline: Pipeline) -> None:
        """Start one; raises what it raises before it is past its beginning."""
        begun = _Begun()
        task = asyncio.create_task(pipeline.run_forever(task_status=begun), name=f"retl {pipeline.name}")
        self._tasks[pipeline.name] = task
        task.add_done_callback(lambda _: self._changed.set())
        waiting = asyncio.ensure_future(begun.event.wait())
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            task.result()

    async def _stop(self, grace: float) -> None:
        self._over = True
        for name, pipeline in self.items():
            if name in self._tasks and not self._tasks[name].done():
                pipeline.stop(grace=grace)
        if self._tasks:
            await asyncio.wait(self._tasks.values())


class _Begun:
    """What ``anyio`` calls a task status."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def started(self, value: None = None) -> None:
        self.event.set()


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


@contextmanager
def _at_signals(call: Callable[[], None]) -> Iterator[None]:
    """Have ``call`` called in this event loop at the signals that end a service, beside the handlers that it has for them.

    A server waits for its open connections before it leaves its lifespan, so a stream that ends only there would
    never end. Where nobody handles the signals they are left alone.
    """
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}

    def heed(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                before[number] = handler
                signal.signal(number, heed)
    try:
        yield
    finally:
        for handled, handler in before.items():
            if signal.getsignal(handled) is heed:
                signal.signal(handled, handler)


@asynccontextmanager
async def running(*pipelines: Pipeline, grace: Duration = GRACE) -> AsyncGenerator[Running, None]:
    """Run pipelines in the background of the block: the lifespan of a service, or a part of a program.

    On entering, what can never work raises its ``ConfigError``, and nothing keeps running. On leaving, every pipeline
    has ``grace`` to commit the slice under way; then it is abandoned, whatever hangs, and read again by the next owner.

    A SIGTERM or SIGINT that the service handles itself ends the streams of ``events`` too, so that one that is open, such as
    to a browser, does not keep a server from beginning its shutdown.
    """
    seconds = parse_duration(grace, what="grace").total_seconds()
    jobs = Running(by_name(pipelines))
    with _at_signals(lambda: _end_events(jobs)):
        async with run(jobs, seconds):
            yield jobs


def _end_events(jobs: Running) -> None:
    for pipeline in jobs.values():
        pipeline.end_events()


def by_name(pipelines: Iterable[Pipeline]) -> dict[str, Pipeline]:
    """The pipelines by their names. Raises ``ConfigError`` where two have the same."""
    found: dict[str, Pipeline] = {}
    for pipeline in pipelines:
        if pipeline.name in found:
            raise ConfigError(
                f"two of the pipelines are named {pipeline.name!r}.",
                remedy="give every pipeline a name of its own.",
                pipeline=pipeline.name,
            )
        found[pipeline.name] = pipeline
    return found


@asynccontextmanager
async def run(jobs: Running, grace: float) -> AsyncGenerator[Running, None]:
    """Run the pipelines of ``jobs`` in the background of the block; on leaving it each has ``grace`` seconds."""
    jobs._grace, jobs._over = grace, False
    try:
        for pipeline in jobs.values():
            await jobs._start(pipeline)
        yield jobs
    finally:
        with anyio.CancelScope(shield=True):
            await jobs._stop(grace)
