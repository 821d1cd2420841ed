"""What the catalog does not show to the user of a target, and what readers hold: a refresh destroys nothing, and blocks nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from retl.connectors import MySQL
from retl.connectors.mysql.catalog import DIALECT
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.loader import Loader
from retl.connectors.mysql.rights import granted
from retl.connectors.sql.tables import TableName
from retl.model.actions import Action
from retl.model.errors import ConfigError, TargetBusy, UnsupportedError
from retl.testing.target_base import Session
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers.database import RIGHTS, Server

OLD, NEW = [(1, "a"), (2, "b")], [(2, "B"), (4, "d")]
BEFORE, AFTER = people(*OLD), people(*NEW)
REFRESHES = ["truncate", "rename_and_create", "swap"]
NO_ALTER = frozenset({Action.ALTER})


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


@pytest.fixture
def child(scene: Scene) -> Iterator[str]:
    """A table with a foreign key to ``people``, in a database that the pipeline's user does not see."""
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))", "INSERT INTO people VALUES (1, 'a'), (2, 'b')"
    )
    with scene.server.fresh_database() as hidden:
        scene.run(
            f"CREATE TABLE `{hidden}`.pets (id INT PRIMARY KEY, owner BIGINT, "
            f"CONSTRAINT kid FOREIGN KEY (owner) REFERENCES `{scene.database}`.people (id))"
        )
        yield hidden


def refers_to(scene: Scene, hidden: str) -> list[Any]:
    return scene.run(
        "SELECT referenced_table_name FROM information_schema.key_column_usage "
        f"WHERE table_schema = '{hidden}' AND referenced_table_name IS NOT NULL"
    )


def test_the_docs_ask_for_the_rights_that_the_tests_have() -> None:
    page = Path(__file__).parents[3] / "docs" / "pipelines" / "mysql.md"
    assert f"`{RIGHTS}`" in page.read_text(encoding="utf-8")


# What cannot be seen ------------------------------------------------------------


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_a_table_that_an_unseen_one_refers_to_is_not_replaced(scene: Scene, child: str, pre_action: str) -> None:
    async with scene.session() as session:
        load = session.load(spec(pre_action=pre_action), schema=PEOPLE)
        with pytest.raises(UnsupportedError, match="foreign key"):
            await session.target.preview(load)
        with pytest.raises(UnsupportedError, match="foreign key"):
            await scan(session, [AFTER], load.table)
        assert (scene.rows("people"), scene.tables()) == (OLD, ["people"])
        assert refers_to(scene, child) == [("people",)]
        await scan(session, [AFTER])
        scene.run(f"DROP TABLE `{child}`.pets")
        await scan(session, [AFTER], load.table)
    assert scene.rows("people") == NEW


@pytest.mark.parametrize("pre_action", ["truncate", "swap"])
async def test_a_switch_that_a_foreign_key_stops_is_taken_back(scene: Scene, child: str, pre_action: str) -> None:
    """Where the table may not be altered, nothing tells of the key beforehand."""
    table = spec(pre_action=pre_action)
    async with scene.session() as session:
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="left as it was"):
                await scan(session, [AFTER], table, blacklist=NO_ALTER)
            assert (scene.rows("people"), scene.tables()) == (OLD, ["people"])
            assert refers_to(scene, child) == [("people",)]
        scene.run(f"DROP TABLE `{child}`.pets")
        await scan(session, [AFTER], table, blacklist=NO_ALTER)
    assert (scene.rows("people"), scene.tables()) == (NEW, ["people"])


async def test_a_switch_that_a_crash_left_is_taken_back(
    scene: Scene, child: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, real = spec(pre_action="swap"), MySQLConnection.execute

    async def execute(self: MySQLConnection, sql: str) -> Any:
        if "_retl_old_" in sql and sql.startswith("DROP"):
            self.abort()
            raise TargetBusy("the process dies here")
        return await real(self, sql)

    async with scene.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(MySQLConnection, "execute", execute)
            with pytest.raises(TargetBusy):
                await scan(session, [AFTER], table, blacklist=NO_ALTER)
        assert scene.rows("people") == NEW
        assert refers_to(scene, child) != [("people",)]
        with pytest.raises(UnsupportedError, match="left as it was"):
            await scan(session, [AFTER], table, blacklist=NO_ALTER)
    assert (scene.rows("people"), scene.tables()) == (OLD, ["people"])
    assert refers_to(scene, child) == [("people",)]


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_a_trigger_that_cannot_be_seen_is_not_destroyed(scene: Scene, pre_action: str) -> None:
    """A trigger reads what it writes: two connections would wait for each other."""
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))",
        "CREATE TABLE counted (id INT PRIMARY KEY, n INT)",
        "INSERT INTO counted VALUES (1, 0)",
        "CREATE TRIGGER count_them BEFORE INSERT ON people FOR EACH ROW UPDATE counted SET n = n + 1",
    )
    server = scene.server.as_documented(scene.database)
    scene.run(f"REVOKE TRIGGER ON `{scene.database}`.* FROM `{server.user}`@'%'")
    target = MySQL(server.url(scene.database), lock_timeout=5).target()
    try:
        session = await Session.begin(target)
        load = session.load(spec(pre_action=pre_action), schema=PEOPLE, unique_key=True)
        batches = [people((4 * n, "x"), (4 * n + 1, "y")) for n in range(4)]
        if pre_action == "truncate":
            told = (await target.preview(load)).warnings
            assert any("trigger" in text for text in told)
            await scan(session, batches, load.table, unique_key=True)
            assert scene.run("SELECT n FROM counted") == [(8,)]
            assert len(scene.rows("people")) == 8
        else:
            with pytest.raises((ConfigError, UnsupportedError), match="trigger") as caught:
                await target.preview(load)
            assert scene.mariadb or "GRANT TRIGGER" in caught.value.remedy
    finally:
        await target.aclose()
    assert [row[0] for row in scene.run("SHOW TRIGGERS")] == ["count_them"]


