"""A scan from MySQL to MySQL is cancelled at its steps: no task, no connection and no table is left behind."""

from __future__ import annotations

import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.looks import look_at_new
from tests.adversity.steps import Kind, cancel_at_steps
from tests.servers.database import Server

pytestmark = pytest.mark.adversity

POINTS = tiers.by_tier(3, 5, 60)
"""At how many of its steps, some hundreds, a scan is cancelled; which ones differs from run to run."""


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("mode", ["append", "truncate", "rename_and_create", "swap"])
async def test_a_scan_can_be_cancelled_at_any_step(mode: str, kind: Kind, mysql_server: Server) -> None:
    with look_at_new(mysql_server) as source, look_at_new(mysql_server) as target:
        feed = Feed(mode, source, target)

        def settle() -> None:
            for look in (source, target):
                look.settle()

        await cancel_at_steps(feed, kind, POINTS, settle)
