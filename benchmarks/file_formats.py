"""Files to Arrow, in one thread: CSV, JSON lines and Parquet of the same rows, beside what pyarrow alone does with them.

A row has 12 columns and some 180 bytes of CSV. Megabytes are those of the CSV, so that the lines compare.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from benchmarks import common
from retl.connectors.files.formats import format_for, merged
from retl.connectors.rows.text import json_text

ROWS = int(os.environ.get("RETL_BENCH_ROWS", "1000000"))
HERE = "benchmarks.file_formats"
READERS = {
    "CSV, pyarrow alone, types inferred": ("pyarrow_csv", "csv"),
    "CSV, pyarrow alone, types given": ("pyarrow_given", "csv"),
    "CSV, retl": ("ours", "csv"),
    "CSV, retl, all text": ("ours_as_text", "csv"),
    "JSON lines, retl": ("ours", "jsonl"),
    "Parquet, retl": ("ours", "parquet"),
}


def rows_of(count: int) -> pa.Table:
    """Numbers, text, times and decimals."""
    random = np.random.default_rng(1)
    numbers = np.arange(count)
    return pa.table(
        {
            "id": numbers,
            "customer": random.integers(0, 10**6, count),
            "name": pa.array([f"name {number % 5000} of somebody" for number in range(count)]),
            "city": pa.array([f"city-{number % 300}" for number in range(count)]),
            "amount": random.integers(0, 10**7, count),
            "quantity": random.integers(0, 100, count),
            "day": pa.array(random.integers(15_000, 20_000, count).astype("int32")).cast(pa.date32()),
            "at": pa.array(random.integers(15 * 10**14, 17 * 10**14, count)).cast(pa.timestamp("us")),
            "paid": pa.array(random.integers(0, 2, count) == 1),
            "note": pa.array([f"a note, number {number}, with some more text to fill it" for number in range(count)]),
            "ratio": pa.array(random.integers(0, 10**5, count)).cast(pa.decimal128(21, 2)),
            "code": pa.array([f"{number % 100_000:05}" for number in range(count)]),
        }
    )


def write(folder: Path, count: int) -> float:
    """The same rows in each format; the megabytes of the CSV."""
    table = rows_of(count)
    csv.write_csv(table, folder / "a.csv")
    parquet.write_table(table, folder / "a.parquet")
    with (folder / "a.jsonl").open("w") as file:
        for batch in table.to_batches(10_000):
            file.writelines(json_text(row) + "\n" for row in batch.to_pylist())
    return (folder / "a.csv").stat().st_size / 1e6


def _schema(path: str) -> pa.Schema:
    with Path(path).open("rb") as file:
        return merged([format_for({}, path).schema(file, path)])


def _pyarrow(path: str, types: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    convert = csv.ConvertOptions(column_types=types) if types is not None else None
    parse = csv.ParseOptions(newlines_in_values=True)
    yield from csv.open_csv(path, csv.ReadOptions(use_threads=False), parse, convert)


def _ours(path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with Path(path).open("rb") as file:
        yield from format_for({}, path).read(file, path, schema)


def _timed(batches: Callable[[], Iterator[pa.RecordBatch]]) -> dict[str, Any]:
    seconds, cpu = time.perf_counter(), time.process_time()
    rows = sum(batch.num_rows for batch in batches())
    return {"rows": rows, "seconds": time.perf_counter() - seconds, "cpu": time.process_time() - cpu}


def pyarrow_csv(path: str) -> dict[str, Any]:
    return _timed(lambda: _pyarrow(path, None))


def pyarrow_given(path: str) -> dict[str, Any]:
    schema = _schema(path)
    return _timed(lambda: _pyarrow(path, schema))


def ours(path: str) -> dict[str, Any]:
    schema = _schema(path)
    return _timed(lambda: _ours(path, schema))


def ours_as_text(path: str) -> dict[str, Any]:
    schema = pa.schema([(name, pa.string()) for name in _schema(path).names])
    return _timed(lambda: _ours(path, schema))


def main() -> None:
    """Print a table."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        megabytes = write(Path(folder), ROWS)
        for name, (function, ending) in READERS.items():
            found = common.in_own_process(HERE, function, f"{folder}/a.{ending}")
            assert found["rows"] == ROWS
            speeds = [f"{megabytes / found[clock]:.0f}" for clock in ("seconds", "cpu")]
            lines.append((name, *speeds, f"{ROWS / found['seconds']:,.0f}", found["peak_mb"]))
    note = f"Megabytes are those of the CSV: {megabytes:.0f} in all. {common.versions('pyarrow', 'msgspec')}"
    header = ("reader", "MB/s", "MB/s of CPU", "rows/s", "peak MB")
    common.table(f"Files to Arrow: {ROWS:,} rows of 12 columns, in one thread", header, lines, note)
