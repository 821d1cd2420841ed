"""A DuckDB database, open only while it is needed, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from retl.connectors.base import SystemInfo
from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.errors import driver, first_line, map_error, name_of
from retl.model.errors import ConfigError, SourceError
from retl.threads import Worker, leave_to_parent, renew_after_fork, shielded

if TYPE_CHECKING:
    import duckdb

    from retl.connectors.duckdb import DuckDB

T = TypeVar("T")

_PRIVATE = 0o600
_OTHERS = 0o077

_BETWEEN_VISITS = 0.1
"""Seconds for which a database stays open after one question: the next one may follow at once."""

_written: WeakSet[DuckDBFile] = WeakSet()
"""The files of this process's targets: DuckDB refuses a second, read-only handle in the process that writes."""
_opening = threading.RLock()
"""Handles of one process must not open and close a file at the same moment, which confuses DuckDB."""


class DuckDBFile:
    """One connection, its cursors, and the thread that owns them. ``close`` lets go of the file's lock."""

    def __init__(
        self, options: DuckDB, *, read_only: bool, keep_idle: float | None = None, creates: bool = True
    ) -> None:
        """``keep_idle``: seconds for which the file stays open after its last use; ``None``: until it is closed.
        ``creates``: whether one that writes makes a file that is missing."""
        self._keep_idle = self._stays = keep_idle
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._options = options
        self._read_only = read_only
        self._creates = creates and not read_only
        self._worker: Worker | None = None
        self._calls = 0
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._running: duckdb.DuckDBPyConnection | None = None
        self._shared = False
        self._open_in_parent = False
        renew_after_fork(self)
        if not read_only:
            with _opening:
                _written.add(self)

    @property
    def name(self) -> str:
        return name_of(self._options)

    async def location(self, schema: str, name: str) -> str | None:
        """One text for one table; ``None`` in memory."""
        return await self.run(self._location, schema, name)

    def _location(self, connection: duckdb.DuckDBPyConnection, schema: str, name: str) -> str | None:
        path = self._options.path
        return path and f"duckdb:{Path(path).resolve()}/{DIALECT.fold(schema)}/{DIALECT.fold(name)}"

    # Calls ------------------------------------------------------------------

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(connection, *arguments)`` in the thread; the database is opened where it is not."""
        self._stays = self._keep_idle
        return await self._hop(None, call, *arguments)

    async def visit(self, call: Callable[..., T], *arguments: Any) -> T:
        """The same, but a database that was not open is closed again, unless the next call comes at once."""
        if self._connection is None:
            self._stays = _BETWEEN_VISITS
        return await self._hop(None, call, *arguments)

    async def open_cursor(self) -> duckdb.DuckDBPyConnection:
        """A further connection to the database, with temporary tables of its own."""
        opened: list[duckdb.DuckDBPyConnection] = []
        try:
            return await self.run(self._new_cursor, opened)
        except BaseException:
            for cursor in opened:  # a cancellation came after it was made
                await shielded(self.close_cursor(cursor))
            raise

    async def run_on(self, cursor: duckdb.DuckDBPyConnection, call: Callable[..., T], *arguments: Any) -> T:
        """``call(cursor, *arguments)`` in the thread."""
        return await self._hop(cursor, call, *arguments)

    async def close_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """End a cursor and its running query. No effect if the database is closed already."""
        if cursor in self._cursors:
            await self.run(self._end_cursor, cursor)

    async def _hop(self, cursor: duckdb.DuckDBPyConnection | None, call: Callable[..., T], *arguments: Any) -> T:
        self._stay_open()
        if self._worker is None:
            self._worker = Worker("duckdb", self._interrupt)
        self._calls += 1
        try:
            return await self._worker.run(self._guarded, cursor, call, *arguments)
        finally:
            self._calls -= 1
            self._end_idle_thread()
            self._close_later()

    def _end_idle_thread(self) -> None:
        worker = self._worker
        if worker is not None and not self._calls and self._connection is None:
            self._worker = None
            worker.close()

    def _close_later(self) -> None:
        """Between two ticks other processes may have the file."""
        if self._stays is None or self._calls or self._cursors or self._connection is None:
            return
        self._idle = asyncio.get_running_loop().call_later(self._stays, self._close_idle)

    def _stay_open(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _close_idle(self) -> None:
        if not self._calls and not self._cursors:
            self._closing = asyncio.get_running_loop().create_task(self.close())

    def _guarded(self, cursor: duckdb.DuckDBPyConnection | None, call: Callable[..., T], *arguments: Any) -> T:
        duckdb = driver()
        try:
            if cursor is None and self._connection is None:
                with _opening:
                    self._connection = self._open()
            self._running = cursor or self._connection
            return call(self._running, *arguments)
        except duckdb.Error as error:
            if isinstance(error, duckdb.FatalException):
                # The instance is unusable; the next call opens the file again.
                self._close()
            raise map_error(error, self._options, read_only=self._read_only) from error
        finally:
            self._running = None
            self._guard_log()

    def _guard_log(self) -> None:
        """Give the write-ahead log, which holds rows too, the permissions of the database."""
        path = self._options.path
        if self._read_only or path is None:
            return
        with suppress(OSError):
            if not Path(path).stat().st_mode & _OTHERS:
                Path(f"{path}.wal").chmod(_PRIVATE)

    def _interrupt(self) -> None:
        # An interrupt of a connection leaves the cursors made from it running, hence the one that is in use.
        running = self._running
        if running is not None:
            running.interrupt()

    # Opening and closing ----------------------------------------------------

    def after_fork(self) -> None:
        """The database is the parent's; DuckDB cannot be used here if it was open there."""
        self._open_in_parent = self._open_in_parent or self._connection is not None
        leave_to_parent((self._connection, self._cursors, self._running))
        self._connection = self._running = self._worker = self._idle = self._closing = None
        self._cursors, self._calls = [], 0

    def _open(self) -> duckdb.DuckDBPyConnection:
        path = self._options.path
        if self._open_in_parent:
            raise ConfigError(
                f"the DuckDB database {self.name} was open when this process was forked, and DuckDB does not survive that.",
                remedy='fork before the pipeline is used, or start the process anew (the start method "spawn").',
                system="duckdb",
            )
        there = path is None or Path(path).exists()
        if not self._creates and not there:
            raise ConfigError(f"there is no DuckDB file {path!r}.", remedy="check the path.", system="duckdb")
        connection = self._connect()
        try:
            if not there and path is not None:
                Path(path).chmod(_PRIVATE)
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> duckdb.DuckDBPyConnection:
        module, path = driver(), self._options.path
        # Options are set afterwards: a database can be shared within a process only by handles opened alike.
        connection: duckdb.DuckDBPyConnection
        self._shared = self._is_open_here()
        try:
            connection = module.connect(path or ":memory:", read_only=self._reads_alone())
        except module.ConnectionException as error:
            if "different configuration" not in str(error) or path is None:
                raise
            # The host has this file open itself: share its instance.
            connection = module.connect(path)
        return connection

    def _is_open_here(self) -> bool:
        from retl.connectors.duckdb import settings

        path = self._options.path
        return (
            path is not None
            and not settings.counts_connections()
            and Path(path).exists()
            and settings.is_open_here(path)
        )

    def _reads_alone(self) -> bool:
        """Whether the file may be opened read-only, so that other processes can read it too."""
        path = self._options.path
        if not self._read_only or path is None:
            return False
        with _opening:
            others = [file._options.path for file in _written]
        own = Path(path).resolve()
        return all(Path(other).resolve() != own for other in others if other is not None)

    def _set_up(self, connection: duckdb.DuckDBPyConnection) -> None:
        from retl.connectors.duckdb import settings

        try:
            settings.set_session(connection, self._options)
            if settings.counts_connections():
                self._shared = settings.is_shared(connection)
            if not self._shared:
                settings.set_instance(connection, self._options, lock=self._read_only)
        except (driver().ProgrammingError, driver().SyntaxException) as error:
            raise ConfigError(
                f"DuckDB refuses its settings ({first_line(error)}).",
                remedy="check memory_limit and threads.",
                system="duckdb",
            ) from None
        replaced = settings.shadowed(connection)
        if replaced:
            raise ConfigError(
                f"the database has macros named as functions of DuckDB's that retl calls: {', '.join(replaced)}.",
                remedy="rename them; values would be changed by what they do.",
                system="duckdb",
            )

    def _new_cursor(
        self, connection: duckdb.DuckDBPyConnection, opened: list[duckdb.DuckDBPyConnection]
    ) -> duckdb.DuckDBPyConnection:
        from retl.connectors.duckdb import settings

        cursor = connection.cursor()
        self._cursors.append(cursor)
        opened.append(cursor)
        settings.set_session(cursor, self._options)
        return cursor

    def _end_cursor(self, connection: duckdb.DuckDBPyConnection, cursor: duckdb.DuckDBPyConnection) -> None:
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            cursor.close()

    async def close(self) -> None:
        """Close the database, and end the thread if nobody waits for it. May be called more than once."""
        self._stay_open()
        if self._worker is not None:
            # Through the thread: calls of other tasks are never cut short.
            await self._worker.run(self._close)
            self._end_idle_thread()

    def _close(self) -> None:
        cursors, self._cursors = self._cursors, []
        connection, self._connection = self._connection, None
        with _opening:
            for cursor in cursors:
                with suppress(driver().Error):  # of an instance that has failed
                    cursor.close()
            if connection is not None:
                with suppress(driver().Error):
                    self._leave(connection)
                with suppress(driver().Error):
                    connection.close()

    def _leave(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Lift our limits from an instance that others have joined, which they keep."""
        from retl.connectors.duckdb import settings

        if not self._shared and (not settings.counts_connections() or settings.is_shared(connection)):
            settings.give_back(connection, self._options)

    async def ping(self) -> SystemInfo:
        return SystemInfo("DuckDB", await self.run(_version), self.name)


def _version(connection: duckdb.DuckDBPyConnection) -> str:
    return str(connection.execute("SELECT version()").fetchall()[0][0])


def single(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Check that a text is one statement: a user's part of it must not begin another one."""
    module = driver()
    try:
        found = connection.extract_statements(sql)
    except module.Error as error:
        raise SourceError(
            f"DuckDB does not understand the table's query, where or expressions ({first_line(error)}).",
            remedy="`retl plan` shows the statement; try it in DuckDB.",
            system="duckdb",
        ) from None
    if len(found) != 1 or found[0].type != module.StatementType.SELECT:
        raise ConfigError(
            "query, where and expressions must be parts of one SELECT.",
            remedy="leave out whatever ends it, or begins another statement.",
            system="duckdb",
        )
    return found[0]


def in_transaction(connection: duckdb.DuckDBPyConnection, call: Callable[..., T], *arguments: Any) -> T:
    """``call(connection, *arguments)`` as one transaction; any error rolls everything back."""
    connection.execute("BEGIN")
    try:
        result = call(connection, *arguments)
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return result


def roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    """End a transaction that has failed, or that only tried something out."""
    duckdb = driver()
    while True:
        try:
            connection.execute("ROLLBACK")
            return
        except duckdb.InterruptException:
            continue  # a cancellation is sent again until the call has ended: the transaction must end first
        except duckdb.Error:
            return  # a COMMIT that failed has ended it already
