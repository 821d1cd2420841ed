"""Foreign keys of a table whose rows are loaded beside it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from retl.model.errors import RowsRejected, TargetError
from tests.integration.postgres.targets import Scene
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.servers.postgres import PostgresServer

TABLES = (
    'CREATE TABLE names ("a name" text, n int, PRIMARY KEY (n, "a name"))',
    "INSERT INTO names VALUES ('a', 1), ('b', 1)",
    'CREATE TABLE people (id bigint PRIMARY KEY, name text, n int, CONSTRAINT known FOREIGN KEY (n, name) REFERENCES names (n, "a name"))',
    "INSERT INTO people VALUES (1, 'a', 1)",
)
NUMBERED = PEOPLE.append(pa.field("n", pa.int32()))
ROWS = people((1, "a", 1), (2, "z", 1), (3, "z", None), (4, "b", 1), (5, "b", 2), schema=NUMBERED)
SHADOWS = pytest.mark.parametrize("pre_action", ["swap", "mirror"])


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


@pytest.mark.parametrize("pre_action", ["none", "truncate", "swap", "mirror", "rename_and_create"])
async def test_a_row_that_refers_to_nothing_is_rejected(scene: Scene, pre_action: str) -> None:
    """With the same words, whether the key itself rejects it or a shadow has none."""
    scene.run(*TABLES)
    words: dict[str, Any] = {} if pre_action == "none" else {"max_shrink": 1.0}
    async with scene.session() as session:
        done = await scan(session, [ROWS], spec(pre_action=pre_action, max_rejects=2, **words), rejects_left=2)
    assert scene.rows("people") == [(1, "a", 1), (3, "z", None), (4, "b", 1)]
    start = 'insert or update on table "people" violates foreign key constraint "known"; '
    assert sorted(reject.reason.rstrip(".") for reject in done.rejects) == [
        f'{start}Key (n, name)=(1, z) is not present in table "names"',
        f'{start}Key (n, name)=(2, b) is not present in table "names"',
    ]


@SHADOWS
async def test_too_many_of_them_leave_the_table_as_it_was(scene: Scene, pre_action: str) -> None:
    scene.run(*TABLES)
    async with scene.session() as session:
        with pytest.raises(RowsRejected):
            await scan(session, [ROWS], spec(pre_action=pre_action, max_shrink=1.0))
    assert scene.rows("people") == [(1, "a", 1)]
    assert scene.tables() == ["names", "people"]


@SHADOWS
async def test_a_row_that_is_deleted_while_others_are_loaded_that_refer_to_it(scene: Scene, pre_action: str) -> None:
    """A shadow holds no row of another table: who deletes one is not stopped by rows that nobody sees."""
    scene.run(*TABLES)
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(pre_action=pre_action, max_shrink=1.0), schema=NUMBERED))
        await commit(session, writer, [people((1, "a", 1), (2, "b", 1), schema=NUMBERED)])
        scene.run("DELETE FROM names WHERE \"a name\" = 'b'")
        with pytest.raises(TargetError, match='violates foreign key constraint "known"') as caught:
            await session.finish(writer)
        await session.abort(writer)
    assert "foreign key" in caught.value.remedy
    assert scene.rows("people") == [(1, "a", 1)]
    assert scene.tables() == ["names", "people"]


@SHADOWS
async def test_a_table_whose_rows_the_user_may_not_see(scene: Scene, pre_action: str) -> None:
    """The key itself is the judge, at the end."""
    user = scene.user.user
    scene.run_as_admin(
        *TABLES,
        f'ALTER TABLE people OWNER TO "{user}"',
        f'REVOKE ALL ON names FROM "{user}"',
        f'GRANT REFERENCES ON names TO "{user}"',
    )
    async with scene.session() as session:
        with pytest.raises(TargetError, match='violates foreign key constraint "known"'):
            await scan(session, [ROWS], spec(pre_action=pre_action, max_shrink=1.0, max_rejects=9), rejects_left=9)
    assert scene.run_as_admin("SELECT * FROM people") == [(1, "a", 1)]


async def test_a_swap_waits_for_no_reader_of_the_other_table_while_it_loads(scene: Scene) -> None:
    scene.run(*TABLES)
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(pre_action="swap", max_shrink=1.0), schema=NUMBERED))
        with closing(scene.user.connect(scene.database)) as other:
            other.execute("BEGIN")
            other.execute("INSERT INTO names VALUES ('c', 1)")
            await commit(session, writer, [people((7, "a", 1), schema=NUMBERED)])
            other.execute("COMMIT")
        await session.finish(writer)
    assert scene.rows("people") == [(7, "a", 1)]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        scene.run("INSERT INTO people VALUES (8, 'nobody', 1)")
