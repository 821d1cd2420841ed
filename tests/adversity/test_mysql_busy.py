"""A MySQL that has no room, is locked by others or may not be written for a while: told in time, and got over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pymysql
import pytest

import retl
from retl.model import events
from tests.adversity.feed import Feed, Heard
from tests.adversity.looks import ServerLook, look_at_new
from tests.adversity.patches import patch_backoff
from tests.adversity.statements import Moment, acting
from tests.servers import mysql
from tests.servers.database import Server
from tests.servers.disk import small_disk

pytestmark = pytest.mark.adversity

CHECKPOINT = "UPDATE retl_leases AS l > COMMIT"


@pytest.fixture
def no_blocking_call() -> None:
    """Not watched here: the looks into the servers are meant to be so."""


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_backoff(monkeypatch, 0.05)


@pytest.fixture
def only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not tried again: the pause would be longer than there is patience for."""
    patch_backoff(monkeypatch, 1_000.0)


@contextmanager
def feed_to(mode: str, source: Server, target: Server, **words: int) -> Iterator[Feed]:
    with ExitStack() as stack:
        looks = [stack.enter_context(look_at_new(server)) for server in (source, target)]
        yield Feed(mode, looks[0], looks[1], **words)


# Locks --------------------------------------------------------------------------


def lock(look: ServerLook, sql: str) -> pymysql.Connection:
    """A transaction of somebody else that has run one statement."""
    connection = look.server.connect(look.database)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(sql)
    return connection


LOCKS = {
    # A row; whoever reads a table keeps it from being emptied or renamed.
    "incremental": "SELECT * FROM copy WHERE id = 3 FOR UPDATE",
    "truncate": "SELECT * FROM copy LIMIT 1",
    "rename_and_create": "SELECT * FROM copy LIMIT 1",
    "swap": "SELECT * FROM copy LIMIT 1",
}


@pytest.mark.usefixtures("only_once")
@pytest.mark.parametrize("mode", LOCKS)
async def test_a_lock_is_waited_for_no_longer_than_lock_timeout(
    mode: str, mariadb_server: Server, mysql_server: Server
) -> None:
    with feed_to(mode, mariadb_server, mysql_server, lock_timeout=1) as feed:
        await feed.pipeline().run_once()
        feed.check()
        feed.more()
        assert isinstance(feed.target, ServerLook)
        with closing(lock(feed.target, LOCKS[mode])):
            began = time.monotonic()
            with pytest.raises(retl.TargetBusy, match=r"p / t: a lock at .* was not released in time"):
                await feed.pipeline().run_once()
            assert time.monotonic() - began < 15
            feed.check_meanwhile()
        assert (await feed.pipeline().run_once()).ok
        feed.check()


@pytest.mark.usefixtures("at_once")
async def test_a_reader_of_a_shadow_holds_the_switch_up_until_it_is_gone(
    mariadb_server: Server, mysql_server: Server
) -> None:
    with feed_to("swap", mariadb_server, mysql_server, lock_timeout=1) as feed:
        await feed.pipeline().run_once()
        feed.check()
        feed.more()
        pipeline = feed.pipeline()
        heard = Heard(pipeline)
        held: list[pymysql.Connection] = []

        def hold() -> None:
            assert isinstance(feed.target, ServerLook)
            (shadow,) = (name for name in feed.target.tables() if name.startswith("_retl_new_"))
            held.append(lock(feed.target, f"SELECT * FROM {shadow}"))

        heard.at(events.SliceCommitted, hold)
        heard.at(events.RetryScheduled, lambda: held[0].close())
        assert (await pipeline.run_once()).ok
        assert heard.count(events.RetryScheduled) >= 1
        feed.check()


async def test_a_transaction_that_falls_to_a_deadlock_is_run_again(
    mariadb_server: Server, mysql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with feed_to("incremental", mariadb_server, mysql_server, first=60, slice_rows=60) as feed:
        await feed.pipeline().run_once()
        feed.check()
        feed.more()
        look = feed.target
        assert isinstance(look, ServerLook)
        look.write(("CREATE TABLE retl_ballast (id INT PRIMARY KEY)", [()]))
        with closing(look.server.connect(look.database)) as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            # The lighter one of the two is undone.
            cursor.executemany("INSERT INTO retl_ballast VALUES (%s)", [(number,) for number in range(5_000)])
            cursor.execute("SELECT * FROM copy WHERE id = 57 FOR UPDATE")

            def cross() -> None:
                look.server.wait_for_a_lock_wait()
                cursor.execute("SELECT * FROM copy WHERE id = 0 FOR UPDATE")
                other.rollback()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, cross)
                moment = Moment(look.server.port, "there is none", "before", anyio.lowlevel.checkpoint)
                pipeline = feed.pipeline()
                heard = Heard(pipeline)
                with acting(monkeypatch, moment):
                    assert (await pipeline.run_once()).ok
        assert heard.count(events.RetryScheduled) == 0
        assert sum("ON DUPLICATE KEY UPDATE" in sql for sql in moment.seen) == 2
        feed.check()


# Room and rights ----------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("mode", "words"),
    [("append", CHECKPOINT), ("append", "INSERT INTO `"), ("truncate", CHECKPOINT), ("swap", "RENAME")],
)
async def test_a_server_that_is_read_only_for_a_while(
    mode: str, words: str, mariadb_server: Server, mysql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during a failover: the user may do everything, and yet not write."""
    with feed_to(mode, mariadb_server, mysql_server) as feed:
        await feed.pipeline().run_once()
        feed.check()
        feed.more()
        pipeline = feed.pipeline()
        heard = Heard(pipeline)

        async def close() -> None:
            await mysql_server.run("SET GLOBAL super_read_only = ON")

        def open() -> None:
            mysql_server.query("SET GLOBAL super_read_only = OFF, read_only = OFF")

        heard.at(events.RetryScheduled, open)
        moment = Moment(mysql_server.port, words, "before", close)
        try:
            with acting(monkeypatch, moment):
                assert (await pipeline.run_once()).ok
        finally:
            open()
        assert moment.came, moment.seen
        (retry,) = (event for event in heard.events if isinstance(event, events.RetryScheduled))
        assert "does not allow writing now" in retry.error
        feed.check()


@pytest.mark.usefixtures("at_once")
async def test_a_full_disk_is_told_and_the_scan_goes_on_when_there_is_room(mariadb_server: Server) -> None:
    with small_disk(400) as disk, mysql.started(folder=disk) as server:
        for mode in ("append", "swap"):
            with feed_to(mode, mariadb_server, server, width=30_000) as feed:
                await feed.pipeline().run_once()
                feed.check()
                feed.more(300)
                ballast = disk / "ballast"
                fill(ballast)
                pipeline = feed.pipeline()
                heard = Heard(pipeline)
                heard.at(events.RetryScheduled, ballast.unlink)
                assert (await pipeline.run_once()).ok
                retries = [event.error for event in heard.events if isinstance(event, events.RetryScheduled)]
                assert retries and "make room" in retries[0]
                feed.check()


def fill(ballast: Path) -> None:
    """Leave two megabytes of a disk."""
    space = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - 2 * 1024 * 1024))
