"""The names of aiomysql and asyncio that the wire relies on, and its talk with servers that mean no good.

The server here is a script on asyncio's streams: it says what a real one never would.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import aiomysql.connection
import anyio
import pymysql.connections
import pytest
from aiomysql.connection import Connection, MySQLResult
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pymysql.constants import CLIENT, COMMAND, FIELD_TYPE

from retl.connectors import MySQL
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import server_error
from retl.connectors.mysql.login import Login
from retl.connectors.mysql.wire import TextWire
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError

PASSWORD = "päss-漢-word"
SALT = b"abcdefgh" + b"ijklmnopqrst"
OK = b"\x00\x00\x00\x02\x00\x00\x00"
END = b"\xfe\x00\x00\x02\x00"
Script = Callable[["Talk"], Awaitable[None]]

ROGUE_KEY = (
    rsa.generate_private_key(65537, 2048)
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)

NO_TLS = CLIENT.CAPABILITIES & ~CLIENT.SSL | CLIENT.PLUGIN_AUTH | CLIENT.LOCAL_FILES


class Talk:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heard = bytearray()
        """Every byte that the client sent."""
        self.sequence = 0
        self.over = asyncio.Event()
        """Set when the client is gone."""

    async def receive(self) -> bytes:
        header = await self.reader.readexactly(4)
        payload = await self.reader.readexactly(int.from_bytes(header[:3], "little"))
        self.heard += header + payload
        self.sequence = (header[3] + 1) & 0xFF
        return payload

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.writer.write(len(payload).to_bytes(3, "little") + bytes([self.sequence]) + payload)
            self.sequence = (self.sequence + 1) & 0xFF

    def greet(self, plugin: bytes = b"mysql_native_password", capabilities: int = NO_TLS) -> None:
        self.send(
            b"\x0a8.0.99-script\0"
            + struct.pack("<I", 7)
            + SALT[:8]
            + b"\0"
            + struct.pack("<HBHHB", capabilities & 0xFFFF, 45, 2, capabilities >> 16, len(SALT) + 1)
            + bytes(10)
            + SALT[8:]
            + b"\0"
            + plugin
            + b"\0"
        )

    async def log_in(self) -> None:
        self.greet()
        await self.receive()
        self.send(OK)

    async def until_gone(self) -> None:
        """Hear the client to its end."""
        self.heard += await self.reader.read()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[int, list[Talk]]]:
    """A server on a free port that follows a script with everybody; the port, and the talks so far."""
    talks: list[Talk] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(talk: Talk) -> None:
        with suppress(OSError, EOFError):
            await script(talk)
            await talk.until_gone()
        talk.over.set()
        talk.writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(Talk(reader, writer))
        tasks.add(asyncio.create_task(serve(talks[-1])))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], talks
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for talk in talks:
            talk.writer.close()


def login(port: int, **words: object) -> Login:
    return replace(Login("127.0.0.1", port, "me", PASSWORD, connect_timeout=5.0), **words)  # type: ignore[arg-type]


def column(name: bytes, code: int = FIELD_TYPE.VAR_STRING) -> bytes:
    texts = (b"def", b"", b"", b"", name, b"")
    return (
        b"".join(bytes([len(text)]) + text for text in texts)
        + b"\x0c"
        + struct.pack("<HIBHB", 45, 80, code, 0, 0)
        + b"\0\0"
    )


def result(rows: Sequence[bytes], end: bytes = END) -> list[bytes]:
    """The packets of a result of one column."""
    return [b"\x01", column(b"c"), END, *(bytes([len(row)]) + row for row in rows), end]


# The names ---------------------------------------------------------------------------------------------------------


def test_the_driver_has_the_methods_that_the_wire_calls_and_replaces() -> None:
    def parameters(function: Callable[..., object]) -> list[str]:
        return list(inspect.signature(function).parameters)

    for name, wanted in {
        "_connect": ["self"],
        "_request_authentication": ["self"],
        "_process_auth": ["self", "plugin_name", "auth_packet"],
        "_execute_command": ["self", "command", "sql"],
        "_read_packet": ["self", "packet_type"],
        "query": ["self", "sql", "unbuffered"],
        "ensure_closed": ["self"],
    }.items():
        method = getattr(Connection, name)
        assert inspect.iscoroutinefunction(method), name
        assert parameters(method) == wanted, name
    for name, wanted in {
        "_ensure_alive": ["self"],
        "write_packet": ["self", "payload"],
        "close": ["self"],
        "thread_id": ["self"],
    }.items():
        method = getattr(Connection, name)
        assert not inspect.iscoroutinefunction(method), name
        assert parameters(method) == wanted, name
    assert isinstance(inspect.getattr_static(Connection, "closed"), property)
    assert parameters(MySQLResult) == ["connection"]
    assert inspect.iscoroutinefunction(MySQLResult._get_descriptions)
    assert parameters(MySQLResult._read_ok_packet) == ["self", "first_packet"]
    packet = aiomysql.connection.MysqlPacket
    assert packet is pymysql.connections.MysqlPacket
    for name in ("is_ok_packet", "is_load_local_packet", "read_length_encoded_integer"):
        assert parameters(getattr(packet, name)) == ["self"], name


async def test_the_driver_has_the_attributes_that_the_wire_looks_at() -> None:
    wire = TextWire(tls_required=False, host="127.0.0.1", password="x", charset="utf8mb4", autocommit=None)
    for name in ("_reader", "_writer", "_result"):
        assert getattr(wire, name) is None
    assert wire._secure is False
    assert wire._server_auth_plugin == ""
    assert wire._local_infile is False
    assert wire.closed
    assert wire.client_flag & CLIENT.LOCAL_FILES
    assert not wire.client_flag & CLIENT.MULTI_STATEMENTS
    described = MySQLResult(wire)
    for name in ("affected_rows", "warning_count", "message", "field_count", "rows", "server_status", "has_next"):
        assert hasattr(described, name), name
    reader = asyncio.StreamReader()
    assert isinstance(reader._limit, int)  # type: ignore[attr-defined]
    assert isinstance(reader._buffer, bytearray)  # type: ignore[attr-defined]


async def test_a_conversation() -> None:
    """Login, a statement, a small result, a large one in raw packets, LOAD DATA LOCAL, goodbye."""
    asked: list[bytes] = []
    loaded: list[bytes] = []

    async def script(talk: Talk) -> None:
        await talk.log_in()
        asked.append(await talk.receive())
        talk.send(b"\x00\x03\x00\x02\x00\x01\x00\x05Hello")
        asked.append(await talk.receive())
        talk.send(*result([b"one", b"two"]))
        asked.append(await talk.receive())
        talk.send(*result([b"a", b"b", b"c"]))
        asked.append(await talk.receive())
        talk.send(b"\xfb/etc/passwd")
        while payload := await talk.receive():
            loaded.append(payload)
        talk.send(OK)
        asked.append(await talk.receive())

    async with scripted(script) as (port, talks):
        connection = await MySQLConnection.open(login(port))
        assert connection.thread_id == 7
        assert connection.server.version == (8, 0, 99) and not connection.server.mariadb
        done = await connection.execute("DO 1")
        assert (done.affected, done.warnings, done.info) == (3, 1, "Hello")
        assert await connection.table("SELECT 2") == [{"c": "one"}, {"c": "two"}]
        rows = [row async for batch in connection.stream("SELECT 3") for row in batch.to_pylist()]
        assert rows == [{"c": "a"}, {"c": "b"}, {"c": "c"}]
        await connection.load("LOAD", [b"x" * 300_000, memoryview(b"end")])
        await connection.close()
        assert connection.closed
        await asyncio.wait_for(talks[0].over.wait(), 5)
    assert b"".join(loaded) == b"x" * 300_000 + b"end"
    query = bytes([COMMAND.COM_QUERY])
    assert asked == [query + b"DO 1", query + b"SELECT 2", query + b"SELECT 3", query + b"LOAD", b"\x01"]
    assert PASSWORD.encode() not in talks[0].heard


# Safety ------------------------------------------------------------------------------------------------------------

Use = Callable[[MySQLConnection], Awaitable[object]]


async def _stream(connection: MySQLConnection) -> object:
    return [batch async for batch in connection.stream("SELECT 1")]


USES: dict[str, Use] = {
    "query": lambda connection: connection.query("SELECT 1"),
    "execute": lambda connection: connection.execute("DO 1"),
    "describe": lambda connection: connection.describe("SELECT 1"),
    "table": lambda connection: connection.table("SHOW TABLES"),
    "stream": _stream,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("after_a_result", [False, True], ids=["at once", "as a second result"])
async def test_a_server_that_asks_for_a_file_gets_none(use: str, after_a_result: bool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the content of the file")

    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        if after_a_result:
            more = b"\x00\x00\x00\x0a\x00\x00\x00"  # there are more results
            talk.send(more)
        talk.send(b"\xfb" + str(secret).encode())

    async with scripted(script) as (port, talks):
        connection = await MySQLConnection.open(login(port))
        with pytest.raises(ConnectionFailed, match="does not speak MySQL's protocol"):
            await USES[use](connection)
            await USES[use](connection)
        assert connection.closed
        await asyncio.wait_for(talks[0].over.wait(), 5)
        assert b"content of the file" not in talks[0].heard


async def test_nothing_is_sent_without_tls_where_it_is_asked_for() -> None:
    async def script(talk: Talk) -> None:
        talk.greet()

    context = ssl.create_default_context()
    async with scripted(script) as (port, talks):
        with pytest.raises(ConfigError, match="does not offer TLS"):
            await MySQLConnection.open(login(port, tls=context))
        await asyncio.wait_for(talks[0].over.wait(), 5)
        assert talks[0].heard == b""


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"mysql_old_password", b"dialog"])
@pytest.mark.parametrize("when", ["at first", "as a switch"])
async def test_no_way_to_log_in_that_gives_the_password_away(plugin: bytes, when: str) -> None:
    async def script(talk: Talk) -> None:
        if when == "at first":
            talk.greet(plugin)
            await talk.receive()
            talk.send(OK)
        else:
            talk.greet()
            await talk.receive()
            talk.send(b"\xfe" + plugin + b"\0" + SALT + b"\0")

    async with scripted(script) as (port, talks):
        with pytest.raises(ConfigError) as refused:
            await MySQLConnection.open(login(port))
        assert plugin.decode() in str(refused.value) or "clear text" in str(refused.value)
        await asyncio.wait_for(talks[0].over.wait(), 5)
        assert PASSWORD.encode() not in talks[0].heard


@pytest.mark.parametrize("plugin", [b"caching_sha2_password", b"sha256_password"])
async def test_a_rogue_server_does_not_get_the_password_by_a_key_of_its_own(
    plugin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextWire, "local", False)
    answers: list[bytes] = []

    async def script(talk: Talk) -> None:
        talk.greet(plugin)
        await talk.receive()
        if plugin == b"caching_sha2_password":
            talk.send(b"\x01\x04")  # the whole password, please
            answers.append(await talk.receive())
        talk.send(b"\x01" + ROGUE_KEY)
        answers.append(await talk.receive())

    async with scripted(script) as (port, talks):
        with pytest.raises(ConfigError, match="server_public_key"):
            await MySQLConnection.open(login(port))
        await asyncio.wait_for(talks[0].over.wait(), 5)
    assert answers == []


# Servers that stall, and what is no server --------------------------------------------------------------------------


async def _silent(talk: Talk) -> None:
    await talk.reader.read()


async def _half_a_greeting(talk: Talk) -> None:
    talk.writer.write(b"\x4a\x00\x00\x00\x0a8.0")
    await talk.reader.read()


async def _no_answer_to_the_login(talk: Talk) -> None:
    talk.greet()
    await talk.reader.read()


async def _no_answer_to_the_first_statement(talk: Talk) -> None:
    await talk.log_in()
    await talk.reader.read()


@pytest.mark.parametrize(
    "script", [_silent, _half_a_greeting, _no_answer_to_the_login, _no_answer_to_the_first_statement]
)
async def test_a_server_that_stalls_is_given_up_in_time(script: Script) -> None:
    async with scripted(script) as (port, _):
        begun = time.monotonic()
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}.*in time"):
            await MySQLConnection.open(login(port, connect_timeout=0.3, session=("SET x = 1",)))
        assert time.monotonic() - begun < 3


async def _answers_nothing(talk: Talk) -> None:
    await talk.log_in()
    await talk.reader.read()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retl.connectors.mysql.wire._QUIET_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("use", ["query", "stream"])
async def test_a_server_that_is_silent_and_lets_nobody_in_is_given_up(use: str) -> None:
    async with scripted(_answers_nothing) as (port, talks):
        connection = await MySQLConnection.open(login(port, connect_timeout=0.1))
        with anyio.fail_after(20), pytest.raises(ConnectionFailed, match="nobody else in"):
            await USES[use](connection)
        assert connection.closed and len(talks) >= 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("use", ["query", "stream"])
async def test_a_server_that_is_busy_is_waited_for(use: str) -> None:
    looked = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.log_in()
        asked = await talk.receive()
        if b"DO 0" in asked:
            talk.send(OK)
            looked.set()
        else:
            await looked.wait()
            talk.send(*result([b"1"]))

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        with anyio.fail_after(20):
            assert await USES[use](connection)
        await connection.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("drips", [False, True])
async def test_a_small_answer_takes_no_longer_than_allowed(drips: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        asked = await talk.receive()
        if b"DO 0" in asked or b"KILL" in asked:
            talk.send(OK)
        elif drips:
            for packet in result([b"x"] * 1000):
                talk.send(packet)
                await asyncio.sleep(0.02)

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port, read_timeout=0.4))
        with anyio.fail_after(20), pytest.raises(ConnectionFailed):
            await connection.query("SELECT 1")
        assert connection.closed


def _endless(*first: bytes, again: bytes) -> Script:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        talk.send(*first)
        while True:
            talk.send(again)
            await talk.writer.drain()

    return script


async def _continued(talk: Talk) -> None:
    await talk.log_in()
    await talk.receive()
    talk.send(b"\x01", column(b"c"), END)
    while True:
        talk.writer.write(b"\xff\xff\xff" + bytes([talk.sequence]) + bytes(0xFFFFFF))
        talk.sequence = (talk.sequence + 1) & 0xFF
        await talk.writer.drain()


ENDLESS: dict[str, tuple[str, Script, str]] = {
    "rows": ("query", _endless(b"\x01", column(b"c"), END, again=b"\x01a"), "rows"),
    "large rows": ("query", _endless(b"\x01", column(b"c"), END, again=b"\xfd\x00\x00\x01" + bytes(1 << 16)), "larger than 1 MB"),
    "a row of a small result": ("query", _continued, "larger than 1 MB"),
    "a row of a large result": ("stream", _continued, "a row is larger than 20 MB"),
    "columns of a small result": ("query", _endless(b"\xfe" + (2**63).to_bytes(8, "little"), again=column(b"c")), "columns"),
    "columns of a large result": ("stream", _endless(b"\xfe" + (2**63).to_bytes(8, "little"), again=column(b"c")), "columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_answer_that_never_ends_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retl.connectors.mysql.wire._MOST_BYTES", 1 << 20)
    monkeypatch.setattr("retl.connectors.mysql.wire._MOST_PACKETS", 500)
    monkeypatch.setattr("retl.connectors.mysql.wire._MOST_COLUMNS", 300)
    monkeypatch.setattr("retl.connectors.mysql.rows._MOST_BYTES", 20 << 20)
    use, script, words = ENDLESS[name]
    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        with anyio.fail_after(30), pytest.raises(SourceError, match=words) as failed:
            await USES[use](connection)
        assert connection.closed and failed.value.remedy


async def test_a_row_with_fewer_columns_than_the_result_is_noticed() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        talk.send(b"\x02", column(b"a"), column(b"b"), END, b"\x01x", END)

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        with pytest.raises(ConnectionFailed, match="does not speak MySQL's protocol"):
            await connection.query("SELECT 1")


GARBAGE: dict[str, bytes] = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "empty packet": b"\x00\x00\x00\x00",
    "short greeting": b"\x03\x00\x00\x00\x0a8.",
    "version that is no number": b"\x40\x00\x00\x00\x0aabc\0" + bytes(0x3B),
    "zeros": bytes(200),
    "ones": b"\x20\x00\x00\x00" + b"\x11" * 32,
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_for_a_greeting_is_a_clear_error(name: str) -> None:
    async def script(talk: Talk) -> None:
        talk.writer.write(GARBAGE[name])
        talk.writer.write_eof()

    async with scripted(script) as (port, talks):
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}") as failed:
            await MySQLConnection.open(login(port))
        assert PASSWORD not in str(failed.value)
        await asyncio.wait_for(talks[0].over.wait(), 5)
        assert PASSWORD.encode() not in talks[0].heard


BROKEN: dict[str, list[bytes]] = {
    "an empty packet": [b""],
    "a column that ends early": [b"\x01", b"\x03def\x00"],
    "text that is no UTF-8": [b"\x01", column(b"\xff\xfe"), END],
    "no end of the columns": [b"\x01", column(b"c"), b"\x01a", b"\x01b"],
    "a row that is cut": [*result([b"a"])[:-1], b"\x09ab", END],
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("use", ["query", "stream"])
async def test_a_broken_result_is_a_clear_error_and_the_end_of_the_connection(name: str, use: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        talk.send(*BROKEN[name])

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        with pytest.raises(ConnectionFailed, match="does not speak MySQL's protocol"):
            await USES[use](connection)
        assert connection.closed


@pytest.mark.parametrize("use", ["query", "stream"])
async def test_a_packet_out_of_order_is_noticed(use: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        packets = result([b"a", b"b", b"c"])
        talk.send(*packets[:4])
        talk.sequence += 1
        talk.send(*packets[4:])

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        with pytest.raises(ConnectionFailed, match="does not speak MySQL's protocol"):
            await USES[use](connection)
        assert connection.closed


@pytest.mark.parametrize("packets", range(7))
async def test_a_result_that_ends_in_the_middle_is_a_lost_connection(packets: int) -> None:
    """After every packet of it, and within the next one."""
    whole = result([b"a", b"b", b"c"])

    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        talk.send(*whole[:packets])
        talk.writer.write(b"\x05")
        talk.writer.write_eof()

    async with scripted(script) as (port, talks):
        connection = await MySQLConnection.open(login(port))
        got: list[object] = []
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port} failed: Lost connection"):
            async for batch in connection.stream("SELECT 1"):
                got.extend(batch.column(0).to_pylist())
        assert got == ["a", "b", "c"][: max(0, packets - 3)]
        assert connection.closed
        assert len(talks) == 1  # no second connection: the query may be anybody's by now


async def test_an_error_in_the_middle_leaves_the_connection_as_it_was() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        talk.send(*result([b"a"], b"\xff\xda\x04#21000Subquery returns more than 1 row"))
        await talk.receive()
        talk.send(*result([b"again"]))

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        got: list[object] = []
        with pytest.raises(RetlError, match=r"Subquery returns more than 1 row \(error 1242\)"):
            async for batch in connection.stream("SELECT 1"):
                got.extend(batch.column(0).to_pylist())
        assert got == ["a"]
        assert not connection.closed
        assert await connection.query("SELECT 2") == [("again",)]
        await connection.close()


async def test_a_line_that_is_cut_by_another_task_is_a_lost_connection() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.receive()
        talk.send(*result([b"a"])[:-1])

    async with scripted(script) as (port, _):
        connection = await MySQLConnection.open(login(port))
        with pytest.raises(ConnectionFailed):
            async for _batch in connection.stream("SELECT 1"):
                connection.abort()
        with pytest.raises(ConnectionFailed):
            await connection.query("SELECT 1")


# Words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["secret", "se:cr/et", "se@cr@et", "s:e@c/r:et@", "päss"])
def test_a_url_is_never_shown_with_its_password(password: str) -> None:
    shown = repr(MySQL(f"mysql://me:{password}@db:3306/shop"))
    assert shown == "MySQL('mysql://me:***@db:3306/shop')"
    with pytest.raises(ConfigError) as refused:
        MySQL(f"mysql://me:{password}@db:3306/shop?x=1").source()
    assert password not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *("me:s3cret@db:3306/shop", "mysql:/me:s3cret@db/shop", "mysql:me:s3cret@db", "msql//me:s3cret@db"),
        *("mysql://m/e:s3cret@db/shop", "mysql://me:12/s3cret@db/shop", "mysql://me:s3cret/@db"),
    ],
)
def test_a_url_that_is_written_wrong_is_refused_without_its_password(url: str) -> None:
    assert "s3cret" not in repr(MySQL(url))
    with pytest.raises(ConfigError, match="the url") as refused:
        MySQL(url).source()
    assert "s3cret" not in str(refused.value)
    assert "@ and / in a name as %40 and %2F" in str(refused.value)


def test_a_zone_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="Middle/Earth"):
        MySQL("mysql://me@db/shop", timezone="Middle/Earth").source()


def test_a_system_call_that_failed_at_the_server_is_tried_again() -> None:
    """MariaDB 10.11 said this when another server had emptied the folder of temporary tables."""
    said = """Error on delete of '/tmp/#sql-temptable-1.MAI' (Errcode: 2 "No such file or directory")"""
    error = server_error(6, said, "target", "db:3306")
    assert isinstance(error, ConnectionFailed)
    assert said in error.message and "db:3306" in error.message
    assert "temporary files" in error.remedy
