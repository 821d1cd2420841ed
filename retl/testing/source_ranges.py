"""The contract of a source: what a backfill reads, where the source can be asked for a range of the cursor."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from retl.model.checkpoint import Checkpoint
from retl.model.cursor import compare
from retl.model.errors import ConfigError
from retl.model.range import CursorRange
from retl.model.table import TableSpec
from retl.testing.scans import Scans
from retl.testing.source_base import NOON, Row, SourceBase, all_rows, rows_by_slice, rows_of
from retl.testing.source_windows import ids


class SourceRanges(SourceBase):
    """``TableSpec.range``: its rows, and no others."""

    def ranged(self, source: Scans, since: datetime | None, until: datetime | None, **words: Any) -> TableSpec:
        """The suite's table with a range of its cursor; a source that cannot read one skips the test."""
        table = self.incremental(key="id", **words)
        if not source.source.ranges:
            pytest.skip("this source cannot read a given range")
        ends = (None if end is None else end.isoformat(sep=" ") for end in (since, until))
        return dataclasses.replace(table, range=CursorRange(*ends))

    async def test_a_range_is_half_open_and_has_all_rows_of_its_highest_value(self) -> None:
        rows = rows_of(range(1, 41))
        tied: Row = {"id": 99, "name": "tied", "updated_at": rows[19]["updated_at"]}
        without: Row = {"id": 98, "name": "no cursor", "updated_at": None}
        async with self.opened([*rows, tied, without]) as source:
            table = self.ranged(source, rows[9]["updated_at"], rows[20]["updated_at"], slice_rows=4)
            plan = await source.plan(table, Checkpoint())
            assert ids(await all_rows(source, plan)) == [*range(10, 21), 99]
            assert (plan.rows, plan.null_cursor_rows) == (12, 0)
            assert plan.window is not None
            assert compare(plan.window.upper, str(rows[19]["updated_at"]), plan.window.family) == 0
            assert plan.slices[-1].watermark == plan.window.upper

    async def test_an_end_that_is_left_out_is_open(self) -> None:
        rows = rows_of(range(1, 21))
        async with self.opened(rows) as source:
            before = await source.plan(self.ranged(source, None, rows[5]["updated_at"]), Checkpoint())
            assert ids(await all_rows(source, before)) == [1, 2, 3, 4, 5]
            behind = await source.plan(self.ranged(source, rows[15]["updated_at"], None), Checkpoint())
            assert ids(await all_rows(source, behind)) == [16, 17, 18, 19, 20]

    async def test_a_range_without_rows_has_no_slices(self) -> None:
        rows = rows_of(range(1, 21))
        async with self.opened(rows) as source:
            years = [row["updated_at"].replace(year=1999) for row in rows]
            assert (await source.plan(self.ranged(source, years[0], years[-1]), Checkpoint())).slices == ()

    async def test_a_range_of_an_empty_table_has_no_slices(self) -> None:
        async with self.opened([]) as source:
            assert (await source.plan(self.ranged(source, NOON, None), Checkpoint())).slices == ()

    async def test_a_range_goes_on_behind_each_slice_that_is_committed(self) -> None:
        rows = rows_of(range(1, 41))
        async with self.opened(rows) as source:
            table = self.ranged(source, rows[4]["updated_at"], rows[30]["updated_at"], slice_rows=6)
            plan = await source.plan(table, Checkpoint())
            found = [ids(slice_) for slice_ in await rows_by_slice(source, plan)]
            for slice_ in plan.slices[:-1]:
                if slice_.watermark is None:
                    continue
                at = Checkpoint(cursor="updated_at", cursor_type=plan.cursor_type, watermark=slice_.watermark)
                rest = await source.plan(table, at)
                left = sorted(number for others in found[slice_.index + 1 :] for number in others)
                assert ids(await all_rows(source, rest)) == left
            whole = Checkpoint(cursor="updated_at", cursor_type=plan.cursor_type, watermark=plan.slices[-1].watermark)
            again = await all_rows(source, await source.plan(table, whole))
            assert ids(again) in ([], [30])  # only what ties with the end may be read once more

    async def test_an_end_that_is_no_value_of_the_cursor_is_refused(self) -> None:
        async with self.opened(rows_of(range(1, 5))) as source:
            table = self.ranged(source, None, None)
            for ends, said in ((CursorRange("soon"), "since is 'soon'"), (CursorRange("2024", "x"), "since is '2024'")):
                with pytest.raises(ConfigError, match=said):
                    await source.plan(dataclasses.replace(table, range=ends), Checkpoint())
            turned = CursorRange("2024-05-02", "2024-05-01")
            with pytest.raises(ConfigError, match="no row lies between them"):
                await source.plan(dataclasses.replace(table, range=turned), Checkpoint())
