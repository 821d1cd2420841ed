"""The store in a SQLite file: the default for a target that cannot hold its own checkpoints."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from retl.model.errors import ConfigError, ConnectionFailed, RetlError, StateError, TargetBusy
from retl.model.typed import wrong_type
from retl.state import sql
from retl.state.statement import Step, drive
from retl.threads import Worker

T = TypeVar("T")

LOCK_POLL = 0.05
"""How many seconds SQLite itself waits for a lock, and pass between two attempts."""

DIALECT = sql.StateDialect(real_type="REAL", integer_type="INTEGER", table_suffix=" WITHOUT ROWID")


def run_step(connection: sqlite3.Connection, step: Step[T]) -> T:
    """Run one step of ``state.sql`` on a connection, inside its current transaction."""
    return drive(step, partial(_answer, connection))


def _answer(connection: sqlite3.Connection, statement: sql.Statement) -> Any:
    cursor = connection.execute(statement.sql, statement.values)
    return cursor.fetchall() if statement.rows else cursor.rowcount


def _whole_path(path: str | Path) -> str:
    """The absolute path, so that a later change of folder does not matter. Raises ``ConfigError`` if it cannot be a file."""
    if not isinstance(path, str | Path):
        raise wrong_type("the path of a state store", path, 'text, such as "retl-state.db"')
    if str(path) in ("", ":memory:"):
        raise ConfigError(
            f"the state store has the path {str(path)!r}, which is not a file.",
            remedy='name a file, such as "retl-state.db"; retl.MemoryStore() keeps the state in memory.',
        )
    return str(Path(path).expanduser().absolute())


def make_private(path: str) -> None:
    """Make an empty file that only its owner can read; SQLite gives its other files the same rights."""
    with suppress(OSError):  # it may exist; SQLite reports every other error
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether the store's tables exist. Raises ``StateError`` for a view of their name, or a trigger on them."""
    found = connection.execute(
        "SELECT type, name, LOWER(tbl_name) FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')"
    ).fetchall()
    for kind, name, table in found:
        if kind != "table" and table in sql.STATE_TABLES:
            raise StateError(
                f"{name!r} is a {kind} where only retl's own table {table!r} may be.",
                remedy=f"find out who made it, and drop it: DROP {kind.upper()} {name}.",
            )
    return any(name == sql.STATE_TABLES[-1] for _, name, _ in found)


def ensure_tables(connection: sqlite3.Connection) -> None:
    """Create the store's missing tables; refuse those of a newer version."""
    if not has_tables(connection):
        for statement in DIALECT.create():
            connection.execute(statement)
    run_step(connection, sql.check_version())


async def until_unlocked(attempt: Callable[[], Awaitable[T]], busy_timeout: float) -> T:
    """The answer of an attempt, which is made again while another connection locks the file.

    Raises ``TargetBusy`` when that has lasted for ``busy_timeout`` seconds.
    """
    began = time.monotonic()
    while True:
        try:
            return await attempt()
        except TargetBusy:
            # Wait here and not in SQLite, so that a cancellation ends it.
            if time.monotonic() - began >= busy_timeout:
                raise
        await anyio.sleep(LOCK_POLL)


def _use_wal(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.execute("PRAGMA journal_mode = WAL")


def map_error(error: sqlite3.Error, path: str) -> RetlError:
    """The retl error that a SQLite error of the store means."""
    code = getattr(error, "sqlite_errorcode", None)
    base = code & 0xFF if code is not None else None
    if base in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TargetBusy(
            f"the state store {path} is locked by another connection.",
            remedy="end the transaction that holds it, or raise busy_timeout.",
            system="sqlite",
        )
    if base == sqlite3.SQLITE_CANTOPEN:
        return ConnectionFailed(
            f"the state store {path} cannot be opened ({error}).",
            remedy="check that its folder exists and is writable.",
        )
    if base == sqlite3.SQLITE_FULL:
        return ConnectionFailed(
            f"the disk that holds the state store {path} is full.", remedy="make room; the scan is tried again."
        )
    if base == sqlite3.SQLITE_READONLY:
        return StateError(
            f"the state store {path} is read-only.", remedy="check the permissions of the file and its folder."
        )
    if base in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StateError(
            f"the state store {path} cannot be used ({error}).",
            remedy="restore it from a backup. A file that holds nothing but state may be moved away to start over.",
        )
    return StateError(
        f"the state store {path} cannot be used ({error}).",
        remedy="restore it from a backup, or drop the tables retl_* in it to start over.",
    )


class SqliteStore(sql.SqlStore):
    """Checkpoints in tables of a SQLite file, alone or beside a target's data.

    A connection is opened for each step, so an idle pipeline holds no file open.
    """

    def __init__(self, path: str | Path, *, busy_timeout: float = 30.0) -> None:
        self.path = _whole_path(path)
        self._busy_timeout = busy_timeout
        self._ready = False
        self._worker: Worker | None = None

    async def _step(self, make: Callable[[], sql.Step[T]], *, write: bool = True, single: bool = False) -> T:
        return await until_unlocked(partial(self._in_thread, make, write), self._busy_timeout)

    async def _in_thread(self, make: Callable[[], Step[T]], write: bool) -> T:
        if self._worker is None:  # again, if the store was closed while this waited for a lock
            self._worker = Worker("state")
        return await self._worker.run(self._run, make, write)

    def _run(self, make: Callable[[], Step[T]], write: bool) -> T:
        try:
            if not write and not self._ready:
                return self._peek(make)
            make_private(self.path)
            with closing(sqlite3.connect(self.path, timeout=LOCK_POLL, isolation_level=None)) as connection:
                if not self._ready:
                    _use_wal(connection)
                    connection.execute("BEGIN IMMEDIATE")
                    ensure_tables(connection)
                    connection.execute("COMMIT")
                    self._ready = True
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                result = run_step(connection, make())
                connection.execute("COMMIT")
                return result
        except sqlite3.Error as error:
            self._ready = False
            raise map_error(error, self.path) from error

    def _peek(self, make: Callable[[], Step[T]]) -> T:
        """A read before the first write: it does not make the file or the tables."""
        path = Path(self.path)
        if path.exists() or not path.parent.is_dir():  # the latter cannot be opened, and says so
            with closing(sqlite3.connect(self.path, timeout=LOCK_POLL, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                if has_tables(connection):
                    run_step(connection, sql.check_version())
                    return run_step(connection, make())
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            ensure_tables(connection)
            return run_step(connection, make())

    async def aclose(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
