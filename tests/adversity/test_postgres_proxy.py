"""The line to a PostgreSQL is cut after any byte, and when a commit has been sent: nothing is lost, nothing doubled."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import get_args

import pytest

from retl.connectors.postgres.connection import PostgresConnection
from retl.model import events
from retl.model.errors import ConnectionFailed
from tests import tiers
from tests.adversity.feed import Feed, Heard
from tests.adversity.looks import PostgresLook, SQLiteLook
from tests.adversity.patches import patch_backoff
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Direction, Proxy

pytestmark = pytest.mark.adversity

CUTS = tiers.by_tier(2, 4, 40)
"""How many cuts in each direction."""
MODES = ("append", "truncate", "rename_and_create", "swap", "mirror")


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_backoff(monkeypatch, 0.0)


class Reached(PostgresLook):
    """A database that jobs reach through a proxy, and looks do not."""

    def __init__(self, server: PostgresServer, database: str, proxy: Proxy) -> None:
        super().__init__(server, database)
        self.proxy = proxy

    @property
    def address(self) -> str:
        return self.server.at(self.proxy.host, self.proxy.port).url(self.database)


@asynccontextmanager
async def line(mode: str, server: PostgresServer, folder: Path) -> AsyncIterator[tuple[Feed, Proxy]]:
    with server.fresh_database() as database:
        async with Proxy(server.host, server.port) as proxy:
            with closing(Reached(server, database, proxy)) as target:
                feed = Feed(mode, SQLiteLook(folder / "source.db"), target)
                await feed.pipeline().run_once()
                feed.check()
                yield feed, proxy
                proxy.mend()
                target.settle()
                assert (await feed.pipeline().run_once()).ok
                feed.check()  # the next scan drops what was left


async def get_there(feed: Feed) -> None:
    """One scan, which gets over whatever happens once it has begun; who takes the lease may be told of it."""
    pipeline = feed.pipeline()
    heard = Heard(pipeline)
    try:
        assert (await pipeline.run_once()).ok
    except ConnectionFailed:
        assert heard.count(events.ScanStarted) == 0
        feed.target.settle()
        assert (await feed.pipeline().run_once()).ok
    feed.check(frozen=True)  # the server may not have noticed yet that the line to a session is cut


@pytest.mark.parametrize("mode", MODES)
async def test_a_line_that_is_cut_after_any_byte(mode: str, pg: PostgresServer, folder: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with line(mode, pg, folder) as (feed, proxy):
        before = dict(proxy.passed)
        feed.more()
        assert (await feed.pipeline().run_once()).ok
        feed.check()
        passed = {way: proxy.passed[way] - before[way] for way in before}
        for way in get_args(Direction):
            stride = passed[way] // CUTS
            for number in range(CUTS):
                feed.more()
                proxy.break_after(number * stride + chance.randrange(stride), way, chance.choice(("reset", "close")))
                await get_there(feed)
                proxy.mend()
        assert proxy.broken >= CUTS


@pytest.mark.parametrize("way", get_args(Direction))
@pytest.mark.parametrize("mode", MODES)
async def test_a_commit_whose_answer_is_lost_is_found_out_from_the_checkpoint(
    mode: str, way: Direction, pg: PostgresServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have done it, or not: only it knows. Cut on its way back, it has."""
    commit = PostgresConnection.commit
    left = 0

    async def cut(connection: PostgresConnection) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            proxy.break_after(0, way, "reset")
        await commit(connection)

    monkeypatch.setattr(PostgresConnection, "commit", cut)
    async with line(mode, pg, folder) as (feed, proxy):
        for number in (4, 8, 12):
            feed.more()
            left = number
            await get_there(feed)
            proxy.mend()
        assert proxy.broken == 3
