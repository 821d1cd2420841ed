"""The line to a server is cut after any byte, and when a commit has been sent: nothing is lost, nothing doubled."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import pytest

from retl.model import events
from retl.model.errors import ConnectionFailed
from tests import tiers
from tests.adversity.feed import Feed, Heard
from tests.adversity.looks import MySQLLook, ServerLook, look_at_new
from tests.adversity.patches import patch_backoff
from tests.adversity.statements import Moment, acting
from tests.servers.database import Server
from tests.servers.proxy import Direction, Proxy

pytestmark = pytest.mark.adversity

Side = Literal["source", "target"]
EVERY_STEP = tiers.every_step()
CUTS = tiers.by_tier(2, 4, 40)
"""How many cuts in each direction."""


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_backoff(monkeypatch, 0.0)


@dataclass
class Line:
    """A feed, one side of which is reached through a proxy."""

    feed: Feed
    proxy: Proxy
    passed: dict[Direction, int] = field(default_factory=dict)
    """The bytes of a scan that nothing has happened to."""

    async def measure(self) -> None:
        before = dict(self.proxy.passed)
        self.feed.more()
        assert (await self.feed.pipeline().run_once()).ok
        self.feed.check()
        self.passed = {way: self.proxy.passed[way] - before[way] for way in before}

    async def get_there(self) -> None:
        """One scan, which gets over whatever happens once it has begun; who takes the lease may be told of it."""
        pipeline = self.feed.pipeline()
        heard = Heard(pipeline)
        try:
            assert (await pipeline.run_once()).ok
        except ConnectionFailed:
            assert heard.count(events.ScanStarted) == 0
            self.feed.check_meanwhile()
            assert (await self.feed.pipeline().run_once()).ok
        self.feed.check()


class Reached(MySQLLook):
    """A database that jobs reach through a proxy, and looks do not."""

    def __init__(self, look: ServerLook, proxy: Proxy) -> None:
        super().__init__(look.server, look.database)
        self._proxy = proxy

    @property
    def address(self) -> str:
        return self.server.at(self._proxy.host, self._proxy.port).url(self.database)


@asynccontextmanager
async def line(side: Side, mode: str, servers: dict[Side, Server]) -> AsyncIterator[Line]:
    server = servers[side]
    with ExitStack() as stack:
        looks = {end: stack.enter_context(look_at_new(servers[end])) for end in get_args(Side)}
        async with Proxy(server.host, server.port) as proxy:
            looks[side] = reached = Reached(looks[side], proxy)
            stack.callback(reached.close)
            made = Line(Feed(mode, looks["source"], looks["target"]), proxy)
            await made.feed.pipeline().run_once()
            made.feed.check()
            yield made


@pytest.fixture
def servers(mariadb_server: Server, mysql_server: Server) -> dict[Side, Server]:
    return {"source": mariadb_server, "target": mysql_server}


@pytest.mark.parametrize(
    ("side", "mode"),
    [("target", mode) for mode in ("append", "truncate", "rename_and_create", "swap")]
    + [("source", "append"), ("source", "swap")],
)
async def test_a_line_that_is_cut_after_any_byte(side: Side, mode: str, servers: dict[Side, Server]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with line(side, mode, servers) as made:
        await made.measure()
        for way in get_args(Direction):
            stride = made.passed[way] // CUTS
            for number in range(CUTS):
                made.feed.more()
                made.proxy.break_after(
                    number * stride + chance.randrange(stride), way, chance.choice(("reset", "close"))
                )
                await made.get_there()
                made.proxy.mend()
        assert made.proxy.broken >= CUTS


# The statement does not arrive as a whole; its answer is lost.
LOST: list[tuple[Direction, int]] = [("to_server", 5), ("to_client", 0)]
if EVERY_STEP:
    LOST += [("to_server", 0), ("to_client", 5)]
MOMENTS = [
    *itertools.product(["append"], ["UPDATE retl_leases AS l > COMMIT"], [1, 2]),
    *itertools.product(["truncate"], ["UPDATE retl_leases AS l > COMMIT"], [1, 2]),
    ("swap", "UPDATE retl_leases AS l > COMMIT", 1),
    ("swap", "RENAME", 1),
    ("rename_and_create", "RENAME", 1),
    ("rename_and_create", "DROP", 1),
]


@pytest.mark.parametrize(("mode", "words", "count"), MOMENTS, ids=lambda value: str(value).replace(" ", "-"))
async def test_the_answer_of_a_commit_is_lost(
    mode: str, words: str, count: int, servers: dict[Side, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have done it, or not: only it knows."""
    async with line("target", mode, servers) as made:
        await made.measure()
        for way, after in LOST:
            made.feed.more()

            async def cut(way: Direction = way, after: int = after) -> None:
                made.proxy.break_after(after, way, "reset")

            moment = Moment(made.proxy.port, words, "before", cut, count)
            with acting(monkeypatch, moment):
                await made.get_there()
            assert moment.came, moment.seen
            made.proxy.mend()
        assert made.proxy.broken == len(LOST)
