"""Reading a point in time: side by side where order does not matter, else in the order of the cursor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.errors import ContextLost, understood
from retl.connectors.elasticsearch.source.cursor import CursorField, before_1970
from retl.connectors.elasticsearch.source.pages import HitDecoder, Page, PageSize, page, parse_answer
from retl.connectors.net.fan_in import Producer, Put, fan_in
from retl.connectors.net.retry import RetryBudget
from retl.model.errors import ConnectionFailed, RepeatedKey, RetlError, SourceError
from retl.model.window import Slice

_KEEP_ALIVE = "3m"
_TOUCH_SECONDS = 45.0
_MOST_ID = 4 * 1024 * 1024
"""Maximum length of an id, which has some hundred bytes for each shard."""


class _Newest(msgspec.Struct):
    pit_id: str | None = None


class PointInTime:
    """One moment of one or many indices: taken by ``open``, kept until ``close``.

    Its id may change with every answer: always the newest is used.
    """

    def __init__(self, client: Client, path: str) -> None:
        self.server = client.server
        self._client = client
        self._path = path
        self._id: str | None = None
        self._used = 0.0
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take the moment, unless it is held already. Raises ``ConfigError`` if the index does not exist."""
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


# Decoding holds the interpreter: larger pages are decoded in a thread.
_THREAD_BYTES = 1024 * 1024
_RENEWALS = 3
_ATTEMPTS = 5
_MOST_PAUSE = 8.0


@dataclass(frozen=True)
class SearchRequest:
    """What is read of a point in time, and who decodes it."""

    filters: Sequence[dict[str, Any]]
    decoder: HitDecoder
    most_hits: int
    document_bytes: float | None = None
    unique_ids: bool = False
    """Whether each ``_id`` must be proved to be there once."""

    def body(self, *filters: dict[str, Any]) -> dict[str, Any]:
        return {"track_total_hits": False, "query": matching([*self.filters, *filters]), **self.decoder.request}


