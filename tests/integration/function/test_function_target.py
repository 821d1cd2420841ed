"""DuckDB and SQLite into a user's callable, as into the API of a service."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import duckdb
import numpy as np
import pyarrow as pa
import pytest

import retl
from retl.connectors import DuckDB, FunctionTarget, IteratorSource, SQLite
from retl.connectors.function import BatchContext
from retl.engine import commit as engine_commit
from retl.model.errors import LeaseLost
from tests.integration.function.service import Api, orders
from tests.support import Database, Recorder


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    path = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE customers AS SELECT i AS id, 'customer ' || i AS name, (i / 4)::DECIMAL(10, 2) AS credit, "
            "DATE '2024-01-01' + i::INT AS since, {'tier': i % 3} AS extra, "
            "TIMESTAMPTZ '2024-05-01 00:00:00+00' + i * INTERVAL 1 SECOND AS at FROM range(1, 2501) AS t(i)"
        )
    return path


def sync(source: Any, write: Any, state: Path, **words: Any) -> retl.Pipeline:
    options = {name: words.pop(name) for name in ("rows", "batch_rows") if name in words}
    return retl.Pipeline(
        "push",
        source=source,
        target=FunctionTarget(write, **options),
        tables=[retl.Table("customers", **{"key": "id", "cursor": "at", **words})],
        state=retl.SqliteStore(str(state)),
    )


async def test_rows_are_python_values_in_batches_of_the_size_asked_for(warehouse: Path, tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []
    sizes: list[int] = []
    contexts: set[BatchContext] = set()

    async def write(rows: list[dict[str, Any]], context: BatchContext) -> None:
        got.extend(rows)
        sizes.append(len(rows))
        contexts.add(context)

    pipeline = sync(DuckDB(str(warehouse)), write, tmp_path / "state.db", rows=True, batch_rows=400, to="crm")
    report = (await pipeline.run_once()).scans[0]
    assert report.rows == 2500
    assert max(sizes) <= 400
    assert len(sizes) < 20
    assert sorted(row["id"] for row in got) == list(range(1, 2501))
    (one,) = (row for row in got if row["id"] == 5)
    assert one == {
        "id": 5,
        "name": "customer 5",
        "credit": Decimal("1.25"),
        "since": date(2024, 1, 6),
        "extra": {"tier": 2},
        "at": datetime(2024, 5, 1, 0, 0, 5, tzinfo=UTC),
    }
    (context,) = contexts
    assert (context.pipeline, context.table, context.scan_id, context.key) == ("push", "crm", report.scan_id, ("id",))


async def test_batches_are_arrow_in_their_logical_types(warehouse: Path, tmp_path: Path) -> None:
    got: list[pa.RecordBatch] = []

    async def write(batch: pa.RecordBatch) -> None:
        got.append(batch)

    await sync(DuckDB(str(warehouse)), write, tmp_path / "state.db").run_once()
    table = pa.Table.from_batches(got)
    assert table.schema.field("credit").type == pa.decimal128(10, 2)
    assert table.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert sorted(table["id"].to_pylist()) == list(range(1, 2501))


async def test_only_what_changed_is_delivered_by_the_next_scan(warehouse: Path, tmp_path: Path) -> None:
    got: dict[int, dict[str, Any]] = {}
    calls = 0

    def write(rows: list[dict[str, Any]]) -> None:  # not async: runs in a thread
        nonlocal calls
        calls += 1
        got.update({row["id"]: row for row in rows})

    for _ in range(2):
        await sync(DuckDB(str(warehouse)), write, tmp_path / "state.db", rows=True).run_once()
    calls_before = calls
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute('UPDATE customers SET name = \'new\', "at" = "at" + INTERVAL 1 DAY WHERE id = 3')
    report = (await sync(DuckDB(str(warehouse)), write, tmp_path / "state.db", rows=True).run_once()).scans[0]
    assert report.rows == 2  # and the one that ties with the watermark
    assert calls == calls_before + 1
    assert got[3]["name"] == "new"
    assert len(got) == 2500


async def test_after_a_crash_rows_are_delivered_again_and_none_is_missing(warehouse: Path, tmp_path: Path) -> None:
    delivered: list[int] = []
    calls = 0

    async def write(rows: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        delivered.extend(row["id"] for row in rows)
        if calls == 7:
            raise RuntimeError("the service went away")

    def again() -> retl.Pipeline:
        state = tmp_path / "state.db"
        return sync(DuckDB(str(warehouse)), write, state, rows=True, batch_rows=200, slice_rows=500)

    with pytest.raises(retl.TargetError, match="RuntimeError: the service went away") as caught:
        await again().run_once()
    assert isinstance(caught.value.__cause__, RuntimeError)
    status = (await again().status()).tables[0]
    assert status.watermark is not None
    before = len(delivered)
    await again().run_once()
    assert set(delivered) == set(range(1, 2501))
    assert 0 < len(delivered) - 2500 <= 500  # of the slice that was under way, at most
    assert before < len(delivered)


async def test_a_transient_error_is_tried_again_by_itself(tmp_path: Path) -> None:
    got: set[int] = set()
    failures = 1

    async def write(rows: list[dict[str, Any]]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise retl.TransientError("429: too many requests")
        got.update(row["id"] for row in rows)

    source = Api(orders(range(1, 301))).source()
    report = (await sync(source, write, tmp_path / "state.db", rows=True).run_once()).scans[0]
    assert report.attempts == 1
    assert got == set(range(1, 301))


async def test_an_api_with_a_limit_of_calls_gets_each_batch_once(tmp_path: Path) -> None:
    """What is tried again is the batch that the API did not take, not the slice."""
    delivered: list[int] = []
    calls = 0
    seen: list[float] = []

    async def write(rows: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            seen.append(time.monotonic())
            raise retl.TransientError("429: too many requests", retry_after=0.05)
        if len(seen) == 1 and calls == 4:
            seen.append(time.monotonic())
        delivered.extend(row["id"] for row in rows)

    source = Api(orders(range(1, 301))).source()
    pipeline = sync(source, write, tmp_path / "state.db", rows=True, batch_rows=20)
    report = (await pipeline.run_once()).scans[0]
    assert (report.attempts, report.rows) == (1, 300)
    assert delivered == list(range(1, 301))
    assert seen[1] - seen[0] >= 0.05


async def test_a_batch_is_given_up_after_a_while(tmp_path: Path) -> None:
    async def write(rows: list[dict[str, Any]]) -> None:
        raise retl.TransientError("429: too many requests", retry_after=3600)

    target = FunctionTarget(write, rows=True, retry_for="1h")
    source = Api(orders([1])).source()
    pipeline = retl.Pipeline("push", source=source, target=target, tables=["orders"], state=retl.MemoryStore())
    with pytest.raises(retl.ConfigError, match="retry_for"):
        FunctionTarget(write, retry_for="soon")
    with anyio.move_on_after(0.5) as waiting:
        await pipeline.run_once()
    assert waiting.cancelled_caught  # it waits as long as it was asked to, and can be cancelled
    await pipeline.aclose()


async def test_refused_rows_are_put_aside_with_their_reason(tmp_path: Path) -> None:
    taken: set[int] = set()

    async def write(rows: list[dict[str, Any]]) -> Any:
        taken.update(row["id"] for row in rows if row["id"] % 100)
        return ((number, "no hundreds") for number, row in enumerate(rows) if row["id"] % 100 == 0)

    source = Api(orders(range(1, 301))).source()
    strict = sync(source, write, tmp_path / "strict.db", rows=True)
    with pytest.raises(retl.RowsRejected, match="no hundreds"):
        await strict.run_once()
    assert (await strict.status()).tables[0].watermark is None
    await strict.aclose()
    pipeline = sync(source, write, tmp_path / "state.db", rows=True, max_rejects=3)
    report = (await pipeline.run_once()).scans[0]
    assert (report.rejects, report.rows) == (3, 300)
    rejects = await pipeline.rejects()
    assert {reject.key for reject in rejects} == {'{"id":100}', '{"id":200}', '{"id":300}'}
    assert {reject.reason for reject in rejects} == {"no hundreds"}
    assert all('"name":"order ' in reject.content for reject in rejects)
    assert taken == {number for number in range(1, 301) if number % 100}
    await pipeline.aclose()


async def test_a_report_says_which_side_waited_for_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("retl.engine.channel.time", SimpleNamespace(monotonic=lambda: now[0]))

    async def pass_a_second() -> None:
        """Once the other side can do nothing but wait."""
        await anyio.wait_all_tasks_blocked()
        now[0] += 1.0

    async def slow(rows: list[dict[str, Any]]) -> None:
        await pass_a_second()

    async def slow_orders() -> AsyncIterator[dict[str, Any]]:
        for row in orders(range(1, 41)):
            await pass_a_second()
            yield row

    pipeline = sync(Api(orders(range(1, 2001))).source(), slow, tmp_path / "1.db", rows=True, batch_rows=20)
    behind = (await pipeline.run_once()).scans[0]
    assert behind.read_wait > behind.write_wait == 0
    ahead = (await sync(IteratorSource(slow_orders), _ignore, tmp_path / "2.db", cursor=False).run_once()).scans[0]
    assert ahead.write_wait > ahead.read_wait == 0


async def test_a_former_owner_delivers_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a function has sent nobody takes back: the fence is proved before, not only with the watermark after it."""
    monkeypatch.setattr(engine_commit, "_PROOF_SECONDS", 0.0)
    sent: list[int] = []
    sizes: list[int] = []

    def write(rows: list[dict[str, Any]]) -> None:
        sent.extend(row["id"] for row in rows)
        sizes.append(len(sent))
        if len(sizes) == 2:
            with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
                connection.execute("UPDATE retl_leases SET owner = 'a successor', epoch = epoch + 1")

    pipeline = sync(Api(orders(range(1, 301))).source(), write, tmp_path / "state.db", rows=True, batch_rows=50)
    with pytest.raises(LeaseLost):
        await pipeline.run_once()
    assert len(sizes) == 2 and 0 < len(sent) < 300
    await pipeline.aclose()


