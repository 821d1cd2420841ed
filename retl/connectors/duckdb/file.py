"""A DuckDB database, open only while it is needed, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from retl.connectors.base import SystemInfo
from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    PermanentError,
    RetlError,
    SourceError,
    TargetBusy,
    TargetError,
)
from retl.threads import Worker

if TYPE_CHECKING:
    import duckdb

    from retl.connectors.duckdb import DuckDB

T = TypeVar("T")


class DuckDBFile:
    """One connection and the thread that owns it. ``close`` lets go of the file's lock."""

    def __init__(self, options: DuckDB, *, read_only: bool) -> None:
        self._options = options
        self._read_only = read_only
        self._worker: Worker | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None

    @property
    def name(self) -> str:
        return self._options.path or "an in-memory database"

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(connection, *arguments)`` in the thread, the database opened first where it is not."""
        if self._worker is None:
            self._worker = Worker("duckdb", self._interrupt)
        return await self._worker.run(self._guarded, call, *arguments)

    def _guarded(self, call: Callable[..., T], *arguments: Any) -> T:
        import duckdb

        try:
            if self._connection is None:
                self._connection = self._open()
            return call(self._connection, *arguments)
        except duckdb.Error as error:
            raise self.map_error(error) from error

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            import duckdb
        except ImportError:
            raise ConfigError(
                "the driver for DuckDB is not installed.", remedy="run: pip install 'retl[duckdb]'"
            ) from None
        path = self._options.path
        if path is not None and self._read_only and not Path(path).exists():
            raise ConfigError(f"there is no DuckDB file {path!r}.", remedy="check the path.", system="duckdb")
        settings: dict[str, Any] = {}
        if self._options.memory_limit is not None:
            settings["memory_limit"] = self._options.memory_limit
        if self._options.threads is not None:
            settings["threads"] = self._options.threads
        try:
            connection = duckdb.connect(
                path or ":memory:", read_only=self._read_only and path is not None, config=settings
            )
        except duckdb.ConnectionException as error:
            if "different configuration" not in str(error) or path is None:
                raise
            # The host has this file open itself: share its instance, with its settings.
            connection = duckdb.connect(path)
        except duckdb.InvalidInputException as error:
            raise ConfigError(
                f"DuckDB refuses its settings ({first_line(error)}).", remedy="check memory_limit and threads."
            ) from None
        connection.execute("SET TimeZone = 'UTC'")
        if self._options.files is not None:
            folder = self._options.files.replace("'", "''")
            connection.execute(f"SET file_search_path = '{folder}'")
        return connection

    def map_error(self, error: duckdb.Error) -> RetlError:
        """The error of ours that one of DuckDB's means."""
        import duckdb

        text = first_line(error)
        if isinstance(error, duckdb.IOException):
            if "lock" in text.lower():
                return TargetBusy(
                    f"the DuckDB file {self.name} is in use by another process.",
                    remedy="close it there: DuckDB lets one process write, or several read, at a time.",
                    system="duckdb",
                )
            if "No space left" in text or "disk" in text.lower():
                return TargetError(
                    f"the disk is full ({text}).", remedy="make room; the next scan carries on.", system="duckdb"
                )
            if "No files found" in text or "does not exist" in text:
                return ConfigError(text, remedy="check the path.", system="duckdb")
            return ConnectionFailed(text, remedy=f"check the file {self.name}.", system="duckdb")
        if isinstance(error, duckdb.OutOfMemoryException):
            return PermanentError(
                f"DuckDB ran out of the memory that it may use ({text}).", remedy="raise memory_limit.", system="duckdb"
            )
        if isinstance(error, duckdb.TransactionException):
            return TargetBusy(
                text, remedy="another connection changes the same rows; the scan is tried again.", system="duckdb"
            )
        if isinstance(error, duckdb.ConnectionException):
            return ConnectionFailed(text, system="duckdb")
        return (SourceError if self._read_only else TargetError)(text, system="duckdb")

    async def ping(self) -> SystemInfo:
        def version(connection: duckdb.DuckDBPyConnection) -> str:
            row = connection.execute("SELECT version()").fetchone()
            assert row is not None
            return str(row[0])

        return SystemInfo("DuckDB", await self.run(version), self.name)

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


def first_line(error: BaseException) -> str:
    """A driver's message without the query that it repeats."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
