"""Elasticsearch as a source: what a scan reads, decided before it reads."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import anyio
import msgspec
import pyarrow as pa

from retl.connectors.base import Source, SystemInfo
from retl.connectors.elasticsearch.catalog import find_index, location_of
from retl.connectors.elasticsearch.connection import Client
from retl.connectors.elasticsearch.errors import understood
from retl.connectors.elasticsearch.source import catalog
from retl.connectors.elasticsearch.source.catalog import Found
from retl.connectors.elasticsearch.source.cursor import SETTLE, CursorField
from retl.connectors.elasticsearch.source.pages import Hit, answer
from retl.connectors.elasticsearch.source.reader import Question, matching, read_all, read_window
from retl.connectors.elasticsearch.source.selection import Choice, choose, schema_of
from retl.model.actions import Write
from retl.model.checkpoint import Checkpoint, check_cursor_type
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError, RetlError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.model.window import Bounds, Slice, Window, make_window

if TYPE_CHECKING:
    from retl.connectors.elasticsearch import Elasticsearch


class ElasticsearchSource(Source):
    """Reads indices, aliases and data streams. See ``retl.connectors.Elasticsearch``.

    A plan holds nothing at the server: each ``read`` takes a point in time of its own, and
    gives it back.
    """

    system: ClassVar[str] = "elasticsearch"
    schemas: ClassVar[bool] = False

    def __init__(self, options: Elasticsearch) -> None:
        self._options = options
        self._slices = options.read_slices
        self._opened: Client | None = None
        self._opening = anyio.Lock()

    async def _client(self) -> Client:
        """The line to the cluster, opened when something is first asked."""
        async with self._opening:
            if self._opened is None:
                self._opened = await Client.open(self._options, "source")
            return self._opened

    async def ping(self) -> SystemInfo:
        client = await Client.open(self._options, "source")
        await client.close()
        return SystemInfo(client.product.name, client.product.number, warnings=client.warnings)

    async def list_tables(self) -> list[str]:
        return await catalog.tables(await self._client())

    async def describe(self, table: str) -> TableSchema | None:
        found = await catalog.look(await self._client(), table)
        return None if found is None else schema_of(table, found)

    async def location(self, table: str) -> str | None:
        client = await self._client()
        if any(sign in table for sign in "*,") or await find_index(client, table) is None:
            return None  # what is not there is said by the plan, with the names that are
        return await location_of(client, table)

    async def plan(self, table: TableSpec, checkpoint: Checkpoint) -> SourcePlan:
        client = await self._client()
        found = await catalog.look(client, table.name)
        if found is None:
            await self._no_such_table(client, table.name)
        choice = choose(table, found, client.product)
        await catalog.check_whole(client, found)
        # What has been written is to be seen. Whoever may only read does without; settle is for that.
        await client.request("POST", f"/{found.path}/_refresh", allow=range(300, 600))
        choice = await self._with_routing(client, found, choice)
        if choice.cursor is None:
            return await self._plan_full(client, table, found, choice)
        return await self._plan_window(client, table, checkpoint, found, choice, choice.cursor)

    async def _plan_full(self, client: Client, table: TableSpec, found: Found, choice: Choice) -> SourcePlan:
        rows = await self._count(client, found, choice.filters)
        everything = Slice(index=0, rows=rows, divisible=table.write is not Write.APPEND or table.replaces)
        plan = self._plan(table, found, choice, (everything,) if rows else (), rows)
        return await self._sized(client, plan, found, choice)

    async def _plan_window(
        self,
        client: Client,
        table: TableSpec,
        checkpoint: Checkpoint,
        found: Found,
        choice: Choice,
        cursor: CursorField,
    ) -> SourcePlan:
        check_cursor_type(table.name, cursor.path, checkpoint, cursor.order)
        family = cursor_family(cursor.column.type)
        assert family is not None
        null = await self._count(client, found, [*choice.filters, cursor.absent()])
        high = await self._highest(client, found, choice, cursor, table)
        if high is None and cursor.can_be_ancient:
            await self._check_not_ancient(client, found, choice, cursor)
        # The bound is settled already, by the server's clock.
        unsettled = dataclasses.replace(table, settle=None)
        window = make_window(unsettled, family, checkpoint.watermark, Bounds(None, high, null, ""))
        slices: list[Slice] = []
        rows = 0
        if window is not None:
            bounds = cursor.range(window.lower, window.upper, lower_exclusive=window.lower_exclusive)
            rows = await self._count(client, found, [*choice.filters, bounds])
            slices.append(_slice(table, choice, window, rows))
        if table.null_cursor == "include" and null:
            slices.append(Slice(index=len(slices), nulls=True, rows=null, divisible=table.write is not Write.APPEND))
            rows += null
        ahead = await self._count(client, found, [*choice.filters, cursor.ahead()]) if cursor.is_time else 0
        plan = self._plan(table, found, choice, tuple(slices), rows)
        plan = dataclasses.replace(
            plan,
            window=window,
            null_cursor_rows=null,
            cursor_type=cursor.order,
            warnings=(*plan.warnings, *_future_warning(cursor, ahead)),
        )
        return await self._sized(client, plan, found, choice)

    def _plan(self, table: TableSpec, found: Found, choice: Choice, slices: tuple[Slice, ...], rows: int) -> SourcePlan:
        query = msgspec.json.encode(matching(choice.filters)).decode()
        return SourcePlan(
            table=table,
            schema=choice.schema,
            key=choice.key,
            slices=slices,
            rows=rows,
            unique_key=choice.by_id and len(found.indices) == 1 and not choice.routed,
            statements=(f"POST /{found.path}/_search {query}",),
            warnings=choice.warnings,
        )

    async def _sized(self, client: Client, plan: SourcePlan, found: Found, choice: Choice) -> SourcePlan:
        """The plan with what ``read`` must know."""
        size = await catalog.document_bytes(client, found.path) if plan.slices else None
        question = Question(
            found.path, choice.filters, choice.asked, choice.shape, found.most_hits, size, once=choice.routed
        )
        return dataclasses.replace(plan, detail={"question": question, "cursor": choice.cursor})

    async def _with_routing(self, client: Client, found: Found, choice: Choice) -> Choice:
        """An id is unique within its shard: where documents choose theirs, two may have the same."""
        if not choice.by_id or len(found.indices) > 1 or found.shards == 1:
            return choice
        chosen = await self._count(client, found, [{"exists": {"field": "_routing"}}])
        return dataclasses.replace(choice, routed=bool(chosen))

    async def _count(self, client: Client, found: Found, filters: Sequence[dict[str, Any]]) -> int:
        body = {"size": 0, "track_total_hits": True, "query": matching(filters)}
        _, total, _ = answer(await self._search(client, found, body))
        return total or 0

    async def _highest(
        self, client: Client, found: Found, choice: Choice, cursor: CursorField, table: TableSpec
    ) -> str | None:
        """The upper bound: one document, sorted down, since an aggregation would round."""
        filters = [*choice.filters, cursor.present()]
        if cursor.can_be_ancient:
            filters.append(cursor.since_year_1())
        if cursor.is_time:
            filters.append(cursor.settled(table.settle if table.settle is not None else SETTLE))
        elif table.settle is not None:
            raise ConfigError(
                "settle compares the cursor with the source's clock, but the cursor is a number.",
                remedy="remove settle or choose a field of time.",
            )
        for order in cursor.orders()[::-1]:
            hits = await self._last(client, found, [*filters, *order.only], order)
            if hits:
                with understood(client.place):
                    return order.text(msgspec.json.decode(hits[0].sort)[0])
        return None

    async def _check_not_ancient(self, client: Client, found: Found, choice: Choice, cursor: CursorField) -> None:
        """Times before the year 1 are no bound; where there are no others, they would be left out without a word."""
        ancient = [*choice.filters, cursor.present(), {"bool": {"must_not": [cursor.since_year_1()]}}]
        if rows := await self._count(client, found, ancient):
            raise ConfigError(
                f"the cursor {cursor.path!r} of all {rows:,} documents lies before the year 1.",
                remedy="correct them at the source, or read the index without a cursor.",
            )

    async def _last(
        self, client: Client, found: Found, filters: Sequence[dict[str, Any]], cursor: CursorField
    ) -> Sequence[Hit]:
        body = {
            "size": 1,
            "track_total_hits": False,
            "_source": False,
            "query": matching(filters),
            "sort": [cursor.sort("desc", client.product)],
        }
        hits, _, _ = answer(await self._search(client, found, body))
        return hits

    async def _search(self, client: Client, found: Found, body: dict[str, Any]) -> bytes:
        params = {"allow_partial_search_results": "false", **client.product.exact_search}
        return (await client.request("POST", f"/{found.path}/_search", params=params, body=body)).body

    async def read(self, plan: SourcePlan, slice_: Slice) -> AsyncIterator[pa.RecordBatch]:
        client = await self._client()
        question, cursor = plan.detail["question"], plan.detail["cursor"]
        assert isinstance(question, Question)
        if isinstance(cursor, CursorField) and not slice_.nulls:
            assert slice_.upper is not None
            batches = read_window(
                client, question, cursor, slice_.lower, slice_.upper, lower_exclusive=slice_.lower_exclusive
            )
        else:
            if isinstance(cursor, CursorField):
                question = dataclasses.replace(question, filters=[*question.filters, cursor.absent()])
            batches = read_all(client, question, self._slices if (slice_.rows or 0) > 1 else 1)
        async with aclosing(batches) as opened:  # type: ignore[type-var]
            async for batch in opened:
                yield batch

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
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()


def _future_warning(cursor: CursorField, ahead: int) -> tuple[str, ...]:
    """A value far in the future is never a bound, so its document may wait for ever."""
    if not ahead:
        return ()
    text = (
        f"documents whose cursor {cursor.path!r} lies more than a day in the future by the source's clock: {ahead:,}. "
        "They wait for their time; correct them at the source."
    )
    return (text,)


def _slice(table: TableSpec, choice: Choice, window: Window, rows: int) -> Slice:
    """The whole window, in cursor order: what has come of it may be committed at any document.

    Unless rows are appended: a scan after a crash would then begin *behind* the last value, and miss those that share it.
    """
    assert choice.cursor is not None
    divisible = table.write is not Write.APPEND
    name = table.target_name(choice.cursor.path)
    return Slice(
        index=0,
        lower=window.lower,
        upper=window.upper,
        lower_exclusive=window.lower_exclusive,
        rows=rows,
        watermark=window.upper,
        divisible=divisible,
        # Where the cursor is not among the columns, or is a list there, only the end of the window tells how far it is.
        ordered_by=name if divisible and name in choice.schema.names and not choice.lists_cursor else None,
    )
