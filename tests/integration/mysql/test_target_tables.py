"""Tables that are made, changed, exchanged and refused; what a crash between two statements of DDL leaves is carried on."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pymysql
import pytest

from retl.connectors.base import TargetTable
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.staged import PipelinedWriter
from retl.model.actions import Action
from retl.model.checkpoint import Refresh
from retl.model.errors import (
    ConfigError,
    ConnectionFailed,
    LeaseLost,
    RepeatedKey,
    SchemaDrift,
    TargetBusy,
    TransientError,
    UnsupportedError,
)
from retl.model.schema import field
from retl.testing.target_base import FIRST, Session, with_refresh
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, commit, people, scan, spec
from tests.servers.database import RIGHTS, Server

THREE = people((1, "a"), (2, "b"), (3, None))
LATER = people((2, "B"), (4, "d"))
OLD, NEW = [(1, "a"), (2, "b"), (3, None)], [(2, "B"), (4, "d")]
LONG = "t" * 64
REFRESHES = ["truncate", "rename_and_create", "swap"]


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


# Making and changing ---------------------------------------------------------


async def test_a_table_is_made_with_its_key_and_its_not_null_columns(scene: Scene) -> None:
    async with scene.session() as session:
        await scan(session, [THREE])
        found = await session.target.describe("people")
    assert found is not None
    assert found.key == ("id",)
    assert [column.nullable for column in found.columns] == [False, True]
    assert scene.rows("people") == OLD
    ((engine, collation),) = scene.run(
        "SELECT engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'people'"
    )
    assert engine == "InnoDB" and collation.startswith("utf8mb4")


async def test_keys_that_differ_in_case_accents_or_spaces_stay_two_rows(scene: Scene) -> None:
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("n", pa.int64())])
    keys = ["a", "A", "á", "a ", "a\t", "ß", "ss", ""]
    batch = people(*((key, number) for number, key in enumerate(keys)), schema=schema)
    async with scene.session() as session:
        await scan(session, [batch])
        done = await scan(session, [batch])
    assert done.changed == 0
    assert scene.rows("people") == sorted(zip(keys, range(len(keys)), strict=True), key=repr)


async def test_a_key_of_several_texts_fits_into_an_index(scene: Scene) -> None:
    names = ["a", "b", "c", "d"]
    schema = pa.schema(
        [*(pa.field(name, pa.string(), nullable=False) for name in names), pa.field("n", pa.int64(), nullable=False)]
    )
    async with scene.session() as session:
        await scan(session, [people(("1", "2", "3", "4", 5), schema=schema)], spec(key=[*names, "n"]))
    assert scene.rows("people") == [("1", "2", "3", "4", 5)]


async def test_columns_that_are_too_wide_together_are_kept_outside_of_the_row(scene: Scene) -> None:
    wide = [field(f"c{number}", pa.string(), native="varchar(5000)") for number in range(5)]
    schema = pa.schema([pa.field("id", pa.int64()), *wide])
    value = "ü" * 5000
    async with scene.session() as session:
        await scan(session, [people((1, *[value] * 5), schema=schema)])
    assert scene.rows("people") == [(1, *[value] * 5)]
    assert sorted(scene.types("people").values()) == [
        "bigint" if not scene.mariadb else "bigint(20)",
        *["longtext"] * 3,
        *["varchar(5000)"] * 2,
    ]


async def test_new_columns_are_added(scene: Scene) -> None:
    wider = PEOPLE.append(pa.field("amount", pa.decimal128(12, 3), nullable=False))
    async with scene.session() as session:
        await scan(session, [THREE])
        await scan(
            session, [people((2, "b", None), (4, "d", 5), schema=wider.set(2, wider.field(2).with_nullable(True)))]
        )
    assert scene.rows("people") == [(1, "a", None), (2, "b", None), (3, None, None), (4, "d", 5)]


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_a_refresh_adds_columns_and_keeps_indexes_and_defaults(scene: Scene, pre_action: str) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), extra INT NOT NULL DEFAULT 7, KEY by_name (name))",
        "INSERT INTO people VALUES (9, 'old', 1)",
    )
    wider = PEOPLE.append(pa.field("note", pa.string()))
    async with scene.session() as session:
        await scan(session, [people((1, "a", "x"), schema=wider)], spec(pre_action=pre_action))
    assert scene.rows("people") == [(1, "a", 7, "x")]
    assert {row[2] for row in scene.run("SHOW INDEX FROM people")} == {"PRIMARY", "by_name"}


async def test_a_swap_builds_every_index_anew(scene: Scene) -> None:
    definition = (
        "CREATE TABLE people (id BIGINT NOT NULL, name VARCHAR(40) NOT NULL, n INT NOT NULL AUTO_INCREMENT, words TEXT, "
        "`odd``, KEY (x` INT COMMENT 'a KEY `k` (n),', PRIMARY KEY (id), UNIQUE KEY one (name), KEY counted (n, name), "
        "KEY `by``, name` (name(5), id DESC), KEY odd (`odd``, KEY (x`) COMMENT 'it''s (odd), KEY', FULLTEXT KEY f (words))"
    )
    scene.run(definition, "INSERT INTO people (id, name) VALUES (9, 'old')")
    indexes = "SELECT index_name, seq_in_index, column_name, sub_part, collation, non_unique, index_type, index_comment"
    asked = f"{indexes} FROM information_schema.statistics WHERE table_name = 'people' AND table_schema = DATABASE()"
    before = sorted(scene.run(asked), key=repr)
    assert {row[0] for row in before} == {"PRIMARY", "one", "counted", "by`, name", "odd", "f"}
    async with scene.session() as session:
        await scan(session, [people((1, "a"), (2, "b"))], spec(pre_action="swap"))
    assert sorted(scene.run(asked), key=repr) == before
    assert scene.rows("people", "id, name") == [(1, "a"), (2, "b")]
    assert scene.tables() == ["people"]


async def test_a_table_that_is_altered_while_its_successor_is_loaded_stays(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(20))",
        "INSERT INTO people VALUES (9, 'old')",
    )
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(pre_action="swap"), schema=people().schema))
        await writer.write(people((1, "a")))
        await session.commit(writer)
        scene.run("ALTER TABLE people ADD INDEX by_name (name)")
        with pytest.raises(TransientError, match="definition of 'people' was changed"):
            await session.finish(writer)
        await writer.abort()
    assert scene.rows("people") == [(9, "old")]
    async with scene.session() as session:
        writer = await session.prepare(session.load(spec(pre_action="swap"), schema=people().schema))
        await writer.write(people((1, "a")))
        await session.commit(writer)
        scene.run("INSERT INTO people (name) VALUES ('counts on')")  # no change of the definition
        await session.finish(writer)
    assert scene.rows("people") == [(1, "a")]
    assert {row[2] for row in scene.run("SHOW INDEX FROM people")} == {"PRIMARY", "by_name"}
    assert scene.tables() == ["people"]


async def test_a_swap_alters_no_table_where_that_is_forbidden(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), KEY by_name (name))")
    async with scene.session() as session:
        words: dict[str, Any] = {"table": spec(pre_action="swap"), "schema": THREE.schema}
        load = session.load(**words, blacklist=frozenset({Action.ALTER}))
        assert not [text for text in (await session.target.preview(load)).statements if "ALTER" in text]
        allowed = session.load(**words)
        shown = [text for text in (await session.target.preview(allowed)).statements if "ALTER" in text]
    endings = ["DROP INDEX `by_name`", "ADD KEY `by_name` (`name`)"]
    assert [text.endswith(ending) for text, ending in zip(shown, endings, strict=True)] == [True, True]


async def test_a_table_of_another_database_with_odd_names(scene: Scene) -> None:
    other = f"{scene.database}_x y"
    user = scene.server.as_documented(scene.database).user
    odd = pa.schema([pa.field("i`d", pa.int64(), nullable=False), pa.field("select", pa.string())])
    scene.run(f"CREATE DATABASE `{other}`", f"GRANT {RIGHTS} ON `{other}`.* TO `{user}`@'%'")
    try:
        for pre_action in ("none", *REFRESHES):
            table = spec(f'"{other}"."my.ta`ble"', key="i`d", pre_action=pre_action)
            async with scene.session() as session:
                await scan(session, [people((1, "x"), schema=odd)], table)
                assert await session.target.count(f'"{other}"."my.ta`ble"') == 1
        assert scene.run(f"SELECT * FROM `{other}`.`my.ta``ble`") == [(1, "x")]
        names = [name for (name,) in scene.run(f"SHOW TABLES FROM `{other}`")]
        assert sorted(re.sub(r"\d{20}$", "", name) for name in names) == ["my.ta`ble", "my.ta`ble_arc_"]
    finally:
        scene.run(f"DROP DATABASE `{other}`")


async def test_the_case_of_a_columns_name_means_nothing(scene: Scene) -> None:
    scene.run("CREATE TABLE people (ID BIGINT PRIMARY KEY, Name VARCHAR(20))", "INSERT INTO people VALUES (1, 'old')")
    async with scene.session() as session:
        await scan(session, [THREE])
    assert scene.rows("people") == OLD


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_a_name_of_64_characters_has_a_shadow_and_archives(scene: Scene, pre_action: str) -> None:
    table = spec(LONG, pre_action=pre_action, keep_archives=1 if pre_action == "rename_and_create" else None)
    async with scene.session() as session:
        await scan(session, [THREE], table)
        for number in range(3):
            await scan(session, [LATER], table, scan_id=f"20240501T12000{number}.000001-aaaaaa")
    assert scene.rows(LONG) == NEW
    archives = [name for name in scene.tables() if name != LONG]
    assert len(archives) == (pre_action == "rename_and_create")
    for name in archives:
        assert len(name) <= 64 and name.endswith("_arc_20240501120002000001")
        assert scene.rows(name) == NEW


async def test_two_pipelines_that_swap_one_table_do_not_meet_in_one_shadow(scene: Scene) -> None:
    """Neither owner can know of the other one here; each loads a shadow of its own, and drops nobody else's."""
    scene.run("CREATE TABLE _retl_new_people_7 (id INT)", "CREATE TABLE _retl_old_people_7 (id INT)")
    strangers = ["_retl_new_people_7", "_retl_old_people_7"]
    table = spec(pre_action="swap")
    async with scene.session() as session:
        await scan(session, [THREE])
        theirs = await session.prepare(session.load(table, schema=PEOPLE, pipeline="theirs"))
        mine = await session.prepare(session.load(table, schema=PEOPLE))
        assert len(scene.tables()) == 3 + len(strangers)
        await commit(session, mine, [LATER])
        await session.finish(mine)
        await session.abort(theirs)
    assert scene.rows("people") == NEW
    assert scene.tables() == [*strangers, "people"]


