"""Everything of ours that touches private names of aiomysql, and of asyncio's streams below it.

aiomysql brings connection, TLS and login. What it has no public way for stands here: a text
result as it arrives, and LOAD DATA LOCAL from memory. ``tests/unit/test_mysql_wire.py`` fails
for a version of aiomysql that changed one of these names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiomysql.connection import Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND, CR, FIELD_TYPE
from pymysql.err import InternalError, OperationalError

READ_BYTES = 1024 * 1024
"""How much of a result is taken at once, and how much may wait in the stream."""
_PACKET = 256 * 1024
_WRITE_BUFFER = 1024 * 1024
_NUMBERS = dict.fromkeys(
    (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int
)
_LOST = "Lost connection to MySQL server during query"


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
    """What a statement without rows did."""

    affected: int
    warnings: int
    info: str
    """The server's own words: ``Records: 3  Duplicates: 1  Warnings: 0``."""


class TextWire(Connection):  # type: ignore[misc]  # aiomysql ships no types
    """An aiomysql connection that streams raw results and loads from memory.

    It never opens a file: ``local_infile`` of the driver stays off, and a request of the
    server for one is answered only by ``load``, which does not look at the file's name.
    Errors are the driver's.
    """

    def __init__(self, *, tls_required: bool, **words: Any) -> None:
        super().__init__(**words, client_flag=CLIENT.LOCAL_FILES, local_infile=False, conv=_NUMBERS, use_unicode=True)
        self._tls_required = tls_required

    async def open(self) -> None:
        await self._connect()
        self._reader._limit = READ_BYTES
        self._writer.transport.set_write_buffer_limits(high=_WRITE_BUFFER)

    async def _request_authentication(self) -> None:
        # The driver goes on without TLS where the server offers none: the password would be sent in the open.
        if self._tls_required and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not offer TLS")
        await super()._request_authentication()

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        if plugin_name == b"mysql_clear_password" and not self._secure:
            raise OperationalError(
                CR.CR_AUTH_PLUGIN_CANNOT_LOAD, "the server asks for the password in clear text, and there is no TLS"
            )
        return await super()._process_auth(plugin_name, auth_packet)

    @property
    def secure(self) -> bool:
        """Whether the line is encrypted, or a local socket."""
        return bool(self._secure)

    async def run(self, sql: str) -> tuple[Done, list[tuple[Any, ...]]]:
        """A statement, and its rows where it has some: each value ``int``, ``str``, ``bytes`` or ``None``."""
        await self.query(sql)
        result = self._result
        return Done(result.affected_rows or 0, result.warning_count, _text(result.message)), list(result.rows or ())

    async def begin_result(self, sql: str) -> list[WireField]:
        """Run a SELECT up to its first row. ``raw_result`` must be read to its end, or the connection aborted."""
        await self._execute_command(COMMAND.COM_QUERY, sql)
        first = await self._read_packet()
        if first.is_ok_packet() or first.is_load_local_packet():
            self.abort()
            raise InternalError(CR.CR_MALFORMED_PACKET, "the server sent no rows for a SELECT")
        described = MySQLResult(self)
        described.field_count = first.read_length_encoded_integer()
        await described._get_descriptions()
        return _fields(described)

    async def table(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of a small result's columns, and its rows."""
        await self.query(sql)
        return [field.name for field in self._result.fields], list(self._result.rows or ())

    async def describe(self, sql: str) -> list[WireField]:
        """The columns of a small result; its rows are dropped."""
        await self.query(sql)
        return _fields(self._result)

    async def raw_result(self) -> bytes:
        """The next bytes of the rows' packets, up to a megabyte; whoever reads them knows where they end."""
        pieces = [await self._read(READ_BYTES)]
        size = len(pieces[0])
        while size < READ_BYTES:
            # A turn of the loop lets what has arrived meanwhile into the stream: large pieces are decoded faster.
            await asyncio.sleep(0)
            if self._reader is None or not self._reader._buffer:
                break
            pieces.append(await self._read(READ_BYTES - size))
            size += len(pieces[-1])
        return b"".join(pieces)

    async def _read(self, most: int) -> bytes:
        try:
            data: bytes = await self._reader.read(most)
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
        await self._execute_command(COMMAND.COM_QUERY, sql)
        first = await self._read_packet()
        if not first.is_load_local_packet():
            self.abort()
            raise InternalError(CR.CR_MALFORMED_PACKET, "the server did not ask for the rows of LOAD DATA LOCAL")
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                for start in range(0, len(view), _PACKET):
                    self.write_packet(bytes(view[start : start + _PACKET]))
                    await self._drain()
            self.write_packet(b"")
            await self._drain()
        except BaseException:
            self.abort()
            raise
        result = MySQLResult(self)
        packet = await self._read_packet()
        if not packet.is_ok_packet():
            self.abort()
            raise InternalError(CR.CR_MALFORMED_PACKET, "the server did not confirm LOAD DATA LOCAL")
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
        """Cut the line at once. Safe at any time."""
        writer = self._writer
        if writer is not None:
            writer.transport.abort()
        self.close()

    async def quit(self) -> None:
        """Say goodbye and close."""
        try:
            await self.ensure_closed()
        except (OSError, asyncio.CancelledError):
            self.abort()
            raise


def _fields(result: MySQLResult) -> list[WireField]:
    return [
        WireField(field.name, field.type_code, field.charsetnr, field.length, field.flags, field.scale)
        for field in result.fields
    ]


def _text(message: bytes | None) -> str:
    """The words of an OK packet. The driver leaves the byte that tells their length before them."""
    if not message:
        return ""
    return (message[1:] if message[0] == len(message) - 1 else message).decode(errors="replace")
