"""A thousand pipelines in one process: memory, and how late their ticks come."""

from __future__ import annotations

import statistics
import time
from typing import Any

import anyio
import psutil
import pyarrow as pa

import retl
from benchmarks import common
from benchmarks.engine import DroppingTarget, ReadySource
from retl import events

INTERVAL = 5.0


def idle(count: int, rounds: int) -> dict[str, Any]:
    """Start ``count`` pipelines with an interval of 5 s, spread over it; measure ``rounds`` ticks of each."""
    batch = pa.record_batch({"id": pa.array([1, 2, 3])})
    lateness: list[float] = []
    started: dict[str, float] = {}
    ticks: dict[str, int] = {}

    def hear(event: events.Event) -> None:
        now = time.monotonic()
        if isinstance(event, events.PipelineStarted):
            started[event.pipeline] = now
        elif isinstance(event, events.ScanStarted):
            tick = ticks[event.pipeline] = ticks.get(event.pipeline, -1) + 1
            if tick:
                lateness.append(now - started[event.pipeline] - tick * INTERVAL)

    async def run() -> int:
        store = retl.MemoryStore()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                pipeline = retl.Pipeline(
                    f"p{number}",
                    source=ReadySource(batch, 1),
                    target=DroppingTarget(100),
                    tables=[retl.Table("t")],
                    interval=INTERVAL,
                    state=store,
                )
                pipeline.subscribe(hear)
                tasks.start_soon(pipeline.run_forever)
                await anyio.sleep(INTERVAL / count)
            await anyio.sleep(rounds * INTERVAL)
            memory = psutil.Process().memory_info().rss
            tasks.cancel_scope.cancel()
        return memory

    memory = anyio.run(run)
    ordered = sorted(lateness)
    return {
        "rss_mb": round(memory / 2**20),
        "ticks": len(ordered),
        "median_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)],
        "max_ms": 1000 * ordered[-1],
    }


def main() -> None:
    done = common.in_own_process("benchmarks.idle", "idle", 1000, 4)
    common.table(
        "1,000 pipelines in one process, each with a tick every 5 s",
        ("memory MB", "goal", "", "ticks", "median late ms", "p99 late ms", "goal", "", "latest ms"),
        [
            (
                done["peak_mb"],
                150,
                common.verdict(done["peak_mb"], 150, at_least=False),
                done["ticks"],
                f"{done['median_ms']:.1f}",
                f"{done['p99_ms']:.1f}",
                50,
                common.verdict(done["p99_ms"], 50, at_least=False),
                f"{done['max_ms']:.1f}",
            )
        ],
        common.versions("anyio", "pyarrow"),
    )


if __name__ == "__main__":
    main()
