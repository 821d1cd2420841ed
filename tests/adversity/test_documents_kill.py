"""Killed at any moment, or frozen while another one goes on, a scan of documents replaces each of them as a whole.

What is paid for is counted where it is paid: no vector is asked for twice, but for those that were under way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from tests import tiers
from tests.adversity.documents_world import AT_ONCE, DocumentWorld, HandbookWorld, LibraryWorld
from tests.adversity.fork_server import ForkServer, fork_server
from tests.adversity.looks import look_at_new
from tests.adversity.owner import owner
from tests.adversity.world import survive
from tests.fake_embeddings import EmbeddingService, Fault
from tests.fake_yuque import FakeYuque
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.adversity

KILLS = tiers.by_tier(3, 40, 200)
"""For each source."""
SHORT = 1.0
"""Seconds of silence after which a lease is free."""

Open = Callable[[str, random.Random], AbstractContextManager[DocumentWorld]]


@pytest.fixture(scope="module")
def scans() -> Iterator[ForkServer]:
    with fork_server() as started:
        yield started


@pytest.fixture
def opened(postgres_server: PostgresServer, yuque: FakeYuque, folder: Path) -> Open:
    """The documents of a source, and an empty database."""

    @contextmanager
    def opened(source: str, chance: random.Random) -> Iterator[DocumentWorld]:
        with look_at_new(postgres_server) as target, EmbeddingService().running() as service:
            if source == "yuque":
                yield HandbookWorld(target, chance, yuque)
            else:
                service.faults = [Fault(wait=lambda: anyio.sleep(0.002))]  # so that a kill finds it at work
                yield LibraryWorld(target, chance, folder, service)

    return opened


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("source", ["yuque", "library"])
def test_no_document_is_half_replaced_by_a_kill(source: str, scans: ForkServer, opened: Open) -> None:
    seed = random.randrange(2**32)
    print(f"{source}: seed {seed}")
    with opened(source, random.Random(seed)) as world:
        print(f"{source} to postgres: {survive(world, scans, KILLS, spread=0.004)}")
        if isinstance(world, LibraryWorld):
            world.forget()
            print(f"{world.paid_in_vain} texts were asked for twice, {AT_ONCE} a kill are allowed")
            assert world.paid_in_vain <= KILLS * AT_ONCE


@pytest.mark.parametrize("source", tiers.some("library", "yuque"))
def test_an_owner_that_was_frozen_replaces_nothing_and_pays_for_nothing_more(source: str, opened: Open) -> None:
    """It has old documents in hand when it wakes up, and another one has read the newer ones."""
    with opened(source, random.Random(source)) as world:
        job = msgspec.structs.replace(world.job, lease_ttl=SHORT, interval="50ms")
        with owner(job, freeze_at="SliceCommitted", count=3) as first:
            first.wait_frozen()
            world.change()
            with owner(msgspec.structs.replace(job, interval="1h")) as second:
                second.wait("ScanFinished")
                assert world.found() == world.expected()
                first.go_on()
                first.wait("ScanFailed:LeaseLost")
                first.wait("LeaseHeld")
                assert world.found() == world.expected()
                if isinstance(world, LibraryWorld):
                    assert len(world.service.twice) <= AT_ONCE
        world.check(ended=True)
