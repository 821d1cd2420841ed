"""What stands between a client and a MySQL server in many houses: a pooler that answers some statements itself, and hands
a session on after every transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

_QUERY, _RESET = b"\x03", b"\x1f"
_SSL = 0x08  # in the second byte of the capabilities


class Refusal(NamedTuple):
    """An answer to every statement that begins so."""

    statement: str
    code: int
    state: str
    message: str

    def packet(self) -> bytes:
        payload = b"\xff" + self.code.to_bytes(2, "little") + f"#{self.state}{self.message}".encode()
        return len(payload).to_bytes(3, "little") + b"\x01" + payload


class Pooler:
    """Passes the protocol on, without TLS. ``refusals`` may be changed while it runs."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.refusals: list[Refusal] = []
        self.hands_on = ""
        """Before which statements a session is reset, as one is that another client has had meanwhile."""
        self.said: list[str] = []
        """Every statement that came."""
        self._server = (host, port)
        self._lines: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._lines.add(task)
        task.add_done_callback(self._lines.discard)

    async def close(self) -> None:
        for task in list(self._lines):
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self._server)
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        own = asyncio.Event()  # what the server says next is not for the client
        try:
            header, greeting = await _packet(server)
            writer.write(header + _without_tls(greeting))
            async with asyncio.TaskGroup() as group:
                back = group.create_task(_back(server, writer, own, answers))
                await self._ask(reader, writer, to_server, own, answers)
                back.cancel()
        except* (OSError, EOFError):
            pass
        finally:
            for line in (writer, to_server):
                line.close()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
        own: asyncio.Event,
        answers: asyncio.Queue[bytes],
    ) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                header, payload = await _packet(reader)
                text = payload[1:200].decode(errors="replace") if header[3] == 0 and payload[:1] == _QUERY else ""
                if text:
                    self.said.append(text)
                refused = next((found for found in self.refusals if text and text.startswith(found.statement)), None)
                if refused is not None:
                    writer.write(refused.packet())
                    continue
                if self.hands_on and text.startswith(self.hands_on):
                    own.set()
                    server.write(b"\x01\x00\x00\x00" + _RESET)
                    await answers.get()
                server.write(header + payload)
                await server.drain()


async def _packet(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(4)
    return header, await reader.readexactly(int.from_bytes(header[:3], "little"))


async def _back(
    server: asyncio.StreamReader, writer: asyncio.StreamWriter, own: asyncio.Event, answers: asyncio.Queue[bytes]
) -> None:
    while chunk := await server.read(1 << 16):
        if own.is_set():
            own.clear()
            answers.put_nowait(chunk)
            continue
        writer.write(chunk)
        await writer.drain()
    writer.close()


def _without_tls(greeting: bytes) -> bytes:
    at = greeting.index(b"\0", 1) + 1 + 4 + 8 + 1 + 1
    return greeting[:at] + bytes([greeting[at] & ~_SSL]) + greeting[at + 1 :]


@asynccontextmanager
async def pooled(host: str, port: int) -> AsyncIterator[Pooler]:
    """A pooler before a server, on a free port."""
    pooler = Pooler(host, port)
    listener = await asyncio.start_server(pooler.connected, pooler.host, 0)
    pooler.port = listener.sockets[0].getsockname()[1]
    try:
        yield pooler
    finally:
        listener.close()
        await pooler.close()
