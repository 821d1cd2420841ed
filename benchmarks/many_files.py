"""Many files: a hundred thousand small ones into PostgreSQL, a tick over a tree that has not changed, a large manifest.

``RETL_BENCH_FILES`` is the number of small files, ``RETL_BENCH_ENTRIES`` that of a large manifest. One transaction a
file is measured with a fiftieth of the files.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks import common
from tests.servers import postgres
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import log_statements, sent

FILES = int(os.environ.get("RETL_BENCH_FILES", "100000"))
ENTRIES = int(os.environ.get("RETL_BENCH_ENTRIES", "1000000"))
_ROWS = 200
_LINE = "{0},some words of no meaning to fill a line with {0}\n"
_RUNS = "benchmarks.many_files_runs"


def main() -> None:
    with postgres.any_server() as target:
        _loading(target)
        _unchanged(target)
    _manifest()


def _loading(target: PostgresServer) -> None:
    rows = []
    for title, number, group in (("retl", FILES, 1_000), ("one transaction a file", max(FILES // 50, 1), 1)):
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), number)
            target.query("DROP TABLE IF EXISTS sales")
            target.query("DROP TABLE IF EXISTS retl_manifest, retl_checkpoints")
            found = common.in_own_process(_RUNS, "load", folder, target.url(), group)
        speed = number / found["seconds"]
        rows.append((title, f"{number:,}", found["slices"], round(speed), found["peak_mb"], found["stall_ms"]))
    header = ("by", "files", "transactions", "files/s", "peak MB", "longest stall ms")
    common.table("Files of 10 KB into PostgreSQL", header, rows)


def _write(folder: Path, number: int) -> None:
    text = "id,note\n" + "".join(_LINE.format(row) for row in range(_ROWS))
    for file in range(number):
        (folder / f"{file:07}.csv").write_text(text)


def _unchanged(target: PostgresServer) -> None:
    target.query("DROP TABLE IF EXISTS sales")
    target.query("DROP TABLE IF EXISTS retl_manifest, retl_checkpoints")
    log_statements(target, target.user)
    with sent(target) as found:
        run = common.in_own_process(_RUNS, "ticks", FILES, target.url())
    marks = [number for number, statement in enumerate(found.statements) if statement.startswith("SELECT 'tick")]
    told = [one for one in found.statements[marks[0] : marks[1]] if not one.startswith(("BEGIN", "COMMIT", "SET"))]
    row = (f"{FILES:,}", round(run["tick_seconds"], 2), len(told) - 1, run["peak_mb"], run["stall_ms"])
    header = ("objects", "seconds", "statements", "peak MB", "longest stall ms")
    common.table("A tick over objects that have not changed", header, [row])


def _manifest() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "state.db")
        filled = common.in_own_process(_RUNS, "fill", path, ENTRIES)
        found = common.in_own_process(_RUNS, "compare", path, ENTRIES, filled["checkpoint"])
    row = (f"{ENTRIES:,}", round(found["seconds"], 1), found["changed"], found["peak_mb"], found["stall_ms"])
    header = ("entries", "seconds", "changed", "peak MB", "longest stall ms")
    common.table("A listing compared with a manifest", header, [row])
