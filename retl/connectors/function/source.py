"""A source made of the user's own iterators."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa

from retl.calls import call_user, check_callable, guarded, user_worker
from retl.connectors.base import Source, SourceScan, SystemInfo
from retl.connectors.function.calls import (
    clock_failed,
    open_items,
    positional,
    read_failed,
)
from retl.connectors.function.rows import Pile, Shape
from retl.connectors.function.selection import (
    Limits,
    ReadWindow,
    call_text,
    cursor_name,
    learnt,
    upper_bound,
)
from retl.connectors.function.snapshot import OneShots
from retl.connectors.function.types import Declared, declared_schema, join, learn
from retl.connectors.rows.columns import choose_columns
from retl.model.actions import Write
from retl.model.checkpoint import Checkpoint
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError, SourceError, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema, native_type, pack, unpack
from retl.model.table import TableSpec
from retl.model.window import Slice, lower_bound
from retl.state.base import Manifest
from retl.threads import Worker

_SAMPLE_ROWS = 100
_LEARNT = "schema"

Read = Callable[..., Any]
"""Called as ``read()`` or ``read(window)``; gives rows, batches or pages of rows, or an iterator of them."""


class IteratorSource(Source):
    """Rows that a function of yours gives.

    ``read`` is called once for every scan of a table, as ``read()`` or, where it takes an
    argument, as ``read(window)`` with a ``ReadWindow``. It is an async generator, or any
    function that returns an (async) iterator, a list or a pyarrow Table; what is not async
    runs in a worker thread. It gives dicts, msgspec structs, dataclasses, Arrow batches, or
    lists of them. Nothing is converted by guessing: a row that does not fit its schema
    ends the scan with a ``SourceError`` that names column and value. Ints become floats
    where floats are declared, dicts and lists become JSON, a missing entry is NULL.

    ``tables`` names what the function serves (``window.table`` tells which is asked for);
    unset, it answers to every name. For a function per table give a mapping of them.
    ``schema`` is a pyarrow Schema, a msgspec Struct, a dataclass or a TypedDict, or a
    mapping of them by table. Without it the columns are learnt from the first rows, for
    which the function is called one time more, and kept in the checkpoint, so that they
    do not change from scan to scan. ``key`` names the columns that identify a row.

    With a cursor the window's ``lower`` is the place to carry on from; the watermark is the
    highest value that came, once all rows of the scan are in the target. ``ordered=True``
    promises that rows come in the order of the cursor: the watermark then moves on during
    the scan, so a long first load resumes where it stopped. The promise is checked.
    ``clock`` returns (or is a coroutine function that returns) the present ``datetime`` of the
    system that stamps the rows; ``settle`` needs it.

    The function must be repeatable: after an error it is called again. Several tables may be
    read at once, each in a thread of its own. It is cancelled as anyio cancels: clean-up of
    yours that awaits needs ``anyio.CancelScope(shield=True)``.
    """

    system: ClassVar[str] = "function"

    def __init__(
        self,
        read: Read | Mapping[str, Read],
        *,
        tables: str | Sequence[str] | None = None,
        schema: Declared | Mapping[str, Declared] | None = None,
        key: str | Sequence[str] | Mapping[str, str | Sequence[str]] = (),
        ordered: bool = False,
        clock: Callable[[], Any] | None = None,
    ) -> None:
        if isinstance(read, Mapping):
            if tables is not None:
                raise ConfigError(
                    "tables has a meaning only with one function; the mapping names its tables itself.",
                    remedy="remove tables.",
                )
            functions: dict[str | None, Read] = {name: function for name, function in read.items()}  # noqa: C416  # wider keys
        else:
            names = [tables] if isinstance(tables, str) else tables
            functions = dict.fromkeys([None] if names is None else names, read)
        for function in functions.values():
            check_callable(function, "read")
        self._functions = functions
        self._schema = schema
        self._key = key
        self._ordered = ordered
        self._clock = clock
        self._one_shots = OneShots()

    # What there is ----------------------------------------------------------

    async def ping(self) -> SystemInfo:
        return SystemInfo("function", "", ", ".join(await self.list_tables()))

    async def list_tables(self) -> list[str]:
        return sorted(name for name in self._functions if name is not None)

    async def describe(self, table: str) -> TableSchema | None:
        function = self._function(table)
        if function is None:
            return None
        schema = self._declared(table)
        if schema is None:
            with closing(user_worker()) as worker:
                rows = await _Calls(function, worker, self._one_shots).sample(ReadWindow(table, sample=True))
            schema = rows if isinstance(rows, pa.Schema) else learn(rows)
        return TableSchema(table, schema, self._key_of(table))

    def _function(self, table: str) -> Read | None:
        return self._functions.get(table, self._functions.get(None))

    def _declared(self, table: str) -> pa.Schema | None:
        found = self._schema.get(table) if isinstance(self._schema, Mapping) else self._schema
        return None if found is None else declared_schema(found)

    def _key_of(self, table: str) -> tuple[str, ...]:
        found = self._key.get(table, ()) if isinstance(self._key, Mapping) else self._key
        return (found,) if isinstance(found, str) else tuple(found)

    # A scan -----------------------------------------------------------------

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        function = self._refuse(table)
        with closing(user_worker()) as worker:
            yield await self._plan(table, checkpoint, _Calls(function, worker, self._one_shots))

    async def _plan(self, table: TableSpec, checkpoint: Checkpoint, calls: _Calls) -> SourceScan:
        window = ReadWindow(table=table.name, cursor=table.cursor, columns=table.columns)
        known = self._declared(table.name)
        detail: dict[str, Any] = {}
        warnings: tuple[str, ...] = ()
        empty = False
        if known is None:
            before = unpack(checkpoint.detail.get(_LEARNT))
            lower = _lower(table, before, checkpoint)
            sample = await calls.sample(dataclasses.replace(window, lower=lower, sample=True))
            known, empty, warnings = learnt(before, sample)
            detail = {_LEARNT: pack(known)}
        names = choose_columns(table, known, self._key_of(table.name))
        schema = pa.schema([known.field(name).with_name(table.target_name(name)) for name in names])
        key = tuple(table.target_name(name) for name in table.key or self._key_of(table.name))
        limits = Limits()
        cursor = None
        if table.cursor is not None:
            cursor = cursor_name(table, known, names)
            limits = await self._limits(table, known.field(table.cursor), checkpoint, calls)
            window = dataclasses.replace(window, lower=_lower(table, known, checkpoint), upper=limits.upper)
        whole = Slice(
            index=0,
            # A watermark in the middle would, without a key, miss the rows that tie with it.
            divisible=cursor is None or (self._ordered and table.write is not Write.APPEND),
            ordered_by=cursor,
            detail=detail,
        )
        plan = SourcePlan(
            table=table,
            schema=schema,
            key=key if set(key) <= set(schema.names) else (),
            slices=() if empty else (whole,),
            cursor_type=native_type(schema.field(cursor)) if cursor else None,
            statements=(call_text(window),),
            warnings=warnings,
        )
        shape = Shape(known, names, schema, all_columns=table.columns is None)
        return _IteratorScan(plan, calls, window, shape, limits, sampled=bool(detail) and not empty)

    def _refuse(self, table: TableSpec) -> Read:
        """The table's function. Raises ``ConfigError`` for what this source cannot do."""
        function = self._function(table.name)
        if function is None:
            close = difflib.get_close_matches(table.name, [name for name in self._functions if name], n=1)
            raise ConfigError(
                f"there is no function for the table {table.name!r}.",
                remedy=f"did you mean {close[0]!r}?" if close else "name it in tables, or in the mapping of functions.",
            )
        for word in ("query", "where", "expressions", "format"):
            if getattr(table, word):
                raise UnsupportedError(
                    f"{word} has no meaning for a function.", remedy="let the function itself choose and compute."
                )
        if table.settle is not None and self._clock is None:
            raise UnsupportedError(
                "settle compares the cursor with the source's clock, and this source names none.",
                remedy="give IteratorSource a clock, or let the function leave out rows that are too young.",
            )
        return function

    async def _limits(self, table: TableSpec, cursor: pa.Field, checkpoint: Checkpoint, calls: _Calls) -> Limits:
        """What this source itself leaves out: rows too young, and where rows are appended those that came before."""
        above = checkpoint.watermark if table.write is Write.APPEND else None
        upper = None
        if table.settle is not None and self._clock is not None:
            upper = upper_bound(table, cursor, await calls.now(self._clock))
        return Limits(table.target_name(cursor.name), above, upper, ordered=self._ordered)

    async def aclose(self) -> None:
        return None


