"""The writing half of a scan: from the channel into the target, commit by commit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.engine import guard
from retl.engine.channel import Channel, ChannelClosed
from retl.engine.checkpoints import after_scan, after_slice, higher, with_rows
from retl.engine.commit import committer
from retl.engine.context import ScanContext
from retl.engine.reader import Item
from retl.engine.rejects import SourceRejects
from retl.model import events
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import Checkpoint, FencedCheckpoint, Refresh, Reject
from retl.model.errors import RowsRejected, TargetError
from retl.model.plan import SourcePlan, WriteSpec
from retl.model.window import Slice

_PROGRESS_SECONDS = 0.1
_MEMORY_SECONDS = 5.0


class Writer:
    """Prepares the target once the source has proved itself, then writes, commits and finishes."""

    def __init__(self, context: ScanContext, plan: SourcePlan, spec: WriteSpec, channel: Channel[Item]) -> None:
        self._context = context
        self._plan = plan
        self._spec = spec
        self._channel = channel
        self._over = False
        self._shown = 0.0
        self._given_back = 0.0
        self._staged = 0
        self._commits = committer(context)

    async def run(self) -> None:
        """Everything from the first batch to the finish. On any error the target's writer is aborted."""
        context = self._context
        first, empty = await self._first_items()
        before = await self._check_shrink(empty=empty)
        spec, begun = await self._begin()
        async with context.target.open_load(spec, begun) as load:
            writer = SourceRejects(load, spec, context.store)
            try:
                await self._write_slices(writer, first)
                if context.stopped:
                    return
                await self._check_arrived(writer, before)
                await self._finish(writer)
            except (TargetError, RowsRejected):
                await self._commits.prove()  # what another owner does to the table is not the table's fault
                raise
        await self._remember_target()
        if context.counters.dropped:
            context.warn(
                f"the target acknowledged {context.counters.dropped:,} rows and did not keep them: a rule of its own drops "
                "or moves them, such as an ingest pipeline."
            )

    async def _first_items(self) -> tuple[list[Item], bool]:
        """What comes up to the first batch, and whether the source has proved that there is none."""
        items: list[Item] = []
        while not (items and items[-1].kind == "batch"):
            try:
                items.append(await self._channel.receive())
            except ChannelClosed:
                return items, True
        return items, False

    async def _check_shrink(self, *, empty: bool) -> int:
        """Rows in the target before a replacing scan; stops one that would empty it by mistake."""
        context, plan = self._context, self._plan
        if not context.table.replaces:
            return 0
        before = await context.target.count(context.table.to)
        if context.checkpoint.refresh is None and context.table.pre_action is not PreAction.SWAP:
            guard.check_countable(plan)
            if plan.rows is not None or empty:
                after = 0 if empty else plan.rows or 0
                guard.check_shrink(before, after, context.table.max_shrink, table=context.table.to)
        return before

    async def _check_arrived(self, writer: TableWriter, before: int) -> None:
        """Before anything is switched: what was counted has come, and what was sent is there."""
        context, table = self._context, self._context.table
        warning = guard.check_arrived(self._plan, context.counters.rows)
        if warning:
            context.warn(warning)
        if table.pre_action is PreAction.SWAP:
            held = await writer.count()
            guard.check_shrink(before, held, table.max_shrink, table=table.to)
            guard.check_shadow(held, context.counters.kept, table=table.to)

    async def _begin(self) -> tuple[WriteSpec, FencedCheckpoint | None]:
        """What the target is asked to load, and what it is to save with the pre-action."""
        begun = await self._commits.begin(await self._begin_refresh())
        refresh = self._context.checkpoint.refresh
        return dataclasses.replace(self._spec, refresh=refresh, prove=self._commits.prove), begun

    async def _begin_refresh(self) -> FencedCheckpoint | None:
        """For a pre-action that readers see: the note that it has begun, so a crash cannot repeat it."""
        context = self._context
        pre_action = context.table.pre_action
        if pre_action not in (PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE):
            return None
        refresh = context.checkpoint.refresh
        if refresh is None or refresh.pre_action != str(pre_action):
            # What another refresh has left half-loaded is no archive, nor is a table that is not there.
            half_loaded = refresh is not None and context.state_in_target
            archives = (
                pre_action is PreAction.RENAME_AND_CREATE
                and not half_loaded
                and await context.target.describe(context.table.to) is not None
            )
            refresh = Refresh(context.scan_id, str(pre_action), archives)
        context.checkpoint = msgspec.structs.replace(context.checkpoint, refresh=refresh)
        return context.fenced(context.checkpoint)

    async def _write_slices(self, writer: TableWriter, first: list[Item]) -> None:
        context = self._context
        highest: Any = None
        async with aclosing(self._items(first)) as items:
            async for item in items:
                slice_ = item.slice_
                if item.kind == "begin":
                    if self._staged:
                        await writer.discard()
                        context.counters.rows -= self._staged
                    self._staged, highest = 0, None
                    continue
                if item.batch is not None:
                    await self._commits.before_write()
                    await writer.write(item.batch)
                    self._staged += item.batch.num_rows
                    self._count(item.batch.num_rows, item.size)
                    if slice_.ordered_by is not None:
                        highest = higher(highest, item.batch, slice_.ordered_by)
                complete = item.kind == "end"
                if complete or (slice_.divisible and self._staged >= context.table.slice_rows):
                    await self._commit(writer, slice_, highest, complete=complete)
                    self._staged = 0
                    if context.stop.requested and not (complete and slice_.index == self._plan.slices[-1].index):
                        context.stopped = True
                        return

    async def _items(self, first: list[Item]) -> AsyncGenerator[Item, None]:
        while first:
            yield first.pop(0)
        while True:
            try:
                item = await self._channel.receive()
            except ChannelClosed:
                return
            yield item

    def _count(self, rows: int, size: int) -> None:
        context = self._context
        context.counters.rows += rows
        context.counters.bytes += size
        now = time.monotonic()
        if now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            context.tell_scan(events.RowsMoved, progress=context.progress())

    async def _commit(self, writer: TableWriter, slice_: Slice, highest: Any, *, complete: bool) -> None:
        context = self._context
        # In cursor order, what has come so far is all there is below the highest value.
        moves_on = complete or slice_.ordered_by is not None
        before = context.checkpoint
        checkpoint = with_rows(before, self._lands(self._staged))
        if moves_on:
            checkpoint = after_slice(checkpoint, self._plan, slice_, context.scan_id, highest)
        if complete and slice_.index == self._plan.slices[-1].index and not context.table.replaces:
            # Nothing is left to be done but to remember that the scan is over: that is done at once.
            checkpoint = after_scan(checkpoint, self._plan, context.scan_id)
            self._over = True
        fenced = context.fenced(checkpoint, slice_.manifest if complete else None)
        left = guard.max_rejects(context.table, self._plan.rows, context.counters.rows) - context.counters.rejects
        try:
            done = await self._commits.commit(writer, fenced, slice_, left)
        except RowsRejected as error:
            await self._commits.prove()  # they may clash with what another owner has written meanwhile
            guard.advise(error, self._staged)
            await self._keep_rejects(error.rejects)
            raise
        context.checkpoint = checkpoint
        await self._correct(before, self._lands(self._staged - len(done.rejects) - done.older - done.dropped))
        self._note(done, complete=complete)
        self._give_memory_back()

    def _lands(self, rows: int) -> int:
        """How many of the rows are in the target afterwards, whatever it held before."""
        return 0 if Action.INSERT in self._context.blacklist else max(0, rows)

    async def _correct(self, before: Checkpoint, rows: int) -> None:
        """The checkpoint was saved with its rows and could not know which of them the target keeps."""
        context = self._context
        if context.checkpoint.written == before.written + rows:
            return
        context.checkpoint = msgspec.structs.replace(context.checkpoint, written=before.written + rows)
        if not context.checkpoint.written:  # else the next one that is saved says it
            await context.store.save(context.fenced(context.checkpoint))

    def _give_memory_back(self) -> None:
        """Arrow's allocator keeps freed memory for itself; a host service wants it back, but not so often that it costs time."""
        now = time.monotonic()
        if now - self._given_back >= _MEMORY_SECONDS:
            self._given_back = now
            pa.default_memory_pool().release_unused()

    def _note(self, done: CommitResult, *, complete: bool) -> None:
        context, counters = self._context, self._context.counters
        counters.slices += complete
        counters.add(done)
        self._note_rejects(list(done.rejects))
        context.tell_scan(events.SliceCommitted, watermark=context.checkpoint.watermark, progress=context.progress())

    async def _keep_rejects(self, rejects: Any) -> None:
        """Of a commit that was refused because of them: people want to see why."""
        found: list[Reject] = list(rejects)
        if found:
            await self._context.store.add_rejects(self._context.pipeline, found)
        self._note_rejects(found)

    def _note_rejects(self, rejects: list[Reject]) -> None:
        self._context.counters.rejects += len(rejects)
        if rejects:
            self._context.tell_scan(events.RowsRejected, rejects=len(rejects), first_reason=rejects[0].reason)

    async def _finish(self, writer: TableWriter) -> None:
        context = self._context
        final = None if self._over else context.fenced(after_scan(context.checkpoint, self._plan, context.scan_id))
        await self._commits.finish(writer, final)
        if final is not None:
            context.checkpoint = final.checkpoint

    async def _remember_target(self) -> None:
        """Which table the rows are in, where that has changed: it was made, or replaced."""
        context = self._context
        if context.found is None:
            return
        found = await context.target.inspect(context.table.to)
        if found is None or found.identity in (None, context.checkpoint.target):
            return
        context.checkpoint = msgspec.structs.replace(context.checkpoint, target=found.identity)
        await context.store.save(context.fenced(context.checkpoint))
