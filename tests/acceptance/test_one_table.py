"""One table now: only what was named is scanned, and a name that is not there is refused with those that are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import retl
from retl import ConfigError, events
from tests.support import Database, Recorder, running, state_is


@pytest.fixture
def shop(tmp_path: Path) -> Database:
    shop = Database(tmp_path / "shop.db")
    for table in ("a", "b", "log_1", "log_2"):
        shop.run(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)")
        shop.run(f"INSERT INTO {table} VALUES (1)")
    return shop


def pipeline(shop: Database, app: Database, *more: retl.Table | str, **words: Any) -> retl.Pipeline:
    tables = ["a", "b", retl.Table(match="log_*"), *more]
    words.setdefault("interval", "manual")
    return retl.Pipeline("shop", source=shop.source(), target=app.target(), tables=tables, **words)


async def test_a_run_of_some_tables_scans_them_in_their_order_and_no_other(shop: Database, app: Database) -> None:
    # Neither a table that is broken nor a pattern that finds nothing concerns it.
    job = pipeline(shop, app, "gone", retl.Table(match="zz*"))
    report = await job.run_once(tables=["log_2", "b"])
    assert ([scan.table for scan in report.scans], report.ok) == (["b", "log_2"], True)
    assert app.tables() == ["b", "log_2"]
    assert (app.rows("b"), app.rows("log_2")) == ([(1,)], [(1,)])


async def test_a_name_that_the_pipeline_does_not_have_is_refused_with_those_that_it_has(
    shop: Database, app: Database
) -> None:
    job = pipeline(shop, app)
    said = r"^shop: the pipeline has no table 'c'\. What to do: it has a, b, what matches 'log_\*'\.$"
    with pytest.raises(ConfigError, match=said):
        await job.run_once(tables=["a", "c"])
    with pytest.raises(ConfigError, match=said):
        job.trigger("a", "c")
    with pytest.raises(ConfigError, match=r"tables is the text 'a'\. What to do: write tables=\['a'\]"):
        await job.run_once(tables="a")
    with pytest.raises(ConfigError, match="tables is empty"):
        await job.run_once(tables=[])
    assert not app.exists()


async def test_a_name_that_a_pattern_allows_and_the_source_lacks_fails_the_run_and_not_the_others(
    shop: Database, app: Database
) -> None:
    job = pipeline(shop, app)
    report = await job.run_once(tables=["log_1", "log_9"], check=False)
    assert ([scan.table for scan in report.scans], len(report.errors)) == (["log_1"], 1)
    with pytest.raises(ConfigError, match=r"shop / log_9: the source has no table 'log_9'"):
        await job.run_once(tables=["log_9"])


async def test_a_triggered_table_is_scanned_alone_and_several_triggers_are_one(shop: Database, app: Database) -> None:
    job = pipeline(shop, app)
    heard = Recorder(job)

    def scanned() -> list[str]:
        return [event.report.table for event in heard.of(events.ScanFinished)]

    async with running(job) as after:
        await after(events.LeaseAcquired)
        await state_is(job, "idle")
        job.pause()
        job.trigger("b")
        await after(events.ScanFinished, lambda: job.trigger("b"))
        await state_is(job, "paused")
        assert scanned() == ["b"]
        heard.when(events.ScanStarted, lambda _: job.trigger("a", "log_2"))  # during a run: once more after it
        await after(events.ScanFinished, lambda: job.trigger("b"))
        while len(scanned()) < 4:
            await after(events.ScanFinished)
        await state_is(job, "paused")
    assert scanned()[:2] == ["b", "b"] and sorted(scanned()[2:]) == ["a", "log_2"]
    await job.aclose()


async def test_a_trigger_of_all_tables_is_not_narrowed_by_one_of_some(shop: Database, app: Database) -> None:
    job = pipeline(shop, app)
    heard = Recorder(job)
    async with running(job) as after:
        await after(events.LeaseAcquired)
        job.trigger()
        job.trigger("b")
        while len(heard.of(events.ScanFinished)) < 4:
            await after(events.ScanFinished)
    assert {event.report.table for event in heard.of(events.ScanFinished)} == {"a", "b", "log_1", "log_2"}
    await job.aclose()
