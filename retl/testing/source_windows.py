"""The contract of a source: what a scan with a cursor reads."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from retl.model.checkpoint import Checkpoint
from retl.model.cursor import compare
from retl.testing.oracle import Oracle, in_order
from retl.testing.source_base import (
    NOON,
    TABLE,
    Row,
    SourceBase,
    all_rows,
    checkpoint_after,
    rows_by_slice,
    rows_of,
    table_of,
)


def ids(rows: list[Row]) -> list[int]:
    return sorted(row["id"] for row in rows)


class SourceWindows(SourceBase):
    """Windows and slices."""

    async def test_a_first_scan_reads_every_row_that_has_a_cursor_once(self) -> None:
        rows = rows_of(range(1, 101))
        async with self.opened(rows) as source:
            plan = await source.plan(self.incremental(slice_rows=7), Checkpoint())
            assert plan.cursor_type
            assert await all_rows(source, plan) == in_order(rows)

    async def test_slices_are_in_cursor_order_and_bounded(self) -> None:
        self._needs_counts()
        async with self.opened(rows_of(range(1, 101))) as source:
            plan = await source.plan(self.incremental(slice_rows=10), Checkpoint())
            found = await rows_by_slice(source, plan)
            assert len(found) >= 10
            assert max(len(rows) for rows in found) <= 20
            edges = [
                (min(times), max(times)) for times in ([row["updated_at"] for row in rows] for rows in found if rows)
            ]
            assert all(before[1] < after[0] for before, after in pairwise(edges))
            assert [slice_.index for slice_ in plan.slices] == list(range(len(plan.slices)))
            assert plan.rows == 100

    async def test_the_watermark_of_a_slice_covers_its_rows_and_no_later_one(self) -> None:
        self._needs_counts()
        async with self.opened(rows_of(range(1, 101))) as source:
            plan = await source.plan(self.incremental(slice_rows=10), Checkpoint())
            assert plan.window is not None
            family = plan.window.family
            found = await rows_by_slice(source, plan)
            for slice_, rows in zip(plan.slices, found, strict=True):
                if slice_.watermark is None:
                    continue
                later = [row["updated_at"] for others in found[slice_.index + 1 :] for row in others]
                assert all(compare(str(row["updated_at"]), slice_.watermark, family) <= 0 for row in rows)
                assert all(compare(str(moment), slice_.watermark, family) > 0 for moment in later)
            assert plan.slices[-1].watermark == plan.window.upper
            assert (
                compare(plan.window.upper, str(max(row["updated_at"] for rows in found for row in rows)), family) == 0
            )

    async def test_rows_that_share_one_cursor_value_are_cut_without_gap_or_overlap(self) -> None:
        self._needs_counts()
        rows = [*rows_of([1, 2]), *rows_of(range(100, 400), updated_at=NOON + timedelta(hours=1), step=False)]
        async with self.opened(rows) as source:
            plan = await source.plan(self.incremental(slice_rows=50), Checkpoint())
            found = await rows_by_slice(source, plan)
            assert in_order(row for slice_ in found for row in slice_) == in_order(rows)
            assert max(len(slice_) for slice_ in found) <= 150  # a hash cuts unevenly
            assert len(found) >= 6

    async def test_parts_that_are_done_are_not_read_again(self) -> None:
        self._needs_counts()
        rows = rows_of(range(100, 400), step=False)
        table = self.incremental(slice_rows=50)
        async with self.opened(rows) as source:
            plan = await source.plan(table, Checkpoint())
            found = await rows_by_slice(source, plan)
            assert plan.slices[2].position is not None
            done = [row for slice_ in found[:3] for row in slice_]
            rest = await source.plan(table, Checkpoint(cursor="updated_at", position=plan.slices[2].position))
            assert in_order([*done, *await all_rows(source, rest)]) == in_order(rows)

    async def test_the_window_is_closed_below(self) -> None:
        rows = rows_of(range(1, 21))
        async with self.opened(rows) as source:
            plan = await source.plan(self.incremental(key="id"), Checkpoint())
            edge = rows[9]["updated_at"]
            tied = {"id": 99, "name": "tied", "updated_at": edge}
            await self.changed(source, [tied])
            plan = await source.plan(self.incremental(key="id"), checkpoint_after(plan, f"{edge:%Y-%m-%d %H:%M:%S.%f}"))
            assert ids(await all_rows(source, plan)) == [*range(10, 21), 99]

    async def test_lookback_reads_again_below_the_watermark(self) -> None:
        rows = rows_of(range(1, 21))
        async with self.opened(rows) as source:
            first = await source.plan(self.incremental(key="id"), Checkpoint())
            table = self.incremental(key="id", lookback="5.000005s")
            watermark = f"{rows[19]['updated_at']:%Y-%m-%d %H:%M:%S.%f}"
            plan = await source.plan(table, checkpoint_after(first, watermark))
            assert ids(await all_rows(source, plan)) == [15, 16, 17, 18, 19, 20]
            for slice_ in plan.slices:
                assert slice_.watermark is None or compare(slice_.watermark, watermark, "time") >= 0

    async def test_a_microsecond_is_not_lost(self) -> None:
        rows = [
            {"id": number, "name": None, "updated_at": NOON + timedelta(microseconds=number)} for number in range(1, 7)
        ]
        async with self.opened(rows) as source:
            first = await source.plan(self.incremental(key="id"), Checkpoint())
            plan = await source.plan(
                self.incremental(key="id"), checkpoint_after(first, f"{NOON:%Y-%m-%d %H:%M:%S}.000004")
            )
            assert ids(await all_rows(source, plan)) == [4, 5, 6]

    async def test_rows_that_come_after_the_plan_wait_for_the_next_scan(self) -> None:
        self._needs_counts()
        self.needs_changes()
        async with self.opened(rows_of(range(1, 11))) as source:
            plan = await source.plan(self.incremental(key="id"), Checkpoint())
            await self.change(TABLE, table_of(rows_of([50])))
            assert ids(await all_rows(source, plan)) == list(range(1, 11))
            assert plan.window is not None
            following = await source.plan(self.incremental(key="id"), checkpoint_after(plan, plan.window.upper))
            assert 50 in ids(await all_rows(source, following))

    async def test_scan_after_scan_no_change_is_missed(self) -> None:
        target, truth = Oracle(), Oracle()
        changes = [
            rows_of(range(1, 30)),
            rows_of(range(25, 40), name="later", updated_at=NOON + timedelta(minutes=1)),
            rows_of([5], name="again", updated_at=NOON + timedelta(minutes=5)),
            [],
            rows_of([6, 7], name="tied", updated_at=NOON + timedelta(minutes=5, seconds=5, microseconds=5), step=False),
        ]
        checkpoint = Checkpoint()
        async with self.opened(changes[0]) as source:
            for number, rows in enumerate(changes):
                if number:
                    await self.changed(source, rows)
                truth.upsert(rows)
                plan = await source.plan(self.incremental(key="id", slice_rows=10), checkpoint)
                found = await all_rows(source, plan)
                target.upsert(found)
                assert target.rows == truth.rows
                times = [row["updated_at"] for row in found]
                upper = plan.window.upper if plan.window else f"{max(times):%Y-%m-%d %H:%M:%S.%f}"
                checkpoint = checkpoint_after(plan, upper)

    async def test_rows_without_a_cursor_are_counted(self) -> None:
        self._needs_counts()
        async with self.opened([*rows_of([1, 2]), *rows_of([3], updated_at=None)]) as source:
            plan = await source.plan(self.incremental(key="id"), Checkpoint())
            assert plan.null_cursor_rows == 1
            assert ids(await all_rows(source, plan)) == [1, 2]

    async def test_rows_without_a_cursor_are_included_once_where_that_is_wanted(self) -> None:
        rows = [*rows_of(range(1, 21)), *rows_of(range(50, 70), updated_at=None)]
        table = self.incremental(null_cursor="include", slice_rows=5)
        async with self.opened(rows) as source:
            plan = await source.plan(table, Checkpoint())
            assert await all_rows(source, plan) == in_order(rows)
            assert all(slice_.watermark is None for slice_ in plan.slices if slice_.nulls)

    async def test_a_table_with_nothing_but_null_cursors_has_no_watermark(self) -> None:
        self._needs_counts()
        async with self.opened(rows_of([1, 2], updated_at=None)) as source:
            plan = await source.plan(self.incremental(key="id"), Checkpoint())
            assert plan.window is None
            assert plan.slices == ()
            assert plan.null_cursor_rows == 2

    def _needs_counts(self) -> None:
        if not self.counts:
            pytest.skip("this source cannot count before it reads")
