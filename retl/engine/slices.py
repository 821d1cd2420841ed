"""Commit the slices of a scan in their order, save their checkpoints and emit their events."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pyarrow as pa
from anyio.abc import TaskGroup

from retl.connectors.base import CommitResult, SourceScan, TableWriter
from retl.engine import guard
from retl.engine.checkpoints import after_slice, with_rows
from retl.engine.commit import Committer
from retl.engine.context import ScanContext
from retl.model import events
from retl.model.actions import Action
from retl.model.checkpoint import Checkpoint, Reject
from retl.model.errors import RowsRejected
from retl.model.window import Slice

_MEMORY_SECONDS = 5.0


class SliceCommits:
    """Commits slice after slice. If the target allows it, the next slice is written during a commit."""

    def __init__(self, context: ScanContext, scan: SourceScan, commits: Committer, digest: str | None) -> None:
        self._context = context
        self._scan = scan
        self._plan = scan.plan
        self._commits = commits
        self._digest = digest
        self._given_back = 0.0
        self._over = False
        self._done: anyio.Event | None = None
        self._error: BaseException | None = None
        self.rejected: Slice | None = None
        """The slice of which the target rejected too many rows."""
        self.lost = 0
        """How many rows were staged of it."""

    def is_last(self, slice_: Slice) -> bool:
        """Whether the scan ends with this slice, as far as its plan or its source can tell."""
        return slice_.last or (bool(self._plan.slices) and slice_.index == self._plan.slices[-1].index)

    async def start(
        self, tasks: TaskGroup, writer: TableWriter, slice_: Slice, highest: Any, staged: int, *, complete: bool
    ) -> None:
        """Commit what is staged, after the commits that were started before."""
        await self.settle()
        if not (writer.overlaps and self._context.state_in_target):
            await self._commit(writer, slice_, highest, staged, complete=complete)
            return
        self._done = anyio.Event()
        tasks.start_soon(self._in_background, writer, slice_, highest, staged, complete, self._done)
        await anyio.lowlevel.checkpoint()  # a commit takes the rows that are staged when it begins

    async def _in_background(
        self, writer: TableWriter, slice_: Slice, highest: Any, staged: int, complete: bool, done: anyio.Event
    ) -> None:
        try:
            await self._commit(writer, slice_, highest, staged, complete=complete)
        except Exception as error:
            self._error = error
        finally:
            done.set()

    async def settle(self) -> None:
        """Wait for the running commit; raises its error."""
        if self._done is not None:
            await self._done.wait()
            self._done = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _commit(self, writer: TableWriter, slice_: Slice, highest: Any, staged: int, *, complete: bool) -> None:
        context = self._context
        # In cursor order, all rows below the highest value have come.
        moves_on = complete or slice_.ordered_by is not None
        before = context.checkpoint
        checkpoint = with_rows(before, self._lands(staged))
        if moves_on:
            checkpoint = after_slice(checkpoint, self._plan, slice_, context.scan_id, highest)
        if complete and self.is_last(slice_) and not (context.table.replaces or context.table.after_sql):
            # Only the end of the scan is left to be remembered: do it at once.
            checkpoint = context.keeper.after_scan(checkpoint, self._plan, context.scan_id, self._digest)
            self._over = True
        else:
            checkpoint = msgspec.structs.replace(checkpoint, underway=context.underway(slices=int(complete)))
        fenced = context.fenced(checkpoint, slice_.manifest if complete else None)
        left = guard.max_rejects(context.table, self._plan.rows, context.counters.rows) - context.counters.rejects
        try:
            done = await self._commits.commit(writer, fenced, slice_, left)
        except RowsRejected as error:
            await self._commits.prove()  # they may clash with writes of another owner
            guard.advise(error, staged)
            await self._keep_rejects(error.rejects)
            self.rejected, self.lost = slice_, staged
            raise
        context.checkpoint = checkpoint
        if complete:
            self._scan.committed(slice_)
        await self._correct(before, staged, done)
        self._record(done, complete=complete)
        await self._give_memory_back()

    def _lands(self, rows: int) -> int:
        """How many of the rows are in the target afterwards."""
        return 0 if Action.INSERT in self._context.blacklist else max(0, rows)

    async def _correct(self, before: Checkpoint, staged: int, done: CommitResult) -> None:
        """Correct the checkpoint: it was saved before it was known which rows the target keeps."""
        context = self._context
        rows = self._lands(staged - len(done.rejects) - done.older - done.dropped)
        digest = context.checkpoint.window_digest if rows == staged else None
        right = msgspec.structs.replace(context.checkpoint, written=before.written + rows, window_digest=digest)
        if right == context.checkpoint:
            return
        other_digest = context.checkpoint.window_digest != digest
        context.checkpoint = right
        if other_digest or not right.written:  # else the next save does it
            await context.store.save(context.fenced(right))

    async def _give_memory_back(self) -> None:
        """Give freed memory, which Arrow's allocator keeps, back to the host; not so often that it costs time.

        In a thread, since the C library walks through all that it holds.
        """
        now = time.monotonic()
        if now - self._given_back >= _MEMORY_SECONDS:
            self._given_back = now
            await anyio.to_thread.run_sync(pa.default_memory_pool().release_unused)

    def _record(self, done: CommitResult, *, complete: bool) -> None:
        context, counters = self._context, self._context.counters
        counters.slices += complete
        counters.add(done)
        self._record_rejects(list(done.rejects))
        context.emit_scan(events.SliceCommitted, watermark=context.checkpoint.watermark, progress=context.progress())

    async def _keep_rejects(self, rejects: Any) -> None:
        """Keep the rejects of a commit that failed because of them, so that people see why."""
        found: list[Reject] = list(rejects)
        if found:
            await self._context.store.add_rejects(self._context.pipeline, found)
        self._record_rejects(found)

    def _record_rejects(self, rejects: list[Reject]) -> None:
        self._context.counters.rejects += len(rejects)
        if rejects:
            self._context.emit_scan(events.RowsRejected, rejects=len(rejects), first_reason=rejects[0].reason)

    async def finish(self, writer: TableWriter) -> None:
        """After the last slice: finish the target, and save the final checkpoint if it is not saved yet."""
        await self.settle()
        context = self._context
        if self._over:
            await self._commits.finish(writer, None)
            return
        final = context.keeper.after_scan(context.checkpoint, self._plan, context.scan_id, self._digest)
        await self._commits.finish(writer, context.fenced(final))
        context.checkpoint = final
