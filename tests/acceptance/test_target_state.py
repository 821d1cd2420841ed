"""State and data are looked at together: a checkpoint whose table was lost is never passed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import retl
from retl.connectors.base import TargetTable
from retl.connectors.sqlite.source import SQLiteSource
from retl.connectors.sqlite.target import SQLiteTarget
from retl.model.checkpoint import Checkpoint, Fence
from retl.state.base import Claim
from tests.acceptance.test_scan_rules import expected
from tests.support import Database, Warehouse


class Told(SQLiteTarget):
    """A target that tells which table it has, and under which identity."""

    def __init__(self, app: Database) -> None:
        super().__init__(app.target())
        self.app = app
        self.identity: str | None = None
        self.asked = 0

    async def location(self, table: str) -> str | None:
        return f"sqlite:app/{table}"

    async def inspect(self, table: str) -> TargetTable | None:
        self.asked += 1
        return await anyio.to_thread.run_sync(self._look, table)

    def _look(self, table: str) -> TargetTable:
        if table not in self.app.tables():
            return TargetTable(exists=False, empty=True)
        return TargetTable(exists=True, empty=not self.app.rows(table), identity=self.identity)


def pipeline(warehouse: Warehouse, target: Told, **words: Any) -> retl.Pipeline:
    state = words.pop("state", None)
    table = retl.Table("orders", **{"cursor": "updated_at", **words})
    return retl.Pipeline("p", source=warehouse.source(), target=target, tables=[table], slice_rows=4, state=state)


async def stored(job: retl.Pipeline) -> Checkpoint:
    try:
        return (await job._store.load("p"))["orders"]
    finally:
        await job.aclose()


LOSSES = {
    "gone": (
        "DROP TABLE orders",
        "the target table 'orders' is gone, but the checkpoint continues from the watermark ",
    ),
    "emptied": ("DELETE FROM orders", "the target table 'orders' is empty, though 10 rows were written to it"),
}


@pytest.mark.parametrize(("loss", "text"), LOSSES.values(), ids=LOSSES)
async def test_a_lost_target_is_refused_until_it_is_reset(
    warehouse: Warehouse, app: Database, loss: str, text: str
) -> None:
    job = pipeline(warehouse, Told(app))
    await job.run_once()
    assert (await stored(job)).written == 10
    app.run(loss)
    with pytest.raises(retl.GuardStopped, match=text) as caught:
        await job.run_once()
    assert "retl reset --table orders" in str(caught.value) and 'lost_target = "reload"' in str(caught.value)
    with pytest.raises(retl.GuardStopped, match=text):
        await job.plan()
    assert [finding.level for finding in await job.check()] == ["ok", "ok", "error"]
    assert app.tables() == ([] if "DROP" in loss else ["orders"])
    await job.reset("orders")
    await job.run_once()
    assert app.rows("orders") == expected(0, 9)
    assert (await stored(job)).written == 10


@pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()], ids=LOSSES)
async def test_a_lost_target_is_loaded_again_where_that_is_asked_for(
    warehouse: Warehouse, app: Database, loss: str
) -> None:
    job = pipeline(warehouse, Told(app), lost_target="reload")
    await job.run_once()
    app.run(loss)
    (plan,) = await job.plan()
    assert plan.source.rows == 10
    assert any("reads everything again" in warning for warning in plan.warnings)
    report = (await job.run_once()).scans[0]
    assert any('lost_target is "reload"' in warning for warning in report.warnings)
    assert app.rows("orders") == expected(0, 9)
    assert (await stored(job)).written == 10


async def test_a_target_that_was_made_again_is_refused_although_it_holds_rows(
    warehouse: Warehouse, app: Database
) -> None:
    target = Told(app)
    target.identity = "table 1"
    job = pipeline(warehouse, target)
    await job.run_once()
    assert (await stored(job)).target == "table 1"
    target.identity = "table 2"
    with pytest.raises(retl.GuardStopped, match="is not the one that was written before"):
        await job.run_once()


async def test_the_identity_of_a_table_that_the_scan_has_made_is_remembered(
    warehouse: Warehouse, app: Database
) -> None:
    target = Told(app)
    job = pipeline(warehouse, target, cursor=False, pre_action="swap")
    for number in range(2):
        target.identity = f"table {number}"
        await job.run_once()  # a full scan depends on nothing that was written before
        assert (await stored(job)).target == f"table {number}"


async def test_what_holds_no_rows_for_good_reasons_is_not_taken_for_lost(warehouse: Warehouse, app: Database) -> None:
    """Every row was refused: the table is as empty as the checkpoint says, and the watermark stays where it is."""
    app.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT CHECK (city = ''), updated_at TEXT)")
    job = pipeline(warehouse, Told(app), max_rejects=10)
    assert (await job.run_once()).scans[0].rejects == 10
    assert (await stored(job)).written == 0
    assert (await job.run_once()).ok


@pytest.mark.parametrize("cursor", ["updated_at", False])
async def test_an_empty_source_makes_the_table_again(warehouse: Warehouse, app: Database, cursor: Any) -> None:
    warehouse.run("DELETE FROM orders")
    job = pipeline(warehouse, Told(app), cursor=cursor)
    await job.run_once()
    app.run("DROP TABLE orders")
    await job.run_once()
    assert app.tables() == ["orders"]


async def test_an_idle_scan_asks_the_target_once(warehouse: Warehouse, app: Database) -> None:
    target = Told(app)
    job = pipeline(warehouse, target)
    await job.run_once()
    warehouse.run("DELETE FROM orders WHERE id = 9")  # nothing is left at the watermark
    target.asked = 0
    assert (await job.run_once()).scans[0].slices_planned == 0
    assert target.asked == 1


# Two pipelines into one table ---------------------------------------------------


def into(name: str, warehouse: Warehouse, app: Database, pre_action: str = "none") -> retl.Pipeline:
    words: dict[str, Any] = {"cursor": "updated_at"} if pre_action == "none" else {"pre_action": pre_action}
    table = retl.Table("orders", to="copy", **words)
    return retl.Pipeline(name, source=warehouse.source(), target=app.target(), tables=[table])


@pytest.mark.parametrize(("first", "second"), [("none", "truncate"), ("swap", "none"), ("rename_and_create", "swap")])
async def test_a_table_that_one_pipeline_replaces_is_no_others(
    warehouse: Warehouse, app: Database, first: str, second: str
) -> None:
    await into("a", warehouse, app, first).run_once()
    warehouse.run("INSERT INTO orders VALUES (10, 'city 10', TIMESTAMP '2024-01-01 00:00:10')")
    late = into("b", warehouse, app, second)
    for refused in (late.run_once, late.plan):
        with pytest.raises(retl.ConfigError, match="written by the pipeline 'a' too") as caught:
            await refused()
        assert "retl adopt --only b --table orders" in str(caught.value)
    assert [finding.level for finding in await late.check()] == ["ok", "ok", "error"]
    assert app.rows("copy") == expected(0, 9)
    await into("a", warehouse, app, first).run_once()  # whose it is has not changed

    assert await late.adopt("orders") == ["a"]
    await late.run_once()
    assert app.rows("copy") == sorted(expected(0, 10), key=repr)
    with pytest.raises(retl.ConfigError, match="written by the pipeline 'b' too"):
        await into("a", warehouse, app, first).run_once()


async def test_two_pipelines_that_upsert_share_a_table(warehouse: Warehouse, app: Database) -> None:
    for name in ("a", "b", "a"):
        await into(name, warehouse, app).run_once()
    assert app.rows("copy") == expected(0, 9)
    assert await into("c", warehouse, app).adopt() == ["a", "b"]


async def test_a_reset_gives_the_table_up(warehouse: Warehouse, app: Database) -> None:
    await into("a", warehouse, app, "swap").run_once()
    await into("a", warehouse, app, "swap").reset("orders")
    await into("b", warehouse, app, "swap").run_once()
    assert app.rows("copy") == expected(0, 9)


async def test_of_two_that_claim_at_the_same_moment_none_writes(warehouse: Warehouse, app: Database) -> None:
    class Simultaneous(retl.MemoryStore):
        async def claim(self, fence: Fence, claim: Claim) -> None:
            await super().claim(fence, claim)
            self._claims["b", "orders"] = replace(claim, pipeline="b")

    store = Simultaneous()
    target = Told(app)
    job = pipeline(warehouse, target, cursor=False, pre_action="swap", state=store)
    with pytest.raises(retl.ConfigError, match="written by the pipeline 'b' too"):
        await job.run_once()
    assert list(store._claims) == [("b", "orders")]
    assert not app.exists() or app.tables() == []


# A source that is its own target ------------------------------------------------


class SameFile(SQLiteSource):
    """A source of the very file that ``Told`` writes."""

    async def location(self, table: str) -> str | None:
        return f"sqlite:app/{table}"


def within(app: Database, *tables: retl.Table) -> retl.Pipeline:
    app.run("CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY)", "INSERT OR IGNORE INTO a VALUES (1), (2)")
    app.run("CREATE TABLE IF NOT EXISTS b (id INTEGER PRIMARY KEY)")
    return retl.Pipeline("p", source=SameFile(app.source()), target=Told(app), tables=tables)


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap"])
async def test_a_table_is_not_its_own_target(app: Database, pre_action: Any) -> None:
    job = within(app, retl.Table("a", pre_action=pre_action))
    for refused in (job.run_once, job.plan):
        with pytest.raises(retl.ConfigError, match="the table 'a' is its own target"):
            await refused()
    assert [finding.level for finding in await job.check()] == ["ok", "ok", "error"]
    await job.aclose()
    assert app.rows("a") == [(1,), (2,)]
    assert app.tables() == ["a", "b"]


@pytest.mark.parametrize("pre_action", ["none", "rename_and_create", "swap"])
async def test_a_pattern_finds_nothing_that_the_pipeline_writes(app: Database, pre_action: Any) -> None:
    job = within(app, retl.Table(match="*", to="copy_{name}", pre_action=pre_action, max_shrink="100%"))
    for _ in range(3):
        report = await job.run_once()
        assert [scan.table for scan in report.scans] == ["a", "b"]
    assert [name for name in app.tables() if "_arc_" not in name] == ["a", "b", "copy_a", "copy_b"]
    assert app.rows("copy_a") == [(1,), (2,)]


async def test_a_table_of_that_name_elsewhere_is_found(app: Database, tmp_path: Path) -> None:
    """Only the very table that is written is left out, not one that merely has its name."""
    other = Database(tmp_path / "other.db")
    job = within(other, retl.Table(match="*", to="copy_{name}"))
    other.run("CREATE TABLE copy_a (id INTEGER PRIMARY KEY)")
    elsewhere = retl.Pipeline(
        "p", source=other.source(), target=Told(app), tables=[retl.Table(match="*", to="copy_{name}")]
    )
    assert [plan.table.name for plan in await elsewhere.plan()] == ["a", "b", "copy_a"]
    assert [plan.table.name for plan in await job.plan()] == ["a", "b"]


async def test_a_table_with_a_dot_in_its_name_is_carried_by_name_and_by_pattern(app: Database, tmp_path: Path) -> None:
    other = Database(tmp_path / "other.db")
    other.run('CREATE TABLE "a.b" (id INTEGER PRIMARY KEY)', 'INSERT INTO "a.b" VALUES (1), (2)')
    for tables in ([retl.Table('"a.b"')], [retl.Table(match="a.*", to="copy_{name}")]):
        job = retl.Pipeline(f"p{tables[0].match}", source=other.source(), target=app.target(), tables=tables)
        await job.run_once()
    assert app.tables() == ["a.b", "copy_a.b"]
    assert app.rows("a.b") == app.rows("copy_a.b") == [(1,), (2,)]