def _lower(table: TableSpec, known: pa.Schema | None, checkpoint: Checkpoint) -> str | None:
    """Where the function should begin; also before the columns are known."""
    if table.cursor is None or checkpoint.watermark is None:
        return None
    if known is None or table.cursor not in known.names:
        return None
    family = cursor_family(known.field(table.cursor).type)
    return None if family is None else lower_bound(table, family, checkpoint.watermark)


class _Calls:
    """The calls of one table's function, in a thread that no other scan shares."""

    def __init__(self, function: Read, worker: Worker, one_shots: OneShots) -> None:
        self.function = function
        self.worker = worker
        self._one_shots = one_shots

    async def now(self, clock: Callable[[], Any]) -> datetime:
        now = await call_user(self.worker, clock_failed, clock)
        if not isinstance(now, datetime):
            raise ConfigError(f"the clock says {now!r}, which is not a datetime.", remedy="let it return a datetime.")
        return now

    async def sample(self, window: ReadWindow) -> list[Mapping[str, Any]] | pa.Schema:
        """The first rows, or the schema of the first batch; the function's iterator is closed again."""
        found: list[Mapping[str, Any]] = []
        async with aclosing(self.pieces(window, Pile())) as pieces:
            async for piece in pieces:
                if isinstance(piece, pa.RecordBatch):
                    return piece.schema if not found else join(learn(found), piece.schema)
                found.extend(piece)
                if len(found) >= _SAMPLE_ROWS:
                    break
        return found

    async def pieces(self, window: ReadWindow, pile: Pile) -> AsyncGenerator[Any, None]:
        """What the function gives, gathered into lists of rows, or batches."""
        call = self.function if positional(self.function) == 0 else functools.partial(self.function, window)
        check = functools.partial(self._one_shots.check, window.table)
        async with aclosing(open_items(self.worker, call, lambda: pile.limit, check)) as items:
            async for some in items:
                for item in some:
                    for piece in pile.add(item):
                        yield piece
        for piece in pile.flush():
            yield piece


class _IteratorScan(SourceScan):
    """One call of the function for its rows, or one more after an error."""

    def __init__(
        self, plan: SourcePlan, calls: _Calls, window: ReadWindow, shape: Shape, limits: Limits, *, sampled: bool
    ) -> None:
        self.plan = plan
        self._calls = calls
        self._window = window
        self._shape = shape
        self._limits = limits
        self._sampled = sampled

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        pile = Pile()
        highest: Any = None
        rows = 0
        async with aclosing(self._calls.pieces(self._window, pile)) as pieces:
            async for piece in pieces:
                with guarded(self._calls.function, read_failed):
                    batch = await self._calls.worker.run(self._shape.batch, piece)
                pile.record(batch)
                rows += batch.num_rows
                batch, highest = self._limits.keep(batch, highest)
                if batch.num_rows:
                    yield batch
        if not rows and self._sampled and self._limits.upper is None:
            raise SourceError(
                "the function gave rows when it was asked for the columns, and none when it was asked for all rows.",
                remedy="let every call begin anew: what it reads from seems to be used up by the first one.",
            )
