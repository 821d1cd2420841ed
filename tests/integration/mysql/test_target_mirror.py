"""A mirror changes rows alone: what hangs on the table, and readers with old snapshots, see nothing else."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.wire import Done
from retl.model.actions import Action
from retl.model.errors import TargetError
from retl.model.schema import field
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers.database import Server

MIRROR = spec(pre_action="mirror", max_shrink=1.0)
TABLE = "CREATE TABLE people (id BIGINT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(20))"
ROWS = "INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c')"


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


async def mirror(scene: Scene, *rows: tuple[Any, ...], schema: pa.Schema = PEOPLE) -> None:
    async with scene.session() as session:
        await scan(session, [people(*rows, schema=schema)], MIRROR, schema=schema, unique_key=True)


async def test_a_trigger_sees_the_differences_alone(scene: Scene) -> None:
    scene.run(
        *(TABLE, ROWS, "CREATE TABLE seen (what VARCHAR(10), id BIGINT)"),
        "CREATE TRIGGER gone AFTER DELETE ON people FOR EACH ROW INSERT INTO seen VALUES ('gone', OLD.id)",
        "CREATE TRIGGER new AFTER INSERT ON people FOR EACH ROW INSERT INTO seen VALUES ('new', NEW.id)",
        "CREATE TRIGGER changed AFTER UPDATE ON people FOR EACH ROW INSERT INTO seen VALUES ('changed', NEW.id)",
    )
    await mirror(scene, (1, "a"), (2, "B"), (7, "g"))
    assert scene.rows("people") == [(1, "a"), (2, "B"), (7, "g")]
    assert scene.rows("seen") == [("changed", 2), ("gone", 3), ("new", 7)]
    assert scene.tables() == ["people", "seen"]


async def test_views_grants_and_the_counter_stay(scene: Scene) -> None:
    scene.run(TABLE, ROWS, "CREATE VIEW names AS SELECT name FROM people", "ALTER TABLE people AUTO_INCREMENT = 100")
    await mirror(scene, (2, "b"), (5, "e"))
    assert scene.rows("names") == [("b",), ("e",)]
    scene.run("INSERT INTO people (name) VALUES ('next')")
    assert scene.rows("people") == [(100, "next"), (2, "b"), (5, "e")]


async def test_rows_that_refer_to_a_deleted_one_go_with_it(scene: Scene) -> None:
    pets = "CREATE TABLE pets (id INT PRIMARY KEY, owner BIGINT, FOREIGN KEY (owner) REFERENCES people (id)"
    scene.run(TABLE, ROWS, f"{pets} ON DELETE CASCADE)", "INSERT INTO pets VALUES (10, 1), (20, 2), (30, 3)")
    await mirror(scene, (1, "a"), (2, "B"))
    assert scene.rows("pets") == [(10, 1), (20, 2)]


async def test_a_foreign_key_that_forbids_it_leaves_everything_as_it_was(scene: Scene) -> None:
    pets = "CREATE TABLE pets (id INT PRIMARY KEY, owner BIGINT, FOREIGN KEY (owner) REFERENCES people (id))"
    scene.run(TABLE, ROWS, pets, "INSERT INTO pets VALUES (10, 1), (30, 3)")
    with pytest.raises(TargetError, match="no longer has cannot be deleted") as caught:
        await mirror(scene, (1, "A"), (2, "B"))
    assert "ON DELETE CASCADE" in caught.value.remedy
    assert scene.rows("people") == [(1, "a"), (2, "b"), (3, "c")]
    assert scene.tables() == ["people", "pets"]
    await mirror(scene, (1, "A"), (3, "c"))
    assert scene.rows("people") == [(1, "A"), (3, "c")]


async def test_equal_is_what_is_equal_to_the_last_byte(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, "
        "name VARCHAR(20) COLLATE utf8mb4_general_ci, x DOUBLE, j JSON, at TIMESTAMP NULL ON UPDATE CURRENT_TIMESTAMP)",
        """INSERT INTO people (id, name, x, j) VALUES ('a', 'n', 0.0, '1.0'), ('b', 'n', 0.0, '[1]'), ('c', 'n ', 1.5, '{}')""",
    )
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("name", pa.string()),
            pa.field("x", pa.float64()),
            field("j", pa.json_(pa.string()), native="json"),
        ]
    )
    rows = [("A", "n", 0.0, "1"), ("b", "N", -0.0, "[1.0]"), ("c", "n ", 1.5, "{}")]
    await mirror(scene, *rows, schema=schema)
    assert scene.rows("people", "id, name, CAST(x AS CHAR), j") == [
        ("A", "n", "0", "1"),
        ("b", "N", "0" if scene.mariadb else "-0", "[1.0]"),  # MariaDB has no zero below zero
        ("c", "n ", "1.5", "{}"),
    ]
    assert scene.rows("people", "id, at IS NULL") == [("A", 0), ("b", 0), ("c", 1)]


async def test_rows_may_exchange_a_unique_value(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20) UNIQUE)", ROWS)
    await mirror(scene, (1, "b"), (2, "a"), (4, "c"))
    assert scene.rows("people") == [(1, "b"), (2, "a"), (4, "c")]


@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap", "mirror"])
@pytest.mark.parametrize("exists", [False, True])
async def test_plan_shows_the_very_statements_that_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str, exists: bool
) -> None:
    seen: list[str] = []
    execute, load = MySQLConnection.execute, MySQLConnection.load

    async def traced(self: MySQLConnection, sql: str) -> Done:
        seen.append(sql)
        return await execute(self, sql)

    async def loaded(self: MySQLConnection, sql: str, chunks: Any) -> Done:
        seen.append(sql)
        return await load(self, sql, chunks)

    if exists:
        scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), INDEX i (name))", ROWS)
    table = spec(pre_action=pre_action, max_shrink=1.0)
    wide = PEOPLE.append(pa.field("more", pa.int64()))
    rows = pa.RecordBatch.from_pylist([{"id": 2, "name": "B", "more": 7}, {"id": 9, "name": "i", "more": None}], wide)
    async with scene.session() as session:
        shown = (await session.target.preview(session.load(table, schema=wide, unique_key=True))).statements
        monkeypatch.setattr(MySQLConnection, "execute", traced)
        monkeypatch.setattr(MySQLConnection, "load", loaded)
        await scan(session, [rows], table, schema=wide, unique_key=True)
    begins = ("ALTER", "CREATE", "DELETE", "DROP", "INSERT", "LOAD", "RENAME", "REPLACE", "TRUNCATE", "UPDATE")
    ours = (
        "retl_try",
        "retl_no_such_column",
        "TABLE `" + scene.database + "`.`retl_stage",
        "TEMPORARY",
        "retl_leases",
        "retl_checkpoints",
    )
    writes = [
        re.sub(r"retl_stage_\d+", "retl_stage", sql)
        for sql in seen
        if sql.startswith(begins) and not any(name in sql for name in ours)
    ]
    assert writes == list(shown)
    assert [row[:3] for row in scene.run("SELECT id, name, more FROM people WHERE id IN (2, 9) ORDER BY id")] == [
        (2, "B", 7),
        (9, "i", None),
    ]


TREE = "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), boss BIGINT"
STAFF = pa.schema([field("id", pa.int64(), nullable=False), field("name", pa.string()), field("boss", pa.int64())])


@pytest.mark.parametrize("rule", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
async def test_rows_may_refer_to_each_other(scene: Scene, rule: str) -> None:
    """4 goes with its boss 2, and 3 gets a new boss that comes after it in the order of keys; 8 comes before its boss 9."""
    scene.run(
        f"{TREE}, FOREIGN KEY (boss) REFERENCES people (id) {rule})",
        "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2), (4, 'd', 2), (5, 'e', 1)",
    )
    rows = [(1, "a", None), (3, "c", 9), (5, "e", 1), (8, "h", 9), (9, "i", 1)]
    await mirror(scene, *rows, schema=STAFF)
    assert scene.rows("people") == rows
    assert scene.tables() == ["people"]


async def test_rows_that_go_may_refer_to_each_other_by_a_column_that_is_not_written(scene: Scene) -> None:
    scene.run(
        f"{TREE}, FOREIGN KEY (boss) REFERENCES people (id))",
        "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2), (4, 'd', 1)",
    )
    await mirror(scene, (1, "a"), (4, "D"), (5, "e"))
    assert scene.rows("people") == [(1, "a", None), (4, "D", 1), (5, "e", None)]


async def test_rows_that_refer_to_each_other_and_exchange_a_unique_value(scene: Scene) -> None:
    scene.run(
        f"{TREE}, UNIQUE (name), FOREIGN KEY (boss) REFERENCES people (id))",
        "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2)",
    )
    rows = [(1, "b", 7), (2, "a", 7), (7, "g", None)]
    await mirror(scene, *rows, schema=STAFF)
    assert scene.rows("people") == rows


async def test_a_reference_to_a_row_that_is_not_there_leaves_everything_as_it_was(scene: Scene) -> None:
    before = [(1, "a", None), (2, "b", 1)]
    scene.run(
        f"{TREE}, FOREIGN KEY (boss) REFERENCES people (id))", "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1)"
    )
    with pytest.raises(TargetError, match="foreign key constraint fails"):
        await mirror(scene, (1, "a", None), (2, "b", 5), schema=STAFF)
    assert scene.rows("people") == before


async def test_a_first_mirror_renames_nothing_where_that_is_forbidden(scene: Scene) -> None:
    forbidden = frozenset({Action.RENAME})
    async with scene.session() as session:
        shown = (await session.target.preview(session.load(MIRROR, schema=PEOPLE, blacklist=forbidden))).statements
        await scan(session, [people((1, "a"), (2, "b"))], MIRROR, blacklist=forbidden)
    assert not any("RENAME" in statement for statement in shown)
    assert scene.rows("people") == [(1, "a"), (2, "b")]
    assert scene.tables() == ["people"]
