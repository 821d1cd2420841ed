"""How staged rows become part of a table: what is equal, which row a key means, and what rows owe to one another."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import retl
from retl.model.actions import Action
from retl.model.errors import RepeatedKey, RowsRejected, UnsupportedError
from retl.model.schema import field
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers.database import Server

BEFORE = [(1, "A"), (2, "B"), (3, "C"), (4, None)]
REFRESHES = ["truncate", "rename_and_create", "swap"]
LATER = "20240501T120001.000001-aaaaaa"


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


# What is equal --------------------------------------------------------------------


async def test_rows_that_did_not_change_are_not_written(scene: Scene) -> None:
    """Not even touched: a trigger, a history and a column of the time of the last change see nothing of them."""
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20) COLLATE utf8mb4_general_ci, x DOUBLE, doc JSON)",
        "CREATE TABLE touched (id BIGINT)",
        "CREATE TRIGGER touching BEFORE UPDATE ON people FOR EACH ROW INSERT INTO touched VALUES (OLD.id)",
    )
    schema = PEOPLE.append(pa.field("x", pa.string())).append(field("doc", pa.string(), json=True))
    was = [(n, "name", "0.5", "[1]") for n in range(6)] + [(6, None, None, None), (7, "e", "0", "[1]")]
    now = [
        (0, "Name", "0.5", "[1]"), (1, "name ", "0.5", "[1]"), (2, "n\u00e4me", "0.5", "[1]"), (3, "name", "-0.5", "[1]"),
        (4, "name", "0.5", "[1.0]"), (5, "name", "0.5", "[1]"), (6, None, None, None), (7, "e", "-0", "[1]"), (8, "new", None, None),
    ]  # fmt: skip
    async with scene.session() as session:
        typed = schema.set(2, pa.field("x", pa.float64()))
        for rows in (was, was):
            done = await scan(session, [people(*rows, schema=schema)], schema=typed)
        assert (done.rows, done.changed, done.unchanged) == (8, 0, 8)
        assert scene.rows("touched") == []
        done = await scan(session, [people(*now, schema=schema)], schema=typed)
    assert (done.rows, done.changed, done.unchanged) == (9, 6, 3)
    # MariaDB has no zero below zero; MySQL's JSON takes 1 and 1.0 for equal.
    assert [row[0] for row in scene.rows("touched")] == [0, 1, 2, 3, 4 if scene.mariadb else 7]
    assert [row[:2] for row in scene.rows("people")] == [row[:2] for row in now]


async def test_of_rows_with_one_key_the_newest_stays_whatever_bytes_they_hold(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), raw VARBINARY(9))")
    schema = PEOPLE.append(pa.field("raw", pa.binary()))
    rows = [(1, "old", b"\x01\x00\xff"), (1, "same", b"\xff\x00"), (1, "same", b"\xff\x00")]
    async with scene.session() as session:
        with pytest.raises(RepeatedKey):
            await scan(session, [people(*rows, schema=schema)], schema=schema)
        await scan(session, [people(*rows[1:], schema=schema)], schema=schema)
    assert scene.rows("people") == [(1, "same", b"\xff\x00")]


async def test_values_of_every_type_are_known_as_unchanged(scene: Scene) -> None:
    kinds = {
        "a": "FLOAT", "b": "DOUBLE", "c": "DECIMAL(20,6)", "d": "BIT(10)", "e": "YEAR", "f": "DATETIME(3)", "g": "TIMESTAMP(6) NULL",
        "h": "TIME(2)", "i": "JSON", "j": "ENUM('x','it''s')", "k": "SET('x','y')", "l": "BINARY(2)", "m": "VARBINARY(9)",
        "n": "LONGBLOB", "o": "LONGTEXT", "p": "CHAR(5)", "q": "POINT", "r": "DATE", "s": "TINYINT UNSIGNED",
        "t": "VECTOR(2)" if not scene.mariadb else "INET6", "u": "VARCHAR(9) CHARACTER SET utf16",
    }  # fmt: skip
    columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    other = "STRING_TO_VECTOR('[1,2.5]')" if not scene.mariadb else "'::1'"
    scene.run(
        f"CREATE TABLE origin (id INT PRIMARY KEY, {columns})",
        "INSERT INTO origin (id) VALUES (1)",
        "INSERT INTO origin VALUES (2, 0.1, 0.1, 1.5, b'101', 2024, '2024-02-29 01:02:03.456', '2037-01-01 00:00:00.000001', "
        "'-12:34:56.78', '{\"a\": [1, null]}', 'it''s', 'x,y', X'0001', X'00', X'', '', 'ab', POINT(1, 2), '0001-01-01', 255, "
        f"{other}, '\u00fc')",
    )
    pipeline = retl.Pipeline(
        "all", source=scene.options(), target=scene.options(), tables=[retl.Table("origin", to="copied")]
    )
    for changed in (2, 0):
        (report,) = (await pipeline.run_once()).scans
        assert (report.status, report.rows, report.changed) == ("done", 2, changed)
    await pipeline.aclose()
    # PyMySQL takes vectors for text.
    seen = ", ".join(f"HEX({name})" if kind.startswith("VECTOR") else name for name, kind in kinds.items())
    assert scene.rows("copied", seen) == scene.rows("origin", seen)


async def test_a_history_holds_what_has_changed_alone(mariadb_server: Server) -> None:
    with mariadb_server.fresh_database() as database:
        scene = Scene(mariadb_server, database)
        scene.run(
            "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20)) WITH SYSTEM VERSIONING",
            "INSERT INTO people VALUES (1, 'old')",
            "UPDATE people SET name = 'a'",
        )
        async with scene.session() as session:
            for pre_action in REFRESHES:
                load = session.load(spec(pre_action=pre_action), schema=PEOPLE)
                with pytest.raises(UnsupportedError, match="history"):
                    await session.target.preview(load)
                with pytest.raises(UnsupportedError, match="history"):
                    await scan(session, [people((7, "x"))], load.table)
            done = await scan(session, [people((1, "a"), (2, "b"))])
            assert (done.rows, done.changed, done.unchanged) == (2, 1, 1)
            done = await scan(session, [people((1, "a"), (2, "c"))])
            assert (done.rows, done.changed, done.unchanged) == (2, 1, 1)
        history = scene.run("SELECT id, name FROM people FOR SYSTEM_TIME ALL")
        assert sorted(history) == [(1, "a"), (1, "old"), (2, "b"), (2, "c")]


# Which row a key means --------------------------------------------------------------


async def test_a_key_that_the_target_takes_for_that_of_another_row_is_a_reject(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, name TEXT)")
    schema = PEOPLE.set(0, pa.field("id", pa.string(), nullable=False))
    async with scene.session() as session:
        await scan(session, [people(("ann", "1"), ("bob", "1"), schema=schema)], unique_key=True)
        done = await scan(
            session, [people(("Ann", "2"), ("bob", "2"), ("cy", "2"), schema=schema)], unique_key=True, rejects_left=1
        )
    assert [(reject.key, "ann" in reject.reason) for reject in done.rejects] == [('{"id":"Ann"}', True)]
    assert (done.rows, done.changed) == (3, 2)
    assert scene.rows("people") == [("ann", "1"), ("bob", "2"), ("cy", "2")]


async def test_a_key_may_change_its_case_where_both_systems_take_it_for_one(scene: Scene) -> None:
    made = "(id VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, name TEXT, n INT UNIQUE)"
    scene.run(f"CREATE TABLE origin {made}", f"CREATE TABLE people {made}")
    pipeline = retl.Pipeline(
        "case", source=scene.options(), target=scene.options(), tables=[retl.Table("origin", to="people")]
    )
    for rows in ("('ann', 'a', 1), ('bob', 'b', 2)", "('Ann', 'a', 1), ('bob', 'B', 2), ('cy ', 'c', 3)"):
        scene.run(f"REPLACE INTO origin VALUES {rows}")
        (report,) = (await pipeline.run_once()).scans
        assert (report.status, report.rejects) == ("done", 0)
        assert scene.rows("people") == scene.rows("origin")
    await pipeline.aclose()


# Rows that pass on a unique value -----------------------------------------------------

SEATS = {
    "may_be_null": "(id BIGINT PRIMARY KEY, name VARCHAR(9), UNIQUE KEY seat (name))",
    "not_null": "(id BIGINT PRIMARY KEY, name VARCHAR(9) NOT NULL DEFAULT '', UNIQUE KEY seat (name))",
    "prefix": "(id BIGINT PRIMARY KEY, name VARCHAR(9) NOT NULL, UNIQUE KEY seat (name(3)))",
    "any_case": "(id BIGINT PRIMARY KEY, name VARCHAR(9) COLLATE utf8mb4_general_ci, UNIQUE KEY seat (name))",
}


EXCHANGES = [
    [(1, "B"), (2, "A")],
    [(1, "B"), (2, "C"), (3, "A")],
    [(1, "B"), (2, "X")],
    [(1, "x"), (2, "A"), (5, "B")],
    [(1, "a"), (2, "C"), (3, "B"), (6, "D")],
]


@pytest.mark.parametrize("seats", SEATS)
async def test_rows_may_pass_on_a_unique_value(scene: Scene, seats: str) -> None:
    scene.run(f"CREATE TABLE people {SEATS[seats]}", "CREATE TABLE pets (n INT)")
    async with scene.session() as session:
        for now in EXCHANGES:
            scene.run("DELETE FROM people", "INSERT INTO people VALUES (1, 'A'), (2, 'B'), (3, 'C')")
            done = await scan(session, [people(*now)])
            assert scene.rows("people") == sorted({**dict(BEFORE[:3]), **dict(now)}.items())
            assert (done.rows, done.changed, list(done.rejects)) == (len(now), len(now), [])
        for pre_action in REFRESHES:
            done = await scan(session, [people((1, "A"), (2, "B"))], spec(pre_action=pre_action))
            done = await scan(session, [people((1, "B"), (2, "A"))], spec(pre_action=pre_action), scan_id=LATER)
            assert scene.rows("people") == [(1, "B"), (2, "A")]
            assert (done.rows, list(done.rejects)) == (2, [])


@pytest.mark.parametrize("seats", ["may_be_null", "not_null"])
async def test_a_row_that_takes_what_another_one_keeps_is_a_reject_and_no_more(scene: Scene, seats: str) -> None:
    """1 and 2 exchange; 5 wants what 3 keeps; 6 wants what 5 would have left if it had been there; 4 wants what 7 took."""
    scene.run(f"CREATE TABLE people {SEATS[seats]}")
    async with scene.session() as session:
        await scan(session, [people(*BEFORE[:3], (4, "D"), (5, "E"))])
        done = await scan(session, [people((1, "B"), (2, "A"), (5, "C"), (6, "E"), (7, "F"), (4, "F"))], rejects_left=5)
        assert scene.run("SELECT @@GLOBAL.foreign_key_checks") == [(1,)]
    assert [reject.key for reject in done.rejects] in (
        ['{"id":5}', '{"id":4}', '{"id":6}'],
        ['{"id":5}', '{"id":7}', '{"id":6}'],
    )
    assert all("Duplicate entry" in reject.reason for reject in done.rejects)
    kept = [(1, "B"), (2, "A"), (3, "C"), (5, "E")]
    assert scene.rows("people") in ([*kept[:3], (4, "D"), kept[3], (7, "F")], [*kept[:3], (4, "F"), kept[3]])
    assert (done.rows, done.changed) == (6, 3)


async def test_who_refers_to_a_row_keeps_it_while_rows_exchange_a_value(scene: Scene) -> None:
    scene.run(f"CREATE TABLE people {SEATS['not_null']}")
    with scene.server.fresh_database() as hidden:
        scene.run(
            f"CREATE TABLE `{hidden}`.pets (id INT PRIMARY KEY, owner BIGINT, FOREIGN KEY (owner) "
            f"REFERENCES `{scene.database}`.people (id) ON DELETE CASCADE)"
        )
        async with scene.session() as session:
            await scan(session, [people(*BEFORE[:3])])
            scene.run(f"INSERT INTO `{hidden}`.pets VALUES (1, 1), (2, 2)")
            done = await scan(session, [people((1, "B"), (2, "A"))])
            assert (done.rows, done.changed) == (2, 2)
            assert scene.run(f"SELECT * FROM `{hidden}`.pets ORDER BY id") == [(1, 1), (2, 2)]
            assert scene.rows("people") == [(1, "B"), (2, "A"), (3, "C")]
            with pytest.raises(Exception, match="foreign key"):
                scene.run("DELETE FROM people WHERE id = 3", f"INSERT INTO `{hidden}`.pets VALUES (3, 3)")


@pytest.mark.parametrize("forbidden", [Action.UPDATE, Action.DELETE, Action.INSERT])
async def test_nothing_forbidden_is_done_for_an_exchange(scene: Scene, forbidden: Action) -> None:
    scene.run(f"CREATE TABLE people {SEATS['not_null']}")
    async with scene.session() as session:
        await scan(session, [people(*BEFORE[:3])])
        done = await scan(session, [people((1, "B"), (2, "A"))], blacklist=frozenset({forbidden}), rejects_left=5)
    assert scene.rows("people") == BEFORE[:3]
    assert (done.changed, len(done.rejects)) == (0, 0 if forbidden is Action.UPDATE else 2)


async def test_a_table_with_triggers_is_not_emptied_for_an_exchange(scene: Scene) -> None:
    scene.run(
        f"CREATE TABLE people {SEATS['not_null']}",
        "CREATE TABLE gone (id BIGINT)",
        "CREATE TRIGGER going BEFORE DELETE ON people FOR EACH ROW INSERT INTO gone VALUES (OLD.id)",
    )
    async with scene.session() as session:
        await scan(session, [people(*BEFORE[:3])])
        done: Any = await scan(session, [people((1, "B"), (2, "A"), (3, "D"))], rejects_left=5)
    assert [reject.key for reject in done.rejects] == ['{"id":1}', '{"id":2}']
    assert (scene.rows("people"), scene.rows("gone")) == ([(1, "A"), (2, "B"), (3, "D")], [])


async def test_a_merge_that_is_refused_leaves_nothing_of_itself(scene: Scene) -> None:
    """One statement updates what is there before another one adds what is new."""
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), tag VARCHAR(20) UNIQUE)",
        "INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y')",
    )
    schema = PEOPLE.append(pa.field("tag", pa.string()))
    async with scene.session() as session:
        with pytest.raises(RowsRejected):
            await scan(session, [people((1, "A", "x"), (3, "c", "y"), schema=schema)], schema=schema)
    assert scene.rows("people") == [(1, "a", "x"), (2, "b", "y")]
