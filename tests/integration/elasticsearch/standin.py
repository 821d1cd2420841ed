"""A stand-in for a cluster that takes bulk requests as it is told to: storms, cut lines, items that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = web.Response | None
"""``None``: the line is cut instead of an answer."""
Script = Callable[["StandIn", list[tuple[dict[str, Any], bytes]]], Answer]


class StandIn:
    """Keeps documents by ``_id``. Each bulk request is answered by the next script, and plainly when there is none."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.sizes: list[int] = []
        """Bytes of each request."""
        self.items: list[int] = []
        """Items of each request."""
        self.scripts: list[Script] = []
        self.at_once = self.most_at_once = 0
        self.crowd = 1
        """So many requests must be there before the first is answered."""
        self._crowded = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StandIn]:
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/", self._root)
        app.router.add_post("/{index}/_bulk", self._bulk)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _root(self, request: web.Request) -> web.Response:
        return web.json_response({"version": {"number": "8.19.13"}}, headers={"X-Elastic-Product": "Elasticsearch"})

    async def _bulk(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.at_once >= self.crowd:
            self._crowded.set()
        try:
            body = await request.read()
            await self._crowded.wait()
            lines = body.split(b"\n")
            assert lines.pop() == b""
            items = [(json.loads(action), document) for action, document in zip(lines[::2], lines[1::2], strict=True)]
            self.sizes.append(len(body))
            self.items.append(len(items))
            script = self.scripts.pop(0) if self.scripts else plain
            answer = script(self, items)
            if answer is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return answer
        finally:
            self.at_once -= 1


def plain(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
    """Everything is taken."""
    return judged(lambda number, name: 200)(server, items)


def judged(judge: Callable[[int, str], int]) -> Script:
    """Each item has the status that ``judge`` gives it, by its number and ``_id``."""

    def script(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
        answers = []
        for number, (action, document) in enumerate(items):
            ((operation, about),) = action.items()
            status = judge(number, about["_id"])
            if status < 300:
                result = "updated" if about["_id"] in server.documents else "created"
                server.documents[about["_id"]] = document
                answers.append({operation: {"_index": "t", "result": result, "status": status}})
            else:
                answers.append({operation: {"_index": "t", "status": status, "error": ERRORS[status]}})
        return answered(answers)

    return script


def answered(items: list[Any]) -> web.Response:
    """The items of an answer as a server writes them: without spaces, and told beforehand whether one has failed."""
    failed = any("error" in about for item in items for about in item.values())
    text = json.dumps({"errors": failed, "items": items}, separators=(",", ":"))
    return web.Response(text=text, content_type="application/json")


def told(about: Callable[[int, str], dict[str, Any]]) -> Script:
    """Nothing is taken; each item is answered by what ``about`` says, by its number and ``_id``."""

    def script(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
        pairs = [(number, *next(iter(action.items()))) for number, (action, _) in enumerate(items)]
        return answered([{operation: about(number, asked["_id"])} for number, operation, asked in pairs])

    return script


def cut_down(number: int, status: int = 200) -> Script:
    """Everything is taken, and only so many items are answered."""

    def script(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
        answer = judged(lambda position, name: status if position == 0 else 200)(server, items)
        assert answer is not None and answer.text is not None
        return answered(json.loads(answer.text)["items"][:number])

    return script


def refused(status: int) -> Script:
    """The whole request has this status."""
    return lambda server, items: web.json_response({"error": ERRORS.get(status, {}), "status": status}, status=status)


def cut_before(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
    """The line is cut; nothing was taken."""
    return None


def cut_after(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
    """Everything was taken, and the line is cut before that is said."""
    plain(server, items)
    return None


def cut_half_way(server: StandIn, items: list[tuple[dict[str, Any], bytes]]) -> Answer:
    """Half of it was taken, and the line is cut."""
    plain(server, items[: len(items) // 2])
    return None


ERRORS: dict[int, Any] = {
    400: {
        "type": "document_parsing_exception",
        "reason": "[1:9] failed to parse field [n] of type [long] in document with id '7'",
        "caused_by": {"type": "illegal_argument_exception", "reason": 'For input string: "x"'},
    },
    403: {"type": "cluster_block_exception", "reason": "index [t] blocked by: [FORBIDDEN/8/index write (api)];"},
    404: {"type": "index_not_found_exception", "reason": "no such index [t]"},
    409: {"type": "version_conflict_engine_exception", "reason": "[1]: version conflict, document already exists"},
    429: {"type": "es_rejected_execution_exception", "reason": "rejected execution of coordinating operation"},
    503: {"type": "unavailable_shards_exception", "reason": "primary shard is not active"},
}
