"""Two processes run the same pipeline into one MySQL: only one of them writes, and what the other has in hand is refused."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from tests import tiers
from tests.adversity.feed import Feed
from tests.adversity.jobs import Job
from tests.adversity.looks import look_at_new
from tests.adversity.owner import check_takeover, owner
from tests.servers.database import Server

pytestmark = pytest.mark.adversity

SHORT = 1.0
"""Seconds of silence after which a lease is free."""
FAILED = "ScanFailed:LeaseLost"


def service(feed: Feed, *, ttl: float, interval: str = "50ms") -> Job:
    return msgspec.structs.replace(feed.job, lease_ttl=ttl, interval=interval)


@pytest.mark.parametrize("mode", tiers.some("incremental", "swap"))
def test_only_one_of_two_writes_and_the_other_takes_over_when_it_dies(
    mode: str, mariadb_server: Server, mysql_server: Server
) -> None:
    """Although the lease would be valid for a minute more: a dead process need not be waited for."""
    with look_at_new(mariadb_server) as source, look_at_new(mysql_server) as target:
        feed = Feed(mode, source, target)
        check_takeover(service(feed, ttl=60), feed.more)
        feed.check()


@pytest.mark.parametrize(
    "mode", tiers.some("append", "swap", "incremental", "truncate", "rename_and_create", of_small=2)
)
def test_a_frozen_owner_that_wakes_up_late_is_refused(mode: str, mariadb_server: Server, mysql_server: Server) -> None:
    """It has old rows in hand, and stands right before a commit."""
    with look_at_new(mariadb_server) as source, look_at_new(mysql_server) as target:
        feed = Feed(mode, source, target)
        anyio.run(feed.pipeline().run_once)
        feed.check()
        feed.more()
        with owner(service(feed, ttl=SHORT), freeze_at="SliceCommitted") as first:
            first.wait_frozen()
            feed.more()
            with owner(service(feed, ttl=SHORT, interval="1h")) as second:
                second.wait("ScanFinished")
                feed.check()
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
