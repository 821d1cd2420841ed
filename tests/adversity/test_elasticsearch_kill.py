"""Scans from index to index are killed with SIGKILL at random instants; the server outlives them, and cannot undo anything."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests import tiers
from tests.adversity.fork_server import ForkServer, fork_server
from tests.adversity.search_world import SearchLook, SearchWorld
from tests.adversity.world import survive
from tests.servers.search import SearchServer

pytestmark = pytest.mark.adversity

KILLS = tiers.number(100)
SHARES = {"incremental": 0.4, "none": 0.1, "truncate": 0.25, "swap": 0.25}


@pytest.fixture(scope="module")
def scans() -> Iterator[ForkServer]:
    with fork_server() as started:
        yield started


@pytest.mark.parametrize("mode", SHARES)
def test_nothing_is_lost_or_doubled_by_a_kill(
    mode: str, scans: ForkServer, elasticsearch_server: SearchServer, prefix: str
) -> None:
    seed = random.randrange(2**32)
    print(f"{mode}: seed {seed}")
    world = SearchWorld(mode, SearchLook(elasticsearch_server, prefix), random.Random(seed))
    print(f"{mode}: {survive(world, scans, round(KILLS * SHARES[mode]), spread=0.01)}")
