"""Redshift as a source: a scan has one transaction, whose snapshot begins with the bounds of its window."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

from retl.connectors.base import SystemInfo
from retl.connectors.postgres.login import Login
from retl.connectors.postgres.snapshot import Snapshot
from retl.connectors.redshift.connection import RedshiftConnection, session
from retl.connectors.redshift.credentials import with_credentials
from retl.connectors.redshift.dialect import DIALECT
from retl.connectors.redshift.errors import redshift_error
from retl.connectors.redshift.reader import Reading, RedshiftReader
from retl.connectors.redshift.scan import RedshiftScan
from retl.connectors.redshift.unload import ScanFolder
from retl.connectors.sql.door import RunStatement, SqlDoor
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.source import SqlSource
from retl.connectors.sql.zones import zone
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.redshift import Redshift

_BYTES_PER_MB = 1_000_000


class RedshiftSource(SqlDoor, SqlSource):
    """Reads Redshift. See ``retl.connectors.Redshift``."""

    system: ClassVar[str] = "redshift"
    dialect = DIALECT
    scan: ClassVar[type[SqlScan[RedshiftReader]]] = RedshiftScan

    def __init__(self, options: Redshift) -> None:
        self._options = options
        self._login = _login(options)
        self._pool = options.pool(self._open, server=options.server())
        self._reading = Reading(
            schema=options.schema,
            timezone=zone(options.timezone, self.system),
            read=options.read,
            cursor_cap_mb=options.cursor_cap_mb,
            spool_bytes=options.spool_mb * _BYTES_PER_MB,
        )

    async def _open(self) -> RedshiftConnection:
        login, options = self._login, self._options
        if options.iam is not None:
            url = options._split()
            user = options.user or unquote(url.username or "") or None
            login = await with_credentials(login, options.iam, user, _database(options))
        return await RedshiftConnection.open(login)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[RedshiftReader, None]:
        async with self._pool.control() as connection:

            async def lent() -> RedshiftConnection:
                return connection

            yield RedshiftReader(lent, self._reading, None)

    @asynccontextmanager
    async def connect_scan(self) -> AsyncGenerator[RedshiftReader, None]:
        folder = ScanFolder(self._options.unload) if self._options.unload else None
        async with self._pool.reserve() as reservation:
            snapshot = Snapshot(reservation, "")
            try:
                yield RedshiftReader(snapshot.connection, self._reading, folder)
                await snapshot.end()
            finally:
                if folder is not None:
                    await shielded(folder.leave())

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        # Alone: VACUUM and procedures that commit take no transaction, and the session has its settings.
        async with self._pool.alone() as connection:
            yield connection.execute

    async def ping(self) -> SystemInfo:
        async with self._pool.control() as connection:
            await connection.prove()
            await self._try_bucket()
            nodes = f"{connection.nodes} node{'s' if connection.nodes > 1 else ''}"
            return SystemInfo("Redshift", connection.version, nodes, warnings=connection.warnings)

    async def _try_bucket(self) -> None:
        """List, write and delete in the bucket, if there is one; whether the cluster may write, an UNLOAD tells."""
        if self._options.unload is not None:
            folder = ScanFolder(self._options.unload)
            try:
                await folder.begin()
            finally:
                await shielded(folder.leave())

    async def aclose(self) -> None:
        await self._pool.aclose()


def _login(options: Redshift) -> Login:
    """The address, and what a session of Redshift is."""
    path = ", ".join(map(DIALECT.identifier, dict.fromkeys([options.schema, "public"])))
    settings = session(path, options.seconds("statement_timeout"), options.query_group)
    login = options.login("source", settings)
    port = options.port or options._split().port or options.default_port
    parameters = {**login.parameters, "port": port, "database": _database(options)}
    return dataclasses.replace(login, parameters=parameters, explain=redshift_error)


def _database(options: Redshift) -> str:
    return options.database or unquote(options._split().path.lstrip("/")) or "dev"
