"""The stand-in for StarRocks or Doris that knows their dialect and their types.

A server of the real MySQL protocol (mysql-mimic shakes hands and frames packets), in a thread of its own. Its parts say
what they are faithful to, and from where: ``flavour`` (versions, variables), ``errors``, ``types`` (the wire), ``ddl``,
``query`` (the dialect), ``functions``, ``catalog``, ``engine`` (key models, partitions, versions). The protocol is that
of ``MysqlHandshakePacket.java`` (protocol 10, charset 33, no status flags, ``mysql_native_password``, or
``mysql_clear_password`` as with LDAP) and of text results with EOF packets. ``query_timeout`` counts until the last row
is taken, as ``connectors`` of both systems found out.

It can't show how fast anything is, how a planner chooses, what a cluster does, TLS, prepared statements, nor SQL beyond
what a reader of tables needs: what it does not know it refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Self

import pymysql
from mysql_mimic.auth import (
    AbstractClearPasswordAuthPlugin,
    AuthPlugin,
    IdentityProvider,
    NativePasswordAuthPlugin,
    User,
)

from tests.fake_olap import flavour
from tests.fake_olap.connection import FakeConnection
from tests.fake_olap.engine import Engine
from tests.fake_olap.errors import Errors, Refusal
from tests.fake_olap.flavour import Flavour
from tests.fake_olap.listener import Listener
from tests.fake_olap.session import Session
from tests.servers.database import Server

ADMIN = "root"
# Rows of one INSERT ... VALUES.
AT_ONCE = 500


@dataclass
class Fault:
    """What happens to one query: after ``after_rows`` rows it waits (``hold``), then it fails, or its line is cut.

    ``after_rows`` of None: before anything of a result is sent.
    """

    error: Refusal | None = None
    cut: bool = False
    hold: bool = False
    after_rows: int | None = None
    on: str = ""
    # Set when the query has come so far.
    reached: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let a held query go on."""
        self._released.set()

    @property
    def released(self) -> bool:
        return self._released.is_set()


