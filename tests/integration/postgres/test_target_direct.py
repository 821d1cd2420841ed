"""Slices that are copied straight into their table, and those that must be staged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.base import CommitResult, LeaseLost, Reject, TransientError
from retl.connectors.sql import spool
from retl.model.actions import Action
from retl.model.errors import ConnectionFailed, RowsRejected
from retl.model.table import TableSpec
from retl.model.window import Scope, Slice
from retl.testing.target_base import Session
from tests.integration.postgres.targets import Scene, column, with_id
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_statements import Sent, log_statements, sent

TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"
APPEND = spec(write="append")
SCOPED = replace(APPEND, scope="name")


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


@asynccontextmanager
async def logged(scene: Scene) -> AsyncIterator[tuple[Session, Callable[[], list[str]]]]:
    """A session, and what tells afterwards how rows came into the table: the first words of the statements that wrote them."""
    log_statements(scene.server, scene.user.user)
    found = Sent()
    async with scene.session() as session:
        with sent(scene.server) as found:
            yield session, lambda: [name for name in map(_way, found.statements) if name]


def _way(statement: str) -> str:
    if statement.startswith("COPY "):
        return "staged" if "_retl_stage_" in statement else "copied"
    return "merged" if statement.startswith(("INSERT INTO", "WITH moved")) and "retl_staged" in statement else ""


# What goes straight there ---------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap"])
async def test_a_table_of_this_load_alone_is_copied_into(scene: Scene, pre_action: str, exists: bool) -> None:
    if exists:
        scene.run(TABLE)
    async with logged(scene) as (session, ways):
        done = await scan(session, [people((1, "a"), (2, None)), people((3, ""))], spec(pre_action=pre_action))
    assert ways() == ["copied", "copied"]
    assert (done.rows, done.changed, done.unchanged, done.older, done.dropped) == (3, 3, 0, 0, 0)
    assert scene.rows("people") == [(1, "a"), (2, None), (3, "")]
    assert scene.tables() == ["people"] if pre_action != "rename_and_create" else True


@pytest.mark.parametrize("pre_action", ["none", "swap", "mirror"])
async def test_a_load_that_stages_nothing_makes_no_stage(scene: Scene, pre_action: str) -> None:
    log_statements(scene.server, scene.user.user)
    async with scene.session() as session:
        with sent(scene.server) as found:
            await scan(session, [people((1, "a"), (2, None))], spec(pre_action=pre_action))
    assert not [sql for sql in found.statements if "_retl_stage_" in sql]
    assert scene.rows("people") == [(1, "a"), (2, None)]


async def test_the_shadow_of_a_mirror_is_copied_into(scene: Scene) -> None:
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'old'), (9, 'gone')")
    async with logged(scene) as (session, ways):
        await scan(session, [people((1, "a"), (2, "b"))], spec(pre_action="mirror"))
    assert ways()[0] == "copied"
    assert "staged" not in ways()
    assert scene.rows("people") == [(1, "a"), (2, "b")]


async def test_rows_are_appended_by_copying(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint, name text)", "INSERT INTO people VALUES (1, 'old')")
    async with logged(scene) as (session, ways):
        await scan(session, [people((1, "new"))], APPEND)
    assert ways() == ["copied"]
    assert scene.rows("people") == [(1, "new"), (1, "old")]


async def test_every_slice_of_a_first_load_is_copied_and_committed_with_its_checkpoint(scene: Scene) -> None:
    async with logged(scene) as (session, ways):
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        for number in range(3):
            await writer.begin(Slice(index=number))
            await writer.write(people((number, "x")))
            assert scene.rows("people") == [(before, "x") for before in range(number)]
            await writer.commit(session.fenced(str(number)), Slice(index=number), 0)
            checkpoint = await session.checkpoint()
            assert checkpoint is not None
            assert checkpoint.watermark == str(number)
            assert scene.rows("people") == [(row, "x") for row in range(number + 1)]
        await session.finish(writer)
    assert ways() == ["copied"] * 3


async def test_a_scope_is_deleted_and_copied_anew_in_one_transaction(scene: Scene) -> None:
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'a'), (2, 'a'), (3, 'b')")
    slice_ = Slice(index=0, scope=Scope("name", ("a",)))
    async with logged(scene) as (session, ways):
        writer = await session.prepare(session.load(SCOPED, schema=PEOPLE))
        await writer.begin(slice_)
        await writer.write(people((1, "a"), (4, "a")))
        assert scene.rows("people") == [(1, "a"), (2, "a"), (3, "b")]
        await session.commit(writer, slice_=slice_)
        await session.finish(writer)
    assert ways() == ["copied"]
    assert scene.rows("people") == [(1, "a"), (3, "b"), (4, "a")]


async def test_an_aborted_slice_leaves_the_rows_of_its_scope(scene: Scene) -> None:
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'a'), (3, 'b')")
    async with scene.session() as session:
        writer = await session.prepare(session.load(SCOPED, schema=PEOPLE))
        await writer.begin(Slice(index=0, scope=Scope("name", ("a",))))
        await writer.write(people((4, "a")))
        await session.abort(writer)
    assert scene.rows("people") == [(1, "a"), (3, "b")]


async def test_of_a_scope_that_is_not_delivered_whole_the_rest_stays(scene: Scene) -> None:
    """A file that was found to be bad is left out of its group, and its rows must not go."""
    scene.run(TABLE, "INSERT INTO people VALUES (1, 'a'), (2, 'bad')")
    async with scene.session() as session:
        writer = await session.prepare(session.load(SCOPED, schema=PEOPLE))
        await writer.begin(Slice(index=0, scope=Scope("name", ("a", "bad"))))
        await writer.write(people((4, "a")))
        await session.commit(writer, slice_=Slice(index=0, scope=Scope("name", ("a",))))
        await session.finish(writer)
    assert scene.rows("people") == [(2, "bad"), (4, "a")]


async def test_discarded_rows_are_copied_anew(scene: Scene) -> None:
    async with logged(scene) as (session, ways):
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.begin(Slice(index=0))
        await writer.write(people((1, "a"), (2, "first")))
        await writer.discard()
        await writer.begin(Slice(index=0))
        await writer.write(people((2, "again")))
        done = await session.commit(writer)
        await session.finish(writer)
    assert (done.rows, done.changed) == (1, 1)
    assert ways() == ["copied", "copied"]
    assert scene.rows("people") == [(2, "again")]


async def test_a_former_owner_copies_nothing_for_good(scene: Scene) -> None:
    async with scene.session() as old:
        writer = await old.prepare(old.load(APPEND, schema=PEOPLE))
        await writer.begin(Slice(index=0))
        await writer.write(people((1, "a")))
        async with scene.session():
            with pytest.raises(LeaseLost):
                await old.commit(writer, "1")
            await old.abort(writer)
    assert scene.rows("people") == []


async def test_identities_generated_columns_and_defaults_are_as_when_rows_are_inserted(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, "
        "big text GENERATED ALWAYS AS (upper(name)) STORED, mine text DEFAULT 'mine')"
    )
    async with logged(scene) as (session, ways):
        await scan(session, [people((1, "a"), (7, "b"))])
    assert ways() == ["copied"]
    assert scene.run("INSERT INTO people (name) VALUES ('host') RETURNING id") == [(8,)]
    assert scene.rows("people") == [(1, "a", "A", "mine"), (7, "b", "B", "mine"), (8, "host", "HOST", "mine")]


async def test_rows_find_their_partitions(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint, name text) PARTITION BY LIST (name)",
        "CREATE TABLE people_a PARTITION OF people FOR VALUES IN ('a')",
        "CREATE TABLE people_b PARTITION OF people FOR VALUES IN ('b')",
    )
    async with logged(scene) as (session, ways):
        await scan(session, [people((1, "a"), (2, "b"))], APPEND)
        with pytest.raises(RowsRejected, match="no partition of relation"):
            await scan(session, [people((3, "c"))], APPEND)
    assert ways()[0] == "copied"
    assert scene.rows("people_a") == [(1, "a")]
    assert scene.rows("people_b") == [(2, "b")]


async def test_a_batch_of_text_and_a_typed_one_are_one_slice(scene: Scene) -> None:
    text = pa.record_batch({"id": ["2"], "name": ["b"]})
    async with scene.session() as session:
        await scan(session, [people((1, "a")), text], schema=PEOPLE)
    assert scene.rows("people") == [(1, "a"), (2, "b")]


# What is staged as soon as it is refused ------------------------------------------


@pytest.mark.parametrize("write_out", [True, False])
async def test_of_a_key_that_repeats_the_newest_row_stays(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, write_out: bool
) -> None:
    if write_out:
        monkeypatch.setattr(spool, "_MEMORY_BYTES", 0)
    table = spec(cursor="at")
    schema = with_id(column("name", pa.string()), column("at", pa.timestamp("us")))
    batches = [
        people((1, "newest", 3), (2, "b", 1), schema=schema),
        people((1, "old", 2), (3, "c", 1), schema=schema),
    ]
    async with logged(scene) as (session, ways):
        done = await scan(session, batches, table)
    assert ways() == ["copied", "copied", "staged", "staged", "merged"]
    assert (done.rows, done.changed, done.older) == (4, 3, 1)
    assert scene.rows("people", "id, name") == [(1, "newest"), (2, "b"), (3, "c")]


async def test_a_key_of_a_slice_before_is_updated(scene: Scene) -> None:
    async with logged(scene) as (session, ways):
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        for number, rows in enumerate(([(1, "a"), (2, "b")], [(2, "new"), (3, "c")], [(4, "d")])):
            await writer.begin(Slice(index=number))
            await writer.write(people(*rows))
            await writer.commit(session.fenced(str(number)), Slice(index=number), 0)
        await session.finish(writer)
    assert ways() == ["copied", "copied", "staged", "merged", "copied"]
    assert scene.rows("people") == [(1, "a"), (2, "new"), (3, "c"), (4, "d")]


async def test_after_some_slices_were_refused_none_is_tried(scene: Scene) -> None:
    async with logged(scene) as (session, ways):
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        for number in range(4):
            await writer.begin(Slice(index=number))
            await writer.write(people((1, str(number))))
            await writer.commit(session.fenced(str(number)), Slice(index=number), 0)
        await session.finish(writer)
    assert ways() == ["copied", *(["copied", "staged", "merged"] * 2), "staged", "merged"]
    assert scene.rows("people") == [(1, "3")]


REFUSED: list[tuple[str, Sequence[tuple[Any, ...]]]] = [
    ("CREATE TABLE people (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))", [(1, "bad"), (2, "b")]),
    ("CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL)", [(1, None), (2, "b")]),
    ("CREATE TABLE people (id bigint PRIMARY KEY, name text UNIQUE)", [(1, "b"), (2, "b")]),
    ("CREATE TABLE people (id bigint PRIMARY KEY, name integer)", [(1, "one"), (2, "2")]),
    ("CREATE TABLE people (id bigint PRIMARY KEY, name varchar(2))", [(1, "long"), (2, "b")]),
    ("CREATE TABLE people (id bigint PRIMARY KEY, name text REFERENCES names)", [(1, "nobody"), (2, "b")]),
    ("CREATE TABLE people (id bigint PRIMARY KEY, name text)", [(1, "nul \0"), (2, "b")]),
    ("CREATE TABLE people (id bigint, name text, EXCLUDE USING btree (name WITH =))", [(1, "b"), (2, "b")]),
]


@pytest.mark.parametrize(("table", "rows"), REFUSED, ids=[table.partition("name ")[2] for table, _ in REFUSED])
async def test_rejects_are_those_of_a_staged_slice(scene: Scene, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Once with ``begin``, once without, by which a slice is staged."""
    scene.run("CREATE TABLE names (name text PRIMARY KEY)", "INSERT INTO names VALUES ('b')", table)
    schema = with_id(column("name", pa.int32())) if "integer" in table else PEOPLE
    told = []
    for begins in (False, True):
        scene.run("TRUNCATE people")
        async with scene.session() as session:
            writer = await session.prepare(session.load(APPEND, schema=schema))
            if begins:
                await writer.begin(Slice(index=0))
            await writer.write(people(*rows))
            done = await session.commit(writer, rejects_left=1)
            await session.finish(writer)
        told.append(([_shown(reject) for reject in done.rejects], done.rows, done.changed, scene.rows("people")))
    assert len(told[0][0]) == 1
    assert told[0] == told[1]


