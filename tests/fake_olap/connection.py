"""One client of a stand-in: the commands of the MySQL protocol, and results that can fail in their middle."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
from mysql_mimic import packets
from mysql_mimic.connection import Connection
from mysql_mimic.control import LocalControl
from mysql_mimic.stream import ConnectionClosed, MysqlStream
from mysql_mimic.types import Capabilities, Commands, str_len, uint_len

from tests.fake_olap.catalog import Row
from tests.fake_olap.errors import Refusal
from tests.fake_olap.session import Answer, Kill, Running, Session
from tests.fake_olap.types import Text, Type, of_duckdb

if TYPE_CHECKING:
    from tests.fake_olap.server import FakeOlap, Fault

CAPABILITIES = (
    Capabilities.CLIENT_PROTOCOL_41
    | Capabilities.CLIENT_CONNECT_WITH_DB
    | Capabilities.CLIENT_SECURE_CONNECTION
    | Capabilities.CLIENT_PLUGIN_AUTH
    | Capabilities.CLIENT_LONG_FLAG
)
ROWS_AT_ONCE = 1_000
Result = TypeVar("Result")
_numbers = itertools.count(1)


class _Variables(dict[str, Any]):
    """What mysql-mimic's handshake asks of a session."""

    def set(self, name: str, value: Any, force: bool = False) -> None:
        self[name] = value


class _Greeter:
    """The session as mysql-mimic's handshake knows it."""

    def __init__(self, version: str) -> None:
        self.variables = _Variables(character_set_results="utf8", character_set_client="utf8mb4", version=version)
        self.username: str | None = None
        self.database: str | None = None