async def test_a_scan_that_begins_after_a_takeover_delivers_nothing(tmp_path: Path) -> None:
    """The host was frozen between two runs: that the last one had an owner proves nothing of this one."""
    sent: list[int] = []
    state = Database(tmp_path / "state.db")
    source = Api(orders(range(1, 11))).source()
    pipeline = sync(source, lambda rows: sent.extend(row["id"] for row in rows), tmp_path / "state.db", rows=True)

    def robbed(_: object) -> None:
        state.run("UPDATE retl_leases SET owner = 'a successor', epoch = epoch + 1")
        pipeline.trigger()

    heard = Recorder(pipeline)
    heard.when(retl.events.ScanFinished, robbed)
    heard.when(retl.events.ScanFailed, lambda _: pipeline.stop())
    heard.when(retl.events.SliceCommitted, lambda _: pipeline.stop() if len(sent) > 10 else None, once=False)
    with anyio.fail_after(20):
        await pipeline.run_forever()
    assert sent == list(range(1, 11))
    assert [event.report.error_type for event in heard.of(retl.events.ScanFailed)] == ["LeaseLost"]


@pytest.mark.parametrize(
    "returned",
    [
        17,
        "ok",
        [1, 2],
        [(0, "reason"), (5000, "no such row")],
        {"status": 200},
        [(-1, "before the first")],
        [(np.int64(2), "behind the last")],
        [(np.True_, "a bool")],
        itertools.repeat((0, "again")),
    ],
)
async def test_an_answer_that_means_nothing_is_an_error(tmp_path: Path, returned: Any) -> None:
    async def write(batch: pa.RecordBatch) -> Any:
        return returned

    with pytest.raises(retl.TargetError, match="return None, or the rows that were rejected"):
        await sync(Api(orders([1, 2])).source(), write, tmp_path / "state.db").run_once()


