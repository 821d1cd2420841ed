"""A server that stands between retl and a real one: it passes everything on, unless a test says otherwise."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from tests.servers.search import SearchServer


@dataclass
class Asked:
    """A request on its way."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_page(self) -> bool:
        """Whether a page of a point in time is asked for."""
        return self.path.startswith("/_search") and self.method == "POST" and self.json.get("size", 0) > 0


Answer = tuple[int, bytes]
Hook = Callable[[Asked, Callable[[], Awaitable[Answer]]], Awaitable[Answer]]


@dataclass
class Between:
    """``url`` is for retl. ``hook`` gets each request, and a function that asks the real server."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    hook: Hook | None = None

    @property
    def pages(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.is_page]


@asynccontextmanager
async def between(server: SearchServer) -> AsyncIterator[Between]:
    """In front of ``server``, on a port of its own."""
    async with aiohttp.ClientSession() as session:

        async def handle(request: web.Request) -> web.Response:
            asked = Asked(request.method, request.path_qs, dict(request.headers), await request.read())
            found.asked.append(asked)

            async def forward() -> Answer:
                headers = {"content-type": request.content_type} if asked.body else {}
                url = f"{server.url}{asked.path}"
                async with session.request(asked.method, url, data=asked.body or None, headers=headers) as answer:
                    return answer.status, await answer.read()

            status, body = await (found.hook(asked, forward) if found.hook is not None else forward())
            return web.Response(status=status, body=body, content_type="application/json")

        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found = Between(f"http://127.0.0.1:{runner.addresses[0][1]}")
        try:
            yield found
        finally:
            await runner.cleanup()
