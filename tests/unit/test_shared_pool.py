"""Connectors with the same address and login share connections and their limit, in one event loop of one process."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import retl
from retl.connectors import MySQL, PostgreSQL, Redshift, StarRocks
from retl.connectors.net.pool import ConnectionPool
from retl.connectors.net.server import PoolKey
from retl.connectors.redshift.options import IAM
from tests.unit.test_pool import Fake, Opened


def pool(
    opened: Opened, most: int = 8, *, server: str = "a server", session: str = "reads", **words: Any
) -> ConnectionPool[Fake]:
    return ConnectionPool(opened, max_connections=most, key=PoolKey(server, session), **words)


async def closed(*pools: ConnectionPool[Fake]) -> None:
    for one in pools:
        await one.aclose()


# What is shared -----------------------------------------------------------------


async def test_a_connection_is_handed_on_among_pools_of_one_session() -> None:
    opened = Opened()
    first, second, other = pool(opened), pool(opened), pool(opened, session="writes", writes=True)
    async with first.control() as used:
        pass
    async with second.reserve() as reservation:
        assert await reservation.connection() is used
        async with other.control() as own:
            assert own is not used
    assert len(opened) == 2
    await closed(first, second, other)


async def test_the_limit_is_that_of_the_server_and_the_smallest_that_is_asked_for() -> None:
    opened = Opened()
    large, small = pool(opened, 6), pool(opened, 4)
    async with large.reserve(), large.reserve(), large.reserve():
        further = large.reserve_now()
        assert further is not None
        further.leave()
        async with small.control():
            assert large.reserve_now() is None
    await small.aclose()
    async with large.reserve(), large.reserve(), large.reserve():
        further = large.reserve_now()  # the smaller one is gone
        assert further is not None
        further.leave()
    await closed(large)


async def test_an_idle_connection_of_another_session_makes_room() -> None:
    opened = Opened()
    reads, writes = pool(opened, 4), pool(opened, 4, session="writes", writes=True)
    async with reads.control(), reads.control(), reads.control():
        pass
    async with writes.reserve() as one, writes.control(), writes.control(urgent=True):
        await one.connection()
        assert opened.now <= 4
    await closed(reads, writes)
    assert not opened.now


async def test_other_servers_have_limits_of_their_own() -> None:
    opened = Opened()
    here, there = pool(opened, 2), pool(opened, 2, server="another")
    async with here.reserve(), there.reserve(), here.control(), there.control():
        assert here.reserve_now() is there.reserve_now() is None
    await closed(here, there)


# Until when ---------------------------------------------------------------------


async def test_connections_are_closed_when_the_last_pool_of_their_session_is() -> None:
    opened = Opened()
    first, second, other = pool(opened), pool(opened), pool(opened, session="writes")
    for one in (first, second, other):
        async with one.control():
            pass
    await first.aclose()
    assert opened.now == 2
    async with second.control() as kept:
        assert kept is opened[0]
    await second.aclose()
    assert [connection.closed for connection in opened] == [True, False]
    await other.aclose()
    assert not opened.now
    async with first.control() as again:
        assert again is opened[2]
    await first.aclose()
    assert not opened.now


async def test_a_pool_cuts_only_what_it_uses_itself() -> None:
    opened = Opened()
    first, second = pool(opened), pool(opened)
    async with second.reserve() as reservation:
        mine = await reservation.connection()
        async with first.control() as other:
            await first.aclose()
            assert other.closed and not mine.closed
        assert await reservation.connection() is mine
    await second.aclose()
    assert not opened.now


async def test_a_pool_that_was_thrown_away_limits_nobody_and_keeps_nothing_open() -> None:
    opened = Opened()
    small, large = pool(opened, 2, session="small"), pool(opened, 4)
    async with small.control(), large.control():
        pass
    del small
    gc.collect()
    async with large.reserve(), large.reserve(), large.reserve():
        pass
    await large.aclose()
    assert not opened.now


async def test_each_connection_is_kept_for_as_long_as_the_pool_that_used_it_last_asks() -> None:
    opened = Opened()
    long, short = pool(opened), pool(opened, session="short", keep_idle=0.02)
    async with long.control(), short.control():
        pass
    with anyio.fail_after(60):
        await opened[1].gone.wait()
    assert not opened[0].closed
    await closed(long, short)


def test_another_event_loop_has_its_own_and_leaves_those_of_one_that_runs_alone() -> None:
    opened = Opened()
    first, second = pool(opened), pool(opened)
    held, done = threading.Event(), threading.Event()

    async def hold() -> None:
        async with first.control() as mine:
            held.set()
            await anyio.to_thread.run_sync(done.wait, 60)
            assert not mine.closed
        async with second.control() as again:
            assert again is mine
        await closed(first, second)

    async def ask() -> None:
        for one in (first, second):
            async with one.control() as mine:
                assert mine is not opened[0]
        await closed(first, second)

    thread = threading.Thread(target=anyio.run, args=(hold,))
    thread.start()
    assert held.wait(60)
    try:
        anyio.run(ask)
        assert not opened[0].closed
    finally:
        done.set()
        thread.join()
    assert not opened.now


def test_what_a_closed_event_loop_has_left_open_is_cut() -> None:
    opened = Opened()
    pools = pool(opened), pool(opened)

    async def ask(one: ConnectionPool[Fake]) -> None:
        async with one.control():
            pass

    anyio.run(ask, pools[0])
    anyio.run(ask, pools[0])
    assert [connection.closed for connection in opened] == [True, False]
    anyio.run(closed, *pools)


def test_a_forked_process_neither_uses_nor_closes_the_connections_of_its_parent() -> None:
    opened = Opened()
    first, second = pool(opened), pool(opened)

    async def ask(one: ConnectionPool[Fake]) -> None:
        async with one.control():
            pass

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(first))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        right = False
        with suppress(BaseException):
            anyio.run(ask, second)
            anyio.run(ask, first)
            right = len(opened) == 3 and not opened[0].closed
        os._exit(0 if right else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        loop.run_until_complete(ask(second))
        assert len(opened) == 1
        loop.run_until_complete(closed(first, second))
    finally:
        loop.close()
    assert not opened.now


# Nobody waits for ever ----------------------------------------------------------


class Scans:
    """Scans as an engine makes them: a source is read while its target is waited for, and both are asked questions."""

    def __init__(self, most: int) -> None:
        self.opened = {server: Opened() for server in "ab"}
        self.most = most
        self.done = self.beats = self.peak = 0
        self.pools: list[ConnectionPool[Fake]] = []

    def pool(self, server: str, *, writes: bool) -> ConnectionPool[Fake]:
        made = pool(
            self.opened[server], self.most, server=server, session="writes" if writes else "reads", writes=writes
        )
        self.pools.append(made)
        return made

    def look(self) -> None:
        self.peak = max(self.peak, *(opened.now for opened in self.opened.values()))

    async def pipeline(self, source: str, target: str, tables: int) -> None:
        reads, writes = self.pool(source, writes=False), self.pool(target, writes=True)
        async with anyio.create_task_group() as beating:
            beating.start_soon(self.beat, writes)
            async with anyio.create_task_group() as tasks:
                for _ in range(tables):
                    tasks.start_soon(self.scan, reads, writes)
            beating.cancel_scope.cancel()

    async def beat(self, writes: ConnectionPool[Fake]) -> None:
        while True:
            async with writes.control(urgent=True):
                self.look()
            self.beats += 1
            await anyio.sleep(0.001)

    async def scan(self, reads: ConnectionPool[Fake], writes: ConnectionPool[Fake]) -> None:
        async with writes.control():
            self.look()
        async with reads.reserve() as read:
            await read.connection()
            async with reads.control():
                await anyio.lowlevel.checkpoint()
            async with writes.reserve() as write:
                await write.connection()
                further = writes.reserve_now()
                async with writes.control():
                    self.look()
                    await anyio.lowlevel.checkpoint()
                async with reads.control():
                    self.look()
                if further is not None:
                    await further.connection()
                    self.look()
                    further.leave()
        self.done += 1


@pytest.mark.parametrize("most", [2, 3, 4, 8])
@pytest.mark.parametrize("ways", ["aa", "ab", "ab ba", "aa ab ba bb"])
async def test_any_number_of_scans_that_share_few_connections_end(most: int, ways: str) -> None:
    scans = Scans(most)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for way in 6 * ways.split():
                tasks.start_soon(scans.pipeline, way[0], way[1], 5)
    assert scans.done == 30 * len(ways.split()) and scans.beats
    # One server that is read and written needs four: for a scan that reads, one that writes, a question, a heartbeat.
    assert scans.peak <= max(most, 4)
    await closed(*scans.pools)
    assert not any(opened.now for opened in scans.opened.values())


async def test_a_heartbeat_waits_for_no_scan_and_no_question() -> None:
    opened = Opened()
    reads, writes = pool(opened, 5), pool(opened, 5, session="writes", writes=True)
    async with writes.control(urgent=True):
        pass
    with anyio.fail_after(60):
        async with reads.reserve(), writes.reserve(), writes.reserve(), writes.control():
            assert writes.reserve_now() is None
            async with writes.control(urgent=True):
                pass
    await closed(reads, writes)


async def test_who_came_first_is_served_first() -> None:
    opened = Opened()
    pools = [pool(opened, 2) for _ in range(3)]
    order: list[int] = []

    async def scan(number: int) -> None:
        async with pools[number % 3].reserve():
            order.append(number)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for number in range(9):
            tasks.start_soon(scan, number)
            await anyio.lowlevel.checkpoint()
    assert order == list(range(9))
    await closed(*pools)


async def test_a_question_gets_its_turn_though_the_limit_was_lowered_while_scans_had_more() -> None:
    """A scan of another pipeline may hold what this one needs, and ask before it goes on."""
    opened = Opened()
    large, small = pool(opened, 4), pool(opened, 2, session="writes", writes=True)
    with anyio.fail_after(60):
        async with large.reserve(), large.reserve(), large.reserve():
            async with small.control(), small.control(urgent=True):
                pass
            async with small.reserve():
                async with small.control():
                    pass
                async with large.control():
                    pass
    await closed(large, small)


async def test_who_gives_up_waiting_takes_no_place() -> None:
    opened = Opened()
    pools = pool(opened, 4), pool(opened, 4, session="writes", writes=True)
    chance = random.Random(7)

    async def use(one: ConnectionPool[Fake], limit: float) -> None:
        with anyio.move_on_after(limit):
            async with one.reserve() as reservation:
                await reservation.connection()
                async with one.control(urgent=chance.random() < 0.5):
                    await anyio.sleep(chance.random() / 1000)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(use, chance.choice(pools), chance.random() / 30)
        for one in pools:
            await use(one, 60)
        async with pools[0].reserve(), pools[1].reserve(), pools[1].control(), pools[1].control(urgent=True):
            assert pools[1].reserve_now() is None
    await closed(*pools)
    assert not opened.now


# Which connectors share ---------------------------------------------------------


def keys(*options: Any, writes: bool = False) -> list[PoolKey]:
    return [one.pool(Opened(), server="a server", writes=writes).key for one in options]


def token() -> str:
    return "secret"


@pytest.mark.parametrize(
    "make",
    [
        partial(MySQL, "mysql://app:secret@db/shop"),
        partial(MySQL, "mysql://app@db/shop", password="secret", tls="verify", tls_ca="ca.pem"),
        partial(MySQL, "mysql://app@db/shop", password=retl.env("DB_PASSWORD"), writers=3, max_connections=4),
        partial(
            PostgreSQL,
            "postgresql://app@db/shop",
            password=token,  # type: ignore[arg-type]
            parallel_reads=4,
            keep_idle=0,
        ),
        partial(Redshift, "redshift://app@db/dev", iam=IAM(cluster="c")),
        partial(StarRocks, "starrocks://app@fe1,fe2/dw", timezone="UTC"),
    ],
    ids=lambda make: make.func.__name__,
)
def test_connectors_with_the_same_words_share_connections(make: Callable[..., Any]) -> None:
    first, second, *others = keys(
        make(),
        make(),
        make(user="other"),
        make(password="other"),
        make(connect_timeout=3),
        make(database="other"),
    )
    assert first == second and hash(first) == hash(second)
    assert first not in others and len(set(others)) == len(others)
    assert "secret" not in repr(first)
    assert first != keys(make(), writes=True)[0]


def test_secrets_are_the_same_that_come_from_the_same_place(tmp_path: Any) -> None:
    def key(password: Any) -> PoolKey:
        return keys(MySQL("mysql://app@db/shop", password=password))[0]

    assert key(retl.env("A")) == key(retl.env("A")) != key(retl.env("B"))
    assert key(retl.secret_file(tmp_path / "a")) == key(retl.secret_file(tmp_path / "a"))
    assert key(retl.secret_file(tmp_path / "a")) != key(retl.secret_file(tmp_path / "b"))
    assert key(retl.Secret(token, "a vault")) == key(retl.Secret(token, "a vault"))
    assert key(retl.Secret(token, "a vault")) != key(retl.Secret(lambda: "other", "a vault"))


def test_a_server_is_the_same_however_it_is_written() -> None:
    assert len({one.server(one.login("source", ())) for one in (
        MySQL("mysql://app@DB:3306/shop"),
        MySQL("mysql://app@db/other", tls="off"),
        MySQL(host="db", user="app"),
    )}) == 1  # fmt: skip
    assert len({one.server() for one in (
        PostgreSQL("postgresql://app@db:5432/shop"),
        PostgreSQL("postgres://app@DB/other", schema="x"),
        PostgreSQL("postgresql:///shop?host=db&user=app"),
        PostgreSQL(host="db", user="app"),
    )}) == 1  # fmt: skip
    assert PostgreSQL("postgresql://app@[::1]/a").server() == PostgreSQL("postgresql://app@[::1]:5432/b").server()
    assert PostgreSQL("postgresql://app@db:1/a").server() != PostgreSQL("postgresql://app@db:2/a").server()
    assert PostgreSQL("postgresql://app@db/a").server() != PostgreSQL("postgresql://etl@db/a").server()
