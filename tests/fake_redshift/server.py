"""The stand-in's server: it listens, lets clients in, and gives each a session at a PostgreSQL of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import trustme

from tests.fake_olap.listener import Listener
from tests.fake_redshift import catalog, wire
from tests.fake_redshift.bucket import Bucket
from tests.fake_redshift.cluster import Cluster
from tests.fake_redshift.session import Lost, Session, told_at_start
from tests.fake_redshift.wire import Message, Refusal
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

ADMIN, ADMIN_PASSWORD = "awsuser", "Admin-secret-1"
USER, PASSWORD = "etl", "Reader-secret-1"
DATABASE = "dev"


@dataclass
class Fault:
    """What happens to one statement: after ``after_rows`` rows (``None``: before anything of its answer) it fails, its line is
    cut, nothing more comes (``silent``), it waits (``hold``), or, with none of these, the other rows are left out in silence."""

    on: str
    error: Refusal | None = None
    cut: bool = False
    silent: bool = False
    hold: bool = False
    after_rows: int | None = None
    # Set when the statement has come so far.
    reached: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let a held statement go on."""
        self._released.set()

    def wait(self) -> None:
        """Block until it is released."""
        self._released.wait(60)


class FakeRedshift(Cluster):
    """A cluster: ``awsuser`` may do everything, ``etl`` reads what it is granted.

    ``nodes`` and ``cursor_cap`` (bytes) are facts of its node type; ``bucket`` is where UNLOAD may write, ``unload_rows`` how
    many rows it puts into a file, ``left_out`` the numbers of files that it does not write though the manifest names them.
    """

    def __init__(self) -> None:
        super().__init__("localhost", 0, DATABASE, (ADMIN, ADMIN_PASSWORD), (USER, PASSWORD))
        self.options = {"ssl": False}
        self.type_numbers: dict[int, int] = {}
        self.type_names: dict[int, str] = {}
        self.postgres: PostgresServer
        self._statements: list[str] = []
        self._faults: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._listener = Listener("the stand-in for Redshift", self._connected)
        self._stack = ExitStack()
        self.reset()

    # What tests do

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.postgres = stack.enter_context(postgres.started(18))
            self._folder = self.postgres.folder or Path()
            self._make_database()
            self._certify()
            self._listener.start()
            stack.callback(self._listener.stop)
            self.port = self._listener.port
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_database(self) -> None:
        self.postgres.query(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        for user, rights in ((ADMIN, "SUPERUSER"), (USER, "NOSUPERUSER")):
            self.postgres.query(f"CREATE ROLE {user} LOGIN {rights} PASSWORD '{dict((self.admin, self.reader))[user]}'")
        # Backslashes in strings escape, as in the PostgreSQL that Redshift grew from.
        self.postgres.query(f"ALTER DATABASE {DATABASE} SET standard_conforming_strings = off")
        self.postgres.query(f"ALTER DATABASE {DATABASE} SET escape_string_warning = off")
        self.postgres.query(f"ALTER DATABASE {DATABASE} SET timezone = 'UTC'")
        with closing(self.postgres.connect(DATABASE, options="-c standard_conforming_strings=on")) as connection:
            self.type_numbers = catalog.build(connection)
            found = connection.execute("SELECT oid::int, typname::text FROM pg_type").fetchall()
            self.type_names = dict(found)

    def _certify(self) -> None:
        authority = trustme.CA()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self._tls)
        self.authority = str(self._folder / "redshift-ca.pem")
        authority.cert_pem.write_to_path(self.authority)

    def reset(self) -> None:
        """Be an ordinary cluster again."""
        self.nodes = 1
        self.cursor_cap = 8_000_000_000
        self.bucket: Bucket | None = None
        self.unload_rows: int | None = None
        self.left_out: set[int] = set()
        self.tampered: Callable[[dict[str, Any]], dict[str, Any]] = lambda manifest: manifest
        self.forget()

    def inject(self, fault: Fault) -> Fault:
        """Let a fault happen to the reader's next statement that contains ``fault.on``."""
        with self._lock:
            self._faults.append(fault)
        return fault

    @property
    def statements(self) -> list[str]:
        """What came from the reader, in its order."""
        with self._lock:
            return list(self._statements)

    def forget(self) -> None:
        """Forget the statements that came so far, and the faults that did not happen."""
        with self._lock:
            self._statements.clear()
            self._faults.clear()

    # What sessions ask

    def is_admin(self, user: str) -> bool:
        return user == ADMIN

    def heard(self, user: str, sql: str) -> Fault | None:
        if user == ADMIN:
            return None
        with self._lock:
            # asyncpg sends a statement to be described, and once more with its values.
            if self._statements[-1:] != [sql]:
                self._statements.append(sql)
            return next((fault for fault in self._faults if fault.on in sql), None)

    def happened(self, fault: Fault) -> None:
        """A fault happens once."""
        fault.reached.set()
        with self._lock, contextlib.suppress(ValueError):
            self._faults.remove(fault)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        code, body = await wire.read_start(reader)
        if code == wire.SSL_REQUEST:
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._tls)
            code, body = await wire.read_start(reader)
        if code == wire.CANCEL_REQUEST:
            await self._cancel(body)
            return
        given = wire.parameters(body)
        user = given.get("user", "")
        if await wire.admit(reader, writer, user, dict((self.admin, self.reader)).get(user)):
            await self._serve(reader, writer, given)
        else:
            await _say(writer, Refusal(f'password authentication failed for user "{user}"', "28000"))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: dict[str, str]) -> None:
        user = given["user"]
        backend = await asyncio.open_connection(self.postgres.host, self.postgres.port)
        told: list[Message] = []
        words = {"user": user, "database": given.get("database", user), "options": f"-c redshift.nodes={self.nodes}"}
        backend[1].write(wire.start_packet(words))
        try:
            await wire.log_in(*backend, user, dict((self.admin, self.reader))[user], told.append)
        except RuntimeError as error:
            await _say(writer, Refusal(str(error), "3D000"))
            return
        key = next(message for message in told if message.kind == b"K")
        start = [Message(b"R", b"\0\0\0\0"), *told_at_start(given, user), key, Message(b"Z", b"I")]
        writer.write(b"".join(message.packed() for message in start))
        with contextlib.suppress(Lost):
            await Session(self, user, (reader, writer), backend).serve()

    async def _cancel(self, body: bytes) -> None:
        _, writer = await asyncio.open_connection(self.postgres.host, self.postgres.port)
        writer.write((8 + len(body)).to_bytes(4, "big") + wire.CANCEL_REQUEST.to_bytes(4, "big") + body)
        await writer.drain()
        writer.close()


async def _say(writer: asyncio.StreamWriter, refused: Refusal) -> None:
    writer.write(refused.as_message().packed())
    await writer.drain()
