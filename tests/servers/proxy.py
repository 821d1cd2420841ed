"""A bad network: a TCP proxy between a client and a server, which breaks the line when it is told to."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from anyio.from_thread import start_blocking_portal

from tests.servers.process import free_port

Direction = Literal["to_server", "to_client"]
How = Literal["reset", "close", "stall"]

DIRECTIONS: tuple[Direction, ...] = ("to_server", "to_client")
_Read: TypeAlias = Callable[[], Awaitable[bytes]]
_UnderWay: TypeAlias = asyncio.Queue[tuple[float, bytes]]

CHUNK = 1 << 16
# Makes the kernel end a connection by a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes on between whoever connects to ``host`` and ``port`` and a server.

    It lives on the event loop that enters it, and is told what to do there. A test that blocks its loop, or has
    none, uses ``in_thread``.
    """

    def __init__(self, server_host: str, server_port: int, *, latency: float | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.delay = 0.0
        """Seconds that each chunk of up to 64 KiB is held back, one after another: a slow line."""
        self.latency = latency
        """Seconds that every byte is under way, however many are: a long line. ``None`` makes a short one for good."""
        self.connections = 0
        """How many were accepted so far."""
        self.broken = 0
        """How many were broken by ``break_after`` and ``break_now``."""
        self.passed: dict[Direction, int] = {"to_server": 0, "to_client": 0}
        """Bytes, over all connections."""
        self._server = (server_host, server_port)
        self._breaks: dict[Direction, _Break] = {}
        self._lines: set[_Line] = set()
        self._listener: asyncio.Server | None = None
        self._stalled = False

    async def __aenter__(self) -> Proxy:
        self._changed = asyncio.Event()
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        tasks = [line.task for line in self._lines]
        for line in self._lines:
            line.end("reset")
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._lines)

    def break_after(self, after: int, direction: Direction, how: How = "reset", *, every: bool = False) -> None:
        """Break a connection as soon as ``after`` bytes have passed in a direction; with 0, instead of the next byte.

        Once: bytes of all connections count together from now on, and the one that carries the last of them breaks.
        ``every``: each connection breaks, by its own bytes since it was made. ``reset`` and ``close`` end both
        sides of it; ``stall`` leaves both open, and nothing passes any more.
        """
        self._breaks[direction] = _Break(after, how, every)

    def lead_to(self, host: str, port: int) -> None:
        """Break all connections, and lead new ones to another server."""
        self._server = (host, port)
        self.break_now()

    def break_now(self, how: How = "reset") -> None:
        """Break all connections that there are."""
        for line in list(self._lines):
            self._break(line, how)

    def mend(self) -> None:
        """Forget what ``break_after`` was told, go on with what is stalled, delay nothing."""
        self._breaks.clear()
        self.delay = 0.0
        self.resume()

    def stall(self) -> None:
        """Pass nothing on, and keep connections open, also new ones: as a firewall that drops what it gets."""
        self._stalled = True
        for line in self._lines:
            line.flowing.clear()

    def resume(self) -> None:
        """Go on with all that is stalled."""
        self._stalled = False
        for line in self._lines:
            line.flowing.set()

    def refuse(self) -> None:
        """Refuse new connections. Those that there are stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Accept connections again."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._connected, self.host, self.port, limit=CHUNK)

    async def until(self, holds: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until something holds that changes with a byte, a connection or a break; else ``TimeoutError``."""
        async with asyncio.timeout(timeout):
            while not holds():
                await self._changed.wait()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listener is None:
            # The last that the kernel accepted.
            writer.transport.abort()
            return
        line = _Line(reader, writer)
        if self._stalled:
            line.flowing.clear()
        self.connections += 1
        self._lines.add(line)
        line.task = asyncio.create_task(self._serve(line))
        self._change()

    async def _serve(self, line: _Line) -> None:
        try:
            # The handshake of TCP goes there and back.
            await asyncio.sleep(2 * (self.latency or 0.0))
            server = await asyncio.open_connection(*self._server, limit=CHUNK)
            line.connect(*server)
            async with asyncio.TaskGroup() as group:
                for direction in DIRECTIONS:
                    read = partial(line.read, direction)
                    if self.latency is not None:
                        under_way: _UnderWay = asyncio.Queue()
                        group.create_task(self._send_off(read, under_way))
                        read = partial(_arrival, under_way)
                    group.create_task(self._pass(line, direction, read))
        except* OSError:
            # One side has broken the line, or there is no server: the other side sees the same.
            line.end("reset")
        finally:
            try:
                await line.closed()
            finally:
                self._lines.discard(line)
                self._change()

    async def _send_off(self, read: _Read, under_way: _UnderWay) -> None:
        chunk = b"a first one"
        while chunk:
            chunk = await read()
            under_way.put_nowait((time.monotonic() + (self.latency or 0.0), chunk))

    async def _pass(self, line: _Line, direction: Direction, read: _Read) -> None:
        writer = line.writers[direction]
        while chunk := await read():
            if self.delay:
                await asyncio.sleep(self.delay)
            await line.flowing.wait()
            fault = self._breaks.get(direction)
            room = fault.room(line.passed[direction]) if fault else len(chunk) + 1
            self._count(line, direction, chunk[:room])
            if fault and not fault.every and not fault.after:
                del self._breaks[direction]
            writer.write(chunk[:room])
            await writer.drain()
            if fault and room <= len(chunk):
                self._break(line, fault.how)
                if fault.how != "stall":
                    return
                await line.flowing.wait()
                self._count(line, direction, chunk[room:])
                writer.write(chunk[room:])
        writer.write_eof()

    def _count(self, line: _Line, direction: Direction, passing: bytes) -> None:
        line.passed[direction] += len(passing)
        self.passed[direction] += len(passing)
        fault = self._breaks.get(direction)
        if fault and not fault.every:
            fault.after = max(fault.after - len(passing), 0)
        self._change()

    def _break(self, line: _Line, how: How) -> None:
        self.broken += 1
        line.end(how)
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _arrival(under_way: _UnderWay) -> bytes:
    due, chunk = await under_way.get()
    await asyncio.sleep(due - time.monotonic())
    return chunk


