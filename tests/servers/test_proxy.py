"""The proxy breaks what it is told to, where it is told to, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pymysql
import pytest

from tests.servers.database import Server
from tests.servers.process import free_port
from tests.servers.proxy import How, Proxy, in_thread

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SENT = bytes(range(256)) * 4096


class Echo:
    """A server that sends back what it is sent, and remembers how each connection ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[bytearray] = []
        self.ends: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        self.received.append(received)
        try:
            while chunk := await reader.read(1 << 16):
                received += chunk
                writer.write(chunk)
                await writer.drain()
            self.ends.put_nowait("close")
        except ConnectionResetError:
            self.ends.put_nowait("reset")
        finally:
            writer.transport.abort()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo(free_port())
    server = await asyncio.start_server(made.serve, "127.0.0.1", made.port)
    yield made
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo.port) as made:
        yield made


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def talk(line: Line, sent: bytes = SENT) -> tuple[bytes, str]:
    """Send, and read to the end: what came, and how it ended."""
    reader, writer = line
    received = bytearray()

    async def send() -> None:
        try:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
        except OSError:
            pass

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        try:
            while chunk := await reader.read(1 << 16):
                received += chunk
        except ConnectionResetError:
            return bytes(received), "reset"
    return bytes(received), "close"


async def exchange(line: Line, sent: bytes) -> bytes:
    reader, writer = line
    writer.write(sent)
    return await reader.readexactly(len(sent))


async def test_all_bytes_pass_both_ways_and_are_counted(proxy: Proxy, echo: Echo) -> None:
    for number in (1, 2):
        async with connected(proxy) as line:
            assert await talk(line) == (SENT, "close")
        assert proxy.connections == number
        assert proxy.passed == {"to_server": number * len(SENT), "to_client": number * len(SENT)}
    await proxy.until(lambda: proxy.open == 0)
    assert echo.received == [SENT, SENT]
    assert [await echo.ends.get() for _ in range(2)] == ["close", "close"]
    assert proxy.broken == 0


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("after", [0, 1, 1000, 65_536, len(SENT)])
async def test_the_line_breaks_after_so_many_bytes_to_the_server(
    proxy: Proxy, echo: Echo, how: How, after: int
) -> None:
    proxy.break_after(after, "to_server", how)
    async with connected(proxy) as line:
        received, _ = await talk(line)
    assert SENT.startswith(received) and len(received) <= after
    await proxy.until(lambda: proxy.open == 0)
    assert proxy.passed["to_server"] == after and proxy.broken == 1
    # Once: the next connection stays whole.
    async with connected(proxy) as line:
        assert await talk(line) == (SENT, "close")


@pytest.mark.parametrize("after", [0, 1, 1000, 65_536, len(SENT)])
async def test_the_client_gets_so_many_bytes_and_no_more(proxy: Proxy, after: int) -> None:
    proxy.break_after(after, "to_client", "close")
    async with connected(proxy) as line:
        received, _ = await talk(line)
    assert received == SENT[: len(received)] and len(received) <= after
    await proxy.until(lambda: proxy.open == 0)
    assert proxy.passed["to_client"] == after and proxy.broken == 1


async def test_bytes_that_passed_arrive_before_the_break(proxy: Proxy, echo: Echo) -> None:
    proxy.break_after(5, "to_client", "reset")
    async with connected(proxy) as line:
        assert await talk(line, b"one two") == (b"one t", "reset")
    await proxy.until(lambda: proxy.open == 0)
    assert echo.received == [b"one two"]


