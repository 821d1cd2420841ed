"""The three ways to read, what chooses between them, and what holds for all: one snapshot, every row, no waiting queue."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pyarrow as pa
import pytest

import retl
from retl.connectors import SQLite
from retl.connectors.redshift import scan as scan_module
from retl.connectors.redshift import spool as spool_module
from retl.connectors.redshift.spool import Spool
from retl.model.actions import Write
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TransientError
from retl.model.table import TableSpec
from tests.fake_redshift import Refusal
from tests.integration.redshift.scene import Scene, ids, until

NUMBERS = TableSpec("numbers", "numbers")
BY_TIME = TableSpec("numbers", "numbers", cursor="ts", key=("id",))


def fetched(statements: list[str]) -> list[str]:
    return [sql for sql in statements if sql.startswith("FETCH")]


async def test_a_small_result_comes_in_one_answer(scene: Scene) -> None:
    scene.numbers(50)
    assert ids(await scene.collect(NUMBERS)) == list(range(50))
    assert not any("DECLARE" in sql or "UNLOAD" in sql for sql in scene.statements())


async def test_a_cursor_fetches_a_thousand_rows_at_a_time_and_is_closed(scene: Scene) -> None:
    scene.numbers(2_500)
    assert ids(await scene.collect(NUMBERS, read="cursor")) == list(range(2_500))
    sent = scene.statements()
    assert set(fetched(sent)) == {"FETCH FORWARD 1000 FROM retl_rows"}
    assert "CLOSE retl_rows" in sent


async def test_the_estimate_chooses_the_way_and_the_plan_says_it(
    lake_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake_scene.numbers(10)
    bucket = {**lake_scene.unload(), "read": "auto"}
    assert "in one answer" in "\n".join((await lake_scene.plan(NUMBERS, **bucket)).statements)
    monkeypatch.setattr(scan_module, "_WHOLE_BYTES", 100)
    assert "by a cursor, FETCH 1,000" in "\n".join((await lake_scene.plan(NUMBERS, **bucket)).statements)
    monkeypatch.setattr(scan_module, "_UNLOAD_BYTES", 200)
    told = "\n".join((await lake_scene.plan(NUMBERS, **bucket)).statements)
    assert "by UNLOAD" in told
    assert "IAM_ROLE 'arn:aws:iam::123456789012:role/unload'" in told
    assert "by a cursor" in "\n".join((await lake_scene.plan(NUMBERS)).statements)  # without a bucket


async def test_a_plan_warns_of_the_cap_of_the_least_node_type(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.numbers(10)
    assert not (await scene.plan(NUMBERS)).warnings
    monkeypatch.setattr(scan_module, "_CAP_SHARE", 1e-9)
    (warning,) = (await scene.plan(NUMBERS)).warnings
    assert "8,000 MB" in warning
    assert "unload" in warning


async def test_the_cap_of_cursors_ends_a_scan_with_an_error_that_names_unload(scene: Scene) -> None:
    scene.numbers(2_000)
    scene.fake.cursor_cap = 10_000
    with pytest.raises(SourceError, match=r"larger than the cursors .* unload = ") as caught:
        await scene.collect(NUMBERS, read="cursor")
    assert not isinstance(caught.value, TransientError)


async def test_unload_without_a_bucket_is_the_users_error(scene: Scene) -> None:
    scene.numbers(1)
    with pytest.raises(ConfigError, match="needs a bucket"):
        await scene.collect(NUMBERS, read="unload")


async def test_bounds_counts_and_rows_are_of_the_snapshot_that_the_max_begins(scene: Scene) -> None:
    scene.numbers(100)
    async with scene.source(read="cursor") as source:
        plan = await source.plan(BY_TIME, Checkpoint())
        await scene.cluster.run(f"DELETE FROM {scene.schema}.numbers WHERE id < 50")
        await scene.cluster.run(f"INSERT INTO {scene.schema}.numbers VALUES (7, 'late', '2024-01-01 00:00:07')")
        assert plan.exact_rows
        assert plan.rows == 100
        found = []
        for slice_ in plan.slices:
            async with aclosing(source.read(plan, slice_)) as batches:
                found += [value async for batch in batches for value in batch.column("id").to_pylist()]
    assert sorted(found) == list(range(100))


async def test_the_first_statement_that_touches_the_table_is_the_max(scene: Scene) -> None:
    scene.numbers(10)
    await scene.plan(BY_TIME)
    sent = scene.statements()
    touching = [sql for sql in sent if re.search(r'"numbers"', sql) and "svv_" not in sql and "pg_" not in sql]
    assert "MAX(" in touching[0]
    assert sent.index("BEGIN") < sent.index(touching[0])


async def test_rows_that_are_left_out_in_silence_are_missed(scene: Scene, tmp_path: Path) -> None:
    """A firewall may drop the end of a result: the counts of the same snapshot tell."""
    scene.numbers(50)
    scene.inject('"numbers"', after_rows=20)
    # The bounds and the counts come in single rows.
    async with retl.Pipeline(
        "short",
        source=scene.connector(),
        target=SQLite(str(tmp_path / "app.db")),
        tables=[retl.Table("numbers", write=Write.APPEND)],
    ) as pipeline:
        with pytest.raises(SourceError, match="counted 50 rows for this slice and sent 20"):
            await pipeline.run_once()


async def test_a_lost_line_ends_the_snapshot_and_is_tried_again_as_a_whole(scene: Scene) -> None:
    scene.numbers(5_000)
    scene.inject("FETCH", cut=True, after_rows=10)
    with pytest.raises(ConnectionFailed):
        await scene.collect(NUMBERS, read="cursor")
    assert ids(await scene.collect(NUMBERS, read="cursor")) == list(range(5_000))


async def test_a_line_that_goes_silent_is_given_up(scene: Scene) -> None:
    scene.numbers(2_000)
    fault = scene.inject("FETCH", silent=True, after_rows=10)
    with pytest.raises(ConnectionFailed):
        await scene.collect(NUMBERS, read="cursor", statement_timeout=1, connect_timeout=1)
    assert fault.reached.is_set()


async def test_after_a_failed_statement_the_snapshot_is_said_to_be_gone(scene: Scene) -> None:
    scene.numbers(10)
    async with scene.source(read="cursor") as source:
        plan = await source.plan(NUMBERS, Checkpoint())
        for expected in ("no such thing", "snapshot .* is gone"):
            scene.inject("DECLARE", error=Refusal("no such thing", "42P01"))
            with pytest.raises(RetlError, match=expected):
                async with aclosing(source.read(plan, plan.slices[0])) as batches:
                    await anext(batches)


async def test_error_1023_passes(scene: Scene) -> None:
    scene.numbers(10)
    scene.inject("MAX(", error=Refusal("1023", "XX000", "Serializable isolation violation on table - 100131"))
    with pytest.raises(TransientError, match="1023"):
        await scene.plan(BY_TIME)
    assert (await scene.plan(BY_TIME)).rows == 10


async def test_a_slow_target_does_not_hold_the_queue(scene: Scene) -> None:
    """All rows are fetched, and the cursor is closed, while the target has taken one batch."""
    scene.numbers(5_000)
    async with scene.source(read="cursor") as source:
        plan = await source.plan(NUMBERS, Checkpoint())
        async with aclosing(source.read(plan, plan.slices[0])) as batches:
            first = await anext(batches)
            await until(lambda: "CLOSE retl_rows" in scene.fake.statements)
            rest = sum([batch.num_rows async for batch in batches])
    assert first.num_rows + rest == 5_000


async def test_the_spool_keeps_order_and_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_IN_MEMORY", 1_000)
    sizes: list[int] = []

    async def batches() -> AsyncGenerator[pa.RecordBatch, None]:
        for number in range(60):
            yield pa.record_batch({"n": [number] * 100})

    spool = Spool(10_000)
    filling = asyncio.create_task(spool.fill(batches()))
    found = []
    while (batch := await spool.take()) is not None:
        found.append(batch.column("n")[0].as_py())
        sizes.append(spool.stored_bytes)
        await asyncio.sleep(0.001)
    await filling
    await spool.close()
    assert found == list(range(60))
    assert 0 < max(sizes) <= 10_000


async def test_a_key_is_no_promise_that_it_is_unique(scene: Scene) -> None:
    scene.create("keyed", "id INTEGER PRIMARY KEY, ts TIMESTAMP")
    scene.insert("keyed", (1, "2024-01-01 00:00:00"), (1, "2024-01-01 00:00:01"))
    plan = await scene.plan(TableSpec("keyed", "keyed", cursor="ts"))
    assert plan.key == ("id",)
    assert not plan.unique_key


async def test_many_rows_of_one_moment_are_cut_by_a_hash_and_counted(scene: Scene) -> None:
    scene.create("burst", "id INTEGER, ts TIMESTAMP")
    scene.insert("burst", *((n, "2024-01-01 00:00:00") for n in range(900)))
    table = TableSpec("burst", "burst", cursor="ts", key=("id",), slice_rows=200)
    plan = await scene.plan(table)
    assert len(plan.slices) == 5
    assert sum(slice_.rows or 0 for slice_ in plan.slices) == 900
    assert ids(await scene.collect(dataclasses.replace(table))) == list(range(900))


async def test_a_numeric_cursor_is_cut_by_its_values(scene: Scene) -> None:
    scene.create("priced", "id INTEGER, version NUMERIC(20, 4)")
    scene.insert("priced", *((n, f"{n}.5") for n in range(500)))
    table = TableSpec("priced", "priced", cursor="version", key=("id",), slice_rows=100)
    assert len((await scene.plan(table)).slices) >= 5
    assert ids(await scene.collect(table)) == list(range(500))
