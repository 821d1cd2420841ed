"""One connection to a server that speaks PostgreSQL's protocol, as the rest of the room uses it.

Errors are those of ``retl.model.errors``: no exception of the driver leaves this file. Every transaction sets what
its guarantees depend on, so it works behind a pooler that gives each transaction another session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import anyio
import asyncpg
import msgspec

from retl.connectors.net.idle import has_news
from retl.connectors.postgres import line
from retl.connectors.postgres.errors import SourceRefused, TargetRefused
from retl.connectors.postgres.login import Login
from retl.model.errors import ConfigError, RetlError, TargetError
from retl.threads import shielded

_CANCEL_SECONDS = 5.0
_BLOCK_BYTES = 256 * 1024
_GRACE_SECONDS = 0.5
"""For what is about to end by itself: a login that nobody waits for any more, a request to cancel."""
_BLOCKS = 8
"""How many blocks may wait, of about 256 KiB: rows are sent while others are decoded."""
_READ_ONLY = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "ISOLATION LEVEL READ COMMITTED READ WRITE"
_NOT_SUPPORTED, _READ_ONLY_NOW = "0A000", "25006"


@dataclass(frozen=True, slots=True)
class Server:
    """The server, as it describes itself."""

    text: str
    """Such as ``PostgreSQL 18.1 on x86_64-pc-linux-gnu, ...``."""
    number: int
    """As the server counts: 180001."""
    encoding: str
    """Of the database: UTF8 as a rule; SQL_ASCII takes any bytes."""
    is_replica: bool
    database: str
    user: str

    @property
    def product(self) -> str:
        """``PostgreSQL``, or what speaks its protocol: ``CockroachDB``."""
        return self.text.partition(" ")[0]

    @property
    def version(self) -> str:
        return f"{self.number // 10_000}.{self.number % 10_000}"


class ResultColumn(NamedTuple):
    """A column of a result: its name, and what ``format_type`` takes."""

    name: str
    oid: int
    modifier: int


class PostgresConnection:
    """An open connection. Used by one task at a time; ``abort`` may be called by any."""

    def __init__(self, login: Login, driver: Any) -> None:
        self._login = login
        self._driver = driver
        self._settings = ""
        self._failed = False
        self.warnings = login.warnings
        """Warnings about the connection to the server."""
        self.server = Server("", driver.get_server_version().major * 10_000, "", False, "", "")

    @classmethod
    async def open(cls, login: Login) -> Self:
        """Connect, and see whether the server keeps the settings. Raises ``ConnectionFailed`` or ``ConfigError``."""
        with line.mapped(login):
            async with asyncio.timeout(login.connect_timeout):
                driver = await _connected(asyncpg.connect(**login.parameters, statement_cache_size=0))
        connection = cls(login, driver)
        try:
            line.keep_alive(driver)
            line.write_on(driver)
            await connection._prepare()
        except BaseException:
            connection.abort()
            raise
        return connection

    @property
    def closed(self) -> bool:
        """Whether it is unusable: closed here, or ended by the server."""
        return bool(self._driver.is_closed())

    @property
    def has_news(self) -> bool:
        """Whether something has come that nobody has asked for, such as its end."""
        return has_news(self._driver._transport)

    @property
    def in_transaction(self) -> bool:
        """Whether the last answer of the server said so."""
        return not self.closed and bool(self._driver.is_in_transaction())

    @property
    def is_healthy(self) -> bool:
        """Whether the open transaction may go on: no statement of it has failed."""
        return self.in_transaction and not self._failed

    @property
    def place(self) -> str:
        return self._login.place

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a small result, as Python values. Times are better asked for as text.

        Behind a pooler only a transaction keeps the server, so it is run in one; the open one, or one of its own.
        """
        if not self.in_transaction:
            async with self.transaction(_READ_ONLY):
                return await self.query(sql)
        async with self._guarded():
            return [tuple(row) for row in await self._driver.fetch(self._sendable(sql))]

    async def describe(self, sql: str) -> list[ResultColumn]:
        """The columns of a query, which is not run. In a transaction."""
        async with self._guarded():
            prepared = await self._driver.prepare(self._sendable(sql), name="")
            attributes = prepared.get_attributes()
        modifiers = line.modifiers(prepared) or [-1] * len(attributes)
        return [
            ResultColumn(one.name, one.type.oid, modifier) for one, modifier in zip(attributes, modifiers, strict=True)
        ]

    async def execute(self, sql: str) -> int:
        """Run one statement without values, or several; how many rows the last one has changed."""
        async with self._guarded():
            return line.count(await self._driver.execute(self._sendable(sql)))

    async def begin(self, mode: str = _WRITE) -> None:
        """Begin a transaction, in whatever session, with the settings that its guarantees need."""
        try:
            await self.execute(f"BEGIN {mode}{self._settings}")
        except (SourceRefused, TargetRefused) as error:
            if error.state != _NOT_SUPPORTED:
                raise
            # So says a replica of READ WRITE: a failover is under way, or the address leads to the wrong server.
            raise self._login.explain(_READ_ONLY_NOW, error.reason, self._login.role, self.place) from error
        self._failed = False

    async def commit(self) -> None:
        """Raises ``TargetError`` if the server has rolled back instead, since a statement had failed."""
        async with self._guarded():
            done = await self._driver.execute("COMMIT")
        if done != "COMMIT":
            raise TargetError(
                f"the server at {self.place} rolled a transaction back instead of committing it.",
                remedy="run the scan again; nothing of it was written.",
            )

    async def rollback(self) -> None:
        await self.execute("ROLLBACK")

    def transaction(self, mode: str = _WRITE) -> Transaction:
        """A block that is committed at its end, and rolled back after an error."""
        return Transaction(self, mode)

    def begun(self) -> Transaction:
        """The same for a transaction that ``begin`` has begun."""
        return Transaction(self, None)

    async def copy_in(
        self,
        table: str,
        columns: Sequence[str],
        data: memoryview,
        *,
        schema: str | None = None,
        **options: Any,
    ) -> int:
        """``COPY table FROM STDIN``; names are not quoted yet. ``options`` are those of ``asyncpg``'s copy_to_table."""
        async with self._guarded():
            done = await self._driver.copy_to_table(
                table, source=self._in_blocks(data), columns=list(columns), schema_name=schema, **options
            )
        return line.count(done)

    async def copy(self, sql: str, data: memoryview) -> tuple[int, list[str]]:
        """``COPY ... FROM STDIN`` as it is written; how many rows it took, and what the server remarked."""
        with line.heard(self._driver) as remarks:
            async with self._guarded():
                # No public method of the driver takes the options of newer servers.
                done = await self._driver._copy_in(sql, self._in_blocks(data), None)
        return line.count(done), remarks

    async def _in_blocks(self, data: memoryview) -> AsyncGenerator[bytes, None]:
        """Blocks that the driver sends one by one, as the server takes them; given all at once it would send it in one go,
        and hold the event loop up while the transport moves what is left of it. They end with the connection: the driver
        then raises what it was told."""
        for start in range(0, len(data), _BLOCK_BYTES):
            if not self.closed:
                yield bytes(data[start : start + _BLOCK_BYTES])

    async def copy_out(self, sql: str) -> AsyncGenerator[bytes, None]:
        """``COPY (sql) TO STDOUT`` in its text format, in blocks as they come.

        Closed early, it ends the query by a cancel from a second connection, and this connection with it.
        """
        send, receive = anyio.create_memory_object_stream[bytes](_BLOCKS)
        copying = asyncio.create_task(self._copy_into(sql, send.send, send.close))
        with receive:
            try:
                async for block in receive:
                    yield block
                await copying
            finally:
                await shielded(self._ended(copying))

    async def _copy_into(self, sql: str, send: Callable[[bytes], Any], close: Callable[[], None]) -> None:
        async def sink(block: bytes) -> None:
            await send(block)
            if self.closed:  # the driver has told nobody, and would wait for more
                raise ConnectionResetError("it was lost while rows waited to be taken")

        try:
            async with self._guarded():
                await self._driver.copy_from_query(sql, output=sink, format="text")
        finally:
            close()

    async def _ended(self, task: asyncio.Task[None]) -> None:
        """Cancel a task unless it has ended; what it raises concerns nobody any more."""
        await asyncio.sleep(0)  # a connection that was lost in this turn is known to be in the next
        if self.closed:
            self.abort()  # or the driver would ask the server to cancel what is lost
        task.cancel()
        await asyncio.wait([task], timeout=2 * _CANCEL_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()

    async def _prepare(self) -> None:
        """Ask what the server is, and whether the settings are what a transaction sets."""
        wanted = self._login.settings.of(self.server.number)
        self._settings = "".join(f"; SET LOCAL {name} = {_value(name, value)}" for name, value in wanted.items())
        names = ", ".join(f"'{name.lower()}'" for name in wanted)
        (facts,) = await self.query(
            "SELECT version(), current_setting('server_version_num')::int, current_setting('server_encoding'), "
            "pg_is_in_recovery(), current_database()::text, current_user::text, "
            f"(SELECT json_object_agg(lower(name), setting)::text FROM pg_settings WHERE lower(name) IN ({names}))"
        )
        *told, kept = facts
        self.server = Server(*told)
        self._check_settings(wanted, msgspec.json.decode(kept, type=dict[str, str]))

    def _check_settings(self, wanted: Mapping[str, str], kept: Mapping[str, str]) -> None:
        for name, value in wanted.items():
            found = kept.get(name.lower())
            if found is None or found.replace('"', "") != value.replace('"', ""):
                raise ConfigError(
                    f"the server at {self.place} keeps {name} at {found!r}, though it was told to use {value!r}.",
                    remedy="see what stands between: a proxy that ignores SET LOCAL, or another product than PostgreSQL.",
                )

    def _sendable(self, sql: str) -> str:
        """The statement; on the way its text would end at a NUL."""
        try:
            sql.encode()
        except UnicodeEncodeError as error:
            raise self._login.explain("22021", f"{error.reason} in a text", self._login.role, self.place) from None
        if "\0" in sql:
            raise self._login.explain("22021", "a NUL in a text", self._login.role, self.place)
        return sql

    async def prove(self) -> None:
        """Raise ``ConnectionFailed`` if the server does not answer."""
        await self.execute("SELECT 1")

    def _guarded(self) -> _Guard:
        return _Guard(self)

    async def end_statement(self) -> None:
        """End a statement that nobody waits for any more, and the connection with it."""
        cancels = line.take_cancels(self._driver)
        with anyio.move_on_after(_CANCEL_SECONDS, shield=True), suppress(Exception):
            await self._driver.close(timeout=_CANCEL_SECONDS)
        self.abort()
        await _ended_soon(cancels)

    def abort(self) -> None:
        """Cut the connection at once: the server rolls back. Safe at any time."""
        self._driver.terminate()

    async def close(self) -> None:
        """Close politely. Safe to call again."""
        with suppress(OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError):
            await self._driver.close(timeout=self._login.connect_timeout)


class Transaction:
    """A transaction of a connection, for the length of a block."""

    def __init__(self, connection: PostgresConnection, mode: str | None) -> None:
        """``mode``: ``None`` where it is begun already."""
        self._connection = connection
        self._mode = mode

    async def __aenter__(self) -> PostgresConnection:
        if self._mode is not None:
            await self._connection.begin(self._mode)
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        connection = self._connection
        if error is None:
            await connection.commit()
        elif isinstance(error, RetlError) and not connection.closed:
            with suppress(RetlError):
                await connection.rollback()
        else:
            connection.abort()


class _Guard:
    """Maps errors; a call that is cancelled or takes too long ends on the server too."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection
        login = connection._login
        # The server itself ends statements in time; this is for one that does not answer.
        self._timeout = asyncio.timeout(login.statement_timeout + login.connect_timeout)

    async def __aenter__(self) -> None:
        with line.mapped(self._connection._login):
            if self._connection.closed:  # not every call of the driver looks
                raise asyncpg.InterfaceError("it is closed")
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._connection._failed = True
            line.fetch(self._connection._driver)
            if self._connection.closed:
                for needless in line.take_cancels(self._connection._driver):
                    needless.cancel()
        if isinstance(error, asyncio.CancelledError):
            await shielded(self._connection.end_statement())
        with line.mapped(self._connection._login):
            await self._timeout.__aexit__(kind, error, trace)
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error


async def _connected(connect: Coroutine[Any, Any, Any]) -> Any:
    """What ``connect`` gives. Cancelled, it is given a moment: the driver, cut while it asks for TLS, may leave an
    exception that nobody fetches, and the event loop would tell the host of it."""
    connecting = asyncio.ensure_future(connect)
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        await shielded(_given_up(connecting))
        raise


async def _given_up(connecting: asyncio.Task[Any]) -> None:
    await _ended_soon({connecting})
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


async def _ended_soon(tasks: set[asyncio.Task[Any]]) -> None:
    """Give tasks a moment to end by themselves, and cancel those that have not."""
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
        for task in pending:
            task.cancel()
        await asyncio.wait(tasks)


def _value(name: str, value: str) -> str:
    """A setting's value in SQL; a list of names is a list."""
    return value if name == "search_path" else "'" + value.replace("'", "''") + "'"
