"""DuckDB to SQLite beside DuckDB's own extension and beside ``executemany``: speed, memory, stalls of the event loop."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import duckdb

import retl
from benchmarks import common
from retl.connectors import DuckDB, SQLite

MEMORY_LIMIT = "32MB"
COLUMNS = "id, customer, city, note, amount, ratio, day, created, active, details, updated_at, code"
CREATE = """
CREATE TABLE orders (id BIGINT PRIMARY KEY, customer INTEGER, city VARCHAR, note VARCHAR, amount DECIMAL(18,4), ratio DOUBLE,
day DATE, created TIMESTAMP, active BOOLEAN, details VARCHAR, updated_at TIMESTAMP, code VARCHAR)
"""
FILL = """
INSERT INTO orders SELECT i, (hash(i) % 100000)::INTEGER, ['Köln', '上海市浦东新区', 'Århus', 'San José', '東京 🗼'][1 + i % 5],
CASE WHEN i % 5 = 0 THEN NULL ELSE 'note ' || repeat('x', (i % 40)::INTEGER) END, (i % 1000000) * 1.0001, i / 7.0,
DATE '2020-01-01' + (i % 1000)::INTEGER, TIMESTAMP '2020-01-01' + INTERVAL (i) SECOND, i % 3 = 0, '{"n": ' || i || '}',
TIMESTAMP '2020-01-01' + INTERVAL (i) SECOND + INTERVAL (i % 1000000) MICROSECOND, hex(hash(i)::VARCHAR)[:16]
FROM range({rows}) t(i)
"""
SQLITE_TABLE = """
CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, customer INTEGER, city TEXT, note TEXT, amount TEXT, ratio REAL,
day DATE, created TIMESTAMP, active BOOLEAN, details TEXT, updated_at TIMESTAMP, code TEXT)
"""


def fill(path: str, rows: int) -> dict[str, Any]:
    """The warehouse that all contenders read."""
    with closing(duckdb.connect(path)) as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(CREATE.replace("PRIMARY KEY", "NOT NULL"))
        connection.execute(FILL.replace("{rows}", str(rows)))
    return {"bytes": Path(path).stat().st_size}


def by_retl(source: str, target: str, mode: str) -> dict[str, Any]:
    """A first load, incremental in slices or by swap; with the longest stall of the event loop."""
    common.remove(Path(target))
    words: dict[str, Any] = {"cursor": "updated_at"} if mode == "incremental" else {"pre_action": "swap"}
    pipeline = retl.Pipeline(
        "bench",
        source=DuckDB(source, memory_limit=MEMORY_LIMIT, threads=1),
        target=SQLite(target),
        tables=[retl.Table("orders", key="id")],
        slice_rows=25_000,
        channel_bytes=2 * 1024 * 1024,
        **words,
    )
    watch = common.StallWatch()

    async def run() -> float:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.watch, anyio.sleep)
            began = time.perf_counter()
            await pipeline.run_once()
            seconds = time.perf_counter() - began
            tasks.cancel_scope.cancel()
        return seconds

    seconds = anyio.run(run)
    return {"seconds": seconds, "stall_ms": 1000 * watch.longest, **_content(target)}


def by_extension(source: str, target: str, _: str) -> dict[str, Any]:
    """DuckDB's sqlite extension: one INSERT ... SELECT."""
    common.remove(Path(target))
    with closing(sqlite3.connect(target)) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute(SQLITE_TABLE)
    with closing(duckdb.connect()) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET threads = 1")
        try:
            connection.execute("LOAD sqlite_scanner")
        except duckdb.Error:
            from duckdb_extensions import import_extension  # type: ignore[import-not-found]

            import_extension("sqlite_scanner")
            connection.execute("LOAD sqlite_scanner")
        connection.execute(f"ATTACH '{source}' AS warehouse (READ_ONLY)")
        connection.execute(f"ATTACH '{target}' AS app (TYPE sqlite)")
        began = time.perf_counter()
        connection.execute(
            f"INSERT INTO app.orders SELECT {COLUMNS.replace('amount', 'amount::VARCHAR')} FROM warehouse.orders"
        )
        seconds = time.perf_counter() - began
    return {"seconds": seconds, **_content(target)}


