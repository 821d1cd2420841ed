"""Tables of a SQLite target: names as SQLite compares them, and what else a table is."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pyarrow as pa
import pytest

from retl.connectors.sql.tables import shadow_name
from retl.model.actions import Action
from retl.model.checkpoint import Refresh
from retl.model.errors import ConfigError, StateError, TargetError, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.testing.target_base import FIRST, with_refresh
from tests.integration.duckdb.scenes import loading
from tests.integration.scene import commit, people, scan, spec
from tests.integration.sqlite.scenes import Scene

NEW = people((1, "new"), (2, "b"))
REFRESHES = ["none", "truncate", "rename_and_create", "swap", "mirror"]


# Names ----------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_the_case_of_ascii_letters_means_nothing_in_a_name(scene: Scene, pre_action: str) -> None:
    scene.run(
        "CREATE TABLE People (Id INTEGER PRIMARY KEY, NAME TEXT)",
        "CREATE INDEX Named ON pEOPLE (name)",
        "CREATE TABLE log (id)",
        "CREATE TRIGGER seen AFTER INSERT ON PEOPLE BEGIN INSERT INTO log VALUES (new.id); END",
        "INSERT INTO people VALUES (1, 'old')",
        "DELETE FROM log",
    )
    async with scene.session() as session:
        table = spec("people", pre_action=pre_action)
        await session.target.preview(loading(session, table))
        await scan(session, [NEW], table)
        assert (await session.target.inspect("PEOPLE")).exists  # type: ignore[union-attr]
        assert await session.target.count("PEOPLE") == 2
    assert scene.rows("people") == [(1, "new"), (2, "b")]
    assert [name for name in scene.tables() if "_arc_" not in name] == ["People", "log"]
    kept = scene.run("SELECT type, name, LOWER(tbl_name) FROM sqlite_master WHERE name IN ('Named', 'seen') ORDER BY 1")
    assert kept == [("index", "Named", "people"), ("trigger", "seen", "people")]
    assert scene.rows("log")[-1] == (2,)


@pytest.mark.parametrize("pre_action", REFRESHES)
@pytest.mark.parametrize("name", ["my.table", 'we"ird', "sel ect", "naïve", "it's", "[x]", "main.x", "b", "retl.x"])
async def test_any_name_can_be_a_table(scene: Scene, name: str, pre_action: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    table = spec(quoted, pre_action=pre_action)
    async with scene.session() as session:
        for rows in (people((1, "old")), NEW):
            await session.target.preview(loading(session, table))
            await scan(session, [rows], table)
        assert await session.target.count(quoted) == 2
    assert scene.run(f"SELECT * FROM {quoted} ORDER BY 1") == [(1, "new"), (2, "b")]


async def test_columns_whose_names_differ_only_in_case_are_named(scene: Scene) -> None:
    both = pa.schema([pa.field("id", pa.int64()), pa.field("Age", pa.int64()), pa.field("age", pa.int64())])
    async with scene.session() as session:
        with pytest.raises(ConfigError, match="'Age' and 'age' have one name in the target"):
            await session.target.preview(loading(session, spec(), schema=both))


# What else a table is -------------------------------------------------------


@pytest.mark.parametrize("pre_action", REFRESHES)
@pytest.mark.parametrize(
    "definition",
    [
        "people -- people (and others)\n (id INTEGER PRIMARY KEY, name TEXT)",
        "people/* ( */(id INTEGER PRIMARY KEY, name TEXT)",
        "'people'(id INTEGER PRIMARY KEY, name TEXT) STRICT",
        "IF NOT EXISTS main.people(id INTEGER PRIMARY KEY, name TEXT) WITHOUT ROWID",
        "people(id INTEGER PRIMARY KEY, name TEXT, loud TEXT AS (upper(name)) STORED, low AS (lower(name)))",
        "people(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, name TEXT UNIQUE ON CONFLICT IGNORE)",
    ],
)
async def test_a_table_is_refreshed_however_it_was_written_down(scene: Scene, definition: str, pre_action: str) -> None:
    scene.run(f"CREATE TABLE {definition}", "INSERT INTO people (id, name) VALUES (1, 'old')")
    before = scene.run("SELECT name, type, pk, hidden FROM pragma_table_xinfo('people')")
    async with scene.session() as session:
        table = spec(pre_action=pre_action)
        await session.target.preview(loading(session, table))
        await scan(session, [NEW], table)
    assert scene.rows("people", "id, name") == [(1, "new"), (2, "b")]
    assert scene.run("SELECT name, type, pk, hidden FROM pragma_table_xinfo('people')") == before


@pytest.mark.parametrize("pre_action", REFRESHES)
@pytest.mark.parametrize(
    ("name", "why"),
    [("notes", "is a view"), ("words_content", "is a part of a virtual table"), ("words", "virtual|key")],
)
async def test_what_is_no_plain_table_is_refused_beforehand(scene: Scene, name: str, why: str, pre_action: str) -> None:
    scene.run("CREATE VIEW notes AS SELECT 1 AS id, 'x' AS name", "CREATE VIRTUAL TABLE words USING fts5(id, name)")
    async with scene.session() as session:
        with pytest.raises((UnsupportedError, ConfigError), match=why):
            await session.target.preview(loading(session, spec(name.upper(), pre_action=pre_action)))


async def test_a_strict_table_grows_every_kind_of_column(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT) STRICT")
    kinds = {"b": pa.bool_(), "t": pa.timestamp("us"), "d": pa.decimal128(20, 2), "f": pa.float32(), "x": pa.binary()}
    wider = pa.schema([*NEW.schema, *(pa.field(name, kind) for name, kind in kinds.items())])
    row = {"id": 1, "name": "a", "b": True, "t": None, "d": None, "f": 0.5, "x": b"\0"}
    batch = pa.RecordBatch.from_pylist([row], schema=wider)
    async with scene.session() as session:
        await scan(session, [batch])
        assert (await scan(session, [batch])).unchanged == 1
    assert scene.rows("people") == [(1, "a", 1, None, None, 0.5, b"\0")]


@pytest.mark.parametrize("count", [1_500, 2_000, 2_001])
async def test_many_columns_are_merged_or_refused_beforehand(scene: Scene, count: int) -> None:
    schema = pa.schema(
        [pa.field("id", pa.int64()), *(pa.field(f"v{number}", pa.int64()) for number in range(count - 1))]
    )
    batches = [pa.RecordBatch.from_pylist([{"id": 1, f"v{count - 2}": value}], schema=schema) for value in (1, 2)]
    async with scene.session() as session:
        if count > 2_000:
            with pytest.raises(UnsupportedError, match="2,001 columns are more than the 2,000"):
                await session.target.preview(loading(session, spec(), schema=schema))
            return
        for batch in batches:
            assert (await scan(session, [batch])).changed == 1
    assert scene.run(f"SELECT v{count - 2} FROM people") == [(2,)]


@pytest.mark.parametrize(
    "table",
    [
        "people(id INTEGER PRIMARY KEY, name TEXT COLLATE odd UNIQUE)",
        "people(id INTEGER PRIMARY KEY, name TEXT CHECK (odd(name)))",
    ],
)
async def test_what_only_another_application_defines_is_named_beforehand(scene: Scene, table: str) -> None:
    with closing(sqlite3.connect(scene.path)) as theirs:
        theirs.create_collation("odd", lambda a, b: (a > b) - (a < b))
        theirs.create_function("odd", 1, lambda value: 1, deterministic=True)
        theirs.execute(f"CREATE TABLE {table}")
    async with scene.session() as session:
        with pytest.raises(TargetError, match=r"odd.*the application that made the file defines it"):
            await session.target.preview(loading(session, spec()))


async def test_foreign_keys_are_said_not_to_be_checked(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE cities (id INTEGER PRIMARY KEY)",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT REFERENCES cities(id) ON DELETE CASCADE)",
    )
    async with scene.session() as session:
        plan = await session.target.preview(loading(session, spec()))
        await scan(session, [NEW])
    assert [warning for warning in plan.warnings if "foreign key of 'people' to 'cities' is not checked" in warning]
    assert scene.rows("people") == [(1, "new"), (2, "b")]


# What a swap keeps ----------------------------------------------------------


@pytest.mark.parametrize("pre_action", ["swap", "rename_and_create", "truncate"])
async def test_numbers_that_autoincrement_has_used_up_stay_used(scene: Scene, pre_action: str) -> None:
    scene.run(
        "CREATE TABLE People (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)", "INSERT INTO people VALUES (900, 'x')"
    )
    async with scene.session() as session:
        await scan(session, [NEW], spec(pre_action=pre_action))
    assert scene.run("INSERT INTO people (name) VALUES ('y')", "SELECT MAX(id) FROM people") == [(901,)]


LEARN = "INSERT INTO found(rowid, name) VALUES (new.id, new.name)"
FORGET = "INSERT INTO found(found, rowid, name) VALUES ('delete', old.id, old.name)"
FTS = (
    "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE VIRTUAL TABLE found USING fts5(name, content='people', content_rowid='id')",
    f"CREATE TRIGGER ai AFTER INSERT ON people BEGIN {LEARN}; END",
    f"CREATE TRIGGER ad AFTER DELETE ON people BEGIN {FORGET}; END",
    f"CREATE TRIGGER au AFTER UPDATE ON people BEGIN {FORGET}; {LEARN}; END",
    "INSERT INTO people VALUES (1, 'old'), (2, 'b'), (3, 'gone')",
)


@pytest.mark.parametrize("triggers", [True, False])
@pytest.mark.parametrize("pre_action", ["swap", "rename_and_create", "truncate"])
async def test_an_index_of_words_over_the_table_stays_right(scene: Scene, pre_action: str, triggers: bool) -> None:
    scene.run(*FTS, *(() if triggers else ("DROP TRIGGER ai", "DROP TRIGGER ad", "DROP TRIGGER au")))
    if not triggers and pre_action == "truncate":
        return  # then nobody ever kept it up
    async with scene.session() as session:
        await scan(session, [NEW], spec(pre_action=pre_action))
    if triggers or pre_action == "swap":
        words = [
            scene.run(f"SELECT rowid FROM found WHERE found MATCH '{word}'") for word in ("new", "old", "gone", "b")
        ]
        assert words == [[(1,)], [], [], [(2,)]]
        scene.run("INSERT INTO found(found, rank) VALUES ('integrity-check', 1)")
    assert scene.rows("people") == [(1, "new"), (2, "b")]


@pytest.mark.parametrize("key", [True, False])
async def test_a_swap_fires_the_triggers_of_what_it_changes(scene: Scene, key: bool) -> None:
    scene.run(
        f"CREATE TABLE people (id INTEGER {'PRIMARY KEY' if key else ''}, name TEXT UNIQUE, loud TEXT AS (upper(name)))",
        "CREATE TABLE log (what, id)",
        "INSERT INTO people VALUES (1, 'old'), (2, 'b'), (3, 'new')",
        *(
            f"CREATE TRIGGER on_{what} AFTER {what} ON PEOPLE BEGIN INSERT INTO log VALUES ('{what}', {row}.id); END"
            for what, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old"))
        ),
    )
    async with scene.session() as session:
        await scan(session, [people((1, "new"), (2, "b"), (4, "d"))], spec(pre_action="swap", key="id" if key else ()))
    assert scene.rows("people", "id, name") == [(1, "new"), (2, "b"), (4, "d")]
    seen = [("DELETE", 3), ("INSERT", 4), ("UPDATE", 1)]
    every = [*(("DELETE", number) for number in (1, 2, 3)), *(("INSERT", number) for number in (1, 2, 4))]
    assert scene.rows("log") == (seen if key else every)
    assert scene.tables() == ["log", "people"]


async def test_a_swap_that_may_not_write_what_differs_is_refused(scene: Scene) -> None:
    scene.run(*FTS)
    async with scene.session() as session:
        load = loading(session, spec(pre_action="swap"), blacklist=frozenset({Action.DELETE}))
        with pytest.raises(UnsupportedError, match="the blacklist forbids DELETE"):
            await session.target.preview(load)


@pytest.mark.parametrize(
    "way", ["RAISE(ROLLBACK, 'never')", "RAISE(IGNORE)", "RAISE(ABORT, 'never')", "RAISE(FAIL, 'never')"]
)
async def test_what_a_trigger_does_with_a_row_is_told(scene: Scene, way: str) -> None:
    scene.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
        f"CREATE TRIGGER no BEFORE INSERT ON people WHEN new.id = 2 BEGIN SELECT {way}; END",
    )
    batch = people((1, "a"), (2, "b"), (3, "c"))
    async with scene.session() as session:
        if "ROLLBACK" in way:
            with pytest.raises(TargetError, match="a trigger rolled the whole transaction back"):
                await scan(session, [batch], rejects_left=1)
            assert scene.rows("people") == []
            return
        for append in (False, True):
            table = spec(key=(), write="append") if append else spec()
            done = await scan(session, [batch], table, rejects_left=1)
            ignored = way == "RAISE(IGNORE)"
            assert (done.changed, done.dropped, len(done.rejects)) == (2, int(ignored), int(not ignored))
            assert (done.rows, done.unchanged) == (3, 0)
            assert scene.rows("people") == [(1, "a"), (3, "c")]
            scene.run("DELETE FROM people")


async def test_a_truncate_that_a_trigger_prevents_is_told(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT INTO people VALUES (9, 'stays')",
        "CREATE TRIGGER stay BEFORE DELETE ON people BEGIN SELECT RAISE(IGNORE); END",
    )
    async with scene.session() as session:
        with pytest.raises(TargetError, match="a trigger of the table keeps them"):
            await scan(session, [NEW], spec(pre_action="truncate"))
    assert scene.rows("people") == [(9, "stays")]


@pytest.mark.parametrize(
    "trap",
    [
        "CREATE VIEW retl_leases AS SELECT * FROM people",
        "CREATE VIEW RETL_claims AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON Retl_Scans BEGIN DELETE FROM people; END",
    ],
)
async def test_what_only_has_the_name_of_a_state_table_is_refused(scene: Scene, trap: str) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)", "CREATE TABLE retl_scans (id)", trap)
    with pytest.raises(StateError, match="where only retl's own table"):
        async with scene.session():
            pass
    scene.path.unlink()
    async with scene.session() as session:
        await scan(session, [NEW])
    assert {oct(file.stat().st_mode)[-3:] for file in scene.path.parent.glob("target.db*")} == {"600"}


async def test_a_table_of_somebody_else_is_never_a_leftover(scene: Scene) -> None:
    mine, theirs = shadow_name("people", "contract", 7), "_RETL_new_people_7"
    scene.run(f"CREATE TABLE {mine} (id)", f"CREATE TABLE {theirs} (id)")
    async with scene.session() as session:
        writer = await session.prepare(loading(session, spec("People", pre_action="swap")))
        await commit(session, writer, [NEW])
        assert mine not in scene.tables() and theirs in scene.tables()
        await session.finish(writer)
    assert scene.tables() == ["People", theirs]


async def test_a_switch_neither_waits_for_a_reader_nor_disturbs_it(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO people VALUES (1, 'old')")
    async with scene.session() as session:
        writer = await session.prepare(loading(session, spec(pre_action="swap")))
        await commit(session, writer, [NEW])
        with closing(sqlite3.connect(scene.path, isolation_level=None)) as reader:
            seen = []
            for step in ("BEGIN", "SELECT 1", "COMMIT"):
                reader.execute(step)
                seen.append(reader.execute("SELECT name FROM people ORDER BY id").fetchall())
                if step == "SELECT 1":
                    await session.finish(writer)
                    seen.append(reader.execute("SELECT name FROM people ORDER BY id").fetchall())
    assert seen == [[("old",)], [("old",)], [("old",)], [("new",), ("b",)]]


async def test_a_scans_own_archive_is_the_newest_although_the_clock_went_back(scene: Scene) -> None:
    table = spec("People", pre_action="rename_and_create", keep_archives=1)
    async with scene.session() as session:
        await scan(session, [people((1, "first"))], table)
        for number, name in ((9, "second"), (1, "third")):
            await scan(session, [people((number, name))], table, scan_id=f"2024050{number}T120000.000001-aaaaaa")
    assert [scene.rows(name) for name in scene.tables()] == [[(1, "third")], [(9, "second")]]


async def test_what_was_only_half_loaded_is_no_archive(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO people VALUES (8, 'half')")
    async with scene.session() as session:
        load = loading(session, spec(pre_action="rename_and_create"))
        writer = await session.prepare(with_refresh(load, Refresh(FIRST, "rename_and_create", archives=False)))
        await commit(session, writer, [NEW])
        await session.finish(writer)
    assert scene.tables() == ["people"]
    assert scene.rows("people") == [(1, "new"), (2, "b")]


async def test_the_file_is_in_wal_mode_wherever_the_checkpoints_are(scene: Scene) -> None:
    target = scene.target().target()
    async with target.open_load(WriteSpec("p", spec(), NEW.schema, ("id",), "s"), None) as writer:
        await writer.write(NEW)
        await writer.commit(None, Slice(index=0), 0)
        await writer.finish(None)
    await target.aclose()
    assert scene.run("PRAGMA journal_mode") == [("wal",)]
    assert scene.rows("people") == [(1, "new"), (2, "b")]
    assert scene.path.stat().st_mode & 0o777 == 0o600
