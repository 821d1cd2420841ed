"""One tick of 100 tables of which 3 have new rows, MySQL to MySQL over a line of 30 ms each way: seconds and statements.

``python -m benchmarks.round_trips [FOLDER]`` does the same work with the retl of another checkout and tells the ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio

import retl
from benchmarks import common
from retl import events
from retl.connectors import MySQL
from tests.servers import mysql
from tests.servers.database import Server
from tests.servers.proxy import in_thread
from tests.servers.statements import counted

TABLES = int(os.environ.get("RETL_BENCH_TABLES", "100"))
CHANGED = 3
ROWS = 1000
LATENCY = 0.03
GOAL = 5.0
HERE = Path(__file__).resolve().parent.parent
NUMBERS = "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n) AS n"


def work(source: str, target: str, tables: int) -> None:
    """Load all tables; then, when a line comes, time one more tick. Runs with the retl that is to be measured."""
    job: dict[str, Any] = {
        "source": MySQL(source, tls="off"),
        "target": MySQL(target, tls="off"),
        "tables": [retl.Table(f"t{number}", cursor="at") for number in range(tables)],
        "interval": "manual",
    }
    try:
        pipeline = retl.Pipeline("many", **job, parallel_tables=4)
    except TypeError:  # an older one takes one table at a time
        pipeline = retl.Pipeline("many", **job)
    anyio.run(_ticks, pipeline, tables)


async def _ticks(pipeline: retl.Pipeline, tables: int) -> None:
    done = 0
    ended = anyio.Event()
    failed: list[str] = []

    def hear(event: events.Event) -> None:
        nonlocal done
        if isinstance(event, (events.ScanFailed, events.RunFailed)):
            failed.append(repr(event))
        done += isinstance(event, (events.ScanFinished, events.ScanFailed))
        if done == tables:
            ended.set()

    async def tick() -> float:
        nonlocal done, ended
        done, ended = 0, anyio.Event()
        began = time.perf_counter()
        pipeline.trigger()
        await ended.wait()
        assert not failed, failed[0]
        return time.perf_counter() - began

    pipeline.subscribe(hear)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run_forever)
        await tick()
        print("loaded", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        print(json.dumps(await tick()), flush=True)
        pipeline.stop()


def measured(folder: Path, server: Server) -> dict[str, Any]:
    """The same tick by the retl of one checkout."""
    with server.fresh_database() as source, server.fresh_database() as target:
        _fill(server, source)
        with in_thread(server.host, server.port, latency=0.0) as (proxy, _):
            far = server.at(proxy.host, proxy.port)
            code = f"from benchmarks.round_trips import work; work({far.url(source)!r}, {far.url(target)!r}, {TABLES})"
            environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{HERE}"}
            # Its package of benchmarks is the one of this checkout.
            code = f"import sys; import retl; sys.path.insert(0, {str(HERE)!r}); {code}"
            with subprocess.Popen(
                [sys.executable, "-c", code], cwd=folder, env=environment, stdin=-1, stdout=-1, text=True
            ) as worker:
                assert worker.stdin
                assert worker.stdout
                assert worker.stdout.readline() == "loaded\n"
                _change(server, source)
                proxy.latency = LATENCY
                with counted(server) as sent:
                    worker.stdin.write("\n")
                    worker.stdin.flush()
                    seconds = json.loads(worker.stdout.readline())
                proxy.latency = 0.0
                worker.wait(60)
        for number in range(TABLES):
            rows = [server.query(f"SELECT * FROM t{number} ORDER BY id", database=name) for name in (source, target)]
            assert rows[0] == rows[1], f"t{number} differs"
    return {"seconds": seconds, "statements": len(sent) / TABLES, "logins": sent.logins}


def _fill(server: Server, database: str) -> None:
    for number in range(TABLES):
        server.query(
            f"CREATE TABLE t{number} (id INT PRIMARY KEY, v VARCHAR(20), at DATETIME(6), KEY (at))", database=database
        )
        rows = f"SELECT i, 'a row', '2024-01-01' + INTERVAL i SECOND FROM {NUMBERS.format(ROWS)}"
        server.query(f"INSERT INTO t{number} {rows}", database=database)


def _change(server: Server, database: str) -> None:
    for number in range(CHANGED):
        server.query(f"INSERT INTO t{number} VALUES (100000, 'new', '2024-02-01')", database=database)


def main(folder: Path | None = None) -> None:
    with mysql.started() as server:
        found = {"this commit": measured(HERE, server)}
        if folder:
            found[str(folder)] = measured(folder.resolve(), server)
    ratio = [one["seconds"] / found["this commit"]["seconds"] for one in found.values()]
    common.table(
        f"One tick of {TABLES} tables of which {CHANGED} have new rows, MySQL to MySQL, {1000 * LATENCY:.0f} ms each way",
        ("by", "seconds", "statements a table", "logins", "times", f"goal {GOAL:.0f}"),
        [
            (
                name,
                f"{one['seconds']:.1f}",
                f"{one['statements']:.1f}",
                one["logins"],
                f"{times:.1f}",
                common.verdict(times, GOAL, at_least=True) if name != "this commit" else "",
            )
            for (name, one), times in zip(found.items(), ratio, strict=True)
        ],
        common.versions("aiomysql", "PyMySQL"),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
