"""The only module that touches private names of aiomysql, and of asyncio's streams below it.

aiomysql brings connection, TLS and login. This module adds what it has no public API for: a
text result as it arrives, and LOAD DATA LOCAL from memory. ``tests/unit/test_mysql_wire.py`` fails
for a version of aiomysql that changed one of these names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiomysql.connection import Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND, CR, FIELD_TYPE
from pymysql.err import InternalError, MySQLError, OperationalError
from pymysql.protocol import MysqlPacket

from retl.connectors.mysql.rows import TooLarge

VECTOR = 242
"""A type of MySQL 9 that PyMySQL does not name."""
READ_BYTES = 1024 * 1024
"""How many bytes of a result are read at once, and how many may wait in the stream."""
_QUIET_SECONDS = 60.0
"""Seconds of silence after which the server is checked."""
_PACKET = 256 * 1024
# Limits of an answer that is not streamed: far above any catalog, and far below the memory of a host.
_MOST_BYTES = 256 * 1024 * 1024
_MOST_PACKETS = 1_000_000
_MOST_COLUMNS = 16_384
_WRITE_BUFFER = 1024 * 1024
_NUMBERS = dict.fromkeys(
    (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int
)
_LOST = "Lost connection to MySQL server during query"
_PLUGINS = (b"mysql_native_password", b"caching_sha2_password", b"sha256_password", b"mysql_clear_password")
# Notice a peer that vanished after two minutes; the system's own limit is two hours.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class _Packet(MysqlPacket):  # type: ignore[misc]
    """A packet whose error keeps its SQLSTATE, which the driver drops."""

    def raise_for_error(self) -> None:
        try:
            super().raise_for_error()
        except MySQLError as error:
            error.state = sqlstate(self._data)
            raise


def sqlstate(payload: bytes) -> str:
    """The five characters after the # of an error packet; empty for an error before the login."""
    return payload[4:9].decode("ascii", "replace") if payload[3:4] == b"#" else ""


@dataclass(frozen=True, slots=True)
class WireField:
    """A column of a text result as the server describes it. ``charset`` 63 is binary."""

    name: str
    type_code: int
    charset: int
    length: int
    flags: int
    decimals: int


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a statement without rows."""

    affected: int
    warnings: int
    info: str
    """The server's own words: ``Records: 3  Duplicates: 1  Warnings: 0``."""


