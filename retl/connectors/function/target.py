"""A target made of the user's own callable: the way into any API."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import numpy as np
import pyarrow as pa

from retl.calls import call_user, check_callable, guarded, user_worker
from retl.connectors.base import CommitResult, SystemInfo, TableWriter, Target
from retl.connectors.function.calls import positional, write_failed
from retl.connectors.function.values import drop_invalid, python_rows
from retl.connectors.net.retry import RetryBudget
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, plain_rows
from retl.model.actions import Action
from retl.model.checkpoint import FencedCheckpoint
from retl.model.duration import Duration, parse_duration
from retl.model.errors import ConfigError, TargetError, TransientError, UnsupportedError
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.model.window import Slice
from retl.threads import Worker

_BATCH_BYTES = 8 * 1024 * 1024
_MOST_ROWS = 1_000_000
_RETRY_SECONDS = 90
_LONGEST_PAUSE = 20.0
_MOST_REASONS = 10
"""How many reasons may come for one row, so that an endless iterator of them has an end."""

Write = Callable[..., Any]
"""Called as ``write(batch)`` or ``write(batch, context)``; returns ``None``, or the rows that were rejected."""


@dataclass(frozen=True, slots=True)
class BatchContext:
    """Where a batch belongs."""

    pipeline: str
    table: str
    """The table's name in the target (``to``)."""
    scan_id: str
    key: tuple[str, ...]
    """The columns that identify a row, where that is known: what an idempotent write needs."""


class FunctionTarget(Target):
    """Batches for a callable of yours, at least once.

    ``await write(batch)`` is called with a ``pyarrow.RecordBatch`` of at most ``batch_rows``
    rows; with ``rows=True`` with a list of dicts of Python values (JSON decoded). A callable
    that takes a second argument gets a ``BatchContext``. One that is not async runs in a
    worker thread. It is never called twice at the same time.

    **At least once.** The watermark is saved after the callable has returned for every
    batch of a slice. A crash, an error or a lost lease in between means that rows that
    were delivered are delivered again. So write idempotently: by key, or with an
    idempotency key made of the row. There is nothing to roll back.

    Rows that the callable could not take it returns as ``(row number in the batch,
    reason)``; they are kept as rejects, and with more of them than ``max_rejects`` the
    scan fails. It may raise ``retl.TransientError(text, retry_after=seconds)``: that batch alone
    is then delivered again, after the pause that was asked for or with growing pauses, for
    ``retry_for`` (90 seconds); then the slice has failed in passing. Anything else that it
    raises, ``SystemExit`` and a ``CancelledError`` that nobody asked for among it, ends the scan
    as a ``TargetError`` with that as its cause.

    A callable holds no checkpoints, so the pipeline needs ``state=``. It has no table to
    empty or to switch: ``pre_action`` must be ``"none"``.
    """

    system: ClassVar[str] = "function"
    one_writer: ClassVar[bool] = True
    schemas: ClassVar[bool] = False

    def __init__(
        self, write: Write, *, batch_rows: int = 1_000, rows: bool = False, retry_for: Duration = _RETRY_SECONDS
    ) -> None:
        check_callable(write, "write")
        if isinstance(batch_rows, bool) or not isinstance(batch_rows, int) or not 1 <= batch_rows <= _MOST_ROWS:
            raise ConfigError(f"batch_rows is {batch_rows!r}.", remedy=f"use a whole number from 1 to {_MOST_ROWS:,}.")
        self.batch_size = BatchSize(rows=batch_rows, bytes=_BATCH_BYTES)
        self.retry_for = parse_duration(retry_for, what="retry_for").total_seconds()
        self._write = write
        self.rows = rows
        self._turn = anyio.Lock()

    async def ping(self) -> SystemInfo:
        return SystemInfo("function", "", getattr(self._write, "__qualname__", type(self._write).__name__))

    async def describe(self, table: str) -> TableSchema | None:
        return None

    async def count(self, table: str) -> int:
        return 0

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        if spec.table.replaces:
            raise UnsupportedError(
                f'pre_action = "{spec.table.pre_action}" needs a table that can be replaced, and a function has none.',
                remedy='use pre_action = "none"; every row is then delivered as one to insert or change.',
            )
        rows_are_changed = sorted(spec.blacklist & {Action.INSERT, Action.UPDATE, Action.DELETE})
        if rows_are_changed:
            raise UnsupportedError(
                f"the blacklist forbids {', '.join(rows_are_changed)}, but what a function does with a row cannot be known.",
                remedy="take it off the blacklist, and let the function leave out what must not be done.",
            )
        name = getattr(self._write, "__name__", "write")
        what = "list of dicts" if self.rows else "pyarrow.RecordBatch"
        return TargetPreview((f"{name}({what} of at most {self.batch_size.rows:,} rows)",))

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        await self.preview(spec)
        if begun is not None:
            raise UnsupportedError("a function cannot hold checkpoints.", remedy="give the pipeline a state store.")
        with closing(user_worker()) as worker:
            yield _FunctionWriter(self, spec, worker)

    async def deliver(self, worker: Worker, batch: pa.RecordBatch, context: BatchContext) -> list[tuple[int, str]]:
        """Call the callable with one batch; returns the rows that it rejected."""
        given: Any = await worker.run(python_rows, batch) if self.rows else batch
        arguments = (given, context) if positional(self._write) in (None, 2) else (given,)
        async with self._turn:
            returned = await call_user(worker, write_failed, self._write, *arguments)
        if returned is None:
            return []
        with guarded(self._write, write_failed):
            return await worker.run(_rejected, returned, batch.num_rows)

    async def aclose(self) -> None:
        return None


