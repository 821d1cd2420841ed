"""A scan from MySQL to MySQL is cancelled at its steps: no task, no connection and no table is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.looks import ServerLook, look_at_new
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
                no_session_left(look)

        await cancel_at_steps(feed, kind, POINTS, settle)


def no_session_left(look: ServerLook) -> None:
    """A server notices a moment later that a line is cut."""
    wait_until(lambda: not look.sessions(), lambda: look.sessions())


def wait_until(holds: Callable[[], bool], left: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, left()
        time.sleep(0.002)