def matching(filters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The query of what passes all filters."""
    return {"bool": {"filter": list(filters)}} if filters else {"match_all": {}}


async def read_all(pit: PointInTime, request: SearchRequest, slices: int) -> AsyncGenerator[pa.RecordBatch, None]:
    """Every document, in no order, as of one moment. Raises ``ConnectionFailed`` where that moment is lost."""
    await pit.open()

    def reader(number: int) -> Producer[pa.RecordBatch]:
        body = {**request.body(), "sort": pit.server.tiebreak}
        if slices > 1:
            body["slice"] = {"id": number, "max": slices}

        async def run(put: Put[pa.RecordBatch]) -> None:
            async with aclosing(_pages(pit, body, request, None)) as pages:
                async for found in pages:
                    await put(found.batch)

        return run

    async with aclosing(fan_in([reader(number) for number in range(slices)], ahead=2)) as batches:
        async for batch in batches:
            yield batch


async def read_window(
    pit: PointInTime, request: SearchRequest, cursor: CursorField, slice_: Slice
) -> AsyncGenerator[pa.RecordBatch, None]:
    """The documents of a window, in ascending order of the cursor; the next page is fetched while one is written.

    A point in time that is lost is replaced: reading goes on at the last value that came, less the documents
    that came with it.
    """
    lower, upper = slice_.lower, slice_.upper
    assert upper is not None

    async def run(put: Put[pa.RecordBatch]) -> None:
        for order in cursor.orders():
            if not order.early or lower is None or before_1970(lower):
                await read(put, order)

    async def read(put: Put[pa.RecordBatch], order: CursorField) -> None:
        tail = _Tail()
        start, is_open, renewals = lower, slice_.lower_exclusive, 0
        while True:
            bounds = [order.range(start, upper, lower_exclusive=is_open), *order.only]
            body = {**request.body(*bounds), "sort": [order.sort("asc", pit.server), *pit.server.tiebreak]}
            try:
                await pit.open()
                async with aclosing(_pages(pit, body, request, order)) as pages:
                    async for found in pages:
                        batch = tail.new_ones(found)
                        renewals = 0
                        if batch.num_rows:
                            await put(batch)
                return
            except ContextLost:
                renewals += 1
                if renewals > _RENEWALS or order.early:
                    raise
                await pit.close()
                if tail.value is not None:
                    start, is_open = order.text(tail.value), False
                tail.resume()

    async with aclosing(fan_in([run], ahead=1)) as batches:
        async for batch in batches:
            yield batch


async def _pages(
    pit: PointInTime, body: dict[str, Any], request: SearchRequest, order: CursorField | None
) -> AsyncGenerator[Page, None]:
    """The pages of one search, each beginning behind the last document of the one before.

    The server counts them with the first page, in the very moment that is read: as many must come.
    """
    size = PageSize(request.most_hits, request.document_bytes)
    budget = RetryBudget(attempts=_ATTEMPTS, first=min(0.5, _MOST_PAUSE), longest=_MOST_PAUSE)
    after: dict[str, Any] = {"track_total_hits": True}
    total, came = None, 0
    while True:
        wanted = size.rows
        try:
            answer = await pit.search({**body, "size": wanted, **after}, exact=order is not None)
            found = await _decoded(answer, request.decoder, order)
        except ContextLost:
            raise
        except ConnectionFailed as error:
            size.shrink()
            await budget.wait(error)
            continue
        budget.reset()
        pit.renew(found.pit_id)
        size.came(found.batch.num_rows, len(answer))
        del answer
        rows = found.batch.num_rows
        came, total = came + rows, found.total if total is None else total
        over = rows < wanted or found.last is None
        if total is None or came > total or (over and came < total):
            raise _miscounted(total, came, by_cursor=order is not None)
        if after.get("search_after") == found.last is not None:
            raise _strange("the server gives the same documents again, however it is asked")
        if request.unique_ids and rows:
            await _check_unique_ids(pit, request, found)
        if rows:
            yield found
        if over:
            return
        after = {"search_after": found.last}


def _miscounted(total: int | None, came: int, *, by_cursor: bool) -> ConnectionFailed:
    counted = "did not count the documents" if total is None else f"counted {total:,} documents and gave {came:,}"
    error = _strange(f"the source {counted}, of one and the same moment")
    if by_cursor:
        error.remedy += " What was committed already may lack some: `retl reset` for the table reads everything once."
    return error


def _strange(what: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"{what}.",
        remedy="nothing, if it passes: the scan is tried again. Otherwise check what stands between here and the server.",
    )


async def _check_unique_ids(pit: PointInTime, request: SearchRequest, found: Page) -> None:
    """Raise ``RepeatedKey`` where documents of the same ``_id`` lie in two shards: in the target they would be one."""
    ids = sorted(set(found.ids))
    body = {"track_total_hits": True, "query": matching([*request.filters, {"ids": {"values": ids}}])}
    total = parse_answer(await pit.search({**body, "size": 0})).total
    if total == len(ids) == len(found.ids):
        return
    for name in ids:
        body["query"] = matching([*request.filters, {"ids": {"values": [name]}}])
        hits = parse_answer(await pit.search({**body, "size": 3, "_source": False})).hits
        if len(hits) > 1:
            routings = " and ".join(repr(hit.routing) for hit in hits)
            raise RepeatedKey(
                f"the _id {name!r} is there {len(hits)} times, with the routings {routings}; in the target they would be one.",
                remedy="give the documents ids of their own; or choose with where, or with key, what tells them apart.",
            )


async def _decoded(answer: bytes, decoder: HitDecoder, order: CursorField | None) -> Page:
    value = None if order is None else order.value
    if len(answer) <= _THREAD_BYTES:
        return page(answer, decoder, value)
    return await anyio.to_thread.run_sync(lambda: page(answer, decoder, value))


class _Tail:
    """The last documents that share one cursor value: after a fresh start they come again."""

    def __init__(self) -> None:
        self.value: Any = None
        self._ids: list[pa.Array] = []
        self._resumed: pa.Array | None = None

    def resume(self) -> None:
        self._resumed = pa.concat_arrays(self._ids) if self._ids else None

    def new_ones(self, found: Page) -> pa.RecordBatch:
        """The page's documents that have not come before."""
        assert found.firsts is not None
        ids = pa.array(found.ids, pa.string())
        batch = found.batch
        if self._resumed is not None:
            again = pc.is_in(ids, value_set=self._resumed)
            batch, ids = batch.filter(pc.invert(again)), ids.filter(pc.invert(again))
            if found.firsts[-1] != self.value:
                self._resumed = None
        if found.firsts[-1] != self.value:
            self.value, self._ids = found.firsts[-1], []
            run = next((n for n, value in enumerate(reversed(found.firsts)) if value != self.value), len(found.firsts))
            ids = pa.array(found.ids[len(found.ids) - run :], pa.string())
        self._ids.append(ids)
        return batch
