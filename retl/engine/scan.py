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

import dataclasses
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import anyio
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.base import Commit, Source, TableWriter, Target
from retl.engine import guard
from retl.engine.channel import Channel, ChannelClosed
from retl.engine.resize import Resizer
from retl.engine.retry import backoff
from retl.model import events
from retl.model.actions import Action, PreAction
from retl.model.checkpoint import Checkpoint, Fence, Mark, Refresh, Reject, check_cursor_type
from retl.model.cursor import compare, cursor_family
from retl.model.errors import (
    ConfigError,
    LeaseLost,
    RetlError,
    RowsRejected,
    SchemaDrift,
    SourceError,
    TransientError,
)
from retl.model.plan import Load, SourcePlan
from retl.model.report import Progress, ScanReport
from retl.model.schema import native_type
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import StateStore
from retl.threads import to_the_end

_SLICE_ATTEMPTS = 3
_PROGRESS_SECONDS = 0.1

Emit = Callable[[events.Event], None]


class StopSignal:
    """A request to stop between two slices."""

    def __init__(self) -> None:
        self.requested = False


@dataclass(frozen=True)
class Limits:
    """How much is in flight between reader and writer."""

    channel_bytes: int = 8 * 1024 * 1024
    channel_batches: int = 16


class _Item(NamedTuple):
    """What travels through the channel. A ``begin`` forgets what was staged of its slice before."""

    kind: Literal["begin", "batch", "end"]
    part: Slice
    batch: pa.RecordBatch | None = None
    size: int = 0


@dataclass
class _Counters:
    rows: int = 0
    changed: int | None = 0
    bytes: int = 0
    rejects: int = 0
    slices: int = 0
    null_cursor_rows: int = 0
    warnings: list[str] = field(default_factory=list)


