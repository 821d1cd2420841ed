"""A mirror changes rows alone: what hangs on the table stays, and only the differences are written."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from retl.model.errors import TargetError
from tests.integration.postgres.dumps import RICH, definition
from tests.integration.postgres.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers.postgres import PostgresServer

MIRROR = spec(pre_action="mirror", max_shrink=1.0)
TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"
ROWS = "INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c')"
BOSSES = PEOPLE.append(pa.field("boss", pa.int64()))


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


async def mirror(scene: Scene, *rows: tuple[Any, ...], schema: pa.Schema = PEOPLE) -> None:
    async with scene.session() as session:
        await scan(session, [people(*rows, schema=schema)], MIRROR)


async def test_a_trigger_sees_the_differences_alone(scene: Scene) -> None:
    scene.run(
        *(TABLE, ROWS, "CREATE TABLE seen (what text, id bigint)"),
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO seen VALUES (TG_OP, coalesce(NEW.id, OLD.id)); RETURN NULL; END'",
        "CREATE TRIGGER tells AFTER INSERT OR UPDATE OR DELETE ON people FOR EACH ROW EXECUTE FUNCTION tell()",
    )
    await mirror(scene, (1, "a"), (2, "B"), (7, "g"))
    assert scene.rows("people") == [(1, "a"), (2, "B"), (7, "g")]
    assert scene.rows("seen") == [("DELETE", 3), ("INSERT", 7), ("UPDATE", 2)]
    assert scene.tables() == ["people", "seen"]


async def test_what_hangs_on_the_table_stays(scene: Scene) -> None:
    scene.run(
        *(TABLE, ROWS, "CREATE VIEW names AS SELECT name FROM people"),
        "CREATE TABLE pets (owner bigint REFERENCES people ON DELETE CASCADE)",
        "INSERT INTO pets VALUES (2), (3)",
        "CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM people; END",
    )
    before = definition(scene, "people")
    ((oid,),) = scene.run("SELECT 'people'::regclass::oid::int")
    await mirror(scene, (1, "a"), (2, "B"))
    assert scene.rows("names") == [("B",), ("a",)]
    assert scene.rows("pets") == [(2,)]
    assert scene.run("SELECT how_many()") == [(2,)]
    assert scene.run("SELECT 'people'::regclass::oid::int") == [(oid,)]
    assert definition(scene, "people") == before


async def test_a_foreign_key_that_forbids_it_leaves_everything_as_it_was(scene: Scene) -> None:
    scene.run(
        *(TABLE, ROWS, "CREATE TABLE pets (owner bigint CONSTRAINT owned REFERENCES people)"),
        "INSERT INTO pets VALUES (3)",
    )
    with pytest.raises(TargetError, match="owned"):
        await mirror(scene, (1, "A"), (2, "B"))
    assert scene.rows("people") == [(1, "a"), (2, "b"), (3, "c")]
    assert scene.tables() == ["people", "pets"]


async def test_a_table_that_refers_to_itself(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, boss bigint REFERENCES people)",
        "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2)",
    )
    await mirror(scene, (2, "b", 4), (4, "d", 2), schema=BOSSES)
    assert scene.rows("people") == [(2, "b", 4), (4, "d", 2)]
    await mirror(scene, (5, "e", None), schema=BOSSES)
    assert scene.rows("people") == [(5, "e", None)]


async def test_a_table_that_refers_to_itself_and_passes_a_unique_value_on(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text UNIQUE, boss bigint REFERENCES people)",
        "INSERT INTO people VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 1)",
    )
    await mirror(scene, (1, "a", None), (2, "c", 1), (4, "b", 2), schema=BOSSES)
    assert scene.rows("people") == [(1, "a", None), (2, "c", 1), (4, "b", 2)]


async def test_only_the_differences_reach_the_log(scene: Scene) -> None:
    """The shadow is unlogged: what a mirror of 20,000 rows writes is for its own tables and the 1 % that changed."""
    rows = [(number, f"name {number} " * 8) for number in range(20_000)]
    scene.run(TABLE)
    async with scene.session() as session:
        begun = scene.wal()
        await scan(session, [people(*rows)], spec())
        loaded = scene.wal()
        await scan(session, [people(*((n, "new") if n % 100 == 0 else (n, text) for n, text in rows))], MIRROR)
        mirrored = scene.wal()
    assert mirrored - loaded < 500_000 < (loaded - begun) / 4
    assert scene.run("SELECT count(*) FROM people WHERE name = 'new'") == [(200,)]


async def test_a_shadow_has_what_rejects_rows_and_nothing_else(scene: Scene) -> None:
    scene.run(TABLE, "CREATE INDEX by_name ON people (name)", "ALTER TABLE people ADD CHECK (name <> 'bad')")
    table = spec(pre_action="mirror", max_shrink=1.0, max_rejects=1)
    async with scene.session() as session:
        writer = await session.prepare(session.load(table, schema=PEOPLE))
        await writer.write(people((1, "bad"), (2, "b")))
        done = await session.commit(writer, rejects_left=1)
        shadow = "SELECT c.relpersistence::text, c.oid::int FROM pg_class AS c WHERE c.relname LIKE '\\_retl\\_new%'"
        ((persistence, oid),) = scene.run(f"{shadow} AND c.relkind = 'r'")
        indexes = scene.run(f"SELECT indisprimary FROM pg_index WHERE indrelid = {oid}")
        await session.finish(writer)
    assert len(done.rejects) == 1
    assert (persistence, indexes) == ("u", [(True,)])
    assert scene.rows("people") == [(2, "b")]


async def test_a_table_that_has_everything(scene: Scene) -> None:
    scene.run(*RICH, "INSERT INTO region VALUES (1)", "INSERT INTO people (name, qty, region) VALUES ('old', 1, 1)")
    before = definition(scene, "people")
    await mirror(scene, (5, "same id"), (9, "b"))
    assert definition(scene, "people") == before
    # What the source does not give stays as it was.
    assert scene.rows("people", "id, name, qty, region") == [(5, "same id", 1, 1), (9, "b", None, None)]


async def test_a_partitioned_table(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint, name text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF people FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE high PARTITION OF people FOR VALUES FROM (10) TO (20)",
        "INSERT INTO people VALUES (1, 'a'), (2, 'b'), (11, 'k')",
    )
    await mirror(scene, (2, "B"), (12, "l"))
    assert (scene.rows("low"), scene.rows("high")) == ([(2, "B")], [(12, "l")])


async def test_a_row_for_which_there_is_no_partition_leaves_everything_as_it_was(scene: Scene) -> None:
    """The shadow has no partitions, so only the end of a mirror can tell."""
    scene.run(
        "CREATE TABLE people (id bigint, name text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF people FOR VALUES FROM (0) TO (10)",
        "INSERT INTO people VALUES (1, 'a'), (2, 'b')",
    )
    with pytest.raises(TargetError, match=r"no partition of relation .*; 'people' was left as it was") as raised:
        await mirror(scene, (2, "B"), (99, "z"))
    assert "a partition that is missing" in raised.value.remedy
    assert scene.rows("people") == [(1, "a"), (2, "b")]
    assert scene.tables() == ["low", "people"]
    scene.run("CREATE TABLE others PARTITION OF people DEFAULT")
    await mirror(scene, (2, "B"), (99, "z"))
    assert (scene.rows("low"), scene.rows("others")) == ([(2, "B")], [(99, "z")])
