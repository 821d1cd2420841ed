"""The contract of a target: what is committed, what is not, and by whom."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from retl.model.errors import LeaseLost, RetlError, RowsRejected
from retl.model.window import Scope, Slice
from retl.testing.oracle import in_order
from retl.testing.target_base import TABLE, TargetBase, rows_of, table_of, write

_EARLY, _LATE = "2024-05-01 12:00:01.000001", "2024-05-01 12:00:02.000002"


class TargetCommits(TargetBase):
    """Staging, commits, fences, rejects, and giving up."""

    async def test_staged_rows_are_invisible_until_they_are_committed(self) -> None:
        self.needs_staging()
        await self.loaded(rows_of([1]))
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of(range(1, 5001), name="staged"))
            assert await self.contents(TABLE) == rows_of([1])
            await session.commit(writer)
            assert len(await self.contents(TABLE)) == 5000
            await session.finish(writer)

    async def test_a_commit_saves_rows_and_checkpoint_together(self) -> None:
        self.needs_transactions()
        async with self.session() as session:
            writer = await session.prepare()
            for number, watermark in ((1, _EARLY), (2, _LATE)):
                await write(writer, rows_of([number]))
                await session.commit(writer, watermark)
                checkpoint = await session.checkpoint()
                assert checkpoint is not None
                assert checkpoint.watermark == watermark
                assert len(await self.contents(TABLE)) == number
            await session.finish(writer, _LATE)

    async def test_the_last_checkpoint_is_saved_at_the_end(self) -> None:
        self.needs_transactions()
        async with self.session() as session:
            writer = await session.prepare()
            await session.finish(writer, _LATE)
            checkpoint = await session.checkpoint()
            assert checkpoint is not None
            assert checkpoint.watermark == _LATE

    async def test_an_old_fence_commits_nothing(self) -> None:
        self.needs_transactions()
        async with self.session() as old:
            await old.scan(rows_of([1]), watermark=_EARLY)
            writer = await old.prepare()
            await write(writer, rows_of([2]))
            async with self.session() as new:
                with pytest.raises(LeaseLost):
                    await old.commit(writer, _LATE)
                await old.abort(writer)
                checkpoint = await new.checkpoint()
                assert checkpoint is not None
                assert checkpoint.watermark == _EARLY
        if self.stages:
            assert await self.contents(TABLE) == rows_of([1])

    async def test_an_old_fence_commits_nothing_of_a_first_load_though_the_next_slice_begins(self) -> None:
        """That slice may be on its way to the writer while this one is refused."""
        self.needs_staging()
        await self.loaded([])
        async with self.session() as old:
            writer = await old.prepare()
            await write(writer, rows_of([1, 2], name="old"))
            async with self.session():
                with pytest.raises(LeaseLost):
                    await old.commit(writer, _EARLY)
                with suppress(RetlError):
                    await write(writer, rows_of([1, 3], name="older"), slice_=Slice(index=1))
                await old.abort(writer)
        assert await self.contents(TABLE) == []

    async def test_an_old_fence_cannot_finish(self) -> None:
        self.needs_transactions()
        async with self.session() as old:
            await old.scan(rows_of([1]), watermark=_EARLY)
            writer = await old.prepare()
            async with self.session() as new:
                with pytest.raises(LeaseLost):
                    await old.finish(writer, _LATE)
                await old.abort(writer)
                checkpoint = await new.checkpoint()
                assert checkpoint is not None
                assert checkpoint.watermark == _EARLY

    async def test_an_old_fence_prepares_nothing(self) -> None:
        self.needs_transactions()
        async with self.session() as old, self.session():
            with pytest.raises(LeaseLost):
                await old.prepare()
        assert await self.tables() == []

    async def test_discarded_rows_are_forgotten(self) -> None:
        self.needs_staging()
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of([1, 2], name="discarded"))
            await writer.discard()
            await write(writer, rows_of([2, 3]))
            done = await session.commit(writer)
            assert done.rows == 2
            await session.finish(writer)
        assert in_order(await self.contents(TABLE)) == in_order(rows_of([2, 3]))

    async def test_discarding_nothing_is_harmless(self) -> None:
        async with self.session() as session:
            writer = await session.prepare()
            await writer.discard()
            await write(writer, rows_of([1]))
            await writer.discard()
            await writer.discard()
            await session.abort(writer)

    async def test_an_aborted_writer_leaves_nothing_staged_and_undoes_nothing(self) -> None:
        self.needs_staging()
        await self.loaded(rows_of([1]))
        before = await self.tables()
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of([2]))
            await session.commit(writer, _EARLY)
            await write(writer, rows_of([3]))
            await session.abort(writer)
            await session.abort(writer)
            checkpoint = await session.checkpoint()
            assert checkpoint is not None
            assert checkpoint.watermark == _EARLY
        assert in_order(await self.contents(TABLE)) == in_order(rows_of([1, 2]))
        assert await self.tables() == before

    async def test_a_scan_can_follow_one_that_was_aborted(self) -> None:
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of([1]))
            await session.abort(writer)
            await session.scan(rows_of([1, 2]))
        found = {row["id"] for row in await self.contents(TABLE)}
        assert found == {1, 2}

    async def test_a_finished_writer_can_be_aborted(self) -> None:
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of([1]))
            await session.commit(writer)
            await session.finish(writer)
            await session.abort(writer)
        assert await self.contents(TABLE) == rows_of([1])

    @pytest.mark.parametrize("delay", [0, 0.001, 0.005, 0.02])
    async def test_a_cancelled_commit_is_done_whole_or_not_at_all(self, delay: float) -> None:
        self.needs_transactions()
        async with self.session() as session:
            await session.scan(rows_of([1]), watermark=_EARLY)
            writer = await session.prepare()
            await write(writer, rows_of(range(2, 5001)))
            with anyio.move_on_after(delay):
                await session.commit(writer, _LATE)
            await session.abort(writer)
            checkpoint = await session.checkpoint()
            assert checkpoint is not None
            rows = len(await self.contents(TABLE))
            if checkpoint.watermark == _LATE or self.stages:
                assert rows == (1 if checkpoint.watermark == _EARLY else 5000)
            await session.scan(rows_of(range(1, 5001)))
        assert len(await self.contents(TABLE)) == 5000

    async def test_what_a_crash_left_behind_is_removed(self) -> None:
        self.needs_staging()
        await self.loaded(rows_of([1]))
        before = await self.tables()
        async with self.session() as session:
            writer = await session.prepare(crash=True)
            await write(writer, rows_of([2]))
        async with self.session() as session:
            await session.scan(rows_of([3]))
        assert in_order(await self.contents(TABLE)) == in_order(rows_of([1, 3]))
        assert await self.tables() == before

    async def test_a_refused_row_is_left_out_and_told(self) -> None:
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, [*rows_of([1]), self.rejected, *rows_of([2])], _lenient())
            done = await session.commit(writer, _EARLY, rejects_left=1)
            assert len(done.rejects) == 1
            (reject,) = done.rejects
            assert reject.table == TABLE
            assert reject.reason
            assert reject.key
            assert str(self.rejected["name"]) in reject.content
            await session.finish(writer, _EARLY)
            if session.store is not None:
                assert [kept.content for kept in await session.store.rejects("contract")] == [reject.content]
        assert in_order(await self.contents(TABLE)) == in_order(rows_of([1, 2]))

    async def test_with_more_refused_rows_than_allowed_nothing_is_committed(self) -> None:
        async with self.session() as session:
            await session.scan(rows_of([1]), watermark=_EARLY)
            writer = await session.prepare()
            await write(writer, [*rows_of([2]), self.rejected], _lenient())
            with pytest.raises(RowsRejected) as caught:
                await session.commit(writer, _LATE)
            assert len(caught.value.rejects) == 1
            await session.abort(writer)
            if session.store is not None:
                checkpoint = await session.checkpoint()
                assert checkpoint is not None
                assert checkpoint.watermark == _EARLY
        if self.transactional and self.stages:
            assert await self.contents(TABLE) == rows_of([1])

    async def test_a_discarded_slice_takes_its_refused_rows_with_it(self) -> None:
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, [self.rejected], _lenient())
            await writer.discard()
            await write(writer, rows_of([1]))
            assert not (await session.commit(writer)).rejects
            await session.finish(writer)

    async def test_a_scope_is_replaced_in_the_same_commit(self) -> None:
        self.needs_staging()
        rows = [*rows_of([1, 2], name="a", step=False), *rows_of([3], name="b")]
        await self.loaded(rows)
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of([9], name="a"))
            assert in_order(await self.contents(TABLE)) == in_order(rows)
            await session.commit(writer, slice_=Slice(index=0, scope=Scope("name", ("a 1", "b 3"))))
            await session.finish(writer)
        found = sorted(row["id"] for row in await self.contents(TABLE))
        assert found == [2, 9]

    async def test_rows_of_a_scope_that_come_again_stay(self) -> None:
        self.needs_staging()
        rows = [*rows_of([1, 2, 3], name="a", step=False), *rows_of([4], name="b", step=False)]
        scope = Scope("name", tuple(row["name"] for row in rows[:3]))
        await self.loaded(rows)
        changed = [rows[0], {**rows[1], "updated_at": None}, *rows_of([5], name="a", step=False)]
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, changed)
            done = await session.commit(writer, slice_=Slice(index=0, scope=scope))
            await session.finish(writer)
        assert (done.rows, done.changed, done.unchanged) == (3, 2, 1)
        assert in_order(await self.contents(TABLE)) == in_order([*changed, rows[3]])

    async def test_a_scope_without_rows_is_emptied(self) -> None:
        self.needs_staging()
        await self.loaded(rows_of([1, 2], name="a", step=False))
        async with self.session() as session:
            writer = await session.prepare()
            await session.commit(writer, slice_=Slice(index=0, scope=Scope("name", ("a 1",))))
            await session.finish(writer)
        assert await self.contents(TABLE) == rows_of([2], name="a", step=False)

    async def test_count_tells_the_rows_of_the_target(self) -> None:
        self.needs_tables()
        await self.loaded(rows_of([1, 2]))
        async with self.session() as session:
            writer = await session.prepare()
            await write(writer, rows_of([2, 3]))
            await session.commit(writer)
            assert await writer.count() == 3
            await session.finish(writer)
            assert await session.target.count(TABLE) == 3

    async def test_a_target_that_holds_no_checkpoints_commits_without_a_mark(self) -> None:
        async with (
            self.session() as session,
            session.target.open_load(session.load(state_in_target=False), None) as writer,
        ):
            await writer.write(table_of(rows_of([1])).to_batches()[0])
            await writer.commit(None, Slice(index=0), 0)
            await writer.finish(None)
        assert await self.contents(TABLE) == rows_of([1])


def _lenient() -> object:
    """The suite's columns, for rows that break a promise of the source."""
    schema = table_of([]).schema
    return schema.set(0, schema.field(0).with_nullable(True))
