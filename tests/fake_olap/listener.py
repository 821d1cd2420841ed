"""A TCP server in a thread of its own: it serves while a test blocks its event loop, and has none of the test's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

START_SECONDS = 10.0

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Listens on a loopback port, the same after a ``stop`` and a ``start``."""

    def __init__(self, name: str, handler: Handler) -> None:
        self.port = 0
        self._name = name
        self._handler = handler
        self._open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name=f"fake-{self._name}")
        self._thread.start()
        if not ready.wait(START_SECONDS) or self._over is None:
            raise RuntimeError(f"{self._name} does not start on port {self.port}")

    def stop(self) -> None:
        """Listen no more, and cut all connections."""
        if self._thread and self._loop and self._over:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
        self._thread = self._over = None

    async def _serve(self, ready: threading.Event) -> None:
        try:
            listening = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = listening.sockets[0].getsockname()[1]
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        finally:
            ready.set()
        await self._over.wait()
        listening.close()
        tasks = [task for task in self._open if task]
        for task, writer in self._open.items():
            writer.transport.abort()
            if task:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open[task] = writer
        try:
            await self._handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client went, or it is over: asyncio would log it.
            pass
        finally:
            del self._open[task]
            writer.close()
