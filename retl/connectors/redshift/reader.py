"""Read Redshift: the catalog of a table, and its rows in one answer, by a cursor, or by UNLOAD."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal
from uuid import uuid4

import pyarrow as pa

from retl.connectors.redshift import catalog
from retl.connectors.redshift.connection import RedshiftConnection
from retl.connectors.redshift.dialect import DIALECT
from retl.connectors.redshift.rows import from_records
from retl.connectors.redshift.spool import spooled
from retl.connectors.redshift.types import NESTED, SKETCHES
from retl.connectors.redshift.unload import ScanFolder, statement
from retl.connectors.sql.reader import SqlReader, catalog_schema
from retl.connectors.sql.selection import Selection
from retl.connectors.sql.zones import dst_shift, local_clock
from retl.model.errors import UnsupportedError
from retl.model.schema import TableSchema, native_type
from retl.pulse import unhurried

Way = Literal["whole", "cursor", "unload"]
Connect = Callable[[], Awaitable[RedshiftConnection]]

_BATCH_RECORDS = 4_096


@dataclass(frozen=True)
class Reading:
    """How a source reads, whatever the table; kept by the source for all of its readers."""

    schema: str
    """That of tables which are named without one."""
    timezone: tzinfo | None
    read: Literal["auto"] | Way
    cursor_cap_mb: int | None
    spool_bytes: int


class RedshiftReader(SqlReader):
    """Reads over the connection that ``connect`` gives; for a scan it is in a transaction, which never becomes another one."""

    dialect = DIALECT

    def __init__(self, connect: Connect, reading: Reading, folder: ScanFolder | None) -> None:
        """``folder``: where UNLOAD may write, if the source has a bucket."""
        self._connect = connect
        self.reading = reading
        self.folder = folder
        self._found: dict[str, catalog.TableName] = {}

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return await (await self._connect()).query(sql)

    async def nodes(self) -> int:
        """How many nodes the cluster has."""
        return (await self._connect()).nodes

    async def columns(self, sql: str) -> pa.Schema:
        connection = await self._connect()
        create, question, drop = catalog.result_questions(sql, f"retl_columns_{uuid4().hex[:16]}")
        await connection.execute(create)
        found = catalog.described(await connection.query(question))
        await connection.execute(drop)
        return found

    async def chosen_schema(self, chosen: Selection) -> pa.Schema:
        schema = await catalog_schema(self, chosen)
        for column in schema:
            _check_readable(column)
        return schema

    async def list_tables(self) -> list[str]:
        return catalog.listed(await self.query(catalog.tables_question()), self.reading.schema)

    async def describe(self, table: str) -> TableSchema | None:
        connection = await self._connect()
        where = catalog.table_name(table, self.reading.schema, case_sensitive=connection.case_sensitive)
        columns = catalog.columns(await connection.query(catalog.columns_question(where)))
        if not columns:
            columns = catalog.described(await connection.query(catalog.late_question(where)))
        if not columns:
            return None
        self._found[table] = where
        key = catalog.key(await connection.query(catalog.key_question(where))) if where.database is None else ()
        return TableSchema(table, columns, key)

    def from_clause(self, name: str) -> str:
        return self._found[name].sql if name in self._found else super().from_clause(name)

    async def location(self, table: str) -> str | None:
        return None  # never a target

    def clock(self, now: str, cursor: pa.Field, settle: timedelta) -> str:
        return local_clock(now, cursor, self.reading.timezone, settle)

    async def dst_shift(self) -> timedelta:
        zone = self.reading.timezone
        return timedelta() if zone is None else dst_shift(zone, datetime.now(UTC).year)

    async def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(self.rows(sql, schema, "cursor", None)) as batches:
            async for batch in batches:
                yield batch

    async def rows(
        self, sql: str, schema: pa.Schema, way: Way, expected: int | None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of a SELECT by one of the ways; ``expected``: how many there are, where that is known."""
        if way == "unload":
            batches = self._unloaded(sql, schema, expected)
        else:
            fetched = self._whole(sql, schema) if way == "whole" else self._by_cursor(sql, schema)
            batches = spooled(fetched, self.reading.spool_bytes)
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def _whole(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        records = await (await self._connect()).records(sql)
        for start in range(0, len(records), _BATCH_RECORDS):
            yield from_records(records[start : start + _BATCH_RECORDS], schema)

    async def _by_cursor(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        """The cluster keeps the result and hands it out in small parts."""
        connection = await self._connect()
        await connection.declare(sql)
        try:
            while records := await connection.fetch():
                yield from_records(records, schema)
        finally:
            if connection.is_healthy:
                await connection.execute("CLOSE retl_rows")

    async def _unloaded(
        self, sql: str, schema: pa.Schema, expected: int | None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        folder = self.folder
        assert folder is not None
        await folder.begin()
        prefix = folder.next_prefix()
        try:
            with unhurried():  # the cluster answers once everything is written
                await (await self._connect()).execute(statement(sql, folder.options, prefix))
            async with aclosing(folder.rows(prefix, expected, schema)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            await folder.remove(prefix)


def _check_readable(column: pa.Field) -> None:
    native = native_type(column)
    if native.startswith(SKETCHES):
        raise UnsupportedError(
            f"column {column.name!r} is of type {native}, whose values the cluster does not show.",
            remedy=f'compute what you need of it, such as expressions = {{ {column.name} = "HLL_CARDINALITY({column.name})" }}, '
            "or leave it out with exclude.",
        )
    if native.startswith(NESTED):
        raise UnsupportedError(
            f"column {column.name!r} of an external table is nested ({native}).",
            remedy=f'name the part that you need in expressions, such as "{column.name}.name", or leave it out with exclude.',
        )
