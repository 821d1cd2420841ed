"""A service of vectors that costs next to nothing: it counts texts, and answers with vectors that are encoded already."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
from aiohttp import web

from tests.servers.process import free_port
from tests.servers.web import serving

DIMENSIONS = 256
_VECTORS = 997


class CountingService:
    """``GET /asked`` tells how many texts were asked for since it was last asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._asked = 0
        numbers = np.random.default_rng(1).standard_normal((_VECTORS, DIMENSIONS)).astype("<f4")
        numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
        self._texts = [b"[" + b",".join(repr(round(float(one), 7)).encode() for one in row) + b"]" for row in numbers]
        self._packed = [b'"' + base64.b64encode(row.tobytes()) + b'"' for row in numbers]

    @contextmanager
    def running(self) -> Iterator[CountingService]:
        with serving(self._application, self.port):
            yield self

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_get("/v1/asked", self._tell)
        return app

    async def _embed(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read())
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        self._asked += len(texts)
        forms = self._packed if asked.get("encoding_format") == "base64" else self._texts
        items = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, forms[zlib.crc32(text.encode()) % _VECTORS])
            for index, text in enumerate(texts)
        )
        tokens = sum(map(len, texts)) // 4
        usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
        body = b'{"object":"list","model":"any","data":[%b],%b}' % (items, usage)
        return web.Response(body=body, content_type="application/json")

    async def _tell(self, request: web.Request) -> web.Response:
        asked, self._asked = self._asked, 0
        return web.json_response(asked)
