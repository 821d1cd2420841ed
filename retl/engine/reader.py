"""The reading half of a scan: slices from the source into the channel."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, NamedTuple

import anyio
import pyarrow as pa

from retl.connectors.base import REJECT, SourceScan
from retl.engine import guard
from retl.engine.channel import Channel
from retl.engine.context import ScanContext
from retl.engine.resize import Resizer
from retl.engine.schedule import backoff
from retl.model import counted, events
from retl.model.errors import SourceError, TransientError
from retl.model.plan import SourcePlan
from retl.model.window import Slice
from retl.pulse import beat

_ATTEMPTS = 3
_LONGEST_PAUSE = 5.0
"""A longer pause gives another table its turn first."""


class Item(NamedTuple):
    """One item of the channel. A ``begin`` discards what was staged and has not ended."""

    kind: Literal["begin", "batch", "end"]
    slice_: Slice
    batch: pa.RecordBatch | None = None
    size: int = 0


class Reader:
    """Reads the slices of a plan, in order, into the channel, and closes it."""

    def __init__(
        self,
        context: ScanContext,
        scan: SourceScan,
        channel: Channel[Item],
        slices: AsyncGenerator[Slice, None],
        first: Slice | None,
    ) -> None:
        """``slices``: what comes after the ``first`` one."""
        self._slices = slices
        self._first = first
        self._context = context
        self._scan = scan
        self._plan = scan.plan
        self._channel = channel
        self._rows = 0
        self._last = self._plan.slices[-1].index if self._plan.slices else None

    async def run(self) -> None:
        """Read everything. An error goes to the writer through the channel, so that it reaches the user plain."""
        error: Exception | None = None
        try:
            if self._first is not None:
                await self._read(self._first)
                async for slice_ in self._slices:
                    await self._read(slice_)
        except Exception as failure:
            error = failure
        self._warn()
        self._channel.close(error)

    async def _read(self, slice_: Slice) -> None:
        """Read one slice; after a transient error read it again, unless some of it may be committed already."""
        resizer = self._resizer(slice_)
        attempt = 0
        while True:
            attempt += 1
            await self._channel.send(Item("begin", slice_))
            try:
                rows, without_cursor = await self._pass_on(slice_, resizer)
                await self._check_count(slice_, rows)
            except TransientError as error:
                if attempt >= _ATTEMPTS or slice_.divisible or (error.retry_after or 0.0) > _LONGEST_PAUSE:
                    raise
                resizer.clear()
                await self._pause(error, attempt)
            else:
                delivered = self._scan.delivered(slice_)
                self._warn()
                if delivered is None:
                    await self._channel.send(Item("begin", slice_))
                    return
                for ready, size in resizer.flush():
                    await self._channel.send(Item("batch", slice_, ready, size), size)
                self._note_null_cursor(without_cursor)
                await self._channel.send(Item("end", delivered))
                return

    def _resizer(self, slice_: Slice) -> Resizer:
        liked = self._context.target.batch_size
        if slice_.divisible:
            # Hold back nothing that could be committed, so that a slow stream, too, is committed slice by slice.
            liked = dataclasses.replace(liked, rows=min(liked.rows, self._context.table.slice_rows))
        return Resizer(liked)

    async def _check_count(self, slice_: Slice, rows: int) -> None:
        """Check the rows before the end of a slice is sent: an incomplete slice must not be committed."""
        counted.check_slice(self._plan, slice_, rows)
        if slice_.rows is not None and counted.falls_short(rows, slice_.rows):
            there = await self._scan.recount(slice_)
            if there is not None and counted.falls_short(rows, min(there, slice_.rows)):
                raise counted.cut_answer(there, rows)
        self._rows += rows
        if slice_.index == self._last:
            counted.check_all_slices(self._plan, self._rows)

    async def _pass_on(self, slice_: Slice, resizer: Resizer) -> tuple[int, int]:
        """The slice's batches, resized; returns its rows, and how many had no cursor value, if only the stream tells."""
        rows = without_cursor = 0
        async with aclosing(self._scan.read(slice_)) as batches:
            async for batch in batches:
                beat()
                _check_batch(batch, self._plan)
                rows += batch.num_rows
                if slice_.ordered_by is not None:
                    batch, found = guard.apply_null_cursor(self._context.table, batch, slice_.ordered_by)
                    without_cursor += found
                for ready, size in resizer.push(batch):
                    await self._channel.send(Item("batch", slice_, ready, size), size)
        return rows, without_cursor

    def _warn(self) -> None:
        for warning in self._scan.warnings():
            self._context.warn(warning)

    def _note_null_cursor(self, rows: int) -> None:
        self._context.counters.null_cursor_rows += rows
        warning = guard.null_cursor_warning(self._context.table, rows)
        if warning:
            self._context.warn(warning)

    async def _pause(self, error: TransientError, attempt: int) -> None:
        delay = max(backoff(attempt, most=_LONGEST_PAUSE), error.retry_after or 0.0)
        self._context.emit(events.RetryScheduled, error=str(error), attempt=attempt, delay=delay)
        await anyio.sleep(delay)


def _check_batch(batch: pa.RecordBatch, plan: SourcePlan) -> None:
    """A batch must be what the plan promised: the same columns, each typed so or as text."""
    if batch.schema.equals(plan.schema):
        return
    if batch.schema.names == [*plan.schema.names, REJECT]:
        batch = batch.select(plan.schema.names)
    if batch.schema.names != plan.schema.names:
        raise SourceError(
            f"the source sent the columns {', '.join(batch.schema.names)}, but had promised {', '.join(plan.schema.names)}.",
            remedy="the source may have changed during the scan; the next scan reads its new shape.",
        )
    for sent, promised in zip(batch.schema, plan.schema, strict=True):
        if sent.type != promised.type and not pa.types.is_string(sent.type):
            raise SourceError(
                f"the source sent column {sent.name!r} as {sent.type}, but had promised {promised.type}.",
                remedy="the source may have changed during the scan; the next scan reads its new shape.",
            )
