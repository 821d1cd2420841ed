"""Mistakes and mishaps: each gets an error that names pipeline, table and remedy, and loses nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import events
from tests.support import Database, Recorder, Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.run(
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, city VARCHAR, flag BOOLEAN, updated_at TIMESTAMP)",
        "INSERT INTO orders SELECT i, 'city', true, TIMESTAMP '2024-01-01' + INTERVAL (i) SECOND FROM range(10) t(i)",
    )
    return warehouse


def pipeline(source: Any, target: Any, table: retl.Table, **words: Any) -> retl.Pipeline:
    return retl.Pipeline("shop", source=source.source(), target=target, tables=[table], **words)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (retl.Table("order"), r"shop / order: the source has no table 'order'.*did you mean 'orders'"),
        (retl.Table("orders", cursor="updated"), r"shop / orders: cursor names 'updated'.*did you mean 'updated_at'"),
        (retl.Table("orders", cursor="flag"), r"the cursor 'flag' is of type bool, which does not order change"),
        (retl.Table("orders", cursor="city"), r"the cursor 'city' is of type string.*choose a column of time"),
        (retl.Table("orders", key="idd"), r"key names 'idd'.*did you mean 'id'"),
        (retl.Table("orders", columns=["id", "cty"]), r"columns names 'cty'.*did you mean 'city'"),
        (retl.Table("orders", rename={"cty": "town"}), r"rename names 'cty'"),
        (retl.Table("orders", rename={"city": "id"}), r"two columns would have the name 'id'"),
        (retl.Table("orders", columns=["city"], key="id"), r"key names 'id'"),
        (retl.Table("orders", cursor="id", lookback="5m"), r"lookback is a length of time, but the cursor is a number"),
        (retl.Table("orders", to="retl_orders"), r"reserved name"),
        (
            retl.Table("orders", to="main.orders"),
            r"takes a table's plain name, not 'main.orders'.*write only the name: to = \"orders\"",
        ),
        (retl.Table("orders", to="odd.name"), r"""takes a table's plain name.*to = '"odd.name"'"""),
        (retl.Table("orders", where="city ="), r"shop / orders \(duckdb\)"),
        (retl.Table("orders", expressions={"x": "nope(city)"}), r"shop / orders \(duckdb\).*nope"),
        (retl.Table(match="ods_*"), r"no table of the source matches 'ods_\*'.*retl tables"),
        (retl.Table("q", query="SELECT * FROM nowhere"), r"shop / q.*nowhere"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
async def test_a_wrong_word_is_told_before_anything_is_written(
    warehouse: Warehouse, app: Database, table: retl.Table, message: str
) -> None:
    if table.cursor == "id":
        await pipeline(warehouse, app.target(), retl.Table("orders", cursor="id")).run_once()
        warehouse.run("INSERT INTO orders VALUES (11, 'x', true, NULL)")
    before = app.rows("orders") if app.exists() else None
    with pytest.raises(retl.RetlError, match=message):
        await pipeline(warehouse, app.target(), table).run_once()
    assert app.tables() == ([] if before is None else ["orders"])
    assert before is None or app.rows("orders") == before


async def test_a_locked_target_is_waited_for_and_then_named(warehouse: Warehouse, app: Database) -> None:
    target = app.target()
    target.busy_timeout = 0.3
    job = pipeline(warehouse, target, retl.Table("orders", cursor="updated_at"))
    await job.run_once()
    warehouse.run("INSERT INTO orders VALUES (50, 'late', true, TIMESTAMP '2024-02-01')")
    with closing(sqlite3.connect(app.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(retl.TargetBusy, match=r"locked by another (process|connection)"):
            await job.run_once()
        other.execute("ROLLBACK")
    await job.run_once()
    assert app.rows("orders", "id")[-1] == (9,)
    assert (50,) in app.rows("orders", "id")


async def test_a_lock_that_ends_in_time_is_no_error(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app.target(), retl.Table("orders", cursor="updated_at"))
    await job.run_once()
    warehouse.run("INSERT INTO orders VALUES (50, 'late', true, TIMESTAMP '2024-02-01')")
    with closing(sqlite3.connect(app.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()

            async def run() -> None:
                await job.run_once()
                done.set()

            tasks.start_soon(run)
            with anyio.move_on_after(0.3):  # it would be done by far, were it not for the lock
                await done.wait()
            assert not done.is_set() and (50,) not in app.rows("orders", "id")
            other.execute("ROLLBACK")
    assert done.is_set() and (50,) in app.rows("orders", "id")


async def test_a_missing_folder_of_the_target_is_named(warehouse: Warehouse, tmp_path: Path) -> None:
    target = Database(tmp_path / "nowhere" / "app.db").target()
    job = pipeline(warehouse, target, retl.Table("orders"))
    with pytest.raises(retl.RetlError, match=r"shop.*nowhere"):
        await job.run_once()
    findings = await job.check()
    assert [finding.level for finding in findings] == ["ok", "error"]
    assert not (tmp_path / "nowhere").exists()


async def test_what_is_no_database_is_named(warehouse: Warehouse, app: Database) -> None:
    app.path.write_text("this is no database, but it is long enough to look at" * 50)
    with pytest.raises(retl.RetlError, match=r"app\.db"):
        await pipeline(warehouse, app.target(), retl.Table("orders")).run_once()
    assert app.path.read_text().startswith("this is no database")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
async def test_a_read_only_target_is_named_by_the_preflight(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app.target(), retl.Table("orders"))
    await job.run_once()
    app.path.chmod(0o444)
    findings = await job.check()
    assert any(finding.level == "error" and "cannot be written" in finding.message for finding in findings)
    with pytest.raises(retl.RetlError, match=r"read-only|cannot be written|cannot be opened"):
        await job.run_once()


FULL_DISK = """
import resource, signal, sys
import anyio, retl, retl.engine.run
from retl.connectors import DuckDB, SQLite
retl.engine.run._RETRY_SECONDS = 0.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
warehouse, target, limit = sys.argv[1:]
job = retl.Pipeline("shop", source=DuckDB(warehouse), target=SQLite(target), tables=[retl.Table("wide", cursor="id")], slice_rows=2000)
async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        await job.run_once()
    except retl.RetlError as error:
        print(type(error).__name__, error)
    else:
        print("done")
anyio.run(main)
"""


def test_a_full_disk_ends_the_scan_and_loses_nothing(warehouse: Warehouse, app: Database) -> None:
    """A limit on the size of files stands for the disk: the system refuses to write in the same place."""
    warehouse.run(
        "CREATE TABLE wide (id BIGINT PRIMARY KEY, v VARCHAR)",
        "INSERT INTO wide SELECT i, repeat('x', 500) FROM range(20000) t(i)",
    )

    def run(limit: int) -> str:
        arguments = [sys.executable, "-c", FULL_DISK, str(warehouse.path), str(app.path), str(limit)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    said = run(5_000_000)
    assert "shop / wide" in said
    assert "disk" in said
    ids = [row[0] for row in app.run("SELECT id FROM wide ORDER BY id")]
    (watermark,) = app.run("SELECT watermark FROM retl_checkpoints")[0]
    assert 0 < len(ids) < 20_000
    assert ids == list(range(int(watermark) + 1))

    assert run(100_000_000).strip() == "done"
    assert app.run("SELECT COUNT(*), SUM(id), SUM(LENGTH(v)) FROM wide") == [(20_000, 199_990_000, 10_000_000)]


async def test_a_source_that_vanishes_halfway_keeps_what_was_committed(tmp_path: Path, app: Database) -> None:
    live = Database(tmp_path / "live.db")
    live.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    for number in range(6):
        live.run(f"INSERT INTO t VALUES ({number}, {number})")
    job = pipeline(live, app.target(), retl.Table("t", cursor="n"), slice_rows=2, channel_bytes=1)
    Recorder(job).when(events.SliceCommitted, lambda _: live.run("ALTER TABLE t RENAME TO gone"))
    with pytest.raises(retl.RetlError, match=r"shop / t.*no such table"):
        await job.run_once()
    found = app.rows("t")
    assert found == [(number, number) for number in range(len(found))]
    assert len(found) in (2, 4)
    live.run("ALTER TABLE gone RENAME TO t")
    await job.run_once()
    assert app.rows("t") == [(number, number) for number in range(6)]


def test_a_table_declared_twice_would_share_its_watermark_and_is_refused(warehouse: Warehouse, app: Database) -> None:
    tables = [
        retl.Table("orders", cursor="updated_at"),
        retl.Table("orders", to="report", pre_action=retl.PreAction.SWAP),
    ]
    with pytest.raises(retl.ConfigError, match=r"'orders' is declared twice.*a pipeline of its own"):
        retl.Pipeline("shop", source=warehouse.source(), target=app.target(), tables=tables)
