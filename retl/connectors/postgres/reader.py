"""Read PostgreSQL: the catalog of a table, and its rows by COPY."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from retl.connectors.postgres import catalog
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.parallel import SharedSnapshot
from retl.connectors.postgres.rows import copied
from retl.connectors.postgres.types import logical_field
from retl.connectors.sql.reader import SqlReader, catalog_schema
from retl.connectors.sql.selection import Selection
from retl.connectors.sql.zones import dst_shift, local_clock
from retl.model.cursor import CursorFamily
from retl.model.errors import SourceError
from retl.model.schema import TableSchema
from retl.model.window import Bounds

Connect = Callable[[], Awaitable[PostgresConnection]]


class PostgresReader(SqlReader):
    """Reads over the connection that ``connect`` gives; for a scan it is in a snapshot."""

    dialect = DIALECT

    def __init__(
        self,
        connect: Connect,
        home: str,
        timezone: tzinfo | None,
        known_shift: list[timedelta],
        shared: SharedSnapshot | None = None,
    ) -> None:
        """``home``: the schema of tables that are named without one; ``known_shift``: the server's, once it was asked."""
        self.connection = connect
        self.shared = shared
        """The snapshot of a scan, which more connections may read."""
        self._home = home
        self._zone = timezone
        self._known_shift = known_shift
        self.tables: dict[str, catalog.CatalogTable] = {}
        """What was described."""

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return await (await self.connection()).query(sql)

    async def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(copied(await self.connection(), sql, schema)) as batches:
            async for batch in batches:
                yield batch

    async def columns(self, sql: str) -> pa.Schema:
        connection = await self.connection()
        described = await connection.describe(sql)
        if not described:
            return pa.schema([])
        types = ", ".join(f"format_type({column.oid}, {column.modifier})" for column in described)
        (names,) = await connection.query(f"SELECT {types}")
        return pa.schema([logical_field(column.name, name) for column, name in zip(described, names, strict=True)])

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        return await catalog_schema(self, chosen)

    async def list_tables(self) -> list[str]:
        rows = await self.query(catalog.names_question())
        found = [(schema, name) for schema, name in rows if not catalog.is_own(name)]
        return sorted(_spelled(*((name,) if schema == self._home else (schema, name))) for schema, name in found)

    async def describe(self, table: str) -> TableSchema | None:
        found = catalog.read(await self.query(catalog.question(table)))
        if found is None:
            return None
        self.tables[table] = found
        return TableSchema(table, pa.schema([column.field for column in found.columns]), found.key())

    async def location(self, table: str) -> str | None:
        return catalog.location(await self.query(catalog.location_question(table)))

    def clock(self, now: str, cursor: pa.Field, settle: timedelta) -> str:
        return local_clock(now, cursor, self._zone, settle)

    async def dst_shift(self) -> timedelta:
        if self._zone is not None:
            return dst_shift(self._zone, datetime.now(UTC).year)
        if not self._known_shift:
            self._known_shift.append(await self._server_shift())
        return self._known_shift[0]

    async def _server_shift(self) -> timedelta:
        """By how much the clock of the server's own zone is put back; zero if its name is unknown here."""
        ((name,),) = await self.query("SELECT reset_val::text FROM pg_settings WHERE name = 'TimeZone'")
        try:
            return dst_shift(ZoneInfo(name), datetime.now(UTC).year)
        except (LookupError, ValueError, OSError):
            return timedelta()

    async def check_order(
        self, chosen: Selection, cursor: pa.Field, family: CursorFamily, watermark: str | None, bounds: Bounds
    ) -> None:
        high = bounds.high or ""
        if family in ("time", "date") and not high[:4].isdigit() and high:
            raise _no_moment(cursor.name, high)


def _spelled(*parts: str) -> str:
    """A name as it must be written to be read as these parts."""
    return ".".join(DIALECT.identifier(part) if set(part) & set('."`') else part for part in parts)


def _no_moment(cursor: str, value: str) -> SourceError:
    return SourceError(
        f"the highest value of the cursor {cursor!r} is {value!r}, after which no change could be found.",
        remedy=f"leave such rows out: where = \"{cursor} < 'infinity'\".",
    )
