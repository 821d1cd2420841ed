"""StarRocks and Doris as sources: a full scan by partitions, and the partitions that it may leave out."""

from __future__ import annotations

from typing import Any

import pytest

from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan
from retl.testing import Scans, table_spec
from retl.testing.rows import read_slice
from tests.fake_olap.errors import Refusal
from tests.fake_olap.tables import Partition
from tests.integration.olap.scenes import DORIS, STARROCKS, Scene, ids, reads, sent

MONTHS = {"jan": ("2024-01-01", "2024-02-01"), "feb": ("2024-02-01", "2024-03-01"), "mar": ("2024-03-01", "2024-04-01")}


def partition(name: str) -> str:
    low, high = MONTHS[name]
    return f'PARTITION {name} VALUES [("{low}"), ("{high}"))'


def create(scene: Scene, table: str = "days", months: list[str] | None = None) -> None:
    parts = ", ".join(partition(name) for name in months or list(MONTHS))
    scene.create(
        table,
        "id INT NOT NULL, day DATE NOT NULL, note VARCHAR(20)",
        key="id, day",
        partition=f"PARTITION BY RANGE (day) ({parts})",
    )


@pytest.fixture
def days(scene: Scene) -> Scene:
    """Three partitions: two rows, one row, none."""
    create(scene)
    scene.insert("days", [1, "2024-01-05", "a"], [2, "2024-01-31", "b"], [3, "2024-02-29", "c"])
    return scene


def remembered(plan: SourcePlan, before: Checkpoint | None = None, *, slices: int | None = None) -> Checkpoint:
    """What the engine keeps once the slices, or the first of them, are committed."""
    detail: dict[str, Any] = dict(before.detail) if before else {}
    for slice_ in plan.slices[:slices]:
        detail |= slice_.detail
    return Checkpoint(detail=detail)


async def rows_read(source: Scans, plan: SourcePlan) -> list[list[int]]:
    return [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices]


async def test_a_full_scan_reads_partition_by_partition(days: Scene) -> None:
    async with days.source() as source:
        plan = await source.plan(table_spec("days"))
        days.statements()
        found = await rows_read(source, plan)
    assert sorted(found) == [[], [1, 2], [3]]
    assert plan.rows == 3 and all(slice_.divisible and slice_.detail == {} for slice_ in plan.slices)
    said = reads(days.statements(), "days")
    assert sorted(sql.split("PARTITION ")[1] for sql in said) == ["(`feb`)", "(`jan`)", "(`mar`)"]
    assert "PARTITION (" in plan.statements[0]


async def test_a_table_without_partitions_is_read_as_a_whole(scene: Scene) -> None:
    scene.create("plain", "id INT NOT NULL")
    scene.insert("plain", [1], [2])
    async with scene.source() as source:
        plan = await source.plan(table_spec("plain"))
        assert await rows_read(source, plan) == [[1, 2]]
    assert "PARTITION" not in plan.statements[0]


async def test_where_and_columns_hold_within_a_partition(days: Scene) -> None:
    async with days.source() as source:
        plan = await source.plan(table_spec("days", where="id > 1", columns=["id"], key="id"))
        assert plan.rows == 2
        assert sorted(await rows_read(source, plan)) == [[], [2], [3]]


async def test_partitions_that_come_by_themselves(scene: Scene) -> None:
    unit = (
        "AUTO PARTITION BY RANGE (date_trunc(day, 'day')) ()" if scene.doris else "PARTITION BY date_trunc('day', day)"
    )
    scene.create(
        "days",
        f"id INT NOT NULL, day {'DATETIME(0)' if scene.doris else 'DATETIME'} NOT NULL",
        key="id, day",
        partition=unit,
    )
    scene.insert("days", [1, "2024-01-01 10:00:00"], [2, "2024-01-03 11:00:00"])
    async with scene.source() as source:
        assert sorted(await rows_read(source, await source.plan(table_spec("days")))) == [[1], [2]]
        await source.leave()
        scene.insert("days", [3, "2024-02-02 00:00:00"])
        assert sorted(await rows_read(source, await source.plan(table_spec("days")))) == [[1], [2], [3]]


