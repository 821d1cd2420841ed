"""A database in a file as a source: each scan opens the file for itself, and closes it at its end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.sql.door import RunStatement, SqlDoor
from retl.connectors.sql.reader import SqlReader
from retl.connectors.sql.session import Session, each_alone
from retl.connectors.sql.source import SqlSource
from retl.threads import shielded

T = TypeVar("T")


class DatabaseFile(Protocol):
    """A connection to a file, in a thread of its own."""

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(connection, *arguments)`` in the thread."""

    async def ping(self) -> SystemInfo: ...

    async def close(self) -> None: ...


class Result(Protocol):
    """The rows of a SELECT, which runs when they are first asked for. Used in the file's thread."""

    def next(self, connection: Any) -> list[pa.RecordBatch]:
        """The next batches; none at the end."""

    def close(self, connection: Any) -> None: ...


File = TypeVar("File", bound=DatabaseFile)


class EmbeddedReader(SqlReader, Generic[File]):
    """Reads over one connection, in a thread of its own."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._result: Result | None = None

    @abstractmethod
    def result(self, sql: str, schema: pa.Schema) -> Result:
        """The result of a SELECT; nothing runs yet."""

    async def ping(self) -> SystemInfo:
        return await self._file.ping()

    async def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        result = self._result = self.result(sql, schema)
        try:
            while batches := await self._file.run(result.next):
                for batch in batches:
                    yield batch
        finally:
            await shielded(self._end_result())

    async def _end_result(self) -> None:
        """Close a result even if cancelled: an open one keeps the file open, even after its connection is closed."""
        result, self._result = self._result, None
        if result is not None:
            await self._file.run(result.close)

    async def close(self) -> None:
        await self._end_result()
        await self._file.close()


class EmbeddedSource(SqlDoor, SqlSource):
    """Reads a file. Between two scans it is closed, and other processes may have it."""

    @abstractmethod
    def reader(self) -> EmbeddedReader[Any]:
        """A reader with a connection of its own: an interrupt ends everything that runs on one."""

    @abstractmethod
    def writing(self) -> Session:
        """A session that may write to the file, and does not create it."""

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        session = self.writing()
        try:
            yield each_alone(session)
        finally:
            await shielded(session.close())

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[EmbeddedReader[Any], None]:
        reader = self.reader()
        try:
            yield reader
        finally:
            await shielded(reader.close())

    async def ping(self) -> SystemInfo:
        async with self.connect() as reader:
            return await reader.ping()

    async def aclose(self) -> None:
        """Each scan closes what it has opened."""
