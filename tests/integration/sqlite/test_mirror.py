"""A mirror in SQLite: what hangs on the table stays, only differences are written, and equality is that of the bytes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.sqlite.session import SQLiteSession
from retl.model.errors import TargetError
from tests.integration.duckdb.scenes import loading
from tests.integration.scene import people, scan, spec
from tests.integration.sqlite.scenes import Scene

MIRROR = spec(pre_action="mirror")
NEW = people((1, "same"), (2, "new"), (4, "d"))
OLD = "INSERT INTO people VALUES (1, 'same'), (2, 'old'), (3, 'c')"


async def test_unchanged_rows_cost_no_write_and_triggers_see_just_what_changes(scene: Scene) -> None:
    logs = [
        f"CREATE TRIGGER on_{what} AFTER {what} ON people BEGIN INSERT INTO log VALUES ('{what}', {row}.id); END"
        for what, row in (("insert", "new"), ("update", "new"), ("delete", "old"))
    ]
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)", OLD, "CREATE TABLE log (what, id)", *logs)
    async with scene.session() as session:
        for _ in range(2):
            await scan(session, [NEW], MIRROR)
    assert scene.rows("people") == [(1, "same"), (2, "new"), (4, "d")]
    assert scene.rows("log") == [("delete", 3), ("insert", 4), ("update", 2)]


async def test_views_foreign_keys_and_autoincrement_stay_right(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)",
        OLD,
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, person REFERENCES people(id) ON DELETE CASCADE)",
        "INSERT INTO orders VALUES (7, 1)",
        "CREATE VIEW names AS SELECT name FROM people",
        "INSERT INTO people VALUES (99, 'gone')",
    )
    ((root,),) = scene.run("SELECT rootpage FROM sqlite_master WHERE name = 'people'")
    async with scene.session() as session:
        await scan(session, [NEW], MIRROR)
    assert scene.rows("names") == [("d",), ("new",), ("same",)]
    assert scene.rows("orders") == [(7, 1)]
    assert scene.run("PRAGMA foreign_key_check") == []
    assert scene.run("SELECT rootpage FROM sqlite_master WHERE name = 'people'") == [(root,)]
    scene.run("INSERT INTO people (name) VALUES ('next')")
    assert scene.run("SELECT id FROM people WHERE name = 'next'") == [(100,)]


VALUES: list[tuple[str, pa.DataType, Any, Any]] = [
    ("TEXT COLLATE NOCASE", pa.string(), "'Ann'", "ann"),
    ("TEXT COLLATE RTRIM", pa.string(), "'ann '", "ann"),
    ("DECIMAL TEXT(5,2)", pa.string(), "'1.0'", "1.00"),
    ("JSON TEXT", pa.string(), "'{\"a\":1}'", '{"a": 1}'),
    ("", pa.float64(), "1", 1.0),
    ("TEXT", pa.string(), "NULL", ""),
]


@pytest.mark.parametrize(("declared", "kind", "old", "new"), VALUES)
async def test_equality_is_that_of_the_stored_bytes(
    scene: Scene, declared: str, kind: pa.DataType, old: str, new: Any
) -> None:
    scene.run(f"CREATE TABLE people (id INTEGER PRIMARY KEY, v {declared})", f"INSERT INTO people VALUES (1, {old})")
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("v", kind)])
    async with scene.session() as session:
        await scan(session, [people((1, new), schema=schema)], MIRROR)
    ((found, stored),) = scene.run("SELECT v, TYPEOF(v) FROM people")
    assert (found, stored) == (new, "real" if isinstance(new, float) else "text")


async def test_a_key_that_a_collation_calls_the_same_is_another_row(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id TEXT COLLATE NOCASE PRIMARY KEY, name TEXT, mine TEXT DEFAULT 'new')",
        "INSERT INTO people VALUES ('A', 'x', 'kept'), ('b', 'y', 'kept')",
    )
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("name", pa.string())])
    async with scene.session() as session:
        await scan(session, [people(("a", "x"), ("b", "z"), schema=schema)], MIRROR)
    assert scene.rows("people") == [("a", "x", "new"), ("b", "z", "kept")]


async def test_rows_that_pass_unique_values_on_and_gone_rows_that_held_one(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (length(name) = 1))",
        "INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    )
    async with scene.session() as session:
        await scan(session, [people((1, "b"), (2, "a"), (4, "c"))], MIRROR)
    assert scene.rows("people") == [(1, "b"), (2, "a"), (4, "c")]
    assert scene.tables() == ["people"]


async def test_what_a_trigger_refuses_leaves_the_table_as_it_was(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
        OLD,
        "CREATE TRIGGER kept BEFORE DELETE ON people BEGIN SELECT RAISE(ABORT, 'never delete'); END",
    )
    async with scene.session() as session:
        with pytest.raises(TargetError, match="never delete; 'people' was left as it was"):
            await scan(session, [NEW], MIRROR)
    assert scene.rows("people") == [(1, "same"), (2, "old"), (3, "c")]
    assert scene.tables() == ["people"]


async def test_a_new_column_is_added_to_the_table_that_stays(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY)", "INSERT INTO people VALUES (1), (9)")
    async with scene.session() as session:
        await scan(session, [NEW], MIRROR)
    assert scene.rows("people") == [(1, "same"), (2, "new"), (4, "d")]


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap", "mirror"])
@pytest.mark.parametrize("exists", [False, True])
async def test_plan_shows_the_very_statements_that_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str, exists: bool
) -> None:
    seen: list[str] = []
    run = SQLiteSession.transaction

    async def traced(self: SQLiteSession, make: Any) -> Any:
        await self.file.run(lambda connection: connection.set_trace_callback(seen.append))
        return await run(self, make)

    if exists:
        scene.run(
            "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT UNIQUE)", OLD, "CREATE INDEX i ON people (name)"
        )
    table = spec(pre_action=pre_action)
    async with scene.session() as session:
        shown = (await session.target.preview(loading(session, table))).statements
        monkeypatch.setattr(SQLiteSession, "transaction", traced)
        await scan(session, [NEW], table)
    begins = ("CREATE", "ALTER", "DROP", "DELETE", "INSERT", "UPDATE")
    ours = ("temp.retl_stage", "retl_memory.b", "retl_leases", "retl_checkpoints")
    writes = [
        sql for sql in seen if sql.startswith(begins) and not any(name in sql.split(" SELECT ")[0] for name in ours)
    ]
    assert writes == list(shown)
