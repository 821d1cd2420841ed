"""A SQLite connection in a thread of its own, and the settings that it must have."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from retl.connectors.base import SystemInfo
from retl.connectors.sqlite.dialect import DIALECT
from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    RetlError,
    SourceError,
    TargetBusy,
    TargetError,
    UnsupportedError,
)
from retl.state.sqlite import LOCK_POLL, make_private, until_unlocked
from retl.threads import Worker, leave_to_parent, renew_after_fork

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite

T = TypeVar("T")

_OLDEST = (3, 37)
"""The first SQLite that tells the kind of a table."""

# Settings that a guarantee depends on: a build of SQLite may have other defaults.
_ALWAYS = {
    "writable_schema": 0,  # the catalog is what SQLite says it is
    "reverse_unordered_selects": 0,  # rows that tie come in the order in which they lie
    "read_uncommitted": 0,  # never read uncommitted rows
    "case_sensitive_like": 0,  # `where` means what it means in every other tool
}
_SOURCE_SETTINGS = _ALWAYS | {
    "trusted_schema": 0,  # a view in a foreign file must not call functions with side effects
}
_TARGET_SETTINGS = _ALWAYS | {
    "synchronous": 2,  # FULL: a checkpoint elsewhere must not outlive a commit that is lost in a power cut
    "foreign_keys": 0,  # tables come in any order, and the DROP of a swap must not cascade into others
    "ignore_check_constraints": 0,  # a failed CHECK is a reject of its row
    "recursive_triggers": 0,  # triggers fire as for every other program
    "legacy_alter_table": 1,  # a rename leaves views, triggers and foreign keys of other tables as they are
}
_UNREADABLE = {"case_sensitive_like"}
"""Settings that SQLite accepts but does not report."""


class SQLiteFile:
    """One connection and the thread that owns it, open only while it is needed."""

    def __init__(self, options: SQLite, *, read_only: bool, creates: bool = True) -> None:
        """``creates``: whether one that writes makes a file that is missing."""
        if options.path in ("", ":memory:"):
            raise ConfigError(
                f"{options.path!r} is a database of one connection alone, which nobody else would see.",
                remedy="name a file in path.",
                system="sqlite",
            )
        # Absolute, since the host may change its working directory.
        self.path = str(Path(options.path).expanduser().absolute())
        self._busy_timeout = options.busy_timeout
        self._read_only = read_only
        self._creates = creates and not read_only
        self._worker: Worker | None = None
        self._connection: sqlite3.Connection | None = None
        renew_after_fork(self)

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(connection, *arguments)`` in the thread; waits for a lock of another connection."""
        return await self._run(self._used, call, *arguments)

    async def look(self, call: Callable[..., T], *arguments: Any) -> T:
        """The same for a question: a missing file is not created, and answers like an empty one."""
        return await self._run(self._looked_at, call, *arguments)

    async def _run(self, way: Callable[..., T], *arguments: Any) -> T:
        return await until_unlocked(partial(self._in_thread, way, *arguments), self._busy_timeout)

    async def _in_thread(self, way: Callable[..., T], *arguments: Any) -> T:
        if self._worker is None:  # again, if the file was closed while this waited for a lock
            self._worker = Worker("sqlite", self._interrupt)
        return await self._worker.run(way, *arguments)

    async def transaction(self, call: Callable[..., T], *arguments: Any) -> T:
        """The same inside BEGIN IMMEDIATE ... COMMIT; any error rolls everything back."""
        return await self.run(_in_transaction, call, *arguments)

    def _used(self, call: Callable[..., T], *arguments: Any) -> T:
        try:
            if self._connection is None:
                self._check_folder()
                self._connection = self._open()
            return call(self._connection, *arguments)
        except sqlite3.Error as error:
            raise self.map_error(error) from error

    def _looked_at(self, call: Callable[..., T], *arguments: Any) -> T:
        if self._connection is not None or self._read_only or Path(self.path).exists():
            return self._used(call, *arguments)
        self._check_folder()
        with closing(sqlite3.connect(":memory:")) as nothing:
            return call(nothing, *arguments)

    def _check_folder(self) -> None:
        path = Path(self.path)
        if not self._creates and not path.exists():
            raise ConfigError(f"there is no SQLite file {self.path!r}.", remedy="check the path.", system="sqlite")
        if not path.parent.exists():
            raise ConfigError(
                f"the folder of {self.path!r} does not exist.", remedy="create it, or check the path.", system="sqlite"
            )
        if not self._read_only and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ConfigError(
                f"the SQLite file {self.path} cannot be written.",
                remedy="check the permissions of the file and its folder.",
                system="sqlite",
            )

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise UnsupportedError(
                f"this Python carries SQLite {sqlite3.sqlite_version}; 3.37 is the oldest that retl can use.",
                remedy="use a newer Python.",
                system="sqlite",
            )
        connection = self._connect()
        try:
            _set(connection, _SOURCE_SETTINGS if self._read_only else _TARGET_SETTINGS)
            if self._read_only:
                connection.create_function("retl_hash", -1, _hash, deterministic=True)
                connection.text_factory = _text
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        path = self.path
        if self._read_only:
            path = f"{Path(path).as_uri()}?mode=ro"
        else:
            make_private(path)
        return sqlite3.connect(
            path, timeout=LOCK_POLL, isolation_level=None, check_same_thread=False, uri=self._read_only
        )

    def after_fork(self) -> None:
        """The connection is the parent's."""
        leave_to_parent(self._connection)
        self._connection = self._worker = None

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def map_error(self, error: sqlite3.Error) -> RetlError:
        """The retl error that a SQLite error means."""
        code = getattr(error, "sqlite_errorcode", None)
        base = code & 0xFF if code is not None else None
        if base in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return TargetBusy(
                f"the SQLite file {self.path} is locked by another connection.",
                remedy="end the transaction that holds it, or raise busy_timeout.",
                system="sqlite",
            )
        if base == sqlite3.SQLITE_FULL:
            return TargetError(
                f"the disk that holds {self.path} is full.",
                remedy="make room; the next scan carries on.",
                system="sqlite",
            )
        if base == sqlite3.SQLITE_READONLY and self._read_only:
            return SourceError(f"a source is only read, but its SQL writes to {self.path}.", system="sqlite")
        if base == sqlite3.SQLITE_READONLY:
            return ConfigError(
                f"the SQLite file {self.path} is read-only.",
                remedy="check the permissions of the file and its folder.",
                system="sqlite",
            )
        if base == sqlite3.SQLITE_CANTOPEN:
            return ConfigError(
                f"the SQLite file {self.path} cannot be opened.",
                remedy="check path and permissions. A file in WAL mode needs its -shm and -wal beside it, or a folder to make them in.",
                system="sqlite",
            )
        if base in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return ConfigError(
                f"{self.path} is not a healthy SQLite file ({error}).",
                remedy="check the path, or restore a backup.",
                system="sqlite",
            )
        if base == sqlite3.SQLITE_IOERR:
            return ConnectionFailed(
                f"the disk failed under {self.path} ({error}).", remedy="check the disk.", system="sqlite"
            )
        remedy = ""
        if "no such collation sequence" in str(error) or "unknown function" in str(error):
            remedy = "the application that made the file defines it, and only there it can be used: read or write another table."
        return (SourceError if self._read_only else TargetError)(f"{error}.", remedy=remedy, system="sqlite")

    async def location(self, table: str) -> str:
        """One text for a table of this file, under any name of the file."""
        identity = await self.look(lambda connection: _file_identity(self.path))
        return f"sqlite:{identity}/{DIALECT.fold(table)}"

    async def ping(self) -> SystemInfo:
        await self.look(lambda connection: connection.execute("SELECT 1").fetchone())
        return SystemInfo("SQLite", sqlite3.sqlite_version, self.path)

    async def close(self) -> None:
        """Close the connection and end the thread. May be called more than once."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            await worker.run(self._close)
        finally:
            worker.close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def use_wal(connection: sqlite3.Connection) -> None:
    """Let readers go on while rows are written. A property of the file, so it is set once and stays."""
    connection.execute("PRAGMA journal_mode = WAL")


def _in_transaction(connection: sqlite3.Connection, call: Callable[..., T], *arguments: Any) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = call(connection, *arguments)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _set(connection: sqlite3.Connection, settings: dict[str, int]) -> None:
    for name, value in settings.items():
        connection.execute(f"PRAGMA {name} = {value}")
        found = connection.execute(f"PRAGMA {name}").fetchone() if name not in _UNREADABLE else (value,)
        if found != (value,):
            raise UnsupportedError(
                f"SQLite does not take the setting {name} = {value}, which retl relies on.",
                remedy="use a Python whose SQLite is built with it.",
                system="sqlite",
            )


def _file_identity(path: str) -> str:
    """The file behind symbolic links; for hard links, its number in the file system."""
    with suppress(OSError):
        found = Path(path).stat()
        if found.st_nlink > 1:
            return f"{found.st_dev}:{found.st_ino}"
    return os.path.realpath(path)


_text = partial(str, encoding="utf-8", errors="surrogateescape")
"""Decode text; bytes that are not UTF-8 become surrogates and do not end the query."""


def _hash(*values: Any) -> int:
    return zlib.crc32(repr(values).encode())
