"""retl inside somebody's service: its own functions on either side, its own event loop around."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import duckdb
import pytest

import retl
from retl import events
from retl.connectors import DuckDB, FunctionTarget, SQLite
from tests.integration.function.service import Api, expected, order, orders, rows_in

ROOT = Path(__file__).parents[3]

# What a user would write, and the crash that a test needs: the process is gone without a word.
_PROGRAM = """
import os, sys
from datetime import UTC, datetime, timedelta
import anyio, retl
from retl.connectors import DuckDB, FunctionTarget, IteratorSource, SQLite

role, folder, crash_after = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def read(window):
    start = datetime(2024, 5, 1, tzinfo=UTC)
    since = datetime.fromisoformat(window.lower) if window.lower else start
    for number in range(1, 5001):
        row = {"id": number, "name": f"order {number}", "amount": number * 1.5, "at": start + timedelta(seconds=number)}
        if row["at"] >= since:
            if number == crash_after:
                await anyio.sleep(0.5)  # what was sent so far is committed meanwhile
                os._exit(9)
            yield row

sent = 0

async def write(rows):
    global sent
    with open(f"{folder}/sent.txt", "a") as log:
        log.writelines(f"{row['id']}\\n" for row in rows)
    sent += len(rows)
    if sent >= crash_after > 0:
        os._exit(9)

if role == "source":
    pipeline = retl.Pipeline(
        "sync", source=IteratorSource(read, key="id", ordered=True), target=SQLite(f"{folder}/app.db"),
        tables=[retl.Table("orders", cursor="at", slice_rows=500)],
    )
else:
    pipeline = retl.Pipeline(
        "push", source=DuckDB(f"{folder}/warehouse.duckdb"), target=FunctionTarget(write, rows=True, batch_rows=100),
        tables=[retl.Table("orders", cursor="at", key="id", slice_rows=500)],
        state=retl.SqliteStore(f"{folder}/state.db"),
    )
print(anyio.run(pipeline.run_once).rows)
"""


def run_program(role: str, folder: Path, crash_after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM, role, str(folder), str(crash_after)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_generator_into_sqlite_carries_on_after_a_crash(tmp_path: Path) -> None:
    crashed = run_program("source", tmp_path, 4700)
    assert crashed.returncode == 9, crashed.stderr
    landed = len(rows_in(tmp_path / "app.db"))
    assert 500 <= landed < 4700
    done = run_program("source", tmp_path, 0)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 5000 - landed + 1  # what was committed is not read again
    assert rows_in(tmp_path / "app.db") == expected(orders(range(1, 5001)))


def test_a_warehouse_into_an_api_carries_on_after_a_crash(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute(
            "CREATE TABLE orders AS SELECT i AS id, TIMESTAMP '2024-05-01' + i * INTERVAL 1 SECOND AS at FROM range(1, 5001) AS t(i)"
        )
    assert run_program("target", tmp_path, 2700).returncode == 9
    done = run_program("target", tmp_path, 0)
    assert done.returncode == 0, done.stderr
    sent = [int(line) for line in (tmp_path / "sent.txt").read_text().split()]
    assert set(sent) == set(range(1, 5001))  # at least once: every one,
    assert len(sent) - 5000 <= 700  # and again only those of the slice that was under way, and ties


async def serve_until(pipeline: retl.Pipeline, done: Callable[[], bool]) -> None:
    """The host's event loop: the pipeline is one task of many, and is stopped when the service stops."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run_forever)
        with anyio.fail_after(20):
            while not done():  # noqa: ASYNC110  # the service has work of its own meanwhile
                await anyio.sleep(0.02)
        pipeline.stop()


async def test_a_service_runs_a_pipeline_beside_its_own_work(tmp_path: Path) -> None:
    api, path = Api(orders(range(1, 101))), tmp_path / "app.db"

    def job() -> tuple[retl.Pipeline, list[events.ScanFinished]]:
        pipeline = retl.Pipeline(
            "sync",
            source=api.source(),
            target=SQLite(str(path)),
            tables=[retl.Table("orders", cursor="at")],
            interval="50ms",
        )
        finished: list[events.ScanFinished] = []
        pipeline.subscribe(lambda event: finished.append(event) if isinstance(event, events.ScanFinished) else None)
        return pipeline, finished

    pipeline, finished = job()
    await serve_until(pipeline, lambda: len(finished) >= 2)
    api.rows[7] = order(700, id=7)
    api.rows.update({number: order(number) for number in range(101, 151)})
    pipeline, finished = job()  # another start of the service, some time later
    await serve_until(pipeline, lambda: bool(finished))
    assert finished[0].report.rows == 52  # the new ones, the changed one and the tie
    assert rows_in(path) == expected(api.rows.values())


@pytest.mark.parametrize("finish_slice", [True, False])
async def test_a_service_stops_in_the_middle_of_a_delivery(tmp_path: Path, finish_slice: bool) -> None:
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("CREATE TABLE orders AS SELECT i AS id, i * 2 AS version FROM range(1, 3001) AS t(i)")
    got: list[int] = []

    async def write(rows: list[dict[str, int]]) -> None:
        await anyio.sleep(0.005)
        got.extend(row["id"] for row in rows)
        if len(got) >= 700:
            pipeline.stop(grace=None if finish_slice else 0)

    def job() -> retl.Pipeline:
        return retl.Pipeline(
            "push",
            source=DuckDB(str(tmp_path / "warehouse.duckdb")),
            target=FunctionTarget(write, rows=True, batch_rows=100),
            tables=[retl.Table("orders", cursor="version", key="id", slice_rows=500)],
            state=retl.SqliteStore(str(tmp_path / "state.db")),
        )

    pipeline = job()
    await pipeline.run_once()
    stopped_at = len(got)
    assert stopped_at < 3000
    await job().run_once()
    assert set(got) == set(range(1, 3001))
    assert len(got) - 3000 <= (1 if finish_slice else 501)
