"""A source of an author who writes three methods, held to the whole contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar

import pyarrow as pa
import pytest

from retl.connectors.base import Source, TableSchema
from retl.connectors.simple import FullScanSource
from retl.testing import SourceContract


class Shelf(FullScanSource):
    """Tables in a dict. More columns come than were asked for."""

    system: ClassVar[str] = "shelf"

    def __init__(self, tables: dict[str, pa.Table]) -> None:
        self.tables = tables

    async def list_tables(self) -> list[str]:
        return sorted(self.tables)

    async def describe(self, table: str) -> TableSchema | None:
        found = self.tables.get(table)
        return None if found is None else TableSchema(table, found.schema, ("id",))

    async def read_table(self, table: str, columns: Sequence[str]) -> AsyncGenerator[pa.RecordBatch, None]:
        if table not in self.tables:
            raise LookupError(table)
        for batch in self.tables[table].to_batches():
            yield batch


class TestFullScanSource(SourceContract):
    has_cursor: ClassVar[bool] = False
    counts: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _tables(self) -> None:
        self.tables: dict[str, pa.Table] = {}

    def source(self) -> Source:
        return Shelf(self.tables)

    async def create(self, table: str, rows: pa.Table) -> None:
        self.tables[table] = rows

    async def change(self, table: str, rows: pa.Table) -> None:
        merged = {row["id"]: row for row in [*self.tables[table].to_pylist(), *rows.to_pylist()]}
        self.tables[table] = pa.Table.from_pylist(list(merged.values()), schema=rows.schema)

    async def drop(self, table: str) -> None:
        del self.tables[table]
