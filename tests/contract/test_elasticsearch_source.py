"""Elasticsearch as columns, held to the contract of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from retl.connectors import Elasticsearch
from retl.connectors.base import Source, SourceScan
from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import Manifest
from retl.testing import SourceContract, WrappedSource, table_spec
from retl.testing.oracle import in_order
from retl.testing.source_base import NOON, SCHEMA, TABLE, all_rows, rows_by_slice, rows_of
from tests.servers.search import SearchServer

MAPPING = {"id": {"type": "long"}, "name": {"type": "text"}, "updated_at": {"type": "date_nanos"}}
NAIVE = SCHEMA.field("updated_at").type


class WithoutId(WrappedSource):
    """The source as the suite's tables are: no ``_id`` unless it is asked for, times without a zone."""

    system: ClassVar[str] = "elasticsearch"

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        every = tuple(name for name in SCHEMA.names if name not in table.exclude)
        chosen = dataclasses.replace(table, columns=table.columns or every)
        async with super().open_scan(chosen, checkpoint, manifest) as scan:
            yield scan

    def planned(self, plan: SourcePlan) -> SourcePlan:
        schema = pa.schema([column.with_type(_naive(column.type)) for column in plan.schema])
        return dataclasses.replace(plan, schema=schema)

    async def batches(self, scan: SourceScan, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        async with aclosing(super().batches(scan, slice_)) as batches:
            async for batch in batches:
                arrays = [array.cast(_naive(array.type)) for array in batch.columns]
                yield pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _naive(type_: pa.DataType) -> pa.DataType:
    return NAIVE if pa.types.is_timestamp(type_) else type_


class TestElasticsearchSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _server(self, elasticsearch_server: SearchServer) -> Iterator[None]:
        self.server = elasticsearch_server
        self.server.ask("DELETE", "/contract_*")
        yield
        self.server.ask("DELETE", "/contract_*")

    def source(self) -> Source:
        return WithoutId(Elasticsearch(self.server.url).source())

    async def create(self, table: str, rows: pa.Table) -> None:
        settings = {"number_of_shards": 2, "number_of_replicas": 0}
        await self.server.run(
            "PUT", f"/{table}", {"settings": settings, "mappings": {"dynamic": "strict", "properties": MAPPING}}
        )
        await self.change(table, rows)

    async def change(self, table: str, rows: pa.Table) -> None:
        self.server.put(table, {str(row["id"]): _document(row) for row in rows.to_pylist()})

    async def drop(self, table: str) -> None:
        await self.server.run("DELETE", f"/{table}")

    def unreachable(self) -> Source:
        return Elasticsearch("http://nobody@127.0.0.1:1", password="secret").source()

    async def test_describe_names_columns_and_key(self) -> None:
        async with self.opened(rows_of([1])) as source:
            schema = await source.describe(TABLE)
            assert schema is not None
            assert schema.names == ["_id", *SCHEMA.names]
            assert schema.key == ("_id",)

    # A window is one slice, read in the order of the cursor: it is committed as it comes, not cut beforehand.

    async def test_slices_are_in_cursor_order_and_bounded(self) -> None:
        async with self.opened(rows_of(range(1, 101))) as source:
            plan = await source.plan(table_spec(TABLE, cursor="updated_at", slice_rows=10), Checkpoint())
            (rows,) = await rows_by_slice(source, plan)
            assert plan.slices[0].divisible
            assert plan.slices[0].ordered_by == "updated_at"
            assert all(before["updated_at"] < after["updated_at"] for before, after in pairwise(rows))
            assert plan.rows == len(rows) == 100

    async def test_rows_that_share_one_cursor_value_are_cut_without_gap_or_overlap(self) -> None:
        rows = [*rows_of([1, 2]), *rows_of(range(100, 400), updated_at=NOON + timedelta(hours=1), step=False)]
        async with self.opened(rows) as source:
            plan = await source.plan(table_spec(TABLE, cursor="updated_at", slice_rows=50), Checkpoint())
            assert await all_rows(source, plan) == in_order(rows)

    async def test_parts_that_are_done_are_not_read_again(self) -> None:
        pytest.skip("a window has no parts")


def _document(row: dict[str, Any]) -> dict[str, Any]:
    moment = row["updated_at"]
    return {**row, "updated_at": None if moment is None else moment.isoformat()}
