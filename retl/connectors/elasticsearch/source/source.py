"""Elasticsearch as a source: indices, aliases and data streams, and what one scan reads of them."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, NoReturn

from retl.connectors.base import Source, SourceScan, SystemInfo
from retl.connectors.elasticsearch.catalog import find_index, location_of
from retl.connectors.elasticsearch.connection import Client, SharedClient
from retl.connectors.elasticsearch.source import catalog
from retl.connectors.elasticsearch.source.selection import schema_of, select
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, RetlError
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.base import Manifest
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.elasticsearch import Elasticsearch
import asyncio
import dataclasses
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.elasticsearch.errors import understood
from retl.connectors.elasticsearch.source.catalog import SourceIndex
from retl.connectors.elasticsearch.source.cursor import SETTLE, CursorField
from retl.connectors.elasticsearch.source.pages import FIRST_ROWS_UNKNOWN, parse_answer
from retl.connectors.elasticsearch.source.reader import PointInTime, SearchRequest, matching, read_all, read_window
from retl.connectors.elasticsearch.source.selection import Selection
from retl.model.actions import Write
from retl.model.checkpoint import check_cursor_type
from retl.model.cursor import cursor_family
from retl.model.plan import SourcePlan
from retl.model.range import CursorRange
from retl.model.window import Bounds, Slice, Window, make_window, range_window


class ElasticsearchSource(Source):
    """Reads indices, aliases and data streams. See ``retl.connectors.Elasticsearch``."""

    system: ClassVar[str] = "elasticsearch"
    ranges: ClassVar[bool] = True
    schemas: ClassVar[bool] = False

    def __init__(self, options: Elasticsearch) -> None:
        self._slices = options.read_slices
        self._shared = SharedClient(options, "source")

    async def ping(self) -> SystemInfo:
        return await self._shared.ping()

    async def list_tables(self) -> list[str]:
        return await catalog.tables(await self._shared.client())

    async def describe(self, table: str) -> TableSchema | None:
        index = await catalog.find_indices(await self._shared.client(), table)
        return None if index is None else schema_of(table, index)

    async def location(self, table: str) -> str | None:
        client = await self._shared.client()
        if any(sign in table for sign in "*,") or await find_index(client, table) is None:
            return None  # the plan raises it, with the names that exist
        return await location_of(client, table)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        client = await self._shared.client()
        index = await catalog.find_indices(client, table.name)
        if index is None:
            await self._no_such_table(client, table.name)
        scan = ElasticsearchScan(client, table, index, select(table, index, client.server), slices=self._slices)
        await scan.prepare(checkpoint)
        try:
            yield scan
        finally:
            await shielded(scan.close())

    async def _no_such_table(self, client: Client, name: str) -> NoReturn:
        try:
            offered = await catalog.names(client)
        except RetlError:
            offered = []
        close = difflib.get_close_matches(name, offered, n=1)
        some = ", ".join(offered[:10]) + (" ..." if len(offered) > 10 else "")
        raise ConfigError(
            f"the source has no index, alias or data stream {name!r}.",
            remedy=f"did you mean {close[0]!r}?" if close else f"it has {some}." if offered else "the source is empty.",
        )

    async def aclose(self) -> None:
        await self._shared.close()


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
        if selection.cursor is None:
            plan = await self._plan_full()
        elif self._table.range is None:
            plan = await self._plan_window(checkpoint, selection.cursor)
        else:
            plan = await self._plan_range(checkpoint, selection.cursor, self._table.range)
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
            highest=high,
            null_cursor_rows=null,
            cursor_type=cursor.order,
            warnings=(*plan.warnings, *_future_warning(cursor, ahead)),
        )

    async def _plan_range(self, checkpoint: Checkpoint, cursor: CursorField, wanted: CursorRange) -> SourcePlan:
        """The documents of a given range as they are now, but for what an earlier scan of it has read."""
        check_cursor_type(self._table.name, cursor.path, checkpoint, cursor.order)
        family = cursor_family(cursor.column.type)
        assert family is not None
        wanted = wanted.typed(await self._highest(cursor), family)
        high = await self._highest(cursor, *cursor.within(wanted))
        # What was committed may end amid documents that share a value.
        window = range_window(cursor.path, family, wanted, checkpoint.watermark, high, ties_done=False)
        slices: list[Slice] = []
        if window is not None:
            bounds = cursor.range(window.lower, window.upper, lower_exclusive=window.lower_exclusive)
            slices.append(_slice(self._table, self._selection, cursor, window, await self._count(bounds)))
        return dataclasses.replace(self._make_plan(slices), window=window, cursor_type=cursor.order)

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

    async def _highest(self, cursor: CursorField, *within: dict[str, Any]) -> str | None:
        """The upper bound: the last document by the cursor, since an aggregation would round."""
        settle = self._table.settle
        filters = [cursor.present(), *within]
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