async def test_a_scans_own_archive_is_the_newest_although_the_clock_went_back(scene: Scene) -> None:
    table = spec(pre_action="rename_and_create", keep_archives=1)
    async with scene.session() as session:
        await scan(session, [people((1, "first"))], table)
        for number, name in ((9, "second"), (1, "third")):
            await scan(session, [people((number, name))], table, scan_id=f"2024050{number}T120000.000001-aaaaaa")
    assert scene.rows("people") == [(1, "third")]
    assert [scene.rows(name) for name in scene.tables()] == [[(1, "third")], [(9, "second")]]


async def test_a_generated_column_is_left_to_the_target(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), loud VARCHAR(20) AS (UPPER(name)) STORED)")
    with_loud = PEOPLE.append(pa.field("loud", pa.string()))
    async with scene.session() as session:
        plan = await session.target.preview(session.load(spec(), schema=with_loud))
        assert any("computed" in warning for warning in plan.warnings)
        await scan(session, [people((1, "a", "x"), schema=with_loud)])
    assert scene.rows("people") == [(1, "a", "A")]


# Refused beforehand -----------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "words", "error", "says"),
    [
        (["CREATE VIEW people AS SELECT 1 AS id, 'x' AS name"], {}, UnsupportedError, "is a view"),
        (
            ["CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT) ENGINE=MyISAM"],
            {},
            UnsupportedError,
            "no transactions",
        ),
        (["CREATE TABLE people (id BIGINT, name TEXT)"], {}, ConfigError, "no primary key or unique index"),
        (["CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT CHARACTER SET latin1)"], {}, SchemaDrift, "latin1"),
        (["CREATE TABLE people (id INT PRIMARY KEY, name TEXT)"], {}, SchemaDrift, "does not hold all"),
        (["CREATE TABLE people (id BIGINT PRIMARY KEY, name INT)"], {}, SchemaDrift, "more than one way"),
    ],
)
async def test_what_cannot_be_written_is_refused(
    scene: Scene, made: list[str], words: dict[str, Any], error: type[Exception], says: str
) -> None:
    scene.run(*made)
    async with scene.session() as session:
        load = session.load(spec(**words), schema=PEOPLE)
        with pytest.raises(error, match=says):
            await session.target.preview(load)
        with pytest.raises(error, match=says):
            async with session.target.open_load(load, session.fenced("x")):
                pass
        assert await session.checkpoint() is None


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_a_table_that_others_refer_to_is_not_replaced(scene: Scene, pre_action: str) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))",
        "CREATE TABLE pets (id INT PRIMARY KEY, owner BIGINT, FOREIGN KEY (owner) REFERENCES people (id))",
    )
    async with scene.session() as session:
        with pytest.raises(UnsupportedError, match="foreign key"):
            await session.target.preview(session.load(spec(pre_action=pre_action), schema=PEOPLE))
        await scan(session, [THREE])
    assert scene.rows("people") == OLD