async def _ignore(batch: pa.RecordBatch) -> None:
    return None


@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap"])
async def test_a_table_cannot_be_replaced(tmp_path: Path, pre_action: str) -> None:
    pipeline = sync(Api(orders([1])).source(), _ignore, tmp_path / "state.db", cursor=False, pre_action=pre_action)
    with pytest.raises(retl.UnsupportedError, match="a function has none"):
        await pipeline.run_once()


async def test_a_target_that_cannot_mirror_says_so_before_anything_is_read(tmp_path: Path) -> None:
    pipeline = sync(Api(orders([1])).source(), _ignore, tmp_path / "state.db", cursor=False, pre_action="mirror")
    with pytest.raises(retl.UnsupportedError, match='as pre_action = "mirror" asks'):
        await pipeline.run_once()


async def test_what_the_blacklist_forbids_cannot_be_promised(tmp_path: Path) -> None:
    pipeline = retl.Pipeline(
        "push",
        source=Api(orders([1])).source(),
        target=FunctionTarget(_ignore),
        tables=["orders"],
        blacklist=["DELETE", "DROP"],
        state=retl.SqliteStore(str(tmp_path / "state.db")),
    )
    with pytest.raises(retl.UnsupportedError, match="DELETE"):
        await pipeline.run_once()


