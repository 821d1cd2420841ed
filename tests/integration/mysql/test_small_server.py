"""A server with few connections, and a service with many pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import anyio
import pytest

import retl
from retl.connectors import MySQL
from tests import tiers
from tests.servers import mysql
from tests.servers.database import Server

ALLOWED, TABLES = 20, 10


@pytest.fixture(scope="module")
def small_server() -> Iterator[Server]:
    """Nobody else uses it, so what it counts is ours."""
    with mysql.started(f"--max-connections={ALLOWED}") as server:
        yield server


@pytest.mark.parametrize("words", [{}, {"max_connections": 4}], ids=["8", "4"])
async def test_many_pipelines_share_few_connections_and_no_scan_fails(
    small_server: Server, words: dict[str, int]
) -> None:
    """Each pipeline has connectors of its own, and reads and writes the same server, under one user."""
    pipelines = tiers.by_tier(5, 30, 30)
    rows = ((1, "a"), (2, "b"), (3, "c"))
    names = [f"t{number}" for number in range(TABLES)]
    with small_server.fresh_database() as database:
        for name in names:
            small_server.query(f"CREATE TABLE {name} (id INT PRIMARY KEY, v VARCHAR(5))", database=database)
            small_server.query(f"INSERT INTO {name} VALUES (1, 'a'), (2, 'b'), (3, 'c')", database=database)
        small_server.query("FLUSH STATUS")
        heard: Counter[str] = Counter()

        async def run(number: int) -> None:
            here = small_server.url(database)
            pipeline = retl.Pipeline(
                f"p{number}",
                source=MySQL(here, **words),  # type: ignore[arg-type]
                target=MySQL(here, **words),  # type: ignore[arg-type]
                tables=[retl.Table(name, to=f"p{number}_{name}") for name in names],
            )
            pipeline.subscribe(lambda event: heard.update([type(event).__name__]))
            await pipeline.run_once()

        with anyio.fail_after(600):
            async with anyio.create_task_group() as tasks:
                for number in range(pipelines):
                    tasks.start_soon(run, number)
        ((_, most),) = await small_server.run("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
        ((_, refused),) = await small_server.run("SHOW GLOBAL STATUS LIKE 'Connection_errors_max_connections'")
        for number in range(pipelines):
            for name in names:
                assert tuple(await small_server.run(f"SELECT * FROM p{number}_{name}", database=database)) == rows
    assert heard["ScanFinished"] == pipelines * TABLES
    assert not heard.keys() & {"ScanFailed", "RunFailed", "RetryScheduled", "LeaseGone"}
    # A server counts a connection for a moment after it was closed.
    assert int(most) <= ALLOWED and int(refused) == 0
