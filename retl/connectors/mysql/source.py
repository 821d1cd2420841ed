"""MySQL and MariaDB as a source, and what every source of their protocol shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from retl.connectors.base import SystemInfo
from retl.connectors.mysql.connection import MySQLConnection, connected
from retl.connectors.mysql.login import Login
from retl.connectors.mysql.options import ServerOptions
from retl.connectors.mysql.reader import Connect, MySQLReader, WireReader
from retl.connectors.mysql.settings import CHANGES_NOTHING, reading
from retl.connectors.sql.door import RunStatement, SqlDoor
from retl.connectors.sql.source import SqlSource
from retl.connectors.sql.zones import zone

if TYPE_CHECKING:
    from retl.connectors.mysql import MySQL


class WireSource(SqlDoor, SqlSource):
    """A source that speaks MySQL's protocol. A scan has one connection of its pool until it is left."""

    def __init__(self, options: ServerOptions, *logins: Login) -> None:
        """``logins``: to the server, or to those of a cluster."""
        self._pool = options.pool(self.open, server=options.server(*logins))

    @abstractmethod
    async def open(self) -> MySQLConnection:
        """A new connection, prepared for reading."""

    def use(self, connection: MySQLConnection) -> MySQLConnection:
        """A connection that this source is about to use; another one for the same server may have opened it."""
        return connection

    @abstractmethod
    def reader(self, connect: Connect) -> WireReader:
        """A reader over such a connection."""

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[WireReader, None]:
        async with self._pool.control() as connection:

            async def lent() -> MySQLConnection:
                return self.use(connection)

            yield self.reader(lent)

    @asynccontextmanager
    async def connect_scan(self) -> AsyncGenerator[WireReader, None]:
        async with self._pool.reserve() as reservation:

            async def reserved() -> MySQLConnection:
                return self.use(await reservation.connection())

            yield self.reader(reserved)

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        async with self._pool.alone() as connection:
            yield connection.execute

    async def aclose(self) -> None:
        await self._pool.aclose()


class MySQLSource(WireSource):
    """Reads MySQL or MariaDB. See ``retl.connectors.MySQL``."""

    system: ClassVar[str] = "mysql"
    dialect = MySQLReader.dialect

    def __init__(self, options: MySQL) -> None:
        self._login = reading(options.login("source", ()), options.lock_seconds)
        super().__init__(options, self._login)
        self._zone = zone(options.timezone, self.system)
        self._shift: list[timedelta] = []

    async def open(self) -> MySQLConnection:
        connection = await MySQLConnection.open(self._login)
        await connection.prove()
        return connection

    def reader(self, connect: Connect) -> MySQLReader:
        return MySQLReader(connect, self._login.database, self._zone, self._shift)

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        async with super().open_sql() as run:
            await run(CHANGES_NOTHING)
            yield run

    async def ping(self) -> SystemInfo:
        async with connected(self._login) as connection:
            await connection.query("SELECT 1")
            server = connection.server
            product = "MariaDB" if server.mariadb else "MySQL"
            return SystemInfo(product, ".".join(map(str, server.version)), warnings=connection.warnings)
