"""A search server that means harm: it answers as an Elasticsearch does, but for what a test tells it otherwise."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SHARDS = {"total": 1, "successful": 1, "failed": 0}
_INDEX = {
    "orders": {
        "mappings": {"properties": {"at": {"type": "date"}}},
        "settings": {"index": {"number_of_shards": "1", "uuid": "u"}},
        "aliases": {},
    }
}


class Rogue:
    """``harm`` maps the beginning of ``METHOD /path`` to what is answered instead; ``asked`` is what came."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.harm: dict[str, Handler] = {}
        self.documents = 3

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rogue]:
        application = web.Application(client_max_size=2**28)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # An answer that never ends does not hold the server.
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        asked = f"{request.method} {request.path}"
        self.asked.append(asked)
        for beginning in sorted(self.harm, key=len, reverse=True):
            if asked.startswith(beginning):
                return await self.harm[beginning](request)
        return web.json_response(await self._plain(request))

    async def _plain(self, request: web.Request) -> Any:
        path = request.path
        if path == "/":
            return {"version": {"number": "8.19.13"}, "cluster_uuid": "c"}
        if path == "/_search":
            return await self._page(request)
        if path.endswith("/_pit"):
            return {"id": "pit"}
        if path.endswith("/_search"):
            hits = [self._hit(self.documents)] if (await request.json())["size"] else []
            return {"_shards": _SHARDS, "hits": {"total": {"value": self.documents}, "hits": hits}}
        if path.startswith("/_resolve"):
            return {"indices": [{"name": "orders", "attributes": ["open"]}]}
        return _INDEX if path == "/orders" else {}

    async def _page(self, request: web.Request) -> Any:
        asked = await request.json()
        start = asked["search_after"][1] if "search_after" in asked else 0
        hits = [self._hit(number) for number in range(start + 1, self.documents + 1)][: asked["size"]]
        return {"pit_id": "pit", "_shards": _SHARDS, "hits": {"total": {"value": self.documents}, "hits": hits}}

    def _hit(self, number: int) -> dict[str, Any]:
        at = f"2024-05-01T00:00:{number % 60:02d}.000Z"
        return {"_id": str(number), "_source": {"at": at}, "fields": {"at": [at]}, "sort": [at, number]}


def moved(address: str, status: int = 307) -> Handler:
    """The answer lies elsewhere."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"location": address})

    return answer


def said(body: bytes | Any, status: int = 200, *, encoding: str = "identity") -> Handler:
    """These bytes, or the JSON of a value."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if isinstance(body, bytes):
            return web.Response(
                body=body, status=status, headers={"content-type": "application/json", "content-encoding": encoding}
            )
        return web.json_response(body, status=status)

    return answer


def bomb(size: int) -> Handler:
    """Little, which unpacks to so many bytes."""
    return said(gzip.compress(b" " * size), encoding="gzip")


def endless(piece: bytes, pause: float = 0.0) -> Handler:
    """The same again and again, for as long as somebody listens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(piece)
            await asyncio.sleep(pause)

    return answer