def new_scan_id() -> str:
    """An identifier whose order is that of time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}"


def now_text() -> str:
    """The time of day for people: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Scan:
    """One scan of one table. ``run`` once; then ``report`` tells what came of it."""

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
    ) -> None:
        self._pipeline = pipeline
        self._table = table
        self._source = source
        self._target = target
        self._store = store
        self._state_in_target = state_in_target
        self._fence = fence
        self._blacklist = blacklist
        self._emit = emit
        self._stop = stop or StopSignal()
        limits = limits or Limits()
        self._channel: Channel[_Item] = Channel(max_bytes=limits.channel_bytes, max_items=limits.channel_batches)
        self._scan_id = new_scan_id()
        self._started_at = now_text()
        self._began = time.monotonic()
        self._seconds: float | None = None
        self._checkpoint = Checkpoint()
        self._plan: SourcePlan | None = None
        self._counters = _Counters()
        self._shown = 0.0
        self._stopped = False

    async def run(self) -> None:
        """Do it. Raises a ``RetlError`` that names pipeline, table and remedy."""
        self._emit(
            events.ScanStarted(pipeline=self._pipeline, at=now_text(), table=self._table.name, scan_id=self._scan_id)
        )
        try:
            await self._run()
        except RetlError as error:
            error.located(pipeline=self._pipeline, table=self._table.name)
            raise
        finally:
            self._seconds = time.monotonic() - self._began

    def report(
        self, error: BaseException | None = None, *, attempts: int = 1, next_run: str | None = None
    ) -> ScanReport:
        """What the scan did so far, or in the end."""
        plan, counters = self._plan, self._counters
        window = plan.window if plan else None
        return ScanReport(
            pipeline=self._pipeline,
            table=self._table.name,
            to=self._table.to,
            scan_id=self._scan_id,
            status="failed" if error else "stopped" if self._stopped else "done",
            mode="full" if self._table.full else "incremental",
            pre_action=str(self._table.pre_action),
            started_at=self._started_at,
            seconds=self._seconds if self._seconds is not None else time.monotonic() - self._began,
            rows=counters.rows,
            changed=counters.changed,
            bytes=counters.bytes,
            rejects=counters.rejects,
            null_cursor_rows=(plan.null_cursor_rows if plan else 0) + counters.null_cursor_rows,
            slices=counters.slices,
            slices_planned=len(plan.slices) if plan else 0,
            lower=window.lower if window else None,
            upper=window.upper if window else None,
            watermark=self._checkpoint.watermark,
            cursor_family=window.family if window else None,
            attempts=attempts,
            read_wait=round(self._channel.send_wait, 3),
            write_wait=round(self._channel.receive_wait, 3),
            warnings=tuple(counters.warnings),
            error=str(error) if error else None,
            error_type=type(error).__name__ if error else None,
            next_run=next_run,
        )

    def progress(self) -> Progress:
        """How far it is."""
        plan = self._plan
        return Progress(
            rows=self._counters.rows,
            rows_planned=plan.rows if plan else None,
            bytes=self._counters.bytes,
            slices=self._counters.slices,
            slices_planned=len(plan.slices) if plan else 0,
            seconds=time.monotonic() - self._began,
        )

    async def _run(self) -> None:
        self._checkpoint = (await self._store.load(self._pipeline)).get(self._table.name, Checkpoint())
        self._check_checkpoint()
        plan = self._plan = await self._source.plan(self._table, self._checkpoint)
        self._check_plan(plan)
        window = plan.window
        self._emit(
            events.ScanPlanned(
                pipeline=self._pipeline,
                at=now_text(),
                table=self._table.name,
                scan_id=self._scan_id,
                lower=window.lower if window else None,
                upper=window.upper if window else None,
                slices=len(plan.slices),
                rows=plan.rows,
            )
        )
        if not plan.slices and not self._table.replaces and self._checkpoint.scan_id is not None:
            return  # nothing new: the target is not even asked
        load = Load(
            pipeline=self._pipeline,
            table=self._table,
            schema=plan.schema,
            key=plan.key,
            scan_id=self._scan_id,
            blacklist=self._blacklist,
            checkpoint=self._checkpoint,
            fence=self._fence,
            state_in_target=self._state_in_target,
            unique_key=plan.unique_key,
        )
        for warning in (await self._target.preview(load)).warnings:
            self._warn(warning)
        await self._transfer(plan, load)

    def _check_checkpoint(self) -> None:
        """Refuse a watermark that belongs to another column; warn where the selection has changed."""
        table, checkpoint = self._table, self._checkpoint
        if table.cursor is None or (checkpoint.watermark is None and checkpoint.position is None):
            self._checkpoint = msgspec.structs.replace(checkpoint, watermark=None, position=None)
            return
        if checkpoint.cursor != table.cursor:
            raise ConfigError(
                f"the checkpoint was made with the cursor {checkpoint.cursor!r}, but the table now has {table.cursor!r}.",
                remedy=f"run `retl reset` for table {table.name!r}: its next scan then reads everything once.",
            )
        if checkpoint.selection is not None and checkpoint.selection != selection(table):
            self._warn(
                "columns, filter or expressions have changed since the last scan; rows below the watermark are not read again. "
                f"`retl reset` for table {table.name!r} reads everything once."
            )

    def _check_plan(self, plan: SourcePlan) -> None:
        for warning in plan.warnings:
            self._warn(warning)
        null_warning = guard.check_null_cursor(plan)
        if null_warning:
            self._warn(null_warning)
        if self._table.cursor is not None and plan.cursor_type is not None:
            check_cursor_type(self._table.name, self._table.cursor, self._checkpoint, plan.cursor_type)
        before, after = self._checkpoint.columns, columns_of(plan)
        if before is None:
            return
        gone = [name for name in before if name not in after]
        if gone and self._checkpoint.selection == selection(self._table):
            text = f"the source no longer has the column{'s' if len(gone) > 1 else ''} {', '.join(gone)}"
            if self._table.new_columns == "fail":
                raise SchemaDrift(f'{text}, and new_columns is "fail".', remedy="list the columns to read in columns.")
            self._warn(f"{text}; the target keeps the values that it has.")

    def _warn(self, message: str) -> None:
        self._counters.warnings.append(message)
        self._emit(events.Warned(pipeline=self._pipeline, at=now_text(), table=self._table.name, message=message))

    async def _transfer(self, plan: SourcePlan, load: Load) -> None:
        """Reader and writer side by side. The reader's error reaches the writer through the channel, so it stays plain."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_all, plan)
            try:
                await self._write_all(plan, load)
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # The reader -------------------------------------------------------------

    async def _read_all(self, plan: SourcePlan) -> None:
        error: Exception | None = None
        try:
            for part in plan.slices:
                await self._read_slice(plan, part)
        except Exception as failure:
            error = failure
        self._channel.close(error)

    async def _read_slice(self, plan: SourcePlan, part: Slice) -> None:
        """Read one slice; after a transient error read it again, unless some of it may be committed already."""
        liked = self._target.batch_size
        if part.divisible:
            # Nothing is held back that could be committed: a slow stream, too, gets on slice by slice.
            liked = dataclasses.replace(liked, rows=min(liked.rows, self._table.slice_rows))
        resizer = Resizer(liked)
        attempt = 0
        while True:
            attempt += 1
            without_cursor = 0
            await self._channel.send(_Item("begin", part))
            try:
                async with aclosing(_generator(self._source.read(plan, part))) as batches:
                    async for batch in batches:
                        _check_batch(batch, plan)
                        if part.ordered_by is not None:
                            batch, found = guard.apply_null_cursor(self._table, batch, part.ordered_by)
                            without_cursor += found
                        for ready, size in resizer.push(batch):
                            await self._channel.send(_Item("batch", part, ready, size), size)
            except TransientError as error:
                if attempt >= _SLICE_ATTEMPTS or part.divisible:
                    raise
                resizer.clear()
                await self._pause(error, attempt)
            else:
                for ready, size in resizer.flush():
                    await self._channel.send(_Item("batch", part, ready, size), size)
                self._note_null_cursor(without_cursor)
                await self._channel.send(_Item("end", part))
                return

    def _note_null_cursor(self, rows: int) -> None:
        """Of a source that cannot count such rows beforehand."""
        self._counters.null_cursor_rows += rows
        warning = guard.null_cursor_warning(self._table, rows)
        if warning:
            self._warn(warning)

    async def _pause(self, error: TransientError, attempt: int) -> None:
        delay = backoff(attempt, most=5.0)
        self._emit(
            events.RetryScheduled(
                pipeline=self._pipeline,
                at=now_text(),
                table=self._table.name,
                error=str(error),
                attempt=attempt,
                delay=delay,
            )
        )
        await anyio.sleep(delay)

    # The writer -------------------------------------------------------------

    async def _write_all(self, plan: SourcePlan, load: Load) -> None:
        first: list[_Item] = []
        ended = False
        while not ended and not (first and first[-1].kind == "batch"):
            try:
                first.append(await self._channel.receive())
            except ChannelClosed:
                ended = True
        before = await self._check_shrink(plan, empty=ended)
        mark = await self._refresh_mark()
        load = dataclasses.replace(load, refresh=self._checkpoint.refresh)
        if mark is not None and not self._state_in_target:
            await self._store.save(mark)
        writer = await self._target.prepare(load, mark if self._state_in_target else None)
        try:
            await self._write_slices(plan, writer, first)
            if self._stopped:
                await writer.abort()
                return
            if self._table.pre_action is PreAction.SWAP:
                guard.check_shrink(before, await writer.count(), self._table.max_shrink, table=self._table.to)
            final = self._final_mark(plan)
            if not self._state_in_target:
                await self._prove()
            await writer.finish(final if self._state_in_target else None)
            if not self._state_in_target:
                await self._store.save(final)
            self._checkpoint = final.checkpoint
        except BaseException:
            await to_the_end(writer.abort())
            raise

    async def _check_shrink(self, plan: SourcePlan, *, empty: bool) -> int:
        """Rows in the target before a replacing scan; stops one that would empty it by mistake."""
        if not self._table.replaces:
            return 0
        before = await self._target.count(self._table.to)
        if self._checkpoint.refresh is None and self._table.pre_action is not PreAction.SWAP:
            guard.check_countable(plan)
            if plan.rows is not None or empty:
                after = 0 if empty else plan.rows or 0
                guard.check_shrink(before, after, self._table.max_shrink, table=self._table.to)
        return before

    async def _refresh_mark(self) -> Mark | None:
        """For a pre-action that readers see: the note that it has begun, so a crash cannot repeat it."""
        if self._table.pre_action not in (PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE):
            return None
        refresh = self._checkpoint.refresh
        if refresh is None or refresh.pre_action != str(self._table.pre_action):
            # What another refresh has left half-loaded is no archive, nor is a table that is not there.
            half_loaded = refresh is not None and self._state_in_target
            archives = (
                self._table.pre_action is PreAction.RENAME_AND_CREATE
                and not half_loaded
                and await self._target.describe(self._table.to) is not None
            )
            refresh = Refresh(self._scan_id, str(self._table.pre_action), archives)
        self._checkpoint = msgspec.structs.replace(self._checkpoint, refresh=refresh)
        return Mark(self._fence, self._table.name, self._checkpoint)

    async def _write_slices(self, plan: SourcePlan, writer: TableWriter, first: list[_Item]) -> None:
        staged = 0
        highest: Any = None
        items = _chain(first, self._channel)
        async with aclosing(items):
            async for item in items:
                if item.kind == "begin":
                    if staged:
                        await writer.discard()
                        self._counters.rows -= staged
                    staged, highest = 0, None
                elif item.kind == "batch":
                    assert item.batch is not None
                    await writer.write(item.batch)
                    staged += item.batch.num_rows
                    self._count(item.batch.num_rows, item.size)
                    if item.part.ordered_by is not None:
                        highest = _highest(highest, item.batch, item.part.ordered_by)
                    if item.part.divisible and staged >= self._table.slice_rows:
                        await self._commit(plan, writer, item.part, highest, complete=False)
                        staged = 0
                else:
                    await self._commit(plan, writer, item.part, highest, complete=True)
                    staged = 0
                if item.kind != "begin" and staged == 0 and self._stop.requested and not self._is_last(plan, item):
                    self._stopped = True
                    return

    def _is_last(self, plan: SourcePlan, item: _Item) -> bool:
        return item.kind == "end" and item.part.index == plan.slices[-1].index

    def _count(self, rows: int, size: int) -> None:
        self._counters.rows += rows
        self._counters.bytes += size
        now = time.monotonic()
        if now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            self._emit(
                events.RowsMoved(
                    pipeline=self._pipeline,
                    at=now_text(),
                    table=self._table.name,
                    scan_id=self._scan_id,
                    progress=self.progress(),
                )
            )

    async def _commit(
        self, plan: SourcePlan, writer: TableWriter, part: Slice, highest: Any, *, complete: bool
    ) -> None:
        # In cursor order, what has come so far is all there is below the highest value.
        moves_on = complete or part.ordered_by is not None
        checkpoint = self._after(plan, part, highest) if moves_on else self._checkpoint
        mark = Mark(self._fence, self._table.name, checkpoint)
        left = self._table.max_rejects - self._counters.rejects
        if not self._state_in_target:
            await self._prove()
        try:
            done = await writer.commit(mark if self._state_in_target else None, part, left)
        except RowsRejected as error:
            await self._keep_rejects(error.rejects)
            raise
        if not self._state_in_target:
            if done.rejects:
                await self._store.add_rejects(self._pipeline, done.rejects)
            await self._store.save(mark)
        self._checkpoint = checkpoint
        self._note(done, complete=complete)
        # Arrow's allocator keeps freed memory for itself; a host service wants it back.
        pa.default_memory_pool().release_unused()

    def _note(self, done: Commit, *, complete: bool) -> None:
        counters = self._counters
        counters.slices += complete
        counters.rejects += len(done.rejects)
        counters.changed = None if done.changed is None or counters.changed is None else counters.changed + done.changed
        if done.rejects:
            self._emit(
                events.RowsPutAside(
                    pipeline=self._pipeline,
                    at=now_text(),
                    table=self._table.name,
                    scan_id=self._scan_id,
                    rejects=len(done.rejects),
                    first_reason=done.rejects[0].reason,
                )
            )
        self._emit(
            events.SliceCommitted(
                pipeline=self._pipeline,
                at=now_text(),
                table=self._table.name,
                scan_id=self._scan_id,
                watermark=self._checkpoint.watermark,
                progress=self.progress(),
            )
        )

    async def _keep_rejects(self, rejects: Any) -> None:
        found: list[Reject] = list(rejects)
        self._counters.rejects += len(found)
        if found:
            await self._store.add_rejects(self._pipeline, found)
            self._emit(
                events.RowsPutAside(
                    pipeline=self._pipeline,
                    at=now_text(),
                    table=self._table.name,
                    scan_id=self._scan_id,
                    rejects=len(found),
                    first_reason=found[0].reason,
                )
            )

    async def _prove(self) -> None:
        """Where the store is not in the target: the last look before a commit."""
        if not await self._store.beat(self._fence):
            raise LeaseLost(
                "another process has taken this pipeline over; nothing more was written.",
                remedy="none is needed if a second copy of the service runs.",
            )

    # Checkpoints ------------------------------------------------------------

    def _after(self, plan: SourcePlan, part: Slice, highest: Any) -> Checkpoint:
        """The checkpoint that is true once this slice is committed."""
        watermark = part.watermark
        if part.ordered_by is not None and highest is not None:
            watermark = _not_below(_text(highest), self._checkpoint.watermark, highest.type)
        checkpoint = msgspec.structs.replace(
            self._checkpoint,
            scan_id=self._scan_id,
            cursor=self._table.cursor,
            cursor_type=plan.cursor_type,
            position=part.position,
        )
        if watermark is not None:
            checkpoint = msgspec.structs.replace(checkpoint, watermark=watermark)
        if part.detail:
            checkpoint = msgspec.structs.replace(checkpoint, detail={**checkpoint.detail, **part.detail})
        return checkpoint

    def _final_mark(self, plan: SourcePlan) -> Mark:
        checkpoint = msgspec.structs.replace(
            self._checkpoint,
            scan_id=self._scan_id,
            cursor=self._table.cursor,
            cursor_type=plan.cursor_type,
            refresh=None,
            position=None,
            columns=columns_of(plan),
            selection=selection(self._table),
        )
        return Mark(self._fence, self._table.name, checkpoint)


def columns_of(plan: SourcePlan) -> dict[str, str]:
    """The columns of a scan and their native types, as the checkpoint remembers them."""
    return {column.name: native_type(column) for column in plan.schema}


def selection(table: TableSpec) -> str:
    """A fingerprint of what is chosen of the source."""
    chosen = (table.query, table.columns, table.where, sorted(table.expressions.items()), sorted(table.rename.items()))
    return hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]


def _check_batch(batch: pa.RecordBatch, plan: SourcePlan) -> None:
    """A batch must be what the plan promised: the same columns, each typed so or as text."""
    if batch.schema.equals(plan.schema):
        return
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


def _highest(highest: Any, batch: pa.RecordBatch, column: str) -> Any:
    found = pc.max(batch.column(column))
    if not found.is_valid:
        return highest
    if highest is None or pc.greater(found, highest).as_py():
        return found
    return highest


def _text(value: Any) -> str:
    if cursor_family(value.type) is None:
        raise ConfigError(
            f"a column of type {value.type} cannot be a cursor.", remedy="choose a column of time or whole numbers."
        )
    return str(value.cast(pa.string()).as_py())


def _not_below(found: str, watermark: str | None, type: pa.DataType) -> str:
    """The higher of the two: rows that ``lookback`` reads again do not move the watermark back."""
    family = cursor_family(type)
    assert family is not None
    return watermark if watermark is not None and compare(found, watermark, family) < 0 else found


async def _generator(batches: AsyncIterator[pa.RecordBatch]) -> Any:
    """Any async iterator as a generator, so that it can be closed early; one with ``aclose`` is closed too."""
    try:
        async for batch in batches:
            yield batch
    finally:
        close = getattr(batches, "aclose", None)
        if close is not None:
            await close()


async def _chain(first: list[_Item], channel: Channel[_Item]) -> Any:
    for item in first:
        yield item
    first.clear()
    while True:
        try:
            item = await channel.receive()
        except ChannelClosed:
            return
        yield item
