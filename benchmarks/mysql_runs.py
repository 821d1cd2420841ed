"""What runs in a process of its own in the benchmarks of MySQL: it imports no more than a user of retl would."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
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
    """How long a scan takes that finds nothing new, and how long its bare round trips take; the best of twenty each.

    The bare ones: as many connections, and the same statements on them, by aiomysql alone.
    """
    from pymysql.err import MySQLError

    from retl.connectors.mysql.wire import TextWire

    pipeline = retl.Pipeline(
        f"bench_{table}",
        source=MySQL(source),
        target=MySQL(target),
        tables=[retl.Table(SOURCE, to=table, cursor="updated_at")],
    )
    said: dict[TextWire, list[str]] = {}
    execute = TextWire._execute_command

    async def noted(self: TextWire, command: int, sql: str | bytes) -> None:
        said.setdefault(self, []).append(sql if isinstance(sql, str) else sql.decode())
        await execute(self, command, sql)

    async def bare() -> None:
        for wire, statements in said.items():
            connection = await _plain(source if str(wire._port) in source else target)
            cursor = await connection.cursor()
            for sql in statements:
                # What is refused the second time, such as the same report again, is a round trip as well.
                if not sql.startswith("LOAD"):
                    with suppress(MySQLError):
                        await cursor.execute(sql)
            connection.close()

    async def best(run: Callable[[], Awaitable[object]]) -> float:
        found = []
        for _ in range(20):
            began = time.perf_counter()
            await run()
            found.append(time.perf_counter() - began)
        return min(found)

    async def run() -> dict[str, Any]:
        seconds = await best(pipeline.run_once)
        TextWire._execute_command = noted  # type: ignore[method-assign]
        await pipeline.run_once()
        TextWire._execute_command = execute  # type: ignore[method-assign]
        await pipeline.aclose()
        return {
            "seconds": seconds,
            "bare": await best(bare),
            "statements": sum(map(len, said.values())),
            "connections": len(said),
        }

    return anyio.run(run)


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
