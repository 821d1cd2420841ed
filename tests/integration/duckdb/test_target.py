"""DuckDB as a target: what is its own, beside what the contract asks of every target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pyarrow as pa
import pytest

import retl
from retl.connectors import DuckDB
from retl.connectors.duckdb import catalog
from retl.connectors.duckdb import target as duckdb_target
from retl.connectors.duckdb.file import DuckDBFile
from retl.model.actions import Action
from retl.model.errors import (
    ConfigError,
    RepeatedKey,
    RowsRejected,
    SchemaDrift,
    TargetBusy,
    TargetError,
    UnsupportedError,
)
from tests.integration.duckdb.scenes import Scene, another_process, loading
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.support import Database

THREE = people((1, "a"), (2, "b"), (3, None))
LATER = people((2, "B"), (4, "d"))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "target.duckdb")


# Tables ---------------------------------------------------------------------


async def test_a_table_is_made_with_its_key_and_its_not_null_columns(scene: Scene) -> None:
    async with scene.session() as session:
        await scan(session, [THREE])
        found = await session.target.describe("people")
    assert found is not None
    assert found.key == ("id",)
    assert [column.nullable for column in found.columns] == [False, True]
    assert scene.rows("people") == [(1, "a"), (2, "b"), (3, None)]


async def test_a_table_of_a_schema_with_odd_names(scene: Scene) -> None:
    scene.run('CREATE SCHEMA "d w"')
    odd = pa.schema([pa.field('i"d', pa.int64()), pa.field("select", pa.string())])
    for pre_action in ("none", "truncate", "rename_and_create", "swap"):
        table = spec('"d w"."my table"', key='i"d', pre_action=pre_action)
        async with scene.session() as session:
            await scan(session, [people((1, "x"), schema=odd)], table)
            assert await session.target.count('"d w"."my table"') == 1
    assert scene.run('SELECT * FROM "d w"."my table"') == [(1, "x")]
    assert [name for name in scene.tables() if "_arc_" not in name] == ["my table"]


async def test_a_schema_that_is_missing_is_named(scene: Scene) -> None:
    async with scene.session() as session:
        with pytest.raises(ConfigError, match="no schema 'dw'"):
            await session.target.preview(loading(session, spec("dw.people")))


async def test_the_case_of_letters_means_nothing(scene: Scene) -> None:
    scene.run("CREATE TABLE People (ID BIGINT PRIMARY KEY, Name VARCHAR)", "INSERT INTO People VALUES (1, 'old')")
    async with scene.session() as session:
        await scan(session, [THREE])
    assert scene.rows("people") == [(1, "a"), (2, "b"), (3, None)]
    assert scene.tables() == ["People"]


@pytest.mark.parametrize("name", ["retl_leases", "_retl_new_people_1"])
async def test_the_names_of_the_store_are_reserved(scene: Scene, name: str) -> None:
    async with scene.session() as session:
        with pytest.raises(ConfigError, match="reserved"):
            await session.target.preview(loading(session, spec(name)))


async def test_a_view_is_refused(scene: Scene) -> None:
    scene.run("CREATE VIEW people AS SELECT 1::BIGINT AS id, 'x' AS name")
    async with scene.session() as session:
        with pytest.raises(UnsupportedError, match="is a view"):
            await session.target.preview(loading(session, spec()))


async def test_a_generated_column_is_left_to_the_target(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR, loud VARCHAR GENERATED ALWAYS AS (upper(name)), extra INTEGER DEFAULT 7)"
    )
    with_loud = PEOPLE.append(pa.field("loud", pa.string()))
    batch = pa.RecordBatch.from_arrays([*THREE.columns, pa.array(["x", "y", "z"])], schema=with_loud)
    async with scene.session() as session:
        plan = await session.target.preview(loading(session, spec(), with_loud))
        assert any("computed" in warning for warning in plan.warnings)
        await scan(session, [batch])
    assert scene.rows("people") == [(1, "a", "A", 7), (2, "b", "B", 7), (3, None, None, 7)]


async def test_new_columns_are_added(scene: Scene) -> None:
    wider = PEOPLE.append(pa.field("amount", pa.decimal128(12, 3), nullable=False))
    async with scene.session() as session:
        await scan(session, [THREE])
        more = pa.RecordBatch.from_arrays(
            [pa.array([1]), pa.array(["a"]), pa.array([1], pa.decimal128(12, 3))], schema=wider
        )
        await scan(session, [more])
        found = await session.target.describe("people")
    assert found is not None
    assert found.columns.field("amount").type == pa.decimal128(12, 3)
    assert [str(amount) for (amount,) in scene.run("SELECT amount FROM people ORDER BY id")] == [
        "1.000",
        "None",
        "None",
    ]


async def test_a_column_of_another_type_is_refused_before_anything_is_written(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name INTEGER)")
    async with scene.session() as session:
        with pytest.raises(SchemaDrift, match="'name'"):
            await scan(session, [THREE])
    assert scene.rows("people") == []


async def test_a_table_without_the_key_is_refused(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT, name VARCHAR)", "CREATE UNIQUE INDEX odd ON people (id, (upper(name)))")
    async with scene.session() as session:
        with pytest.raises(ConfigError, match="no primary key or unique index"):
            await scan(session, [THREE])
        scene.run('CREATE UNIQUE INDEX "by id" ON people (id)')
        await scan(session, [THREE])
        await scan(session, [LATER])
    assert scene.rows("people") == [(1, "a"), (2, "B"), (3, None), (4, "d")]


# Writing --------------------------------------------------------------------


async def test_unique_values_may_change_places_in_one_slice(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR UNIQUE)")
    async with scene.session() as session:
        await scan(session, [people((1, "a"), (2, "b"))])
        await scan(session, [people((1, "b"), (2, "a"))])
    assert scene.rows("people") == [(1, "b"), (2, "a")]


async def test_of_repeated_keys_the_newest_row_is_kept(scene: Scene) -> None:
    dated = PEOPLE.append(pa.field("at", pa.timestamp("us")))
    table = spec(cursor="at")
    rows = [(1, "old", 10), (2, "only", 5), (1, "new", 20), (1, "none", None), (1, "new", 20)]
    async with scene.session() as session:
        done = await scan(session, [people(*rows[:2], schema=dated), people(*rows[2:], schema=dated)], table)
    assert (done.rows, done.changed, done.unchanged, done.older) == (5, 2, 0, 3)
    assert scene.rows("people", "id, name") == [(1, "new"), (2, "only")]


async def test_keys_are_compared_as_the_target_sees_them(scene: Scene) -> None:
    texts = pa.schema([pa.field("id", pa.string()), pa.field("name", pa.string())])
    logical = pa.schema([pa.field("id", pa.decimal128(10, 2)), pa.field("name", pa.string())])
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(), schema=logical))
        with pytest.raises(RepeatedKey):
            await commit(session, writer, [people(("1.5", "a"), ("1.50", "b"), schema=texts)])
        await session.abort(writer)


async def test_staging_does_not_grow_with_the_number_of_slices(scene: Scene) -> None:
    rows = pa.RecordBatch.from_arrays([pa.array(range(20_000)), pa.array(["x" * 500] * 20_000)], schema=PEOPLE)
    async with scene.session(memory_limit="200MB") as session:
        writer = await session.prepare(session.load(spec(), schema=PEOPLE, unique_key=True))
        for _ in range(60):  # 600 MB of text, of which only the first slice changes anything
            await commit(session, writer, [rows])
        await session.finish(writer)
    assert scene.run("SELECT COUNT(*) FROM people") == [(20_000,)]


# Transactions ---------------------------------------------------------------


async def test_a_heartbeat_and_a_commit_do_not_meet(scene: Scene) -> None:
    async with scene.session() as session:
        assert session.store is not None
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))

        async def beat() -> None:
            assert session.store is not None
            for _ in range(30):
                assert await session.store.beat(session.fence)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            tasks.start_soon(beat)
            for number in range(30):
                await commit(session, writer, [people((number, "x"))])
        await session.finish(writer)
    assert scene.run("SELECT COUNT(*) FROM people") == [(30,)]


async def test_a_cancelled_commit_leaves_the_connection_fit_for_use(scene: Scene) -> None:
    many = pa.RecordBatch.from_arrays([pa.array(range(300_000)), pa.array(["x"] * 300_000)], schema=PEOPLE)
    for delay in (0.0, 0.02, 0.1):
        async with scene.session() as session:
            writer = await session.prepare(session.load(spec(), schema=PEOPLE, unique_key=True))
            await writer.write(many)
            with anyio.move_on_after(delay):
                await session.commit(writer, "w")
            await session.abort(writer)
            saved = await session.checkpoint()
            counted = await session.target.count("people")
            assert (counted == 300_000) == (saved is not None)
            scene.run("DELETE FROM people", "DELETE FROM retl_checkpoints")


# Refused rows ---------------------------------------------------------------

SEATS = "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR, age INTEGER UNIQUE CHECK (age >= 0), mail VARCHAR DEFAULT 'kept', twice INTEGER GENERATED ALWAYS AS (age * 2))"


async def test_unique_values_change_places_in_slices_of_any_size(scene: Scene) -> None:
    """DuckDB checks some thousand rows at a time, and each against what the table held before."""
    many = 5_000
    scene.run(SEATS, f"INSERT INTO people (id, name, age) SELECT i, 'n', i FROM range({many}) t(i)")
    rows = [(number, "n", (number + 1) % many) for number in range(many)] + [(9000, "new", many)]
    schema = pa.schema(list(FULL)[:3])
    async with scene.session() as session:
        done = await scan(session, [people(*rows, schema=schema)])
        assert (done.changed, len(done.rejects)) == (many + 1, 0)
        assert (await scan(session, [people(*rows, schema=schema)])).changed == 0
    assert scene.run("SELECT id, name, age FROM people ORDER BY id") == rows
    assert scene.run("SELECT DISTINCT mail, twice - age * 2 FROM people") == [("kept", 0)]


async def test_a_row_that_is_bad_keeps_no_right_one_from_its_place(scene: Scene) -> None:
    scene.run(SEATS, "INSERT INTO people (id, name, age) VALUES (1, 'n', 1), (2, 'n', 2), (3, 'n', 3), (4, 'n', 4)")
    rows = [(1, "n", 2), (2, "n", 1), (3, "n", -1), (4, "n", 5)]
    async with scene.session() as session:
        done = await scan(session, [people(*rows, schema=pa.schema(list(FULL)[:3]))], rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":3}']
    assert scene.run("SELECT id, age FROM people ORDER BY id") == [(1, 2), (2, 1), (3, 3), (4, 5)]


async def test_a_change_that_a_collation_hides_arrives(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR COLLATE NOCASE)")
    async with scene.session() as session:
        await scan(session, [people((1, "ann"))])
        assert (await scan(session, [people((1, "Ann"))])).changed == 1
    assert scene.rows("people") == [(1, "Ann")]


@pytest.mark.parametrize("blacklist", [frozenset[Action](), frozenset({Action.INSERT})])
async def test_keys_that_a_collation_calls_equal_are_two(scene: Scene, blacklist: frozenset[Action]) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT, name VARCHAR COLLATE NOCASE PRIMARY KEY)",
        "INSERT INTO people VALUES (1, 'ann')",
    )
    async with scene.session() as session:
        await scan(session, [people((2, "Ann"))], spec(key=["name"]), key=("name",), blacklist=blacklist)
    assert scene.rows("people") == [(1, "ann")] + ([] if blacklist else [(2, "Ann")])


async def test_epochs_become_times_by_the_expression_that_the_refusal_names(scene: Scene, tmp_path: Path) -> None:
    source = Database(tmp_path / "app.db")
    source.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, seen INTEGER)", "INSERT INTO people VALUES (1, 1714557600)"
    )
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, seen TIMESTAMP)")
    words: dict[str, Any] = {"target": DuckDB(str(scene.path)), "source": source.source()}
    plain = retl.Pipeline("p", tables=["people"], **words)
    with pytest.raises(SchemaDrift, match=r"DATETIME\(x, 'unixepoch'\) in SQLite"):
        await plain.run_once()
    await plain.aclose()
    table = retl.Table("people", expressions={"seen": "DATETIME(seen, 'unixepoch')"})
    pipeline = retl.Pipeline("p", tables=[table], **words)
    await pipeline.run_once()
    await pipeline.aclose()
    assert scene.run("SELECT seen::VARCHAR FROM people") == [("2024-05-01 10:00:00",)]


async def test_what_has_no_form_in_duckdb_is_that_rows_reject(scene: Scene) -> None:
    nested = pa.array([[1.5], [float("nan")], None], pa.list_(pa.float64()))
    text = pa.array([b"a", b"b", b"\xff"], pa.binary()).view(pa.string())
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2, 3]), nested, text], ["id", "list", "name"])
    async with scene.session() as session:
        done = await scan(session, [batch], rejects_left=2)
    assert {(reject.key, reject.column) for reject in done.rejects} == {('{"id":2}', "list"), ('{"id":3}', "name")}
    assert scene.run("SELECT id, list::VARCHAR, name FROM people") == [(1, "[1.5]", "a")]


CHECKED = "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR NOT NULL, age INTEGER CHECK (age >= 0), mail VARCHAR UNIQUE)"
FULL = pa.schema([*PEOPLE, pa.field("age", pa.int64()), pa.field("mail", pa.string())])


async def test_every_kind_of_refusal_is_told_with_key_column_and_reason(scene: Scene) -> None:
    scene.run(CHECKED, "INSERT INTO people VALUES (100, 'old', 1, 'taken')")
    rows: list[tuple[Any, ...]] = [(number, "n", number, f"m{number}") for number in range(50)]
    rows[3] = (None, "n", 1, None)
    rows[7] = (7, None, 1, None)
    rows[11] = (11, "n", -1, None)
    rows[13] = (13, "n", 2**40, None)
    rows[17] = (17, "n", 1, "taken")
    rows[23] = (23, "n", 1, "m22")
    async with scene.session() as session:
        done = await scan(session, [people(*rows, schema=FULL)], rejects_left=6)
        assert session.store is not None
        kept = await session.store.rejects(session.fence.pipeline)
    found = {(reject.key, reject.column, reject.reason.split(" ")[0]) for reject in done.rejects}
    assert found == {
        ('{"id":null}', "id", "the"),
        ('{"id":7}', "name", "the"),
        ('{"id":11}', "", "CHECK"),
        ('{"id":13}', "age", "the"),
        ('{"id":17}', "mail", "Duplicate"),
        ('{"id":23}', "", "PRIMARY"),  # PRIMARY KEY or UNIQUE constraint violation: duplicate key "m22"
    }
    assert done.changed == 44
    assert len(kept) == 6
    assert {number for (number,) in scene.run("SELECT id FROM people")} == {*range(50), 100} - {3, 7, 11, 13, 17, 23}


async def test_too_many_refusals_write_nothing_and_name_them(scene: Scene) -> None:
    scene.run(CHECKED)
    rows = [(number, "n", -1 if number % 3 == 0 else 1, None) for number in range(30)]
    async with scene.session() as session:
        with pytest.raises(RowsRejected, match="rejected 10 rows") as caught:
            await scan(session, [people(*rows, schema=FULL)], rejects_left=9)
        assert await session.checkpoint() is None
    assert len(caught.value.rejects) == 10
    assert scene.rows("people") == []


async def test_of_rows_that_clash_with_each_other_the_first_is_kept(scene: Scene) -> None:
    scene.run(CHECKED)
    rows = [(number, "n", 1, f"m{number // 2}") for number in range(10)]
    async with scene.session() as session:
        done = await scan(session, [people(*rows, schema=FULL)], rejects_left=5)
    assert sorted(reject.key for reject in done.rejects) == [f'{{"id":{number}}}' for number in (1, 3, 5, 7, 9)]
    assert [number for (number,) in scene.run("SELECT id FROM people ORDER BY id")] == [0, 2, 4, 6, 8]


async def test_a_missing_parent_is_a_refusal(scene: Scene) -> None:
    scene.run("CREATE TABLE names (name VARCHAR PRIMARY KEY)", "INSERT INTO names VALUES ('a')")
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR REFERENCES names(name))")
    async with scene.session() as session:
        done = await scan(session, [THREE], rejects_left=1)
    assert [(reject.key, "foreign key" in reject.reason) for reject in done.rejects] == [('{"id":2}', True)]
    assert scene.rows("people") == [(1, "a"), (3, None)]


async def test_a_key_that_repeats_in_a_table_that_is_replaced_is_refused(scene: Scene) -> None:
    async with scene.session() as session:
        done = await scan(session, [people((1, "a"), (1, "b"), (2, "c"))], spec(pre_action="swap"), rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":1}']
    assert scene.rows("people") == [(1, "a"), (2, "c")]


async def test_a_row_is_refused_once_though_several_of_its_values_are_bad(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR NOT NULL, age TINYINT, mail VARCHAR)")
    async with scene.session() as session:
        done = await scan(session, [people((1, None, 1000, None), schema=FULL)], rejects_left=1)
    assert len(done.rejects) == 1


# Refreshes ------------------------------------------------------------------

OWNED = (
    "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR DEFAULT 'x' NOT NULL, CHECK (name <> 'bad'))",
    "CREATE INDEX people_name ON people (name)",
    "INSERT INTO people VALUES (8, 'old'), (9, 'old')",
)


def indexes(scene: Scene) -> list[tuple[Any, ...]]:
    return scene.run("SELECT index_name, table_name FROM duckdb_indexes() ORDER BY index_name")


@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap"])
async def test_a_refresh_keeps_keys_checks_defaults_and_indexes(scene: Scene, pre_action: str) -> None:
    scene.run(*OWNED)
    async with scene.session() as session:
        done = await scan(
            session, [people((1, "a"), (2, "bad"), (1, "again"))], spec(pre_action=pre_action), rejects_left=2
        )
    assert len(done.rejects) == 2
    assert scene.rows("people") == [(1, "a")]
    assert indexes(scene) == [("people_name", "people")]
    assert scene.run("INSERT INTO people (id) VALUES (5)", "SELECT name FROM people WHERE id = 5") == [("x",)]
    archives = [name for name in scene.tables() if name.startswith("people_arc_")]
    assert len(archives) == (pre_action == "rename_and_create")
    for archive in archives:
        assert scene.rows(archive) == [(8, "old"), (9, "old")]


@pytest.mark.parametrize("pre_action", ["truncate", "rename_and_create", "swap"])
async def test_a_refresh_keeps_comments_and_triggers(scene: Scene, pre_action: str) -> None:
    scene.run(
        *OWNED, "COMMENT ON TABLE people IS 'who''s who'", "COMMENT ON COLUMN people.name IS 'as written'",
        "COMMENT ON INDEX people_name IS 'quick'",
    )  # fmt: skip
    triggers = hasattr(duckdb, "__version__") and int(duckdb.__version__.split(".")[0]) >= 2
    if triggers:
        scene.run("CREATE TABLE log (id BIGINT)", "CREATE TRIGGER noted AFTER INSERT ON people REFERENCING NEW TABLE AS n FOR EACH STATEMENT INSERT INTO log SELECT id FROM n")  # fmt: skip
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], spec(to="main.People", pre_action=pre_action))
    assert scene.run("SELECT table_name, comment FROM duckdb_tables() WHERE table_name = 'people'") == [
        ("people", "who's who")
    ]
    assert scene.run("SELECT comment FROM duckdb_columns() WHERE table_name = 'people' AND column_name = 'name'") == [
        ("as written",)
    ]
    assert scene.run("SELECT index_name, comment FROM duckdb_indexes()") == [("people_name", "quick")]
    if triggers:
        assert (77,) in scene.run("INSERT INTO people VALUES (77, 'x')", "SELECT id FROM log")


async def test_what_depends_on_a_table_keeps_it_from_being_replaced(scene: Scene) -> None:
    if int(duckdb.__version__.split(".")[0]) < 2:
        pytest.skip("this DuckDB has no triggers")
    create = "CREATE TRIGGER noted AFTER INSERT ON {} REFERENCING NEW TABLE AS n FOR EACH STATEMENT INSERT INTO {} SELECT id FROM n"
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY)",
        "CREATE TABLE others (id BIGINT)",
        create.format("others", "people"),
    )
    one = people((1,), schema=pa.schema(list(PEOPLE)[:1]))
    async with scene.session() as session:
        with pytest.raises(UnsupportedError, match=r"the trigger 'noted' depends on 'people'"):
            await scan(session, [one], spec(pre_action="swap"))
        await scan(session, [one])
        scene.run("DROP TRIGGER noted ON others", create.format("people", "others"))
        with pytest.raises(UnsupportedError, match=r"the trigger 'noted' of 'people' refers to new or old rows"):
            await scan(session, [one])
    assert scene.rows("people") == [(1,)]


@pytest.mark.parametrize("pre_action", ["rename_and_create", "swap"])
async def test_a_table_that_others_refer_to_cannot_be_replaced(scene: Scene, pre_action: str) -> None:
    scene.run(OWNED[0], "CREATE TABLE pets (id INTEGER, owner BIGINT REFERENCES people(id))")
    async with scene.session() as session:
        with pytest.raises(UnsupportedError, match="foreign key of 'pets'"):
            await session.target.preview(loading(session, spec(pre_action=pre_action)))
        await scan(session, [people((1, "a"))])


async def test_a_view_survives_a_swap(scene: Scene) -> None:
    scene.run(OWNED[0], "CREATE VIEW names AS SELECT name FROM people")
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], spec(pre_action="swap"))
    assert scene.rows("names") == [("a",)]


async def test_a_unique_index_that_the_new_rows_break_stops_the_switch(scene: Scene) -> None:
    scene.run(OWNED[0], "CREATE UNIQUE INDEX names ON people (name)", "INSERT INTO people VALUES (8, 'old')")
    async with scene.session() as session:
        with pytest.raises(TargetError):
            await scan(session, [people((1, "a"), (2, "a"))], spec(pre_action="swap"))
    assert scene.rows("people") == [(8, "old")]
    assert scene.tables() == ["people"]
    assert indexes(scene) == [("names", "people")]


# The file -------------------------------------------------------------------


def test_a_target_in_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a path"):
        DuckDB().target()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Wait until a file is closed the next time."""
    events, close = [anyio.Event()], DuckDBFile.close

    async def closing(file: DuckDBFile) -> None:
        await close(file)
        events[-1].set()

    async def wait() -> None:
        events.append(anyio.Event())
        with anyio.fail_after(10):
            await events[-1].wait()

    monkeypatch.setattr(DuckDBFile, "close", closing)
    return wait