def _shown(reject: Reject) -> tuple[str, ...]:
    return (reject.table, reject.key, reject.reason, reject.content, reject.column)


async def test_too_many_rejects_leave_everything_as_it_was(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))")
    slice_ = Slice(index=0, scope=Scope("name", ("a",)))
    scene.run("INSERT INTO people VALUES (1, 'a')")
    async with scene.session() as session:
        writer = await session.prepare(session.load(SCOPED, schema=PEOPLE))
        with pytest.raises(RowsRejected) as caught:
            await commit(session, writer, [people((1, "a"), (2, "bad"), (3, "bad"))], slice_=slice_)
        await session.abort(writer)
    assert len(caught.value.rejects) == 2
    assert scene.rows("people") == [(1, "a")]


async def test_a_connection_that_is_lost_in_a_slice_loses_no_row(scene: Scene) -> None:
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.begin(Slice(index=0))
        await writer.write(people((1, "a")))
        scene.run_as_admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
            f"AND datname = '{scene.database}'"
        )
        await writer.write(people((2, "b")))
        await session.commit(writer, "1")
        await session.finish(writer)
    assert scene.rows("people") == [(1, "a"), (2, "b")]


async def test_a_connection_that_is_lost_before_the_commit_saves_no_checkpoint_alone(scene: Scene) -> None:
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.begin(Slice(index=0))
        await writer.write(people((1, "a")))
        scene.run_as_admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
            f"AND datname = '{scene.database}'"
        )
        await session.commit(writer, "1")
        await session.finish(writer)
        checkpoint = await session.checkpoint()
    assert checkpoint is not None
    assert scene.rows("people") == [(1, "a")]


