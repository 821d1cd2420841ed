"""A scan into or from PostgreSQL is cancelled at its steps: no task, no connection and no table is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.looks import SQLiteLook, look_at_new, look_at_schema
from tests.adversity.steps import Kind, Steps, cancel_at_steps, cancelled_at
from tests.fake_redshift import Cluster, FakeRedshift
from tests.integration.redshift.scene import until
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.adversity

POINTS = tiers.by_tier(3, 5, 60)
"""At how many of its steps, some hundreds, a scan is cancelled; which ones differs from run to run."""


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("mode", ["append", "truncate", "rename_and_create", "swap", "mirror"])
async def test_a_scan_can_be_cancelled_at_any_step(mode: str, kind: Kind, pg: PostgresServer, folder: Path) -> None:
    with look_at_new(pg) as target:
        feed = Feed(mode, SQLiteLook(folder / "source.db"), target)
        await cancel_at_steps(feed, kind, POINTS, target.settle)


@pytest.mark.large
@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("mode", ["append", "swap"])
async def test_so_can_one_from_postgresql(mode: str, kind: Kind, pg: PostgresServer) -> None:
    with look_at_new(pg) as source, look_at_new(pg) as target:

        def settle() -> None:
            source.settle()
            target.settle()

        await cancel_at_steps(Feed(mode, source, target), kind, POINTS, settle)


@pytest.mark.large
@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("mode", ["append", "truncate"])
async def test_so_can_one_from_redshift(
    mode: str, kind: Kind, redshift_server: Cluster, postgres_server: PostgresServer
) -> None:
    with look_at_schema(redshift_server) as source, look_at_new(postgres_server) as target:
        await cancel_at_steps(Feed(mode, source, target), kind, POINTS, target.settle)
    if isinstance(redshift_server, FakeRedshift):
        await until(lambda: not redshift_server.postgres.query(BUSY))


BUSY = "SELECT pid, query FROM pg_stat_activity WHERE usename = 'etl' AND (state = 'active' OR state LIKE 'idle in%')"
"""What goes on at the stand-in for those who read."""
LAST = 40
"""So many steps before its end a scan has committed its last rows, and removes what it has staged."""


@pytest.mark.parametrize("kind", ["task", "scope"])
async def test_a_scan_that_is_cancelled_as_it_ends_leaves_no_stage(
    kind: Kind, pg: PostgresServer, folder: Path
) -> None:
    with look_at_new(pg) as target:
        feed = Feed("append", SQLiteLook(folder / "source.db"), target)
        assert (await feed.pipeline().run_once()).ok
        feed.more()
        steps = Steps()
        assert (await steps.run(feed.pipeline().run_once())).ok
        for step in range(steps.count - LAST, steps.count, tiers.by_tier(8, 3, 1)):
            feed.more()
            await cancelled_at(step, kind, feed.pipeline().run_once)
            target.settle()
            assert [name for name in target.tables() if "_stage_" in name] == [], step