@pytest.mark.parametrize("pre_action", ["rename_and_create", "swap"])
async def test_a_table_with_triggers_or_foreign_keys_is_not_exchanged(scene: Scene, pre_action: str) -> None:
    scene.run(
        "CREATE TABLE homes (id BIGINT PRIMARY KEY)",
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), FOREIGN KEY (id) REFERENCES homes (id))",
        "CREATE TABLE others (id BIGINT PRIMARY KEY, name VARCHAR(20))",
        "CREATE TRIGGER loud BEFORE INSERT ON others FOR EACH ROW SET NEW.name = UPPER(NEW.name)",
    )
    async with scene.session() as session:
        with pytest.raises(UnsupportedError, match="foreign key"):
            await session.target.preview(session.load(spec(pre_action=pre_action), schema=PEOPLE))
        with pytest.raises(UnsupportedError, match="trigger"):
            await session.target.preview(session.load(spec("others", pre_action=pre_action), schema=PEOPLE))
        plan = await session.target.preview(session.load(spec("others"), schema=PEOPLE))
        assert any("loud" in warning for warning in plan.warnings)


@pytest.mark.parametrize("name", ["retl_leases", "_retl_new_people_1", "x" * 65, "nowhere.people"])
async def test_names_that_cannot_be_are_refused(scene: Scene, name: str) -> None:
    async with scene.session() as session:
        with pytest.raises(ConfigError, match=r"reserved|more than 64|no database"):
            await session.target.preview(session.load(spec(name), schema=PEOPLE))


