"""What runs in a process of its own in the benchmark of Elasticsearch: it imports no more than a user would."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio

from benchmarks import common

ROWS = int(os.environ.get("RETL_BENCH_ROWS", "1000000"))
SOURCE = "bench-orders"


def by_retl(url: str, index: str, mode: str) -> dict[str, Any]:
    """A full load by swap, or the first scan of a window."""
    import retl
    from retl.connectors.elasticsearch import Elasticsearch

    words: dict[str, Any] = {"pre_action": "swap"} if mode == "swap" else {"cursor": "updated_at"}
    pipeline = retl.Pipeline(
        f"bench_{mode}",
        source=Elasticsearch(url),
        target=Elasticsearch(url, state_index=f".{index}-state"),
        tables=[retl.Table(SOURCE, to=index, **words)],
    )

    async def run() -> float:
        began = time.perf_counter()
        await pipeline.run_once()
        seconds = time.perf_counter() - began
        await pipeline.aclose()
        return seconds

    return _watched(run)


def by_async_reindex(url: str, index: str) -> dict[str, Any]:
    """The client's own helper, as its documentation shows it."""
    from elastic_transport import AiohttpHttpNode, HttpHeaders
    from elasticsearch import AsyncElasticsearch
    from elasticsearch.helpers import async_reindex

    class PlainNode(AiohttpHttpNode):
        """A client of any version talks to a server of any version, also to one without the module for data streams."""

        async def perform_request(  # type: ignore[override]  # the base says nothing of waiting
            self, method: str, target: str, body: Any = None, headers: Any = None, request_timeout: Any = 60
        ) -> Any:
            marks = r"vnd\.elasticsearch\+|; *compatible-with=\d+"
            plain = HttpHeaders({name: re.sub(marks, "", value) for name, value in (headers or {}).items()})
            answer = await super().perform_request(method, target, body, plain, request_timeout)
            if target.startswith("/_data_stream/") and answer.meta.status in (400, 405):
                return answer._replace(meta=replace(answer.meta, status=404))
            return answer

    async def run() -> float:
        async with AsyncElasticsearch(url, node_class=PlainNode, request_timeout=60) as client:
            began = time.perf_counter()
            await async_reindex(client, SOURCE, index)
            return time.perf_counter() - began

    return _watched(run)


def _watched(run: Callable[[], Awaitable[float]]) -> dict[str, Any]:
    """The seconds that ``run`` tells, and the longest stall of the event loop meanwhile."""
    watch = common.StallWatch()

    async def beside() -> float:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.watch, anyio.sleep)
            seconds = await run()
            tasks.cancel_scope.cancel()
        return seconds

    return {"seconds": anyio.run(beside), "stall_ms": round(1000 * watch.longest)}
