"""Elasticsearch to the same Elasticsearch, beside everything that a user could take instead: speed, memory, stalls.

The server is the tests' own. A peer that is not on PATH is left out, and said so. ``RETL_BENCH_ROWS`` and
``RETL_BENCH_ONLY`` (words of the contenders' names) make it shorter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.elasticsearch_data import content, create, fill
from benchmarks.elasticsearch_runs import ROWS, SOURCE
from tests.servers import elasticsearch, java
from tests.servers.search import Refused, SearchServer

COPY = "bench-copy"
HEAP = "2g"

# What retl is held to: so many times the speed of another one.
GOALS = {"elasticdump": 5.0, "the client's async_reindex": 2.0, "ingestr": 2.0, "the server's own _reindex": 1.0}


class Peers:
    """The programs and requests that do the same."""

    def __init__(self, server: SearchServer) -> None:
        self.server = server

    def elasticdump(self) -> dict[str, Any]:
        here, there = f"{self.server.url}/{SOURCE}", f"{self.server.url}/{COPY}"
        return self._run("elasticdump", f"--input={here}", f"--output={there}", "--limit=1000", "--noRefresh")

    def ingestr(self) -> dict[str, Any]:
        place = f"elasticsearch://{self.server.host}:{self.server.port}?secure=false"
        return self._run(
            "ingestr", "ingest", "--yes", "--progress", "log", "--source-uri", place, "--source-table", SOURCE,
            "--dest-uri", place, "--dest-table", COPY,
        )  # fmt: skip

    def reindex(self) -> dict[str, Any]:
        """In the server, by one slice."""
        body = {"source": {"index": SOURCE}, "dest": {"index": COPY}}
        began = time.perf_counter()
        task = self.server.ask("POST", "/_reindex?wait_for_completion=false", body)["task"]
        while not (state := self.server.ask("GET", f"/_tasks/{task}"))["completed"]:
            time.sleep(0.05)
        assert not state["response"]["failures"], state["response"]["failures"][:3]
        return {"seconds": time.perf_counter() - began}

    def _run(self, name: str, *words: str) -> dict[str, Any]:
        """A program to its end, with the most memory that it had."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        program = shutil.which(name, path=path)
        if program is None:
            raise FileNotFoundError(f"{name} is not on PATH")
        began = time.perf_counter()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [program, *words],
                stdout=said,
                stderr=said,
                env={**os.environ, "PATH": path, "INGESTR_DISABLE_TELEMETRY": "true"},
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
            if process.returncode:
                said.seek(0)
                raise FileNotFoundError(f"{name}: {said.read().decode(errors='replace')[-300:]}")
        return {"seconds": seconds, "peak_mb": round(usage.ru_maxrss / 1024)}


def measure(server: SearchServer, run: Callable[[], dict[str, Any]], want: tuple[int, int, int]) -> list[Any]:
    """One contender: thousand documents/s, seconds, peak of memory, longest stall, and whether the content is right."""
    create(server, COPY)
    try:
        told = run()
    except (FileNotFoundError, RuntimeError) as error:
        return [f"not measured: {' '.join(str(error).split())}"[-120:], "", "", "", ""]
    seconds = told["seconds"]
    try:
        found = content(server, COPY)
    except Refused as error:
        found = (0, 0, error.status)
    right = "yes, to the byte" if found == want else "yes" if found[:2] == want[:2] else f"NO: {found[0]:,} documents"
    return [
        round(ROWS / seconds / 1000, 1),
        round(seconds, 2),
        told.get("peak_mb", ""),
        told.get("stall_ms", ""),
        right,
    ]


def main() -> None:
    # ingestr talks to the 9 alone.
    with elasticsearch.started(9 if java.newest(21) else 8, heap=HEAP, quick=False) as server:
        fill(server, SOURCE, ROWS)
        want = content(server, SOURCE)
        peers = Peers(server)
        # Thrown away: by then the server has compiled what it runs often.
        measure(server, peers.reindex, want)

        def own(function: str, *words: Any) -> Callable[[], dict[str, Any]]:
            return lambda: common.in_own_process("benchmarks.elasticsearch_runs", function, server.url, COPY, *words)

        contenders: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("retl, swap", own("by_retl", "swap")),
            ("the server's own _reindex", peers.reindex),
            ("retl, swap, again", own("by_retl", "swap")),
            ("the server's own _reindex, again", peers.reindex),
            ("retl, incremental first load", own("by_retl", "incremental")),
            ("ingestr", peers.ingestr),
            ("the client's async_reindex", own("by_async_reindex")),
            ("elasticdump", peers.elasticdump),
        ]
        only = [word for word in os.environ.get("RETL_BENCH_ONLY", "").split(",") if word]
        rows = []
        for name, run in contenders:
            if not only or any(word in name for word in only):
                rows.append([name, *measure(server, run, want)])
                print(*rows[-1], sep="; ", file=sys.stderr)
        size = server.ask("GET", f"/{SOURCE}/_stats/store")["_all"]["primaries"]["store"]["size_in_bytes"]
    common.table(
        f"Full load of {ROWS:,} documents, Elasticsearch to the same Elasticsearch",
        ("by", "thousand documents/s", "seconds", "peak MB", "longest stall ms", "same content"),
        rows,
        note=f"{common.versions('pyarrow', 'elasticsearch')}, Elasticsearch {server.version}, heap {HEAP}, "
        f"{size / ROWS:,.0f} bytes a document on disk",
    )
    _judge({row[0]: row[1] for row in rows})


def _judge(speeds: dict[str, Any]) -> None:
    """How many times faster than each peer retl is."""
    speed = speeds.get("retl, swap")
    measured = [(name, goal, speeds.get(name)) for name, goal in GOALS.items()]
    if isinstance(speed, float):
        common.table(
            "retl, swap, beside",
            ("what", "times as fast", "goal", ""),
            [
                [name, round(speed / other, 1), f">= {goal:g}", common.verdict(speed / other, goal, at_least=True)]
                for name, goal, other in measured
                if isinstance(other, float)
            ],
        )