class FakeConnection:
    """A connection from its handshake to its end."""

    def __init__(self, server: FakeOlap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = next(_numbers)
        self._server = server
        self._errors = server.errors
        self._writer = writer
        self._stream = MysqlStream(reader, writer)
        self._session = Session(server.engine, server.flavour, self.number)
        self._session.sees(self._processes)
        self._running: asyncio.Task[None] | None = None
        self._sql = ""
        self._killed = False

    def abort(self) -> None:
        """Cut the line."""
        self._writer.transport.abort()
        if self._running:
            self._running.cancel()

    def kill(self, *, connection: bool) -> None:
        """End what runs here, and the connection too if so wanted."""
        if connection:
            self.abort()
        elif self._running:
            self._killed = True
            self._running.cancel()

    async def serve(self) -> None:
        try:
            if await self._greet():
                await self._commands()
        except (ConnectionError, ConnectionClosed, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writer.close()

    async def _greet(self) -> bool:
        greeter = _Greeter(self._server.handshake_version)
        hands = _Hands(
            stream=self._stream,
            session=greeter,
            control=LocalControl(),
            identity_provider=self._server.identities,
            server_capabilities=CAPABILITIES,
        )
        hands.connection_id = self.number
        hands.enter = self._enter
        await hands.connection_phase()
        return bool(self._session.user)

    def _enter(self, user: str, database: str | None) -> bytes | None:
        """Let a user in whose password was right; the refusal, if his database is not there."""
        try:
            if database:
                self._session.use(database)
        except Refusal as refusal:
            return _error(refusal)
        self._session.user = user
        return None

    async def _commands(self) -> None:
        while True:
            data = await self._stream.read()
            command, rest = data[0], data[1:]
            if command == Commands.COM_QUIT:
                return
            try:
                if command == Commands.COM_QUERY:
                    await self._query(rest.decode())
                elif command == Commands.COM_INIT_DB:
                    self._session.use(rest.decode())
                    await self._ok()
                elif command in {Commands.COM_PING, Commands.COM_RESET_CONNECTION}:
                    await self._ok()
                else:
                    raise Refusal(1047, "08S01", "Unknown command")
            except Refusal as refusal:
                await self._refuse(refusal)
            finally:
                self._stream.reset_seq()

    async def _query(self, sql: str) -> None:
        self._server.heard(self._session.user, sql)
        self._sql, self._killed = sql, False
        fault = self._server.fault_for(self._session.user, sql)
        if fault and fault.after_rows is None:
            await self._happen(fault)
            fault = None
        done = await asyncio.to_thread(self._session.run, sql)
        if isinstance(done, Kill):
            self._kill(done)
            await self._ok()
        elif isinstance(done, Running):
            await self._run(done, fault)
        else:
            await self._answer(done, fault)

    async def _run(self, query: Running, fault: Fault | None) -> None:
        """Run a query so that it can be killed, and can last too long."""
        self._running = asyncio.create_task(self._results(query, fault))
        try:
            # It counts until the last row is taken.
            async with asyncio.timeout(query.seconds):
                await self._running
        except TimeoutError:
            raise self._errors.query_timeout(query.seconds) from None
        except asyncio.CancelledError:
            if not self._killed:
                raise
            raise self._errors.killed() from None
        finally:
            self._running = None
            self._sql = ""

    async def _results(self, query: Running, fault: Fault | None) -> None:
        engine = self._server.engine
        cursor, plan = await asyncio.to_thread(engine.start, query.sql, self._session)
        self._check_privileges(plan.sql)
        try:
            held = await _interruptible(cursor, partial(engine.execute, cursor, plan))
            kinds = [
                kind or of_duckdb(text, largeint=plan.largeint)
                for text, (_, kind) in itertools.zip_longest(held, plan.columns, fillvalue=("", None))
                if isinstance(text, str)
            ]
            names = [str(column[0]) for column in cursor.description or []]
            sender = self._sender(list(zip(names, kinds, strict=True)))
            left = query.rows if not plan.limited else -1
            sent = 0
            while rows := await _interruptible(cursor, partial(cursor.fetchmany, self._batch(fault, sent))):
                rows = rows[: left - sent] if left >= 0 else rows
                sender(rows)
                await self._stream.drain()
                sent += len(rows)
                if fault and fault.after_rows is not None and sent >= fault.after_rows:
                    await self._happen(fault)
                    fault = None
                if sent == left:
                    break
            if fault:
                await self._happen(fault)
            await self._eof()
        finally:
            cursor.close()

    def _batch(self, fault: Fault | None, sent: int) -> int:
        """Rows at once; so many that a fault comes where it should."""
        if fault is None or fault.after_rows is None:
            return ROWS_AT_ONCE
        return max(1, min(ROWS_AT_ONCE, fault.after_rows - sent))

    async def _answer(self, answer: Answer, fault: Fault | None) -> None:
        if fault:
            await self._happen(fault)
        if not answer.columns:
            await self._ok(answer.affected)
            return
        self._sender(answer.columns)(answer.rows)
        await self._eof()

    async def _happen(self, fault: Fault) -> None:
        fault.reached.set()
        while fault.hold and not fault.released:  # noqa: ASYNC110 - released by another thread, or never
            await asyncio.sleep(0.002)
        if fault.cut:
            await self._stream.drain()
            # In order: what was sent arrives, and nothing after it.
            self._writer.close()
            raise ConnectionResetError
        if fault.error:
            raise fault.error

    def _kill(self, kill: Kill) -> None:
        if isinstance(kill.whom, int):
            found = self._server.connections.get(kill.whom)
            if found is None:
                raise self._errors.unknown_thread(kill.whom)
            found.kill(connection=kill.connection)
            return
        for other in self._server.connections.values():
            if other._running and kill.whom in other._session.names():
                other.kill(connection=False)
                return
        raise self._errors.unknown_query(kill.whom)

    def _check_privileges(self, sql: str) -> None:
        for name in self._server.denied:
            if self._session.user != "root" and f'"{name}"' in sql:
                raise self._errors.privilege("SELECT", "TABLE ", name)

    def _processes(self) -> list[Row]:
        return [
            (
                *(str(other.number), other._session.user, "127.0.0.1:0", other._session.database),
                *("Query" if other._sql else "Sleep", "1970-01-01 00:00:00", "0", "OK", other._sql, "false"),
            )
            for other in list(self._server.connections.values())
        ]

    # Packets

    def _sender(self, columns: list[tuple[str, Type]]) -> Callable[[Iterable[Row]], None]:
        """Send the head of a result; a function that sends rows of it."""
        text = Text(doris=self._server.flavour.doris, zone=self._session.zone())
        writers = [text.writer(kind) for _, kind in columns]
        definitions = [self._definition(name, kind) for name, kind in columns]
        self._stream.write_many([uint_len(len(columns)), *definitions, self._eof_packet()])

        def send(rows: Iterable[Row]) -> None:
            self._stream.write_many([_row(row, writers) for row in rows])

        return send

    def _definition(self, name: str, kind: Type) -> bytes:
        wire = self._server.flavour.wire(kind)
        label = name.encode()
        names = b"".join(str_len(part) for part in (b"def", b"", b"", b"", label, label))
        return names + struct.pack("<BHIBHBH", 0x0C, wire.charset, wire.length, wire.code, 0, wire.decimals, 0)

    def _eof_packet(self) -> bytes:
        return struct.pack("<BHH", 0xFE, 0, 0)

    async def _eof(self) -> None:
        await self._stream.write(self._eof_packet())

    async def _ok(self, affected: int = 0) -> None:
        await self._stream.write(b"\x00" + uint_len(affected) + b"\x00" + struct.pack("<HH", 0, 0))

    async def _refuse(self, refusal: Refusal) -> None:
        await self._stream.write(_error(refusal))


class _Hands(Connection):  # type: ignore[misc]
    """mysql-mimic's handshake, with the words of these systems for a wrong password or database."""

    enter: Callable[[str, str | None], bytes | None]

    def ok(self, **words: Any) -> bytes:
        packet: bytes = super().ok(**words)
        return self.enter(self.session.username or "", self.session.database) or packet

    def error(self, **words: Any) -> bytes:
        if words.get("code") == 1045:
            words["msg"] = f"Access denied for user '{self.session.variables['external_user']}' (using password: YES)"
        packet: bytes = packets.make_error(capabilities=self.capabilities, server_charset=self.server_charset, **words)
        return packet


async def _interruptible(cursor: duckdb.DuckDBPyConnection, work: Callable[[], Result]) -> Result:
    """Let a cursor work in a thread; who cancels this interrupts it, and it is at rest afterwards."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        cursor.interrupt()
        await asyncio.wait([working])
        working.exception()
        raise


def _error(refusal: Refusal) -> bytes:
    head = struct.pack("<BH", 0xFF, refusal.code)
    return head + b"#" + refusal.state.encode() + refusal.message.encode()


def _row(row: Row, writers: list[Callable[[Any], bytes | None]]) -> bytes:
    parts = []
    for value, writer in zip(row, writers, strict=True):
        written = writer(value)
        parts.append(b"\xfb" if written is None else str_len(written))
    return b"".join(parts)