WIDE = pa.schema([pa.field("id", pa.int64(), nullable=False), *(pa.field(f"c{n}", pa.string()) for n in range(1100))])


@pytest.mark.parametrize("there", [False, True], ids=["new", "grown"])
async def test_a_table_that_the_server_cannot_have_is_refused_before_anything_is_touched(
    scene: Scene, there: bool
) -> None:
    if there:
        scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, c0 TEXT)", "INSERT INTO people VALUES (1, 'kept')")
    async with scene.session() as session:
        for pre_action in ("none", *REFRESHES):
            load = session.load(spec(pre_action=pre_action), schema=WIDE)
            with pytest.raises(ConfigError, match="1101 columns") as caught:
                await session.target.preview(load)
            assert "exclude" in caught.value.remedy
            with pytest.raises(ConfigError, match="1101 columns"):
                await session.prepare(load)
    assert scene.tables() == (["people"] if there else [])
    assert not there or scene.rows("people") == [(1, "kept")]


@pytest.mark.parametrize(
    ("columns", "words", "says"),
    [
        (["id", "smile \U0001f642"], {}, "rename"),
        (["id", "space "], {}, "rename"),
        (["id", "x" * 65], {}, "rename"),
        (["id", "Name", "name"], {}, "rename"),
        (["id", "name"], {"to": "smile \U0001f642"}, "another name"),
    ],
    ids=["beyond", "space", "long", "twice", "table"],
)
async def test_a_name_that_the_server_cannot_keep_is_refused(
    scene: Scene, columns: list[str], words: dict[str, Any], says: str
) -> None:
    schema = pa.schema([pa.field(name, pa.int64(), nullable=name != "id") for name in columns])
    async with scene.session() as session:
        with pytest.raises(ConfigError) as caught:
            await session.target.preview(session.load(spec(**words), schema=schema))
    assert says in caught.value.remedy
    assert scene.tables() == []


