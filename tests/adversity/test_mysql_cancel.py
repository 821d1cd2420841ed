"""A scan from MySQL to MySQL is cancelled at its steps: no task, no connection and no table is left behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.looks import ServerLook, look_at_new
from tests.adversity.steps import Kind, Steps, cancelled_at
from tests.servers.database import Server

pytestmark = pytest.mark.adversity

POINTS = 60 if tiers.every_step() else 5
"""At how many of its steps, some hundreds, a scan is cancelled; which ones differs from run to run."""


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.mark.parametrize("kind", ["task", "scope"])
@pytest.mark.parametrize("mode", ["append", "truncate", "rename_and_create", "swap"])
async def test_a_scan_can_be_cancelled_at_any_step(mode: str, kind: Kind, mysql_server: Server) -> None:
    with look_at_new(mysql_server) as source, look_at_new(mysql_server) as target:
        feed = Feed(mode, source, target)
        await feed.pipeline().run_once()
        feed.check()
        feed.more()
        steps = Steps()
        assert (await steps.run(feed.pipeline().run_once())).ok
        feed.check()
        stride = max(1, steps.count // POINTS)
        first = random.randint(1, stride)
        print(f"every {stride}th step from step {first} on")
        tasks = asyncio.all_tasks()
        for step in range(first, steps.count, stride):
            feed.more()
            await cancelled_at(step, kind, feed.pipeline().run_once)
            assert asyncio.all_tasks() == tasks
            for look in (source, target):
                no_session_left(look)
            feed.check_meanwhile()
            assert (await feed.pipeline().run_once()).ok
            feed.check()


def no_session_left(look: ServerLook) -> None:
    """A server notices a moment later that a line is cut."""
    wait_until(lambda: not look.sessions(), lambda: look.sessions())


def wait_until(holds: Callable[[], bool], left: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, left()
        time.sleep(0.002)