async def test_refused_rows_may_be_named_as_numpy_names_them(tmp_path: Path) -> None:
    async def write(rows: list[dict[str, Any]]) -> Any:
        return zip(np.flatnonzero([row["id"] == 2 for row in rows]), ["no twos"], strict=True)

    pipeline = sync(Api(orders([1, 2, 3])).source(), write, tmp_path / "state.db", rows=True, max_rejects=1)
    await pipeline.run_once()
    assert [(reject.key, reject.reason) for reject in await pipeline.rejects()] == [('{"id":2}', "no twos")]
    await pipeline.aclose()


async def test_too_many_refused_rows_do_not_deny_what_was_delivered(tmp_path: Path) -> None:
    async def write(rows: list[dict[str, Any]]) -> Any:
        return {1: "no twos"}

    with pytest.raises(retl.RowsRejected, match="2 rows of it were delivered and will be again"):
        await sync(Api(orders([1, 2, 3])).source(), write, tmp_path / "state.db", rows=True).run_once()


def test_a_pipeline_without_a_place_for_checkpoints_is_refused() -> None:
    with pytest.raises(retl.ConfigError, match=r"no state store.*state=retl.SqliteStore"):
        retl.Pipeline("push", source=Api().source(), target=FunctionTarget(_ignore), tables=["orders"])


def test_a_function_that_is_not_wrapped_is_refused_with_the_wrapper() -> None:
    words: Any = {"tables": ["orders"], "state": retl.MemoryStore()}
    rows: Any = orders
    with pytest.raises(retl.ConfigError, match=r"source is of type function.*retl.connectors.IteratorSource"):
        retl.Pipeline("push", source=rows, target=FunctionTarget(_ignore), **words)
    with pytest.raises(retl.ConfigError, match=r"target is of type function.*retl.connectors.FunctionTarget"):
        retl.Pipeline("push", source=Api().source(), target=_ignore, **words)  # type: ignore[arg-type]
    with pytest.raises(retl.ConfigError, match=r"write tables=\['orders'\]"):
        retl.Pipeline("push", source=Api().source(), target=FunctionTarget(_ignore), **{**words, "tables": "orders"})


@pytest.mark.parametrize("batch_rows", [0, -1, True, 2.5])
def test_a_batch_size_that_is_none_is_refused(batch_rows: Any) -> None:
    with pytest.raises(retl.ConfigError, match="batch_rows"):
        FunctionTarget(_ignore, batch_rows=batch_rows)


async def test_text_that_is_no_value_of_its_type_is_put_aside(tmp_path: Path) -> None:
    """A source may send any column as text; what cannot be read as its type is never delivered as another value."""
    got: list[dict[str, Any]] = []

    async def write(rows: list[dict[str, Any]]) -> None:
        got.extend(rows)

    path = tmp_path / "legacy.db"
    _make_legacy(path)
    pipeline = sync(SQLite(str(path)), write, tmp_path / "state.db", rows=True, cursor=False, max_rejects=1, key="id")
    report = (await pipeline.run_once()).scans[0]
    assert report.rejects == 1
    assert got == [{"id": 1, "price": Decimal("1.50")}]
    (reject,) = await pipeline.rejects()
    assert (reject.column, reject.key) == ("price", '{"id":2}')
    await pipeline.aclose()


def _make_legacy(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, price DECIMAL(10, 2))")
        connection.execute("INSERT INTO customers VALUES (1, '1.50'), (2, 'free')")