async def test_columns_with_the_names_of_our_own_are_columns_as_any(scene: Scene) -> None:
    names = ["place", "retl_row", "RETL_ROW_", "retl_r", "retl_k0", "retl_c0", "retl_try"]
    schema = pa.schema([pa.field(name, pa.int64(), nullable=name != "place") for name in names])
    table = spec(key="place", cursor="retl_row")
    async with scene.session() as session:
        await scan(session, [people((1, 1, 1, 1, 1, 1, 1), schema=schema)], table)
        twice = people((1, 2, 2, 2, 2, 2, 2), (1, 3, 3, 3, 3, 3, 3), (2, 1, 1, 1, 1, 1, 1), schema=schema)
        done = await scan(session, [twice], table)
        with pytest.raises(RepeatedKey, match="more than once"):
            await scan(session, [people((1, 4, 1, 1, 1, 1, 1), (1, 4, 2, 2, 2, 2, 2), schema=schema)], table)
    assert (done.rows, done.changed, done.older) == (3, 2, 1)
    assert scene.rows("people") == [(1, 3, 3, 3, 3, 3, 3), (2, 1, 1, 1, 1, 1, 1)]


async def test_a_repeated_key_says_to_read_the_cursor_that_there_is(scene: Scene) -> None:
    async with scene.session() as session:
        with pytest.raises(RepeatedKey) as caught:
            await scan(session, [people((1, "a"), (1, "b"))], spec(cursor="updated_at"))
    assert "take the cursor 'updated_at' into columns" in caught.value.remedy
    assert "give the table a cursor" not in caught.value.remedy


async def test_a_reject_of_a_swap_names_the_table_and_not_its_shadow(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), UNIQUE KEY by_name (name), CONSTRAINT short CHECK (name <> 'no'))"
    )
    async with scene.session() as session:
        done = await scan(
            session, [people((1, "a"), (2, "a"), (3, "no"))], spec(pre_action="swap", max_rejects=3), rejects_left=3
        )
    assert [reject.key for reject in done.rejects] == ['{"id":2}', '{"id":3}']
    assert not any("_retl_" in reject.reason for reject in done.rejects)
    assert scene.rows("people") == [(1, "a")]


async def test_a_column_that_became_longer_at_the_source_is_told(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), raw VARBINARY(5))")
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            field("name", pa.string(), native="varchar(50)"),
            field("raw", pa.binary(), native="varbinary(5)"),
        ]
    )
    async with scene.session() as session:
        told = (await session.target.preview(session.load(spec(), schema=schema))).warnings
    assert [("varchar(50)" in text, "MODIFY `name`" in text) for text in told] == [(True, True)]


async def test_whether_a_table_is_there_and_holds_rows_is_told(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY)", "CREATE VIEW seen AS SELECT * FROM people")
    async with scene.session() as session:
        assert await session.target.inspect("people") == TargetTable(exists=True, empty=True)
        scene.run("INSERT INTO people VALUES (1)")
        for name in ("people", f"{scene.database}.people", "seen"):
            assert await session.target.inspect(name) == TargetTable(exists=True, empty=False)
        assert await session.target.inspect("nowhere") == TargetTable(exists=False, empty=True)
        assert await session.target.inspect("no_such_database.people") == TargetTable(exists=False, empty=True)


