"""What a host pays for asking: snapshots of a thousand pipelines, for probes and metrics."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import anyio
import pyarrow as pa

import retl
from benchmarks import common
from benchmarks.engine import DroppingTarget, ReadySource

GOAL_MS = 10.0


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


if __name__ == "__main__":
    main()