async def test_a_file_that_nobody_uses_is_let_go(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, closed: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(duckdb_target, "_KEEP_IDLE", 0.01)
    async with scene.session() as session:
        await scan(session, [THREE])
        assert await session.target.count("people") == 3
        await closed()
        with another_process(scene.path):
            pass
        assert await session.target.count("people") == 3


async def test_between_two_runs_other_processes_may_have_the_file(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, closed: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(duckdb_target, "_KEEP_IDLE", 1000.0)
    async with scene.session() as session:
        await scan(session, [THREE])
        await session.target.aclose()
        with another_process(scene.path):
            with pytest.raises(TargetBusy, match="another process"):
                await session.target.count("people")
            assert session.store is not None
            with pytest.raises(TargetBusy):
                await session.store.beat(session.fence)
        # A step of the store alone leaves the file free again.
        assert await session.store.beat(session.fence)
        await closed()
        with another_process(scene.path):
            pass
        assert await session.target.count("people") == 3


async def test_options_are_those_of_the_connection(scene: Scene) -> None:
    async with scene.session(memory_limit="300MB", threads=2) as session:
        await session.target.ping()
        assert scene.run("SELECT current_setting('threads')") == [(2,)]
    target = DuckDB(str(scene.path), memory_limit="much").target()
    with pytest.raises(ConfigError, match="settings"):
        await target.ping()
    await target.aclose()


@pytest.mark.parametrize(
    ("name", "content"), [("no/such/folder.duckdb", None), ("junk.duckdb", b"no database" * 1000), ("", None)]
)
async def test_a_path_that_cannot_work_is_a_mistake_of_configuration(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    target = DuckDB(str(tmp_path / name)).target()
    with pytest.raises(ConfigError):
        await target.ping()
    await target.aclose()


async def test_the_host_may_have_the_file_open_itself(scene: Scene) -> None:
    with duckdb.connect(str(scene.path)) as own:
        own.execute("CREATE TABLE mine (i INTEGER)")
        async with scene.session() as session:
            await scan(session, [THREE])
            assert own.execute("SELECT COUNT(*) FROM people").fetchall() == [(3,)]
        own.execute("INSERT INTO mine VALUES (1)")


async def test_one_file_is_source_and_target_at_once(scene: Scene) -> None:
    scene.run("CREATE TABLE raw AS SELECT i AS id, 'n' || i AS name FROM range(50000) t(i)")
    path = str(scene.path)
    tables = [
        retl.Table("raw", key="id", to="people", slice_rows=10_000),
        retl.Table(
            "by_ten", query="SELECT id // 10 AS ten, COUNT(*) AS n FROM people GROUP BY ALL", key="ten", to="tens"
        ),
    ]
    pipeline = retl.Pipeline("one", source=DuckDB(path), target=DuckDB(path, threads=2), tables=tables)
    await pipeline.run_once()
    assert scene.run("SELECT COUNT(*), SUM(id) FROM people") == [(50_000, 1_249_975_000)]
    assert scene.run("SELECT COUNT(*), SUM(n) FROM tens") == [(5_000, 50_000)]


async def test_two_pipelines_of_one_process_write_one_file(scene: Scene, tmp_path: Path) -> None:
    source = Scene(tmp_path / "source.duckdb")
    source.run("CREATE TABLE raw AS SELECT i AS id, 'n' || i AS name FROM range(20000) t(i)")
    pipelines = [
        retl.Pipeline(
            f"p{number}",
            source=DuckDB(str(source.path)),
            target=DuckDB(str(scene.path)),
            tables=[retl.Table("raw", key="id", to=f"copy{number}", slice_rows=2_000)],
        )
        for number in range(3)
    ]
    async with anyio.create_task_group() as tasks:
        for pipeline in pipelines:
            tasks.start_soon(pipeline.run_once)
    assert [scene.run(f"SELECT COUNT(*) FROM copy{number}") for number in range(3)] == [[(20_000,)]] * 3


def test_a_name_of_three_parts_is_refused() -> None:
    with pytest.raises(ConfigError, match="another database"):
        catalog.locate("a.b.c")
