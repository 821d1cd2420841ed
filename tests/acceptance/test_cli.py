"""The command line as people meet it: every command, every exit code, and never a traceback for a mistake of theirs."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import msgspec
import pytest
import structlog

from retl.cli import main
from retl.config import registry
from retl.connectors.base import Connector, Source, Target
from retl.connectors.sqlite import SQLite
from retl.model.errors import SourceError
from retl.model.report import ScanReport
from retl.model.secret import Secret, reveal
from retl.model.status import PipelineStatus

JOBS = """\
[pipelines.shop]
source = { type = "duckdb", path = "warehouse.duckdb" }
target = { type = "sqlite", path = "app.db" }
interval = "1s"

[[pipelines.shop.tables]]
name = "orders"
cursor = "updated_at"

[[pipelines.shop.tables]]
name = "report"
query = "SELECT customer, sum(total) AS total FROM orders GROUP BY customer"
key = "customer"
pre_action = "swap"
"""

DEPOT = """
[pipelines.depot]
source = { type = "duckdb", path = "elsewhere.duckdb" }
target = { type = "sqlite", path = "depot.db" }
tables = ["parts"]
"""

# A scan that takes long, in many slices.
LONG = """
[pipelines.long]
source = { type = "duckdb", path = "warehouse.duckdb" }
target = { type = "sqlite", path = "long.db" }
interval = "1s"
[[pipelines.long.tables]]
name = "numbers"
query = "SELECT i AS id, md5(i::VARCHAR) AS text FROM range(30000000) t(i)"
key = "id"
slice_rows = 10000
"""


class Outcome:
    """What a command returned and printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"

    def json(self) -> Any:
        return json.loads(self.out)


Retl = Callable[..., Outcome]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a warehouse and a job file; it is the current one."""
    monkeypatch.chdir(tmp_path)
    write_warehouse(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer VARCHAR, total DECIMAL(10, 2), updated_at TIMESTAMP)",
        "INSERT INTO orders SELECT i, 'c' || i % 3, i, TIMESTAMP '2024-01-01' + to_seconds(i) FROM range(1, 11) t(i)",
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR)",
    )
    Path("jobs.toml").write_text(JOBS)
    return tmp_path


def write_warehouse(*statements: str) -> None:
    with duckdb.connect("warehouse.duckdb") as warehouse:
        for statement in statements:
            warehouse.execute(statement)


def write_app(*statements: str) -> None:
    with closing(sqlite3.connect("app.db")) as app, app:
        for statement in statements:
            app.execute(statement)


def read_app(statement: str, path: str = "app.db") -> list[Any]:
    with closing(sqlite3.connect(path)) as app:
        return app.execute(statement).fetchall()


@pytest.fixture
def retl(capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in this process."""

    def run(*arguments: str) -> Outcome:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return run


@contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is gone afterwards."""
    command = [sys.executable, "-m", "retl", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(what: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def rows_in(path: str, table: str) -> int:
    try:
        return int(read_app(f"SELECT count(*) FROM {table}", path)[0][0])
    except sqlite3.Error:
        return 0


# run ----------------------------------------------------------------------------


def test_run_once_brings_every_row(shop: Path, retl: Retl) -> None:
    done = retl("run", "--once")
    assert done.code == 0, done
    assert read_app("SELECT count(*), sum(total) FROM orders") == [(10, 55)]
    assert read_app("SELECT count(*), sum(total) FROM report") == [(3, 55)]
    orders, report = done.out.splitlines()
    assert "shop.orders: 10 rows in" in orders and "(incremental), up to 2024-01-01 00:00:10" in orders
    assert "shop.report: 3 rows in" in report and "(full, swap)" in report


def test_the_next_run_reads_what_is_new(shop: Path, retl: Retl) -> None:
    retl("run", "--once")
    write_warehouse("INSERT INTO orders VALUES (11, 'c9', 100, TIMESTAMP '2024-02-01')")
    done = retl("run", "--once")
    assert "shop.orders: 2 rows, 1 changed in" in done.out  # the newest row of before ties with the watermark
    assert read_app("SELECT sum(total) FROM report") == [(155,)]


def test_a_pipeline_that_fails_stops_no_other(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(DEPOT + JOBS)
    done = retl("run", "--once")
    assert done.code == 1
    assert "depot.parts: FAILED there is no DuckDB file" in done.out
    assert read_app("SELECT count(*) FROM orders") == [(10,)]


def test_a_table_that_fails_stops_no_other(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(
        JOBS.replace('name = "orders"', 'name = "ordes"') + '[[pipelines.shop.tables]]\nmatch = "zz*"\n'
    )
    done = retl("run", "--once")
    assert done.code == 1
    assert "shop.ordes: FAILED the source has no table 'ordes'. What to do: did you mean 'orders'?" in done.out
    assert "shop: FAILED zz*: no table of the source matches 'zz*'. What to do: see `retl tables`" in done.out
    assert "shop.report: 3 rows" in done.out


def test_a_pipeline_whose_tables_cannot_be_found_at_all(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(JOBS[: JOBS.index("[[")] + 'tables = [{ match = "zz*" }]\n')
    done = retl("run", "--once")
    assert (done.code, done.out.count("FAILED")) == (2, 1)


def test_only_runs_the_named_pipelines(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(DEPOT + JOBS)
    assert retl("run", "--once", "--only", "shop").code == 0
    done = retl("run", "--once", "--only", "shp")
    assert done.code == 2
    assert "has no pipeline 'shp'; did you mean 'shop'? It has: depot, shop." in done.err


def test_run_once_of_some_tables(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(DEPOT + JOBS)
    done = retl("run", "--once", "--table", "report")
    assert (done.code, len(done.out.splitlines())) == (0, 1), done  # and nothing of the pipeline that has no such table
    assert "shop.report: 3 rows in" in done.out
    assert retl("run", "--once", "--table", "report", "--table", "orders").out.count("rows in") == 2
    done = retl("run", "--once", "--table", "ordes")
    assert done.code == 2
    assert "no pipeline has a table 'ordes'" in done.err and "shop has orders, report" in done.err
    assert "add --once" in retl("run", "--table", "report").err


def test_backfill(shop: Path, retl: Retl) -> None:
    retl("run", "--once")
    write_warehouse("UPDATE orders SET total = total + 1000")
    again = ("backfill", "shop", "orders", "--since", "2024-01-01 00:00:03", "--until", "2024-01-01 00:00:06")
    planned = retl(*again, "--plan").out
    assert "backfill by updated_at since 2024-01-01 00:00:03 until 2024-01-01 00:00:06, the watermark stays" in planned
    assert "3 rows in 1 slice" in planned and "2024-01-01 00:00:03 <= updated_at <= 2024-01-01 00:00:05" in planned
    assert read_app("SELECT count(*) FROM orders WHERE CAST(total AS REAL) > 1000") == [(0,)]
    done = retl(*again)
    assert done.code == 0, done
    told = "shop.orders: 3 rows in"
    assert told in done.out and "(backfill since 2024-01-01 00:00:03 until 2024-01-01 00:00:06)\n" in done.out
    assert read_app("SELECT count(*) FROM orders WHERE CAST(total AS REAL) > 1000") == [(3,)]
    newest = retl("history").out.splitlines()[1]
    assert "backfill since 2024-01-01 00:00:03" in newest and newest.endswith("2024-01-01 00:00:10")


def test_a_backfill_that_cannot_be_is_told_once(shop: Path, retl: Retl) -> None:
    for arguments, said in (
        (("report", "--since", "2024-01-01"), 'every scan replaces the whole table (pre_action = "swap")'),
        (("orders",), "neither since nor until is given"),
        (("orders", "--since", "soon"), "since is 'soon', not a value of the cursor"),
        (("ordes", "--since", "2024-01-01"), "the pipeline has no table 'ordes'"),
    ):
        done = retl("backfill", "shop", *arguments)
        assert done.code in (1, 2) and (done.out + done.err).count(said) == 1, done


def test_json_lines(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(DEPOT + JOBS)
    done = retl("run", "--once", "--log-format", "json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert {event["pipeline"] for event in events} == {"shop", "depot"}
    finished = {event["table"]: event for event in events if event["event"] == "scan finished"}
    assert (finished["orders"]["rows"], finished["orders"]["level"]) == (10, "info")
    (failed,) = [event for event in events if event["event"] == "scan failed"]
    assert (failed["level"], failed["error_type"], failed["table"]) == ("error", "ConfigError", "parts")
    assert "progress" not in events[0] and "type" not in events[0]


def test_run_goes_on_until_it_is_told_to_stop(shop: Path) -> None:
    with process("run") as running:
        wait_for(lambda: rows_in("app.db", "report") == 3)
        wait_for(lambda: warehouse_is_free("INSERT INTO orders VALUES (11, 'c9', 100, TIMESTAMP '2024-02-01')"))
        wait_for(lambda: rows_in("app.db", "orders") == 11)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=20)
    assert running.returncode == 0, err
    assert "stopping after the slice under way; once more abandons it" in out and err == ""
    assert "shop: every 1s" in out.splitlines()[0]


def warehouse_is_free(statement: str) -> bool:
    """Writes into the warehouse unless a scan reads it just now."""
    try:
        write_warehouse(statement)
    except duckdb.IOException:
        return False
    return True


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupted_run(shop: Path, signals: int) -> None:
    Path("jobs.toml").write_text(LONG.replace("10000\n", "100000\n") if signals == 1 else LONG)
    with process("run", "--once") as running:
        wait_for(lambda: rows_in("long.db", "numbers") > 0)
        running.send_signal(signal.SIGINT)
        if signals == 2:
            assert running.stdout is not None
            assert "stopping" in running.stdout.readline()
            running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "")
    if signals == 1:
        assert "long.numbers: stopped after" in out
    assert 0 < rows_in("long.db", "numbers") < 30_000_000


def test_one_owner(shop: Path, retl: Retl) -> None:
    with process("run") as running:
        wait_for(lambda: rows_in("app.db", "report") == 3)
        for command in (["run", "--once"], ["reset", "--yes"]):
            done = retl(*command)
            assert done.code == 3
            assert f"the pipeline is being run by process {running.pid}" in done.out + done.err
        assert f"run by process {running.pid}" in retl("status").out
        with process("run") as other:
            assert other.stdout is not None
            wait_for(lambda: "standing by" in other.stdout.readline())  # type: ignore[union-attr]
            running.send_signal(signal.SIGINT)
            running.wait(timeout=20)
            wait_for(lambda: f"run by process {other.pid}" in retl("status").out)


def test_a_pipeline_is_steered_from_another_process_and_stays_paused_after_a_restart(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(JOBS.replace('interval = "1s"', 'interval = "manual"\nlease_ttl = "900ms"'))
    done = retl("trigger")
    assert (done.code, done.out) == (1, "shop: not triggered: no process runs it; `retl run --once` scans it now\n")
    assert retl("stop").code == 0
    with process("run") as running:
        owner = f"process {running.pid} on "
        wait_for(lambda: f"run by {owner}" in retl("status").out)
        assert retl("trigger", "--table", "nope").code == 2
        done = retl("trigger", "--table", "report")
        assert done.code == 0 and done.out.startswith(f"shop: triggered report; {owner}"), done
        wait_for(lambda: rows_in("app.db", "report") == 3)
        assert rows_in("app.db", "orders") == 0
        done = retl("pause")
        assert done.code == 0 and done.out.startswith(f"shop: paused; {owner}"), done
        assert re.search(rf"run by {owner}\S+, paused since \d\d\d\d-", retl("status").out)
        (sent,) = retl("stop", "--json").json()
        assert (sent["pipeline"], sent["command"], sent["heard"]) == ("shop", "stop", True)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    assert f"shop.report: triggered by process {os.getpid()} on " in out and "shop: paused since " in out
    with process("run") as running:
        assert running.stdout is not None
        wait_for(lambda: f"by process {os.getpid()} on " in running.stdout.readline())  # type: ignore[union-attr]
        assert "paused" in retl("status").out
        assert "shop: resumed; " in retl("resume").out
    done = retl("pause")
    assert (done.code, done.out) == (0, "shop: paused; no process runs it now, and the next one will find it so\n")


def test_the_next_run_is_told_without_the_time_that_a_scan_took(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(LONG.replace("30000000", "300000").replace('"1s"', '"1h"'))
    with process("run") as running:
        assert running.stdout is not None
        wait_for(lambda: "long.numbers: 300,000 rows" in running.stdout.readline())  # type: ignore[union-attr]
        found = retl("status", "--json").json()[0]
        assert "next run in " in retl("status").out
    last = found["tables"][0]["last"]
    begun, following = (datetime.fromisoformat(text) for text in (last["started_at"], found["next_run"]))
    assert last["seconds"] > 0.2
    assert timedelta(hours=1) - timedelta(seconds=2) < following - begun <= timedelta(hours=1)


# On a terminal ------------------------------------------------------------------


def on_a_terminal(*arguments: str, typed: str = "", **environment: str) -> tuple[int, str]:
    """A command on a terminal of its own; its exit code, and everything that was on the screen."""
    master, slave = pty.openpty()
    seen = bytearray()

    def read() -> None:
        while True:
            try:
                seen.extend(os.read(master, 65536))
            except OSError:  # the other end is closed
                return

    with subprocess.Popen(
        [sys.executable, "-m", "retl", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"COLUMNS": "100"} | environment,
    ) as running:
        os.close(slave)
        reader = threading.Thread(target=read)
        reader.start()
        os.write(master, typed.encode())
        code = running.wait(timeout=30)
    reader.join()
    os.close(master)
    return code, seen.decode().replace("\r\n", "\n")


def test_progress_bars(shop: Path) -> None:
    Path("jobs.toml").write_text(DEPOT + JOBS + LONG.replace("30000000", "300000"))
    code, screen = on_a_terminal("run", "--once", TERM="xterm")
    assert code == 1
    assert "\x1b[" in screen and "long.numbers" in screen and " of 300,000 rows, " in screen
    assert "shop.orders: 10 rows in" in screen and "depot.parts: FAILED" in screen


def test_a_dumb_terminal_sees_plain_lines(shop: Path) -> None:
    code, screen = on_a_terminal("run", "--once", TERM="dumb")
    assert code == 0
    assert "\x1b" not in screen and len(screen.splitlines()) == 2


def test_without_rich_a_terminal_sees_plain_lines(shop: Path) -> None:
    Path("rich").mkdir()
    Path("rich/__init__.py").write_text("raise ImportError('not installed')\n")
    code, screen = on_a_terminal("run", "--once", TERM="xterm", PYTHONPATH=str(shop))
    assert (code, len(screen.splitlines())) == (0, 2)


def test_a_terminal_that_knows_no_clock(shop: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with process("status", env=environment) as running:
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    assert "(scheduled)  orders" in out


@pytest.mark.parametrize(
    ("answer", "said"), [("y\n", "1 checkpoint forgotten"), ("\n", "Nothing was reset."), ("\x04", "")]
)
def test_reset_asks_on_a_terminal(shop: Path, retl: Retl, answer: str, said: str) -> None:
    retl("run", "--once")
    code, screen = on_a_terminal("reset", "--table", "orders", typed=answer, TERM="dumb")
    assert said in screen and "The next scan will read everything of table 'orders' of shop." in screen
    assert "Traceback" not in screen
    assert code == (0 if answer.strip("\x04") else 130)


# check, tables, plan ------------------------------------------------------------


def test_check(shop: Path, retl: Retl) -> None:
    done = retl("check")
    assert done.code == 0, done
    assert [line.split()[:3] for line in done.out.splitlines()[1:]] == [
        ["ok", "shop", "source"],
        ["ok", "shop", "target"],
        ["ok", "shop", "orders"],
        ["ok", "shop", "report"],
    ]


def test_check_finds_what_is_wrong(shop: Path, retl: Retl) -> None:
    tables = """tables = [
        { name = "missing" }, { match = "zz*" }, { name = "orders", cursor = "nope" },
        { query = "SELECT 1 AS a", name = "no_key" },
    ]\n"""
    Path("jobs.toml").write_text(DEPOT + JOBS[: JOBS.index("[[")] + " ".join(tables.split()) + "\n")
    done = retl("check", "--json")
    assert done.code == 1
    found = {(item["pipeline"], item["subject"]): item for item in done.json() if item["level"] == "error"}
    assert "there is no DuckDB file" in found["depot", "source"]["message"]
    assert "shop / missing" in found["shop", "missing"]["message"]
    assert "no table of the source matches 'zz*'" in found["shop", "zz*"]["message"]
    assert ("shop", "orders") in found
    assert "key" in found["shop", "no_key"]["message"]
    assert all("What to do: " in item["message"] for item in found.values())


def test_check_finds_two_pipelines_that_would_write_one_table(shop: Path, retl: Retl) -> None:
    second = JOBS.replace("[pipelines.shop", "[pipelines.copy").replace("[[pipelines.shop", "[[pipelines.copy")
    Path("jobs.toml").write_text(JOBS + second[second.index("[pipelines.copy") :])
    done = retl("check", "--json")
    clashes = [
        (item["pipeline"], item["subject"]) for item in done.json() if "written by the pipeline" in item["message"]
    ]
    assert done.code == 1 and clashes == [("shop", "report"), ("copy", "report")]  # both only upsert the orders
    retl("run", "--once")
    assert [report["status"] for report in retl("history", "--json", "--table", "report").json()].count("done") == 1


def test_tables(shop: Path, retl: Retl) -> None:
    assert retl("tables").out == "shop: 2 tables in the source\n  customers\n  orders\n"
    assert retl("tables", "--json").json() == [{"pipeline": "shop", "tables": ["customers", "orders"]}]


def test_plan_shows_and_writes_nothing(shop: Path, retl: Retl) -> None:
    done = retl("plan")
    assert done.code == 0, done
    for part in (
        "orders -> orders: incremental by updated_at",
        "reads   10 rows in 1 slice",
        "window  updated_at <= 2024-01-01 00:00:10",
        'FROM "orders"',
        'CREATE TABLE "orders"',
        "cast    customer: VARCHAR -> TEXT",
        "report -> report: full scan, pre_action swap",
    ):
        assert part in done.out
    assert not Path("app.db").exists() or not read_app("SELECT name FROM sqlite_master")


def test_plan_shows_the_tables_that_can_be_planned_beside_the_errors_of_the_others(shop: Path, retl: Retl) -> None:
    others = '[[pipelines.shop.tables]]\nname = "ordes"\n[[pipelines.shop.tables]]\nmatch = "zz*"\n'
    Path("jobs.toml").write_text(JOBS + others)
    done = retl("plan")
    assert done.code == 2
    assert "orders -> orders: incremental by updated_at" in done.out and "report -> report: full scan" in done.out
    assert "shop / ordes: the source has no table 'ordes'" in done.err and "did you mean 'orders'?" in done.err
    assert "shop / zz*: no table of the source matches 'zz*'" in done.err
    done = retl("plan", "--json")
    assert (done.code, [item["table"] for item in done.json()]) == (2, ["orders", "report"])
    assert done.err.count("no table") == 2


def test_plan_json(shop: Path, retl: Retl) -> None:
    retl("run", "--once")
    orders, report = retl("plan", "--json").json()
    assert (orders["table"], orders["mode"], orders["rows"], orders["key"]) == ("orders", "incremental", 1, ["id"])
    assert orders["window"]["lower"] == orders["window"]["upper"] == "2024-01-01 00:00:10"
    assert (report["mode"], report["pre_action"], report["window"]) == ("full", "swap", None)
    assert set(orders) == set(report) >= {"source", "target", "casts", "warnings", "slices", "cursor", "to", "pipeline"}


@pytest.mark.parametrize("command", ["plan", "plan --json", "check", "run --once", "history", "history --json"])
@pytest.mark.parametrize("where", ["customer <> '${TOKEN}'", "total <> CAST('${TOKEN}' AS INTEGER)"])
def test_what_a_reference_stands_for_is_shown_as_the_reference(
    shop: Path, monkeypatch: pytest.MonkeyPatch, retl: Retl, command: str, where: str
) -> None:
    monkeypatch.setenv("TOKEN", "hunter22")
    Path("jobs.toml").write_text(JOBS.replace('cursor = "updated_at"', f'cursor = "updated_at"\nwhere = "{where}"', 1))
    if command.startswith("history"):
        retl("run", "--once")
    done = retl(*command.split())
    assert "hunter22" not in done.out + done.err
    assert "${TOKEN}" in done.out + done.err or ("CAST" not in where and "plan" not in command)


def test_a_table_cannot_steer_the_terminal(shop: Path, retl: Retl) -> None:
    with duckdb.connect("warehouse.duckdb") as warehouse:
        warehouse.execute('CREATE TABLE "evil\x1b]0;owned\x07\x9b2J" (id INTEGER PRIMARY KEY)')
    Path("jobs.toml").write_text(DEPOT.replace("elsewhere", "warehouse").replace('["parts"]', '[{ match = "evil*" }]'))
    for command in ("tables", "check", "plan", "run --once", "status", "history"):
        done = retl(*command.split())
        assert "\x1b" not in done.out + done.err and "\x9b" not in done.out + done.err
        assert "evil\\x1b]0;owned\\x07\\x9b2J" in done.out + done.err, command


# status, history, reset, rejects --------------------------------------------------


@pytest.mark.parametrize("command", ["status", "history", "rejects"])
def test_before_the_first_run_nothing_is_written(shop: Path, retl: Retl, command: str) -> None:
    done = retl(command)
    assert done.code == (1 if command == "history" else 0)
    assert not Path("app.db").exists()


def test_status(shop: Path, retl: Retl) -> None:
    assert "last run never" in retl("status").out
    retl("run", "--once")
    done = retl("status")
    head, columns, orders, report = done.out.splitlines()
    assert head.startswith("shop: every 1s, stopped, last run ")
    assert columns.split() == ["TABLE", "LAST", "SCAN", "ROWS", "LAST", "SUCCESS", "LAG", "REJECTS", "WATERMARK"]
    assert orders.split()[:3] == ["🕒", "orders", "done"] and orders.endswith("none        0  2024-01-01 00:00:10")
    assert report.split()[:3] == ["🕒", "report", "done"]


def test_status_json(shop: Path, retl: Retl) -> None:
    retl("run", "--once")
    (status,) = msgspec.json.decode(retl("status", "--json").out, type=list[PipelineStatus])
    assert status.tables[0].watermark == "2024-01-01 00:00:10"
    assert status.tables[0].last is not None and status.tables[0].last.rows == 10


def test_status_tells_of_a_failure(shop: Path, retl: Retl) -> None:
    Path("jobs.toml").write_text(JOBS.replace('"orders"\n', '"ordes"\n'))
    retl("run", "--once")
    done = retl("status")
    assert done.code == 1
    assert "ordes failed: the source has no table 'ordes'" in done.out


def test_history(shop: Path, retl: Retl) -> None:
    done = retl("history")
    assert (done.code, done.out) == (1, "")
    assert "shop: its state store does not exist yet" in done.err and "What to do: run `retl run`" in done.err
    assert retl("reset", "--yes").out == "shop: 0 checkpoints forgotten\n"  # which makes the store
    assert retl("history").out == "No scans yet.\n"
    retl("run", "--once")
    retl("run", "--once")
    assert [line.split()[2] for line in retl("history").out.splitlines()[1:]] == ["shop.report", "shop.orders"] * 2
    reports = msgspec.json.decode(
        retl("history", "--json", "--table", "orders", "--limit", "1").out, type=list[ScanReport]
    )
    assert [(report.table, report.status, report.rows) for report in reports] == [("orders", "done", 1)]


def test_warnings_are_in_the_history_once_and_in_the_status(shop: Path, retl: Retl) -> None:
    write_warehouse("INSERT INTO orders VALUES (11, 'c9', 100, NULL)")
    retl("run", "--once")
    retl("run", "--once")
    told = retl("history").out
    assert told.count("shop.orders warning: ") == 1
    assert "shop.orders warning: 1 row" in told and "null_cursor" in told
    assert "orders warning: 1 row" in retl("status").out


def test_reset(shop: Path, retl: Retl) -> None:
    retl("run", "--once")
    done = retl("reset", "--table", "order")
    assert (done.code, done.out) == (2, "")
    assert "no pipeline has a table 'order'; did you mean 'orders'?" in done.err
    assert retl("reset", "--table", "orders", "--yes").out == "shop: 1 checkpoint forgotten\n"
    assert "shop.orders: 10 rows, 0 changed" in retl("run", "--once").out


def test_rejects(shop: Path, retl: Retl) -> None:
    with closing(sqlite3.connect("app.db")) as app:
        app.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total NUMERIC CHECK (total < 9), updated_at TIMESTAMP)"
        )
    assert retl("rejects").out == "No rejects.\n"
    assert retl("run", "--once").code == 1
    Path("jobs.toml").write_text(JOBS.replace('cursor = "updated_at"', 'cursor = "updated_at"\nmax_rejects = 5'))
    done = retl("run", "--once")
    assert done.code == 0 and "2 rows rejected; the first: " in done.out
    shown = retl("rejects")
    assert shown.out.count("shop.orders  key ") == 2 and "reason   " in shown.out and "content  " in shown.out
    assert "more" not in shown.out
    shown = retl("rejects", "--limit", "1")
    assert shown.out.count("  key ") == 1
    assert shown.out.endswith("shop: 1 more; --limit 2 shows them all\n")
    items = retl("rejects", "--json", "--table", "orders").json()
    assert {item["pipeline"] for item in items} == {"shop"}
    assert set(items[0]["reject"]) == {"table", "key", "reason", "content", "column", "scan_id", "at"}
    assert retl("rejects", "--clear").out == "shop: 2 rejects forgotten\n"
    assert retl("rejects", "--clear", "--json").json() == [{"pipeline": "shop", "cleared": 0}]


# A damaged state store -----------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        ("UPDATE retl_checkpoints SET body = '{' WHERE table_name = 'orders'", "status"),
        ("UPDATE retl_checkpoints SET body = '{' WHERE table_name = 'orders'", "run --once"),
        ("UPDATE retl_leases SET epoch = 'one'", "reset --yes"),
        ("UPDATE retl_leases SET epoch = 'one'", "status"),
        ("UPDATE retl_meta SET value = 'one'", "reset --table orders --yes"),
        ("UPDATE retl_meta SET value = 'one'", "history"),
        ("INSERT INTO retl_rejects VALUES ('shop', 'orders', '1', '2024', 'why', '{')", "rejects --table orders"),
        ("DROP TABLE retl_rejects", "status"),
    ],
)
def test_what_the_error_of_a_damaged_store_says_to_do_helps(shop: Path, retl: Retl, damage: str, command: str) -> None:
    retl("run", "--once")
    write_app(damage)
    failed = retl(*command.split())
    assert failed.code == 1, failed
    said = failed.out + failed.err
    if found := re.search(r"`retl (reset [^`]+)`", said):
        done = retl(*shlex.split(found[1]), "--yes")
        assert (done.code, done.out) == (0, "shop: 1 checkpoint forgotten\n")
    elif found := re.search(r"`retl (rejects --clear)`", said):
        assert retl(*found[1].split()).out == "shop: 1 reject forgotten\n"
    elif found := re.search(r"run in its database: (.+)", said):
        write_app(found[1])
    else:
        assert "or drop the tables retl_* in it to start over" in said
        names = read_app("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'retl\\_%' ESCAPE '\\'")
        write_app(*(f"DROP TABLE {name}" for (name,) in names))
    write_warehouse("INSERT INTO orders VALUES (11, 'c9', 100, TIMESTAMP '2024-02-01')")
    for again in (command, "run --once", "status"):
        done = retl(*again.split())
        assert done.code == 0, done
    assert read_app("SELECT count(*), sum(total) FROM orders") == [(11, 155)]


def test_a_report_that_cannot_be_read_is_told_and_hides_nothing(shop: Path, retl: Retl) -> None:
    retl("run", "--once")
    write_app("UPDATE retl_scans SET body = '{' WHERE table_name = 'orders'")
    for command in ("status", "history", "history --table orders"):
        done = retl(*command.split())
        assert done.code == 0, done
        assert "orders warning: a scan report in the state store cannot be read" in done.out
        assert command.endswith("orders") or "report  " in done.out
    assert "2024-01-01 00:00:10" in retl("status").out  # the watermark is the checkpoint's


# init ---------------------------------------------------------------------------


def test_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retl: Retl) -> None:
    monkeypatch.chdir(tmp_path)
    done = retl("init")
    assert done.code == 0 and "try: retl check\n" in done.out
    written = Path("jobs.toml").read_text()
    again = retl("init")
    assert again.code == 2 and "'jobs.toml' exists already, and was left as it is." in again.err
    assert Path("jobs.toml").read_text() == written
    assert retl("init", "no/such/folder.toml").code == 2
    assert retl("status").code == 0


# Mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["rnu"], "invalid choice: 'rnu'"),
        (["run", "--onec"], "unrecognized arguments: --onec"),
        (["run", "--log-format", "xml"], "invalid choice: 'xml'"),
        (["history", "--limit", "0"], "invalid number value: '0'"),
        (["status", "none.toml"], "there is no job file 'none.toml'"),
        (["run", "."], "cannot be read: Is a directory"),
        (["check", "wrong.toml"], "wrong.toml:1: pipelines.shop.soucre: unknown option; did you mean 'source'?"),
        (["history", "--table", "nope"], "no pipeline has a table 'nope'"),
    ],
)
def test_wrong_usage(shop: Path, retl: Retl, arguments: list[str], message: str) -> None:
    Path("wrong.toml").write_text("pipelines = { shop = { soucre = 1 } }")
    done = retl(*arguments)
    assert done.code == 2
    assert message in done.err and done.out == ""


def test_help_documents_the_exit_codes(retl: Retl) -> None:
    for arguments in (["--help"], ["run", "--help"]):
        done = retl(*arguments)
        assert done.code == 0
        assert [line.split()[0] for line in done.out.split("exit codes:\n")[1].splitlines()] == [
            "0",
            "1",
            "2",
            "3",
            "130",
        ]


def test_version(retl: Retl) -> None:
    assert retl("--version").out.startswith("retl 0.")


def test_a_reader_that_leaves_early(shop: Path) -> None:
    Path("jobs.toml").write_text(JOBS + LONG.replace("30000000", "200000").replace('interval = "1s"', ""))
    with process("run", "--once") as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.wait(timeout=30) == 0
        assert running.stderr.read() == ""
    assert rows_in("long.db", "numbers") == 200_000


def test_a_broken_target_names_the_place_and_the_remedy(shop: Path, retl: Retl) -> None:
    Path("app.db").write_bytes(b"this is no database, and it is long enough to be read as one" * 100)
    for command in ("check", "plan", "run --once", "status", "history", "rejects", "reset --yes"):
        done = retl(*command.split())
        assert done.code in (1, 2), (command, done)
        assert "app.db" in done.out + done.err and "shop" in done.out + done.err


class Vault(Connector):
    """A system with a password that lets nobody in."""

    type_name: ClassVar[str] = "vault"
    url: str
    password: str | Secret

    def source(self) -> Source:
        source = SQLite("app.db").source()
        secret = reveal(self.password)

        async def refuse(*arguments: object) -> Any:
            raise SourceError(f"{self!r} did not let us in ({len(secret)}).", remedy="ask for a key.")

        @asynccontextmanager
        async def refused_scan(*arguments: object) -> AsyncGenerator[Any, None]:
            yield await refuse()

        for method in ("ping", "list_tables", "describe"):
            setattr(source, method, refuse)
        vars(source)["open_scan"] = refused_scan
        return source

    def target(self) -> Target:
        return SQLite("app.db").target()


@pytest.mark.parametrize(
    "command", ["check", "plan", "tables", "run --once", "run --once --log-format json", "status", "history --json"]
)
def test_secrets_are_never_shown(shop: Path, monkeypatch: pytest.MonkeyPatch, retl: Retl, command: str) -> None:
    installed = registry.connector_types
    point = {"vault": EntryPoint("vault", f"{__name__}:Vault", "x")}
    monkeypatch.setattr(registry, "connector_types", lambda role: installed(role) | point)
    monkeypatch.setenv("DB_PASSWORD", "hunter22")
    vault = '{ type = "vault", url = "x", password = "${DB_PASSWORD}" }'
    Path("jobs.toml").write_text(JOBS.replace('{ type = "duckdb", path = "warehouse.duckdb" }', vault))
    done = retl(*command.split())
    assert "hunter22" not in done.out + done.err
    if command in ("check", "plan", "tables"):
        assert "<secret from environment variable DB_PASSWORD>" in done.out + done.err and done.code == 1


def test_a_bug_shows_its_traceback_beside_the_output(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> None:
        password = "".join(["hunter", "22"])  # not to be found in the lines of the source that a traceback shows
        raise ZeroDivisionError("a bug" if password else "")

    structlog.reset_defaults()  # another test may have configured it, and the command line leaves that alone
    monkeypatch.setattr("retl.connectors.duckdb.source.DuckDBSource.open_scan", broken)
    assert main(["run", "--once", "--log-format", "json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["event"] for line in out.splitlines()].count("scan failed") == 2
    assert "ZeroDivisionError" in err and "unexpected error in a scan" in err
    assert "hunter22" not in err  # the values of variables are not shown
