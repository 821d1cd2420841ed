"""Planning a scan of a SQL source: one upper bound, a closed window, slices from counts.

A dialect's source adds how to reach its system; everything about windows is here.
"""

from __future__ import annotations

import difflib
import hashlib
from abc import abstractmethod
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.base import Source
from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.select import Relation, Selection, choose, cursor_column
from retl.model.checkpoint import Checkpoint, check_cursor_type
from retl.model.cursor import CursorFamily, is_ahead
from retl.model.errors import ConfigError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema, native_type
from retl.model.table import TableSpec
from retl.model.window import Bounds, Slice, Window, cut, lower_bound, make_window

_FEWEST_BUCKETS = 64
_MOST_BUCKETS = 4096
_FUTURE = timedelta(days=1)
_LONGEST_SHIFT = timedelta(hours=2)


class SqlSource(Source):
    """A source that is asked in SQL."""

    dialect: Dialect

    @abstractmethod
    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""

    @abstractmethod
    def stream(self, sql: str) -> AsyncIterator[pa.RecordBatch]:
        """The rows of a large result, in batches of bounded size."""

    @abstractmethod
    async def columns(self, sql: str) -> pa.Schema:
        """The result's columns with their logical types, without running the statement."""

    async def relation(self, table: TableSpec) -> Relation:
        """What a table's name or query means here. Raises ``ConfigError`` where there is no such thing."""
        if table.query is not None:
            # On a line of its own: the query may end in a comment.
            sql = f"({table.query.strip().rstrip(';')}\n) AS {self.dialect.identifier('q')}"
            return Relation(sql, TableSchema(table.name, await self.columns(f"SELECT * FROM {sql}")))
        schema = await self.describe(table.name)
        if schema is None:
            await self._no_such_table(table.name)
        assert schema is not None
        return Relation(self.from_clause(table.name), schema)

    def from_clause(self, name: str) -> str:
        """How a table is named behind FROM."""
        return self.dialect.table(name)

    async def _no_such_table(self, name: str) -> None:
        offered = await self.list_tables()
        if name in offered:
            raise ConfigError(
                f"the source does not show the columns of {name!r}.",
                remedy="give the user the right to SELECT from it.",
            )
        close = difflib.get_close_matches(name, offered, n=1)
        some = ", ".join(offered[:10]) + (" ..." if len(offered) > 10 else "")
        raise ConfigError(
            f"the source has no table {name!r}.",
            remedy=f"did you mean {close[0]!r}?" if close else f"it has {some}." if offered else "the source is empty.",
        )

    async def plan(self, table: TableSpec, checkpoint: Checkpoint) -> SourcePlan:
        relation = await self.relation(table)
        chosen = choose(self.dialect, relation, table)
        schema = await self.chosen_schema(chosen)
        key = tuple(table.target_name(name) for name in table.key or relation.schema.key)
        if not table.key and any(name not in schema.names for name in key):
            key = ()  # a key that is not read in full identifies nothing
        if table.cursor is None:
            return await self._plan_full(table, checkpoint, chosen, schema, key)
        return await self._plan_window(table, checkpoint, chosen, schema, key)

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        """The columns of a scan under the target's names; what the source table declares NOT NULL is so in the target too."""
        fields = []
        for name, column in zip(chosen.names, await self.columns(chosen.raw()), strict=True):
            strict = name not in chosen.table.expressions and not chosen.relation.schema.columns.field(name).nullable
            fields.append(column.with_nullable(not strict))
        return pa.schema(fields)

    async def _plan_full(
        self, table: TableSpec, checkpoint: Checkpoint, chosen: Selection, schema: pa.Schema, key: tuple[str, ...]
    ) -> SourcePlan:
        rows = int((await self.query(chosen.count()))[0][0])
        everything = Slice(index=0, rows=rows, divisible=True)
        return SourcePlan(
            table=table,
            schema=schema,
            key=key,
            slices=(everything,) if rows else (),
            rows=rows,
            unique_key=_is_unique(table, chosen.relation.schema),
            statements=(chosen.rows(schema, everything),),
            detail={"chosen": chosen},
        )

    async def _plan_window(
        self, table: TableSpec, checkpoint: Checkpoint, chosen: Selection, schema: pa.Schema, key: tuple[str, ...]
    ) -> SourcePlan:
        cursor, family = cursor_column(self.dialect, chosen.relation, table)
        check_cursor_type(table.name, cursor.name, checkpoint, native_type(cursor))
        asked = chosen.bounds(cursor, lower_bound(table, family, checkpoint.watermark))
        low, high, null, now = (await self.query(asked))[0]
        bounds = Bounds(low, high, int(null or 0), self.clock(str(now), cursor))
        await self.check_order(chosen, cursor, family, checkpoint.watermark, bounds)
        window = make_window(table, family, checkpoint.watermark, bounds)
        slices: list[Slice] = []
        if window is not None:
            counts = await self._counts(chosen, window, cursor, table.slice_rows)
            slices = cut(window, counts, table.slice_rows, checkpoint.position, self._hashed(chosen))
        if table.null_cursor == "include" and bounds.null:
            slices.extend(_null_slices(len(slices), bounds.null, table.slice_rows))
        return SourcePlan(
            table=table,
            schema=schema,
            key=key,
            slices=tuple(slices),
            window=window,
            rows=sum(slice_.rows or 0 for slice_ in slices),
            null_cursor_rows=bounds.null,
            cursor_type=native_type(cursor),
            unique_key=_is_unique(table, chosen.relation.schema),
            statements=(asked, *(chosen.rows(schema, slice_) for slice_ in slices[:1])),
            warnings=(*_future_warning(table, window, bounds), *await self._clock_warning(table, cursor)),
            detail={"chosen": chosen},
        )

    async def _counts(
        self, chosen: Selection, window: Window, cursor: pa.Field, slice_rows: int
    ) -> list[tuple[str, int]]:
        """How the rows of a window spread over its range, fine enough to cut slices of ``slice_rows``."""
        bucket = self.dialect.bucket_number(cursor, self.dialect.identifier(cursor.name))
        total, low, high = (await self.query(chosen.count(window, cursor, bucket)))[0]
        if not total:
            return []
        if total <= slice_rows:
            return [(window.upper, int(total))]
        if bucket is None:
            rows = await self.query(chosen.exact_histogram(window, cursor, slice_rows))
            return [(str(value), int(count)) for value, count in rows]
        return await self._refine(chosen, window, cursor, bucket, int(low), int(high), int(total), slice_rows)

    async def _refine(
        self,
        chosen: Selection,
        window: Window,
        cursor: pa.Field,
        bucket: str,
        low: int,
        high: int,
        total: int,
        slice_rows: int,
    ) -> list[tuple[str, int]]:
        """Count by buckets of equal width; look closer where one holds too much and more than one value."""
        buckets = min(_MOST_BUCKETS, max(_FEWEST_BUCKETS, 8 * -(-total // slice_rows)))
        width = (high - low) // buckets + 1
        counts: list[tuple[str, int]] = []
        for value, rows, one_value, first, last in await self.query(
            chosen.histogram(window, cursor, bucket, low, high, width)
        ):
            if rows > slice_rows and not one_value and int(first) < int(last):
                counts.extend(
                    await self._refine(chosen, window, cursor, bucket, int(first), int(last), int(rows), slice_rows)
                )
            else:
                counts.append((str(value), int(rows)))
        return counts

    async def check_order(
        self, chosen: Selection, cursor: pa.Field, family: CursorFamily, watermark: str | None, bounds: Bounds
    ) -> None:
        """Refuse a cursor that the system does not order by what its values mean."""

    def clock(self, now: str, cursor: pa.Field) -> str:
        """The source's clock as the dialect asks for it, in the frame of a cursor column."""
        return now

    async def put_back(self) -> timedelta:
        """How far the clock by which times without a zone are written is put back in autumn; nothing where it is not, or nobody knows."""
        return timedelta()

    async def _clock_warning(self, table: TableSpec, cursor: pa.Field) -> tuple[str, ...]:
        """An hour that comes twice brings changes below the watermark."""
        lookback = table.lookback if isinstance(table.lookback, timedelta) else timedelta(seconds=table.lookback)
        if not pa.types.is_timestamp(cursor.type) or cursor.type.tz or (lookback and lookback >= _LONGEST_SHIFT):
            return ()
        shift = await self.put_back()
        return () if lookback >= shift else (_twice(cursor.name, shift),)

    def hash_version(self) -> str:
        """Which version it is, where the system's hash may change from one to the next."""
        return ""

    def _hashed(self, chosen: Selection) -> str:
        """A fingerprint of how rows that share a cursor value are told apart."""
        how = (self.hash_version(), self.dialect.hash_condition(chosen.hashed(), 0, 1))
        return hashlib.sha256(repr(how).encode()).hexdigest()[:12]

    def selection(self, plan: SourcePlan, slice_: Slice) -> Selection:
        """What is read for one slice, but for the slice's own bounds."""
        chosen = plan.detail["chosen"]
        assert isinstance(chosen, Selection)
        return chosen

    async def recount(self, plan: SourcePlan, slice_: Slice) -> int | None:
        return int((await self.query(self.selection(plan, slice_).count_slice(slice_)))[0][0])

    async def read(self, plan: SourcePlan, slice_: Slice) -> AsyncIterator[pa.RecordBatch]:
        batches = self.stream(self.selection(plan, slice_).rows(plan.schema, slice_))
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()  # type: ignore[attr-defined]


def _is_unique(table: TableSpec, schema: TableSchema) -> bool:
    return bool(schema.key) and (not table.key or set(schema.key) <= set(table.key))


def _null_slices(start: int, rows: int, slice_rows: int) -> list[Slice]:
    """The rows without a cursor value, read after the others so that the watermark is not held up."""
    modulus = max(1, -(-rows // slice_rows))
    whole = Slice(index=start, nulls=True, modulus=modulus, rows=rows // modulus)
    return [msgspec.structs.replace(whole, index=start + n, remainder=n) for n in range(modulus)]


def summer_shift(zone: tzinfo, year: int) -> timedelta:
    """How far a zone's clocks are put back within a year."""
    offsets = [datetime(year, month, 1, tzinfo=zone).utcoffset() or timedelta() for month in range(1, 13)]
    return max(offsets) - min(offsets)


def _twice(cursor: str, shift: timedelta) -> str:
    minutes = int(shift.total_seconds() // 60)
    return (
        f"the cursor {cursor!r} has no zone, and the clock of its source is put back by {minutes} minutes in autumn: a change in "
        f'the time that comes twice is missed unless lookback is at least "{minutes}m". If it is written in UTC, say timezone = "UTC".'
    )


def _future_warning(table: TableSpec, window: Window | None, bounds: Bounds) -> tuple[str, ...]:
    """A cursor value far in the future would hide every later change below it."""
    if window is None or not is_ahead(window.upper, bounds.now, window.family, _FUTURE):
        return ()
    text = (
        f"the highest value of the cursor {table.cursor!r} is {window.upper}, which lies in the future by the source's "
        'clock: changes with lower values will be missed until then. settle = "0s" keeps such rows waiting for their time.'
    )
    return (text,)
