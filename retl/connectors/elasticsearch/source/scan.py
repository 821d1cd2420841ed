"""One scan: what it reads, decided before it reads, and the point in time that it reads."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.base import SourceScan
from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.errors import understood
from retl.connectors.elasticsearch.source import catalog
from retl.connectors.elasticsearch.source.catalog import SourceIndex
from retl.connectors.elasticsearch.source.cursor import SETTLE, CursorField
from retl.connectors.elasticsearch.source.pages import FIRST_ROWS_UNKNOWN, parse_answer
from retl.connectors.elasticsearch.source.point_in_time import PointInTime
from retl.connectors.elasticsearch.source.reader import SearchRequest, matching, read_all, read_window
from retl.connectors.elasticsearch.source.selection import Selection
from retl.model.actions import Write
from retl.model.checkpoint import Checkpoint, check_cursor_type
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec
from retl.model.window import Bounds, Slice, Window, make_window


class ElasticsearchScan(SourceScan):
    """Reads one name of a cluster. The point in time is taken by the first read, and given back by ``close``."""

    plan: SourcePlan

    def __init__(
        self, client: Client, table: TableSpec, index: SourceIndex, selection: Selection, *, slices: int
    ) -> None:
        self._client = client
        self._table = table
        self._index = index
        self._selection = selection
        self._slices = slices
        self._pit = PointInTime(client, index.path)
        self._document_bytes: float | None = None

    async def prepare(self, checkpoint: Checkpoint) -> None:
        """Decide what is read, as of now."""
        index, selection = self._index, self._selection
        await catalog.check_whole(self._client, index)
        # Make visible what has been written. A user who may only read does without; settle is for that.
        await self._client.request("POST", f"/{index.path}/_refresh", allow=range(300, 600))
        if selection.by_id and len(index.indices) == 1 and index.shards > 1:
            # Ids are unique within a shard: with custom routing two documents may share one.
            routed = await self._count({"exists": {"field": "_routing"}})
            selection = self._selection = dataclasses.replace(selection, routed=bool(routed))
        plan = await (
            self._plan_full() if selection.cursor is None else self._plan_window(checkpoint, selection.cursor)
        )
        if plan.rows and plan.rows > FIRST_ROWS_UNKNOWN:
            self._document_bytes = await catalog.document_bytes(self._client, index.path)
        self.plan = plan

    async def _plan_full(self) -> SourcePlan:
        rows = await self._count()
        divisible = self._table.write is not Write.APPEND or self._table.replaces
        return self._make_plan([Slice(index=0, rows=rows, divisible=divisible)] if rows else [])

    async def _plan_window(self, checkpoint: Checkpoint, cursor: CursorField) -> SourcePlan:
        table = self._table
        check_cursor_type(table.name, cursor.path, checkpoint, cursor.order)
        family = cursor_family(cursor.column.type)
        assert family is not None
        null, high, ahead = await _at_once(
            self._count(cursor.absent()), self._highest(cursor), self._count_ahead(cursor)
        )
        if high is None and cursor.can_be_ancient:
            await self._check_not_ancient(cursor)
        # The server's clock has settled the bound already.
        unsettled = dataclasses.replace(table, settle=None)
        window = make_window(unsettled, family, checkpoint.watermark, Bounds(None, high, null, ""))
        slices: list[Slice] = []
        if window is not None:
            bounds = cursor.range(window.lower, window.upper, lower_exclusive=window.lower_exclusive)
            slices.append(_slice(table, self._selection, cursor, window, await self._count(bounds)))
        if table.null_cursor == "include" and null:
            slices.append(Slice(index=len(slices), nulls=True, rows=null, divisible=table.write is not Write.APPEND))
        plan = self._make_plan(slices)
        return dataclasses.replace(
            plan,
            window=window,
            null_cursor_rows=null,
            cursor_type=cursor.order,
            warnings=(*plan.warnings, *_future_warning(cursor, ahead)),
        )

    def _make_plan(self, slices: Sequence[Slice]) -> SourcePlan:
        index, selection = self._index, self._selection
        query = msgspec.json.encode(matching(selection.filters)).decode()
        return SourcePlan(
            table=self._table,
            schema=selection.schema,
            key=selection.key,
            slices=tuple(slices),
            rows=sum(slice_.rows or 0 for slice_ in slices),
            unique_key=selection.by_id and len(index.indices) == 1 and not selection.routed,
            statements=(f"POST /{index.path}/_search {query}",),
            warnings=selection.warnings,
        )

    async def _highest(self, cursor: CursorField) -> str | None:
        """The upper bound: the last document by the cursor, since an aggregation would round."""
        settle = self._table.settle
        filters = [cursor.present()]
        if cursor.can_be_ancient:
            filters.append(cursor.since_year_1())
        if cursor.is_time:
            filters.append(cursor.settled(settle if settle is not None else SETTLE))
        elif settle is not None:
            raise ConfigError(
                "settle compares the cursor with the source's clock, but the cursor is a number.",
                remedy="remove settle or choose a field of time.",
            )
        for order in cursor.orders()[::-1]:
            sort = [order.sort("desc", self._client.server)]
            about = {"size": 1, "track_total_hits": False, "_source": False, "sort": sort}
            hits = parse_answer(await self._search(about, *filters, *order.only)).hits
            if hits:
                with understood(self._client.place):
                    return order.text(msgspec.json.decode(hits[0].sort)[0])
        return None

    async def _check_not_ancient(self, cursor: CursorField) -> None:
        """Times before the year 1 cannot be a bound; without any others, they would be left out silently."""
        if rows := await self._count(cursor.present(), {"bool": {"must_not": [cursor.since_year_1()]}}):
            raise ConfigError(
                f"the cursor {cursor.path!r} of all {rows:,} documents lies before the year 1.",
                remedy="correct them at the source, or read the index without a cursor.",
            )

    async def _count_ahead(self, cursor: CursorField) -> int:
        return await self._count(cursor.ahead()) if cursor.is_time else 0

    async def _count(self, *filters: dict[str, Any]) -> int:
        return parse_answer(await self._search({"size": 0, "track_total_hits": True}, *filters)).total or 0

    async def _search(self, about: dict[str, Any], *filters: dict[str, Any]) -> bytes:
        """The answer to a search among the documents that the table selects."""
        params = {"allow_partial_search_results": "false", **self._client.server.exact_search}
        body = {**about, "query": matching([*self._selection.filters, *filters])}
        return (await self._client.request("POST", f"/{self._index.path}/_search", params=params, body=body)).body

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        try:
            async with aclosing(self._batches(slice_)) as batches:
                async for batch in batches:
                    yield batch
        except Exception:
            # This point in time may be the cause: the next read takes another.
            await self._pit.close()
            raise

    def _batches(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        selection, cursor = self._selection, self._selection.cursor
        request = SearchRequest(
            selection.filters,
            selection.decoder,
            self._index.most_hits,
            self._document_bytes,
            unique_ids=selection.routed,
        )
        if cursor is not None and not slice_.nulls:
            return read_window(self._pit, request, cursor, slice_)
        if cursor is not None:
            request = dataclasses.replace(request, filters=[*request.filters, cursor.absent()])
        return read_all(self._pit, request, self._slices if (slice_.rows or 0) > 1 else 1)

    async def close(self) -> None:
        """Give the point in time back. Safe after any failure."""
        await self._pit.close()


async def _at_once(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of requests that do not depend on each other; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(call) for call in calls]
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [task.result() for task in running]


def _future_warning(cursor: CursorField, ahead: int) -> tuple[str, ...]:
    """A value far in the future is never a bound, so its document may wait forever."""
    if not ahead:
        return ()
    text = (
        f"documents whose cursor {cursor.path!r} lies more than a day in the future by the source's clock: {ahead:,}. "
        "They wait for their time; correct them at the source."
    )
    return (text,)


def _slice(table: TableSpec, selection: Selection, cursor: CursorField, window: Window, rows: int) -> Slice:
    """The whole window, in cursor order: it may be committed at any document.

    Unless rows are appended: a scan after a crash would then begin *behind* the last value, and miss those that share it.
    """
    divisible = table.write is not Write.APPEND
    name = table.target_name(cursor.path)
    return Slice(
        index=0,
        lower=window.lower,
        upper=window.upper,
        lower_exclusive=window.lower_exclusive,
        rows=rows,
        watermark=window.upper,
        divisible=divisible,
        # Where the cursor is not among the columns, or is a list there, only the end of the window tells how far it is.
        ordered_by=name if divisible and name in selection.schema.names and not selection.lists_cursor else None,
    )
