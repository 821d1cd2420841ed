"""Two processes run the same pipeline into one PostgreSQL: only one writes, and what the other has in hand is refused."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec
import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.jobs import Job
from tests.adversity.looks import SQLiteLook, look_at_new
from tests.adversity.owner import check_takeover, owner
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.adversity

SHORT = 1.0
"""Seconds of silence after which a lease is free."""
FAILED = "ScanFailed:LeaseLost"


@pytest.mark.parametrize(
    "mode", tiers.some("truncate", "rename_and_create", "mirror", "incremental", "append", "swap", of_small=3)
)
def test_a_frozen_owner_that_wakes_up_late_is_refused(mode: str, pg: PostgresServer, folder: Path) -> None:
    """It has old rows in hand, and stands right before a commit. Its stage is dropped, and no rows get into the new one."""
    with look_at_new(pg) as target:
        feed = Feed(mode, SQLiteLook(folder / "source.db"), target)
        anyio.run(feed.pipeline().run_once)
        feed.check()
        feed.more()
        with owner(service(feed), freeze_at="SliceCommitted") as first:
            first.wait_frozen()
            feed.more()
            with owner(service(feed, interval="1h")) as second:
                second.wait("ScanFinished")
                feed.check(frozen=True)
                first.go_on()
                first.wait(FAILED)
                first.wait("LeaseHeld")
                assert first.events[first.events.index(FAILED) :].count("SliceCommitted") == 0
                feed.check_again()
                second.kill()
                first.wait("ScanFinished")
                first.kill()
        target.settle()
        feed.more()
        anyio.run(feed.pipeline().run_once)
        feed.check_rows()


@pytest.mark.large
def test_only_one_of_two_writes_and_the_other_takes_over_when_it_dies(pg: PostgresServer, folder: Path) -> None:
    """Although the lease would be valid for a minute more: a dead process need not be waited for."""
    with look_at_new(pg) as target:
        feed = Feed("incremental", SQLiteLook(folder / "source.db"), target)
        check_takeover(msgspec.structs.replace(service(feed), lease_ttl=60.0), feed.more)
        target.settle()
        feed.check()


def service(feed: Feed, *, interval: str = "50ms") -> Job:
    return msgspec.structs.replace(feed.job, lease_ttl=SHORT, interval=interval)
