"""Slices that replace the rows of their scope: the index that finds them, and the foreign keys that forbid it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retl.connectors.base import Slice
from retl.model.actions import Action
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.window import Scope
from tests.integration.postgres.targets import Scene
from tests.integration.scene import PEOPLE, commit, people, spec
from tests.servers.postgres import PostgresServer

TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"
INDEXES = "SELECT indexdef FROM pg_indexes WHERE tablename = 'people' AND indexdef NOT LIKE '%UNIQUE%' ORDER BY 1"


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


async def load(scene: Scene, *rows: tuple[int, str], blacklist: frozenset[Action] = frozenset()) -> None:
    """A scan of one slice, whose scope are the names of its rows."""
    table = replace(spec(write="append"), scope="name")
    slice_ = Slice(index=0, scope=Scope("name", tuple(dict.fromkeys(name for _, name in rows))))
    async with scene.session() as session:
        writer = await session.prepare(session.load(table, schema=PEOPLE, blacklist=blacklist))
        await commit(session, writer, [people(*rows)], slice_=slice_)
        await session.finish(writer)


@pytest.mark.parametrize(("rule", "does"), [("CASCADE", "deletes"), ("SET NULL", "NULL"), ("SET DEFAULT", "default")])
async def test_a_foreign_key_that_changes_others_is_refused_by_name(scene: Scene, rule: str, does: str) -> None:
    scene.run(TABLE, f"CREATE TABLE pets (owner bigint CONSTRAINT owned REFERENCES people ON DELETE {rule})")
    with pytest.raises(
        UnsupportedError, match=rf"'owned' then {does if does == 'deletes' else 'sets to.*' + does}.*'pets'"
    ):
        await load(scene, (1, "a"))


async def test_a_foreign_key_that_only_checks_is_no_hindrance(scene: Scene) -> None:
    scene.run(
        TABLE,
        "INSERT INTO people VALUES (1, 'a')",
        "CREATE TABLE pets (owner bigint REFERENCES people DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO pets VALUES (1)",
    )
    await load(scene, (1, "a"), (2, "a"))
    assert scene.rows("people") == [(1, "a"), (2, "a")]
    assert scene.rows("pets") == [(1,)]


@pytest.mark.parametrize("there", [False, True])
async def test_the_column_of_the_scope_gets_one_index(scene: Scene, there: bool) -> None:
    if there:
        scene.run(TABLE)
    await load(scene, (1, "a"))
    await load(scene, (2, "a"), (3, "b"))
    assert scene.rows("people") == [(2, "a"), (3, "b")]
    ((index,),) = scene.run(INDEXES)
    assert index.endswith("USING btree (name)")


async def test_an_index_that_begins_with_the_column_will_do(scene: Scene) -> None:
    scene.run(TABLE, "CREATE INDEX own ON people (name, id)")
    await load(scene, (1, "a"))
    assert [index.split()[2] for (index,) in scene.run(INDEXES)] == ["own"]


async def test_an_index_is_demanded_where_none_may_be_created(scene: Scene) -> None:
    scene.run(TABLE, "CREATE INDEX partly ON people (name) WHERE id > 0")
    with pytest.raises(ConfigError, match=r"no index that begins with 'name'.*the blacklist forbids CREATE") as caught:
        await load(scene, (1, "a"), blacklist=frozenset({Action.CREATE}))
    assert 'CREATE INDEX CONCURRENTLY ON "public"."people" ("name")' in caught.value.remedy
    scene.run_as_admin("ALTER TABLE people OWNER TO CURRENT_USER", f"GRANT ALL ON people TO {scene.user.user}")
    with pytest.raises(ConfigError, match=r"only its owner, '.*', may create one"):
        await load(scene, (1, "a"))
    scene.run_as_admin("CREATE INDEX ON people (name)")
    await load(scene, (1, "a"))
    assert scene.rows("people") == [(1, "a")]
