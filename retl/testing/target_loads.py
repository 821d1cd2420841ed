"""The contract of a target: several loads at once, and loads that are left early."""

from __future__ import annotations

import anyio
import pytest

from retl.testing.oracle import in_order
from retl.testing.rows import table_spec
from retl.testing.target_base import TABLE, UPSERT, TargetBase, rows_of, write
from retl.testing.target_commits import TargetCommits
from retl.testing.target_refreshes import TargetRefreshes
from retl.testing.target_writes import TargetWrites

_OTHER = "contract_orders_2"


class TargetLoads(TargetBase):
    """A target is a door: nothing of a load stays in it, and no load disturbs another."""

    async def test_loads_of_two_tables_are_open_at_once(self) -> None:
        """One of them is given up; it takes nothing of the other one with it."""
        mine, theirs = rows_of(range(1, 2_001)), rows_of(range(1, 1_501), name="other")
        async with self.session() as session:
            first = await session.prepare()
            second = await session.prepare(session.load(table_spec(_OTHER, cursor="updated_at", key="id")))
            await write(first, mine[:1_000])
            await session.commit(first)
            await write(second, theirs[:500])
            await session.commit(second)
            await write(first, mine[1_000:])
            await session.commit(first)
            await session.abort(second)
            await session.finish(first)
        assert in_order(await self.contents(TABLE)) == in_order(mine)
        assert in_order(await self.contents(_OTHER)) == in_order(theirs[:500])

    @pytest.mark.parametrize("how", ["error", "cancel"])
    async def test_a_load_that_is_left_early_leaves_nothing_staged(self, how: str) -> None:
        self.needs_staging()
        await self.loaded(rows_of([1]))
        before = await self.tables()
        async with self.session() as session:
            with anyio.CancelScope() as cancelling:
                try:
                    async with session.target.open_load(session.load(UPSERT), None) as writer:
                        await write(writer, rows_of([2]))
                        await session.commit(writer)
                        await write(writer, rows_of([3]))
                        if how == "error":
                            raise LookupError
                        cancelling.cancel()
                        await anyio.sleep_forever()
                except LookupError:
                    pass
            assert await self.tables() == before
            await session.scan(rows_of([4]))
        assert in_order(await self.contents(TABLE)) == in_order(rows_of([1, 2, 4]))


class TargetContract(TargetWrites, TargetCommits, TargetRefreshes, TargetLoads):
    """Holds a target to every sentence of ``retl.connectors.base``.

    Inherit it in a test module, under a name that begins with ``Test``, and fill in the
    hooks: ``target``, ``contents``, ``tables`` and, where there is such a thing,
    ``unreachable``. They are told what they must do in ``retl.testing.target_base``; what
    the system cannot do is said there too, by flags.
    """