async def test_bytes_of_all_connections_count_together_or_each_for_itself(proxy: Proxy) -> None:
    proxy.break_after(6, "to_client")
    async with connected(proxy) as one, connected(proxy) as other:
        assert await exchange(one, b"1234") == b"1234"
        assert await talk(other, b"1234") == (b"12", "reset")
        assert await exchange(one, b"5678") == b"5678"
        proxy.break_after(10, "to_client", every=True)
        assert await talk(one, b"9abc") == (b"9a", "reset")
    for _ in range(3):
        async with connected(proxy) as line:
            assert await talk(line, b"0123456789ab") == (b"0123456789", "reset")
    assert proxy.broken == 5
    proxy.mend()
    async with connected(proxy) as line:
        assert await talk(line, b"0123456789ab") == (b"0123456789ab", "close")


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_all_connections_break_at_once(proxy: Proxy, echo: Echo, how: How) -> None:
    async with connected(proxy) as one, connected(proxy) as other:
        for line in (one, other):
            assert await exchange(line, b"hello") == b"hello"
        proxy.break_now(how)
        for reader, _ in (one, other):
            if how == "reset":
                with pytest.raises(ConnectionResetError):
                    await reader.read(1)
            else:
                assert await reader.read(1) == b""
    assert [await echo.ends.get() for _ in range(2)] == [how, how]
    await proxy.until(lambda: proxy.open == 0)
    assert proxy.broken == 2


async def test_a_stalled_line_stays_open_and_goes_on_where_it_stopped(proxy: Proxy, echo: Echo) -> None:
    proxy.break_after(3, "to_client", "stall")
    async with connected(proxy) as line:
        reader, writer = line
        writer.write(b"hello")
        assert await reader.readexactly(3) == b"hel"
        await proxy.until(lambda: proxy.broken == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert proxy.open == 1 and echo.ends.empty()
        proxy.resume()
        assert await reader.readexactly(2) == b"lo"


async def test_the_server_does_not_hear_that_a_client_has_left_a_stalled_line(proxy: Proxy, echo: Echo) -> None:
    async with connected(proxy) as line:
        assert await exchange(line, b"hello") == b"hello"
        proxy.stall()
    async with connected(proxy) as line:
        await proxy.until(lambda: proxy.open == 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(exchange(line, b"hello"), 0.05)
        assert echo.ends.empty()
        proxy.resume()
        assert await line[0].readexactly(5) == b"hello"
        assert await echo.ends.get() in ("close", "reset")
        await proxy.until(lambda: proxy.open == 1)


async def test_connections_are_refused_until_they_are_accepted_again(proxy: Proxy) -> None:
    async with connected(proxy) as line:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        assert await exchange(line, b"still here") == b"still here"
    await proxy.accept()
    async with connected(proxy) as line:
        assert await exchange(line, b"again") == b"again"
    assert proxy.connections == 2


async def test_bytes_are_held_back(proxy: Proxy) -> None:
    proxy.delay = 0.05
    loop = asyncio.get_running_loop()
    async with connected(proxy) as line:
        began = loop.time()
        assert await exchange(line, b"slow") == b"slow"
        assert loop.time() - began >= 0.1


async def test_a_long_line_costs_a_round_trip_for_a_login_and_one_for_each_answer_but_no_speed(echo: Echo) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with Proxy("127.0.0.1", echo.port, latency=0.03) as proxy, connected(proxy) as line:
        assert await exchange(line, SENT) == SENT
        # There are 16 chunks: one after another they would take a second.
        assert 0.12 <= loop.time() - began < 0.6
        began = loop.time()
        assert await talk(line, b"again") == (b"again", "close")
        assert loop.time() - began >= 0.06


async def test_without_a_server_the_client_is_reset() -> None:
    async with Proxy("127.0.0.1", free_port()) as proxy, connected(proxy) as line:
        assert await talk(line, b"hello") == (b"", "reset")


def test_a_test_that_blocks_has_a_proxy_in_a_thread(server: Server) -> None:
    rows = [(number, "x" * 1000) for number in range(1, 1001)]
    sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i, REPEAT('x', 1000) FROM n"
    with in_thread(server.host, server.port) as (proxy, call):
        through = server.at(proxy.host, proxy.port)
        with closing(through.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            assert list(cursor.fetchall()) == rows
            call(proxy.break_after, 500_000, "to_client")
            with pytest.raises(pymysql.OperationalError) as failed:
                cursor.execute(sql)
            assert failed.value.args[0] == 2013
        assert proxy.broken == 1
        assert through.query(sql) == rows
        assert proxy.connections == 2
