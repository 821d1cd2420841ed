"""A running server that speaks SQL, as tests see it, whatever its product."""

from __future__ import annotations

import copy
import os
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

import anyio.to_thread

from tests.servers.process import Owned, Process

START_SECONDS = 60.0
LOCK_WAIT_SECONDS = 30.0
USER = "retl"

Row = tuple[Any, ...]


class SqlServer(Owned, ABC):
    """A server and a user on it who may do everything. Its SQL goes through a driver, never through retl.

    All methods block but ``run``; a test whose scan has to go on meanwhile calls them in a thread.
    """

    scheme: ClassVar[str]
    driver_error: ClassVar[type[Exception]]
    """What the driver raises."""
    lock_waits: ClassVar[str]
    """Asks for transactions that wait for the lock of another one."""

    def __init__(
        self, product: str, host: str, port: int, user: str, password: str, process: Process | None = None
    ) -> None:
        self.product = product
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self._process = process

    def at(self, host: str, port: int) -> Self:
        """The same server, reached by another way: through a proxy."""
        other = copy.copy(self)
        other.host, other.port = host, port
        return other

    def as_user(self, user: str, password: str) -> Self:
        other = copy.copy(self)
        other.user, other.password = user, password
        return other

    def url(self, database: str = "", **parameters: str) -> str:
        """With the password."""
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self.scheme}://{user}:{password}@{self.host}:{self.port}/{database}{query}"

    @abstractmethod
    def connect(self, database: str = "", **options: Any) -> Any:
        """A connection of the test's own, in autocommit unless told otherwise; the test closes it."""

    @abstractmethod
    def query(self, sql: str, *args: Any, database: str = "") -> list[Row]:
        """One statement in a connection of its own; its rows."""

    async def run(self, sql: str, *args: Any, **database: str) -> list[Row]:
        """``query`` in a thread: scans go on meanwhile."""
        return await anyio.to_thread.run_sync(lambda: self.query(sql, *args, **database))

    def wait_for_a_lock_wait(self) -> None:
        """Return when a transaction waits for the lock of another one."""
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while not self.query(self.lock_waits):
            assert time.monotonic() < deadline, "nobody waits for a lock"
            # A MySQL that is asked every tenth of a second tells again and again what it has told.
            time.sleep(0.15)

    @abstractmethod
    def fresh_database(self) -> AbstractContextManager[str]:
        """The name of an empty database of the test's own."""

    # The process --------------------------------------------------------------

    @abstractmethod
    def look(self) -> None:
        """Ask for the version: the server is up."""

    def start(self) -> None:
        """Start the server and wait until it lets its user in."""
        process = self._own()
        process.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.look()
            except self.driver_error as error:
                if time.monotonic() > deadline or not self._lives(process):
                    process.kill()
                    raise RuntimeError(f"{self.product} does not start: {error}\n{process.log()}") from error
                time.sleep(0.02)
            else:
                return

    def _lives(self, process: Process) -> bool:
        """Whether a server that does not answer yet may still do so."""
        return process.running


def named(variable: str, scheme: str, port: int) -> tuple[str, int, str, str] | None:
    """Host, port, user and password of the server that an environment variable names instead of one of our own."""
    url = os.environ.get(variable)
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != scheme or not parts.hostname or not parts.username:
        raise ValueError(f"{variable} is not of the form {scheme}://user:password@host:port")
    return parts.hostname, parts.port or port, unquote(parts.username), unquote(parts.password or "")
