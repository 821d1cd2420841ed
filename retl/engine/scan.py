"""One scan of one table, start to end.

::

    load checkpoint -> plan (window, slices; one upper bound) -> first batch in hand
      -> prepare the target -> for each slice: read -> channel -> write -> commit
      -> finish -> report

A reader task fills the channel while the writer empties it, so the next slice is read
while this one is written. Any error leaves the target as the last commit left it, and
the next scan carries on from the checkpoint: a retry, a crash and a restart are one path.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime

import anyio
import msgspec

from retl.connectors.base import ScanAgain, Source, SourceScan, Target
from retl.engine import guard
from retl.engine.backfill import keeper_of
from retl.engine.channel import Channel
from retl.engine.context import DEFAULT_TTL, Counters, Emit, Limits, ScanContext, StopSignal, now
from retl.engine.drift import check_plan
from retl.engine.log import error_text
from retl.engine.ownership import Ownership
from retl.engine.reader import Item, Reader
from retl.engine.repeat import may_repeat
from retl.engine.targets import begin_from, take_claim, with_types
from retl.engine.turns import Turn
from retl.engine.writer import Writer
from retl.model import events
from retl.model.actions import Action
from retl.model.answers import TargetTable
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.embeddings import in_all
from retl.model.errors import RetlError, RowsRejected, SourceError
from retl.model.plan import SourcePlan, WriteSpec
from retl.model.report import Progress, ScanReport
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.pulse import Pulse, current
from retl.state.base import Manifest, StateStore
from retl.threads import end_task

_MOST_ROUNDS = 5
"""How often a source may ask for another table within one scan."""
_WARN_SECONDS = 1.0
"""How often a source that waits is asked for its warnings."""
_WARN_PATIENCE = 10.0


class Scan:
    """One scan of one table: ``run`` it once, then take its ``report``."""

    def __init__(
        self,
        *,
        pipeline: str,
        table: TableSpec,
        source: Source,
        target: Target,
        store: StateStore,
        state_in_target: bool,
        fence: Fence,
        blacklist: frozenset[Action] = frozenset(),
        emit: Emit = lambda event: None,
        stop: StopSignal | None = None,
        limits: Limits | None = None,
        lease_ttl: float = DEFAULT_TTL,
        turn: Turn | None = None,
        ownership: Ownership | None = None,
        before: Callable[[str], Awaitable[None]] | None = None,
        asked: str | None = None,
    ) -> None:
        """``asked``: the request that a backfill answers."""
        limits = limits or Limits()
        self._before = before
        self._ownership = ownership or Ownership(store, fence, state_in_target=state_in_target)
        self._context = ScanContext(
            pipeline=pipeline,
            table=table,
            source=source,
            target=target,
            store=store,
            state_in_target=state_in_target,
            fence=fence,
            blacklist=blacklist,
            publish=emit,
            stop=stop or StopSignal(),
            lease_ttl=lease_ttl,
            turn=turn,
            keeper=keeper_of(table, asked),
        )
        self._channel: Channel[Item] = Channel(max_bytes=limits.channel_bytes, max_items=limits.channel_batches)
        self._started_at = now()
        self._seconds: float | None = None
        self._untouched: TargetTable | None = None
        """The target's table as it was found, until this scan may have changed it."""
        self.pulse: Pulse | None = None
        """Whether it moves, while it runs and somebody watches that."""

    async def run(self) -> None:
        """Scan the table. Raises a ``RetlError`` that names pipeline, table and remedy."""
        context = self._context
        self.pulse = current()
        context.emit_scan(events.ScanStarted)
        try:
            await self._run(context)
        except RetlError as error:
            error.with_context(pipeline=context.pipeline, table=context.table.name)
            raise
        else:
            self._ownership.remember(context.table.name, self.stored())
        finally:
            self._seconds = time.monotonic() - context.began

    def report(
        self, error: BaseException | None = None, *, attempts: int = 1, next_run: datetime | None = None
    ) -> ScanReport:
        """What the scan has done."""
        context = self._context
        plan, counters, table = context.plan, context.counters, context.table
        window = plan.window if plan else None
        return ScanReport(
            pipeline=context.pipeline,
            table=table.name,
            to=table.to,
            scan_id=context.scan_id,
            status="failed" if error else "stopped" if context.stopped else "done",
            mode="backfill" if table.range else "full" if table.full else "incremental",
            pre_action=str(table.pre_action),
            started_at=self._started_at,
            seconds=self._seconds if self._seconds is not None else time.monotonic() - context.began,
            rows=counters.rows,
            changed=counters.changed,
            unchanged=counters.unchanged,
            older=counters.older,
            dropped=counters.dropped,
            bytes=counters.bytes,
            rejects=counters.rejects,
            embeddings=in_all(counters.embeddings),
            null_cursor_rows=(plan.null_cursor_rows if plan else 0) + counters.null_cursor_rows,
            slices=counters.slices,
            slices_planned=len(plan.slices) if plan else 0,
            since=table.range.since if table.range else None,
            until=table.range.until if table.range else None,
            lower=window.lower if window else None,
            upper=window.upper if window else None,
            highest=context.highest,
            watermark=self.stored().watermark,
            cursor_family=window.family if window else None,
            attempts=attempts,
            read_wait=round(self._channel.send_wait, 3),
            write_wait=round(self._channel.receive_wait, 3),
            warnings=tuple(counters.warnings),
            error=error_text(error) if error else None,
            error_type=type(error).__name__ if error else None,
            next_run=next_run,
        )

    def progress(self) -> Progress:
        """The progress of the scan."""
        return self._context.progress()

    @property
    def gave_way(self) -> bool:
        """Whether it has stopped between two slices to let a scan of the same table go first, and is to go on."""
        return self._context.gave_way and not self._context.stop.requested

    def stored(self) -> Checkpoint:
        """What the store knows of it."""
        return self._context.keeper.stored(self._context.checkpoint)

    def lag(self) -> float | None:
        """How far the target is behind what the source had when the scan was planned."""
        return self._context.lag()

    async def _run(self, context: ScanContext) -> None:
        if self._before is not None:
            await self._before(context.scan_id)
        stored = await self._ownership.checkpoint(context.table.name)
        self._claim = await self._ownership.claim(context.source, context.target, context.table)
        await self._look_at_target(context, stored)
        found = self._untouched = context.found
        for _ in range(_MOST_ROUNDS):
            try:
                return await self._read_all(context, found)
            except ScanAgain as again:
                await self._learn(context, again)
                found = None  # its table has other columns by now
        raise SourceError("the source needs another table again and again.", remedy="look at what changes there.")

    async def _read_all(self, context: ScanContext, found: TargetTable | None) -> None:
        manifest = Manifest(context.store, context.pipeline, context.table.name)
        table = await with_types(context.source, context.target, context.table, found)
        async with context.source.open_scan(table, context.checkpoint, manifest) as scan:
            plan = context.plan = scan.plan
            # A source may narrow it, such as what truncating means for files.
            context.table = guard.with_reject_limit(plan.table, plan.rows)
            async with _telling(context, scan):
                await self._carry_out(context, scan)

    async def _learn(self, context: ScanContext, again: ScanAgain) -> None:
        """Remember what the source needs to know for the rest, and begin a new load."""
        detail = {**context.checkpoint.detail, **again.detail}
        context.checkpoint = msgspec.structs.replace(context.checkpoint, detail=detail)
        await context.store.save(context.fenced(context.checkpoint))
        self._channel = self._channel.renewed()
        if context.table.replaces:  # what was loaded is gone
            before = context.counters
            context.counters = Counters(warnings=before.warnings, embeddings=before.embeddings)

    async def _claim_target(self, context: ScanContext) -> None:
        if self._claim is not None:
            await take_claim(context.store, context.fence, self._claim)

    async def _look_at_target(self, context: ScanContext, stored: Checkpoint) -> None:
        """Before the source is asked: it may find that there is nothing new, for a table that has nothing old either."""
        context.checkpoint, context.found = await begin_from(
            context.keeper, context.target, context.table, stored, context.warn
        )
        if context.found is not None and context.found.identity is not None and not context.table.replaces:
            context.checkpoint = msgspec.structs.replace(context.checkpoint, target=context.found.identity)

    async def _carry_out(self, context: ScanContext, scan: SourceScan) -> None:
        plan = scan.plan
        check_plan(context.table, context.checkpoint, plan, context.warn)
        window = plan.window
        context.emit_scan(
            events.ScanPlanned,
            lower=window.lower if window else None,
            upper=window.upper if window else None,
            slices=len(plan.slices),
            rows=plan.rows,
        )
        async with aclosing(scan.slices()) as slices:
            try:
                first = await anext(slices, None)
            finally:
                _tell(context, scan)
            if first is None and self._is_settled(context, plan):
                await self._end_empty(context, plan)
                return  # nothing new: nothing is written
            rejected = await self._move(context, scan, slices, first)
        while rejected:
            async with aclosing(scan.slices()) as slices:
                first = await anext(slices, None)
                rejected = first is not None and await self._move(context, scan, slices, first)

    async def _end_empty(self, context: ScanContext, plan: SourcePlan) -> None:
        """A backfill that finds no more rows is over, too."""
        if context.table.range is not None and context.keeper.stored(context.checkpoint).backfill is not None:
            context.checkpoint = context.keeper.after_scan(context.checkpoint, plan, context.scan_id, None)
            await context.store.save(context.fenced(context.checkpoint))

    def _is_settled(self, context: ScanContext, plan: SourcePlan) -> bool:
        """Whether a scan without slices has nothing to do: the target is what an earlier scan has left."""
        if plan.by_manifest and not plan.schema.names:
            return True  # nothing has ever been there
        if context.table.range is not None:
            return True
        there = context.found is None or context.found.exists
        keeps = not context.table.replaces or (plan.by_manifest and context.checkpoint.refresh is None)
        begun = context.checkpoint
        return keeps and there and begun.scan_id is not None and not begun.unfinished

    async def _move(
        self, context: ScanContext, scan: SourceScan, slices: AsyncGenerator[Slice, None], first: Slice | None
    ) -> bool:
        """Move the slices to the target. Returns whether it rejected one that the scan can go on without."""
        plan = scan.plan
        found, self._untouched = self._untouched, None
        spec = WriteSpec(
            pipeline=context.pipeline,
            table=context.table,
            schema=plan.schema,
            key=plan.key,
            scan_id=context.scan_id,
            blacklist=context.blacklist,
            checkpoint=context.checkpoint,
            fence=context.fence,
            state_in_target=context.state_in_target,
            unique_key=plan.unique_key,
            found=found,
        )

        async def prepare() -> None:
            await self._claim_target(context)
            for warning in (await context.target.preview(spec)).warnings:
                context.warn(warning)

        if not may_repeat(plan, context.checkpoint):
            await prepare()  # what cannot be written is not read
        writer = Writer(context, scan, spec, self._channel, prepare)
        try:
            await self._transfer(Reader(context, scan, self._channel, slices, first), writer)
        except RowsRejected as error:
            if writer.rejected is None or context.table.replaces or not scan.rejected(writer.rejected, error):
                raise
            context.counters.rows -= writer.lost
            context.counters.rejects -= len(error.rejects)
            self._channel = self._channel.renewed()
            return True
        return False

    async def _transfer(self, reader: Reader, writer: Writer) -> None:
        """Run reader and writer side by side."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.run)
            try:
                await writer.run()
            except Exception as error:  # raised again outside the group, so that it stays plain
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


@asynccontextmanager
async def _telling(context: ScanContext, scan: SourceScan) -> AsyncIterator[None]:
    """Pass a scan's warnings on for the length of a block, at most a second late, and once more at its end."""
    task = asyncio.get_running_loop().create_task(_pass_on(context, scan))
    try:
        yield
    finally:
        await end_task(task, patience=_WARN_PATIENCE)
        _tell(context, scan)


async def _pass_on(context: ScanContext, scan: SourceScan) -> None:
    while True:
        await anyio.sleep(_WARN_SECONDS)
        _tell(context, scan)


def _tell(context: ScanContext, scan: SourceScan) -> None:
    for warning in scan.warnings():
        context.warn(warning)
