"""One worker thread that owns a blocking handle, so that the host's event loop never waits for it.

Lowest room of the house: it knows nothing of retl but its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Runs blocking calls one after another in a thread of its own.

    Cancellation is prompt and clean: the running call is interrupted (``interrupt`` must
    be safe to call from another thread) and has ended by the time ``run`` raises, so the
    handle is never used by two threads at once.
    """

    def __init__(self, name: str, interrupt: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"retl-{name}")
        self._interrupt = interrupt

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """The result of ``call(*arguments)``, run in the worker's thread."""
        running: Future[T] = self._executor.submit(call, *arguments)
        try:
            return await asyncio.shield(asyncio.wrap_future(running))
        except asyncio.CancelledError:
            await self._settle(running)
            raise

    async def _settle(self, running: Future[Any]) -> None:
        """Wait until a cancelled call has ended; further cancellations cannot cut that short."""
        if running.cancel():
            return
        waiting = asyncio.wrap_future(running)
        while not waiting.done():
            if self._interrupt is not None:
                self._interrupt()
            try:
                # Again and again: an interrupt that comes between two statements has no effect.
                await asyncio.wait([waiting], timeout=0.05)
            except asyncio.CancelledError:
                continue
        if not waiting.cancelled():
            waiting.exception()  # seen: what an interrupted call raises is of no interest

    def close(self) -> None:
        """Let the thread end after the call that it runs. Does not wait."""
        self._executor.shutdown(wait=False)
