"""Reading StarRocks and Doris: their catalog, and streams that end on the server when they end here.

Results are read without a sort: it would materialise everything before the first row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import ClassVar

import pyarrow as pa

from retl.connectors.mysql.dialect import described_field
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.reader import Connect, WireReader
from retl.connectors.mysql.wire import WireField
from retl.connectors.olap.dialect import OlapDialect, is_sketch
from retl.connectors.olap.errors import while_reading
from retl.connectors.olap.flight import FlightStream
from retl.connectors.sql.selection import Selection
from retl.connectors.sql.zones import dst_shift
from retl.model.errors import UnsupportedError
from retl.model.schema import TableSchema, native_type


@dataclass
class Reading:
    """How a source reads, whatever the table; kept by the source for all of its readers."""

    database: str | None
    timezone: tzinfo | None
    """That of DATETIME columns, where the user has named one."""
    skip_unchanged: bool
    """Whether full scans leave out partitions whose version is that of the last scan."""
    flight: Callable[[], FlightStream] | None
    """The way for rows, if it is not MySQL's protocol."""
    server_timezone: tzinfo | None = None
    """That of the server, once it was asked."""


class OlapReader(WireReader):
    """What both systems have in common."""

    dialect: OlapDialect
    how_named: ClassVar[str] = (
        "write table or database.table; a table of another catalog is read by query, "
        'such as query = "SELECT * FROM catalog.database.table".'
    )
    system_databases: ClassVar[Sequence[str]] = (
        "information_schema", "sys", "_statistics_", "__internal_schema", "mysql",
    )  # fmt: skip

    def __init__(self, connect: Connect, reading: Reading) -> None:
        super().__init__(connect, reading.database, reading.timezone)
        self.reading = reading

    async def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        rows = self.reading.flight().batches(sql, schema) if self.reading.flight else super().stream(sql, schema)
        async with aclosing(rows) as batches:
            try:
                async for batch in batches:
                    yield batch
            except SourceRefused as error:
                raise while_reading(error) from error

    async def location(self, table: str) -> str | None:
        return None  # never a target

    async def describe(self, table: str) -> TableSchema | None:
        rows = await self.query(
            "SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_KEY FROM information_schema.columns "
            f"WHERE {self.here(table)} ORDER BY ORDINAL_POSITION"
        )
        if not rows:
            return None
        fields = [
            self.dialect.logical_field(str(column), str(native), null == "YES") for column, native, null, _ in rows
        ]
        # DUP and AGG name columns that sort or group the rows; they do not tell rows apart.
        key = [str(column) for column, _, _, kind in rows if kind in ("PRI", "UNI")]
        if key and not await self.has_real_key(table):
            key = []
        # A key column is never NULL in a primary key table, whatever the catalog says.
        return TableSchema(table, pa.schema(fields), tuple(key))

    async def has_real_key(self, table: str) -> bool:
        """Whether the columns that the catalog marks as keys are unique together."""
        return True

    @abstractmethod
    async def partitions(self, table: str) -> dict[str, str]:
        """The partitions of a table, and of each which one it is and the version that readers see.

        A partition that is emptied or made again may reach the version that it had before, under another number.
        """

    async def dst_shift(self) -> timedelta:
        there = self.reading.timezone or self.reading.server_timezone
        return dst_shift(there, datetime.now(UTC).year) if there else timedelta()

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
