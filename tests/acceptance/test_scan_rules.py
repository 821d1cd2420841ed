"""Rules that keep data safe, DuckDB to SQLite, beside those that ``test_refreshes`` and ``test_field_notes`` prove over every route."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

import retl
from retl import events
from retl.connectors.base import SourceScan
from retl.model.checkpoint import Checkpoint
from retl.model.table import TableSpec
from retl.state.base import LeaseRow, Manifest
from retl.testing.crashing import CrashingSource
from tests.support import Database, Recorder, Warehouse

REPLACING = ["truncate", "rename_and_create", "swap"]


def pipeline(source: Any, target: Any, table: retl.Table | None = None, **words: Any) -> retl.Pipeline:
    tables = [table or retl.Table("orders", cursor="updated_at")]
    return retl.Pipeline("orders", source=source.source(), target=target.target(), tables=tables, **words)


def expected(first: int, last: int) -> list[tuple[Any, ...]]:
    return [(i, f"city {i}", f"2024-01-01 00:00:{i:02d}.000000") for i in range(first, last + 1)]


# Prove the source first -------------------------------------------------------


@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_source_whose_file_is_gone_never_empties_a_target(
    warehouse: Warehouse, app: Database, pre_action: str
) -> None:
    job = pipeline(warehouse, app, retl.Table("orders", pre_action=retl.PreAction(pre_action)))
    await job.run_once()
    warehouse.path.unlink()
    with pytest.raises(retl.RetlError):
        await job.run_once()
    assert (app.rows("orders"), app.tables()) == (expected(0, 9), ["orders"])


# Closed windows ---------------------------------------------------------------


async def test_lookback_widens_the_window_and_never_moves_the_watermark_back(
    warehouse: Warehouse, app: Database
) -> None:
    job = pipeline(warehouse, app, retl.Table("orders", cursor="updated_at", lookback="5s"), slice_rows=2)
    await job.run_once()
    warehouse.run("INSERT INTO orders VALUES (100, 'late', TIMESTAMP '2024-01-01 00:00:05')")
    heard = Recorder(job)
    report = (await job.run_once()).scans[0]
    assert (report.lower, report.upper) == ("2024-01-01 00:00:04", "2024-01-01 00:00:09")
    assert {event.watermark for event in heard.of(events.SliceCommitted)} == {"2024-01-01 00:00:09"}
    assert (100, "late", "2024-01-01 00:00:05.000000") in app.rows("orders")


async def test_rereading_equal_rows_changes_nothing(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app, retl.Table("orders", cursor="updated_at", lookback="1h"))
    await job.run_once()
    report = (await job.run_once()).scans[0]
    assert (report.rows, report.changed) == (10, 0)
    assert app.rows("orders") == expected(0, 9)


# Full precision ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("native", "values"),
    [
        ("TIMESTAMP_NS", ["2024-01-01 00:00:00.123456788", "2024-01-01 00:00:00.123456789"]),
        ("TIMESTAMP", ["2024-01-01 00:00:00.999998", "2024-01-01 00:00:00.999999"]),
        ("TIMESTAMP WITH TIME ZONE", ["2024-01-01 00:00:00.999998+00", "2024-01-01 00:00:00.999999+00"]),
        ("DATE", ["2024-01-01", "2024-01-02"]),
        ("BIGINT", ["9007199254740992", "9007199254740993"]),
        ("HUGEINT", ["170141183460469231731687303715884105726", "170141183460469231731687303715884105727"]),
        ("DECIMAL(38,9)", ["12345678901234567890123456789.123456788", "12345678901234567890123456789.123456789"]),
    ],
)
async def test_a_watermark_keeps_its_last_digit(tmp_path: Path, app: Database, native: str, values: list[str]) -> None:
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.run(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, updated_at {native})")
    warehouse.run(f"INSERT INTO orders VALUES (1, '{values[0]}')")
    job = pipeline(warehouse, app)
    assert (await job.run_once()).scans[0].watermark == values[0]
    # One unit above the watermark: any rounding would lose it or read everything again.
    warehouse.run(f"INSERT INTO orders VALUES (2, '{values[1]}')")
    assert (await job.run_once()).scans[0].watermark == values[1]
    assert app.rows("orders", "id") == [(1,), (2,)]
    again = (await job.run_once()).scans[0]
    assert (again.rows, again.lower, again.upper) == (1, values[1], values[1])


# The watermark advances slice by slice ----------------------------------------


async def test_a_million_rows_of_one_cursor_value_are_cut_into_bounded_slices(
    warehouse: Warehouse, app: Database
) -> None:
    warehouse.run(
        "DELETE FROM orders", "INSERT INTO orders SELECT i, 'x', TIMESTAMP '2024-01-01' FROM range(1000000) t(i)"
    )
    job = pipeline(warehouse, app, slice_rows=100_000)
    heard = Recorder(job)
    report = (await job.run_once()).scans[0]
    sizes = [event.progress.rows for event in heard.of(events.SliceCommitted)]
    steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
    assert len(steps) == 10
    assert max(steps) < 110_000
    assert report.watermark == "2024-01-01 00:00:00"
    watermarks = [event.watermark for event in heard.of(events.SliceCommitted)]
    assert watermarks == [None] * 9 + ["2024-01-01 00:00:00"]
    assert app.run("SELECT COUNT(*), COUNT(DISTINCT id), MIN(id), MAX(id) FROM orders") == [
        (1_000_000, 1_000_000, 0, 999_999)
    ]


# Fencing ----------------------------------------------------------------------


async def test_a_store_outside_the_target_is_fenced_too(warehouse: Warehouse, app: Database) -> None:
    store = retl.MemoryStore()
    job = pipeline(warehouse, app, state=store)
    heard = Recorder(job)

    def take_over(event: events.ScanPlanned) -> None:
        lease = store._leases["orders"]
        store._leases["orders"] = LeaseRow("orders", "somebody else", lease.epoch + 1, 0, 1.0)

    heard.when(events.ScanPlanned, take_over)
    with pytest.raises(retl.LeaseLost):
        await job.run_once()
    assert not app.exists() or app.tables() in ([], ["orders"])
    assert app.tables() == [] or app.rows("orders") == []


async def test_two_pipelines_of_one_name_in_one_process_are_refused(warehouse: Warehouse, app: Database) -> None:
    first, second = pipeline(warehouse, app, interval="1h"), pipeline(warehouse, app)
    async with anyio.create_task_group() as tasks:
        heard = Recorder(first)
        done = anyio.Event()
        heard.when(events.ScanFinished, lambda _: done.set())
        tasks.start_soon(first.run_forever)
        await done.wait()
        with pytest.raises(retl.ConfigError, match=r"another pipeline named 'orders'.*name of its own"):
            await second.run_once()
        first.stop()
    assert app.rows("orders") == expected(0, 9)


# A bad row is never dropped or changed in silence -----------------------------


async def test_a_refused_row_fails_the_scan_and_is_kept_with_its_reason(warehouse: Warehouse, app: Database) -> None:
    app.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT CHECK (city <> 'city 4'), updated_at TIMESTAMP)")
    job = pipeline(warehouse, app)
    with pytest.raises(retl.RowsRejected, match=r"rejected 1 row.*\"id\":4.*CHECK constraint failed.*retl rejects"):
        await job.run_once()
    assert app.rows("orders") == []
    kept = await job.rejects()
    assert [(reject.table, reject.key) for reject in kept] == [("orders", '{"id":4}')]
    assert "city 4" in kept[0].content
    assert "CHECK constraint failed" in kept[0].reason
    await job.aclose()


async def test_max_rejects_lets_the_good_rows_through(warehouse: Warehouse, app: Database) -> None:
    app.run(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT CHECK (city NOT IN ('city 4', 'city 8')), updated_at TIMESTAMP)"
    )
    job = pipeline(warehouse, app, retl.Table("orders", cursor="updated_at", max_rejects=2), slice_rows=3)
    report = (await job.run_once()).scans[0]
    assert (report.rejects, report.status) == (2, "done")
    assert app.rows("orders") == [row for row in expected(0, 9) if row[0] not in (4, 8)]
    assert sorted(reject.key for reject in await job.rejects()) == ['{"id":4}', '{"id":8}']
    await job.aclose()


# Cancellation is clean --------------------------------------------------------


async def test_a_cancelled_scan_leaves_nothing_half_committed(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app, slice_rows=2)
    heard = Recorder(job)
    with anyio.CancelScope() as scope:
        heard.when(events.SliceCommitted, lambda _: scope.cancel())
        await job.run_once()
    assert scope.cancelled_caught
    assert app.rows("orders") == expected(0, 1)
    await pipeline(warehouse, app).run_once()
    assert app.rows("orders") == expected(0, 9)
    assert app.tables() == ["orders"]


# A look writes nothing -------------------------------------------------------


async def test_a_table_that_cannot_be_planned_hides_the_others_only_from_those_who_take_no_errors(
    warehouse: Warehouse, app: Database
) -> None:
    job = retl.Pipeline("orders", source=warehouse.source(), target=app.target(), tables=["missing", "orders"])
    with pytest.raises(retl.ConfigError, match="the source has no table 'missing'"):
        await job.plan()
    errors: list[Exception] = []
    assert [plan.table.name for plan in await job.plan(errors=errors)] == ["orders"]
    (error,) = errors
    assert isinstance(error, retl.ConfigError) and (error.pipeline, error.table) == ("orders", "missing")
    warehouse.path.with_name("app.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(retl.RetlError, match=r"app\.db"):
        await job.plan(errors=errors)
    await job.aclose()


async def test_check_and_plan_write_nothing(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app)
    assert {finding.level for finding in await job.check()} == {"ok"}
    plans = await job.plan()
    assert "CREATE TABLE" in plans[0].target.statements[0]
    assert [path.name for path in sorted(app.path.parent.iterdir())] == ["warehouse.duckdb"]
    assert await job.history() == []
    assert (await job.status()).tables[0].last is None
    await job.aclose()
    assert not app.exists()


# One row, one table, one line -------------------------------------------------


class Broken(CrashingSource):
    """A source with a fault of its own in one call for one table."""

    def __init__(self, warehouse: Warehouse, call: str) -> None:
        super().__init__(warehouse.source(), at_batch=1, times=0)
        self._call = call
        self.left: list[str] = []

    def _check(self, call: str, table: str) -> None:
        if call == self._call and table in ("bad", ""):
            raise ZeroDivisionError("a fault")

    async def ping(self) -> Any:
        self._check("ping", "")
        return await super().ping()

    async def list_tables(self) -> list[str]:
        self._check("list_tables", "")
        return await super().list_tables()

    async def describe(self, table: str) -> Any:
        self._check("describe", table)
        return await super().describe(table)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        self._check("plan", table.name)
        async with super().open_scan(table, checkpoint, manifest) as scan:
            yield scan
        self.left.append(table.name)


@pytest.mark.parametrize(
    ("call", "levels"),
    [
        ("ping", {"source": "error", "target": "ok"}),
        ("list_tables", {"source": "ok", "target": "ok", "x*": "error", "bad": "ok", "orders": "ok"}),
        ("describe", {"source": "ok", "target": "ok", "bad": "error", "orders": "ok", "x_1": "ok"}),
        ("plan", {"source": "ok", "target": "ok", "bad": "error", "orders": "ok", "x_1": "ok"}),
    ],
)
async def test_a_fault_in_one_table_hides_no_other(
    warehouse: Warehouse, app: Database, call: str, levels: dict[str, str]
) -> None:
    for name in ("bad", "x_1"):
        warehouse.run(f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, updated_at TIMESTAMP)")
    source = Broken(warehouse, call)
    tables: list[Any] = ["bad", "orders", retl.Table(match="x*")]
    job = retl.Pipeline("p", source=source, target=app.target(), tables=tables, cursor="updated_at")
    with capture_logs() as logged:
        found = await job.check()
    assert [line["exception"].splitlines()[-1] for line in logged] == ["ZeroDivisionError: a fault"]
    assert {finding.subject: finding.level for finding in found} == levels
    (error,) = [finding.message for finding in found if finding.level == "error"]
    assert "unexpected ZeroDivisionError: a fault" in error and "report it" in error
    if call == "plan":
        assert sorted(source.left) == ["orders", "x_1"]
        errors: list[Exception] = []
        with capture_logs():
            assert [plan.table.name for plan in await job.plan(errors=errors)] == ["orders", "x_1"]
        assert [str(error) for error in errors] == [error]
    await job.aclose()


async def test_a_new_column_of_the_source_is_told_once_and_by_plan(warehouse: Warehouse, app: Database) -> None:
    job = pipeline(warehouse, app)
    await job.run_once()
    warehouse.run("ALTER TABLE orders ADD COLUMN note VARCHAR DEFAULT 'x'")
    text = (
        "the source has the new column note; a column that the target gets now is NULL in all rows below the watermark"
    )
    assert any(text in warning for plan in await job.plan() for warning in plan.warnings)
    report = (await job.run_once()).scans[0]
    assert any(text in warning and "retl reset" in warning for warning in report.warnings)
    assert (await job.run_once()).scans[0].warnings == ()
    assert app.rows("orders", "note, id")[-1] == (None, 8) and app.rows("orders", "note, id")[0] == ("x", 9)


@pytest.mark.parametrize(("words", "warns"), [({"new_columns": "ignore"}, 1), ({"cursor": False}, 0)])
async def test_a_new_column_that_is_not_taken_or_whose_rows_are_all_read_needs_no_reset(
    warehouse: Warehouse, app: Database, words: dict[str, Any], warns: int
) -> None:
    table = retl.Table("orders", **{"cursor": "updated_at", **words})
    await pipeline(warehouse, app, table).run_once()
    warehouse.run("ALTER TABLE orders ADD COLUMN note VARCHAR DEFAULT 'x'")
    report = (await pipeline(warehouse, app, table).run_once()).scans[0]
    assert len(report.warnings) == warns
    assert not any("retl reset" in warning for warning in report.warnings)
