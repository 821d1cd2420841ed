"""The writing half of a scan: from the channel into the target, commit by commit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from retl.connectors.base import SourceScan, TableWriter
from retl.engine import guard
from retl.engine.channel import Channel, ChannelClosed
from retl.engine.checkpoints import higher
from retl.engine.commit import committer
from retl.engine.context import ScanContext
from retl.engine.reader import Item
from retl.engine.rejects import SourceRejects
from retl.engine.repeat import digest_of, may_repeat
from retl.engine.slices import SliceCommits
from retl.model import events
from retl.model.actions import PreAction
from retl.model.checkpoint import FencedCheckpoint, Refresh
from retl.model.errors import RowsRejected, TargetError
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.pulse import unhurried

_PROGRESS_SECONDS = 0.1
_WINDOW_BYTES = 8 * 1024 * 1024
"""How many bytes of a window are held to compare it with the last one."""


class Writer:
    """Prepares the target once the source has proved itself, then writes, commits and finishes."""

    def __init__(
        self,
        context: ScanContext,
        scan: SourceScan,
        spec: WriteSpec,
        channel: Channel[Item],
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        """``prepare`` is called once the rows have shown that something must be written."""
        self._context = context
        self._scan = scan
        self._plan = scan.plan
        self._spec = spec
        self._channel = channel
        self._shown = 0.0
        self._staged = 0
        self._commits = committer(context)
        self._prepare = prepare
        self._began = time.monotonic()
        self.rejected: Slice | None = None
        """The slice of which the target rejected too many rows, where it did."""
        self.lost = 0
        """How many rows were written then, and are not committed."""

    async def run(self) -> None:
        """Write everything from the first batch to the finish. A load that fails stays unfinished, which undoes it."""
        context = self._context
        repeat = may_repeat(self._plan, context.checkpoint)
        first, empty, digest = await self._whole_window() if repeat else (*await self._first_items(), None)
        if digest is not None and digest == context.checkpoint.window_digest:
            self._pass_over(first)
            return
        if repeat:
            await self._prepare()
        before = await self._check_shrink(empty=empty)
        spec, begun = await self._begin()
        commits = SliceCommits(context, self._scan, self._commits, digest)
        async with AsyncExitStack() as stack:
            with unhurried():  # a large table may have to be changed
                load = await stack.enter_async_context(context.target.open_load(spec, begun))
            if load.embeddings is not None:
                context.counters.embeddings.append(load.embeddings)
            writer = SourceRejects(load, spec, context.store)
            try:
                await self._write_all(writer, commits, first)
                if context.stopped:
                    return
                await self._check_arrived(writer, before)
                with unhurried():  # an index of a large table is built
                    await commits.finish(writer)
            except (TargetError, RowsRejected):
                self.rejected = commits.rejected
                self.lost = commits.lost + self._staged
                await self._commits.prove()  # what another owner does to the table is not the table's fault
                raise
        await self._remember_target()
        if context.counters.dropped:
            context.warn(
                f"the target acknowledged {context.counters.dropped:,} rows and did not keep them: a rule of its own drops "
                "or moves them, such as an ingest pipeline."
            )

    async def _whole_window(self) -> tuple[list[Item], bool, str | None]:
        """All of a small window, with its digest; or the start of a large one, without."""
        items: list[Item] = []
        size = 0
        while size <= _WINDOW_BYTES:
            try:
                items.append(await self._channel.receive())
            except ChannelClosed:
                slices = _without_failed_attempts(items)
                batches = [item.batch for item in slices if item.batch is not None]
                return slices, not batches, digest_of(self._spec, self._plan, batches)
            size += items[-1].size
        return items, False, None

    def _pass_over(self, items: list[Item]) -> None:
        """Skip these rows: the last scan has written them, the same to the last bit."""
        counters = self._context.counters
        for item in items:
            if item.batch is not None:
                self._count(item.batch.num_rows, item.size)
        counters.unchanged = counters.rows
        counters.slices = len(self._plan.slices)

    async def _first_items(self) -> tuple[list[Item], bool]:
        """The items up to the first batch, and whether the source has proved that there are no rows."""
        items: list[Item] = []
        while not (items and items[-1].kind == "batch"):
            try:
                items.append(await self._channel.receive())
            except ChannelClosed:
                return items, True
        return items, False

    async def _check_shrink(self, *, empty: bool) -> int:
        """The target's rows before a replacing scan. Stops a scan that would empty the table by mistake."""
        context, plan = self._context, self._plan
        if not context.table.replaces:
            return 0
        before = await context.target.count(context.table.to)
        if context.checkpoint.refresh is None and not context.table.pre_action.has_shadow:
            guard.check_countable(plan)
            if plan.rows is not None or empty:
                after = 0 if empty else plan.rows or 0
                guard.check_shrink(before, after, context.table.max_shrink, table=context.table.to)
        return before

    async def _check_arrived(self, writer: TableWriter, before: int) -> None:
        """Check before a switch: all counted rows have come, and all sent rows are there."""
        context, table = self._context, self._context.table
        warning = guard.check_arrived(self._plan, context.counters.rows)
        if warning:
            context.warn(warning)
        if not table.pre_action.has_shadow:
            return
        held = await writer.count()
        if table.pre_action is PreAction.MIRROR and table.max_shrink is not None:
            guard.check_deletes(before, await writer.deletes(), table.max_shrink, table=table.to)
        else:
            guard.check_shrink(before, held, table.max_shrink, table=table.to)
        guard.check_shadow(held, context.counters.kept, table=table.to)

    async def _begin(self) -> tuple[WriteSpec, FencedCheckpoint | None]:
        """The spec of the load, and the checkpoint that the target saves with the pre-action."""
        begun = await self._commits.begin(await self._begin_refresh())
        refresh = self._context.checkpoint.refresh
        return dataclasses.replace(self._spec, refresh=refresh, prove=self._commits.prove), begun

    async def _begin_refresh(self) -> FencedCheckpoint | None:
        """For a pre-action that readers see: a checkpoint that says it has begun, so that a crash cannot repeat it."""
        context = self._context
        pre_action = context.table.pre_action
        if pre_action not in (PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE):
            return None
        refresh = context.checkpoint.refresh
        if refresh is None or refresh.pre_action != str(pre_action):
            # A half-loaded table of another refresh is not an archive; nor is a missing table.
            half_loaded = refresh is not None and context.state_in_target
            archives = (
                pre_action is PreAction.RENAME_AND_CREATE
                and not half_loaded
                and await context.target.describe(context.table.to) is not None
            )
            refresh = Refresh(context.scan_id, str(pre_action), archives)
        context.checkpoint = msgspec.structs.replace(context.checkpoint, refresh=refresh)
        return context.fenced(context.checkpoint)

    async def _write_all(self, writer: TableWriter, commits: SliceCommits, first: list[Item]) -> None:
        """Write every slice, with the commits beside it; a running commit ends before an error is raised."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            try:
                await self._write_slices(tasks, writer, commits, first)
            except Exception as error:  # raised again outside the group, so that it stays plain
                failure = error
        try:
            await commits.settle()
        except Exception as error:
            failure = error  # errors after a failed commit are only its consequences
        if failure is not None:
            raise failure

    async def _write_slices(
        self, tasks: TaskGroup, writer: TableWriter, commits: SliceCommits, first: list[Item]
    ) -> None:
        context = self._context
        highest: Any = None
        async with aclosing(self._items(first)) as items:
            async for item in items:
                slice_ = item.slice_
                if item.kind == "begin":
                    if self._staged:
                        await commits.settle()
                        await writer.discard()
                        context.counters.rows -= self._staged
                    self._staged, highest = 0, None
                    await writer.begin(slice_)
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
                    staged, self._staged = self._staged, 0
                    await commits.start(tasks, writer, slice_, highest, staged, complete=complete)
                    if not (complete and commits.is_last(slice_)) and await self._pauses(commits):
                        return

    async def _pauses(self, commits: SliceCommits) -> bool:
        """Whether the scan stops here, between two slices. A long scan lets others go first."""
        context = self._context
        if context.stop.requested or self._gives_way():
            await commits.settle()
            context.stopped = True
        elif context.turn is not None and context.turn.is_long:
            await commits.settle()
            await context.turn.give_way()
        return context.stopped

    def _gives_way(self) -> bool:
        """Whether a backfill ends here, to go on behind a scan of its table that waits: not before it has worked as long as it has planned."""
        context = self._context
        if context.table.range is not None and context.turn is not None:
            context.gave_way = context.turn.blocks(self._began, self._began - context.began)
        return context.gave_way

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
            context.emit_scan(events.RowsMoved, progress=context.progress())

    async def _remember_target(self) -> None:
        """The identity of the target's table, if the scan has made or replaced it."""
        context = self._context
        if context.found is None or (context.found.exists and context.found.identity is None):
            return  # the target cannot tell
        found = await context.target.inspect(context.table.to)
        if found is None or found.identity in (None, context.checkpoint.target):
            return
        context.checkpoint = msgspec.structs.replace(context.checkpoint, target=found.identity)
        await context.store.save(context.fenced(context.checkpoint))


def _without_failed_attempts(items: list[Item]) -> list[Item]:
    """The items of the last attempt at each slice."""
    kept: list[Item] = []
    for item in items:
        if item.kind == "begin":
            kept = [other for other in kept if other.slice_.index != item.slice_.index]
        kept.append(item)
    return kept
