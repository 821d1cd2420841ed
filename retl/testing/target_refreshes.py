"""The contract of a target: replacing a whole table."""

from __future__ import annotations

import pytest

from retl.connectors.base import TableWriter
from retl.model.actions import PreAction
from retl.model.checkpoint import Refresh
from retl.model.errors import ConfigError, LeaseLost
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.testing.oracle import in_order
from retl.testing.rows import table_spec
from retl.testing.target_base import FIRST, TABLE, Session, TargetBase, rows_of, with_refresh, write

_OLD, _NEW = rows_of(range(1, 6), name="old"), rows_of(range(4, 9), name="new")
_UNSEEN = [PreAction.SWAP, PreAction.MIRROR]
_REFRESHES = [PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE, *_UNSEEN]
_SECOND = "20240501T130000.000002-bbbbbb"
_THIRD = "20240501T140000.000003-cccccc"


def refresh(pre_action: PreAction, **words: object) -> TableSpec:
    return table_spec(TABLE, key="id", pre_action=pre_action, **words)


class TargetRefreshes(TargetBase):
    """Truncate, rename and create, swap, mirror."""

    @pytest.mark.parametrize("pre_action", _REFRESHES)
    async def test_a_refresh_replaces_all_rows(self, pre_action: PreAction) -> None:
        self.needs_pre_action(pre_action)
        await self.loaded(_OLD)
        async with self.session() as session:
            await session.scan(_NEW, refresh(pre_action), watermark=None)
            schema = await session.target.describe(TABLE)
            assert schema is not None
            assert schema.key == ("id",)
            if session.store is not None:
                checkpoint = await session.checkpoint()
                assert checkpoint is not None
                assert checkpoint.refresh is None
        assert in_order(await self.contents(TABLE)) == in_order(_NEW)

    @pytest.mark.parametrize("pre_action", _REFRESHES)
    async def test_a_refresh_creates_a_table_that_is_missing(self, pre_action: PreAction) -> None:
        self.needs_pre_action(pre_action)
        async with self.session() as session:
            await session.scan(_NEW, refresh(pre_action))
        assert in_order(await self.contents(TABLE)) == in_order(_NEW)
        assert await self.tables() == [TABLE]

    @pytest.mark.parametrize("pre_action", _REFRESHES)
    async def test_a_refresh_in_several_slices(self, pre_action: PreAction) -> None:
        self.needs_pre_action(pre_action)
        await self.loaded(_OLD)
        async with self.session() as session:
            writer = await session.prepare(session.load(refresh(pre_action)))
            for row in _NEW:
                await write(writer, [row])
                await session.commit(writer)
            assert await writer.count() == len(_NEW)
            await session.finish(writer)
        assert in_order(await self.contents(TABLE)) == in_order(_NEW)

    async def test_truncate_empties_the_table_first(self) -> None:
        self.needs_pre_action(PreAction.TRUNCATE)
        await self.loaded(_OLD)
        async with self.session() as session:
            writer = await session.prepare(session.load(refresh(PreAction.TRUNCATE)))
            assert await self.contents(TABLE) == []
            await self._note_is_kept(session)
            await session.abort(writer)

    @pytest.mark.parametrize("pre_action", _UNSEEN)
    async def test_a_swap_or_mirror_shows_the_old_rows_until_the_new_ones_are_complete(
        self, pre_action: PreAction
    ) -> None:
        self.needs_pre_action(pre_action)
        await self.loaded(_OLD)
        async with self.session() as session:
            writer = await self._half(session, refresh(pre_action))
            assert in_order(await self.contents(TABLE)) == in_order(_OLD)
            assert await writer.count() == 2
            await session.finish(writer)
        assert in_order(await self.contents(TABLE)) == in_order(_NEW[:2])
        assert await self.tables() == [TABLE]

    @pytest.mark.parametrize("pre_action", _UNSEEN)
    async def test_a_swap_or_mirror_that_is_aborted_leaves_the_old_table_and_nothing_else(
        self, pre_action: PreAction
    ) -> None:
        self.needs_pre_action(pre_action)
        await self.loaded(_OLD)
        async with self.session() as session:
            writer = await self._half(session, refresh(pre_action))
            await session.abort(writer)
            await session.abort(writer)
        assert in_order(await self.contents(TABLE)) == in_order(_OLD)
        assert await self.tables() == [TABLE]

    @pytest.mark.parametrize("pre_action", _UNSEEN)
    async def test_a_swap_or_mirror_that_crashed_is_cleared_away_by_the_next_scan(self, pre_action: PreAction) -> None:
        self.needs_pre_action(pre_action)
        await self.loaded(_OLD)
        async with self.session() as session:
            await self._half(session, refresh(pre_action), crash=True)
        async with self.session() as session:
            await session.scan(_NEW, refresh(pre_action))
        assert in_order(await self.contents(TABLE)) == in_order(_NEW)
        assert await self.tables() == [TABLE]

    @pytest.mark.parametrize("pre_action", _UNSEEN)
    async def test_a_swap_or_mirror_with_an_old_fence_switches_nothing(self, pre_action: PreAction) -> None:
        self.needs_pre_action(pre_action)
        self.needs_transactions()
        await self.loaded(_OLD)
        async with self.session() as old:
            writer = await self._half(old, refresh(pre_action))
            async with self.session():
                with pytest.raises(LeaseLost):
                    await old.finish(writer)
            await old.abort(writer)
        assert in_order(await self.contents(TABLE)) == in_order(_OLD)
        assert await self.tables() == [TABLE]

    async def test_a_mirror_tells_what_it_deletes_and_follows_the_source(self) -> None:
        self.needs_pre_action(PreAction.MIRROR)
        table = refresh(PreAction.MIRROR)
        old = [*rows_of(range(1, 4), name="same"), *rows_of(range(4, 6), name="old")]
        new = [*rows_of(range(2, 4), name="same"), *rows_of(range(5, 8), name="new")]
        await self.loaded(old)
        async with self.session() as session:
            writer = await session.prepare(session.load(table))
            await write(writer, new)
            await session.commit(writer)
            assert await writer.deletes() == 2
            assert in_order(await self.contents(TABLE)) == in_order(old)
            await session.finish(writer)
        assert in_order(await self.contents(TABLE)) == in_order(new)
        assert await self.tables() == [TABLE]

    async def test_a_mirror_needs_a_key(self) -> None:
        self.needs_pre_action(PreAction.MIRROR)
        async with self.session() as session:
            with pytest.raises(ConfigError, match="no usable key"):
                await session.target.preview(session.load(table_spec(TABLE, pre_action=PreAction.MIRROR)))

    async def test_rename_and_create_keeps_the_old_rows_in_an_archive(self) -> None:
        self.needs_pre_action(PreAction.RENAME_AND_CREATE)
        await self.loaded(_OLD)
        async with self.session() as session:
            await session.scan(_NEW, refresh(PreAction.RENAME_AND_CREATE))
        (archive,) = await self._archives()
        assert archive == f"{TABLE}_arc_20240501120000000001"
        assert in_order(await self.contents(archive)) == in_order(_OLD)
        assert in_order(await self.contents(TABLE)) == in_order(_NEW)

    async def test_archives_beyond_those_to_keep_are_dropped(self) -> None:
        self.needs_pre_action(PreAction.RENAME_AND_CREATE)
        await self.loaded(_OLD)
        async with self.session() as session:
            for scan_id in (FIRST, _SECOND, _THIRD):
                await session.scan(_NEW, refresh(PreAction.RENAME_AND_CREATE, keep_archives=2), scan_id=scan_id)
        archives = await self._archives()
        assert [name[-20:] for name in archives] == ["20240501130000000002", "20240501140000000003"]

    async def test_without_a_limit_every_archive_is_kept(self) -> None:
        self.needs_pre_action(PreAction.RENAME_AND_CREATE)
        await self.loaded(_OLD)
        async with self.session() as session:
            for scan_id in (FIRST, _SECOND, _THIRD):
                await session.scan(_NEW, refresh(PreAction.RENAME_AND_CREATE), scan_id=scan_id)
        assert len(await self._archives()) == 3

    @pytest.mark.parametrize("pre_action", [PreAction.TRUNCATE, PreAction.RENAME_AND_CREATE])
    async def test_a_refresh_that_crashed_is_carried_on(self, pre_action: PreAction) -> None:
        self.needs_pre_action(pre_action)
        await self.loaded(_OLD)
        async with self.session() as session:
            await self._half(session, refresh(pre_action), crash=True)
        begun = Refresh(FIRST, str(pre_action))
        async with self.session() as session:
            if session.store is not None:
                checkpoint = await session.checkpoint()
                assert checkpoint is not None
                begun = checkpoint.refresh or begun
                assert begun.scan_id == FIRST
            spec = with_refresh(session.load(refresh(pre_action), scan_id=_SECOND), begun)
            writer = await session.prepare(spec)
            await write(writer, _NEW)
            await session.commit(writer)
            await session.finish(writer)
        assert in_order(await self.contents(TABLE)) == in_order(_NEW)
        archives = await self._archives()
        assert len(archives) == (pre_action is PreAction.RENAME_AND_CREATE)
        for archive in archives:
            assert in_order(await self.contents(archive)) == in_order(_OLD)

    async def test_a_pre_action_with_an_old_fence_touches_nothing(self) -> None:
        self.needs_transactions()
        declared = sorted(self.pre_actions - {PreAction.NONE})
        if not declared:
            pytest.skip("this target has no pre-action")
        await self.loaded(_OLD)
        async with self.session() as old, self.session():
            for pre_action in declared:
                with pytest.raises(LeaseLost):
                    await old.prepare(old.load(refresh(pre_action)))
        assert in_order(await self.contents(TABLE)) == in_order(_OLD)
        assert await self.tables() == [TABLE]

    async def _half(self, session: Session, table: TableSpec, *, crash: bool = False) -> TableWriter:
        """A refresh of which two rows are committed, and which then goes no further."""
        writer = await session.prepare(session.load(table), crash=crash)
        await write(writer, _NEW[:2])
        begun = None if table.pre_action.has_shadow else Refresh(FIRST, str(table.pre_action))
        await writer.commit(session.fenced(None, refresh=begun), Slice(index=0), 0)
        return writer

    async def _note_is_kept(self, session: Session) -> None:
        if session.store is not None:
            checkpoint = await session.checkpoint()
            assert checkpoint is not None
            assert checkpoint.refresh is not None
            assert checkpoint.refresh.scan_id == FIRST

    async def _archives(self) -> list[str]:
        return sorted(name for name in await self.tables() if name != TABLE)
