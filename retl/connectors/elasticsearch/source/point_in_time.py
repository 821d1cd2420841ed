"""A point in time: one moment of one or many indices, read page by page."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import msgspec

from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.errors import ContextLost, understood
from retl.model.errors import RetlError, SourceError

_KEEP_ALIVE = "3m"
_TOUCH_SECONDS = 45.0
_MOST_ID = 4 * 1024 * 1024
"""Maximum length of an id, which has some hundred bytes for each shard."""


class _Newest(msgspec.Struct):
    pit_id: str | None = None


class PointInTime:
    """Taken by ``open``, and kept until ``close``. Its id may change with every answer: always the newest is used."""

    def __init__(self, client: Client, path: str) -> None:
        self.server = client.server
        self._client = client
        self._path = path
        self._id: str | None = None
        self._used = 0.0
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take the moment, unless it is held already. Raises ``ConfigError`` where there is no such index."""
        if self._id is not None:
            return
        answer = await self._client.call("POST", self.server.open_pit(self._path), params={"keep_alive": _KEEP_ALIVE})
        with understood(self._client.place):
            self._id = _checked(self.server.pit_id(answer))
        self._used = time.monotonic()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    def renew(self, newest: str | None) -> None:
        """Use the id that came with an answer from now on."""
        if newest and self._id is not None:
            self._id = _checked(newest)

    async def search(self, body: dict[str, Any], *, exact: bool = False) -> bytes:
        """The answer to one search, asked once. Raises ``ContextLost`` where the moment is no longer kept.

        ``exact``: it is sorted by times that may differ by less than a millisecond.
        """
        if self._id is None:
            raise ContextLost("the point in time was closed.")
        answer = await self._client.request(
            "POST",
            "/_search",
            params={"allow_partial_search_results": "false", **(self.server.exact_search if exact else {})},
            body={**body, "pit": {"id": self._id, "keep_alive": _KEEP_ALIVE}},
        )
        self._used = time.monotonic()
        return answer.body

    async def _keep(self) -> None:
        """Keep the moment while nobody reads, until cancelled. The next page finds out what fails here."""
        while True:
            await asyncio.sleep(_TOUCH_SECONDS / 3)
            if time.monotonic() - self._used > _TOUCH_SECONDS:
                with suppress(RetlError, msgspec.MsgspecError):
                    answer = await self.search({"size": 0, "track_total_hits": False, "query": {"match_none": {}}})
                    self.renew(msgspec.json.decode(answer, type=_Newest).pit_id)

    async def close(self) -> None:
        """Give the moment back. Safe after any failure; ``open`` takes another."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        pit, self._id = self._id, None
        if pit is not None:
            path, body = self.server.close_pit(pit)
            with suppress(RetlError):
                await self._client.request("DELETE", path, body=body, allow=range(400, 600))


def _checked(pit: str) -> str:
    if len(pit) > _MOST_ID:
        raise SourceError(
            f"the server names a point in time by {len(pit):,} signs, which would be sent back with every request.",
            remedy="check the address, and what stands between.",
        )
    return pit
