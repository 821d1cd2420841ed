"""One scan of a SQL source: one upper bound, a closed window, slices from counts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

import msgspec
import pyarrow as pa

from retl.connectors.base import SourceScan
from retl.connectors.sql.histogram import Histogram
from retl.connectors.sql.reader import SqlReader
from retl.connectors.sql.selection import Selection, choose, cursor_column
from retl.model.checkpoint import Checkpoint, check_cursor_type
from retl.model.cursor import is_ahead
from retl.model.plan import SourcePlan
from retl.model.range import CursorRange
from retl.model.schema import native_type
from retl.model.table import TableSpec
from retl.model.window import Bounds, Slice, Window, cut, lower_bound, make_window, range_window

Reader = TypeVar("Reader", bound=SqlReader)

_FUTURE = timedelta(days=1)
_LONGEST_SHIFT = timedelta(hours=2)


class SqlScan(SourceScan, Generic[Reader]):
    """One scan: the selection, and the connection that plans and reads it."""

    def __init__(self, reader: Reader, chosen: Selection, schema: pa.Schema, checkpoint: Checkpoint) -> None:
        self._reader = reader
        self._chosen = chosen
        self._schema = schema
        self._checkpoint = checkpoint
        self._table = chosen.table

    @classmethod
    async def begin(cls, reader: Reader, table: TableSpec, checkpoint: Checkpoint) -> Self:
        """Look at the table and plan. Raises ``ConfigError`` for words that do not fit it."""
        chosen = choose(reader.dialect, await reader.relation(table), table)
        scan = cls(reader, chosen, await reader.chosen_schema(chosen), checkpoint)
        scan.plan = await scan._planned()
        return scan

    async def _planned(self) -> SourcePlan:
        if self._table.cursor is None:
            return await self._plan_full()
        return await (self._plan_window() if self._table.range is None else self._plan_range(self._table.range))

    def selection(self, slice_: Slice) -> Selection:
        """What all slices read, besides their bounds."""
        return self._chosen

    def statement(self, slice_: Slice) -> str:
        """The SELECT that reads one slice."""
        return self.selection(slice_).rows(self._schema, slice_)

    async def read(self, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(self._reader.stream(self.statement(slice_), self._schema)) as batches:
            async for batch in batches:
                yield batch

    async def recount(self, slice_: Slice) -> int | None:
        return int((await self._reader.query(self.selection(slice_).count(slice_)))[0][0])

    async def _plan_full(self) -> SourcePlan:
        rows = int((await self._reader.query(self._chosen.count()))[0][0])
        everything = Slice(index=0, rows=rows, divisible=True)
        plan = self._plan((everything,) if rows else (), (self.statement(everything),))
        return dataclasses.replace(plan, rows=rows)

    async def _plan_window(self) -> SourcePlan:
        cursor, family = cursor_column(self._chosen)
        watermark = self._checkpoint.watermark
        check_cursor_type(self._table.name, cursor.name, self._checkpoint, native_type(cursor))
        asked = self._chosen.bounds(cursor, lower_bound(self._table, family, watermark))
        low, high, null, now, *counted = (await self._reader.query(asked))[0]
        bounds = Bounds(
            low, high, int(null or 0), self._reader.clock(str(now), cursor, self._table.settle or timedelta())
        )
        await self._reader.check_order(self._chosen, cursor, family, watermark, bounds)
        window = make_window(self._table, family, watermark, bounds)
        slices = await self._slices(window, cursor, counted if window.upper == high else None) if window else []
        if self._table.null_cursor == "include" and bounds.null:
            slices.extend(_null_slices(len(slices), bounds.null, self._table.slice_rows))
        return dataclasses.replace(
            self._plan(tuple(slices), (asked, *map(self.statement, slices[:1]))),
            window=window,
            highest=bounds.high,
            rows=sum(slice_.rows or 0 for slice_ in slices),
            null_cursor_rows=bounds.null,
            cursor_type=native_type(cursor),
            warnings=(*_future_warning(self._table, window, bounds), *await self._clock_warning(cursor)),
        )

    async def _plan_range(self, wanted: CursorRange) -> SourcePlan:
        """The rows of a given range as they are now, but for what an earlier scan of it has read."""
        cursor, family = cursor_column(self._chosen)
        done = self._checkpoint.watermark
        check_cursor_type(self._table.name, cursor.name, self._checkpoint, native_type(cursor))
        (low, high, *_), *_ = await self._reader.query(self._chosen.bounds(cursor))
        wanted = wanted.typed(high, family, utc=pa.types.is_timestamp(cursor.type) and bool(cursor.type.tz))
        await self._reader.check_order(self._chosen, cursor, family, wanted.since, Bounds(low, high, 0, ""))
        asked = self._chosen.bounds(cursor, wanted.since if done is None else done, wanted.until)
        (_, high, *_), *_ = await self._reader.query(asked)
        window = range_window(cursor.name, family, wanted, done, high)
        slices = await self._slices(window, cursor, None) if window else []
        return dataclasses.replace(
            self._plan(tuple(slices), (asked, *map(self.statement, slices[:1]))),
            window=window,
            rows=sum(slice_.rows or 0 for slice_ in slices),
            cursor_type=native_type(cursor),
        )

    def _plan(self, slices: tuple[Slice, ...], statements: tuple[str, ...]) -> SourcePlan:
        table, real_key = self._table, self._chosen.relation.schema.key
        key = tuple(table.target_name(name) for name in table.key or real_key)
        if not table.key and any(name not in self._schema.names for name in key):
            key = ()  # a part of a key identifies nothing
        return SourcePlan(
            table=table,
            schema=self._schema,
            key=key,
            slices=slices,
            unique_key=bool(real_key) and (not table.key or set(real_key) <= set(table.key)),
            statements=statements,
        )

    async def _slices(self, window: Window, cursor: pa.Field, counted: Sequence[Any] | None) -> list[Slice]:
        """The window, cut; ``counted`` are its rows and bucket numbers, where the statement of the bounds has told them."""
        histogram = Histogram(self._reader, self._chosen, window, cursor)
        if counted is None or window.lower_exclusive:
            counted = await histogram.totals()
        counts = await histogram.counts(*counted, slice_rows=self._table.slice_rows)
        return cut(window, counts, self._table.slice_rows, self._checkpoint.position, self._hashed())

    def _hashed(self) -> str:
        """A fingerprint of the hash that cuts rows with one cursor value."""
        how = (self._reader.hash_version(), self._reader.dialect.hash_condition(self._chosen.hashed(), 0, 1))
        return hashlib.sha256(repr(how).encode()).hexdigest()[:12]

    async def _clock_warning(self, cursor: pa.Field) -> tuple[str, ...]:
        """Warn of an hour that comes twice: it brings changes below the watermark."""
        lookback = self._table.lookback
        lookback = lookback if isinstance(lookback, timedelta) else timedelta(seconds=lookback)
        if not pa.types.is_timestamp(cursor.type) or cursor.type.tz or (lookback and lookback >= _LONGEST_SHIFT):
            return ()
        shift = await self._reader.dst_shift()
        return () if lookback >= shift else (_repeated_hour(cursor.name, shift),)


def _null_slices(start: int, rows: int, slice_rows: int) -> list[Slice]:
    """The rows without a cursor value, read after the others so that the watermark is not held up."""
    modulus = max(1, -(-rows // slice_rows))
    whole = Slice(index=start, nulls=True, modulus=modulus, rows=rows // modulus)
    return [msgspec.structs.replace(whole, index=start + n, remainder=n) for n in range(modulus)]


def _repeated_hour(cursor: str, shift: timedelta) -> str:
    minutes = int(shift.total_seconds() // 60)
    return (
        f"the cursor {cursor!r} has no zone, and the clock of its source is put back by {minutes} minutes in autumn: a change in "
        f'the time that comes twice is missed unless lookback is at least "{minutes}m". If it is written in UTC, say timezone = "UTC".'
    )


def _future_warning(table: TableSpec, window: Window | None, bounds: Bounds) -> tuple[str, ...]:
    """Warn of a cursor value far in the future, which would hide every later change below it."""
    if window is None or not is_ahead(window.upper, bounds.now, window.family, _FUTURE):
        return ()
    text = (
        f"the highest value of the cursor {table.cursor!r} is {window.upper}, which lies in the future by the source's "
        'clock: changes with lower values will be missed until then. settle = "0s" keeps such rows waiting for their time.'
    )
    return (text,)
