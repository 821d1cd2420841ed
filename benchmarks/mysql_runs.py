"""What runs in a process of its own in the benchmarks of MySQL: it imports no more than a user of retl would."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any
from urllib.parse import urlsplit

import anyio

import retl
from benchmarks import common
from retl.connectors import MySQL

ROWS = int(os.environ.get("RETL_BENCH_ROWS", "2000000"))
DATABASE = "bench"
SOURCE = "orders"
COLUMNS = (
    "id",
    "customer",
    "city",
    "note",
    "amount",
    "ratio",
    "day",
    "created",
    "active",
    "details",
    "updated_at",
    "code",
)


def by_retl(source: str, target: str, table: str, mode: str) -> dict[str, Any]:
    """A full load by swap, or a scan of a window; with the longest stall of the event loop."""
    words: dict[str, Any] = {"pre_action": "swap"} if mode == "swap" else {"cursor": "updated_at"}
    pipeline = retl.Pipeline(
        f"bench_{table}", source=MySQL(source), target=MySQL(target), tables=[retl.Table(SOURCE, to=table, **words)]
    )
    watch = common.StallWatch()

    async def run() -> float:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.watch, anyio.sleep)
            began = time.perf_counter()
            await pipeline.run_once()
            seconds = time.perf_counter() - began
            tasks.cancel_scope.cancel()
        await pipeline.aclose()
        return seconds

    return {"seconds": anyio.run(run), "stall_ms": round(1000 * watch.longest)}


def idle_scan(source: str, target: str, table: str) -> dict[str, Any]:
    """How long a scan takes that finds nothing new, and how much of that the process does not wait for an answer; the best of ten."""
    pipeline = retl.Pipeline(
        f"bench_{table}",
        source=MySQL(source),
        target=MySQL(target),
        tables=[retl.Table(SOURCE, to=table, cursor="updated_at")],
    )

    async def run() -> dict[str, Any]:
        waits = _Waits(asyncio.get_running_loop()._selector)  # type: ignore[attr-defined]
        found = []
        for _ in range(10):
            waits.seconds = 0.0
            began = time.perf_counter()
            await pipeline.run_once()
            seconds = time.perf_counter() - began
            found.append((seconds, seconds - waits.seconds))
        await pipeline.aclose()
        return {"seconds": min(seconds for seconds, _ in found), "own": min(own for _, own in found)}

    return anyio.run(run)


class _Waits:
    """For how long a loop had nothing to do."""

    def __init__(self, selector: Any) -> None:
        self.seconds = 0.0
        self._select = selector.select
        selector.select = self.select

    def select(self, timeout: float | None = None) -> Any:
        began = time.perf_counter()
        try:
            return self._select(timeout)
        finally:
            self.seconds += time.perf_counter() - began


def reading(source: str) -> dict[str, Any]:
    """The whole table to Arrow in text form, and nothing else."""

    from retl.connectors.mysql.connection import MySQLConnection

    async def run() -> float:
        connection = await MySQLConnection.open(MySQL(source).login("source", ()))
        began, rows = time.perf_counter(), 0
        async for batch in connection.stream(f"SELECT * FROM {SOURCE}"):
            rows += batch.num_rows
        seconds = time.perf_counter() - began
        await connection.close()
        assert rows == ROWS, rows
        return seconds

    return {"seconds": anyio.run(run)}


def by_executemany(source: str, target: str, table: str) -> dict[str, Any]:
    """aiomysql as its documentation shows it."""
    import aiomysql

    async def run() -> float:
        began = time.perf_counter()
        one, other = await _plain(source), await _plain(target)
        reader, writer = await one.cursor(aiomysql.SSCursor), await other.cursor()
        await reader.execute(f"SELECT {', '.join(COLUMNS)} FROM {SOURCE}")
        sql = f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
        while rows := await reader.fetchmany(5000):
            await writer.executemany(sql, rows)
            await other.commit()
        seconds = time.perf_counter() - began
        one.close()
        other.close()
        return seconds

    return {"seconds": anyio.run(run)}


async def _plain(url: str) -> Any:
    import aiomysql

    at = urlsplit(url)
    return await aiomysql.connect(
        host=at.hostname, port=at.port, user=at.username, password=at.password, db=DATABASE, charset="utf8mb4"
    )
