"""SQL before and after runs and scans, in the source and in the target: when it runs, and what its failures mean."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import retl
from retl import SQL, Hooks, events
from retl.connectors import DuckDB, FunctionTarget, LocalFiles, SQLite
from retl.connectors.documents.embeddings.target import EmbeddingTarget
from retl.connectors.documents.source import ChunkedSource
from retl.connectors.sqlite.target import SQLiteTarget
from tests.support import Command, Database, Recorder, Warehouse, state_is

LOG = "CREATE TABLE log (n INTEGER, what TEXT)"


def log(what: str) -> str:
    return f"INSERT INTO log SELECT 1 + COUNT(*), {what} FROM log"


@pytest.fixture
def source(warehouse: Warehouse) -> Warehouse:
    warehouse.run(LOG, "CREATE TABLE cities AS SELECT id, city FROM orders")
    return warehouse


@pytest.fixture
def target(app: Database) -> Database:
    app.run(LOG)
    return app


def pipeline(source: Any, target: Any, words: Any = None, **hooks: Any) -> retl.Pipeline:
    words = {"tables": [retl.Table("orders", cursor="updated_at"), retl.Table("cities", key="id")], **(words or {})}
    return retl.Pipeline("shop", source=source.source(), target=target.target(), hooks=Hooks(**hooks), **words)


def logged(system: Warehouse | Database) -> list[str]:
    return [what for _, what in sorted(system.run("SELECT * FROM log"))]


async def test_statements_run_on_either_side_in_their_order_around_runs_and_scans(
    source: Warehouse, target: Database
) -> None:
    seen: list[int] = []

    def between(run: retl.BeforeRun) -> None:
        seen.append(len(target.run("SELECT * FROM log")))

    job = pipeline(
        source,
        target,
        before_run=[SQL(log("'run ' || :pipeline"), on="target"), between, SQL(log("'run'"), on="source")],
        before_scan=SQL([log("'scan ' || :table || :attempt"), log("'to ' || :to") + ";"], on="target"),
        after_scan=[SQL(log("'done ' || :table || ' ' || :rows"), on=side) for side in ("source", "target")],
        after_run=SQL(log("'rows ' || :rows"), on="source"),
    )
    report = await job.run_once()
    assert [(scan.status, scan.rows) for scan in report.scans] == [("done", 10), ("done", 10)]
    assert logged(source) == ["run", "done orders 10", "done cities 10", "rows 20"]
    assert logged(target) == [
        *("run shop", "scan orders1", "to orders", "done orders 10"),
        *("scan cities1", "to cities", "done cities 10"),
    ]
    assert (seen, len(target.rows("orders")), len(target.rows("cities"))) == ([1], 10, 10)


async def test_what_a_statement_makes_in_the_source_is_read_by_the_scan(app: Database, tmp_path: Path) -> None:
    """SQLite as a source, DuckDB as a target."""
    app.run("CREATE TABLE sales (id INTEGER PRIMARY KEY, price REAL)", "INSERT INTO sales VALUES (1, 2.5), (2, 4)")
    job = retl.Pipeline(
        "models",
        source=app.source(),
        target=DuckDB(str(tmp_path / "target.duckdb")),
        tables=[retl.Table("model", key="id")],
        hooks=Hooks(
            before_run=SQL(["DROP TABLE IF EXISTS model", "CREATE TABLE model AS SELECT * FROM sales"], on="source"),
            after_scan=SQL("CREATE OR REPLACE TABLE total AS SELECT SUM(price) AS price FROM model", on="target"),
            after_run=SQL("VACUUM", on="source"),  # takes no transaction
        ),
    )
    for rows, total in (((1, 2.5), (2, 4.0)), 6.5), (((1, 2.5), (2, 4.0), (3, 1.0)), 7.5):
        await job.run_once()
        made = Warehouse(tmp_path / "target.duckdb")
        assert made.run("SELECT * FROM model ORDER BY id") == list(rows)
        assert made.run("SELECT * FROM total") == [(total,)]
        app.run("INSERT INTO sales VALUES (3, 1) ON CONFLICT DO NOTHING")


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_statement_that_is_refused_keeps_what_follows_from_beginning(
    source: Warehouse, target: Database, side: str
) -> None:
    bad = SQL([log("'first'"), "INSERT INTO nothing VALUES (1)", log("'third'")], on=side)  # type: ignore[arg-type]
    job = pipeline(source, target, before_run=[bad, SQL(log("'next'"), on="target")])
    heard = Recorder(job)
    system = "duckdb" if side == "source" else "sqlite"
    told = (
        rf"^shop \({system}\): the hook before_run\[0\] \(sql\[1\]\) failed on the {side}: .*nothing.* "
        f"What to do: run the statement in {system} as the same user; correct it"
    )
    with pytest.raises(retl.HookFailed, match=told):
        await job.run_once()
    assert logged(source if side == "source" else target) == ["first"]  # committed by itself
    assert [event.error_type for event in heard.of(events.RunFailed)] == ["HookFailed"]
    assert target.tables() == ["log"]

    job = pipeline(source, target, before_scan=SQL("UPDATE nothing SET a = :table", on="source"))
    with pytest.raises(retl.HookFailed, match=r"^shop / orders \(duckdb\): the hook before_scan failed on the source"):
        await job.run_once()
    assert target.tables() == ["log"]


async def test_after_statements_run_where_it_is_done_unless_they_always_do(source: Warehouse, target: Database) -> None:
    said = ":status || ' ' || :table"
    broken = retl.Table("cities", key="id", where="error('broken') IS NULL")
    job = pipeline(
        source,
        target,
        {"tables": [retl.Table("orders", cursor="updated_at"), broken]},
        after_scan=[SQL(log(f"'if done: ' || {said}"), on="target"), SQL(log(said), on="target", always=True)],
        after_run=[SQL(log("'no'"), on="target"), SQL(log("'end'"), on="target", always=True)],
    )
    await job.run_once(check=False)
    assert logged(target) == ["if done: done orders", "done orders", "failed cities", "end"]


async def test_what_is_done_stays_done_where_a_later_statement_fails(source: Warehouse, target: Database) -> None:
    job = pipeline(source, target, after_scan=SQL("ANALYZE nothing", on="source"))
    report = await job.run_once(check=False)
    assert [scan.status for scan in report.scans] == ["done", "done"]
    assert (len(target.rows("orders")), len(target.rows("cities"))) == (10, 10)
    with pytest.raises(retl.HookFailed, match=r"the hook after_scan failed on the source: .*nothing"):
        await job.run_once()


async def test_a_run_whose_end_was_lost_is_followed_by_one_that_ends(source: Warehouse, target: Database) -> None:
    """Where a process dies between a commit and what comes after it, the next run comes after it too."""
    begun = anyio.Event()

    async def die(report: retl.ScanReport) -> None:
        if not begun.is_set():
            begun.set()
            await anyio.sleep_forever()

    ends = {"after_scan": [die, SQL(log(":table || :rows"), on="source")], "after_run": SQL("ANALYZE", on="target")}
    job = pipeline(source, target, **ends)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.run_once)
            await begun.wait()
            tasks.cancel_scope.cancel()
    assert (len(target.rows("orders")), logged(source)) == (10, [])
    await job.run_once()
    assert logged(source) == ["orders1", "cities10"]
    assert target.run("SELECT COUNT(*) FROM sqlite_stat1") != [(0,)]


class Shaky(SQLiteTarget):
    """A target whose connection is lost before some of the statements of hooks."""

    def __init__(self, options: SQLite, lost: list[str]) -> None:
        super().__init__(options)
        self._lost = lost

    @asynccontextmanager
    async def open_sql(self) -> AsyncIterator[Callable[[str], Any]]:
        async with super().open_sql() as run:

            async def shaky(sql: str) -> None:
                if self._lost and self._lost[0] in sql:
                    self._lost.pop(0)
                    raise retl.ConnectionFailed("the line was cut.")
                await run(sql)

            yield shaky


async def test_a_lost_connection_is_no_failure_yet(source: Warehouse, target: Database) -> None:
    """Statements go on from the one that failed, a scan's as a whole with the scan."""
    job = retl.Pipeline(
        "shop",
        source=source.source(),
        target=Shaky(SQLite(str(target.path)), ["two", "three"]),
        tables=["cities"],
        pre_action="swap",
        hooks=Hooks(
            before_run=SQL([log("'one'"), log("'two'")], on="target"),
            before_scan=SQL([log("'attempt ' || :attempt"), log("'three'")], on="target"),
        ),
    )
    report = await job.run_once()
    assert (report.scans[0].attempts, report.scans[0].rows) == (2, 10)
    assert logged(target) == ["one", "two", "attempt 1", "attempt 2", "three"]