@STARROCKS
async def test_what_starrocks_lists_no_partitions_of_is_read_as_a_whole(days: Scene) -> None:
    """A view, or a table of another catalog."""
    days.fake.engine.table(days.database, "days").partitions.clear()
    async with days.source(skip_unchanged_partitions=True) as source:
        plan = await source.plan(table_spec("days"))
        assert await rows_read(source, plan) == [[1, 2, 3]]
        assert "PARTITION" not in plan.statements[0]


@DORIS
async def test_a_view_whose_partitions_doris_refuses_to_show(days: Scene) -> None:
    days.inject(
        error=Refusal(1105, "HY000", "errCode = 2, detailMessage = Table[days] is not a OLAP table"),
        on="SHOW PARTITIONS",
    )
    async with days.source() as source:
        plan = await source.plan(table_spec("days"))
        assert await rows_read(source, plan) == [[1, 2, 3]]


# skip_unchanged_partitions -------------------------------------------------------


async def test_what_has_not_changed_is_not_read_again(days: Scene) -> None:
    table = table_spec("days")
    async with days.source(skip_unchanged_partitions=True) as source:
        first = await source.plan(table)
        assert sorted(await rows_read(source, first)) == [[], [1, 2], [3]]
        after = remembered(first)

        second = await source.plan(table, after)
        assert (second.slices, second.rows) == ((), 0)

        days.insert("days", [4, "2024-02-01", "d"], [3, "2024-02-29", "changed"])
        third = await source.plan(table, after)
        assert await rows_read(source, third) == [[3, 4]]
        after = remembered(third, after)
        assert (await source.plan(table, after)).slices == ()

        # A row that is deleted changes its partition too.
        days.run("DELETE FROM days WHERE id = 1 AND day = '2024-01-05'")
        fourth = await source.plan(table, after)
        assert await rows_read(source, fourth) == [[2]]


async def test_a_table_of_one_partition_is_skipped_as_a_whole(scene: Scene) -> None:
    scene.create("plain", "id INT NOT NULL, v INT")
    scene.insert("plain", [1, 1], [2, 1])
    async with scene.source(skip_unchanged_partitions=True) as source:
        first = await source.plan(table_spec("plain"))
        assert await rows_read(source, first) == [[1, 2]]
        after = remembered(first)
        assert (await source.plan(table_spec("plain"), after)).slices == ()
        scene.insert("plain", [2, 2])
        again = await source.plan(table_spec("plain"), after)
        assert await rows_read(source, again) == [[1, 2]]


@pytest.mark.parametrize(
    "words",
    [
        {"where": "id < 100"},
        {"columns": ["id", "day"]},
        {"expressions": {"note": "UPPER(note)"}},
        {"rename": {"note": "n"}},
    ],
)
async def test_another_selection_reads_everything_again(days: Scene, words: dict[str, Any]) -> None:
    async with days.source(skip_unchanged_partitions=True) as source:
        first = remembered(await source.plan(table_spec("days")))
        changed = await source.plan(table_spec("days", **words), first)
        assert sorted(await rows_read(source, changed)) == [[], [1, 2], [3]]


async def test_another_selection_that_got_only_halfway_goes_on_with_the_rest(days: Scene) -> None:
    """The partitions that were not read again must not pass for read under the new selection."""
    other = table_spec("days", expressions={"note": "UPPER(note)"})
    async with days.source(skip_unchanged_partitions=True) as source:
        before = remembered(await source.plan(table_spec("days")))
        halfway = await source.plan(other, before)
        done = ids(await read_slice(source.scan(halfway), halfway.slices[0]))
        rest = await source.plan(other, remembered(halfway, before, slices=1))
        assert len(rest.slices) == 2
        assert sorted(done + [number for slice_ in await rows_read(source, rest) for number in slice_]) == [1, 2, 3]


