"""Staged rows into a table: what is written, what is not, and how keys are found."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pyarrow as pa
import pytest

from retl.model.actions import Action
from retl.model.errors import ConfigError, RowsRejected
from tests.integration.postgres.targets import Scene, column, with_id
from tests.integration.scene import people, scan, spec
from tests.servers.postgres import PostgresServer

TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"
TEXT = with_id(column("name", pa.string()))


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


async def test_unchanged_rows_write_nothing_and_take_no_number_of_a_sequence(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text, mine serial)")
    rows = people(*((number, f"name {number}") for number in range(5_000)))
    async with scene.session() as session:
        await scan(session, [rows])
        ((before,),) = scene.run("SELECT last_value FROM people_mine_seq")
        versions = scene.run("SELECT id, CAST(xmin AS text), CAST(ctid AS text) FROM people ORDER BY id")
        done = await scan(session, [rows])
        assert (done.changed, done.unchanged) == (0, 5_000)
    assert scene.run("SELECT last_value FROM people_mine_seq") == [(before,)]
    assert scene.run("SELECT id, CAST(xmin AS text), CAST(ctid AS text) FROM people ORDER BY id") == versions


async def test_a_keyed_scan_of_unchanged_rows_writes_hardly_any_log(scene: Scene) -> None:
    rows = people(*((number, f"name {number}") for number in range(20_000)))
    async with scene.session() as session:
        await scan(session, [rows])
        before = scene.wal()
        await scan(session, [rows])
        written = scene.wal() - before
    assert written < 100_000


async def test_only_the_changed_rows_are_written(scene: Scene) -> None:
    scene.run(TABLE)
    async with scene.session() as session:
        await scan(session, [people((1, "a"), (2, "b"), (3, None))])
        versions: dict[int, str] = dict(scene.run("SELECT id, CAST(xmin AS text) FROM people"))
        done = await scan(session, [people((1, "a"), (2, "new"), (3, None), (4, "d"))])
        assert (done.rows, done.changed, done.unchanged) == (4, 2, 2)
    assert scene.rows("people") == [(1, "a"), (2, "new"), (3, None), (4, "d")]
    now: dict[int, str] = dict(scene.run("SELECT id, CAST(xmin AS text) FROM people"))
    assert (now[1], now[3]) == (versions[1], versions[3])


VALUES: list[tuple[str, pa.DataType, str, Any, str]] = [
    ("numeric", pa.string(), "1.0", "1.00", "1.00"),
    ("interval", pa.string(), "1 mon", "30 days", "30 days"),
    ("double precision", pa.float64(), "0.0", -0.0, "-0"),
    ("jsonb", pa.string(), '{"a": 1.0}', '{"a": 1.00}', '{"a": 1.00}'),
    ("json", pa.string(), '{"a":1}', '{"a": 1}', '{"a": 1}'),
    ("citext", pa.string(), "Ann", "ann", "ann"),
    ('text COLLATE "loose"', pa.string(), "Ann", "ann", "ann"),
    ("numeric[]", pa.string(), "{1.0}", "{1.00}", "{1.00}"),
    ("point", pa.string(), "(0,0)", "(0,-0)", "(0,-0)"),
    ("text", pa.string(), "NULL", "", ""),
]


@pytest.mark.parametrize(("declared", "kind", "old", "new", "text"), VALUES, ids=[value[0] for value in VALUES])
@pytest.mark.parametrize("pre_action", ["none", "mirror"])
async def test_values_that_are_equal_to_an_operator_arrive(
    scene: Scene, pre_action: str, declared: str, kind: pa.DataType, old: str, new: Any, text: str
) -> None:
    scene.run_as_admin("CREATE EXTENSION IF NOT EXISTS citext")
    if "loose" in declared:
        scene.make_loose_collation()
    first = "NULL" if old == "NULL" else f"'{old}'"
    scene.run(f"CREATE TABLE people (id bigint PRIMARY KEY, v {declared})", f"INSERT INTO people VALUES (1, {first})")
    schema = with_id(column("v", kind, declared.partition(" COLLATE")[0]))
    async with scene.session() as session:
        await scan(session, [people((1, new), schema=schema)], spec(pre_action=pre_action))
    ((found,),) = scene.run("SELECT CAST(v AS text) FROM people")
    assert found == text
    if isinstance(new, float):
        ((number,),) = scene.run("SELECT v FROM people")
        assert math.copysign(1, number) == -1


async def test_columns_of_the_users_own_with_defaults_are_kept_and_do_not_make_rows_differ(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (mine text DEFAULT 'new', id bigint PRIMARY KEY, name text, at timestamptz DEFAULT now())"
    )
    async with scene.session() as session:
        await scan(session, [people((1, "a"))])
        scene.run("UPDATE people SET mine = 'kept'")
        done = await scan(session, [people((1, "a"), (2, "b"))])
        assert done.changed == 1
        await scan(session, [people((1, "changed"))])
    assert scene.rows("people", "id, name, mine") == [(1, "changed", "kept"), (2, "b", "new")]


# Keys -----------------------------------------------------------------------------


async def test_a_moved_host_sequence_follows_explicit_numbers_of_an_identity(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
    async with scene.session() as session:
        await scan(session, [people((1, "a"), (7, "b"))])
        assert scene.run("INSERT INTO people (name) VALUES ('host') RETURNING id") == [(8,)]
        await scan(session, [people((1, "changed"), (3, "c"))])
    assert scene.run("INSERT INTO people (name) VALUES ('host') RETURNING id") == [(9,)]
    assert scene.rows("people") == [(1, "changed"), (3, "c"), (7, "b"), (8, "host"), (9, "host")]


async def test_a_serial_key_follows_too(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id serial PRIMARY KEY, name text)")
    async with scene.session() as session:
        await scan(session, [people((5, "a"), schema=pa.schema([column("id", pa.int32(), nullable=False), TEXT[1]]))])
    assert scene.run("INSERT INTO people (name) VALUES ('host') RETURNING id") == [(6,)]


async def test_generated_columns_are_never_written(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, big text GENERATED ALWAYS AS (upper(name)) STORED)"
    )
    async with scene.session() as session:
        await scan(session, [people((1, "a"))])
        await scan(session, [people((1, "b"), (2, "c"))])
    assert scene.rows("people") == [(1, "b", "B"), (2, "c", "C")]


@pytest.mark.parametrize(
    ("ddl", "word"),
    [
        ("CREATE TABLE people (id bigint PRIMARY KEY DEFERRABLE, name text)", "deferrable"),
        ("CREATE TABLE people (id bigint, name text); CREATE UNIQUE INDEX u ON people (id) WHERE id > 0", "partial"),
        ("CREATE TABLE people (id bigint, name text); CREATE UNIQUE INDEX u ON people ((id + 1))", "expression"),
    ],
    ids=["deferrable", "partial", "expression"],
)
async def test_a_unique_key_that_on_conflict_cannot_use_is_refused_with_the_reason(
    scene: Scene, ddl: str, word: str
) -> None:
    scene.run(*ddl.split("; "))
    async with scene.session() as session:
        with pytest.raises(ConfigError, match=word):
            await session.target.preview(session.load(spec(), schema=TEXT))


async def test_null_in_a_key_is_a_reject(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint UNIQUE, name text)")
    schema = pa.schema([column("id", pa.int64()), TEXT[1]])
    async with scene.session() as session:
        done = await scan(session, [people((None, "a"), (1, "b"), schema=schema)], rejects_left=1)
        assert [reject.reason for reject in done.rejects] == ["the key is NULL"]
    assert scene.rows("people") == [(1, "b")]


async def test_null_in_a_key_that_takes_nulls_as_equal_is_a_key(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint, name text, UNIQUE NULLS NOT DISTINCT (id))")
    schema = pa.schema([column("id", pa.int64()), TEXT[1]])
    async with scene.session() as session:
        await scan(session, [people((None, "a"), (1, "b"), schema=schema)])
        done = await scan(session, [people((None, "new"), (1, "b"), schema=schema)])
        assert done.changed == 1
        done = await scan(session, [people((None, "new"), (1, "b"), schema=schema)])
        assert done.changed == 0
    assert scene.rows("people") == [(1, "b"), (None, "new")]


async def test_a_key_that_the_target_calls_equal_to_another_one_is_a_reject(scene: Scene) -> None:
    scene.run_as_admin("CREATE EXTENSION IF NOT EXISTS citext")
    scene.run("CREATE TABLE people (name citext PRIMARY KEY, v text)", "INSERT INTO people VALUES ('Ann', 'old')")
    schema = pa.schema([column("name", pa.string(), nullable=False), column("v", pa.string())])
    async with scene.session() as session:
        rows = people(("ann", "other"), ("Ann", "new"), ("Bob", "b"), ("BOB", "c"), schema=schema)
        done = await scan(session, [rows], spec(key="name"), rejects_left=2)
        assert sorted(reject.key for reject in done.rejects) == ['{"name":"BOB"}', '{"name":"ann"}']
    assert scene.rows("people") == [("Ann", "new"), ("Bob", "b")]


async def test_a_key_is_spelled_anew_where_the_source_compares_as_the_target_does(scene: Scene) -> None:
    scene.run_as_admin("CREATE EXTENSION IF NOT EXISTS citext")
    scene.run("CREATE TABLE people (name citext PRIMARY KEY, v text)", "INSERT INTO people VALUES ('Ann', 'old')")
    schema = pa.schema([column("name", pa.string(), "citext", nullable=False), column("v", pa.string())])
    async with scene.session() as session:
        await scan(session, [people(("ann", "old"), schema=schema)], spec(key="name"))
    assert scene.rows("people") == [("ann", "old")]


async def test_rows_pass_unique_values_on(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text UNIQUE)")
    for pre_action in ("none", "mirror"):
        scene.run("TRUNCATE people")
        async with scene.session() as session:
            await scan(session, [people((1, "a"), (2, "b"))])
            await scan(session, [people((1, "b"), (2, "a"))], spec(pre_action=pre_action))
        assert scene.rows("people") == [(1, "b"), (2, "a")]


# Partitions -----------------------------------------------------------------------

_BY_REGION = (
    "CREATE TABLE people (id bigint, name text, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
    "CREATE TABLE people_a PARTITION OF people FOR VALUES IN ('a')",
    "CREATE TABLE people_b PARTITION OF people FOR VALUES IN ('b')",
)
_REGIONS = with_id(column("name", pa.string()), column("region", pa.string(), nullable=False))


async def test_a_row_moves_to_another_partition(scene: Scene) -> None:
    scene.run(*_BY_REGION)
    async with scene.session() as session:
        await scan(session, [people((1, "x", "a"), (2, "y", "a"), schema=_REGIONS)])
        done = await scan(session, [people((1, "x", "b"), (2, "y", "a"), schema=_REGIONS)])
        assert done.unchanged == 1
    assert scene.rows("people_a") == [(2, "y", "a")]
    assert scene.rows("people_b") == [(1, "x", "b")]


async def test_a_row_for_which_there_is_no_partition_is_a_reject(scene: Scene) -> None:
    scene.run(*_BY_REGION)
    async with scene.session() as session:
        rows = people((1, "x", "a"), (2, "y", "nowhere"), (3, "z", "b"), schema=_REGIONS)
        done = await scan(session, [rows], rejects_left=1)
        assert "no partition of relation" in done.rejects[0].reason
    assert scene.rows("people", "id") == [(1,), (3,)]


# Refused rows ---------------------------------------------------------------------


async def test_constraints_reject_single_rows_with_the_servers_reason(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE teams (id bigint PRIMARY KEY)",
        "INSERT INTO teams VALUES (1)",
        "CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL CHECK (name <> 'bad'), "
        "mail text UNIQUE, team bigint REFERENCES teams)",
    )
    schema = with_id(column("name", pa.string()), column("mail", pa.string()), column("team", pa.int64()))
    rows = people(
        (1, "a", "a@x", 1),
        (2, "bad", "b@x", 1),
        (3, None, "c@x", 1),
        (4, "d", "a@x", 1),
        (5, "e", "e@x", 9),
        (6, "f", "f@x", None),
        schema=schema,
    )
    async with scene.session() as session:
        done = await scan(session, [rows], rejects_left=4)
    reasons = {reject.key: reject.reason for reject in done.rejects}
    assert "people_name_check" in reasons['{"id":2}']
    assert "not-null" in reasons['{"id":3}']
    assert "people_mail_key" in reasons['{"id":4}']
    assert "people_team_fkey" in reasons['{"id":5}']
    assert scene.rows("people", "id") == [(1,), (6,)]


async def test_a_value_too_long_for_an_index_is_a_reject(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text)", "CREATE INDEX by_name ON people (name)")
    noise = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(200))  # it cannot be compressed
    async with scene.session() as session:
        done = await scan(session, [people((1, "a"), (2, noise), (3, "c"))], rejects_left=1)
    assert "index row requires" in done.rejects[0].reason
    assert scene.rows("people") == [(1, "a"), (3, "c")]


async def test_with_one_reject_too_many_nothing_is_written(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))")
    async with scene.session() as session:
        with pytest.raises(RowsRejected):
            await scan(session, [people((1, "a"), (2, "bad"))])
    assert scene.rows("people") == []


async def test_a_trigger_that_drops_rows_is_counted(scene: Scene) -> None:
    scene.run(
        TABLE,
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN new.id = 2 THEN NULL ELSE new END; END $$",
        "CREATE TRIGGER skips BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION skip()",
    )
    async with scene.session() as session:
        done = await scan(session, [people((1, "a"), (2, "b"))])
        assert (done.rows, done.changed, done.dropped, done.unchanged) == (2, 1, 1, 0)


async def test_a_trigger_that_raises_rejects_its_row(scene: Scene) -> None:
    scene.run(
        TABLE,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.id = 2 THEN RAISE EXCEPTION 'not two'; END IF; RETURN new; END $$",
        "CREATE TRIGGER noes BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION no()",
    )
    async with scene.session() as session:
        done = await scan(session, [people((1, "a"), (2, "b"), (3, "c"))], rejects_left=1)
        assert "not two" in done.rejects[0].reason
    assert scene.rows("people") == [(1, "a"), (3, "c")]


async def test_rows_that_a_policy_refuses_are_rejects_and_copy_goes_into_the_stage(scene: Scene) -> None:
    """COPY into a table with row-level security is refused; INSERT is checked row by row."""
    scene.run_as_admin(
        TABLE,
        "ALTER TABLE people ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY seen ON people USING (true) WITH CHECK (id < 10)",
    )
    async with scene.session() as session:
        done = await scan(session, [people((1, "a"), (12, "b"))], rejects_left=1)
        assert "row-level security" in done.rejects[0].reason
    assert scene.rows("people") == [(1, "a")]


@pytest.mark.parametrize(
    ("forbidden", "rows"),
    [(Action.INSERT, [(1, "new")]), (Action.UPDATE, [(1, "old"), (2, "new")])],
)
async def test_a_blacklisted_insert_or_update_is_never_executed(
    scene: Scene, forbidden: Action, rows: list[tuple[int, str]]
) -> None:
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'old')")
    async with scene.session() as session:
        await scan(session, [people((1, "new"), (2, "new"))], blacklist=frozenset({forbidden}))
    assert scene.rows("people") == rows


async def test_slices_of_a_first_load_that_share_keys_are_merged(scene: Scene) -> None:
    """A table without a page is not joined: what the slice before has written is found by ON CONFLICT alone."""
    scene.run(TABLE)
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(), schema=TEXT))
        changed = []
        for rows in ([(1, "a"), (2, "b")], [(2, "b"), (3, "c")], [(1, "new"), (3, "c")]):
            await writer.write(people(*rows))
            changed.append((await session.commit(writer)).changed)
        await session.finish(writer)
    assert changed == [2, 1, 1]
    assert scene.rows("people") == [(1, "new"), (2, "b"), (3, "c")]


async def test_a_sequence_that_the_user_may_not_move_stays_and_plan_says_so(scene: Scene) -> None:
    scene.run_as_admin(
        "CREATE TABLE people (id bigserial PRIMARY KEY, name text)",
        f'REVOKE ALL ON SEQUENCE people_id_seq FROM "{scene.user.user}"',
    )
    async with scene.session() as session:
        warnings = (await session.target.preview(session.load(spec(), schema=TEXT))).warnings
        assert any("may not move the sequence people_id_seq" in warning for warning in warnings)
        await scan(session, [people((5, "a"))])
    assert scene.rows("people") == [(5, "a")]
    assert scene.run_as_admin("SELECT last_value, is_called FROM people_id_seq") == [(1, False)]
