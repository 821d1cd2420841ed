"""Thirty pipelines that read and write one MySQL which allows twenty connections: how long, and whether a scan fails."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import anyio

import retl
from benchmarks import common
from retl.connectors import MySQL
from tests.servers import mysql

ALLOWED, PIPELINES, TABLES = 20, 30, 10
MOST_SECONDS = 600.0


def run(url: str, pipelines: int, tables: int) -> dict[str, Any]:
    """Seconds until each of ``pipelines`` has scanned ``tables`` small tables of the server into others of it."""
    heard: Counter[str] = Counter()

    async def scan() -> float:
        began = time.monotonic()
        with anyio.move_on_after(MOST_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(pipelines):
                    pipeline = retl.Pipeline(
                        f"p{number}",
                        source=MySQL(url),
                        target=MySQL(url),
                        tables=[retl.Table(f"t{table}", to=f"p{number}_t{table}") for table in range(tables)],
                    )
                    pipeline.subscribe(lambda event: heard.update([type(event).__name__]))
                    tasks.start_soon(pipeline.run_once)
        return time.monotonic() - began

    took = anyio.run(scan)
    return {"s": took, "done": heard["ScanFinished"], "failed": heard["ScanFailed"], "again": heard["RetryScheduled"]}


def main() -> None:
    with mysql.started(f"--max-connections={ALLOWED}") as server, server.fresh_database() as database:
        for number in range(TABLES):
            server.query(f"CREATE TABLE t{number} (id INT PRIMARY KEY, name VARCHAR(9))", database=database)
            server.query(f"INSERT INTO t{number} VALUES (1, 'a'), (2, 'b'), (3, 'c')", database=database)
        server.query("FLUSH STATUS")
        done = common.in_own_process("benchmarks.small_server", "run", server.url(database), PIPELINES, TABLES)
        ((_, most),) = server.query("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    verdict = "met" if done["done"] == PIPELINES * TABLES and not done["failed"] else "MISSED"
    common.table(
        f"{PIPELINES} pipelines of {TABLES} tables, and a server that allows {ALLOWED} connections",
        ("tables done", "failed", "tried again", "connections, most", "s", ""),
        [(done["done"], done["failed"], done["again"], most, f"{done['s']:.1f}", verdict)],
    )


if __name__ == "__main__":
    main()