async def test_a_slice_too_large_to_be_kept_is_staged_by_the_next_attempt(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_MEMORY_BYTES", 0)
    monkeypatch.setattr(spool, "_MOST_BYTES", 10)
    scene.run("CREATE TABLE people (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))")
    rows = [people((1, "a")), people((2, "bad")), people((3, "c"))]
    async with logged(scene) as (session, ways):
        with pytest.raises(TransientError, match="large slice") as caught:
            await scan(session, rows, rejects_left=1)
        assert not isinstance(caught.value, ConnectionFailed)
        assert scene.rows("people") == []
        done = await scan(session, rows, rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":2}']
    assert ways().count("copied") < 4 and ways().count("staged") == 3
    assert scene.rows("people") == [(1, "a"), (3, "c")]


# What is staged from the start ------------------------------------------------------

TRIGGER = (
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    "CREATE TRIGGER note BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION note()",
)
STAGED: dict[str, tuple[TableSpec, tuple[str, ...], frozenset[Action]]] = {
    "a key that is there": (spec(), (TABLE, "INSERT INTO people VALUES (1, 'old')"), frozenset()),
    "a trigger": (APPEND, (TABLE, *TRIGGER), frozenset()),
    "a deferrable key": (
        APPEND,
        ("CREATE TABLE people (id bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, name text)",),
        frozenset(),
    ),
    "a foreign key of a table that is replaced": (
        spec(pre_action="swap"),
        (
            "CREATE TABLE names (name text PRIMARY KEY)",
            "INSERT INTO names VALUES ('a')",
            "CREATE TABLE people (id bigint PRIMARY KEY, name text REFERENCES names)",
        ),
        frozenset(),
    ),
    "no INSERT": (spec(), (TABLE,), frozenset({Action.INSERT})),
    "no UPDATE": (spec(), (TABLE,), frozenset({Action.UPDATE})),
    "numbers among others": (
        APPEND,
        ("CREATE TABLE people (id serial PRIMARY KEY, name text)", "INSERT INTO people VALUES (100, 'theirs')"),
        frozenset(),
    ),
}


@pytest.mark.parametrize("case", list(STAGED))
async def test_what_copying_would_get_wrong_is_staged(scene: Scene, case: str) -> None:
    table, statements, blacklist = STAGED[case]
    scene.run(*statements)
    async with logged(scene) as (session, ways):
        await scan(session, [people((1, "a"))], table, blacklist=blacklist)
    assert "copied" not in ways()
    assert "staged" in ways()


async def test_rows_of_a_scope_that_have_not_changed_are_not_written(scene: Scene) -> None:
    scene.run(TABLE)
    slices = [Slice(index=number, scope=Scope("name", ("a",))) for number in range(2)]
    async with logged(scene) as (session, ways):
        for slice_ in slices:
            writer = await session.prepare(session.load(replace(spec(), scope="name"), schema=PEOPLE))
            done = await commit(session, writer, [people((1, "a"))], slice_=slice_)
            await session.finish(writer)
    assert ways() == ["copied", "staged", "merged"]
    assert (done.changed, done.unchanged) == (0, 1)


async def test_policies_of_rows_send_them_to_the_stage(scene: Scene) -> None:
    """COPY is refused where they hold."""
    scene.run_as_admin(
        TABLE,
        "ALTER TABLE people ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY good ON people USING (true) WITH CHECK (name <> 'bad')",
        f'GRANT ALL ON people TO "{scene.user.user}"',
    )
    async with logged(scene) as (session, ways):
        await scan(session, [people((1, "a"))], APPEND)
    assert ways() == ["staged", "merged"]
    assert scene.run_as_admin("SELECT * FROM people") == [(1, "a")]


async def test_without_begin_a_slice_is_staged(scene: Scene) -> None:
    async with logged(scene) as (session, ways):
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.write(people((1, "a")))
        done: CommitResult = await session.commit(writer)
        await session.finish(writer)
    assert ways() == ["staged", "merged"]
    assert done.changed == 1


async def test_plan_shows_the_copy_as_it_is_sent(scene: Scene) -> None:
    async with logged(scene) as (session, _):
        shown = (await session.target.preview(session.load(spec(), schema=PEOPLE))).statements
        await scan(session, [people((1, "a"))])
    (copy,) = [sql for sql in shown if sql.startswith("COPY")]
    assert copy in [line.strip() for line in scene.server.log().replace("statement: ", "\n").splitlines()]
