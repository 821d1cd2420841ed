"""A mirror in DuckDB: what hangs on the table stays, only differences are written, and equality is that of the bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from retl.connectors.duckdb import session as duckdb_session
from retl.connectors.sql.statement import Statement
from retl.model.errors import TargetError
from tests.integration.duckdb.scenes import Scene, loading
from tests.integration.scene import people, scan, spec

MIRROR = spec(pre_action="mirror")
NEW = people((1, "same"), (2, "new"), (4, "d"))
TABLE = "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR)"
OLD = "INSERT INTO people VALUES (1, 'same'), (2, 'old'), (3, 'c')"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.duckdb")


async def test_the_table_itself_stays_with_all_that_hangs_on_it(scene: Scene) -> None:
    scene.run(
        TABLE,
        OLD,
        "CREATE TABLE orders (id BIGINT PRIMARY KEY, person BIGINT REFERENCES people(id))",
        "INSERT INTO orders VALUES (7, 1)",
        "CREATE VIEW names AS SELECT name FROM people",
        "CREATE INDEX named ON people (name)",
        "COMMENT ON TABLE people IS 'ours'",
    )
    catalog = "SELECT table_oid, comment FROM duckdb_tables() WHERE table_name = 'people'"
    before = scene.run(catalog)
    async with scene.session() as session:
        done = await scan(session, [NEW], MIRROR)
        assert done.rows == 3
    assert scene.rows("names") == [("d",), ("new",), ("same",)]
    assert scene.rows("orders") == [(7, 1)]
    assert scene.run(catalog) == before


async def test_a_row_that_another_table_needs_is_not_deleted(scene: Scene) -> None:
    scene.run(TABLE, OLD, "CREATE TABLE orders (person BIGINT REFERENCES people(id))", "INSERT INTO orders VALUES (3)")
    async with scene.session() as session:
        with pytest.raises(TargetError, match=r"foreign key.*'people' was left as it was"):
            await scan(session, [NEW], MIRROR)
    assert scene.rows("people") == [(1, "same"), (2, "old"), (3, "c")]
    assert scene.tables() == ["orders", "people"]


VALUES: list[tuple[str, pa.DataType, str, Any, str]] = [
    ("VARCHAR COLLATE NOCASE", pa.string(), "'Ann'", "ann", "ann"),
    ("VARCHAR COLLATE NOACCENT", pa.string(), "'anné'", "anne", "anne"),
    ("VARCHAR", pa.string(), "'1.0'", "1.00", "1.00"),
    ("JSON", pa.string(), "'{\"a\":1}'", '{"a": 1}', '{"a": 1}'),
    ("DOUBLE", pa.float64(), "0.0", -0.0, "-0.0"),
    ("DOUBLE NOT NULL", pa.float64(), "0.0", -0.0, "-0.0"),
    ("INTERVAL", pa.string(), "INTERVAL 1 MONTH", "30 days", "30 days"),
    ("VARCHAR", pa.string(), "NULL", "", ""),
]


@pytest.mark.parametrize(("declared", "kind", "old", "new", "text"), VALUES)
async def test_equality_is_that_of_the_stored_bytes(
    scene: Scene, declared: str, kind: pa.DataType, old: str, new: Any, text: str
) -> None:
    scene.run(f"CREATE TABLE people (id BIGINT PRIMARY KEY, v {declared})", f"INSERT INTO people VALUES (1, {old})")
    native = {b"retl.native": b"INTERVAL"} if declared == "INTERVAL" else None
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("v", kind, metadata=native)])
    async with scene.session() as session:
        await scan(session, [people((1, new), schema=schema)], MIRROR)
    ((found,),) = scene.run("SELECT CAST(v AS VARCHAR) FROM people")
    assert found == text
    if isinstance(new, float):
        ((number,),) = scene.run("SELECT v FROM people")
        assert math.copysign(1, number) == -1


async def test_rows_that_pass_unique_values_on_and_gone_rows_that_held_one(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR UNIQUE, mine VARCHAR DEFAULT 'new')",
        "INSERT INTO people VALUES (1, 'a', 'kept'), (2, 'b', 'kept'), (3, 'c', 'gone')",
    )
    async with scene.session() as session:
        await scan(session, [people((1, "b"), (2, "a"), (4, "c"))], MIRROR)
    assert scene.rows("people") == [(1, "b", "kept"), (2, "a", "kept"), (4, "c", "new")]
    assert scene.tables() == ["people"]


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap", "mirror"])
@pytest.mark.parametrize("exists", [False, True])
async def test_plan_shows_the_very_statements_that_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str, exists: bool
) -> None:
    seen: list[str] = []
    answer = duckdb_session._answer

    def traced(connection: duckdb.DuckDBPyConnection, statement: Statement) -> Any:
        if not statement.rows and not statement.values:
            seen.append(statement.sql)
        return answer(connection, statement)

    if exists:
        scene.run(TABLE, OLD, "CREATE INDEX named ON people (name)", "COMMENT ON TABLE people IS 'ours'")
    table = spec(pre_action=pre_action)
    async with scene.session() as session:
        shown = (await session.target.preview(loading(session, table))).statements
        monkeypatch.setattr(duckdb_session, "_answer", traced)
        await scan(session, [NEW], table)
    ours = (
        "CREATE OR REPLACE TEMP TABLE retl_stage",
        "DELETE FROM temp.retl_stage",
        "DROP TABLE IF EXISTS temp.retl_stage",
    )
    assert [sql for sql in seen if not sql.startswith(ours)] == list(shown)
