"""What was counted is compared with what came, and what was sent with what is there."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pyarrow as pa
import pytest

import retl
from retl import events
from retl.connectors.base import CommitResult, SourceScan, TableWriter
from retl.connectors.sql.writer import StagedWriter
from retl.connectors.sqlite.target import SQLiteTarget
from retl.model.checkpoint import Checkpoint, FencedCheckpoint, Reject
from retl.model.plan import BatchSize, SourcePlan, WriteSpec
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.state.base import LeaseRow, Manifest
from retl.testing import Scans, table_spec
from retl.testing.crashing import CrashingSource
from tests.acceptance.test_scan_rules import expected
from tests.support import Database, Recorder, Warehouse

REPLACING = ["truncate", "rename_and_create", "swap"]


class Limited(CrashingSource):
    """A source whose server cuts every answer off after so many rows."""

    def __init__(self, warehouse: Warehouse | Database, limit: int | None, **plan: Any) -> None:
        super().__init__(warehouse.source(), at_batch=1, times=0)
        self.limit = limit
        self.step = 2
        self._plan = plan

    def planned(self, plan: SourcePlan) -> SourcePlan:
        return dataclasses.replace(plan, **self._plan)

    async def count(self, scan: SourceScan, slice_: Slice) -> int | None:
        return None

    async def batches(self, scan: SourceScan, slice_: Slice) -> AsyncGenerator[pa.RecordBatch, None]:
        left = self.limit if self.limit is not None else 2**31
        async with aclosing(scan.read(slice_)) as batches:
            async for batch in batches:
                for start in range(0, batch.num_rows, self.step):
                    yield batch.slice(start, min(self.step, left))
                    left = max(0, left - self.step)


def pipeline(source: Any, app: Database, table: retl.Table | None = None, **words: Any) -> retl.Pipeline:
    target = words.pop("target", None) or app.target()
    tables = [table or retl.Table("orders", cursor="updated_at")]
    return retl.Pipeline("p", source=source, target=target, tables=tables, **words)


def full(pre_action: str, **words: Any) -> retl.Table:
    return retl.Table("orders", pre_action=retl.PreAction(pre_action), **words)


# What was counted has come --------------------------------------------------------


async def test_a_slice_that_lacks_rows_of_its_snapshot_is_not_committed(warehouse: Warehouse, app: Database) -> None:
    source = Limited(warehouse, 3, exact_rows=True)
    job = pipeline(source, app, slice_rows=4)
    with pytest.raises(retl.SourceError, match="counted 4 rows for this slice and sent 3; nothing of it was committed"):
        await job.run_once()
    assert app.tables() == []
    source.limit = None
    assert (await job.run_once()).scans[0].lower is None
    assert app.rows("orders") == expected(0, 9)


@pytest.mark.parametrize("pre_action", ["none", *REPLACING])
async def test_a_scan_that_lacks_rows_of_its_snapshot_is_not_finished(
    warehouse: Warehouse, app: Database, pre_action: str
) -> None:
    await pipeline(warehouse.source(), app, full(pre_action)).run_once()
    source = Limited(warehouse, 9, exact_rows=True, slices=(Slice(index=0, divisible=True),))
    job = pipeline(source, app, full(pre_action))
    with pytest.raises(retl.SourceError, match="counted 10 rows for this scan and sent 9"):
        await job.run_once()
    if pre_action in ("none", "swap"):
        assert app.rows("orders") == expected(0, 9)
    source.limit = None
    await job.run_once()
    assert app.rows("orders") == expected(0, 9)


@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_replacing_scan_that_brings_much_less_than_was_counted_is_stopped(
    warehouse: Warehouse, app: Database, pre_action: str
) -> None:
    await pipeline(warehouse.source(), app, full(pre_action)).run_once()
    source = Limited(warehouse, 8)
    job = pipeline(source, app, full(pre_action))
    with pytest.raises(retl.GuardStopped, match="counted 10 rows before this scan, and only 8 came"):
        await job.run_once()
    assert app.rows("orders") == expected(0, 7 if pre_action != "swap" else 9)
    source.limit = 9  # a row may have been deleted meanwhile
    assert (await job.run_once()).scans[0].warnings == ()
    assert app.rows("orders") == expected(0, 8)
    source.limit = 2
    await pipeline(source, app, full(pre_action, max_shrink="90%")).run_once()
    assert app.rows("orders") == expected(0, 1)


@pytest.mark.parametrize(
    ("table", "limit", "warns"),
    [(full("none"), 8, True), (full("none"), 9, False), (None, 4, True), (None, 6, False)],
    ids=["full, much less", "full, a little less", "incremental, much less", "incremental, less"],
)
async def test_a_scan_that_brings_much_less_than_was_counted_says_so(
    warehouse: Warehouse, app: Database, table: retl.Table | None, limit: int, warns: bool
) -> None:
    report = (await pipeline(Limited(warehouse, limit), app, table).run_once()).scans[0]
    found = [warning for warning in report.warnings if f"counted 10 rows before this scan, and only {limit}" in warning]
    assert len(found) == warns
    assert report.rows == limit


class Cutting(Limited):
    """The same, which can be asked again how many rows there are. ``between`` happens once, after the first plan."""

    def __init__(self, warehouse: Warehouse | Database, limit: int | None, between: str = "") -> None:
        super().__init__(warehouse, limit)
        self.warehouse = warehouse
        self.between = between

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        async with super().open_scan(table, checkpoint, manifest) as scan:
            if self.between:
                await anyio.to_thread.run_sync(self.warehouse.run, self.between)
                self.between = ""
            yield scan

    async def count(self, scan: SourceScan, slice_: Slice) -> int | None:
        return await scan.recount(slice_)


@pytest.mark.parametrize("table", [None, full("none"), full("swap")], ids=["incremental", "none", "swap"])
async def test_rows_that_are_there_and_do_not_come_are_not_passed_over(
    warehouse: Warehouse, app: Database, table: retl.Table | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retl.engine.run._RETRY_SECONDS", 0.0)
    monkeypatch.setattr("retl.engine.reader.backoff", lambda attempt, most: 0.0)
    source = Cutting(warehouse, 9)
    job = pipeline(source, app, table)
    with pytest.raises(retl.TransientError, match="has 10 rows for this slice and sent 9; the slice was not committed"):
        await job.run_once()
    assert app.tables() == [] or app.rows("orders") == []
    assert (await job.status()).tables[0].watermark is None
    source.limit = None
    assert (await job.run_once()).rows == 10
    assert app.rows("orders") == expected(0, 9)


@pytest.mark.parametrize(
    "between",
    ["DELETE FROM orders WHERE id < 8", "UPDATE orders SET updated_at = '2025-01-01 00:00:00' WHERE id < 8"],
    ids=["deleted", "changed"],
)
async def test_rows_that_go_between_count_and_read_are_missed_by_nobody(
    tmp_path: Path, app: Database, between: str
) -> None:
    live = Database(tmp_path / "live.db")
    live.run(
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT, updated_at TIMESTAMP)",
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9) "
        "INSERT INTO orders SELECT i, 'city ' || i, '2024-01-01 00:00:0' || i FROM n",
    )
    job = pipeline(Cutting(live, None, between), app)
    assert (await job.run_once()).rows == 2
    await job.run_once()
    held = app.rows("orders", "id")
    assert sorted(held) == ([(8,), (9,)] if "DELETE" in between else [(number,) for number in range(10)])


# What was sent is there --------------------------------------------------------


class Telling(SQLiteTarget):
    """A target whose commits tell what became of the rows, and that may hold fewer than it took."""

    def __init__(self, app: Database, commits: list[dict[str, Any]], lacks: int = 0) -> None:
        super().__init__(app.target())
        self.commits = commits
        self.lacks = lacks

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        async with super().open_load(spec, begun) as writer:
            commit, count = writer.commit, writer.count

            async def told(fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
                return dataclasses.replace(await commit(fenced, slice_, rejects_left), **self.commits.pop(0))

            async def fewer() -> int:
                return await count() - self.lacks

            writer.commit, writer.count = told, fewer  # type: ignore[method-assign]
            yield writer


async def test_written_unchanged_older_and_dropped_rows_are_counted_apart(warehouse: Warehouse, app: Database) -> None:
    commits = [
        {"changed": 3, "unchanged": 1, "older": 1, "dropped": 0},
        {"changed": 0, "unchanged": 2, "older": 0, "dropped": 3},
        {"changed": 2, "unchanged": 0},
    ]
    job = pipeline(warehouse.source(), app, slice_rows=4, target=Telling(app, list(commits)))
    report = (await job.run_once()).scans[0]
    assert (report.rows, report.changed, report.unchanged, report.older, report.dropped) == (10, 5, 3, 1, 3)
    assert (await job.history())[0] == report
    assert (await job._store.load("p"))["orders"].written == 6
    await job.aclose()


async def test_what_a_target_cannot_tell_is_not_counted_as_none(warehouse: Warehouse, app: Database) -> None:
    target = Telling(app, [{"changed": 3, "unchanged": None}, {"changed": None, "unchanged": 2}, {}])
    report = (await pipeline(warehouse.source(), app, slice_rows=4, target=target).run_once()).scans[0]
    assert (report.changed, report.unchanged) == (None, None)


@pytest.mark.parametrize(("lacks", "dropped"), [(1, 0), (3, 2)])
async def test_a_shadow_that_holds_fewer_rows_than_were_taken_is_not_switched_in(
    warehouse: Warehouse, app: Database, lacks: int, dropped: int
) -> None:
    await pipeline(warehouse.source(), app, full("swap")).run_once()
    warehouse.run("UPDATE orders SET city = 'new'")
    target = Telling(app, [{"dropped": dropped}, {"dropped": dropped}], lacks)
    job = pipeline(warehouse.source(), app, full("swap"), target=target)
    with pytest.raises(retl.GuardStopped, match=f"holds {10 - lacks} rows, but the target has taken {10 - dropped}"):
        await job.run_once()
    assert app.rows("orders") == expected(0, 9)
    assert app.tables() == ["orders"]
    target.lacks = dropped
    await job.run_once()
    assert {city for (city,) in app.rows("orders", "city")} == {"new"}


# Rejects ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_rejects", "taken"), [(2, False), (3, True), ("29%", False), ("30%", True), (0, False), ("100%", True)]
)
@pytest.mark.parametrize("counts", [True, False])
async def test_the_limit_of_rejects_holds_over_the_whole_scan(
    warehouse: Warehouse, app: Database, max_rejects: Any, taken: bool, counts: bool
) -> None:
    """One row of each slice is refused; where the source cannot count, a share is one of the rows that came so far."""
    app.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT CHECK (id NOT IN (1, 5, 9)), updated_at TEXT)")
    source = Limited(warehouse, None) if counts else Limited(warehouse, None, rows=None)
    job = pipeline(source, app, slice_rows=4, max_rejects=max_rejects)
    if taken:
        assert (await job.run_once()).scans[0].rejects == 3
        assert app.rows("orders", "id") == [(i,) for i in (0, 2, 3, 4, 6, 7, 8)]
    else:
        with pytest.raises(retl.RowsRejected):
            await job.run_once()
        assert (9,) not in app.rows("orders", "id") and (8,) not in app.rows("orders", "id")


@pytest.mark.parametrize(("bad", "advised"), [("id = 1", True), ("id >= 5", False), ("id >= 0", False)])
async def test_more_patience_is_advised_only_where_few_rows_were_refused(
    warehouse: Warehouse, app: Database, bad: str, advised: bool
) -> None:
    app.run(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT CHECK (NOT ({bad})), updated_at TEXT)")
    with pytest.raises(retl.RowsRejected) as caught:
        await pipeline(warehouse.source(), app).run_once()
    assert ("raise max_rejects" in caught.value.remedy) is advised
    assert "retl rejects" in caught.value.remedy


@pytest.mark.parametrize(("keep", "left"), [("1d", ["1"]), ("3d", ["1", "2"])])
async def test_rejects_are_kept_as_long_as_is_wanted(
    warehouse: Warehouse, app: Database, keep: str, left: list[str]
) -> None:
    store = retl.MemoryStore()
    now = datetime.now(UTC)
    for key, age in (("1", timedelta(hours=23)), ("2", timedelta(days=2)), ("3", timedelta(days=4))):
        await store.add_rejects("p", [Reject(table="orders", key=key, reason="", content="{}", at=now - age)])
    await pipeline(warehouse.source(), app, state=store, keep_rejects=keep).run_once()
    assert sorted(reject.key for reject in await store.rejects("p")) == left


async def test_a_slice_that_is_read_again_is_counted_and_written_once(warehouse: Warehouse, app: Database) -> None:
    """Appended rows would be doubled by whatever is left of the first attempt: staged, or held back to be joined."""
    target = Telling(app, [{}, {}, {}])
    target.batch_size = BatchSize(rows=6)
    source = CrashingSource(Limited(warehouse, None), at_batch=4)
    table = retl.Table("orders", cursor="updated_at", write=retl.Write.APPEND, settle="1s", slice_rows=10)
    report = (await pipeline(source, app, table, target=target).run_once()).scans[0]
    assert source.crashes == 1
    assert (report.rows, report.attempts) == (10, 1)
    assert app.rows("orders") == expected(0, 9)


async def test_a_writer_learns_of_each_slice_before_its_rows_and_of_one_that_is_read_again_once_more(
    warehouse: Warehouse, app: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    write, discard = StagedWriter.write, StagedWriter.discard

    async def begin(writer: StagedWriter, slice_: Slice) -> None:
        heard.append(slice_.index)

    async def written(writer: StagedWriter, batch: pa.RecordBatch) -> None:
        heard.append("rows")
        await write(writer, batch)

    async def discarded(writer: StagedWriter) -> None:
        heard.append("emptied")  # after a commit, or to forget
        await discard(writer)

    for name, function in (("begin", begin), ("write", written), ("discard", discarded)):
        monkeypatch.setattr(StagedWriter, name, function)
    target = Telling(app, [{}, {}])
    target.batch_size = BatchSize(rows=2)
    source = CrashingSource(Limited(warehouse, None), at_batch=4)
    await pipeline(source, app, retl.Table("orders", cursor="updated_at"), slice_rows=5, target=target).run_once()
    assert source.crashes == 1
    assert app.rows("orders") == expected(0, 9)
    before, after = heard[: heard.index(1)], heard[heard.index(1) :]
    assert before == [0, "rows", "rows", "rows", "emptied"]
    assert after[0] == 1
    assert after.count(1) == 2
    again = after.index(1, 1)
    assert after[again - 1] in ("emptied", 1)
    assert "rows" in after[again:]


async def test_rows_that_may_not_be_inserted_do_not_count_as_written(warehouse: Warehouse, app: Database) -> None:
    app.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT, updated_at TEXT)")
    job = pipeline(warehouse.source(), app, blacklist=["INSERT"])
    for _ in range(2):
        assert (await job.run_once()).ok  # the table stays empty, and is not taken for lost
    assert (await job._store.load("p"))["orders"].written == 0
    await job.aclose()


# What the engine must not do ------------------------------------------------------


async def test_a_divisible_slice_that_is_broken_off_saves_nothing_of_what_was_not_read(
    warehouse: Warehouse, app: Database
) -> None:
    source = Limited(warehouse, None)
    async with Scans(source) as scans:
        whole = await scans.plan(table_spec("orders", cursor="updated_at", key="id"))
    (slice_,) = whole.slices
    detail = {"partition": "version 1"}
    source._plan = {
        "slices": (Slice(index=0, upper=slice_.upper, watermark=slice_.watermark, divisible=True, detail=detail),),
        "table": dataclasses.replace(whole.table, slice_rows=3),
    }
    job = pipeline(source, app)
    heard = Recorder(job)
    heard.when(events.SliceCommitted, lambda _: job.stop())
    report = (await job.run_once()).scans[0]
    assert (report.status, report.rows) == ("stopped", 4)
    saved = (await job._store.load("p"))["orders"]
    assert (saved.watermark, saved.detail) == (None, {})
    await job.run_once()
    assert app.rows("orders") == expected(0, 9)


class Stolen(retl.MemoryStore):
    """A store whose lease a successor takes over."""

    def steal(self) -> None:
        held = self._leases["p"]
        self._leases["p"] = LeaseRow("p", "a successor", held.epoch + 1, 0, held.ttl)


@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_former_owner_switches_nothing_where_the_state_is_kept_elsewhere(
    warehouse: Warehouse, app: Database, pre_action: str
) -> None:
    await pipeline(warehouse.source(), app, full(pre_action)).run_once()
    before = app.tables()
    warehouse.run("UPDATE orders SET city = 'new'")
    store = Stolen()
    job = pipeline(warehouse.source(), app, full(pre_action), state=store)
    heard = Recorder(job)
    heard.when(events.SliceCommitted, lambda _: store.steal())
    with pytest.raises(retl.LeaseLost):
        await job.run_once()
    if pre_action == "swap":
        assert app.tables() == before
        assert app.rows("orders") == expected(0, 9)
    assert (await store.load("p"))["orders"].columns is None  # not finished


async def test_what_a_former_owner_has_staged_is_not_committed_where_the_state_is_kept_elsewhere(
    warehouse: Warehouse, app: Database
) -> None:
    store = Stolen()

    class LosesItsLease(SQLiteTarget):
        """Between the last batch of a slice and its commit a successor takes over."""

        @asynccontextmanager
        async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
            async with super().open_load(spec, begun) as writer:
                write = writer.write

                async def then_lost(batch: pa.RecordBatch) -> None:
                    await write(batch)
                    store.steal()

                writer.write = then_lost  # type: ignore[method-assign]
                yield writer

    job = pipeline(warehouse.source(), app, target=LosesItsLease(app.target()), state=store)
    with pytest.raises(retl.LeaseLost):
        await job.run_once()
    assert app.rows("orders") == []
    assert (await store.load("p")).get("orders", Checkpoint()).watermark is None


async def test_a_lost_lease_ends_the_run(warehouse: Warehouse, app: Database) -> None:
    warehouse.run("CREATE TABLE later (id BIGINT PRIMARY KEY)")
    store = Stolen()
    job = retl.Pipeline("p", source=warehouse.source(), target=app.target(), tables=["orders", "later"], state=store)
    heard = Recorder(job)
    heard.when(events.ScanPlanned, lambda _: store.steal())
    with pytest.raises(retl.LeaseLost):
        await job.run_once(check=False)
    assert [event.table for event in heard.of(events.ScanStarted)] == ["orders"]
    assert [event.report.error_type for event in heard.of(events.ScanFailed)] == ["LeaseLost"]