def _rejected(returned: Any, rows: int) -> list[tuple[int, str]]:
    """The rows that were rejected, each once; what is returned may be an iterator of the user's."""
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes):
        raise _no_rejects(returned)
    rejected: dict[int, str] = {}
    pairs = iter(returned.items() if isinstance(returned, Mapping) else returned)
    for item in itertools.islice(pairs, rows * _MOST_REASONS):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise _no_rejects(item)
        row, reason = _number(item[0]), item[1]
        if row is None or not 0 <= row < rows:
            raise _no_rejects(item)
        rejected.setdefault(row, str(reason))
    for item in pairs:
        raise _no_rejects(item)
    return sorted(rejected.items())


def _number(row: Any) -> int | None:
    """The number of a row, also as NumPy has it; ``None`` for anything else."""
    if isinstance(row, bool | np.bool_):
        return None
    try:
        return operator.index(row)
    except TypeError:
        return None


def _no_rejects(returned: Any) -> TargetError:
    return TargetError(
        f"the function that writes returned {type(returned).__name__} ({returned!r:.100}).",
        remedy="return None, or the rows that were rejected as (row number in the batch, reason).",
        system="function",
    )


def _asked_pause(error: TransientError) -> float | None:
    """The seconds that the callable asked for, if that is a time to wait."""
    try:
        asked = float(error.retry_after or 0)
    except (TypeError, ValueError):
        return None
    return asked if 0 < asked < math.inf else None


class _FunctionWriter(TableWriter):
    """Delivers while it is written to: a callable cannot be asked to forget."""

    def __init__(self, target: FunctionTarget, spec: WriteSpec, worker: Worker) -> None:
        self._target = target
        self._worker = worker
        self._spec = spec
        self._context = BatchContext(spec.pipeline, spec.table.to, spec.scan_id, spec.key)
        self._rejects = RejectCollector(spec)
        self._delivered = 0
        self._committed = 0

    async def write(self, batch: pa.RecordBatch) -> None:
        step = self._target.batch_size.rows
        for start in range(0, batch.num_rows, step):
            if len(self._rejects.rows) > self._spec.table.max_rejects + MOST_SHOWN:
                return  # the commit will fail: no need to send the rest
            await self._deliver(batch.slice(start, step))

    async def _deliver(self, batch: pa.RecordBatch) -> None:
        given = batch
        batch, invalid = await self._worker.run(drop_invalid, given, self._spec.schema, self._target.rows)
        self._rejects.leave_out(given, invalid)
        if not batch.num_rows:
            return
        rejected = await self._deliver_in_time(batch)
        for number, reason in rejected:
            self._rejects.add(plain_rows(batch.slice(number, 1))[0], reason)
        self._delivered += batch.num_rows - len(rejected)

    async def _deliver_in_time(self, batch: pa.RecordBatch) -> list[tuple[int, str]]:
        """Deliver one batch; this batch alone is tried again where the function asks for it."""
        budget = RetryBudget(seconds=self._target.retry_for, first=0.5, longest=_LONGEST_PAUSE)
        while True:
            try:
                return await self._target.deliver(self._worker, batch, self._context)
            except TransientError as error:
                await budget.wait(error, exactly=_asked_pause(error))
            if self._spec.prove is not None:
                await self._spec.prove()

    async def discard(self) -> None:
        self._delivered = 0
        self._rejects = RejectCollector(self._spec)

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        if slice_.scope is not None:
            raise UnsupportedError("a function cannot delete the rows that a slice replaces.")
        self._rejects.check(
            rejects_left, f"the slice failed; {self._delivered:,} rows of it were delivered and will be again"
        )
        done = CommitResult(rows=self._delivered + len(self._rejects.rows), rejects=self._rejects.rows)
        self._committed += self._delivered
        await self.discard()
        return done

    async def count(self) -> int:
        return self._committed

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        return None
