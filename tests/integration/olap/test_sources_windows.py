"""StarRocks and Doris as sources: the windows of incremental scans, to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from retl.connectors.olap.starrocks import StarRocksDialect
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError
from retl.testing import table_spec
from retl.testing.rows import read_slice
from tests.integration.olap.scenes import DORIS, Scene, ids

# Three neighbours that differ in their last digit, the watermark in the middle: what a cursor's type is, and how its
# system writes the values.
STARROCKS_CURSORS = {
    "DATETIME": ["2024-05-01 12:00:00.000001", "2024-05-01 12:00:00.000002", "2024-05-01 12:00:00.000003"],
    "DATE": ["2024-02-28", "2024-02-29", "2024-03-01"],
    "BIGINT": ["9007199254740992", "9007199254740993", "9007199254740994"],
    "INT": ["20240130", "20240131", "20240201"],
    "LARGEINT": [str(-(2**127)), str(2**127 - 2), str(2**127 - 1)],
    "DECIMAL(38, 9)": [f"{'9' * 29}.{last}" for last in ("999999997", "999999998", "999999999")],
}
DORIS_CURSORS = {
    **STARROCKS_CURSORS,
    "DATETIME": ["2024-05-01 12:00:00", "2024-05-01 12:00:01", "2024-05-01 12:00:02"],
    **{
        f"DATETIME({digits})": [f"2024-05-01 12:00:59.{'9' * (digits - 1)}{last}" for last in (7, 8, 9)]
        for digits in range(1, 7)
    },
    "TIMESTAMPTZ": [f"2024-05-01 12:00:00.00000{last}+00:00" for last in (1, 2, 3)],
}
CURSORS = [
    *[
        pytest.param("starrocks", native, values, id=f"starrocks-{native}")
        for native, values in STARROCKS_CURSORS.items()
    ],
    *[pytest.param("doris", native, values, id=f"doris-{native}") for native, values in DORIS_CURSORS.items()],
]


@pytest.mark.parametrize(("system", "native", "values"), CURSORS, indirect=["system"])
async def test_a_watermark_keeps_its_last_digit(scene: Scene, native: str, values: list[str]) -> None:
    low, middle, high = values
    scene.create("orders", f"id INT NOT NULL, c {native}")
    scene.insert("orders", [1, low], [2, middle])
    async with scene.source() as source:
        first = await source.plan(table_spec("orders", cursor="c"))
        assert first.window is not None
        watermark = first.window.upper
        assert watermark.removesuffix("+00").removesuffix("+00:00") == middle.removesuffix("+00:00")
        # Two that tie with the watermark, one just above it.
        await source.leave()
        scene.insert("orders", [3, middle], [4, high])
        after = Checkpoint(cursor="c", cursor_type=first.cursor_type, watermark=watermark)
        second = await source.plan(table_spec("orders", cursor="c"), after)
        assert second.window is not None and second.window.lower == watermark
        found = [await read_slice(source.scan(second), slice_) for slice_ in second.slices]
        assert [number for table in found for number in ids(table)] == [2, 3, 4]
        assert second.rows == 3
        # The rows just below the watermark are found where the window reaches down to them.
        third = await source.plan(
            table_spec("orders", cursor="c"), Checkpoint(cursor="c", cursor_type=first.cursor_type, watermark=low)
        )
        assert third.rows == 4


@pytest.mark.parametrize(("system", "native", "values"), CURSORS, indirect=["system"])
async def test_slices_cut_between_neighbours(scene: Scene, native: str, values: list[str]) -> None:
    scene.create("orders", f"id INT NOT NULL, c {native}")
    scene.insert("orders", *[[number, values[number % 3]] for number in range(30)])
    async with scene.source() as source:
        plan = await source.plan(table_spec("orders", cursor="c", slice_rows=10))
        found = [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices]
    assert found == [[number for number in range(30) if number % 3 == rest] for rest in range(3)]
    assert [slice_.upper for slice_ in plan.slices][-1] == plan.slices[-1].watermark
    assert len({slice_.watermark for slice_ in plan.slices}) == 3


async def test_a_range_of_whole_numbers_that_no_whole_number_can_hold(scene: Scene) -> None:
    values = [-(2**63), -(2**62), -1, 0, 1, 2**62, 2**63 - 1]
    scene.create("orders", "id INT NOT NULL, c BIGINT")
    scene.insert("orders", *[[number, value] for number, value in enumerate(values)])
    async with scene.source() as source:
        plan = await source.plan(table_spec("orders", cursor="c", slice_rows=1))
        found = [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices]
    assert [numbers for numbers in found if numbers] == [[number] for number in range(len(values))]


@DORIS
async def test_a_bound_with_more_digits_than_the_column_is_not_rounded_up(scene: Scene) -> None:
    """``settle`` and ``lookback`` make bounds of microseconds, and Doris rounds a text to the digits of the column."""
    scene.create("orders", "id INT NOT NULL, c DATETIME(0)")
    scene.insert("orders", *[[second, f"2024-05-01 12:00:0{second}"] for second in range(5)])
    async with scene.source() as source:
        after = Checkpoint(cursor="c", cursor_type="datetime(0)", watermark="2024-05-01 12:00:03")
        plan = await source.plan(table_spec("orders", cursor="c", lookback="500ms"), after)
        assert plan.window is not None and plan.window.lower == "2024-05-01 12:00:02.5"
        assert [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices] == [[3, 4]]


async def test_lookback_goes_back_by_the_day_and_by_the_number(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, day DATE, at {scene.moment}, dated INT")
    scene.insert(
        "orders",
        *[[n, f"2024-03-0{n}", f"2024-03-01 00:00:00.00000{n}", 20240300 + n] for n in range(1, 7)],
    )
    cases = [
        ("day", "date", "2024-03-04", "1d", [3, 4, 5, 6]),
        ("at", "datetime(6)", "2024-03-01 00:00:00.000004", timedelta(microseconds=2), [2, 3, 4, 5, 6]),
        ("dated", "int", "20240304", 2, [2, 3, 4, 5, 6]),
    ]
    async with scene.source() as source:
        for cursor, native, watermark, lookback, expected in cases:
            after = Checkpoint(cursor=cursor, cursor_type=native, watermark=watermark)
            plan = await source.plan(table_spec("orders", cursor=cursor, lookback=lookback), after)
            assert [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices] == [expected]
            assert plan.slices[-1].watermark == plan.window.upper if plan.window else False


async def test_rows_without_a_cursor_value_are_counted_and_can_be_read(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}")
    scene.insert("orders", [1, "2024-01-01"], *[[number, None] for number in range(2, 12)])
    async with scene.source() as source:
        plan = await source.plan(table_spec("orders", cursor="at"))
        assert (plan.null_cursor_rows, plan.rows) == (10, 1)
        plan = await source.plan(table_spec("orders", cursor="at", null_cursor="include", slice_rows=3))
        found = [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices]
    assert found[0] == [1]
    assert len(found) == 5 and sorted(number for slice_ in found[1:] for number in slice_) == list(range(2, 12))


async def test_ties_too_many_for_a_slice_are_cut_by_a_hash_of_the_key(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, code VARCHAR(9), at {scene.moment}", key="id, code")
    scene.insert("orders", *[[number // 2, f"c{number % 2}", "2024-01-01"] for number in range(200)])
    async with scene.source() as source:
        plan = await source.plan(table_spec("orders", cursor="at", slice_rows=50))
        found = [
            (await read_slice(source.scan(plan), slice_)).select(["id", "code"]).to_pylist() for slice_ in plan.slices
        ]
    assert [slice_.modulus for slice_ in plan.slices] == [4] * 4
    assert all(found) and all(len(slice_) < 100 for slice_ in found)
    rows = sorted((row["id"], row["code"]) for slice_ in found for row in slice_)
    assert rows == sorted((number // 2, f"c{number % 2}") for number in range(200))


# settle -----------------------------------------------------------------------


@pytest.mark.parametrize("zone", [None, "Asia/Shanghai", "-03:30"])
async def test_settle_looks_at_the_clock_of_the_zone_in_which_times_were_written(
    scene: Scene, zone: str | None
) -> None:
    away = {None: timedelta(0), "Asia/Shanghai": timedelta(hours=8), "-03:30": -timedelta(hours=3, minutes=30)}[zone]
    now = datetime.now(timezone(away)).replace(tzinfo=None, microsecond=0)
    written = {
        1: now - timedelta(hours=2),
        2: now - timedelta(minutes=31),
        3: now - timedelta(minutes=1),
        4: now + timedelta(hours=9),
    }
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}")
    scene.insert("orders", *[[number, moment] for number, moment in written.items()])
    words: dict[str, Any] = {} if zone is None else {"timezone": zone}
    async with scene.source(**words) as source:
        plan = await source.plan(table_spec("orders", cursor="at", settle="30m"))
        assert [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices] == [[1, 2]]
        assert plan.window is not None
        upper = datetime.fromisoformat(plan.window.upper)
        assert timedelta(0) <= upper - (now - timedelta(minutes=30)) < timedelta(minutes=1)


async def test_a_cursor_far_in_the_future_is_spoken_of(scene: Scene) -> None:
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}")
    scene.insert("orders", [1, "2999-01-01"])
    async with scene.source() as source:
        (warning,) = (await source.plan(table_spec("orders", cursor="at"))).warnings
    assert "2999-01-01 00:00:00" in warning and "in the future" in warning


@DORIS
async def test_settle_of_an_instant_needs_no_zone(scene: Scene) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    scene.create("orders", "id INT NOT NULL, at TIMESTAMPTZ")
    scene.insert(
        "orders", [1, (now - timedelta(hours=1)).isoformat(" ")], [2, (now - timedelta(minutes=1)).isoformat(" ")]
    )
    async with scene.source(timezone="Asia/Shanghai") as source:
        plan = await source.plan(table_spec("orders", cursor="at", settle="30m"))
        assert [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices] == [[1]]


async def test_a_zone_that_nobody_knows_is_refused_at_once(scene: Scene) -> None:
    with pytest.raises(ConfigError, match=r"Mars/Olympus.*Asia/Shanghai") as caught:
        scene.connector(timezone="Mars/Olympus").source()
    assert caught.value.system == scene.kind


@pytest.mark.parametrize(
    ("there", "words", "lookback", "warned"),
    [
        ("Europe/Berlin", {}, None, True),
        ("Europe/Berlin", {}, "59m", True),
        ("Europe/Berlin", {}, "1h", False),
        ("Europe/Berlin", {"timezone": "UTC"}, None, False),
        ("UTC", {"timezone": "America/New_York"}, None, True),
        ("Asia/Shanghai", {}, None, False),
        ("CST", {}, None, False),
    ],
)
async def test_an_hour_that_comes_twice_is_warned_of(
    scene: Scene, there: str, words: dict[str, Any], lookback: str | None, warned: bool
) -> None:
    scene.create("orders", f"id INT NOT NULL, at {scene.moment}, day DATE")
    scene.insert("orders", [1, "2024-05-01 12:00:00", "2024-05-01"])
    scene.run(f"SET GLOBAL time_zone = '{there}'")
    options = {} if lookback is None else {"lookback": lookback}
    try:
        async with scene.source(**words) as source:
            plan = await source.plan(table_spec("orders", cursor="at", **options))
            by_day = await source.plan(table_spec("orders", cursor="day", **options))
    finally:
        scene.run("SET GLOBAL time_zone = 'UTC'")
    assert [warning for warning in plan.warnings if "put back by 60 minutes" in warning] == list(plan.warnings)
    assert len(plan.warnings) == warned and by_day.warnings == ()


async def test_rows_with_nulls_are_in_one_part_each(scene: Scene) -> None:
    """Without a key all columns are hashed, and a NULL among them must not take the row out of every part."""
    scene.create("log", "id INT, at DATE, note VARCHAR(9)", model="DUPLICATE")
    scene.insert("log", *[[number, "2024-01-01", "x" if number % 2 else None] for number in range(20)])
    async with scene.source() as source:
        table = table_spec("log", cursor="at", slice_rows=5, write="append", settle="1s")
        plan = await source.plan(table)
        found = [ids(await read_slice(source.scan(plan), slice_)) for slice_ in plan.slices]
    assert [slice_.modulus for slice_ in plan.slices] == [4] * 4
    assert sorted(number for slice_ in found for number in slice_) == list(range(20))


def test_the_lowest_number_is_no_negative_of_a_higher_one() -> None:
    column = StarRocksDialect().logical_field("c", "largeint")
    assert StarRocksDialect().literal(str(-(2**127)), column) == f"CAST('{-(2**127)}' AS LARGEINT)"