async def test_rights_that_are_missing_are_told(scene: Scene) -> None:
    user = f"poor_{scene.database[-8:]}"
    scene.run(
        f"CREATE USER {user}@'%' IDENTIFIED BY 'secret'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER ON `{scene.database}`.* TO {user}@'%'",
    )
    options = scene.options(user=user, password="secret")
    target = options.target()
    try:
        session = await Session.begin(target)
        with pytest.raises(ConfigError, match="CREATE TEMPORARY TABLES"):
            await scan(session, [THREE])
        await scan(session, [THREE], spec("direct", pre_action="truncate"))
    finally:
        await target.aclose()
        scene.run(f"DROP USER {user}@'%'")
    assert scene.rows("direct") == OLD


async def test_a_plan_names_what_will_be_done(scene: Scene) -> None:
    async with scene.session() as session:
        plan = await session.target.preview(session.load(spec(), schema=PEOPLE))
        assert plan.statements[0].startswith(
            f"CREATE TABLE `{scene.database}`.`people` (`id` bigint NOT NULL, `name` longtext, PRIMARY KEY (`id`))"
        )
        assert plan.casts == ("id: int64 -> bigint", "name: string -> longtext")
        await scan(session, [THREE])
        plan = await session.target.preview(session.load(spec(pre_action="swap"), schema=PEOPLE))
        assert [statement.split("`")[0].strip() for statement in plan.statements] == [
            "CREATE TABLE",
            "LOAD DATA LOCAL INFILE 'retl' INTO TABLE",
            "RENAME TABLE",
            "DROP TABLE",
        ]


async def test_a_server_that_takes_no_files_is_written_by_insert(scene: Scene) -> None:
    scene.run("SET GLOBAL local_infile = OFF")
    try:
        async with scene.session() as session:
            plan = await session.target.preview(session.load(spec(), schema=PEOPLE))
            assert any("local_infile" in warning for warning in plan.warnings)
            await scan(session, [THREE])
            assert scene.rows("people") == OLD
        async with scene.session(local_infile=True) as session:
            with pytest.raises(ConfigError, match="local_infile"):
                await scan(session, [LATER])
    finally:
        scene.run("SET GLOBAL local_infile = ON")
    assert scene.rows("people") == OLD


# Crashes between two statements -----------------------------------------------


class Crash(Exception):
    """The process dies here."""


def dying(monkeypatch: pytest.MonkeyPatch, dies: Callable[[str], bool], *, before: bool) -> None:
    """Make the process die just before, or just after, a statement; whatever it would tidy up then is not done."""
    real = MySQLConnection.execute
    dead = False

    async def execute(self: MySQLConnection, sql: str) -> Any:
        nonlocal dead
        if dead:
            self.abort()
            raise Crash
        if not dies(sql):
            return await real(self, sql)
        if not before:
            await real(self, sql)
        dead = True
        self.abort()
        raise Crash

    monkeypatch.setattr(MySQLConnection, "execute", execute)


KILLS = {
    "rename_and_create": ["CREATE TABLE", "RENAME TABLE"],
    "truncate": ["TRUNCATE TABLE"],
    "swap": ["CREATE TABLE", "RENAME TABLE", "DROP TABLE"],
}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("pre_action", "statement"), [(key, found) for key, all_of in KILLS.items() for found in all_of]
)
async def test_a_crash_at_any_statement_of_a_refresh_is_carried_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str, statement: str, before: bool
) -> None:
    table = spec(pre_action=pre_action)
    async with scene.session() as session:
        await scan(session, [THREE])
        with monkeypatch.context() as patch:
            dying(patch, lambda sql: sql.startswith(statement) and "retl_leases" not in sql, before=before)
            with pytest.raises(Crash):
                await scan(session, [LATER], table)
    if pre_action == "swap":
        assert scene.rows("people") in (OLD, NEW)
    async with scene.session() as session:
        checkpoint = await session.checkpoint()
        begun = checkpoint.refresh if checkpoint else None
        assert (begun is None) == (pre_action == "swap")
        load = session.load(table, schema=PEOPLE, scan_id="20240501T130000.000002-bbbbbb")
        if begun is not None:
            load = with_refresh(load, begun)
        writer = await session.prepare(load)
        await commit(session, writer, [LATER])
        await session.finish(writer)
    assert scene.rows("people") == NEW
    archives = [name for name in scene.tables() if name != "people"]
    assert archives == (["people_arc_20240501120000000001"] if pre_action == "rename_and_create" else [])
    for archive in archives:
        assert scene.rows(archive) == OLD


