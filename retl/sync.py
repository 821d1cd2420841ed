"""``in_thread``: pipelines beside a synchronous program, in a thread of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ParamSpec, Self, TypeVar

from retl.host import GRACE, Running, by_name, run
from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.status import Snapshot
from retl.pipeline import Pipeline

P = ParamSpec("P")
T = TypeVar("T")

_LEAVE_SECONDS = 5.0
"""How much longer than its grace the thread may take; then it is left behind, and ends with the process."""


class InThread(Running):
    """Pipelines that run in a thread with an event loop of its own, made by `retl.in_thread`.

    A mapping of them by name. ``snapshot``, ``trigger``, ``pause``, ``resume`` and ``stop`` of each may be called from any
    thread, as they are; what is to be awaited goes through ``call``.
    """

    def __init__(self, *pipelines: Pipeline, grace: Duration) -> None:
        super().__init__(by_name(pipelines))
        self._grace = parse_duration(grace, what="grace").total_seconds()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._process = 0

    def start(self) -> Self:
        """Run the pipelines until ``stop`` is called, or the program ends. Returns when each is past its beginning.

        What can never work raises its ``ConfigError``, and nothing keeps running. A process that is forked starts its own.
        """
        if self._thread is not None:
            self._check_process()
            raise ConfigError("the pipelines run in their thread already.", remedy="start them once.")
        begun: Future[None] = Future()
        self._process, self._end = os.getpid(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(begun)), name="retl", daemon=True)
        self._thread.start()
        atexit.register(self.stop)
        try:
            begun.result()
        except BaseException:
            self.stop()
            raise
        return self

    async def _serve(self, begun: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with run(self, self._grace):
                begun.set_result(None)
                await self._end.wait()
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    def stop(self) -> None:
        """End the pipelines, each within the grace, and the thread. May be called again, and from any thread.

        Called within the thread itself, by a listener, it does not wait.
        """
        thread, loop = self._thread, self._loop
        if thread is None or self._process != os.getpid():
            return
        with suppress(RuntimeError):  # the thread has ended by itself
            if loop is not None:
                loop.call_soon_threadsafe(self._end.set)
        if thread is threading.current_thread():
            return
        thread.join(self._grace + _LEAVE_SECONDS)
        atexit.unregister(self.stop)
        self._thread = self._loop = None

    def call(self, function: Callable[P, Coroutine[Any, Any, T]], /, *arguments: P.args, **options: P.kwargs) -> T:
        """The result of an async function that runs in the thread: ``jobs.call(orders.status)``. Raises what it raises."""
        self._check_process()
        thread, loop = self._thread, self._loop
        if thread is None or loop is None or not thread.is_alive():
            raise ConfigError("the pipelines do not run.", remedy="call start() first, or use `with`.")
        if thread is threading.current_thread():
            raise ConfigError("call() would wait for itself here.", remedy="await the function.")
        return asyncio.run_coroutine_threadsafe(function(*arguments, **options), loop).result()

    def snapshot(self) -> dict[str, Snapshot]:
        """The snapshot of each pipeline, by name."""
        return {name: pipeline.snapshot() for name, pipeline in self.items()}

    def _check_process(self) -> None:
        if self._thread is not None and self._process != os.getpid():
            raise ConfigError(
                f"the pipelines run in process {self._process}, of which this one is a fork: threads stay behind in a fork.",
                remedy="make and start them after the fork: gunicorn's post_fork, Celery's worker_process_init.",
            )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


def in_thread(*pipelines: Pipeline, grace: Duration = GRACE) -> InThread:
    """Pipelines for a synchronous program: Django, Flask, Celery, a script. They run in a thread with its own event loop.

    Use it by ``with``, or by ``start()`` and ``stop()``; a program that ends without ``stop`` stops them at its exit.
    On a stop every pipeline has ``grace`` to commit the slice under way, as with `retl.running`.
    """
    return InThread(*pipelines, grace=grace)
