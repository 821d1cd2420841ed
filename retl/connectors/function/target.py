"""A target made of the user's own callable: the way into any API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from retl.connectors.base import Commit, SystemInfo, TableWriter, Target
from retl.connectors.function.calls import check_callable, is_async, positional, write_failed
from retl.connectors.function.values import drop_unfit, python_rows
from retl.connectors.sql.rejects import MOST_SHOWN, Refusals, plain_rows
from retl.model.actions import Action
from retl.model.checkpoint import Mark
from retl.model.errors import ConfigError, RetlError, TargetError, UnsupportedError
from retl.model.plan import BatchSize, Load, TargetPlan
from retl.model.schema import TableSchema
from retl.model.window import Slice
from retl.threads import Worker

_BATCH_BYTES = 8 * 1024 * 1024
_MOST_ROWS = 1_000_000

Write = Callable[..., Any]
"""Called as ``write(batch)`` or ``write(batch, context)``; returns ``None``, or the rows that were refused."""


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
    reason)``; they are put aside as rejects, and with more of them than ``max_rejects`` the
    scan fails. It may raise ``retl.TransientError`` to be tried again; any other exception
    ends the scan as a ``TargetError`` with that as its cause.

    A callable holds no checkpoints, so the pipeline needs ``state=``. It has no table to
    empty or to switch: ``pre_action`` must be ``"none"``.
    """

    system: ClassVar[str] = "function"

    def __init__(self, write: Write, *, batch_rows: int = 1_000, rows: bool = False) -> None:
        check_callable(write, "write")
        if isinstance(batch_rows, bool) or not isinstance(batch_rows, int) or not 1 <= batch_rows <= _MOST_ROWS:
            raise ConfigError(f"batch_rows is {batch_rows!r}.", remedy=f"use a whole number from 1 to {_MOST_ROWS:,}.")
        self.batch_size = BatchSize(rows=batch_rows, bytes=_BATCH_BYTES)
        self._write = write
        self._rows = rows
        self._worker: Worker | None = None

    async def ping(self) -> SystemInfo:
        return SystemInfo("function", "", getattr(self._write, "__qualname__", type(self._write).__name__))

    async def describe(self, table: str) -> TableSchema | None:
        return None

    async def count(self, table: str) -> int:
        return 0

    async def preview(self, load: Load) -> TargetPlan:
        if load.table.replaces:
            raise UnsupportedError(
                f'pre_action = "{load.table.pre_action}" needs a table that can be replaced, and a function has none.',
                remedy='use pre_action = "none"; every row is then delivered as one to insert or change.',
            )
        rows_are_changed = sorted(load.blacklist & {Action.INSERT, Action.UPDATE, Action.DELETE})
        if rows_are_changed:
            raise UnsupportedError(
                f"the blacklist forbids {', '.join(rows_are_changed)}, but what a function does with a row cannot be known.",
                remedy="take it off the blacklist, and let the function leave out what must not be done.",
            )
        name = getattr(self._write, "__name__", "write")
        what = "list of dicts" if self._rows else "pyarrow.RecordBatch"
        return TargetPlan((f"{name}({what} of at most {self.batch_size.rows:,} rows)",))

    async def prepare(self, load: Load, mark: Mark | None) -> TableWriter:
        await self.preview(load)
        if mark is not None:
            raise UnsupportedError("a function cannot hold checkpoints.", remedy="give the pipeline a state store.")
        return _FunctionWriter(self, load)

    async def deliver(self, batch: pa.RecordBatch, context: BatchContext) -> list[tuple[int, str]]:
        """Call the callable with one batch; returns the rows that it refused."""
        given: Any = await self._thread().run(python_rows, batch) if self._rows else batch
        arguments = (given, context) if positional(self._write) in (None, 2) else (given,)
        try:
            if is_async(self._write):
                refused = await self._write(*arguments)
            else:
                refused = await self._thread().run(self._write, *arguments)
                if hasattr(refused, "__await__"):
                    refused = await refused
            return _refused(refused, batch.num_rows)
        except RetlError:
            raise
        except Exception as error:
            raise write_failed(error) from error

    async def fit(
        self, batch: pa.RecordBatch, load: Load
    ) -> tuple[pa.RecordBatch, list[tuple[pa.RecordBatch, str, str]]]:
        """The batch with its columns as their logical types, and the rows that have no such value."""
        return await self._thread().run(drop_unfit, batch, load.schema, self._rows)

    def _thread(self) -> Worker:
        if self._worker is None:
            self._worker = Worker("function")
        return self._worker

    async def release(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    async def aclose(self) -> None:
        await self.release()


def _refused(returned: Any, rows: int) -> list[tuple[int, str]]:
    if returned is None:
        return []
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes):
        raise _no_refusals(returned)
    refused: dict[int, str] = {}
    for item in returned:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise _no_refusals(item)
        row, reason = item
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < rows:
            raise _no_refusals(item)
        refused.setdefault(row, str(reason))
    return sorted(refused.items())


def _no_refusals(returned: Any) -> TargetError:
    return TargetError(
        f"the function that writes returned {type(returned).__name__} ({returned!r:.100}).",
        remedy="return None, or the rows that were refused as (row number in the batch, reason).",
        system="function",
    )


class _FunctionWriter(TableWriter):
    """Delivers while it is written to: a callable cannot be asked to forget."""

    def __init__(self, target: FunctionTarget, load: Load) -> None:
        self._target = target
        self._load = load
        self._context = BatchContext(load.pipeline, load.table.to, load.scan_id, load.key)
        self._refusals = Refusals(load)
        self._delivered = 0
        self._committed = 0

    async def write(self, batch: pa.RecordBatch) -> None:
        step = self._target.batch_size.rows
        for start in range(0, batch.num_rows, step):
            if len(self._refusals.rows) > self._load.table.max_rejects + MOST_SHOWN:
                return  # the commit will fail: no need to send the rest
            await self._deliver(batch.slice(start, step))

    async def _deliver(self, batch: pa.RecordBatch) -> None:
        batch, unfit = await self._target.fit(batch, self._load)
        for rows, column, reason in unfit:
            for row in plain_rows(rows):
                self._refusals.add(row, reason, column)
        if not batch.num_rows:
            return
        refused = await self._target.deliver(batch, self._context)
        for number, reason in refused:
            self._refusals.add(plain_rows(batch.slice(number, 1))[0], reason)
        self._delivered += batch.num_rows - len(refused)

    async def discard(self) -> None:
        self._delivered = 0
        self._refusals = Refusals(self._load)

    async def commit(self, mark: Mark | None, part: Slice, rejects_left: int) -> Commit:
        if part.scope is not None:
            raise UnsupportedError("a function cannot delete the rows that a slice replaces.")
        self._refusals.check(rejects_left)
        done = Commit(rows=self._delivered, rejects=self._refusals.rows)
        self._committed += self._delivered
        await self.discard()
        return done

    async def count(self) -> int:
        return self._committed

    async def finish(self, mark: Mark | None) -> None:
        return None

    async def abort(self) -> None:
        await self.discard()