async def test_an_archive_that_is_there_is_not_made_again(scene: Scene) -> None:
    table = spec(pre_action="rename_and_create")
    async with scene.session() as session:
        await scan(session, [THREE])
        load = with_refresh(session.load(table, schema=PEOPLE), Refresh(FIRST, "rename_and_create"))
        for _ in range(2):
            writer = await session.prepare(load)
            await commit(session, writer, [people((7, "half"))])
            await session.abort(writer)
        writer = await session.prepare(load)
        await commit(session, writer, [LATER])
        await session.finish(writer)
    assert scene.rows("people") == NEW
    assert scene.rows("people_arc_20240501120000000001") == OLD


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_an_owner_that_lost_the_lease_runs_no_ddl(scene: Scene, pre_action: str) -> None:
    async with scene.session() as old:
        await scan(old, [THREE])
        async with scene.session():
            with pytest.raises(LeaseLost):
                await scan(old, [LATER], spec(pre_action=pre_action))
    assert scene.tables() == ["people"]
    assert scene.rows("people") == OLD


async def test_the_lease_cannot_be_taken_while_ddl_runs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = MySQLConnection.execute
    async with scene.session() as session, scene.session(lock_timeout=1) as other:
        assert other.store is not None

        async def execute(self: MySQLConnection, sql: str) -> Any:
            if sql.startswith("CREATE TABLE") and "people" in sql:
                monkeypatch.setattr(MySQLConnection, "execute", real)
                assert other.store is not None
                row = await other.store.read_lease("contract")
                with pytest.raises(TargetBusy):
                    await other.store.take_lease(row, "second", 1.0)
                seen.append(sql)
            return await real(self, sql)

        fence = await other.store.take_lease(await other.store.read_lease("contract"), "first", 1.0)
        assert fence is not None
        session.fence = fence
        monkeypatch.setattr(MySQLConnection, "execute", execute)
        await scan(session, [THREE])
    assert len(seen) == 1


# Locks of others --------------------------------------------------------------


@pytest.mark.parametrize("pre_action", ["none", *REFRESHES])
async def test_a_table_that_somebody_holds_is_busy_and_left_as_it_was(scene: Scene, pre_action: str) -> None:
    # A switch is tried for ten times as long: what was loaded is not to be loaded again.
    async with scene.session(lock_timeout=0.2 if pre_action == "swap" else 1) as session:
        await scan(session, [THREE])
        holder = scene.server.connect(scene.database, autocommit=False)
        try:
            holder.cursor().execute("SELECT * FROM people FOR UPDATE")
            with pytest.raises(TargetBusy):
                await scan(session, [LATER], spec(pre_action=pre_action))
        finally:
            holder.close()
        assert [name for name in scene.tables() if "_retl_" not in name] == ["people"]
        assert scene.rows("people") == OLD
        await scan(session, [LATER], spec(pre_action=pre_action))
    assert scene.rows("people") == (sorted([*OLD[::2], *NEW], key=repr) if pre_action == "none" else NEW)


# Actions that are forbidden ----------------------------------------------------


@pytest.mark.parametrize("several", [False, True], ids=["one_index", "two_indexes"])
@pytest.mark.parametrize(
    ("forbidden", "expected"),
    [
        (Action.UPDATE, [*OLD, (4, "d")]),
        (Action.INSERT, [(1, "a"), (2, "B"), (3, None)]),
        (None, [(1, "a"), (2, "B"), (3, None), (4, "d")]),
    ],
)
async def test_forbidden_actions_are_not_done(
    scene: Scene, several: bool, forbidden: Action | None, expected: list[Any]
) -> None:
    unique = ", UNIQUE KEY (name)" if several else ""
    scene.run(f"CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20) {unique})")
    async with scene.session() as session:
        await scan(session, [THREE])
        done = await scan(session, [LATER], blacklist=frozenset({forbidden}) if forbidden else frozenset())
    assert done.changed == len(set(expected) - set(OLD))
    assert scene.rows("people") == sorted(expected, key=repr)


