"""Reading StarRocks and Doris: catalog, partitions, and streams that end on the server when they end here."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import ClassVar

import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.mysql.connection import MySQLConnection, held
from retl.connectors.mysql.dialect import described_field
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.options import zone
from retl.connectors.mysql.source import WireSource
from retl.connectors.mysql.wire import WireField
from retl.connectors.olap.cluster import Cluster
from retl.connectors.olap.dialect import OlapDialect, is_nested, is_sketch
from retl.connectors.olap.errors import olap_error, reading_error
from retl.connectors.olap.flight import FlightStream
from retl.connectors.olap.options import OlapOptions
from retl.connectors.olap.session import settings
from retl.connectors.sql.select import Relation, Selection
from retl.connectors.sql.source import summer_shift
from retl.model.actions import PreAction, Write
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema, native_type
from retl.model.table import TableSpec
from retl.model.window import Slice

_SYSTEM_DATABASES = ("information_schema", "sys", "_statistics_", "__internal_schema", "mysql")
_PRODUCTS = ("starrocks", "doris")
_PARTITION = "partition:"


class OlapSource(WireSource):
    """What both systems share. Results are read without a sort: it would materialise everything before the first row."""

    product: ClassVar[str]
    dialect: OlapDialect
    how_named: ClassVar[str] = (
        "write table or database.table; a table of another catalog is read by query, "
        'such as query = "SELECT * FROM catalog.database.table".'
    )

    def __init__(self, options: OlapOptions, dialect: OlapDialect) -> None:
        logins = options.logins()
        super().__init__(logins[0])
        self.dialect = dialect
        self._cluster = Cluster(logins)
        self._query_timeout = options.query_timeout
        self._session = settings(self.system, options.query_timeout)
        self._skip_unchanged = options.skip_unchanged_partitions
        self._zone = zone(options.timezone, self.system)
        self._server_zone = ""
        self._tls_ca = options.tls_ca
        self._flight_port = options.flight_port if options.protocol == "flight" else None
        if options.protocol == "flight" and options.flight_port is None:
            raise ConfigError(
                'protocol = "flight" needs the port on which the FE speaks it.',
                remedy="name it in flight_port; it stands in fe.conf (StarRocks: arrow_flight_port, Doris: arrow_flight_sql_port).",
                system=self.system,
            )
        tls = self._login.tls
        if self._flight_port and tls and tls.verify_mode and not tls.check_hostname:
            raise ConfigError(
                "over Flight SQL a certificate cannot be checked without the name that it carries.",
                remedy='leave tls_check_hostname out, or use tls = "insecure" or protocol = "mysql".',
                system=self.system,
            )

    async def connect(self) -> MySQLConnection:
        connection = await self._cluster.open(olap_error)
        try:
            await self._check_product(connection)
            variables = {str(row[0]): str(row[1]) for row in await connection.query("SHOW VARIABLES")}
            self._server_zone = variables.get("time_zone", "")
            self._session = settings(self.system, self._query_timeout, variables)
            await connection.execute(self._session)
        except BaseException:
            connection.abort()  # it must not pass for one that was looked at
            raise
        return connection

    async def connect_stream(self) -> MySQLConnection:
        connection = await self._cluster.open(reading_error)
        try:
            await connection.execute(self._session)
            await self.before_stream(connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def before_stream(self, connection: MySQLConnection) -> None:
        """What makes a connection ready for a large result."""
        # Another FE may not have heard yet of rows that the plan has counted.
        with suppress(SourceRefused):  # where the server does not know the statement
            await connection.execute("SYNC")

    async def _check_product(self, connection: MySQLConnection) -> str:
        ((comment,),) = await connection.query("SELECT @@version_comment")
        called = str(comment).lower()
        if self.product.lower() not in called:
            found = f"no {self.product}" if any(name in called for name in _PRODUCTS) else "neither StarRocks nor Doris"
            raise ConfigError(
                f"the server at {self._cluster.login.place} is {found}: it calls itself {comment!r}.",
                remedy="name its own type (mysql, starrocks, doris), or the port of the FE (9030).",
                system=self.system,
            )
        return str(comment)

    async def ping(self) -> SystemInfo:
        async with held(await self._cluster.open(olap_error)) as connection:
            comment = await self._check_product(connection)
            return SystemInfo(self.product, await self._version(connection), comment, connection.warnings)

    @abstractmethod
    async def _version(self, connection: MySQLConnection) -> str:
        """The product's own version; that of the handshake can be set to anything."""

    async def list_tables(self) -> list[str]:
        mine = self._login.database
        where = (
            f"TABLE_SCHEMA = {self.dialect.string(mine)}"
            if mine
            else f"TABLE_SCHEMA NOT IN ({', '.join(map(self.dialect.string, _SYSTEM_DATABASES))})"
        )
        rows = await self.query(f"SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.tables WHERE {where}")
        return sorted(
            self.spelled(str(name)) if mine else f"{self.spelled(str(schema))}.{self.spelled(str(name))}"
            for schema, name in rows
        )

    async def describe(self, table: str) -> TableSchema | None:
        database, name = self._locate(table)
        rows = await self.query(
            "SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_KEY FROM information_schema.columns "
            f"WHERE {self._here(database, name)} ORDER BY ORDINAL_POSITION"
        )
        if not rows:
            return None
        fields = [
            self.dialect.logical_field(str(column), str(native), null == "YES") for column, native, null, _ in rows
        ]
        # DUP and AGG name columns that sort or group the rows; they do not tell rows apart.
        key = [str(column) for column, _, _, kind in rows if kind in ("PRI", "UNI")]
        if key and not await self._has_real_key(database, name):
            key = []
        # A key column is never NULL in a primary key table, whatever the catalog says.
        return TableSchema(table, pa.schema(fields), tuple(key))

    def _here(self, database: str, name: str) -> str:
        return f"TABLE_SCHEMA = {self.dialect.string(database)} AND TABLE_NAME = {self.dialect.string(name)}"

    async def _has_real_key(self, database: str, name: str) -> bool:
        """Whether the columns that the catalog marks as keys are unique together."""
        return True

    async def put_back(self) -> timedelta:
        try:
            there = self._zone or zone(self._server_zone or None, self.system)
        except ConfigError:  # a zone by a name of Java's
            return timedelta()
        return summer_shift(there, datetime.now(UTC).year) if there else timedelta()

    def clock(self, now: str, cursor: pa.Field) -> str:
        if self._zone is None or (pa.types.is_timestamp(cursor.type) and cursor.type.tz):
            return now
        there = datetime.fromisoformat(now).replace(tzinfo=UTC).astimezone(self._zone)
        return there.replace(tzinfo=None).isoformat(" ")

    def described_field(self, column: WireField) -> pa.Field:
        found = described_field(column)
        native = native_type(found)
        if native == "longblob":
            return found
        if native == "tinyint" and column.length == 1:
            native = "boolean"
        return self.dialect.logical_field(column.name, "string" if native == "longtext" else native, found.nullable)

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        known = chosen.relation.schema.columns
        for name in chosen.names:
            if name not in chosen.table.expressions and chosen.table.query is None:
                _check_readable(known.field(name))
        return await super().chosen_schema(chosen)

    async def _plan_full(
        self, table: TableSpec, checkpoint: Checkpoint, chosen: Selection, schema: pa.Schema, key: tuple[str, ...]
    ) -> SourcePlan:
        plan = await super()._plan_full(table, checkpoint, chosen, schema, key)
        if table.query is not None or not plan.slices:
            return self._warned(plan, schema)
        skip = self._skip_unchanged and table.pre_action is PreAction.NONE and table.write is Write.UPSERT
        versions = await self.partitions(table.name)
        if not versions or (len(versions) == 1 and not skip):
            return self._warned(plan, schema)
        # What was chosen is remembered for each partition: a scan that ends halfway leaves the others as they were.
        marks = {name: f"{version} {_fingerprint(chosen, schema)}" for name, version in versions.items()}
        wanted = [name for name in marks if not (skip and checkpoint.detail.get(_PARTITION + name) == marks[name])]
        slices = tuple(
            Slice(index=index, divisible=True, detail={_PARTITION + name: marks[name]} if skip else {})
            for index, name in enumerate(wanted)
        )
        detail = {**plan.detail, "partitions": wanted}
        rows = plan.rows if len(wanted) == len(versions) else 0 if not wanted else None
        plan = dataclasses.replace(plan, slices=slices, rows=rows, detail=detail)
        statements = tuple(self.selection(plan, slice_).rows(schema, slice_) for slice_ in slices[:1])
        return self._warned(dataclasses.replace(plan, statements=statements), schema)

    def read(self, plan: SourcePlan, slice_: Slice) -> AsyncIterator[pa.RecordBatch]:
        if self._flight_port is None:
            return super().read(plan, slice_)
        login = dataclasses.replace(self._cluster.login, session=(self._session,))
        stream = FlightStream(login, self._flight_port, self._tls_ca)
        return stream.batches(self.selection(plan, slice_).rows(plan.schema, slice_), plan.schema)

    @abstractmethod
    async def partitions(self, table: str) -> dict[str, str]:
        """The partitions of a table, and of each which one it is and the version that readers see.

        A partition that is emptied or made again may reach the version that it had before, under another number.
        """

    def selection(self, plan: SourcePlan, slice_: Slice) -> Selection:
        chosen = super().selection(plan, slice_)
        partitions = plan.detail.get("partitions")
        if not isinstance(partitions, list):
            return chosen
        name = self.dialect.identifier(partitions[slice_.index])
        relation = Relation(f"{chosen.relation.sql} PARTITION ({name})", chosen.relation.schema)
        return dataclasses.replace(chosen, relation=relation)

    def _warned(self, plan: SourcePlan, schema: pa.Schema) -> SourcePlan:
        """Say of nested columns what arrives."""
        nested = [column for column in schema if is_nested(column)]
        if not nested:
            return plan
        advice = ", ".join(f'{column.name} = "{self.dialect.to_json(column)}"' for column in nested)
        warning = (
            f"{', '.join(column.name for column in nested)}: arrays, maps and structs arrive as the server writes them, "
            f"which is not always JSON; for JSON use expressions = {{ {advice} }}."
        )
        return dataclasses.replace(plan, warnings=(*plan.warnings, warning))


def _fingerprint(chosen: Selection, schema: pa.Schema) -> str:
    return sha256(f"{chosen.raw()} {schema}".encode()).hexdigest()[:16]


def _check_readable(column: pa.Field) -> None:
    if is_sketch(column):
        raise UnsupportedError(
            f"column {column.name!r} is of type {native_type(column)}, whose values the server does not show.",
            remedy=f'compute what you need of it, such as expressions = {{ {column.name} = "bitmap_to_string({column.name})" }}, '
            "or leave it out with columns.",
        )
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        raise UnsupportedError(
            f"column {column.name!r} has nanoseconds, which few targets keep.",
            remedy=f'say how it is to be cut, such as expressions = {{ {column.name} = "CAST({column.name} AS DATETIME(6))" }}.',
        )
