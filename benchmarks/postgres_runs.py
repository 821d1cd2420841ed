"""What runs in a process of its own in the benchmarks of PostgreSQL: it imports no more than a user of retl would."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import pyarrow as pa
import pyarrow.csv

import retl
from benchmarks import common
from benchmarks.mysql_runs import COLUMNS
from retl.connectors import MySQL, PostgreSQL
from retl.connectors.base import Checkpoint, TableSchema, TableSpec
from retl.connectors.simple import FullScanSource
from retl.state.base import Manifest

ROWS = int(os.environ.get("RETL_BENCH_ROWS", "1000000"))
SOURCE = "orders"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("customer", pa.int32(), nullable=False),
        ("city", pa.string()),
        ("note", pa.string()),
        ("amount", pa.decimal128(18, 4)),
        ("ratio", pa.float64()),
        ("day", pa.date32()),
        ("created", pa.timestamp("us")),
        ("active", pa.int16()),
        ("details", pa.string()),
        pa.field("updated_at", pa.timestamp("us"), nullable=False),
        ("code", pa.string()),
    ]
)


def by_retl(source: str, target: str, table: str, mode: str) -> dict[str, Any]:
    """A load from a file of CSV or a server, by a mode or a cursor; with the longest stall of the event loop."""
    words: dict[str, Any] = {"cursor": "updated_at"} if mode == "incremental" else {"pre_action": mode}
    pipeline = retl.Pipeline(
        f"bench_{table}", source=_door(source), target=_door(target), tables=[retl.Table(SOURCE, to=table, **words)]
    )
    watch = common.StallWatch()

    async def run() -> tuple[float, int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.watch, anyio.sleep)
            began = time.perf_counter()
            report = await pipeline.run_once()
            seconds = time.perf_counter() - began
            tasks.cancel_scope.cancel()
        await pipeline.aclose()
        return seconds, report.rows

    seconds, rows = anyio.run(run)
    return {"seconds": seconds, "rows": rows, "stall_ms": round(1000 * watch.longest)}


def _door(address: str) -> Any:
    if address.startswith("mysql:"):
        return MySQL(address)
    if address.startswith("postgresql:"):
        return PostgreSQL(address)
    return CsvSource(address)


class CsvSource(FullScanSource):
    """A file of CSV as text in Arrow, which is what a target is given by the sources that read text."""

    system = "csv"

    def __init__(self, file: str) -> None:
        self._file = file

    async def list_tables(self) -> list[str]:
        return [SOURCE]

    async def describe(self, table: str) -> TableSchema | None:
        return TableSchema(table, SCHEMA, ("id",))

    async def read_table(self, table: str, columns: Sequence[str]) -> AsyncGenerator[pa.RecordBatch, None]:
        names = list(COLUMNS)
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        # The reader takes up to 32 blocks in ahead.
        read = pyarrow.csv.ReadOptions(column_names=names, block_size=256 * 1024)
        reader = await anyio.to_thread.run_sync(
            lambda: pyarrow.csv.open_csv(self._file, read_options=read, convert_options=convert)
        )
        while (batch := await anyio.to_thread.run_sync(next, reader, None)) is not None:
            yield batch


def reading(source: str) -> dict[str, Any]:
    """The whole table to Arrow in text form, and nothing else."""

    async def run() -> tuple[float, int]:
        door = PostgreSQL(source).source()
        rows = 0
        async with door.open_scan(
            TableSpec(SOURCE, SOURCE), Checkpoint(), Manifest(retl.MemoryStore(), "bench", SOURCE)
        ) as scan:
            began = time.perf_counter()
            for slice_ in scan.plan.slices:
                async for batch in scan.read(slice_):
                    rows += batch.num_rows
            seconds = time.perf_counter() - began
        await door.aclose()
        return seconds, rows

    seconds, rows = anyio.run(run)
    assert rows == ROWS, rows
    return {"seconds": seconds}


def by_cursor(source: str) -> dict[str, Any]:
    """The whole table by a cursor of asyncpg, as its documentation shows it."""
    import asyncpg

    async def run() -> float:
        connection = await asyncpg.connect(source)
        began, rows = time.perf_counter(), 0
        async with connection.transaction():
            async for _ in connection.cursor(f"SELECT * FROM {SOURCE}", prefetch=5000):
                rows += 1
        seconds = time.perf_counter() - began
        await connection.close()
        assert rows == ROWS, rows
        return seconds

    return {"seconds": anyio.run(run)}