async def test_the_triggers_of_a_table_that_has_them_unseen_fire_once_for_a_row(scene: Scene) -> None:
    """The first load of an upsert would replace a row that comes twice: a trigger would see it go and come."""
    scene.run(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))",
        "CREATE TABLE gone (id INT PRIMARY KEY AUTO_INCREMENT)",
        "CREATE TRIGGER going AFTER DELETE ON people FOR EACH ROW INSERT INTO gone VALUES ()",
    )
    server = scene.server.as_documented(scene.database)
    scene.run(f"REVOKE TRIGGER ON `{scene.database}`.* FROM `{server.user}`@'%'")
    target = MySQL(server.url(scene.database)).target()
    try:
        await scan(await Session.begin(target), [BEFORE, BEFORE], unique_key=True)
    finally:
        await target.aclose()
    assert (scene.rows("people"), scene.rows("gone")) == (OLD, [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GRANT TRIGGER ON *.* TO `u`@`%`", True),
        ("GRANT ALL PRIVILEGES ON *.* TO `u`@`%` WITH GRANT OPTION", True),
        ("GRANT SELECT, TRIGGER, DROP ON `my_db`.* TO `u`@`%`", True),
        ("GRANT TRIGGER ON `my\\_db`.* TO `u`@`%`", True),
        ("GRANT TRIGGER ON `my%`.* TO `u`@`%`", True),
        ("GRANT TRIGGER ON `my_db`.`t``x` TO `u`@`%`", True),
        ("GRANT TRIGGER ON `my-db`.* TO `u`@`%`", False),
        ("GRANT TRIGGER ON `my\\-db`.* TO `u`@`%`", False),
        ("GRANT TRIGGER ON `m`.* TO `u`@`%`", False),
        ("GRANT TRIGGER ON `my_db`.`other` TO `u`@`%`", False),
        ("GRANT SELECT, CREATE ON *.* TO `u`@`%`", False),
        ("GRANT `TRIGGER`@`%` TO `u`@`%`", False),
        ("something that no server says", False),
    ],
)
def test_a_right_is_read_from_the_grants(line: str, expected: bool) -> None:
    place = TableName("t`x", "my_db", DIALECT)
    assert granted(["GRANT USAGE ON *.* TO `u`@`%`", line], "TRIGGER", place) is expected
    revoked = "REVOKE TRIGGER ON `my_db`.* FROM `u`@`%`"
    assert not granted([line, revoked], "TRIGGER", place)


# Readers --------------------------------------------------------------------------


@pytest.mark.parametrize("pre_action", REFRESHES)
async def test_a_switch_that_waits_for_a_reader_makes_no_other_wait_for_long_and_loads_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pre_action: str
) -> None:
    waits: list[float] = []
    loads: list[int] = []
    real = Loader.load

    async def load(self: Loader, batch: Any, data: Any) -> None:
        loads.append(batch.num_rows)
        await real(self, batch, data)

    monkeypatch.setattr(Loader, "load", load)
    async with scene.session(lock_timeout=20) as session:
        await scan(session, [BEFORE])
        loads.clear()
        with closing(scene.server.connect(scene.database, autocommit=False)) as holder:
            holder.cursor().execute("SELECT * FROM people")

            def read() -> None:
                """Reads as an application does, until the scan has been seen to wait; then the first reader ends."""
                deadline = time.monotonic() + 30
                seen = 0
                while seen < 3 and time.monotonic() < deadline:
                    began = time.monotonic()
                    assert scene.rows("people") == OLD
                    waits.append(time.monotonic() - began)
                    seen += waits[-1] > 0.3
                    time.sleep(0.02)
                assert seen == 3, "nothing had to wait"
                holder.rollback()

            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, read)
                await scan(session, [AFTER], spec(pre_action=pre_action))
    assert scene.rows("people") == NEW
    assert max(waits) < 4
    assert sum(loads) == len(NEW)