class FakeOlap(Server):
    """A stand-in, which also is a ``Server``: the same SQL through ``query`` and ``run`` makes tables in a real one.

    ``root`` without a password may do everything; ``user`` and ``password`` are for what is tested.
    """

    def __init__(self, kind: Flavour, user: str, password: str, *, clear_password: bool, version: str) -> None:
        super().__init__(kind.name, "127.0.0.1", 0, user, password)
        self.flavour = kind
        self.handshake_version = version or kind.handshake_version
        self.identities = _Identities(user, password, clear_password=clear_password)
        self.engine = Engine(kind)
        # Tables and databases that the user may not read; "*" for what needs the OPERATE privilege.
        self.denied: set[str] = set()
        self._faults: deque[Fault] = deque()
        self._statements: list[str] = []
        self._lock = threading.Lock()
        self._listener = Listener(f"the stand-in for {kind.name}", self._connected)
        self.connections: dict[int, FakeConnection] = {}

    @property
    def errors(self) -> Errors:
        return self.flavour.errors

    # What tests do

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.engine.close()

    def start(self) -> None:
        """Listen, on the port of the time before if there was one."""
        self._listener.start()
        self.port = self._listener.port
        self.look()

    def stop(self) -> None:
        """Close all connections and listen no more; the tables stay."""
        self._listener.stop()

    kill = stop

    def log(self) -> str:
        return "\n".join(self._statements)

    def url(self, database: str = "", **parameters: str) -> str:
        """The user's, with the password: ``starrocks://`` or ``doris://``."""
        return super().url(database, **parameters).replace("mysql", self.product.lower(), 1)

    def connect(self, database: str | None = None, **options: Any) -> pymysql.Connection:
        """A connection of the administrator."""
        words = {"user": ADMIN, "autocommit": True, "charset": "utf8mb4", "connect_timeout": 10, **options}
        # The context of TLS alone takes 20 ms of a connection.
        words.setdefault("ssl_disabled", "ssl" not in options)
        return pymysql.connect(host=self.host, port=self.port, database=database, **words)

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[str]:
        with fresh_database(self) as name:
            yield name

    def insert(self, table: str, rows: Sequence[Sequence[Any]], database: str | None = None) -> None:
        """Insert rows of Python's values: by INSERT ... VALUES, many plain ones by a shorter way to the same."""
        if len(rows) > AT_ONCE and not any(
            isinstance(value, (bytes, list, tuple, dict)) for row in rows for value in row
        ):
            left, _, name = table.rpartition(".")
            known = self.engine.table(left or database or "", name)
            self.engine.load(known, rows, Session(self.engine, self.flavour, 0))
            return
        insert(self, table, rows, database, doris=self.flavour.doris)

    @property
    def statements(self) -> list[str]:
        """What came from others than the administrator, in its order."""
        with self._lock:
            return list(self._statements)

    def forget(self) -> None:
        """Forget the statements that came so far."""
        with self._lock:
            self._statements.clear()

    def inject(self, fault: Fault) -> Fault:
        """Let a fault happen to the next statement that contains ``fault.on``, or to the next SELECT; never to the administrator."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def version_of(self, database: str, table: str, partition: str = "") -> int:
        """The visible version of a partition, or of the only one."""
        parts = self.engine.table(database, table).partitions
        return next(part.version for part in parts if not partition or part.name == partition)

    # What connections ask

    def heard(self, user: str, sql: str) -> None:
        if user != ADMIN:
            with self._lock:
                self._statements.append(sql)

    def fault_for(self, user: str, sql: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                asks = fault.on in sql if fault.on else sql.lstrip()[:6].upper() == "SELECT"
                if user != ADMIN and asks:
                    self._faults.remove(fault)
                    return fault
        return None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = FakeConnection(self, reader, writer)
        self.connections[client.number] = client
        try:
            await client.serve()
        finally:
            del self.connections[client.number]


class FakeStarRocks(FakeOlap):
    """StarRocks 3.5."""

    def __init__(
        self, user: str = "reader", password: str = "secret", *, clear_password: bool = False, version: str = ""
    ) -> None:
        super().__init__(flavour.STARROCKS, user, password, clear_password=clear_password, version=version)


class FakeDoris(FakeOlap):
    """Doris 3."""

    def __init__(
        self, user: str = "reader", password: str = "secret", *, clear_password: bool = False, version: str = ""
    ) -> None:
        super().__init__(flavour.DORIS, user, password, clear_password=clear_password, version=version)


class _Clear(AbstractClearPasswordAuthPlugin):  # type: ignore[misc]
    name = "mysql_clear_password"

    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = passwords

    async def check(self, username: str, password: str) -> str | None:
        return username if self._passwords.get(username) == password else None


class _Identities(IdentityProvider):  # type: ignore[misc]
    def __init__(self, user: str, password: str, *, clear_password: bool) -> None:
        self._passwords = {user: password}
        self._clear = clear_password

    def get_plugins(self) -> Sequence[AuthPlugin]:
        return [NativePasswordAuthPlugin(), _Clear(self._passwords)]

    async def get_user(self, username: str) -> User | None:
        if username == ADMIN:
            return User(ADMIN, auth_plugin=NativePasswordAuthPlugin.name)
        password = self._passwords.get(username)
        if password is not None and self._clear:
            return User(username, auth_plugin=_Clear.name)
        # One whom nobody knows fails by his password.
        secret = NativePasswordAuthPlugin.create_auth_string(password) if password is not None else "00" * 20
        return User(username, auth_string=secret, auth_plugin=NativePasswordAuthPlugin.name)


def insert(server: Server, table: str, rows: Sequence[Sequence[Any]], database: str | None, *, doris: bool) -> None:
    """INSERT rows of Python's values by SQL that the real systems take: lists, dicts and tuples too."""
    for first in range(0, len(rows), AT_ONCE):
        values = (
            f"({', '.join(written(value, doris=doris) for value in row)})" for row in rows[first : first + AT_ONCE]
        )
        server.query(f"INSERT INTO {table} VALUES {', '.join(values)}", database=database)


def written(value: Any, *, doris: bool) -> str:
    """A value as SQL: list for ARRAY, dict for MAP, tuple for STRUCT."""
    inner: Callable[[Any], str] = lambda item: written(item, doris=doris)  # noqa: E731
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).upper()
        case int() | float() | Decimal():
            return str(value)
        case bytes():
            return f"x'{value.hex()}'"
        case date():
            return f"'{value.isoformat(*([' '] if hasattr(value, 'hour') else []))}'"
        case list():
            return f"[{', '.join(map(inner, value))}]"
        case tuple():
            return f"{'struct' if doris else 'row'}({', '.join(map(inner, value))})"
        case dict() if doris:
            return f"map({', '.join(f'{inner(k)}, {inner(v)}' for k, v in value.items())})"
        case dict():
            return f"map{{{', '.join(f'{inner(k)}: {inner(v)}' for k, v in value.items())}}}"
    text = str(value).replace("\\", "\\\\").replace("'", "''")
    return f"'{text}'"


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """An empty database on a stand-in or on a real system, dropped afterwards."""
    name = f"retl_{secrets.token_hex(6)}"
    server.query(f"CREATE DATABASE {name}")
    try:
        yield name
    finally:
        server.query(f"DROP DATABASE IF EXISTS {name} FORCE")
