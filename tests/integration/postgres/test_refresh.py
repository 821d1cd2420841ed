"""A table that is replaced by another one: everything that belongs to it is there again, under its old name."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from retl.model.errors import RowsRejected, TargetError, TransientError
from tests.integration.postgres.dumps import RICH, definition
from tests.integration.postgres.targets import Scene
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.servers.postgres import PostgresServer

SWAP = spec(pre_action="swap", max_shrink=1.0)
ARCHIVE = spec(pre_action="rename_and_create", max_shrink=1.0)
EXCHANGES = pytest.mark.parametrize("table", [SWAP, ARCHIVE], ids=["swap", "rename_and_create"])


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


def at(second: int) -> str:
    """A scan's name, which begins with its time."""
    return f"20240501T1200{second:02}.000001-aaaaaa"


def publish(scene: Scene) -> None:
    """Publications of a part of the table, which belong to the user."""
    user = scene.user.user
    scene.run_as_admin(f'GRANT CREATE ON DATABASE "{scene.database}" TO "{user}"')
    scene.run(
        "CREATE PUBLICATION rows FOR TABLE people WHERE (id > 3)",
        "CREATE PUBLICATION columns FOR TABLE people (id, number)",
    )


@EXCHANGES
async def test_a_dump_shows_no_difference(scene: Scene, table: Any) -> None:
    scene.run(*RICH, "INSERT INTO region VALUES (1)", "INSERT INTO people (name, qty, region) VALUES ('old', 1, 1)")
    publish(scene)
    before = definition(scene, "people")
    for number in range(2):
        async with scene.session() as session:
            await scan(session, [people((1, "a"), (9, "b"))], table, scan_id=at(number))
        assert definition(scene, "people") == before
    assert scene.rows("people", "id, name, number") == [(1, "a", 4), (9, "b", 5)]


NEWER = (
    "CREATE TABLE names (name text PRIMARY KEY)",
    """CREATE TABLE people (
        id bigint PRIMARY KEY, name text, twice bigint GENERATED ALWAYS AS (id * 2) VIRTUAL,
        more text CONSTRAINT given NOT NULL DEFAULT 'x', later text DEFAULT 'y',
        CONSTRAINT loose CHECK (id > 5) NOT ENFORCED, FOREIGN KEY (name) REFERENCES names NOT ENFORCED)""",
    "ALTER TABLE people ADD CONSTRAINT some_day NOT NULL later NOT VALID",
)
"""What PostgreSQL 18 has that 15 has not."""


@EXCHANGES
async def test_what_only_newer_servers_have(scene: Scene, table: Any) -> None:
    if scene.server.version < 180_000:
        pytest.skip("this server is older")
    scene.run(*NEWER)
    before = definition(scene, "people")
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], table)
    assert definition(scene, "people") == before
    assert scene.rows("people") == [(1, "a", 2, "x", "y")]


@EXCHANGES
async def test_nothing_is_left_under_a_temporary_name(scene: Scene, table: Any) -> None:
    scene.run(*RICH)
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], table)
    for catalog, column in (("pg_class", "relname"), ("pg_constraint", "conname"), ("pg_statistic_ext", "stxname")):
        assert scene.run(f"SELECT {column} FROM {catalog} WHERE {column} LIKE '\\_retl%'") == []


@EXCHANGES
async def test_numbers_go_on_where_the_old_table_was(scene: Scene, table: Any) -> None:
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, no serial, other int GENERATED ALWAYS AS IDENTITY (INCREMENT 10))",
        "INSERT INTO people (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    )
    async with scene.session() as session:
        await scan(session, [people((1, "A"), (2, "B"))], table)
    scene.run("INSERT INTO people (id, name) VALUES (7, 'next')")
    ((no, other),) = scene.run("SELECT no, other FROM people WHERE id = 7")
    # The rows of the load have taken two numbers of either.
    assert no == 6
    assert other in (31, 51)
    scene.run("ALTER TABLE people DROP COLUMN no")
    assert scene.run("SELECT 1 FROM pg_class WHERE relname = 'people_no_seq'") == []


@EXCHANGES
@pytest.mark.parametrize(("old", "loaded", "following"), [(3, 100, 101), (500, 100, 501), (100, 100, 101)])
async def test_a_number_goes_on_behind_all_that_were_given(
    scene: Scene, table: Any, old: int, loaded: int, following: int
) -> None:
    scene.run(
        "CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, no serial)",
        f"SELECT setval('people_id_seq', {old}), setval('people_no_seq', {old})",
    )
    schema = PEOPLE.append(pa.field("no", pa.int64()))
    async with scene.session() as session:
        await scan(session, [people((1, "a", 1), (loaded, "b", loaded), schema=schema)], table)
    assert scene.run("INSERT INTO people (name) VALUES ('next') RETURNING id, no") == [(following, following)]


