"""StarRocks as a source, over its MySQL protocol."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import uuid4

import msgspec
import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.reader import Connect
from retl.connectors.olap.dialect import OlapDialect
from retl.connectors.olap.errors import UNKNOWN_VARIABLE
from retl.connectors.olap.options import OlapOptions
from retl.connectors.olap.reader import OlapReader
from retl.connectors.olap.source import OlapSource
from retl.model.schema import native_type


class StarRocksDialect(OlapDialect):
    """StarRocks. DATETIME has microseconds."""

    name: ClassVar[str] = "starrocks"
    datetime_digits: ClassVar[int] = 6

    def to_json(self, column: pa.Field) -> str:
        if native_type(column).startswith("array"):
            return f"CAST({self.identifier(column.name)} AS JSON)"
        return super().to_json(column)


class StarRocks(OlapOptions, kw_only=False, forbid_unknown_fields=True):
    """A StarRocks cluster as a source: the address is that of an FE."""

    type_name: ClassVar[str] = "starrocks"
    summary: ClassVar[str] = "StarRocks, read over its MySQL protocol."
    example: ClassVar[str] = (
        'source = { type = "starrocks", url = "starrocks://etl@fe:9030/dw", password = "${SR_PASSWORD}" }'
    )
    schemes: ClassVar[tuple[str, ...]] = ("starrocks", "mysql")

    url: Annotated[
        str | None,
        msgspec.Meta(
            description="`starrocks://user@host:9030/database`; several FEs with commas: `fe1:9030,fe2:9030`."
        ),
    ] = None

    def source(self) -> StarRocksSource:
        return StarRocksSource(self)


class StarRocksReader(OlapReader):
    """Reads StarRocks."""

    dialect = StarRocksDialect()

    async def has_real_key(self, table: str) -> bool:
        rows = await self.query(f"SELECT TABLE_MODEL FROM information_schema.tables_config WHERE {self.here(table)}")
        # A table of another catalog has no entry there, and no key either.
        return bool(rows) and rows[0][0] in ("PRI_KEYS", "UNQ_KEYS")

    async def partitions(self, table: str) -> dict[str, str]:
        here = self.here(table).replace("TABLE_SCHEMA", "DB_NAME", 1)
        rows = await self.query(
            "SELECT PARTITION_NAME, PARTITION_ID, VISIBLE_VERSION FROM information_schema.partitions_meta "
            f"WHERE {here} AND IS_TEMP = 0"
        )
        # One partition may be stored as several, each with a version of its own.
        stored: dict[str, list[str]] = {}
        for partition, number, version in sorted(rows):
            stored.setdefault(str(partition), []).append(f"{number}:{version}")
        return {partition: " ".join(versions) for partition, versions in stored.items()}


class StarRocksSource(OlapSource):
    """Reads StarRocks. See ``retl.connectors.StarRocks``."""

    system: ClassVar[str] = "starrocks"
    product: ClassVar[str] = "StarRocks"
    dialect = StarRocksReader.dialect

    def reader(self, connect: Connect) -> StarRocksReader:
        return StarRocksReader(connect, self.reading)

    async def _version(self, connection: MySQLConnection) -> str:
        ((version,),) = await connection.query("SELECT current_version()")
        return str(version)

    async def prepare(self, connection: MySQLConnection) -> None:
        """Name its queries: behind a balancer the connection that ends one may reach another FE, which knows no such thread."""
        await super().prepare(connection)
        name = StarRocksReader.dialect.string(f"retl-{uuid4()}")
        try:
            await connection.execute(f"SET custom_query_id = {name}")
        except SourceRefused as error:
            if error.code != UNKNOWN_VARIABLE:
                raise
            return  # before 3.4
        connection.query_name = name