class TextWire(Connection):  # type: ignore[misc]  # aiomysql ships no types
    """An aiomysql connection that streams raw results and loads from memory.

    It never opens a file: the driver's ``local_infile`` stays off, and only ``load`` answers the
    server's request for one, without looking at the file's name. Errors are the driver's; an
    answer that makes no sense is an ``InternalError`` with the number of a malformed packet.
    """

    def __init__(self, *, tls_required: bool, public_key: bytes | None = None, **words: Any) -> None:
        """Uses ``ssl`` if the server offers TLS; ``tls_required`` gives up if it does not."""
        self._known_key = public_key
        self._told_key: bytes | None = None
        super().__init__(**words, client_flag=CLIENT.LOCAL_FILES, local_infile=False, conv=_NUMBERS, use_unicode=True)
        # One statement at a time, so that a name or a value cannot start another.
        self.client_flag &= ~CLIENT.MULTI_STATEMENTS
        self._tls_required = tls_required
        self._bytes = self._packets = self._columns = 0  # of the answer that is read
        self.on_silence: Callable[[float], Awaitable[None]] | None = None
        """Called with the seconds without a byte; raises to end the wait."""

    @property
    def hung_up(self) -> bool:
        """Whether the server is known to have ended the connection."""
        return self._reader is not None and bool(self._reader._eof)

    @property
    def transport(self) -> asyncio.BaseTransport:
        """That of an open connection."""
        transport: asyncio.BaseTransport = self._writer.transport
        return transport

    async def open(self) -> None:
        with self._understood():
            await self._connect()
        self._reader._limit = READ_BYTES
        transport = self._writer.transport
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        line = transport.get_extra_info("socket")
        for option, value in _KEEP_ALIVE.items():
            if hasattr(socket, option):
                with suppress(OSError):
                    line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    async def _request_authentication(self) -> None:
        # The driver continues without TLS if the server offers none, and would send the password in the open.
        offered = bool(self.server_capabilities & CLIENT.SSL)
        if self._tls_required and not offered:
            raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not offer TLS")
        if not offered:
            self.client_flag &= ~CLIENT.SSL
        self._check_plugin(self._server_auth_plugin.encode("latin-1"))
        try:
            await super()._request_authentication()
        except BaseException:
            # The driver closes a connection politely and forgets it. Over TLS that needs a loop that may be about to end.
            if self._writer is not None:
                self._writer.transport.abort()
            raise

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        self._check_plugin(plugin_name)
        return await super()._process_auth(plugin_name, auth_packet)

    def _check_plugin(self, name: bytes) -> None:
        """Check the login method that the server names, each time: none may send the password in the open."""
        if name == b"mysql_clear_password" and not self._tls_required:
            raise OperationalError(
                CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
                "the server asks for the password in clear text, and no TLS was asked for (tls)",
            )
        if name and name not in _PLUGINS:
            raise OperationalError(
                CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
                f"the server asks for a login by {name.decode('latin-1')}, which is not supported",
            )

    @property
    def server_public_key(self) -> bytes | None:
        """The key that encrypts the password on an unencrypted connection, if that is needed.

        A server could name a key of its own and read the password: so the user must have named
        it, or the connection does not leave this machine.
        """
        if self._known_key is None and not self._secure and self._writer is not None and not self.local:
            raise OperationalError(
                CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
                "the server asks for the password itself, and the line is not encrypted: use TLS (tls), or name the "
                "server's key in server_public_key",
            )
        return self._known_key or self._told_key

    @server_public_key.setter
    def server_public_key(self, told: bytes | None) -> None:
        self._told_key = told

    @property
    def local(self) -> bool:
        """Whether the other end is on this machine."""
        try:
            return ipaddress.ip_address(self._writer.get_extra_info("peername")[0]).is_loopback
        except (TypeError, ValueError, LookupError):
            return False

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Map the many errors with which the driver fails on an invalid packet."""
        try:
            yield
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            AssertionError,
            RuntimeError,
            struct.error,
        ) as error:
            if isinstance(error, OSError):  # a certificate error is a ValueError too
                raise
            self.abort()
            raise InternalError(CR.CR_MALFORMED_PACKET, str(error) or type(error).__name__) from error

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted, or a local socket."""
        return bool(self._secure)

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        self._bytes = self._packets = self._columns = 0
        await super()._execute_command(command, sql)

    async def _read_packet(self, packet_type: type[Any] = _Packet) -> Any:
        self._packets += 1
        self._columns += packet_type is not _Packet
        if self._columns > _MOST_COLUMNS:
            raise TooLarge(f"a result has more than {_MOST_COLUMNS:,} columns")
        if self._packets > _MOST_PACKETS:
            raise TooLarge(f"an answer that should be small has more than {_MOST_PACKETS:,} rows")
        return await super()._read_packet(packet_type)

    async def _read_bytes(self, num_bytes: int) -> bytes:
        self._bytes += num_bytes
        if self._bytes > _MOST_BYTES:
            raise TooLarge(f"an answer that should be small is larger than {_MOST_BYTES // 1024**2} MB")
        found: bytes = await self._patiently(super()._read_bytes, num_bytes)
        return found

    async def _patiently(self, read: Callable[[int], Awaitable[bytes]], size: int) -> bytes:
        """Read while ``on_silence`` allows it. A read that is given up consumes nothing."""
        while True:
            had = len(self._reader._buffer)
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    return await read(size)
            except TimeoutError:
                if self.on_silence is not None and had == len(self._reader._buffer):
                    await self.on_silence(_QUIET_SECONDS)

    async def run(self, sql: str) -> tuple[Done, list[tuple[Any, ...]]]:
        """Run a statement; returns its rows, if any: each value is ``int``, ``str``, ``bytes`` or ``None``."""
        result = await self._ask(sql)
        return Done(result.affected_rows or 0, result.warning_count, _text(result.message)), list(result.rows or ())

    async def _ask(self, sql: str) -> MySQLResult:
        with self._understood():
            await self.query(sql)
            if any(len(row) != self._result.field_count for row in self._result.rows or ()):
                raise ValueError("a row has other columns than the result")
            while self._result.has_next:  # of a procedure, whose last result tells whether it went well
                await self.next_result()
        return self._result

    async def begin_result(self, sql: str) -> list[WireField]:
        """Run a SELECT up to its first row. ``raw_result`` must be read to its end, or the connection aborted."""
        with self._understood():
            await self._execute_command(COMMAND.COM_QUERY, sql)
            first = await self._read_packet()
            if first.is_ok_packet() or first.is_load_local_packet():
                raise ValueError("the server sent no rows for a SELECT")
            described = MySQLResult(self)
            described.field_count = first.read_length_encoded_integer()
            await described._get_descriptions()
            return _fields(described)

    async def table(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of a small result's columns, and its rows."""
        result = await self._ask(sql)
        return [column.name for column in _fields(result)], list(result.rows or ())

    async def describe(self, sql: str) -> list[WireField]:
        """The columns of a small result; its rows are dropped."""
        return _fields(await self._ask(sql))

    async def raw_result(self) -> bytes:
        """The next bytes of the rows' packets, up to one megabyte. The decoder finds their end."""
        # Where enough has arrived, reading waits for nothing: others have a turn before it is decoded all the same.
        await asyncio.sleep(0)
        pieces = [await self._read(READ_BYTES)]
        size = len(pieces[0])
        while size < READ_BYTES:
            # One turn of the loop lets more data into the stream: large pieces are decoded faster.
            await asyncio.sleep(0)
            if self._reader is None or not self._reader._buffer:
                break
            pieces.append(await self._read(READ_BYTES - size))
            size += len(pieces[-1])
        return b"".join(pieces)

    async def _read(self, most: int) -> bytes:
        self._ensure_alive()
        try:
            data = await self._patiently(self._reader.read, most)
        except OSError as error:
            self.abort()
            raise OperationalError(CR.CR_SERVER_LOST, f"{_LOST} ({error})") from error
        if not data:
            self.abort()
            raise OperationalError(CR.CR_SERVER_LOST, _LOST)
        return data

    @property
    def next_sequence(self) -> int:
        """The number that the next packet must have."""
        return int(self._next_seq_id)

    async def load(self, sql: str, chunks: Iterable[bytes | memoryview]) -> Done:
        """LOAD DATA LOCAL from memory. An error of ``chunks`` closes the connection: half a file is never taken for a whole."""
        with self._understood():
            await self._execute_command(COMMAND.COM_QUERY, sql)
            first = await self._read_packet()
            if not first.is_load_local_packet():
                raise ValueError("the server did not ask for the rows of LOAD DATA LOCAL")
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                for start in range(0, len(view), _PACKET):
                    self._ensure_alive()
                    self.write_packet(bytes(view[start : start + _PACKET]))
                    await self._drain()
            self._ensure_alive()
            self.write_packet(b"")
            await self._drain()
        except BaseException:
            self.abort()
            raise
        with self._understood():
            result = MySQLResult(self)
            packet = await self._read_packet()
            if not packet.is_ok_packet():
                raise ValueError("the server did not confirm LOAD DATA LOCAL")
            result._read_ok_packet(packet)
        self.server_status = result.server_status
        return Done(result.affected_rows, result.warning_count, _text(result.message))

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            self.abort()
            raise OperationalError(CR.CR_SERVER_LOST, f"{_LOST} ({error})") from error

    def abort(self) -> None:
        """Cut the connection at once. Safe at any time."""
        writer = self._writer
        if writer is not None:
            writer.transport.abort()
        self.close()

    async def quit(self) -> None:
        """Say goodbye and close, without TLS's own goodbye: the loop may be about to end."""
        writer = self._writer
        try:
            await self.ensure_closed()
        except (OSError, asyncio.CancelledError):
            self.abort()
            raise
        if writer is not None:
            writer.transport.abort()
            await asyncio.sleep(0)


def _fields(result: MySQLResult) -> list[WireField]:
    return [
        WireField(field.name, field.type_code, field.charsetnr, field.length, field.flags, field.scale)
        for field in getattr(result, "fields", ())
    ]


def _text(message: bytes | None) -> str:
    """The text of an OK packet, without the length byte that the driver leaves before it."""
    if not message:
        return ""
    return (message[1:] if message[0] == len(message) - 1 else message).decode(errors="replace")
