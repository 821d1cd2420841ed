"""A server is killed with SIGKILL in the middle of a scan and started again: the pipeline gets there by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
import anyio.to_thread
import pymysql
import pytest

from retl.model import events
from tests import tiers
from tests.adversity.feed import Feed, Heard
from tests.adversity.looks import look_at_new
from tests.adversity.patches import patch_backoff
from tests.adversity.statements import Moment, When, acting
from tests.servers.database import Server

pytestmark = pytest.mark.adversity


CHECKPOINT = "UPDATE retl_leases AS l > COMMIT"


@dataclass(frozen=True)
class Case:
    """A moment of a scan: the ``count``-th statement that begins so, as ``Moment`` takes it."""

    mode: str
    words: str
    when: When
    count: int = 1
    width: int = 3000
    """How long a row is. Of a long result only the beginning has left the server when it dies."""

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.when}-{self.words}-{self.count}{'-long' if self.width > 3000 else ''}".replace(
            " ", "-"
        )


TARGET = [
    Case("append", CHECKPOINT, "before"),
    Case("append", CHECKPOINT, "unheard", 2),
    Case("incremental", "LOAD", "before", 2),
    Case("truncate", "TRUNCATE", "after"),
    Case("truncate", CHECKPOINT, "unheard", 2),
    Case("rename_and_create", "RENAME", "unheard"),
    Case("swap", "RENAME", "before"),
    Case("swap", "RENAME", "unheard"),
]
SOURCE = [
    Case("append", "SELECT CAST(MIN", "before"),
    Case("append", "SELECT `id`", "before", 2),
    Case("swap", "SELECT `id`", "before"),
    Case("swap", "SELECT `id`", "after", width=150_000),
]


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_backoff(monkeypatch, 0.05)


@pytest.fixture
def started_again(mysql_server: Server, mariadb_server: Server) -> Iterator[None]:
    """Whatever a test does, the next one finds both servers."""
    yield
    for server in (mysql_server, mariadb_server):
        try:
            server.look()
        except pymysql.Error:
            server.restart()


@pytest.mark.usefixtures("started_again")
@pytest.mark.parametrize(
    ("victim", "case"),
    [*(("target", case) for case in TARGET), *(("source", case) for case in SOURCE)][:: tiers.by_tier(3, 1, 1)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
async def test_a_scan_survives_a_server_that_is_killed(
    victim: str, case: Case, mysql_server: Server, mariadb_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mysql_server if victim == "target" else mariadb_server
    retried = anyio.Event()
    with ExitStack() as stack:
        source, target = (stack.enter_context(look_at_new(each)) for each in (mariadb_server, mysql_server))
        feed = Feed(case.mode, source, target, width=case.width)
        await feed.pipeline().run_once()
        feed.check()
        feed.more(30)

        async def kill() -> None:
            await anyio.to_thread.run_sync(server.kill)

        async def start_again() -> None:
            await retried.wait()
            await anyio.to_thread.run_sync(server.start)

        moment = Moment(server.port, case.words, case.when, kill, case.count)
        pipeline = feed.pipeline()
        heard = Heard(pipeline)
        heard.at(events.RetryScheduled, retried.set)
        with acting(monkeypatch, moment):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(start_again)
                report = await pipeline.run_once()
                assert moment.came, moment.seen
                assert retried.is_set()
                tasks.cancel_scope.cancel()
        assert report.ok
        feed.check()
        # The next one finds nothing amiss either.
        feed.more()
        assert (await feed.pipeline().run_once()).ok
        feed.check()
