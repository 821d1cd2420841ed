"""One connection to a server that speaks MySQL's protocol, as the rest of the room uses it.

Values come as canonical text, batches as Arrow columns of it. Errors are those of
``retl.model.errors``: no exception of the driver leaves this file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pyarrow as pa
from pymysql.constants import CR, FIELD_TYPE
from pymysql.err import MySQLError, OperationalError

from retl.connectors.mysql import line
from retl.connectors.mysql.login import Login
from retl.connectors.mysql.rows import Kind, RowDecoder
from retl.connectors.mysql.wire import VECTOR, Done, TextWire, WireField, sqlstate
from retl.connectors.net.idle import has_news
from retl.connectors.sql.statement import RowError
from retl.model.errors import ConfigError, ConnectionFailed, RetlError
from retl.model.secret import revealed
from retl.threads import shielded

T = TypeVar("T")

_BINARY_CHARSET = 63
_BYTES = frozenset(
    {
        FIELD_TYPE.TINY_BLOB,
        FIELD_TYPE.MEDIUM_BLOB,
        FIELD_TYPE.LONG_BLOB,
        FIELD_TYPE.BLOB,
        FIELD_TYPE.VAR_STRING,
        FIELD_TYPE.STRING,
        FIELD_TYPE.VARCHAR,
        FIELD_TYPE.GEOMETRY,
        FIELD_TYPE.BIT,
        VECTOR,
    }
)
_KILL_SECONDS = 5.0
_VERSION = re.compile(r"(?:5\.5\.5-)?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Server:
    """The server, by its handshake: ``5.5.5-10.11.6-MariaDB`` is version (10, 11, 6) of MariaDB."""

    text: str

    @property
    def mariadb(self) -> bool:
        return "mariadb" in self.text.lower()

    @property
    def version(self) -> tuple[int, int, int]:
        found = _VERSION.match(self.text)
        return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


class MySQLConnection:
    """An open connection. Used by one task at a time; ``abort`` may be called by any."""

    def __init__(self, login: Login, wire: TextWire) -> None:
        self._login = login
        self._wire = wire
        self._quiet = 0.0
        self._missed = 0
        wire.on_silence = self._look_for_server
        self.server = Server(str(wire.server_version))
        self.thread_id = int(wire.thread_id())
        self.warnings = line.warnings(login.place, login.password, login.tls, wire)
        """A warning about the connection to the server."""
        self.query_name = str(self.thread_id)
        """The number by which KILL QUERY finds this connection."""
        self.variables: Mapping[str, str] = {}
        """Those of the server, where they were asked for as it was prepared."""
        self.left_behind: list[str] = []
        """Temporary tables of a load that are dropped later, together with others."""

    @classmethod
    async def open(cls, login: Login) -> MySQLConnection:
        """Connect and prepare the session. Raises ``ConnectionFailed`` or ``ConfigError``."""
        key = await anyio.to_thread.run_sync(line.key_in, login.public_key) if login.public_key else None
        password = await revealed(login.password)
        # The driver turns a password into bytes as Latin-1; a server expects UTF-8.
        wire = TextWire(
            host=login.host,
            port=login.port,
            user=login.user,
            password=password.encode().decode("latin-1"),
            db=login.database,
            charset="utf8mb4",
            ssl=login.tls or (line.UNVERIFIED if login.tls_where_offered else None),
            connect_timeout=login.connect_timeout,
            autocommit=None,
            program_name="retl",
            tls_required=login.tls is not None,
            public_key=key,
        )
        try:
            with line.mapped(login):
                async with asyncio.timeout(login.connect_timeout):
                    await wire.open()
                    for statement in login.session:
                        await wire.run(statement)
            connection = cls(login, wire)
        except BaseException:
            wire.abort()
            raise
        return connection

    @property
    def closed(self) -> bool:
        """Whether it is unusable: closed here, or ended by the server."""
        if self._wire.hung_up:
            self.abort()
        return bool(self._wire.closed)

    @property
    def has_news(self) -> bool:
        """Whether something has come that nobody has asked for, such as its end."""
        return has_news(self._wire.transport)

    @property
    def in_transaction(self) -> bool:
        """Whether the last answer of the server said so."""
        return bool(self._wire.get_transaction_status())

    @property
    def place(self) -> str:
        return self._login.place

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a small result: ``int`` for whole numbers, ``bytes`` for binary columns, else ``str``, or ``None``."""
        return (await self._ask(self._wire.run(sql)))[1]

    async def table(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a small result by the names of its columns, for statements such as SHOW."""
        fields, rows = await self._ask(self._wire.table(sql))
        return [dict(zip(fields, row, strict=True)) for row in rows]

    async def describe(self, sql: str) -> list[WireField]:
        """The columns of a result with few or no rows."""
        return await self._ask(self._wire.describe(sql))

    async def execute(self, sql: str) -> Done:
        """Run a statement without rows."""
        return (await self._ask(self._wire.run(sql)))[0]

    async def begin(self) -> None:
        """Begin a transaction in the prepared session."""
        await self.execute("START TRANSACTION")
        await self.prove()

    async def prove(self) -> None:
        """Check that the server answers, and that the session is still the prepared one.

        A pooler may hand it on, or reset it, between two transactions. Raises ``ConfigError`` then.
        """
        try:
            answer = await self.query(self._login.proof) if self._login.proof else [(1,)]
        except BaseException:
            self.abort()
            raise
        self.check_session(answer[0][0])

    def check_session(self, mark: object) -> None:
        """Raise ``ConfigError`` unless the mark of a prepared session is still set."""
        if str(mark) != "1":
            self.abort()
            raise ConfigError(
                f"the session at {self.place} is not the one that was made ready: a pooler has reset it, or handed it on.",
                remedy="connect to the server itself, or have the pooler keep a session for each connection.",
            )

    async def _ask(self, statement: Coroutine[Any, Any, T]) -> T:
        """Run a statement; one that is cancelled or takes too long ends on the server too."""
        self._quiet, self._missed = 0.0, 0
        with self._guarded():
            async with asyncio.timeout(self._login.read_timeout):
                try:
                    return await statement
                except asyncio.CancelledError:
                    await shielded(self._give_up())
                    raise

    async def _look_for_server(self, seconds: float) -> None:
        """Find out whether a silent server is busy or gone: a server that is gone rejects two connections in a row."""
        self._quiet += seconds
        if self._quiet > self._login.read_timeout:
            raise OperationalError(
                CR.CR_SERVER_LOST, f"it has said nothing for {self._quiet:,.0f} seconds (read_timeout)"
            )
        try:
            async with asyncio.timeout(self._login.connect_timeout):
                await (await MySQLConnection.open(replace(self._login, session=("DO 0",)))).close()
            self._missed = 0
        except (ConnectionFailed, TimeoutError) as error:
            if line.is_full(error):
                return
            self._missed += 1
            if self._missed > 1:
                raise OperationalError(
                    CR.CR_SERVER_LOST, f"it has said nothing for {self._quiet:,.0f} seconds, and lets nobody else in"
                ) from None

    async def load(self, sql: str, chunks: Iterable[bytes | memoryview]) -> Done:
        """``LOAD DATA LOCAL INFILE`` with the rows that ``chunks`` gives; the file's name in ``sql`` means nothing.

        The count of warnings must be looked at: LOCAL turns every error of a row into one.
        """
        self._quiet, self._missed = 0.0, 0
        with self._guarded():
            async with asyncio.timeout(self._login.read_timeout):
                return await self._wire.load(sql, chunks)

    async def load_nothing(self, sql: str) -> None:
        """Try a LOAD DATA LOCAL without rows."""
        with self._guarded():
            await self._wire.load(sql, ())

    async def stream(
        self, sql: str, kinds: Sequence[Kind | None] | None = None, names: Sequence[str] | None = None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of a large result, in batches of about a megabyte.

        Each column is canonical text, ``binary`` where the server sends bytes, or what
        ``kinds`` asks for, under the server's names or ``names``. Closed early, it ends the query by ``KILL QUERY`` from a second
        connection, and this connection with it.
        """
        decoder: RowDecoder | None = None
        over = False
        try:
            with self._guarded():
                fields = await self._wire.begin_result(sql)
            wanted = kinds or [None] * len(fields)
            decoder = RowDecoder(
                names or [column.name for column in fields],
                [kind or _kind(column) for kind, column in zip(wanted, fields, strict=True)],
                self._wire.next_sequence,
            )
            async for batch in self._batches(decoder):
                yield batch
        except RetlError:
            # The server has ended the query, or the connection is lost. What runs there under this number after a
            # restart may be somebody else's.
            over = True
            raise
        finally:
            if not over and (decoder is None or not decoder.finished):
                await shielded(self._give_up())

    async def _batches(self, decoder: RowDecoder) -> AsyncGenerator[pa.RecordBatch, None]:
        while not decoder.finished:
            self._quiet, self._missed = 0.0, 0
            with self._guarded():
                decoder.feed(await self._wire.raw_result())
                batches = decoder.take()
            for batch in batches:
                yield batch
        if decoder.error is not None:
            raise self._refusal(decoder.error)

    def _refusal(self, payload: bytes) -> RetlError:
        code = int.from_bytes(payload[1:3], "little")
        text = payload[3:].decode(errors="replace")
        return line.explained(self._login, code, text[6:] if text.startswith("#") else text, sqlstate(payload))

    async def _give_up(self) -> None:
        """End a query whose result nobody reads. Cut the connection: the driver would read the result to its end."""
        self.abort()
        with suppress(RetlError), anyio.move_on_after(_KILL_SECONDS, shield=True):
            await kill_query(self._login, self.query_name)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Map errors. A call that ends halfway, even by a cancellation, leaves the connection unusable."""
        try:
            with line.mapped(self._login):
                yield
        except BaseException as error:
            if not self._alive(error):
                self.abort()
            raise

    def _alive(self, error: BaseException) -> bool:
        """Whether the connection is still usable: the server only refused a statement."""
        cause = error.__cause__
        # From 2000 to 2999 the client reports a failed connection.
        return not self.closed and isinstance(cause, MySQLError) and not 2000 <= line.code_and_text(cause)[0] < 3000

    def abort(self) -> None:
        """Cut the connection at once: the server rolls back. Safe at any time."""
        self._wire.abort()

    async def close(self) -> None:
        """Close politely. Safe to call again."""
        with suppress(OSError):
            await self._wire.quit()


async def kill_query(login: Login, name: str) -> None:
    """End the running statement of another connection of the same user."""
    killing = replace(login, session=(*login.session, f"KILL QUERY {name}"))
    await (await MySQLConnection.open(killing)).close()


async def location(connection: MySQLConnection, database: str, name: str) -> str:
    """``mysql:<server>/<database>/<table>``, equal for a source and a target where they are the same table."""
    # MariaDB has no unique number; these values tell two servers of one network apart.
    own = "@@hostname, @@port, @@datadir, @@server_id" if connection.server.mariadb else "@@server_uuid"
    ((lower, *server),) = await connection.query(f"SELECT @@lower_case_table_names, {own}")
    place = f"{database}/{name}"
    return f"mysql:{':'.join(map(str, server))}/{place.lower() if int(lower) else place}"


@asynccontextmanager
async def connected(login: Login) -> AsyncIterator[MySQLConnection]:
    """A connection for the length of a block; after an error it is cut, not closed politely."""
    async with held(await MySQLConnection.open(login)) as connection:
        yield connection


@asynccontextmanager
async def held(connection: MySQLConnection) -> AsyncIterator[MySQLConnection]:
    """The same for a connection that is open."""
    try:
        yield connection
    except BaseException:
        connection.abort()
        raise
    await connection.close()


@asynccontextmanager
async def rolling_back(connection: MySQLConnection) -> AsyncIterator[None]:
    """Roll back after an error, if the connection is still open."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, RetlError | RowError) and not connection.closed:
            with suppress(RetlError):
                await connection.execute("ROLLBACK")
        elif not connection.closed:
            connection.abort()
        raise


def _kind(column: WireField) -> Kind:
    return "binary" if column.charset == _BINARY_CHARSET and column.type_code in _BYTES else "text"
