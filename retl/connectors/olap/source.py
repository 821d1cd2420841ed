"""StarRocks and Doris as sources: connections to the first FE that answers, made ready once and kept for the next scan."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from contextlib import suppress
from typing import Any, ClassVar

from retl.connectors.base import SystemInfo
from retl.connectors.mysql.connection import MySQLConnection, held
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.source import WireSource
from retl.connectors.olap.cluster import Cluster
from retl.connectors.olap.flight import FlightStream
from retl.connectors.olap.options import OlapOptions
from retl.connectors.olap.reader import Reading
from retl.connectors.olap.scan import OlapScan
from retl.connectors.olap.session import settings
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.zones import zone
from retl.model.errors import ConfigError

_PRODUCTS = ("starrocks", "doris")


class OlapSource(WireSource):
    """What both systems have in common."""

    product: ClassVar[str]
    scan: ClassVar[type[SqlScan[Any]]] = OlapScan

    def __init__(self, options: OlapOptions) -> None:
        logins = options.logins()
        super().__init__(options, *logins)
        self._cluster = Cluster(logins)
        self._query_timeout = options.query_timeout
        self._session = settings(self.system, options.query_timeout)
        self._tls_ca = options.tls_ca
        self._flight_port = self._checked_flight_port(options)
        self.reading = Reading(
            database=self._cluster.login.database,
            timezone=zone(options.timezone, self.system),
            skip_unchanged=options.skip_unchanged_partitions,
            flight=self._flight if self._flight_port else None,
        )

    def _checked_flight_port(self, options: OlapOptions) -> int | None:
        if options.protocol != "flight":
            return None
        if options.flight_port is None:
            raise ConfigError(
                'protocol = "flight" needs the port on which the FE speaks it.',
                remedy="name it in flight_port; it stands in fe.conf (StarRocks: arrow_flight_port, Doris: arrow_flight_sql_port).",
                system=self.system,
            )
        tls = self._cluster.login.tls
        if tls and tls.verify_mode and not tls.check_hostname:
            raise ConfigError(
                "over Flight SQL a certificate cannot be checked without the name that it carries.",
                remedy='leave tls_check_hostname out, or use tls = "insecure" or protocol = "mysql".',
                system=self.system,
            )
        return options.flight_port

    def _flight(self) -> FlightStream:
        assert self._flight_port is not None
        login = dataclasses.replace(self._cluster.login, session=(self._session,))
        return FlightStream(login, self._flight_port, self._tls_ca)

    async def open(self) -> MySQLConnection:
        connection = await self._cluster.open()
        try:
            await self.prepare(connection)
        except BaseException:
            connection.abort()  # it must not pass for one that was looked at
            raise
        return connection

    def use(self, connection: MySQLConnection) -> MySQLConnection:
        with suppress(ConfigError):  # a zone by a name of Java's
            self.reading.server_timezone = zone(connection.variables.get("time_zone") or None, self.system)
        self._session = settings(self.system, self._query_timeout, connection.variables)
        return connection

    async def prepare(self, connection: MySQLConnection) -> None:
        """Make a new connection ready for plans and for large results."""
        await self._check_product(connection)
        connection.variables = {str(row[0]): str(row[1]) for row in await connection.query("SHOW VARIABLES")}
        self.use(connection)
        await connection.execute(self._session)
        # It may replace a lost one: another FE may not know yet of rows that the plan has counted.
        with suppress(SourceRefused):  # where the server does not know the statement
            await connection.execute("SYNC")

    async def _check_product(self, connection: MySQLConnection) -> str:
        ((comment,),) = await connection.query("SELECT @@version_comment")
        called = str(comment).lower()
        if self.product.lower() not in called:
            found = f"no {self.product}" if any(name in called for name in _PRODUCTS) else "neither StarRocks nor Doris"
            raise ConfigError(
                f"the server at {connection.place} is {found}: it calls itself {comment!r}.",
                remedy="name its own type (mysql, starrocks, doris), or the port of the FE (9030).",
                system=self.system,
            )
        return str(comment)

    async def ping(self) -> SystemInfo:
        async with held(await self._cluster.open()) as connection:
            comment = await self._check_product(connection)
            return SystemInfo(self.product, await self._version(connection), comment, connection.warnings)

    @abstractmethod
    async def _version(self, connection: MySQLConnection) -> str:
        """The product's own version; that of the handshake can be set to anything."""
