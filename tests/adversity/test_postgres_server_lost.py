"""A PostgreSQL is killed in the middle of a scan, becomes a replica or has no room: told, and got over without a loss."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import psycopg
import pytest

from retl.connectors.postgres.connection import PostgresConnection
from retl.model import events
from retl.model.errors import ConnectionFailed
from tests import tiers
from tests.adversity.feed import Feed, Heard
from tests.adversity.looks import PostgresLook, SQLiteLook, look_at_new
from tests.adversity.patches import patch_backoff
from tests.servers import postgres
from tests.servers.disk import small_disk
from tests.servers.postgres import PostgresServer
from tests.servers.process import give
from tests.servers.proxy import Proxy
from tests.servers.standby import following

pytestmark = pytest.mark.adversity

When = Literal["before", "unheard"]
"""Before the call reaches the server, or after it has done it and before the answer is heard."""
COPY, COMMIT = "copy_in", "commit"
FIRST, MORE, SLICES = 40, 30, 7
"""Rows at first and in the scan that is disturbed, and the slices of all of them."""
CASES: list[tuple[str, str, When, int]] = [
    ("mirror", COMMIT, "unheard", 3),
    ("truncate", COMMIT, "before", 2),
    ("append", COPY, "before", 1),
    ("append", COMMIT, "before", 1),
    ("append", COMMIT, "unheard", 1),
    ("incremental", COPY, "unheard", 1),
    ("truncate", COMMIT, "unheard", 2),
    ("rename_and_create", COMMIT, "unheard", 2),
    ("swap", COMMIT, "before", SLICES),
    ("swap", COMMIT, "unheard", SLICES),
    ("mirror", COPY, "before", 2),
    ("mirror", COMMIT, "before", SLICES),
]
"""Mode and call, and after how many slices: the commit that follows the last one ends the refresh."""


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_backoff(monkeypatch, 0.05)


@pytest.fixture
def started_again(pg: PostgresServer) -> Iterator[None]:
    """Whatever a test does, the next one finds the server."""
    yield
    try:
        pg.look()
    except psycopg.Error:
        pg.restart()


@contextmanager
def at_call(
    monkeypatch: pytest.MonkeyPatch, name: str, when: When, now: anyio.Event, act: Callable[[], Awaitable[object]]
) -> Iterator[None]:
    """Act at the first call of a method of the connections to the target once it is ``now``."""
    original: Callable[..., Awaitable[Any]] = getattr(PostgresConnection, name)
    left = [act]

    async def call(connection: PostgresConnection, *arguments: Any, **words: Any) -> Any:
        acts = left.pop() if left and now.is_set() else None
        if acts and when == "before":
            await acts()
        result = await original(connection, *arguments, **words)
        if acts and when == "unheard":
            await acts()
            connection.abort()
            raise ConnectionFailed("the answer is lost.", remedy="-")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(PostgresConnection, name, call)
        yield
    assert not left, f"no {name} came"


@pytest.mark.usefixtures("started_again")
@pytest.mark.parametrize(
    ("mode", "name", "when", "slices"), CASES[:: tiers.by_tier(12, 1, 1)], ids=lambda value: str(value)
)
async def test_a_scan_survives_a_server_that_is_killed(
    mode: str, name: str, when: When, slices: int, pg: PostgresServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was staged, and the shadow of a mirror, are unlogged: they are empty when the server is back."""
    now, retried = anyio.Event(), anyio.Event()
    with look_at_new(pg) as target:
        feed = Feed(mode, SQLiteLook(folder / "source.db"), target, first=FIRST, width=300)
        await feed.pipeline().run_once()
        feed.check()
        feed.more(MORE)

        async def kill() -> None:
            await anyio.to_thread.run_sync(pg.kill)

        async def start_again() -> None:
            await retried.wait()
            await anyio.to_thread.run_sync(pg.start)

        pipeline = feed.pipeline()
        heard = Heard(pipeline)
        heard.at(events.SliceCommitted, now.set, slices)
        heard.at(events.RetryScheduled, retried.set)
        with at_call(monkeypatch, name, when, now, kill):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(start_again)
                report = await pipeline.run_once()
                assert retried.is_set()
                tasks.cancel_scope.cancel()
        assert report.ok
        feed.check()
        feed.more()
        assert (await feed.pipeline().run_once()).ok
        feed.check()


class Reached(PostgresLook):
    """A database that jobs reach through a proxy, and looks do not."""

    proxy: Proxy

    @property
    def address(self) -> str:
        return self.server.at(self.proxy.host, self.proxy.port).url(self.database)


@pytest.mark.large
@pytest.mark.processes
@pytest.mark.parametrize("mode", ["append", "swap", "mirror"])
async def test_a_server_that_becomes_a_replica_for_a_while(mode: str, folder: Path) -> None:
    """As during a failover, where an address leads to the wrong one of two servers."""
    with (
        postgres.started(18) as primary,
        primary.fresh_database() as database,
        following(primary, 18) as standby,
        closing(Reached(primary, database)) as target,
    ):
        async with Proxy(primary.host, primary.port) as target.proxy:
            feed = Feed(mode, SQLiteLook(folder / "source.db"), target)
            await feed.pipeline().run_once()
            feed.check()
            feed.more(30)
            pipeline = feed.pipeline()
            heard = Heard(pipeline)
            heard.at(events.SliceCommitted, lambda: target.proxy.lead_to(standby.host, standby.port))
            # The first attempt fails with the connection, the second one at the replica.
            heard.at(events.RetryScheduled, lambda: target.proxy.lead_to(primary.host, primary.port), 2)
            assert (await pipeline.run_once()).ok
            retries = [event.error for event in heard.events if isinstance(event, events.RetryScheduled)]
            assert any("does not allow writing now" in error for error in retries), retries
            feed.check(frozen=True)
            target.settle()
            feed.more()
            assert (await feed.pipeline().run_once()).ok
            feed.check()


ROWS = 600


@pytest.mark.large
@pytest.mark.parametrize("mode", ["append", "truncate", "swap", "mirror"])
async def test_a_full_disk_is_told_and_the_scan_goes_on_when_there_is_room(
    mode: str, postgres_server: PostgresServer, folder: Path
) -> None:
    with (
        small_disk(40) as disk,
        database_on(disk, postgres_server) as database,
        closing(PostgresLook(postgres_server, database)) as target,
    ):
        feed = Feed(mode, SQLiteLook(folder / "source.db"), target, width=1_500, slice_rows=ROWS)
        await feed.pipeline().run_once()
        feed.check()
        feed.more(ROWS)
        ballast = disk / "ballast"
        fill(ballast)
        pipeline = feed.pipeline()
        heard = Heard(pipeline)
        heard.at(events.RetryScheduled, ballast.unlink)
        assert (await pipeline.run_once()).ok
        retries = [event.error for event in heard.events if isinstance(event, events.RetryScheduled)]
        assert retries and "make room" in retries[0]
        feed.check()


@contextmanager
def database_on(disk: Path, server: PostgresServer) -> Iterator[str]:
    """A database whose tables lie on a disk; the log of the server does not, or the server would end where it is full."""
    place = disk / "tables"
    place.mkdir()
    give(place)
    server.query(f"CREATE TABLESPACE small LOCATION '{place}'")
    server.query("CREATE DATABASE on_small_disk TEMPLATE template0 TABLESPACE small")
    try:
        yield "on_small_disk"
    finally:
        server.query("DROP DATABASE on_small_disk WITH (FORCE)")
        server.query("DROP TABLESPACE small")


def fill(ballast: Path) -> None:
    """Leave 200 kB of a disk."""
    space = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - 200 * 1024))