@dataclass
class _Break:
    after: int
    how: How
    every: bool

    def room(self, passed: int) -> int:
        """How many bytes may still pass on a line that has passed so many."""
        return max(self.after - passed, 0) if self.every else self.after


class _Line:
    """One connection of a client, and the one to the server that it is passed on to."""

    task: asyncio.Task[None]

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.passed: dict[Direction, int] = {"to_server": 0, "to_client": 0}
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.writers: dict[Direction, asyncio.StreamWriter] = {}
        self._readers: dict[Direction, asyncio.StreamReader] = {"to_server": reader}
        self._hold("to_client", writer)

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._readers["to_client"] = reader
        self._hold("to_server", writer)

    async def read(self, direction: Direction) -> bytes:
        """The next bytes; none at the end. While the line is stalled nobody hears of an end either."""
        try:
            chunk = await self._readers[direction].read(CHUNK)
        except OSError:
            await self.flowing.wait()
            raise
        await self.flowing.wait()
        return chunk

    def end(self, how: How) -> None:
        if how == "stall":
            self.flowing.clear()
            return
        for writer in self.writers.values():
            if how == "reset":
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                writer.transport.abort()
            else:
                writer.close()
        self.task.cancel()

    async def closed(self) -> None:
        for writer in self.writers.values():
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _hold(self, direction: Direction, writer: asyncio.StreamWriter) -> None:
        # A drained writer is an empty one: bytes that were passed have left.
        writer.transport.set_write_buffer_limits(0)
        self.writers[direction] = writer


@contextmanager
def in_thread(
    server_host: str, server_port: int, *, latency: float | None = None
) -> Iterator[tuple[Proxy, Callable[..., Any]]]:
    """A proxy with an event loop in a thread of its own, and how its methods are called: ``call(proxy.break_now)``."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Proxy(server_host, server_port, latency=latency)) as proxy,
    ):
        yield proxy, portal.call
