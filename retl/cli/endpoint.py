"""The server of ``retl run --listen``: the one module of the command line that needs a web server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio.to_thread
from aiohttp import web

from retl.model.status import Probe
from retl.observe.metrics.prometheus import PrometheusMetrics
from retl.observe.probes import liveness, readiness
from retl.pipeline import Pipeline

_CLOSE_SECONDS = 1.0


@asynccontextmanager
async def serving(pipelines: Mapping[str, Pipeline]) -> AsyncIterator[tuple[web.AppRunner, PrometheusMetrics]]:
    """A server for the length of the block, with what it counts; ``bind`` it to an address."""
    metrics = PrometheusMetrics(*pipelines.values())
    runner = web.AppRunner(_app(pipelines, metrics), access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        yield runner, metrics
    finally:
        await runner.cleanup()
        metrics.close()


async def bind(runner: web.AppRunner, host: str, port: int) -> None:
    """Answer there. Raises ``OSError``."""
    await web.TCPSite(runner, host, port).start()


def _app(pipelines: Mapping[str, Pipeline], metrics: PrometheusMetrics) -> web.Application:
    async def show(_: web.Request) -> web.Response:
        text = await anyio.to_thread.run_sync(metrics.text)
        return web.Response(body=text, headers={"Content-Type": metrics.content_type})

    app = web.Application()
    app.router.add_get("/live", _probing(lambda: liveness(pipelines)))
    app.router.add_get("/ready", _probing(lambda: readiness(pipelines)))
    app.router.add_get("/metrics", show)
    return app


def _probing(probe: Callable[[], Probe]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        found = probe()
        return web.json_response(found.to_dict(), status=200 if found else 503)

    return answer
