"""What a host pays: for snapshots of a thousand pipelines, for a load beside its own answers, and for an owner that dies."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pyarrow as pa

import retl
from benchmarks import common
from benchmarks.duckdb_to_sqlite import MEMORY_LIMIT
from benchmarks.engine import DroppingTarget, ReadySource
from retl.connectors import DuckDB, SQLite

GOAL_MS = 10.0
PING_GOAL_MS = 15.0
TAKEOVER_GOAL_SECONDS = 2.0
ROWS = int(os.environ.get("RETL_BENCH_ROWS", "1000000"))
OWNERS = 10


def snapshots(count: int, tables: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of processor time for a snapshot of each of ``count`` pipelines that have scanned ``tables`` tables once."""
    batch = pa.record_batch({"id": pa.array([1, 2, 3])})
    store = retl.MemoryStore()
    pipelines = [
        retl.Pipeline(
            f"p{number}",
            source=ReadySource(batch, 1),
            target=DroppingTarget(100),
            tables=[retl.Table(f"t{table}") for table in range(tables)],
            state=store,
        )
        for number in range(count)
    ]

    async def scan() -> None:
        for pipeline in pipelines:
            await pipeline.run_once()

    anyio.run(scan)
    return {
        "snapshot_ms": _median(lambda: [pipeline.snapshot() for pipeline in pipelines], rounds),
        "dict_ms": _median(lambda: [pipeline.snapshot().to_dict() for pipeline in pipelines], rounds),
    }


def _median(call: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        took.append(1000 * (time.process_time() - began))
    return statistics.median(took)


def pings(warehouse: str, target: str, load: bool) -> dict[str, Any]:
    """How long a request waits for its answer, every 5 ms, while the same process loads a table; or does nothing else."""
    import aiohttp
    from aiohttp import web

    took: list[float] = []

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="pong")

    async def ask(url: str) -> None:
        # In a thread with a loop of its own, so that only the host is waited for.
        async with aiohttp.ClientSession() as session:
            while not over.is_set():
                began = time.perf_counter()
                async with session.get(url) as got:
                    await got.read()
                took.append(1000 * (time.perf_counter() - began))
                await anyio.sleep(0.005)

    async def host() -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: anyio.run(ask, url))
            if load:
                source = DuckDB(warehouse, memory_limit=MEMORY_LIMIT, threads=1)
                table = retl.Table("orders", key="id", pre_action="swap")
                await retl.Pipeline("bench", source=source, target=SQLite(target), tables=[table]).run_once()
            else:
                await anyio.sleep(5)
            over.set()
        await runner.cleanup()

    over = threading.Event()
    anyio.run(host)
    took.sort()
    return {"pings": len(took), **{f"p{part}": took[len(took) * part // 100] for part in (50, 99)}, "longest": took[-1]}


OWNER = """
import sys, anyio, retl
from retl.connectors import IteratorSource, SQLite
sync = retl.Pipeline(
    "host",
    source=IteratorSource(lambda: [{"id": 1}], tables="orders", key="id"),
    target=SQLite(sys.argv[1]),
    tables=[retl.Table("orders")],
    interval="100ms",
)
sync.subscribe(lambda event: print(type(event).__name__, flush=True))
anyio.run(sync.run_forever)
"""


def takeover(target: str) -> dict[str, Any]:
    """Seconds from a kill -9 of the owner to the end of the first scan of its standby."""

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", OWNER, target], stdout=subprocess.PIPE, text=True)

    def wait(owner: subprocess.Popen[str], event: str) -> None:
        assert owner.stdout is not None
        while owner.stdout.readline().strip() != event:
            assert owner.poll() is None, "it ended"

    took = []
    owner = begin()
    wait(owner, "ScanFinished")
    for _ in range(OWNERS):
        standby = begin()
        wait(standby, "LeaseHeld")
        began = time.perf_counter()
        owner.send_signal(signal.SIGKILL)
        wait(standby, "ScanFinished")
        took.append(time.perf_counter() - began)
        owner.communicate()
        owner = standby
    owner.kill()
    owner.communicate()
    return {"median": statistics.median(took), "longest": max(took)}


def main() -> None:
    rows = []
    for tables in (1, 10):
        done = common.in_own_process("benchmarks.host", "snapshots", 1000, tables, 50)
        goal = GOAL_MS if tables == 1 else None
        rows.append(
            (
                tables,
                f"{done['snapshot_ms']:.1f}",
                "" if goal is None else f"{goal:.0f}",
                "" if goal is None else common.verdict(done["snapshot_ms"], goal, at_least=False),
                f"{done['dict_ms']:.1f}",
            )
        )
    common.table(
        "Snapshots of 1,000 pipelines",
        ("tables each", "snapshot() ms", "goal", "", "with to_dict() ms"),
        rows,
        common.versions("msgspec"),
    )
    with tempfile.TemporaryDirectory() as folder:
        beside(folder)
        died = common.in_own_process("benchmarks.host", "takeover", str(Path(folder) / "owned.db"))
    common.table(
        f"From kill -9 of an owner to the end of its standby's first scan, {OWNERS} times, the state in SQLite",
        ("median s", "longest s", "goal", ""),
        [
            (
                f"{died['median']:.2f}",
                f"{died['longest']:.2f}",
                f"{TAKEOVER_GOAL_SECONDS:.0f}",
                common.verdict(died["longest"], TAKEOVER_GOAL_SECONDS, at_least=False),
            )
        ],
    )


def beside(folder: str) -> None:
    """Show the answers of a host without a load, and beside one."""
    warehouse, target = str(Path(folder) / "w.duckdb"), str(Path(folder) / "app.db")
    common.in_own_process("benchmarks.duckdb_to_sqlite", "fill", warehouse, ROWS)
    rows = []
    for name, load in (("nothing", False), (f"a swap of {ROWS:,} rows, DuckDB to SQLite", True)):
        found = common.in_own_process("benchmarks.host", "pings", warehouse, target, load)
        met = common.verdict(found["p99"], PING_GOAL_MS, at_least=False)
        rows.append([name, found["pings"], *(f"{found[part]:.1f}" for part in ("p50", "p99", "longest")), met])
    common.table(
        "A ping of the host, in milliseconds, beside",
        ("what", "pings", "median", "99 of 100", "longest", f"goal <= {PING_GOAL_MS:.0f}"),
        rows,
        common.versions("aiohttp", "duckdb"),
    )


if __name__ == "__main__":
    main()