ENDLESS = "CREATE TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


async def test_a_statement_that_hangs_is_given_up_and_ended(source: Warehouse, target: Database) -> None:
    job = pipeline(source, target, {"stall_timeout": 0.3}, before_run=SQL(ENDLESS, on="target"))
    with anyio.fail_after(20), pytest.raises(retl.HookFailed, match="before_run has not ended within 300ms"):
        await job.run_once()
    assert target.tables() == ["log"]


JOB = """
[pipelines.shop]
source = {{ type = "duckdb", path = "warehouse.duckdb" }}
target = {{ type = "sqlite", path = "app.db" }}
tables = [{{ name = "orders", key = "id" }}]

[pipelines.shop.hooks]
{hooks}
"""
HOOKS = """
before_run = { on = "source", sql = "DELETE FROM log" }
before_scan = [{ on = "source", sql = ["INSERT INTO log VALUES (1, :table)", "INSERT INTO log VALUES (2, '${TEAM}')"] },
  { on = "target", sql = "DELETE FROM log" }]
after_scan = { on = "target", sql = "INSERT INTO log VALUES (:rows, 'rows')", always = true }
after_run = { on = "target", sql = "ANALYZE" }
"""


def test_a_job_file_says_the_same_and_plan_shows_it(
    source: Warehouse, target: Database, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "TEAM", "sales")
    (tmp_path / "jobs.toml").write_text(JOB.format(hooks=HOOKS))
    lines = [line.strip() for line in command("plan").splitlines()]
    shown = [
        "before the run, on the source: DELETE FROM log",
        "before  source: INSERT INTO log VALUES (1, :table)",
        "source: INSERT INTO log VALUES (2, '${TEAM}')",
        "target: DELETE FROM log",
        "after   target: INSERT INTO log VALUES (:rows, 'rows')",
        "after the run, on the target: ANALYZE",
    ]
    assert [line for line in lines if line in shown] == shown
    assert logged(source) == []
    source.run("ALTER TABLE orders RENAME TO other")  # as a hook may make it before the first run
    assert [line.strip() for line in command("plan", code=2).splitlines() if "the run, on the" in line] == [
        shown[0],
        shown[-1],
    ]
    source.run("ALTER TABLE other RENAME TO orders")
    command("run", "--once")
    assert source.run("SELECT * FROM log ORDER BY n") == [(1, "orders"), (2, "sales")]
    assert target.run("SELECT * FROM log") == [(10, "rows")]
    (tmp_path / "jobs.toml").write_text(
        JOB.format(hooks='before_scan = { on = "source", sql = "INSERT INTO nothing VALUES (1)" }')
    )
    told = command("run", "--once", code=1)
    assert "shop.orders: FAILED the hook before_scan failed on the source:" in told
    assert "What to do: run the statement in duckdb" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        (
            'before_run = "ANALYZE"',
            "jobs.toml:8: pipelines.shop.hooks.before_run: expected a table or a list, got text",
        ),
        ('before_run = { sql = "ANALYZE" }', "on is missing"),
        ('before_run = { on = "sink", sql = "ANALYZE" }', "'sink' is not one of source, target"),
        ('after_run = { on = "target", sql = "COMMIT" }', "sql[0] begins with COMMIT, but each statement is committed"),
        ('after_run = { on = "target", sql = [] }', "sql holds no statement"),
        (
            'before_scan = { on = "target", sql = "ANALYZE", always = true }',
            "always means nothing for the hook before_scan",
        ),
        (
            'after_run = { on = "target", sql = "SELECT 1; SELECT 2" }',
            "jobs.toml:8: pipelines.shop.hooks.after_run: the hook after_run: there is more than one statement",
        ),
        ('after_run = { on = "source", sql = "SELECT :table" }', "the statement has :table, which has no value there"),
        ('after_runs = { on = "source", sql = "SELECT 1" }', "did you mean 'after_run'"),
    ],
)
def test_a_mistake_in_a_job_file_is_told_with_its_line(hooks: str, told: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text(JOB.format(hooks=hooks))
    assert told in command("check", code=2)


def test_a_system_without_sql_refuses_it_at_once(warehouse: Warehouse, app: Database, tmp_path: Path) -> None:
    def made(source: Any, target: Any, on: Any) -> None:
        retl.Pipeline(
            "shop",
            source=source,
            target=target,
            tables=["*.csv"],
            state=retl.MemoryStore(),
            hooks=Hooks(before_run=[print, SQL("ANALYZE", on=on)]),
        )

    with pytest.raises(
        retl.UnsupportedError, match=r"the hook before_run\[1\] is SQL for the source, but a local source"
    ):
        made(LocalFiles(str(tmp_path)), app.target(), "source")
    with pytest.raises(
        retl.UnsupportedError, match=r"for the target, but a function target runs none.*on the other side"
    ):
        made(warehouse.source(), FunctionTarget(lambda batch: None), "target")
    with pytest.raises(retl.ConfigError, match="a DuckDB source without a path has no database"):
        made(DuckDB(), app.target(), "source")
    with pytest.raises(retl.ConfigError, match="unknown on 'both'"):
        SQL("ANALYZE", on="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [DuckDB, SQLite])
async def test_a_source_that_is_missing_is_not_made(kind: Any, app: Database, tmp_path: Path) -> None:
    job = retl.Pipeline(
        "shop",
        source=kind(str(tmp_path / "none.db")),
        target=app.target(),
        tables=["t"],
        hooks=Hooks(before_run=SQL("CREATE TABLE t (id INTEGER)", on="source")),
    )
    with pytest.raises(retl.HookFailed, match=r"failed on the source: there is no .* file"):
        await job.run_once()
    assert not (tmp_path / "none.db").exists()


async def test_tables_that_are_read_side_by_side_may_have_statements_in_a_duckdb_file(
    source: Warehouse, tmp_path: Path
) -> None:
    """DuckDB takes no handle that writes beside one that only reads."""
    took: list[int] = []

    async def take(batch: Any) -> None:
        await anyio.sleep(0.05)
        took.append(batch.num_rows)

    job = retl.Pipeline(
        "shop",
        source=source.source(),
        target=FunctionTarget(take),
        tables=[retl.Table(f"t{n}", query="SELECT * FROM orders", key="id") for n in range(4)],
        state=retl.MemoryStore(),
        hooks=Hooks(
            before_scan=SQL("INSERT INTO log VALUES (0, :table)", on="source"),
            after_scan=SQL("INSERT INTO log VALUES (:rows, :table)", on="source"),
        ),
    )
    report = await job.run_once()
    assert report.ok
    assert sorted(source.run("SELECT * FROM log")) == [(rows, f"t{n}") for rows in (0, 10) for n in range(4)]


async def test_a_stop_does_not_wait_for_another_attempt(source: Warehouse, target: Database) -> None:
    """Nor for a statement that hangs, longer than its grace."""
    lost = retl.Pipeline(
        "shop",
        source=source.source(),
        target=Shaky(SQLite(str(target.path)), ["one"] * 9),
        tables=["cities"],
        pre_action="swap",
        hooks=Hooks(before_run=SQL(log("'one'"), on="target")),
    )
    hung = pipeline(source, target, before_run=SQL(ENDLESS, on="source"))
    for job in (lost, hung):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(job.run_forever)
                await state_is(job, "scanning")
                job.stop(grace=0.1)
    assert (logged(target), source.run("SELECT COUNT(*) FROM duckdb_tables()")) == ([], [(3,)])


async def test_what_makes_documents_of_a_source_or_vectors_in_a_target_passes_statements_on(
    source: Warehouse, target: Database
) -> None:
    doors = ChunkedSource(source.source().source()), EmbeddingTarget(target.target().target())
    for door in doors:
        assert door.runs_sql
        async with door.open_sql() as run:
            await run(door.statement(log(":pipeline"), {"pipeline": door.system}))
        await door.aclose()
    assert (logged(source), logged(target)) == (["duckdb"], ["sqlite"])
