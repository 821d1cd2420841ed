"""A SQLite connection in a thread of its own, and what is known of the file's tables."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import Existing
from retl.connectors.sqlite.dialect import logical_field
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TargetBusy, TargetError
from retl.threads import Worker

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite

T = TypeVar("T")

_LOCK_POLL = 0.05


class SQLiteFile:
    """One connection and the thread that owns it, open only while it is needed."""

    def __init__(self, options: SQLite, *, read_only: bool) -> None:
        self.path = options.path
        self._busy_timeout = options.busy_timeout
        self._read_only = read_only
        self._worker: Worker | None = None
        self._connection: sqlite3.Connection | None = None

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(connection, *arguments)`` in the thread; a lock of another connection is waited for."""
        return await self._run(self._used, call, *arguments)

    async def look(self, call: Callable[..., T], *arguments: Any) -> T:
        """The same for a question: a file that does not exist is not made, but answers as an empty one."""
        return await self._run(self._looked_at, call, *arguments)

    async def _run(self, way: Callable[..., T], *arguments: Any) -> T:
        began = time.monotonic()
        while True:
            if self._worker is None:  # again, where the file was closed while this waited
                self._worker = Worker("sqlite", self._interrupt)
            try:
                return await self._worker.run(way, *arguments)
            except TargetBusy:
                # Waited for here and not in SQLite, so that a cancellation is heard.
                if time.monotonic() - began >= self._busy_timeout:
                    raise
                await anyio.sleep(_LOCK_POLL)

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
        if self._read_only and not path.exists():
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
        connection = sqlite3.connect(self.path, timeout=_LOCK_POLL, isolation_level=None, check_same_thread=False)
        try:
            if self._read_only:
                connection.execute("PRAGMA query_only = ON")
                connection.create_function("retl_hash", -1, _hash, deterministic=True)
            else:
                connection.execute("PRAGMA synchronous = NORMAL")
                # A rename must leave views and foreign keys of other tables as they are.
                connection.execute("PRAGMA legacy_alter_table = ON")
                connection.execute("PRAGMA foreign_keys = OFF")  # a swap must not cascade
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def map_error(self, error: sqlite3.Error) -> RetlError:
        """The error of ours that one of SQLite's means."""
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
        if base == sqlite3.SQLITE_READONLY:
            return ConfigError(
                f"the SQLite file {self.path} is read-only.",
                remedy="check the permissions of the file and its folder.",
                system="sqlite",
            )
        if base == sqlite3.SQLITE_CANTOPEN:
            return ConfigError(
                f"the SQLite file {self.path} cannot be opened.", remedy="check path and permissions.", system="sqlite"
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
        return (SourceError if self._read_only else TargetError)(f"{error}.", system="sqlite")

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


def _hash(*values: Any) -> int:
    return zlib.crc32(repr(values).encode())


def split_schema(table: str) -> tuple[str, str]:
    """The attached database (``main`` where none is named) and the table's own name."""
    parts = split_name(table)
    return (parts[-2] if len(parts) > 1 else "main"), parts[-1]


def table_names(connection: sqlite3.Connection) -> list[str]:
    """All tables and views but SQLite's own."""
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    )
    return [name for (name,) in rows]


def inspect(connection: sqlite3.Connection, table: str) -> Existing | None:
    """A table's columns and unique keys, or ``None`` where there is none of that name."""
    schema, name = split_schema(table)
    rows = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1',
        (name, schema),
    ).fetchall()
    if not rows:
        return None
    fields, required, generated = [], set(), set()
    key = [column for column, *_, pk, _ in sorted(rows, key=lambda row: row[4]) if pk]
    for column, declared, notnull, default, pk, hidden in rows:
        rowid = key == [column] and declared.upper() == "INTEGER"
        fields.append(logical_field(column, declared, not (notnull or rowid)))
        if hidden:
            generated.add(column)
        elif (notnull or (pk and not rowid and notnull)) and default is None and not rowid:
            required.add(column)
    keys = [frozenset(key)] if key else []
    for index, unique, partial in connection.execute(
        'SELECT name, "unique", partial FROM pragma_index_list(?, ?)', (name, schema)
    ).fetchall():
        columns = [row[0] for row in connection.execute("SELECT name FROM pragma_index_info(?, ?)", (index, schema))]
        if unique and not partial and None not in columns:
            keys.append(frozenset(columns))
    return Existing(pa.schema(fields), tuple(dict.fromkeys(keys)), frozenset(required), frozenset(generated))


def real_key(existing: Existing) -> tuple[str, ...]:
    """The first unique key whose columns cannot be NULL."""
    strict = {column.name for column in existing.columns if not column.nullable}
    for key in existing.keys:
        if key <= strict:
            return tuple(name for name in existing.columns.names if name in key)
    return ()