async def test_the_owner_and_all_rights_stay(scene: Scene) -> None:
    user = scene.user.user
    scene.run_as_admin(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, no serial)",
        "ALTER TABLE people OWNER TO pg_monitor",
        "GRANT CREATE, USAGE ON SCHEMA public TO pg_monitor",
        f'GRANT pg_monitor TO "{user}"',
        "GRANT SELECT ON people TO pg_read_all_stats",
    )
    before = definition(scene, "people")
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], SWAP)
    assert definition(scene, "people") == before
    assert any("OWNER TO pg_monitor" in line for line in before)


@EXCHANGES
async def test_rights_that_every_new_table_gets_are_taken_away(scene: Scene, table: Any) -> None:
    """A table that somebody may not read must not be readable while it is loaded, nor afterwards."""
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text)",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, pg_monitor",
    )
    before = definition(scene, "people")
    acl = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE '%people%' AND has_table_privilege('pg_monitor', oid, 'SELECT')"
    async with scene.session() as session:
        writer = await session.prepare(session.load(table, schema=PEOPLE))
        await commit(session, writer, [people((1, "secret"))])
        assert [name for (name,) in scene.run(acl) if "stage" not in name] == []
        await session.finish(writer)
    assert scene.run(acl) == []
    kept = [line for line in definition(scene, "people") if "pg_monitor" not in line and "PUBLIC" not in line]
    assert [line for line in before if line not in kept] == []


async def test_an_archive_gives_up_its_names_and_depends_on_nothing(scene: Scene) -> None:
    scene.run(*RICH, "INSERT INTO region VALUES (1)", "INSERT INTO people (name, qty, region) VALUES ('old', 1, 1)")
    publish(scene)
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], ARCHIVE)
    (archive,) = [name for name in scene.tables() if name.startswith("people_arc_")]
    assert scene.rows(archive, "id, name") == [(5, "old")]
    suffix = archive.removeprefix("people")
    owned = f"SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{archive}'::regclass"
    indexes = [name.strip('"') for (name,) in scene.run(owned)]
    assert len(indexes) == 6
    assert all(name.endswith(suffix) for name in indexes)
    assert scene.run(f"SELECT 1 FROM pg_constraint WHERE conrelid = '{archive}'::regclass AND contype = 'f'") == []
    assert scene.run(f"SELECT 1 FROM pg_publication_tables WHERE tablename = '{archive}'") == []
    scene.run("DELETE FROM region")
    assert scene.rows(archive, "id, name") == [(5, "old")]
    scene.run("DROP TABLE people")
    assert scene.rows(archive, "id, name") == [(5, "old")]


async def test_names_that_are_as_long_as_names_can_be(scene: Scene) -> None:
    table, index, identity = "t" * 63, "ä" * 31, "i" * 60
    scene.run(
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text, {identity} int GENERATED ALWAYS AS IDENTITY)",
        f'CREATE INDEX "{index}" ON {table} (name)',
    )
    before = definition(scene, table)
    for number, pre_action in enumerate(("swap", "rename_and_create", "rename_and_create")):
        async with scene.session() as session:
            words = spec(table, pre_action=pre_action, max_shrink=1.0)
            await scan(session, [people((1, "a"))], words, scan_id=at(number))
        assert definition(scene, table) == before
    assert len(scene.tables()) == 3


async def test_old_archives_are_dropped(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text, no serial)")
    for number in range(4):
        async with scene.session() as session:
            table = spec(pre_action="rename_and_create", keep_archives=2, max_shrink=1.0)
            await scan(session, [people((number, "a"))], table, scan_id=at(number))
    archives = [name for name in scene.tables() if name.startswith("people_arc_")]
    assert [scene.rows(name, "id") for name in archives] == [[(1,)], [(2,)]]


async def test_an_index_that_failed_is_left_behind(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)", "INSERT INTO people VALUES (1, 'a'), (2, 'a')")
    with pytest.raises(Exception, match="could not create unique index"):
        scene.run("CREATE UNIQUE INDEX CONCURRENTLY broken ON people (name)")
    async with scene.session() as session:
        await scan(session, [people((1, "a"), (2, "a"))], SWAP)
    assert scene.run("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'people'::regclass") == [
        ("people_pkey",)
    ]


async def test_other_indexes_are_built_when_the_rows_are_there(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text)",
        "CREATE INDEX by_name ON people (name)",
        "CREATE UNIQUE INDEX unique_name ON people (upper(name))",
    )
    count = "SELECT count(*) FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid WHERE c.relname LIKE '\\_retl_new%'"
    async with scene.session() as session:
        writer = await session.prepare(session.load(SWAP, schema=PEOPLE))
        await commit(session, writer, [people((1, "a"))])
        assert scene.run(count) == [(2,)]
        await session.finish(writer)
    assert scene.run("SELECT count(*) FROM pg_index WHERE indrelid = 'people'::regclass") == [(3,)]
    ((rows,),) = scene.run("SELECT reltuples FROM pg_class WHERE relname = 'people'")
    assert rows == 1  # statistics are there before the first reader