def by_executemany(source: str, target: str, _: str) -> dict[str, Any]:
    """Plain Python: fetchmany, executemany, one transaction of 100,000 rows each."""
    common.remove(Path(target))
    with closing(sqlite3.connect(target)) as connection, closing(duckdb.connect(source, read_only=True)) as warehouse:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(SQLITE_TABLE)
        warehouse.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        warehouse.execute("SET threads = 1")
        began = time.perf_counter()
        texts = COLUMNS
        for name in ("amount", "day", "created", "updated_at"):
            texts = texts.replace(name, f"CAST({name} AS VARCHAR)") if name != "updated_at" else texts
        result = warehouse.execute(
            f"SELECT {texts} FROM (SELECT * REPLACE (CAST(updated_at AS VARCHAR) AS updated_at) FROM orders)"
        )
        while rows := result.fetchmany(100_000):
            connection.executemany(f"INSERT INTO orders VALUES ({', '.join('?' * 12)})", rows)
            connection.commit()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, **_content(target)}


def _content(target: str) -> dict[str, Any]:
    """Enough of the content to tell whether the right rows arrived."""
    with closing(sqlite3.connect(target)) as connection:
        found = connection.execute(
            "SELECT COUNT(*), SUM(id), SUM(customer), SUM(LENGTH(city)), COUNT(note), MAX(updated_at), SUM(CAST(amount AS REAL)) FROM orders"
        ).fetchone()
    return {"rows": found[0], "content": [*found[:5], str(found[5])[:26], round(found[6] / 1e6)]}


def main() -> None:
    sizes = (1_000_000, 10_000_000)
    contenders = [("retl, incremental", "by_retl", "incremental"), ("retl, swap", "by_retl", "swap")]
    contenders += [("executemany", "by_executemany", ""), ("DuckDB's sqlite extension", "by_extension", "")]
    figures: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            source = str(Path(folder) / f"w{rows}.duckdb")
            common.in_own_process("benchmarks.duckdb_to_sqlite", "fill", source, rows)
            figures.extend(_compare(folder, source, rows, contenders))
    common.table(
        f"DuckDB to SQLite, 12 columns, DuckDB's memory_limit {MEMORY_LIMIT}, 1 thread; SQLite with WAL, synchronous NORMAL; retl with slice_rows 25,000, channel_bytes 2 MiB; Arrow's system allocator",
        ("rows", "by", "thousand rows/s", "against executemany", "peak MB", "longest stall ms", "same content"),
        figures,
        common.versions("duckdb", "pyarrow")
        + ". Goals: peak under 250 MB and flat, stalls under 50 ms. retl also keeps checkpoint, lease and key; the others do not.",
    )


def _compare(folder: str, source: str, rows: int, contenders: list[tuple[str, str, str]]) -> list[tuple[Any, ...]]:
    done: dict[str, dict[str, Any]] = {}
    for name, function, mode in contenders:
        target = str(Path(folder) / "app.db")
        try:
            done[name] = common.in_own_process("benchmarks.duckdb_to_sqlite", function, source, target, mode)
        except RuntimeError as error:
            print(f"{name}: not run ({str(error).strip().splitlines()[-1]})")
        common.remove(Path(target))
    plain = done["executemany"]
    return [
        (
            f"{rows:,}",
            name,
            f"{rows / figure['seconds'] / 1000:.0f}",
            f"{plain['seconds'] / figure['seconds']:.2f}",
            figure["peak_mb"],
            f"{figure['stall_ms']:.0f}" if "stall_ms" in figure else "",
            "yes" if figure["content"] == plain["content"] else f"no: {figure['content']}",
        )
        for name, figure in done.items()
    ]


if __name__ == "__main__":
    main()
