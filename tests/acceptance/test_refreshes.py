"""Every way to refresh a table, over every route: what is there before, meanwhile, after, and after a mishap."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import retl
from retl import events
from tests.routes.route import Route, Row, at, old
from tests.support import Recorder

pytestmark = [pytest.mark.usefixtures("at_once"), pytest.mark.by_target]

UNSEEN = ["swap", "mirror"]
"""Nobody sees what they load before it is complete."""
REPLACING = ["truncate", "rename_and_create", *UNSEEN]
MODES = ["none", *REPLACING]

OLD = old(0, 1, 2, 3)
NEW: list[Row] = [*old(0, 1), (3, "new", at(99)), (4, "new", at(99))]
BOTH = sorted([*NEW, *old(2)])
"""What an upsert leaves: the row that is gone from the source stays."""


async def loaded(route: Route, pre_action: str, **words: Any) -> retl.Pipeline:
    """A pipeline that has brought the old rows."""
    route.fill(4)
    job = route.pipeline(route.table(pre_action=pre_action, **words), slice_rows=2)
    await job.run_once()
    assert route.rows("events") == OLD
    return job


def change(route: Route) -> None:
    """One row is new, one is changed, one is gone."""
    route.source.delete("events", 2)
    route.source.update("events", 3, v="new", ts=at(99))
    route.source.insert("events", (4, "new", at(99)))


def left_alone(route: Route) -> bool:
    """Whether the target holds the old rows, and nothing else of ours."""
    return (route.rows("events"), route.target.tables()) == (OLD, ["events"])


# Contents ---------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", MODES)
async def test_a_full_scan_replaces_the_rows_or_adds_to_them(route: Route, pre_action: str) -> None:
    job = await loaded(route, pre_action)
    change(route)
    await job.run_once()
    assert route.rows("events") == (BOTH if pre_action == "none" else NEW)
    assert [route.rows(name) for name in route.archives()] == ([OLD] if pre_action == "rename_and_create" else [])
    assert route.target.tables() == ["events", *route.archives()]


@pytest.mark.parametrize("pre_action", ["rename_and_create"])
async def test_archives_beyond_those_to_keep_are_dropped(route: Route, pre_action: str) -> None:
    job = await loaded(route, pre_action, keep_archives=2)
    for number in range(4):
        route.source.update("events", 0, v=str(number))
        await job.run_once()
    assert [route.rows(name, "id", "v")[0] for name in route.archives()] == [(0, "1"), (0, "2")]
    assert route.rows("events", "id", "v")[0] == (0, "3")


@pytest.mark.needs("source cursors")
async def test_a_cursor_with_a_destructive_pre_action_is_refused(route: Route) -> None:
    with pytest.raises(retl.ConfigError, match="exclude each other"):
        route.pipeline(route.table(cursor="ts", pre_action="truncate"))


# Readers ----------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", UNSEEN)
async def test_readers_never_see_an_empty_or_half_loaded_table_while_a_refresh_loads(
    route: Route, pre_action: str
) -> None:
    route.fill(30)
    job = route.pipeline(route.table(pre_action=pre_action), slice_rows=6)
    seen: list[object] = []

    def look(_: object) -> None:
        seen.append(route.rows("events") if "events" in route.target.tables() else "no table")

    Recorder(job).when(events.SliceCommitted, look, once=False)
    await job.run_once()
    assert set(map(str, seen)) == {"no table"}
    seen.clear()
    route.source.delete("events", *range(12))
    await job.run_once()
    assert len(seen) > 1 and all(rows == old(*range(30)) for rows in seen)
    assert route.rows("events") == old(*range(12, 30))
    assert route.target.tables() == ["events"]


@pytest.mark.needs("target snapshots")
@pytest.mark.parametrize("pre_action", MODES)
async def test_a_reader_with_an_old_snapshot_sees_the_old_rows_or_is_told(route: Route, pre_action: str) -> None:
    job = await loaded(route, pre_action)
    change(route)
    with route.target.old_reader("events") as read:
        await job.run_once()
        if route.ends_readers(pre_action):
            with pytest.raises(Exception, match="please retry transaction"):
                read()
        else:
            assert read() == ([] if route.empties_readers(pre_action) else OLD)
    assert route.rows("events") == (BOTH if pre_action == "none" else NEW)


# Guards -----------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_source_that_is_empty_or_gone_by_mistake_does_not_empty_the_target(
    route: Route, pre_action: str
) -> None:
    job = await loaded(route, pre_action)
    route.source.delete("events")
    for _ in range(2):
        with pytest.raises(
            retl.GuardStopped, match=r"(the source has no rows|4 files are gone).*max_shrink = \"100%\""
        ):
            await job.run_once()
        assert left_alone(route)
    if route.source.cursors:  # where there is no file, none is what was asked for
        route.source.drop("events")
        with pytest.raises(retl.ConfigError, match="events'"):
            await job.run_once()
        assert left_alone(route)
    route.fill(0)
    await route.pipeline(route.table(pre_action=pre_action, max_shrink="100%")).run_once()
    assert route.rows("events") == []


@pytest.mark.needs("source failing_rows")
@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_source_that_fails_on_its_first_row_does_not_empty_the_target(route: Route, pre_action: str) -> None:
    failing = route.source.failing(0)
    await loaded(route, pre_action)
    with pytest.raises(retl.SourceError):
        await route.pipeline(route.table(pre_action=pre_action, **failing)).run_once()
    assert left_alone(route)


@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_source_that_shrinks_too_much_stops_before_the_switch(route: Route, pre_action: str) -> None:
    if pre_action == "rename_and_create" and not route.source.counts:
        with pytest.raises(retl.ConfigError, match="cannot count its rows"):
            await loaded(route, pre_action, max_shrink="50%")
        return
    job = await loaded(route, pre_action, max_shrink="50%")
    route.source.delete("events", 1, 2, 3)
    by_row = pre_action == "mirror" or (pre_action == "truncate" and not route.source.counts)
    said = "3 of the 4 rows" if by_row else "has 1 rows.*has 4; .*allows no fewer than 2"
    with pytest.raises(retl.GuardStopped, match=said):
        await job.run_once()
    assert left_alone(route)
    route.source.insert("events", *old(3))
    await job.run_once()
    assert route.rows("events") == old(0, 3)


@pytest.mark.parametrize("pre_action", ["mirror"])
async def test_a_mirror_counts_the_deletes_and_not_the_rows(route: Route, pre_action: str) -> None:
    job = await loaded(route, pre_action, max_shrink="30%")
    # As many rows as before: what is new does not make up for what is gone.
    route.source.delete("events", 2, 3)
    route.source.insert("events", *old(4, 5))
    with pytest.raises(retl.GuardStopped, match=r"2 of the 4 rows .* are not in the source"):
        await job.run_once()
    assert left_alone(route)


@pytest.mark.parametrize("loss", ["dropped", "emptied"])
async def test_a_target_that_was_lost_is_never_passed_over(route: Route, loss: str) -> None:
    route.fill(4)
    job = route.pipeline()
    await job.run_once()
    route.target.drop("events") if loss == "dropped" else route.target.delete("events")
    route.source.insert("events", *old(4))
    for ask in (job.run_once, job.plan):
        with pytest.raises(retl.GuardStopped, match="retl reset --table"):
            await ask()
    assert [finding.level for finding in await job.check()] == ["ok", "ok", "error"]
    await job.aclose()
    again = route.pipeline(route.table(cursor="ts", lost_target="reload"))
    await again.run_once()
    assert route.equal()


# Mishaps ----------------------------------------------------------------------


@pytest.mark.needs("source failing_rows")
@pytest.mark.parametrize("pre_action", REPLACING)
async def test_a_load_that_fails_after_the_pre_action_is_carried_on_and_loses_nothing(
    route: Route, pre_action: str
) -> None:
    failing = route.source.failing(19)
    route.fill(20)
    await route.pipeline(route.table(pre_action=pre_action)).run_once()
    route.source.delete("events", 0)
    for _ in range(3):
        with pytest.raises(retl.SourceError):
            await route.pipeline(route.table(pre_action=pre_action, **failing), slice_rows=5).run_once()
        if pre_action != "truncate":
            assert route.rows(next(iter(route.archives()), "events")) == old(*range(20))
    await route.pipeline(route.table(pre_action=pre_action)).run_once()
    assert route.rows("events") == old(*range(1, 20))
    assert len(route.archives()) == (1 if pre_action == "rename_and_create" else 0)
    assert route.target.tables() == ["events", *route.archives()]


@pytest.mark.parametrize("pre_action", MODES)
async def test_a_scan_that_is_cancelled_halfway_is_carried_on(route: Route, pre_action: str) -> None:
    job = await loaded(route, pre_action)
    change(route)
    with anyio.CancelScope() as scope:
        Recorder(job).when(events.SliceCommitted, lambda _: scope.cancel())
        await job.run_once()
    assert scope.cancelled_caught
    if pre_action in UNSEEN:
        assert route.rows("events") == OLD
    await route.pipeline(route.table(pre_action=pre_action)).run_once()
    assert route.rows("events") == (BOTH if pre_action == "none" else NEW)
    assert [route.rows(name) for name in route.archives()] == ([OLD] if pre_action == "rename_and_create" else [])
    assert route.target.tables() == ["events", *route.archives()]


# Actions that are forbidden ---------------------------------------------------


@pytest.mark.needs("source cursors")
@pytest.mark.parametrize(
    ("forbidden", "expected"),
    [
        ("INSERT", [*old(0, 1, 2), (3, "new", at(99))]),
        ("UPDATE", [*OLD, (4, "new", at(99))]),
        ("DELETE TRUNCATE RENAME CREATE ALTER DROP", BOTH),
    ],
)
async def test_an_upsert_without_some_actions(route: Route, forbidden: str, expected: list[Row]) -> None:
    route.fill(4)
    await route.pipeline().run_once()
    change(route)
    await route.pipeline(blacklist=forbidden.split()).run_once()
    assert route.rows("events") == expected


@pytest.mark.needs("source cursors")
async def test_a_missing_table_is_not_made_without_create(route: Route) -> None:
    route.fill(4)
    job = route.pipeline(blacklist=["CREATE"])
    with pytest.raises(retl.ConfigError, match=r"the target has no .*events', and the blacklist forbids CREATE"):
        await job.run_once()
    assert route.target.tables() == []
    route.target.create("events", {"v": "text", "ts": "time"})
    await job.run_once()
    assert route.equal()


@pytest.mark.needs("source columns")
async def test_a_new_column_is_left_out_without_alter(route: Route) -> None:
    route.fill(1)
    job = route.pipeline(blacklist=["ALTER"])
    await job.run_once()
    route.source.add_column("events", "city")
    route.source.insert("events", (1, "old", at(1), "Köln"))
    said = "lacks the column 'city'; it is left out, since the blacklist forbids ALTER"
    assert any(said in finding.message for finding in await job.check())
    await job.run_once()
    assert route.rows("events") == old(0, 1)