async def test_truncate_that_is_forbidden_is_not_done_when_a_rename_is_carried_on(scene: Scene) -> None:
    async with scene.session() as session:
        await scan(session, [THREE])
        for scan_rows in (people((7, "half")), LATER):
            load = session.load(
                spec(pre_action="rename_and_create"),
                schema=PEOPLE,
                blacklist=frozenset({Action.TRUNCATE, Action.DELETE}),
            )
            writer = await session.prepare(with_refresh(load, Refresh(FIRST, "rename_and_create")))
            await commit(session, writer, [scan_rows])
        await session.finish(writer)
    assert scene.rows("people") == NEW
    assert scene.tables() == ["people", "people_arc_20240501120000000001"]


# Constraints of the target -----------------------------------------------------


async def test_a_clash_in_another_unique_index_is_a_reject_and_not_another_row(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), UNIQUE KEY by_name (name))")
    async with scene.session() as session:
        await scan(session, [THREE])
        done = await scan(session, [people((5, "a"), (6, "e"), (2, "c"))], rejects_left=1)
    assert [reject.key for reject in done.rejects] == ['{"id":5}']
    assert "Duplicate entry" in done.rejects[0].reason
    assert (done.rows, done.changed) == (3, 2)
    assert scene.rows("people") == [(1, "a"), (2, "c"), (3, None), (6, "e")]


async def test_rows_that_a_constraint_refuses_are_found(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE homes (id BIGINT PRIMARY KEY)",
        "INSERT INTO homes VALUES (1), (2), (3), (4), (5)",
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), CHECK (name <> 'no'), FOREIGN KEY (id) REFERENCES homes (id))",
        "CREATE TRIGGER guard BEFORE INSERT ON people FOR EACH ROW "
        "IF NEW.name = 'stop' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF",
    )
    batch = people((1, "a"), (2, "no"), (3, "stop"), (4, "d"), (9, "homeless"))
    async with scene.session() as session:
        done = await scan(session, [batch], spec(max_rejects=3), rejects_left=3)
    assert [reject.key for reject in done.rejects] == ['{"id":2}', '{"id":3}', '{"id":9}']
    assert "not this one" in done.rejects[1].reason
    assert (done.rows, done.changed) == (5, 2)
    assert scene.rows("people") == [(1, "a"), (4, "d")]


@pytest.mark.parametrize("write", ["upsert", "append"])
@pytest.mark.parametrize("mode", [None, ""], ids=["strict", "lax"])
async def test_a_column_that_became_shorter_since_cuts_no_value(scene: Scene, write: str, mode: str | None) -> None:
    """Not even where something between us and the server has undone the session's mode: then it only warns."""
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    batch = people((1, "a"), (2, "bcd"), (3, None), (4, "ef"))
    async with scene.session() as session:
        table = spec(write=write, settle=0, max_rejects=1)
        writer = await session.prepare(session.load(table, schema=PEOPLE))
        assert isinstance(writer, PipelinedWriter)
        if mode is not None:
            await writer._main.execute(f"SET SESSION sql_mode = '{mode}'")
        await writer.write(batch)
        await writer._workers[0].settle()
        scene.run("ALTER TABLE people MODIFY name VARCHAR(2)")
        done = await session.commit(writer, rejects_left=1)
        await session.finish(writer)
    assert [(reject.key, reject.column) for reject in done.rejects] == [('{"id":2}', "name")]
    assert (done.rows, done.changed) == (4, 3)
    assert scene.rows("people") == [(1, "a"), (3, None), (4, "ef")]


async def test_the_server_may_go_away(scene: Scene) -> None:
    async with scene.session() as session:
        await scan(session, [THREE])
        writer = await session.prepare(session.load(spec(), schema=PEOPLE))
        await writer.write(LATER)
        for number, *rest in scene.run("SHOW PROCESSLIST"):
            if rest[2] == scene.database:
                with suppress(pymysql.Error):  # one that ends by itself
                    scene.run(f"KILL {number}")
        with pytest.raises(ConnectionFailed):
            await session.commit(writer, "x")
        await session.abort(writer)
        assert scene.rows("people") == OLD
        await scan(session, [LATER])
    assert scene.rows("people") == [(1, "a"), (2, "B"), (3, None), (4, "d")]
