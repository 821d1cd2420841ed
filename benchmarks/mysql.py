"""MariaDB to MySQL and to MariaDB, beside everything that a user could take instead: speed, memory, stalls.

The servers are the tests' own. A peer that is not installed in this environment is left out, and said so.
``RETL_BENCH_ROWS`` and ``RETL_BENCH_ONLY`` (words of the contenders' names) make it shorter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymysql

from benchmarks import common
from benchmarks.mysql_data import CHANGE, CREATE, FLAGS, content, fill
from benchmarks.mysql_runs import COLUMNS, DATABASE, ROWS, SOURCE
from tests.servers import mariadb, mysql
from tests.servers.database import Server
from tests.servers.debian import command, unpacked

# The client writes NULL as a word.
LOAD = "LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {table} CHARACTER SET utf8mb4 ({columns}) SET note = NULLIF(@note, 'NULL')"


class Peers:
    """The programs that do the same."""

    def __init__(self, source: Server, target: Server) -> None:
        self.source = source
        self.target = target
        # The newest client of MySQL has no login that MariaDB takes, so each server is asked by its own.
        self.clients = {
            "MySQL": unpacked("sid", "mysql-client-core", instead="RETL_TEST_MYSQL_URL"),
            "MariaDB": unpacked("bookworm", "mariadb-client", instead="RETL_TEST_MARIADB_URL"),
        }
        self.folder = Path(sys.executable).parent

    def _client(self, program: str, server: Server, *words: str) -> list[str]:
        login = [
            f"--host={server.host}",
            f"--port={server.port}",
            f"--user={server.user}",
            f"--password={server.password}",
        ]
        if server.product == "MariaDB":
            program = {"mysql": "mariadb", "mysqldump": "mariadb-dump"}[program]
        return [*command(self.clients[server.product], f"usr/bin/{program}"), "--no-defaults", *login, *words]

    def _pipe(self, first: list[str], second: list[str]) -> None:
        quiet = subprocess.DEVNULL
        with subprocess.Popen(first, stdout=subprocess.PIPE, stderr=quiet) as one:
            subprocess.run(second, stdin=one.stdout, stderr=quiet, stdout=quiet, check=True)
        assert one.returncode == 0, first[0]

    def c_client(self, table: str) -> None:
        """The C client's SELECT, piped into its LOAD DATA."""
        columns = ", ".join(COLUMNS)
        select = f"SELECT {columns} FROM {SOURCE}"
        load = LOAD.format(table=table, columns=columns.replace("note", "@note"))
        self._pipe(
            self._client(
                "mysql",
                self.source,
                "--default-character-set=utf8mb4",
                "--quick",
                "--batch",
                "--skip-column-names",
                DATABASE,
                "-e",
                select,
            ),
            self._client(
                "mysql", self.target, "--default-character-set=utf8mb4", "--local-infile=1", DATABASE, "-e", load
            ),
        )

    def c_client_read(self) -> None:
        select = self._client(
            "mysql", self.source, "--quick", "--batch", "--skip-column-names", DATABASE, "-e", f"SELECT * FROM {SOURCE}"
        )
        subprocess.run(select, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    def mysqldump(self, table: str) -> None:
        dump = self._client(
            "mysqldump",
            self.source,
            "--no-create-info",
            "--skip-lock-tables",
            "--no-tablespaces",
            DATABASE,
            SOURCE,
        )
        rename = ["sed", f"s/^INSERT INTO `{SOURCE}`/INSERT INTO `{table}`/;/^LOCK TABLES/d;/^UNLOCK/d;/ALTER TABLE/d"]
        with subprocess.Popen(dump, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as one:
            self._pipe_from(one, rename, self._client("mysql", self.target, DATABASE))

    def _pipe_from(self, one: subprocess.Popen[bytes], middle: list[str], last: list[str]) -> None:
        with subprocess.Popen(middle, stdin=one.stdout, stdout=subprocess.PIPE) as two:
            subprocess.run(last, stdin=two.stdout, stderr=subprocess.DEVNULL, check=True)

    def _program(self, name: str) -> str:
        packaged = Path(sysconfig.get_path("purelib")) / "sling_linux_amd64/bin/sling-linux-amd64"
        found = packaged if name == "sling" else self.folder / name
        if not found.exists():
            raise FileNotFoundError(name)
        found.chmod(0o755)
        return str(found)

    def ingestr(self, table: str) -> None:
        self._ingestr(table)

    def ingestr_merge(self, table: str) -> None:
        self._ingestr(
            table,
            "--incremental-strategy",
            "merge",
            "--incremental-key",
            "updated_at",
            "--primary-key",
            "id",
            "--interval-start",
            "2024-12-25",
        )

    def _ingestr(self, table: str, *words: str) -> None:
        self._run(
            [self._program("ingestr"), "ingest", "--yes", "--progress", "log", "--source-uri", self.source.url(DATABASE), "--source-table", f"{DATABASE}.{SOURCE}",
             "--dest-uri", self.target.url(DATABASE), "--dest-table", f"{DATABASE}.{table}", *words]
        )  # fmt: skip

    def sling(self, table: str) -> None:
        self._sling(table, "full-refresh")

    def sling_incremental(self, table: str) -> None:
        self._sling(table, "incremental", "--primary-key", "id", "--update-key", "updated_at")

    def _sling(self, table: str, mode: str, *words: str) -> None:
        self._run(
            [self._program("sling"), "run", "--src-conn", self.source.url(DATABASE), "--src-stream", f"{DATABASE}.{SOURCE}",
             "--tgt-conn", self.target.url(DATABASE), "--tgt-object", f"{DATABASE}.{table}", "--mode", mode, *words]
        )  # fmt: skip

    def duckdb(self, table: str) -> None:
        attach = "".join(
            f"c.execute(\"ATTACH 'host={at.host} port={at.port} user={at.user} password={at.password} database={DATABASE}' AS {name} (TYPE mysql)\")\n"
            for name, at in (("s", self.source), ("t", self.target))
        )
        script = (
            "import duckdb\nfrom duckdb_extensions import import_extension\nimport_extension('mysql')\n"
            f"c = duckdb.connect()\nc.execute('LOAD mysql')\n{attach}"
            f"c.execute('INSERT INTO t.{DATABASE}.{table} SELECT {', '.join(COLUMNS)} FROM s.{DATABASE}.{SOURCE}')\n"
        )
        self._run([sys.executable, "-c", script])

    def _run(self, arguments: list[str]) -> None:
        quiet = {**os.environ, "INGESTR_DISABLE_TELEMETRY": "true", "SLING_DISABLE_TELEMETRY": "true"}
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=quiet, timeout=900)
        if done.returncode:
            raise FileNotFoundError(f"{Path(arguments[0]).name}: {(done.stderr or done.stdout)[-300:]}")


def measure(target: Server, run: Callable[[str], dict[str, Any] | None], rows: int, want: Any, table: str) -> list[Any]:
    """One contender: thousand rows/s, seconds, peak of memory, longest stall, and whether the content is right."""
    began = time.perf_counter()
    try:
        told = run(table) or {}
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return [f"not measured: {error}"[:90], "", "", "", ""]
    seconds = told.get("seconds", time.perf_counter() - began)
    try:
        right = "yes" if content(target, table) == want else "NO"
    except pymysql.Error as error:
        right = f"NO: {error.args[1]}"
    return [round(rows / seconds / 1000), round(seconds, 2), told.get("peak_mb", ""), told.get("stall_ms", ""), right]


def full_load(source: Server, target: Server) -> None:
    """Every contender into the same empty table with key and index; ingestr and sling replace it by one without."""
    peers = Peers(source, target)
    want = content(source, SOURCE)
    here, there = source.url(DATABASE), target.url(DATABASE)

    def own(function: str, *words: Any) -> Callable[[str], dict[str, Any]]:
        return lambda table: common.in_own_process("benchmarks.mysql_runs", function, here, there, table, *words)

    contenders: list[tuple[str, Callable[[str], dict[str, Any] | None]]] = [
        ("retl, swap", own("by_retl", "swap")),
        ("C client piped", peers.c_client),
        ("retl, swap, again", own("by_retl", "swap")),
        ("C client piped, again", peers.c_client),
        ("retl, incremental first load", own("by_retl", "incremental")),
        ("ingestr", peers.ingestr),
        ("mysqldump piped", peers.mysqldump),
        ("sling", peers.sling),
        ("DuckDB's mysql extension", peers.duckdb),
        ("aiomysql, executemany", own("by_executemany")),
    ]
    only = [word for word in os.environ.get("RETL_BENCH_ONLY", "").split(",") if word]
    rows = []
    for name, run in contenders:
        if not only or any(word in name for word in only):
            target.query(f"DROP TABLE IF EXISTS {DATABASE}.copy")
            target.query(CREATE.format(table=f"{DATABASE}.copy"))
            rows.append([name, *measure(target, run, ROWS, want, "copy")])
    common.table(
        f"Full load of {ROWS:,} rows, MariaDB to {target.product}",
        ("by", "thousand rows/s", "seconds", "peak MB", "longest stall ms", "same content"),
        rows,
        note=f"{common.versions('pyarrow', 'aiomysql')}, {source.version}, {target.product} {target.version}, {' '.join(FLAGS)}",
    )


def changed_rows(source: Server, target: Server) -> None:
    """10 % of the rows change, and each contender brings them over; retl then finds nothing new."""
    peers = Peers(source, target)
    here, there = source.url(DATABASE), target.url(DATABASE)

    def own(function: str, table: str, *words: Any) -> dict[str, Any]:
        return common.in_own_process("benchmarks.mysql_runs", function, here, there, table, *words)

    contenders: list[tuple[str, Callable[[str], dict[str, Any] | None]]] = [
        ("retl", lambda table: own("by_retl", table, "incremental")),
        ("ingestr", peers.ingestr_merge),
        ("sling", peers.sling_incremental),
    ]
    for number, (name, _) in enumerate(contenders):
        target.query(f"DROP TABLE IF EXISTS {DATABASE}.kept_{number}")
        target.query(CREATE.format(table=f"{DATABASE}.kept_{number}"))
        if name == "retl":
            own("by_retl", f"kept_{number}", "incremental")
        else:
            peers.c_client(f"kept_{number}")
    source.query(CHANGE.format(table=f"{DATABASE}.{SOURCE}"))
    want = content(source, SOURCE)
    rows = [
        [name, *measure(target, run, ROWS // 10, want, f"kept_{number}")]
        for number, (name, run) in enumerate(contenders)
    ]
    common.table(
        f"10 % of {ROWS:,} rows have changed, MariaDB to {target.product}",
        ("by", "thousand rows/s", "seconds", "peak MB", "longest stall ms", "same content"),
        rows,
    )
    idle = own("idle_scan", "kept_0")
    common.table(
        "A scan that finds nothing new, the best of ten, in a process that stays",
        ("milliseconds", "its bare round trips", "statements", "connections"),
        [[*(round(1000 * idle[part], 1) for part in ("seconds", "bare")), idle["statements"], idle["connections"]]],
    )


def main() -> None:
    with ExitStack() as stack:
        source = stack.enter_context(mariadb.started(*FLAGS))
        fill(source, SOURCE, ROWS)
        Peers(source, source).c_client_read()  # so that neither of the two finds the server cold
        began = time.perf_counter()
        Peers(source, source).c_client_read()
        by_c = time.perf_counter() - began
        ours = common.in_own_process("benchmarks.mysql_runs", "reading", source.url(DATABASE))
        common.table(
            f"Reading {ROWS:,} rows of MariaDB",
            ("by", "thousand rows/s", "peak MB"),
            [
                ["retl, to Arrow in text form", round(ROWS / ours["seconds"] / 1000), ours["peak_mb"]],
                ["C client, to nowhere", round(ROWS / by_c / 1000), ""],
            ],
        )
        targets = [mysql.started(*FLAGS, "--innodb-redo-log-capacity=2G"), mariadb.started(*FLAGS)]
        for opening in targets[:1] if os.environ.get("RETL_BENCH_ONLY") else targets:
            with opening as target:
                target.query(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
                full_load(source, target)
        with mysql.started(*FLAGS, "--innodb-redo-log-capacity=2G") as target:
            target.query(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
            changed_rows(source, target)
