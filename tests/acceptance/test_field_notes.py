"""Bugs that users of well-known tools have met, each as a test over every route. The names of the tests tell the bugs."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from typing import Any

import anyio
import pytest

import retl
from retl import events
from tests.routes.route import Route, Row, at, moment, old
from tests.support import Recorder

pytestmark = pytest.mark.usefixtures("at_once")


def ids(route: Route, table: str = "events") -> list[int]:
    return [key for (key,) in route.rows(table, "id")]


# Windows ----------------------------------------------------------------------


@pytest.mark.needs("source cursors")
async def test_rows_at_and_just_below_the_watermark_are_not_missed(route: Route) -> None:
    route.fill(2)
    job = route.pipeline(route.table(cursor="ts", lookback="1m"))
    await job.run_once()
    route.source.insert("events", (2, "b", at(1)), (3, "c", at(1) - dt.timedelta(microseconds=1)))
    await job.run_once()
    assert route.rows("events", "id", "v") == [(0, "old"), (1, "old"), (2, "b"), (3, "c")]


async def test_a_source_whose_only_row_is_its_maximum_is_not_read_as_empty(route: Route) -> None:
    route.fill(1)
    report = (await route.pipeline().run_once()).scans[0]
    assert (report.rows, route.rows("events")) == (1, old(0))


@pytest.mark.needs("source live")
async def test_an_update_during_the_scan_is_read_now_or_next_time(route: Route) -> None:
    route.fill(6)
    job = route.pipeline(slice_rows=1)
    # Row 5 moves beyond the upper bound after the bound was taken and before its slice is read.
    Recorder(job).when(events.ScanPlanned, lambda _: route.source.update("events", 5, v="new", ts=at(99)))
    await job.run_once()
    await job.run_once()
    assert route.rows("events") == [*old(0, 1, 2, 3, 4), (5, "new", at(99))]


@pytest.mark.needs("source live", "source cursors")
async def test_every_statement_of_a_scan_has_the_same_upper_bound(route: Route) -> None:
    route.fill(6)
    job = route.pipeline(slice_rows=2)
    number = itertools.count(100)

    def insert(_: object) -> None:
        route.source.insert("events", (next(number), "later", at(999)))

    Recorder(job).when(events.SliceCommitted, insert, once=False)
    first = (await job.run_once()).scans[0]
    assert (moment(first.upper), moment(first.watermark)) == (at(5), at(5))
    assert route.rows("events") == old(*range(6))
    await job.run_once()
    assert set(route.source.rows("events")) >= set(route.rows("events")) > set(old(*range(6)))


async def test_equal_timestamps_across_slices_are_neither_lost_nor_doubled(route: Route) -> None:
    route.fill(200, every=40)
    job = route.pipeline(slice_rows=7)
    assert (await job.run_once()).scans[0].rows == 200
    assert route.rows("events") == route.source.rows("events") and ids(route) == list(range(200))
    again = (await job.run_once()).scans[0]
    assert (again.rows, again.changed) in [(40, 0), (40, None), (0, 0)]
    assert route.equal()


@pytest.mark.needs("source cursors")
async def test_row_committed_late_with_an_older_cursor_is_rescued_by_lookback(route: Route) -> None:
    route.source.create("events", {"v": "text", "ts": "time"})
    route.source.insert("events", (1, "a", at(0)), (2, "b", at(1200)))
    job = route.pipeline(route.table(cursor="ts", lookback="30m"))
    await job.run_once()
    # A transaction that began before the scan and is committed after it.
    route.source.insert("events", (3, "late", at(-300)), (4, "too late", at(-1200)))
    report = (await job.run_once()).scans[0]
    # Within 30 minutes of the watermark it is found; what is older is what lookback does not cover.
    assert route.rows("events", "id", "v") == [(1, "a"), (2, "b"), (3, "late")]
    assert (moment(report.lower), moment(report.watermark)) == (at(-600), at(1200))


@pytest.mark.needs("source cursors")
async def test_row_committed_late_is_rescued_by_settle(route: Route) -> None:
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    route.source.create("events", {"v": "text", "ts": "time"})
    route.source.insert("events", (1, "old", now - dt.timedelta(hours=2)), (2, "new", now))
    await route.pipeline(route.table(cursor="ts", settle="1h")).run_once()
    assert ids(route) == [1]
    # A transaction that took long commits a row with an older cursor than the newest one.
    route.source.insert("events", (3, "late", now - dt.timedelta(minutes=30)))
    await route.pipeline(route.table(cursor="ts", settle="1h")).run_once()
    assert ids(route) == [1]
    # By then all of them have settled. Some sources let a moment settle in any case.
    job = route.pipeline(route.table(cursor="ts"))
    with anyio.fail_after(30):
        while 2 not in ids(route):
            await job.run_once()
    assert route.rows("events") == route.source.rows("events")


@pytest.mark.needs("source cursors")
@pytest.mark.parametrize("choice", ["warn", "include", "fail"])
async def test_rows_without_a_cursor_value_are_never_lost_in_silence(route: Route, choice: Any) -> None:
    route.fill(4)
    nulls: list[Row] = [(50, "null", None), (51, "null", None)]
    route.source.insert("events", *nulls)
    job = route.pipeline(route.table(cursor="ts", null_cursor=choice), slice_rows=1)
    if choice == "fail":
        with pytest.raises(retl.GuardStopped, match=r"2 rows have no value.*ts"):
            await job.run_once()
        assert route.target.tables() == []
        return
    for _ in range(2):
        report = (await job.run_once()).scans[0]
        assert (report.null_cursor_rows, moment(report.watermark)) == (2, at(3))
    assert route.rows("events") == [*old(*range(4)), *(nulls if choice == "include" else [])]
    assert bool(report.warnings) == (choice == "warn")


async def test_an_incremental_run_with_nothing_new_does_not_wipe_the_target(route: Route) -> None:
    route.fill(2)
    job = route.pipeline()
    await job.run_once()
    route.source.delete("events")
    report = (await job.run_once()).scans[0]
    assert (report.rows, report.status) == (0, "done")
    assert route.rows("events") == old(0, 1)


# Columns ----------------------------------------------------------------------


@pytest.mark.needs("source columns")
@pytest.mark.parametrize("policy", ["add", "ignore", "fail"])
async def test_a_new_column_is_never_lost_in_silence(route: Route, policy: Any) -> None:
    route.fill(1)
    job = route.pipeline(route.table(cursor="ts", new_columns=policy))
    await job.run_once()
    route.source.add_column("events", "city")
    route.source.insert("events", (1, "b", at(1), "Köln"))
    if policy == "fail":
        with pytest.raises(retl.SchemaDrift, match=r"column 'city'.*new_columns"):
            await job.run_once()
        assert ids(route) == [0]
        return
    report = (await job.run_once()).scans[0]
    if policy == "add":
        assert route.rows("events", "id", "city") == [(0, None), (1, "Köln")]
    else:
        assert ids(route) == [0, 1]
        assert any("'city'" in warning for warning in report.warnings)


@pytest.mark.needs("source columns")
async def test_a_dropped_column_is_reported(route: Route) -> None:
    route.fill(1)
    job = route.pipeline()
    await job.run_once()
    route.source.drop_column("events", "v")
    route.source.insert("events", (1, at(1)))
    report = (await job.run_once()).scans[0]
    assert any("no longer has the column v" in warning for warning in report.warnings)
    assert route.rows("events", "id", "v") == [(0, "old"), (1, None)]


@pytest.mark.needs("source columns")
@pytest.mark.parametrize(("column", "before", "after"), [("v", "int", "text"), ("ts", "int", "time")])
async def test_a_retyped_column_is_refused_and_not_squeezed_in(
    route: Route, column: str, before: str, after: str
) -> None:
    kinds = {"v": "text", "ts": "time"}
    route.source.create("events", kinds | {column: before})
    route.source.insert("events", (1, 7, 7) if column == "ts" else (1, 7, at(0)))
    job = route.pipeline()
    await job.run_once()
    route.source.create("events", kinds | {column: after})
    route.source.insert("events", (2, "007", at(1)))
    said = r"cursor column 'ts' was of type .* and is now .*retl reset" if column == "ts" else r"events.*column 'v'"
    with pytest.raises(retl.SchemaDrift, match=said):
        await job.run_once()
    assert ids(route) == [1]


@pytest.mark.needs("source cursors")
async def test_another_cursor_for_the_same_table_asks_for_a_reset(route: Route) -> None:
    route.source.create("events", {"v": "text", "ts": "time", "seen": "time"})
    route.source.insert("events", (1, "a", at(1), at(0)))
    await route.pipeline().run_once()
    job = route.pipeline(route.table(cursor="seen"))
    with pytest.raises(retl.ConfigError, match=r"made with the cursor 'ts'.*retl reset"):
        await job.run_once()
    assert await job.reset(route.source.called("events")) == 1
    await job.run_once()
    assert moment((await job.status()).tables[0].watermark) == at(0)
    await job.aclose()


# Commits ----------------------------------------------------------------------


@pytest.mark.needs("target refuses", "target atomic")
async def test_data_and_checkpoint_are_committed_together_or_not_at_all(route: Route) -> None:
    route.fill(4)
    job = route.pipeline()
    await job.run_once()
    route.target.refuse("retl_checkpoints")
    route.source.update("events", 3, v="moved", ts=at(99))
    with pytest.raises(retl.RetlError, match="no retl_checkpoints"):
        await job.run_once()
    assert route.rows("events") == old(*range(4))
    route.target.allow("retl_checkpoints")
    await job.run_once()
    assert route.equal()


@pytest.mark.needs("target refuses")
async def test_a_watermark_is_not_saved_before_its_rows(route: Route) -> None:
    route.fill(4)
    job = route.pipeline()
    await job.run_once()
    route.target.refuse("events")
    route.source.insert("events", (77, "x", at(99)))
    with pytest.raises(retl.RetlError, match=r"no events|does not allow this now"):
        await job.run_once()
    assert route.is_at((await job.status()).tables[0].watermark, at(3))
    route.target.allow("events")
    await job.run_once()
    assert route.equal()


@pytest.mark.needs("source columns")
async def test_rows_that_are_added_are_not_doubled_by_a_crash(route: Route) -> None:
    route.fill(9)
    table = route.table(cursor="ts", write=retl.Write.APPEND, settle="1s")
    with anyio.CancelScope() as scope:
        dying = route.pipeline(table, slice_rows=2)
        heard = Recorder(dying)

        def die(_: events.SliceCommitted) -> None:
            if len(heard.of(events.SliceCommitted)) == 2:
                scope.cancel()

        heard.when(events.SliceCommitted, die, once=False)
        await dying.run_once()
    assert scope.cancelled_caught
    assert 0 < len(ids(route)) < 9
    for _ in range(2):
        await route.pipeline(table).run_once()
    assert route.equal()


@pytest.mark.needs("source failing_rows", "source streams")
async def test_a_first_load_that_fails_resumes_at_the_last_slice(route: Route) -> None:
    failing = route.source.failing(7)
    route.fill(10)
    with pytest.raises(retl.SourceError):
        await route.pipeline(route.table(cursor="ts", **failing), slice_rows=2).run_once()
    assert route.rows("events") == old(*range(6))
    report = (await route.pipeline(slice_rows=2).run_once()).scans[0]
    assert (moment(report.lower), report.rows) == (at(5), 5)
    assert route.equal()


async def test_a_run_that_was_taken_over_commits_nothing(route: Route) -> None:
    route.fill(4)
    job = route.pipeline()
    await job.run_once()
    route.source.insert("events", (77, "x", at(99)))
    Recorder(job).when(events.ScanPlanned, lambda _: route.target.take_over())
    with pytest.raises(retl.LeaseLost, match="another process has taken this pipeline over"):
        await job.run_once()
    # Where data and checkpoint are two commits, the rows may have arrived; they will again.
    assert set(old(*range(4))) <= set(route.rows("events"))
    assert route.is_at((await job.status()).tables[0].watermark, at(3))
    if route.target.columns:
        assert route.rows("events") == old(*range(4))
    await job.aclose()


# Keys -------------------------------------------------------------------------


@pytest.mark.needs("source columns")
async def test_duplicate_keys_are_told_apart_by_the_cursor_or_refused(route: Route) -> None:
    route.source.create("log", {"v": "text", "ts": "time"}, key=False)
    route.source.insert("log", (1, "old", at(0)), (1, "new", at(1)), (2, "x", at(0)))
    await route.pipeline(route.table("log", key="id", cursor="ts")).run_once()
    assert route.rows("log", "id", "v") == [(1, "new"), (2, "x")]

    job = route.pipeline(route.table("log", to="whole", key="id"))
    with pytest.raises(retl.RepeatedKey, match=r"notes / log.*\(id\).*\{\"id\":\"?1\"?\} occurs more than once"):
        await job.run_once()
    assert route.rows("whole") == []


@pytest.mark.needs("source columns")
async def test_a_null_key_is_a_reject_and_not_a_lost_row(route: Route) -> None:
    route.source.create("log", {"v": "text"}, key=False)
    route.source.insert("log", (None, "lost?"), (2, "x"))
    job = route.pipeline(route.table("log", key="id", max_rejects=1))
    await job.run_once()
    assert route.rows("log", "id", "v") == [(2, "x")]
    rejects = [(json.loads(reject.content), reject.reason) for reject in await job.rejects()]
    assert rejects == [({"id": None, "v": "lost?"}, "the key is NULL")]
    await job.aclose()


@pytest.mark.needs("source columns")
async def test_no_usable_key_is_an_error_before_anything_is_written(route: Route) -> None:
    route.source.create("log", {"v": "text"}, key=False)
    route.source.insert("log", (2, "x"))
    with pytest.raises(retl.ConfigError, match=r"notes / log.*no usable key.*write = \"append\""):
        await route.pipeline(route.table("log")).run_once()
    assert route.target.tables() == []
