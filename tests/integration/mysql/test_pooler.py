"""Errors that are no row's fault, and a session that is not the one that was made ready: what poolers and servers answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from retl.connectors import MySQL
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, RowsRejected, TargetBusy, TargetError
from retl.testing import collect, table_spec
from retl.testing.target_base import Session
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers.database import Server
from tests.servers.pooler import Pooler, Refusal, pooled

ROWS = people((1, "a"), (2, "b"), (3, "c"))
NO_INFILE = Refusal("LOAD DATA LOCAL", 1047, "08S01", "Unsupported LOAD DATA LOCAL INFILE command")


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


@asynccontextmanager
async def behind(scene: Scene, **words: object) -> AsyncIterator[tuple[Pooler, Session]]:
    """A session through a pooler."""
    async with pooled(scene.server.host, scene.server.port) as pooler:
        connector = MySQL(scene.server.at(pooler.host, pooler.port).url(scene.database), **words)  # type: ignore[arg-type]
        async with Session.of(connector.target()) as session:
            yield pooler, session


@pytest.mark.parametrize("late", [False, True], ids=["from the beginning", "from a moment on"])
@pytest.mark.parametrize("pre_action", ["none", "swap"])
async def test_where_load_data_is_refused_as_a_statement_rows_are_inserted(
    scene: Scene, pre_action: str, late: bool
) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    scene.run("INSERT INTO people VALUES (1, 'old')")
    table = spec(pre_action=pre_action, max_rejects=100)
    async with behind(scene) as (pooler, session):
        if not late:
            pooler.refusals = [NO_INFILE]
        plan = await session.target.preview(session.load(table, schema=PEOPLE))
        assert any("Unsupported LOAD DATA" in warning for warning in plan.warnings) is not late
        pooler.refusals = [NO_INFILE]
        for _ in range(2):
            done = await scan(session, [ROWS], table, rejects_left=100)
            assert (done.rows, done.rejects) == (3, [])
        plan = await session.target.preview(session.load(table, schema=PEOPLE))
        assert any("Unsupported LOAD DATA" in warning for warning in plan.warnings)
    assert scene.rows("people") == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize(
    ("code", "state", "kind"),
    [
        (1047, "08S01", TargetError),
        (1105, "HY000", TargetError),
        (1227, "42000", ConfigError),
        (1969, "70100", ConnectionFailed),
        (9001, "HY000", TargetError),
        (9006, "40001", TargetBusy),
        (1213, "40001", TargetBusy),
        (3101, "40000", TargetBusy),
        (1665, "HY000", ConfigError),
        (1052, "23000", TargetError),
    ],
)
@pytest.mark.parametrize("statement", ["LOAD DATA", "INSERT INTO"])
async def test_what_is_not_known_to_be_a_rows_fault_ends_the_scan(
    mysql_server: Server, statement: str, code: int, state: str, kind: type[RetlError]
) -> None:
    with mysql_server.fresh_database() as database:
        scene = Scene(mysql_server, database)
        scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))", "INSERT INTO people VALUES (9, 'z')")
        async with behind(scene, local_infile=statement == "LOAD DATA", lock_timeout=1) as (pooler, session):
            pooler.refusals = [Refusal(statement, code, state, "Not today")]
            with pytest.raises(kind, match="Not today") as refused:
                await scan(session, [ROWS], spec(max_rejects=100), rejects_left=100)
        assert not isinstance(refused.value, RowsRejected) and "max_rejects" not in refused.value.remedy
        assert scene.rows("people") == [(9, "z")]


@pytest.mark.parametrize("state", ["22001", "23000", "45000"])
async def test_what_is_known_to_be_a_rows_fault_is_a_reject(scene: Scene, state: str) -> None:
    """By its class, whatever its number; and what a trigger says."""
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))", "INSERT INTO people VALUES (9, 'z')")
    scene.run(
        "CREATE TRIGGER no BEFORE INSERT ON people FOR EACH ROW "
        f"IF NEW.id = 2 THEN SIGNAL SQLSTATE '{state}' SET MESSAGE_TEXT = 'not b', MYSQL_ERRNO = 31234; END IF"
    )
    async with scene.session() as session:
        done = await scan(session, [ROWS], spec(max_rejects=1), rejects_left=1)
    assert [(reject.key, reject.reason) for reject in done.rejects] == [('{"id":2}', "not b")]
    assert scene.rows("people") == [(1, "a"), (3, "c"), (9, "z")]


@pytest.mark.parametrize("pre_action", ["none", "swap"])
async def test_a_session_that_a_pooler_hands_on_between_transactions_writes_nothing(
    scene: Scene, pre_action: str
) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))", "INSERT INTO people VALUES (9, 'z')")
    async with behind(scene) as (pooler, session):
        pooler.hands_on = "START TRANSACTION"
        with pytest.raises(ConfigError, match="a pooler has reset it"):
            await scan(session, [ROWS], spec(pre_action=pre_action))
    assert scene.rows("people") == [(9, "z")]


async def test_a_session_that_a_pooler_hands_on_between_statements_reads_nothing(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY)", "INSERT INTO people VALUES (9)")
    async with pooled(scene.server.host, scene.server.port) as pooler:
        source = MySQL(scene.server.at(pooler.host, pooler.port).url(scene.database)).source()
        assert (await collect(source, table_spec("people"))).to_pylist() == [{"id": 9}]
        pooler.hands_on = "SELECT"
        with pytest.raises(ConfigError, match="a pooler has reset it"):
            await collect(source, table_spec("people"))
        await source.aclose()
