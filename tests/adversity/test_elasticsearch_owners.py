"""Two processes run the same pipeline into one index: only one of them writes, and no old document replaces a newer one."""

from __future__ import annotations

import time

import msgspec
import pytest

from tests import tiers
from tests.adversity.jobs import Job
from tests.adversity.owner import owner
from tests.adversity.search_world import Documents, SearchLook, moment
from tests.servers.search import SearchServer

pytestmark = pytest.mark.adversity

SHORT = 2.0
"""Seconds of silence after which a lease is free."""
FAILED = "ScanFailed:LeaseLost"
SECOND = 10**9
BEGINNING = 1_706_745_600 * SECOND


def service(job: Job, *, ttl: float, interval: str = "50ms") -> Job:
    return msgspec.structs.replace(job, lease_ttl=ttl, interval=interval)


def documents(age: str, first: int = 0, count: int = 40) -> Documents:
    """The same documents, older or newer."""
    start = BEGINNING + {"old": 0, "new": 1000, "newest": 2000}[age] * SECOND
    return {
        f"{n:03}": f'{{"at": "{moment(start + n * SECOND)}", "age": "{age}"}}'.encode()
        for n in range(first, first + count)
    }


@pytest.fixture
def look(elasticsearch_server: SearchServer, prefix: str) -> SearchLook:
    return SearchLook(elasticsearch_server, prefix)


@pytest.mark.parametrize("mode", tiers.some("swap", "incremental"))
def test_only_one_of_two_writes_and_the_other_takes_over_when_it_dies(mode: str, look: SearchLook) -> None:
    """Although the lease would be valid for a minute more: a dead process need not be waited for."""
    look.write(documents("old"))
    job = service(look.job(mode), ttl=60)
    with owner(job) as first:
        first.wait("ScanFinished")
        with owner(job) as second:
            second.wait("LeaseHeld")
            first.wait_again("ScanFinished")
            assert not {"LeaseAcquired", "ScanStarted"} & {*second.events}
            look.write(documents("new", 20))
            first.kill()
            began = time.monotonic()
            second.wait("ScanFinished")
            assert time.monotonic() - began < 30
            second.kill()
    look.settle()
    assert look.documents() == {**documents("old"), **documents("new", 20)}


@pytest.mark.parametrize("mode", tiers.some("incremental", "swap", "none", "truncate", of_small=2))
def test_a_frozen_owner_that_wakes_up_late_puts_nothing_old_over_what_is_new(mode: str, look: SearchLook) -> None:
    """It has old documents in hand, and stands between two commits."""
    look.write(documents("old"))
    with owner(service(look.job(mode), ttl=SHORT), freeze_at="SliceCommitted") as first:
        first.wait_frozen()
        look.write(documents("new"))
        with owner(service(look.job(mode), ttl=SHORT, interval="1h")) as second:
            second.wait("ScanFinished")
            assert look.documents() == documents("new")
            first.go_on()
            first.wait(FAILED)
            first.wait("LeaseHeld")
            assert first.events[first.events.index(FAILED) :].count("SliceCommitted") == 0
            assert look.documents() == documents("new")
            look.write(documents("newest", 10, 10))
            second.kill()
            first.wait("ScanFinished")
            first.kill()
    look.settle()
    assert look.documents() == {**documents("new"), **documents("newest", 10, 10)}
    assert look.leftovers() == []
