"""Apache Doris as a source, over its MySQL protocol."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

import msgspec
import pyarrow as pa

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.reader import Connect
from retl.connectors.olap.dialect import OlapDialect
from retl.connectors.olap.options import OlapOptions
from retl.connectors.olap.reader import OlapReader
from retl.connectors.olap.source import OlapSource

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?\S*")


class DorisDialect(OlapDialect):
    """Doris. DATETIME has no fraction unless it is ``DATETIME(p)``."""

    name: ClassVar[str] = "doris"
    datetime_digits: ClassVar[int] = 0

    def time_literal(self, text: str, column: pa.Field) -> str:
        if pa.types.is_date(column.type):
            return self.string(text)
        if column.type.tz:
            return f"CAST({self.string(text)} AS TIMESTAMPTZ(6))"
        # A literal that is cut to the digits of the column would be rounded up.
        return f"CAST({self.string(text)} AS DATETIME(6))"


class Doris(OlapOptions, kw_only=False, forbid_unknown_fields=True):
    """A Doris cluster as a source: the address is that of an FE."""

    type_name: ClassVar[str] = "doris"
    summary: ClassVar[str] = "Apache Doris, read over its MySQL protocol."
    example: ClassVar[str] = (
        'source = { type = "doris", url = "doris://etl@fe:9030/dw", password = "${DORIS_PASSWORD}" }'
    )
    schemes: ClassVar[tuple[str, ...]] = ("doris", "mysql")

    url: Annotated[
        str | None,
        msgspec.Meta(description="`doris://user@host:9030/database`; several FEs with commas: `fe1:9030,fe2:9030`."),
    ] = None

    def source(self) -> DorisSource:
        return DorisSource(self)


class DorisReader(OlapReader):
    """Reads Doris."""

    dialect = DorisDialect()

    async def partitions(self, table: str) -> dict[str, str]:
        try:
            rows = await (await self.connection()).table(
                f"SHOW PARTITIONS FROM {'.'.join(map(self.dialect.identifier, self.locate(table)))}"
            )
        except SourceRefused:
            return {}  # a view
        return {str(row["PartitionName"]): f"{row['PartitionId']}:{row['VisibleVersion']}" for row in rows}


class DorisSource(OlapSource):
    """Reads Doris. See ``retl.connectors.Doris``."""

    system: ClassVar[str] = "doris"
    product: ClassVar[str] = "Doris"
    dialect = DorisReader.dialect

    def reader(self, connect: Connect) -> DorisReader:
        return DorisReader(connect, self.reading)

    async def _version(self, connection: MySQLConnection) -> str:
        ((comment,),) = await connection.query("SELECT @@version_comment")
        found = _VERSION.search(str(comment))
        return found[0] if found else str(comment)
