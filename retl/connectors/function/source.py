"""A source made of the user's own iterators."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa

from retl.connectors.base import Source, SystemInfo
from retl.connectors.function.calls import (
    call_user,
    check_callable,
    clock_failed,
    guarded,
    open_items,
    positional,
    read_failed,
)
from retl.connectors.function.choice import call_text, choose, cursor_name, learnt
from retl.connectors.function.limits import Limits, upper_bound
from retl.connectors.function.rows import Pile, Shape
from retl.connectors.function.shapes import Declared, declared_schema, join, learn, pack, unpack
from retl.connectors.function.snapshot import OneShots
from retl.connectors.function.window import ReadWindow
from retl.model.actions import Write
from retl.model.checkpoint import Checkpoint
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError, SourceError, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema, native_type
from retl.model.table import TableSpec
from retl.model.window import Slice, lower_bound
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

    The function must be repeatable: after an error it is called again. It is cancelled as
    anyio cancels: clean-up of yours that awaits needs ``anyio.CancelScope(shield=True)``.
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
        self._worker: Worker | None = None
        self._one_shots = OneShots()

    # What there is ----------------------------------------------------------

    async def ping(self) -> SystemInfo:
        return SystemInfo("function", "", ", ".join(await self.list_tables()))

    async def list_tables(self) -> list[str]:
        return sorted(name for name in self._functions if name is not None)

    def _function(self, table: str) -> Read | None:
        return self._functions.get(table, self._functions.get(None))

    async def describe(self, table: str) -> TableSchema | None:
        if self._function(table) is None:
            return None
        schema = self._declared(table)
        if schema is None:
            rows = await self._sample(ReadWindow(table, sample=True))
            schema = rows if isinstance(rows, pa.Schema) else learn(rows)
        return TableSchema(table, schema, self._key_of(table))

    def _declared(self, table: str) -> pa.Schema | None:
        found = self._schema.get(table) if isinstance(self._schema, Mapping) else self._schema
        return None if found is None else declared_schema(found)

    def _key_of(self, table: str) -> tuple[str, ...]:
        found = self._key.get(table, ()) if isinstance(self._key, Mapping) else self._key
        return (found,) if isinstance(found, str) else tuple(found)

    async def _sample(self, window: ReadWindow) -> list[Mapping[str, Any]] | pa.Schema:
        """The first rows, or the schema of the first batch; the function's iterator is closed again."""
        found: list[Mapping[str, Any]] = []
        pile = Pile()
        async with aclosing(self._pieces(window, pile)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, pa.RecordBatch):
                    return piece.schema if not found else join(learn(found), piece.schema)
                found.extend(piece)
                if len(found) >= _SAMPLE_ROWS:
                    break
        return found

    # A scan -----------------------------------------------------------------

    async def plan(self, table: TableSpec, checkpoint: Checkpoint) -> SourcePlan:
        self._refuse(table)
        window = ReadWindow(table=table.name, cursor=table.cursor, columns=table.columns)
        known = self._declared(table.name)
        detail: dict[str, Any] = {}
        warnings: tuple[str, ...] = ()
        empty = False
        if known is None:
            before = unpack(checkpoint.detail.get(_LEARNT))
            lower = self._lower(table, before, checkpoint)
            sample = await self._sample(dataclasses.replace(window, lower=lower, sample=True))
            known, empty, warnings = learnt(before, sample)
            detail = {_LEARNT: pack(known)}
        names = choose(table, known, self._key_of(table.name))
        schema = pa.schema([known.field(name).with_name(table.target_name(name)) for name in names])
        key = tuple(table.target_name(name) for name in table.key or self._key_of(table.name))
        limits = Limits()
        cursor = None
        if table.cursor is not None:
            cursor = cursor_name(table, known, names)
            limits = await self._limits(table, known.field(table.cursor), checkpoint)
            window = dataclasses.replace(window, lower=self._lower(table, known, checkpoint), upper=limits.upper)
        whole = Slice(
            index=0,
            # A watermark in the middle would, without a key, miss the rows that tie with it.
            divisible=cursor is None or (self._ordered and table.write is not Write.APPEND),
            ordered_by=cursor,
            detail=detail,
        )
        return SourcePlan(
            table=table,
            schema=schema,
            key=key if set(key) <= set(schema.names) else (),
            slices=() if empty else (whole,),
            cursor_type=native_type(schema.field(cursor)) if cursor else None,
            statements=(call_text(window),),
            warnings=warnings,
            detail={
                "window": window,
                "shape": Shape(known, names, schema, all_columns=table.columns is None),
                "limits": limits,
                "sampled": bool(detail) and not empty,
            },
        )

    def _refuse(self, table: TableSpec) -> None:
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

    def _lower(self, table: TableSpec, known: pa.Schema | None, checkpoint: Checkpoint) -> str | None:
        """Where the function should begin; also before the columns are known."""
        if table.cursor is None or checkpoint.watermark is None:
            return None
        if known is None or table.cursor not in known.names:
            return None
        family = cursor_family(known.field(table.cursor).type)
        return None if family is None else lower_bound(table, family, checkpoint.watermark)

    async def _limits(self, table: TableSpec, cursor: pa.Field, checkpoint: Checkpoint) -> Limits:
        """What this source itself leaves out: rows too young, and where rows are appended those that came before."""
        above = checkpoint.watermark if table.write is Write.APPEND else None
        upper = upper_bound(table, cursor, await self._now()) if table.settle is not None else None
        return Limits(table.target_name(cursor.name), above, upper, ordered=self._ordered)

    async def _now(self) -> datetime:
        assert self._clock is not None
        now = await call_user(self._thread(), clock_failed, self._clock)
        if not isinstance(now, datetime):
            raise ConfigError(f"the clock says {now!r}, which is no datetime.", remedy="let it return a datetime.")
        return now

    async def read(self, plan: SourcePlan, slice_: Slice) -> AsyncIterator[pa.RecordBatch]:
        window, shape, limits = plan.detail["window"], plan.detail["shape"], plan.detail["limits"]
        assert isinstance(window, ReadWindow)
        assert isinstance(shape, Shape)
        assert isinstance(limits, Limits)
        function = self._function(window.table)
        assert function is not None
        pile = Pile()
        highest: Any = None
        rows = 0
        async with aclosing(self._pieces(window, pile)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                with guarded(function, read_failed):
                    batch = await self._thread().run(shape.batch, piece)
                pile.note(batch)
                rows += batch.num_rows
                batch, highest = limits.keep(batch, highest)
                if batch.num_rows:
                    yield batch
        if not rows and plan.detail["sampled"] and limits.upper is None:
            raise SourceError(
                "the function gave rows when it was asked for the columns, and none when it was asked for all rows.",
                remedy="let every call begin anew: what it reads from seems to be used up by the first one.",
            )

    async def _pieces(self, window: ReadWindow, pile: Pile) -> AsyncIterator[Any]:
        function = self._function(window.table)
        assert function is not None
        call = function if positional(function) == 0 else functools.partial(function, window)
        check = functools.partial(self._one_shots.check, window.table)
        async with aclosing(open_items(self._thread(), call, lambda: pile.limit, check)) as items:
            async for some in items:
                for item in some:
                    for piece in pile.add(item):
                        yield piece
        for piece in pile.flush():
            yield piece

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
