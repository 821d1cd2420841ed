"""``retl status`` as people and probes meet it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import retl
from retl.cli import main
from retl.cli.conditions import parse_condition
from retl.cli.status import show_summary
from tests.support import Database, Warehouse

JOBS = """
[pipelines.shop]
source = { type = "duckdb", path = "warehouse.duckdb" }
target = { type = "sqlite", path = "app.db" }
[[pipelines.shop.tables]]
name = "orders"
cursor = "seen"
[[pipelines.shop.tables]]
name = "gone"
"""
NOW = datetime.now(UTC)


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Shop:
    """A folder with a job file of two tables, of which the source has one; both have been run once."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.warehouse, self.app = Warehouse(folder / "warehouse.duckdb"), Database(folder / "app.db")
        (folder / "jobs.toml").write_text(JOBS)

    def status(self, *arguments: str) -> Ran:
        return self.run("status", *arguments)

    def run(self, *arguments: str) -> Ran:
        self._capsys.readouterr()
        code = main(arguments)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    monkeypatch.chdir(tmp_path)
    found = Shop(tmp_path, capsys)
    found.warehouse.run(
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, seen TIMESTAMP)",
        "INSERT INTO orders SELECT i, TIMESTAMP '2024-01-01' + to_minutes(i) FROM range(10) t(i)",
    )
    return found


def test_a_part_of_it_and_what_fails(shop: Shop) -> None:
    shop.run("run", "--once")
    whole, one, failed = shop.status(), shop.status("--table", "orders"), shop.status("--failed")
    assert (whole.code, one.code, failed.code) == (1, 0, 1)
    assert "orders" in whole.out and "gone failed: the source has no table 'gone'" in whole.out
    assert "orders" in one.out and "gone" not in one.out
    assert "2024-01-01 00:09:00" not in failed.out and "gone failed: the source has no table 'gone'" in failed.out
    assert [table["table"] for table in json.loads(shop.status("--failed", "--json").out)[0]["tables"]] == ["gone"]
    shop.warehouse.run("CREATE TABLE gone (id BIGINT PRIMARY KEY)")
    shop.run("run", "--once")
    done = shop.status("--failed")
    assert (done.code, done.out) == (0, "Nothing fails.\n")
    nowhere = shop.status("--table", "ordes")
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "no pipeline has a table 'ordes'; did you mean 'orders'?" in nowhere.err


def test_a_probe_tells_by_its_exit_code(shop: Shop) -> None:
    before = shop.status("--fail-if", "last_success > 1h")
    assert before.code == 1 and "shop.orders: last_success is never (last_success > 1h)" in before.err
    for _ in range(3):
        shop.run("run", "--once")
    for condition, code in {
        "failures > 2": 1,
        "failures>3": 0,
        "lag > 10m": 0,
        "lag >= 0s": 1,
        "last_success > 1h": 1,
        "rejects > 0": 0,
        "rejects = 0": 1,
        "state = stopped": 1,
        "state != stopped": 0,
    }.items():
        assert shop.status("--fail-if", condition).code == code, condition
    assert shop.status("--table", "orders", "--fail-if", "last_success > 1h", "--fail-if", "failures > 0").code == 0
    told = shop.status("--fail-if", "failures > 2", "--json")
    assert json.loads(told.out)[0]["tables"][1]["failures"] == 3
    assert told.err == "retl: shop.gone: failures is 3 (failures > 2)\n"
    shop.app.run("UPDATE retl_meta SET value = 'one'")
    unknown = shop.status("--fail-if", "lag > 10m")
    assert (unknown.code, unknown.out) == (2, "") and "the state store says its version is 'one'" in unknown.err
    for command in ("history", "rejects", "status"):
        done = shop.run(command)
        assert (done.code, done.out) == (1, ""), command


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a condition"),
        ("lag", "is not a condition"),
        ("lag > ", "is not a condition"),
        ("lag = 10m", "is not a condition"),
        ("lag > 10m or 1 > 0", "is not a length of time"),
        ("lag > -1m", "is not a length of time"),
        ("delay > 10m", "is not a condition"),
        ("failures > many", "'many' is not a whole number"),
        ("failures > 1_0", "is not a whole number"),
        ("failures > __import__('os')", "is not a whole number"),
        ("state = dead", "there is no state 'dead'"),
        ("state > idle", "is not a condition"),
    ],
)
def test_what_is_no_condition_is_wrong_usage(shop: Shop, text: str, message: str) -> None:
    with pytest.raises(retl.ConfigError, match=message):
        parse_condition(text)
    if text == "lag":
        done = shop.status("--fail-if", text)
        assert (done.code, done.out) == (2, "") and 'write "lag > 10m"' in done.err


def report(table: str, **words: Any) -> retl.ScanReport:
    told: dict[str, Any] = {"status": "done", "last_success": NOW, **words}
    return retl.ScanReport(
        pipeline="p", table=table, to=table, scan_id="s", mode="full", started_at=NOW, seconds=1.0, **told
    )


def table(name: str, *, last: retl.ScanReport | None, **words: Any) -> retl.TableStatus:
    return retl.TableStatus(table=name, to=name, scheduled_scan=True, last=last, **words)


def test_three_hundred_tables_are_a_summary_with_the_worst_first() -> None:
    tables = [table(f"t{number}", last=report(f"t{number}"), last_success=NOW) for number in range(300)]
    for number in range(0, 300, 20):
        error = f"it is broken {number}\nand this is a second line"
        last = report(f"t{number}", status="failed", error=error, failures=number)
        tables[number] = table(f"t{number}", last=last, failures=number + 1, error=error)
    tables[7] = table("t7", last=report("t7"), last_success=NOW, lag=720.0)
    tables[8] = table("t8", last=None)
    progress = retl.Progress(rows=5_000, rows_planned=None, bytes=1, slices=1, slices_planned=2, seconds=1)
    tables[9] = table("t9", last=None, progress=progress, progress_at=NOW - timedelta(seconds=90))
    found = [
        retl.PipelineStatus(
            pipeline=f"p{number}",
            state="idle" if number else "scanning",
            schedule="every 5m",
            tables=tuple(tables[number * 10 : number * 10 + 10]),
            failures=number == 3,
            since=NOW,
            failure="no route to host" if number == 3 else None,
        )
        for number in range(30)
    ]
    told = show_summary(found).splitlines()
    assert told[0] == "300 tables: 15 failed, 1 running, 1 never scanned, 283 done"
    assert told[1] == "30 pipelines: 1 scanning, 29 idle"
    names = [line.split()[0] for line in told if line.startswith("  ") and " in a row" in line]
    assert names == [f"p{number // 10}.t{number}" for number in range(280, 80, -20)]
    assert "  p28.t280 failed: it is broken 280 and this is a second line" in told
    assert any(line.startswith("  p3: 1 run failed since ") and line.endswith(": no route to host") for line in told)
    assert (
        told[-1] == "--all shows 8 more of these, and the rest; --failed what fails; --only and --table a part of it."
    )
    assert len(told) < 40
