"""A pool keeps connections for a while, limits them, and never makes those wait for each other who hold some."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from retl.connectors.net import server as servers
from retl.connectors.net.pool import ConnectionPool
from retl.model.errors import ConnectionFailed


class Fake:
    def __init__(self) -> None:
        self.closed = self.in_transaction = self.lost = self.has_news = False
        self.proved = 0
        self.gone = anyio.Event()

    async def prove(self) -> None:
        self.proved += 1
        if self.lost:
            raise ConnectionFailed("it is gone.", remedy="-")

    def abort(self) -> None:
        self.closed = True

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True
        self.gone.set()


class Opened(list[Fake]):
    """Every connection that a pool has opened."""

    async def __call__(self) -> Fake:
        await anyio.lowlevel.checkpoint()
        self.append(Fake())
        return self[-1]

    @property
    def now(self) -> int:
        return sum(not connection.closed for connection in self)


async def test_a_connection_is_kept_for_the_next_question_and_closed_in_the_end() -> None:
    opened = Opened()
    pool = ConnectionPool(opened)
    for _ in range(3):
        async with pool.control():
            pass
    async with pool.reserve() as reservation:
        assert await reservation.connection() is opened[0]
    assert len(opened) == 1
    await pool.aclose()
    assert not opened.now
    async with pool.control() as again:
        assert again is opened[1]
    await pool.aclose()


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    opened = Opened()
    pool = ConnectionPool(opened, keep_idle=0.02)
    async with pool.control(), pool.control():
        pass
    with anyio.fail_after(5):
        for connection in opened:
            await connection.gone.wait()
    await pool.aclose()


async def test_one_that_was_lost_or_left_in_a_transaction_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "TRUSTED_SECONDS", 0.0)
    opened = Opened()
    pool = ConnectionPool(opened)
    async with pool.control() as first:
        first.lost = True
    async with pool.control() as second:
        second.in_transaction = True
    async with pool.control() as third:
        pass
    assert first.closed and second.closed
    async with pool.control() as fourth:
        assert fourth is third and third.proved == 1
    with pytest.raises(ZeroDivisionError):
        async with pool.reserve() as reservation:
            await reservation.connection()
            _ = 1 / 0
    assert third.closed
    await pool.aclose()


async def test_one_that_has_heard_something_is_checked_before_its_next_use() -> None:
    opened = Opened()
    pool = ConnectionPool(opened)
    async with pool.control() as first:
        pass
    first.has_news = True  # which need not be its end
    async with pool.control() as again:
        assert again is first and first.proved == 1
    first.lost = True
    async with pool.control() as other:
        assert other is not first and first.closed
    await pool.aclose()


async def test_the_limit_holds_and_a_question_of_who_holds_a_reservation_gets_its_turn() -> None:
    opened = Opened()
    pool = ConnectionPool(opened, max_connections=3)
    most = 0

    async def scan() -> None:
        nonlocal most
        async with pool.reserve() as reservation:
            await reservation.connection()
            async with pool.control():
                most = max(most, opened.now)
                await anyio.sleep(0.001)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(scan)
    assert most == 3
    await pool.aclose()


async def test_a_further_reservation_is_given_only_where_there_is_room() -> None:
    opened = Opened()
    pool = ConnectionPool(opened, max_connections=3)
    async with pool.reserve():
        further = pool.reserve_now()
        assert further is not None
        assert pool.reserve_now() is None
        further.leave()
        async with pool.control(), pool.control():
            assert pool.reserve_now() is None
    await pool.aclose()


async def test_what_is_in_use_is_closed_after_its_use() -> None:
    opened = Opened()
    pool = ConnectionPool(opened)
    async with pool.reserve() as reservation:
        kept = await reservation.connection()
        await pool.release()
        assert opened.now == 1
    await pool.release()
    assert not opened.now and not kept.in_transaction
    async with pool.reserve() as reservation:
        await reservation.connection()
        await pool.aclose()
        assert not opened.now


def test_connections_of_a_loop_that_is_over_are_not_used() -> None:
    opened = Opened()
    pool = ConnectionPool(opened)

    async def ask() -> None:
        async with pool.control():
            pass

    anyio.run(ask)
    anyio.run(ask)
    assert len(opened) == 2
    assert opened[0].closed