async def test_dropped_and_new_partitions(scene: Scene) -> None:
    create(scene, months=["jan", "feb"])
    scene.insert("days", [1, "2024-01-05", "a"], [3, "2024-02-29", "c"])
    async with scene.source(skip_unchanged_partitions=True) as source:
        after = remembered(await source.plan(table_spec("days")))
        # The stand-ins know no ALTER TABLE ... ADD PARTITION: the table is made again, with the numbers of its partitions.
        kept = (
            None
            if not hasattr(scene.server, "engine")
            else scene.fake.engine.table(scene.database, "days").partitions[1]
        )
        scene.run("DROP TABLE days")
        create(scene, months=["feb", "mar"])
        scene.insert("days", [3, "2024-02-29", "c"], [5, "2024-03-05", "e"])
        if kept is not None:
            parts = scene.fake.engine.table(scene.database, "days").partitions
            parts[0].id, parts[0].version = kept.id, kept.version
        plan = await source.plan(table_spec("days"), after)
        assert await rows_read(source, plan) == ([[5]] if kept is not None else [[3], [5]])


async def test_a_partition_that_is_made_again_is_another_one(scene: Scene) -> None:
    """TRUNCATE and INSERT OVERWRITE put a new partition in the place of the old one, whose version starts again."""
    create(scene)
    scene.insert("days", [1, "2024-01-05", "old"], [2, "2024-02-05", "old"])
    async with scene.source(skip_unchanged_partitions=True) as source:
        after = remembered(await source.plan(table_spec("days")))
        scene.run("DROP TABLE days")
        create(scene)
        scene.insert("days", [1, "2024-01-05", "new"], [2, "2024-02-05", "new"])
        plan = await source.plan(table_spec("days"), after)
        found = [
            row["note"] for slice_ in plan.slices for row in (await read_slice(source.scan(plan), slice_)).to_pylist()
        ]
        assert found == ["new", "new"]


@STARROCKS
async def test_a_partition_that_is_stored_as_several(days: Scene) -> None:
    """With random buckets StarRocks stores one partition as several, each with a version: any of them may grow."""
    table = days.fake.engine.table(days.database, "days")
    jan = next(slice_ for slice_ in table.partitions if slice_.name == "jan")
    second = type(jan)(jan.id + 100_000, "jan", "false", jan.values, [])
    table.partitions.append(second)
    async with days.source(skip_unchanged_partitions=True) as source:
        first = await source.plan(table_spec("days"))
        assert sorted(await rows_read(source, first)) == [[], [1, 2], [3]]
        after = remembered(first)
        assert (await source.plan(table_spec("days"), after)).slices == ()
        for slice_ in (jan, second):
            slice_.change()
            plan = await source.plan(table_spec("days"), after)
            assert await rows_read(source, plan) == [[1, 2]]
            after = remembered(plan, after)


@pytest.mark.parametrize("words", [{"pre_action": "truncate"}, {"pre_action": "swap"}, {"write": "append"}])
async def test_a_scan_that_replaces_or_appends_reads_everything(days: Scene, words: dict[str, Any]) -> None:
    async with days.source(skip_unchanged_partitions=True) as source:
        after = remembered(await source.plan(table_spec("days")))
        assert after.detail
        plan = await source.plan(table_spec("days", **words), after)
        assert sorted(await rows_read(source, plan)) == [[], [1, 2], [3]]


async def test_versions_are_noted_before_the_rows_are_read(days: Scene) -> None:
    """A change while the scan runs may be missing from it: then the next one must read the partition again."""
    async with days.source(skip_unchanged_partitions=True) as source:
        plan = await source.plan(table_spec("days"))
        days.insert("days", [6, "2024-03-06", "f"])
        assert sum(batch.num_rows for batch in await sent(source, plan)) == 4
        again = await source.plan(table_spec("days"), remembered(plan))
        assert await rows_read(source, again) == [[6]]


@STARROCKS
async def test_a_temporary_partition_is_none_of_the_table(days: Scene) -> None:
    """It waits to take the place of another one, and readers do not see it."""
    table = days.fake.engine.table(days.database, "days")
    table.partitions.append(Partition(9, "next_jan", "false", "", [], temporary=True))
    async with days.source() as source:
        plan = await source.plan(table_spec("days"))
        assert sorted(await rows_read(source, plan)) == [[], [1, 2], [3]]