async def test_a_row_that_breaks_a_unique_index_is_rejected(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)", "CREATE UNIQUE INDEX one ON people (name)")
    rows = [people((1, "a"), (2, "a"), (3, "b"))]
    async with scene.session() as session:
        with pytest.raises(RowsRejected):
            await scan(session, rows, SWAP)
        done = await scan(session, rows, spec(pre_action="swap", max_shrink=1.0, max_rejects=1), rejects_left=1)
    assert len(done.rejects) == 1
    assert scene.rows("people") == [(1, "a"), (3, "b")]


async def test_a_table_that_refers_to_itself(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, boss bigint REFERENCES people)",
        "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1)",
    )
    schema = PEOPLE.append(pa.field("boss", pa.int64()))
    async with scene.session() as session:
        await scan(session, [people((1, "A", 2), (2, "B", None), schema=schema)], SWAP)
    assert scene.rows("people") == [(1, "A", 2), (2, "B", None)]
    keys = scene.run("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'")
    assert keys == [("people_boss_fkey", "FOREIGN KEY (boss) REFERENCES people(id)")]


CHANGES = [
    "ALTER TABLE people ADD COLUMN more int",
    "ALTER TABLE people ALTER COLUMN name SET DEFAULT 'x'",
    "ALTER TABLE people ADD CHECK (id > 0)",
    "CREATE UNIQUE INDEX another ON people (name)",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_table_that_changes_while_its_successor_is_loaded(scene: Scene, change: str) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)", "INSERT INTO people VALUES (1, 'old')")
    async with scene.session() as session:
        writer = await session.prepare(session.load(SWAP, schema=PEOPLE))
        await commit(session, writer, [people((2, "new"))])
        scene.run(change)
        before = definition(scene, "people")
        with pytest.raises(TransientError, match="was changed while rows were loaded"):
            await session.finish(writer)
        await session.abort(writer)
        assert scene.rows("people", "id, name") == [(1, "old")]
        assert definition(scene, "people") == before
        await scan(session, [people((2, "new"))], SWAP)
    assert scene.rows("people", "id, name") == [(2, "new")]
    assert definition(scene, "people") == before


async def test_what_is_added_beside_the_columns_during_the_load_is_kept(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)")
    async with scene.session() as session:
        writer = await session.prepare(session.load(SWAP, schema=PEOPLE))
        await commit(session, writer, [people((2, "new"))])
        scene.run(
            "CREATE INDEX late ON people (name)", "GRANT SELECT ON people TO PUBLIC", "COMMENT ON TABLE people IS 'x'"
        )
        before = definition(scene, "people")
        await session.finish(writer)
    assert definition(scene, "people") == before
    assert scene.rows("people") == [(2, "new")]


async def test_a_view_that_is_made_during_the_load_stops_the_switch(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)", "INSERT INTO people VALUES (1, 'old')")
    async with scene.session() as session:
        writer = await session.prepare(session.load(SWAP, schema=PEOPLE))
        await commit(session, writer, [people((2, "new"))])
        scene.run("CREATE VIEW names AS SELECT name FROM people")
        with pytest.raises(TargetError, match="names"):
            await session.finish(writer)
        await session.abort(writer)
    assert scene.rows("names") == [("old",)]
    assert scene.tables() == ["people"]


@pytest.mark.parametrize("pre_action", ["swap", "mirror"])
async def test_nothing_of_a_first_load_is_named_after_its_shadow(scene: Scene, pre_action: str) -> None:
    scene.run_as_admin(f'CREATE SCHEMA "Sales" AUTHORIZATION "{scene.user.user}"')
    scene.run(
        "CREATE TABLE other (id int CONSTRAINT animals_pkey PRIMARY KEY)",
        'CREATE TABLE "Sales".other (id int CONSTRAINT animals_pkey PRIMARY KEY)',
    )
    for name in ("people", '"Sales".animals', '"Odd ""name"', "animals", "x" * 63):
        async with scene.session() as session:
            await scan(session, [people((1, "a"))], spec(name, pre_action=pre_action))
    names = scene.run("SELECT conrelid::regclass::text, conname::text FROM pg_constraint WHERE contype IN ('p', 'n')")
    # Where a name is taken or too long, the one that is there stays.
    left = {table for table, constraint in names if constraint.startswith("_retl")}
    assert left <= {"animals", '"Sales".animals', "x" * 63}
    assert {("people", "people_pkey"), ('"Odd ""name"', 'Odd "name_pkey')} <= set(names)
