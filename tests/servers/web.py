"""A small service of aiohttp in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from anyio.from_thread import start_blocking_portal


@contextmanager
def serving(make: Callable[[], web.Application], port: int) -> Iterator[None]:
    """Serve an application on a port of the loopback interface."""

    async def start() -> web.AppRunner:
        runner = web.AppRunner(make(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    with start_blocking_portal("asyncio") as portal:
        runner = portal.call(start)
        try:
            yield
        finally:
            portal.call(runner.cleanup)
