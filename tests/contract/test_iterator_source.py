"""The user's own functions, held to the contract of a source, in each form that they may have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, ClassVar

import msgspec
import pyarrow as pa
import pytest

from retl.connectors import IteratorSource
from retl.connectors.base import Source
from retl.connectors.function import ReadWindow
from retl.testing import SourceContract
from retl.testing.source_base import SCHEMA


class Order(msgspec.Struct):
    id: int
    name: str | None
    updated_at: datetime | None


class InMemory(SourceContract):
    """Tables in a dict; what a function of a user's would ask an API for."""

    counts: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _tables(self) -> None:
        self.tables: dict[str, dict[int, dict[str, Any]]] = {}

    async def create(self, table: str, rows: pa.Table) -> None:
        self.tables[table] = {row["id"]: row for row in rows.to_pylist()}

    async def change(self, table: str, rows: pa.Table) -> None:
        self.tables[table].update({row["id"]: row for row in rows.to_pylist()})

    async def drop(self, table: str) -> None:
        del self.tables[table]

    def wanted(self, window: ReadWindow) -> list[dict[str, Any]]:
        rows = list(self.tables[window.table].values())
        if window.lower is None:
            return rows
        lower = datetime.fromisoformat(window.lower)
        return [row for row in rows if row["updated_at"] is None or row["updated_at"] >= lower]


class TestAsyncGeneratorOfDicts(InMemory):
    lists_tables: ClassVar[bool] = False

    def source(self) -> Source:
        async def read(window: ReadWindow) -> AsyncIterator[dict[str, Any]]:
            for row in self.wanted(window):
                yield row

        return IteratorSource(read, key="id", schema=SCHEMA)


class TestGeneratorInAThread(InMemory):
    lists_tables: ClassVar[bool] = False

    def source(self) -> Source:
        def read(window: ReadWindow) -> Iterator[list[dict[str, Any]]]:
            rows = self.wanted(window)
            for start in range(0, len(rows), 999):
                yield rows[start : start + 999]

        return IteratorSource(read, key="id", schema=SCHEMA)


class TestArrowBatches(InMemory):
    most_batch_rows: ClassVar[int] = 65_536  # those of the user pass through

    def source(self) -> Source:
        async def read(window: ReadWindow) -> AsyncIterator[pa.RecordBatch]:
            for batch in pa.Table.from_pylist(self.wanted(window), schema=SCHEMA).to_batches():
                yield batch

        return IteratorSource(dict.fromkeys(self.tables or ["none"], read), key="id", schema=SCHEMA)


class TestStructsWithLearntColumns(InMemory):
    lists_tables: ClassVar[bool] = False

    def source(self) -> Source:
        async def read(window: ReadWindow) -> list[Order]:
            return [Order(**row) for row in self.wanted(window)]

        return IteratorSource(read, key="id")


class TestOrderedRows(InMemory):
    lists_tables: ClassVar[bool] = False

    def source(self) -> Source:
        async def read(window: ReadWindow) -> AsyncIterator[dict[str, Any]]:
            for row in sorted(self.wanted(window), key=lambda row: (row["updated_at"] is not None, row["updated_at"])):
                yield row

        return IteratorSource(read, key="id", schema=SCHEMA, ordered=True)
