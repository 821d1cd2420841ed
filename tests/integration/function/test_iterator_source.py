"""The user's iterators into SQLite, end to end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pyarrow as pa
import pytest

import retl
from retl.connectors import IteratorSource, SQLite
from retl.connectors.function import ReadWindow
from retl.testing import CrashingSource
from tests.integration.function.service import START, Api, expected, into_sqlite, order, orders, rows_in


async def test_scan_after_scan_follows_the_function(tmp_path: Path) -> None:
    api = Api(orders(range(1, 501)))
    pipeline = into_sqlite(api.source(), tmp_path / "app.db")
    first = (await pipeline.run_once()).scans[0]
    assert (first.rows, first.watermark) == (500, "2024-05-01 00:08:20.000000Z")
    api.rows[7] = order(7, name="changed", at=START + timedelta(hours=1))
    api.rows[900] = order(900, at=START + timedelta(hours=2))
    second = (await pipeline.run_once()).scans[0]
    assert second.rows == 3  # and the row that ties with the watermark
    assert api.windows[-1].lower == "2024-05-01 00:08:20.000000Z"
    assert rows_in(tmp_path / "app.db") == expected(api.rows.values())
    assert (await pipeline.run_once()).scans[0].changed == 0


async def test_a_function_that_ignores_the_window_is_right_too(tmp_path: Path) -> None:
    rows = orders(range(1, 21))

    async def read() -> list[dict[str, Any]]:
        return rows

    pipeline = into_sqlite(IteratorSource(read, key="id"), tmp_path / "app.db")
    await pipeline.run_once()
    rows.append(order(50))
    report = (await pipeline.run_once()).scans[0]
    assert (report.rows, report.changed) == (21, 1)
    assert report.watermark == "2024-05-01 00:00:50.000000Z"
    assert rows_in(tmp_path / "app.db") == expected(rows)


async def test_an_ordered_first_load_resumes_where_it_was_cut(tmp_path: Path) -> None:
    api = Api(orders(range(1, 1001)))
    api.fail_at = 700
    path = tmp_path / "app.db"
    with pytest.raises(retl.SourceError, match="the line was cut"):
        await into_sqlite(api.source(ordered=True), path, slice_rows=100).run_once()
    landed = len(rows_in(path))
    assert 100 <= landed < 1000
    api.served = 0
    report = (await into_sqlite(api.source(ordered=True), path, slice_rows=100).run_once()).scans[0]
    assert api.windows[-1].lower is not None
    assert report.rows <= 1000 - landed + 1
    assert rows_in(path) == expected(api.rows.values())


async def test_ties_at_the_place_where_it_was_cut_are_not_lost(tmp_path: Path) -> None:
    api = Api([order(number, at=START + timedelta(seconds=number // 150)) for number in range(1, 1001)], page=50)
    path = tmp_path / "app.db"
    for cut in (220, 230, 420, 640):
        api.served, api.fail_at = 0, cut
        with pytest.raises(retl.SourceError):
            await into_sqlite(api.source(ordered=True), path, slice_rows=60).run_once()
    await into_sqlite(api.source(ordered=True), path, slice_rows=60).run_once()
    assert rows_in(path) == expected(api.rows.values())


async def test_an_unordered_load_that_is_cut_commits_nothing(tmp_path: Path) -> None:
    api = Api(orders(range(1, 1001)))
    api.fail_at = 700
    pipeline = into_sqlite(api.source(), tmp_path / "app.db", slice_rows=100)
    with pytest.raises(retl.SourceError):
        await pipeline.run_once()
    assert "orders" not in _tables(tmp_path / "app.db") or rows_in(tmp_path / "app.db") == []
    assert (await pipeline.status()).tables[0].watermark is None
    await pipeline.run_once()
    assert rows_in(tmp_path / "app.db") == expected(api.rows.values())


async def test_a_transient_error_is_tried_again_without_doubling_a_row(tmp_path: Path) -> None:
    api = Api(orders(range(1, 1001)))
    source = CrashingSource(api.source(schema=_SCHEMA), at_batch=2)
    report = (await into_sqlite(source, tmp_path / "app.db").run_once()).scans[0]
    assert source.crashes == 1
    assert report.rows == 1000
    assert rows_in(tmp_path / "app.db") == expected(api.rows.values())


_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("name", pa.string()),
        ("amount", pa.float64()),
        ("at", pa.timestamp("us", tz="UTC")),
    ]
)


async def test_rows_that_break_the_promised_order_end_the_scan(tmp_path: Path) -> None:
    source = IteratorSource(lambda: orders([1, 3, 2]), key="id", ordered=True)
    with pytest.raises(retl.SourceError, match=r"promised in the order of 'at'.*00:00:02.* came after .*00:00:03"):
        await into_sqlite(source, tmp_path / "app.db").run_once()


async def test_lookback_does_not_move_the_watermark_back(tmp_path: Path) -> None:
    api = Api(orders(range(1, 101)))
    pipeline = into_sqlite(api.source(), tmp_path / "app.db", lookback="10s")
    watermark = (await pipeline.run_once()).scans[0].watermark
    del api.rows[100], api.rows[99]
    api.rows[500] = order(500, at=START + timedelta(seconds=95))
    report = (await pipeline.run_once()).scans[0]
    assert api.windows[-1].lower == "2024-05-01 00:01:30.000000Z"
    assert report.watermark == watermark
    assert (500,) in rows_in(tmp_path / "app.db", columns="id")


async def test_rows_without_a_cursor_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*orders(range(1, 11)), order(11, at=None), order(12, at=None)]
    report = (await into_sqlite(Api(rows).source(), tmp_path / "app.db").run_once()).scans[0]
    assert report.null_cursor_rows == 2
    assert any("2 rows have no value in the cursor column 'at'" in warning for warning in report.warnings)
    assert rows_in(tmp_path / "app.db") == expected(rows[:10])


async def test_rows_without_a_cursor_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    rows = [*orders(range(1, 11)), order(11, at=None)]
    report = (await into_sqlite(Api(rows).source(), tmp_path / "app.db", null_cursor="include").run_once()).scans[0]
    assert (report.null_cursor_rows, report.warnings) == (1, ())
    assert rows_in(tmp_path / "app.db") == expected(rows)


async def test_rows_without_a_cursor_stop_the_scan_where_that_is_wanted(tmp_path: Path) -> None:
    rows = [*orders(range(1, 11)), order(11, at=None)]
    with pytest.raises(retl.GuardStopped, match="no value in the cursor column"):
        await into_sqlite(Api(rows).source(), tmp_path / "app.db", null_cursor="fail").run_once()
    assert not (tmp_path / "app.db").exists() or "orders" not in _tables(tmp_path / "app.db")


def _tables(path: Path) -> set[str]:
    return {name for (name,) in rows_in(path, "(SELECT name AS id FROM sqlite_master)", "id")}


async def test_a_row_that_does_not_fit_ends_the_scan_and_leaves_the_target(tmp_path: Path) -> None:
    api = Api(orders(range(1, 501)))
    pipeline = into_sqlite(api.source(), tmp_path / "app.db")
    await pipeline.run_once()
    api.rows[600] = order(600, amount="twelve")
    with pytest.raises(retl.SourceError, match=r"column 'amount' is double, but a row has 'twelve' \(str\)"):
        await pipeline.run_once()
    assert rows_in(tmp_path / "app.db") == expected(orders(range(1, 501)))


async def test_learnt_columns_stay_and_new_ones_are_added(tmp_path: Path) -> None:
    api = Api(orders(range(1, 11)))
    path = tmp_path / "app.db"
    await into_sqlite(api.source(), path).run_once()
    api.rows = {20: order(20, amount=None, tags=["a", {"b": 1}])}
    await into_sqlite(api.source(), path).run_once()  # as after a restart
    api.rows = {21: order(21, amount=3)}
    await into_sqlite(api.source(), path).run_once()
    found = rows_in(path, columns="id, amount, tags")
    assert found[-2:] == [(20, None, '["a",{"b":1}]'), (21, 3.0, None)]


async def test_a_function_without_rows_is_no_error_once_its_columns_are_known(tmp_path: Path) -> None:
    api = Api(orders([1, 2]))
    pipeline = into_sqlite(api.source(), tmp_path / "app.db")
    await pipeline.run_once()
    api.rows = {}
    report = (await pipeline.run_once()).scans[0]
    assert (report.status, report.rows, report.watermark) == ("done", 0, "2024-05-01 00:00:02.000000Z")
    with pytest.raises(retl.SourceError, match="columns cannot be known"):
        await into_sqlite(Api().source(), tmp_path / "other.db").run_once()


async def test_an_exception_of_the_function_is_named_with_its_cause(tmp_path: Path) -> None:
    async def read() -> AsyncIterator[dict[str, Any]]:
        yield order(1)
        raise KeyError("token")

    pipeline = into_sqlite(IteratorSource(read, key="id", schema=_SCHEMA), tmp_path / "app.db")
    with pytest.raises(retl.SourceError, match=r"sync / orders .*KeyError: 'token'") as caught:
        await pipeline.run_once()
    assert isinstance(caught.value.__cause__, KeyError)


async def test_several_tables_renamed_columns_and_a_swap(tmp_path: Path) -> None:
    def customers() -> Iterator[dict[str, Any]]:
        yield {"code": "a", "since": date(2020, 1, 1)}
        yield {"code": "b", "since": None}

    source = IteratorSource({"orders": Api(orders([1, 2])).read, "customers": customers}, key={"orders": "id"})
    pipeline = retl.Pipeline(
        "sync",
        source=source,
        target=SQLite(str(tmp_path / "app.db")),
        tables=[
            retl.Table("orders", cursor="at", rename={"at": "changed_at"}, columns=["id", "at"]),
            retl.Table("customers", pre_action=retl.PreAction.SWAP, rename={"code": "id"}),
        ],
    )
    assert await pipeline.tables() == ["customers", "orders"]
    for _ in range(2):
        assert (await pipeline.run_once()).ok
    assert rows_in(tmp_path / "app.db", columns="id, changed_at") == [
        (1, "2024-05-01 00:00:01.000000Z"),
        (2, "2024-05-01 00:00:02.000000Z"),
    ]
    assert rows_in(tmp_path / "app.db", "customers", "*") == [("a", "2020-01-01"), ("b", None)]


async def test_a_function_that_gives_nothing_does_not_empty_the_target(tmp_path: Path) -> None:
    api = Api(orders([1, 2]))
    pipeline = into_sqlite(api.source(schema=_SCHEMA), tmp_path / "app.db", cursor=False, pre_action="truncate")
    await pipeline.run_once()
    api.rows = {}
    with pytest.raises(retl.GuardStopped, match="no rows"):
        await pipeline.run_once()
    assert len(rows_in(tmp_path / "app.db")) == 2


async def test_appended_rows_wait_until_they_are_settled(tmp_path: Path) -> None:
    now = START + timedelta(seconds=10)
    api = Api(orders(range(1, 11)))

    async def clock() -> datetime:
        return now

    pipeline = into_sqlite(api.source(clock=clock, key=()), tmp_path / "app.db", write="append", settle="3s")
    assert (await pipeline.run_once()).scans[0].watermark == "2024-05-01 00:00:07.000000Z"
    assert api.windows[-1].upper == "2024-05-01 00:00:07Z"
    now += timedelta(seconds=100)
    api.rows[99] = order(99, at=START + timedelta(seconds=8))
    for _ in range(2):
        await pipeline.run_once()
    assert rows_in(tmp_path / "app.db") == expected(api.rows.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"where": "id > 1"}, "where has no meaning for a function"),
        ({"settle": "5s"}, "names none"),
        ({"cursor": "name_"}, "did you mean 'name'"),
        ({"cursor": "amount"}, "does not order change"),
        ({"columns": ["id"]}, "'at' is not among the columns"),
    ],
)
async def test_words_that_cannot_be_honoured_are_refused(tmp_path: Path, words: dict[str, Any], message: str) -> None:
    pipeline = into_sqlite(Api(orders([1])).source(), tmp_path / "app.db", **words)
    with pytest.raises(retl.ConfigError, match=message):
        await pipeline.run_once()


async def test_a_slow_generator_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    waits, answered = threading.Event(), threading.Event()

    def read(window: ReadWindow) -> Iterator[dict[str, Any]]:
        for row in orders(range(1, 4)):
            answered.clear()
            waits.set()
            assert answered.wait(20), "the event loop stood still while the generator waited"
            yield row

    async def answer() -> None:
        while True:
            await anyio.sleep(0.005)
            if waits.is_set():
                waits.clear()
                answered.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await into_sqlite(IteratorSource(read, key="id"), tmp_path / "app.db").run_once()
        tasks.cancel_scope.cancel()
    assert rows_in(tmp_path / "app.db") == expected(orders(range(1, 4)))


async def test_a_cancelled_scan_closes_the_users_generator(tmp_path: Path) -> None:
    begun, closed = anyio.Event(), anyio.Event()

    async def read() -> AsyncIterator[dict[str, Any]]:
        try:
            for number in range(1_000_000):
                yield order(number)
                if number % 1000 == 999:
                    begun.set()
                    await anyio.sleep(0.01)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                closed.set()

    pipeline = into_sqlite(IteratorSource(read, key="id", schema=_SCHEMA), tmp_path / "app.db")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run_once)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert closed.is_set()
    await pipeline.aclose()


def test_what_cannot_be_called_again_is_refused() -> None:
    with pytest.raises(retl.ConfigError, match="give the function itself"):
        IteratorSource(iter(orders([1])))  # type: ignore[arg-type]


async def test_the_clock_must_speak_of_the_same_time_as_the_cursor(tmp_path: Path) -> None:
    source = Api(orders([1])).source(clock=lambda: datetime.now(UTC).replace(tzinfo=None))
    with pytest.raises(retl.ConfigError, match="the clock must have a zone"):
        await into_sqlite(source, tmp_path / "app.db", settle="5s").run_once()
