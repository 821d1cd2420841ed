"""Nothing that a server makes of a session, a key or a NULL changes a row in silence, or makes two of our connections wait
for each other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pyarrow as pa
import pytest

from retl.connectors import MySQL
from retl.model.errors import ConfigError, ConnectionFailed
from retl.model.plan import WriteSpec
from retl.testing import collect, table_spec
from retl.testing.target_base import Session
from tests.integration.mysql.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers import mariadb
from tests.servers.database import Server

WAYS = pytest.mark.parametrize("local_infile", [None, False], ids=["load", "insert"])


@pytest.fixture
def scene(server: Server, database: str) -> Scene:
    return Scene(server, database)


@contextmanager
def setting(server: Server, name: str, value: str | int) -> Iterator[None]:
    """A setting of the server for sessions that begin meanwhile."""
    ((before,),) = server.query(f"SELECT @@GLOBAL.{name}")
    server.query(f"SET GLOBAL {name} = %s", value)
    try:
        yield
    finally:
        server.query(f"SET GLOBAL {name} = %s", before)


@WAYS
@pytest.mark.parametrize("pre_action", ["none", "truncate", "rename_and_create", "swap"])
async def test_a_key_of_zero_is_a_key_where_the_target_counts_by_itself(
    scene: Scene, pre_action: str, local_infile: bool | None
) -> None:
    scene.run("CREATE TABLE people (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(20))")
    rows = [(0, "unknown"), (1, "one"), (2, "two")]
    async with scene.session(local_infile=local_infile) as session:
        for _ in range(3):
            done = await scan(session, [people(*rows)], spec(pre_action=pre_action), schema=PEOPLE)
            assert done.rows == 3
            assert scene.rows("people") == rows


@WAYS
async def test_text_and_names_arrive_whatever_the_server_makes_of_a_session(
    scene: Scene, local_infile: bool | None
) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("größe", pa.string())])
    name = f"u_{secrets.token_hex(4)}"
    scene.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'word'", f"GRANT ALL ON {scene.database}.* TO {name}@'%'")
    try:
        with setting(scene.server, "init_connect", "SET NAMES latin1"):
            options = MySQL(
                host=scene.server.host, port=scene.server.port, user=name, password="word", database=scene.database,
                local_infile=local_infile,
            )  # fmt: skip
            target = options.target()
            session = await Session.begin(target)
            await scan(session, [people((1, "漢字🗼 é"), schema=schema)], schema=schema)
            await target.aclose()
    finally:
        scene.run(f"DROP USER {name}@'%'")
    assert scene.rows("people", "id, `größe`") == [(1, "漢字🗼 é")]


@WAYS
@pytest.mark.parametrize("pre_action", ["none", "truncate"])
async def test_a_null_never_becomes_the_present_time(scene: Scene, pre_action: str, local_infile: bool | None) -> None:
    at = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("at", pa.timestamp("us", "UTC"))])
    times = pa.RecordBatch.from_pydict({"id": [1, 2], "at": [None, 1_700_000_000_000_000]}, schema=at)
    with setting(scene.server, "explicit_defaults_for_timestamp", "OFF"):
        scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, at TIMESTAMP(6) NOT NULL DEFAULT '2001-01-01 00:00:00')")
        async with scene.session(local_infile=local_infile) as session:
            done = await scan(session, [times], spec(pre_action=pre_action), schema=at, rejects_left=1)
    (reject,) = done.rejects
    assert (reject.key, reject.reason) == ('{"id":1}', "Column 'at' cannot be null")
    assert [key for key, _ in scene.rows("people")] == [2]


@pytest.mark.parametrize(
    "watched",
    [
        pytest.param(
            (
                "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))",
                "CREATE TABLE counter (n BIGINT)",
                "INSERT INTO counter VALUES (0)",
                "CREATE TRIGGER counts AFTER INSERT ON people FOR EACH ROW UPDATE counter SET n = n + 1",
            ),
            id="trigger",
        ),
        pytest.param(
            (
                "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), parent BIGINT)",
                "ALTER TABLE people ADD FOREIGN KEY (parent) REFERENCES people (id)",
            ),
            id="foreign key to itself",
        ),
    ],
)
async def test_connections_do_not_wait_for_each_other(scene: Scene, watched: tuple[str, ...]) -> None:
    """What a trigger writes, or the row that a foreign key looks for, may be locked by the other connection until the commit."""
    scene.run(*watched)
    own = "parent" in watched[0]
    schema = PEOPLE.append(pa.field("parent", pa.int64())) if own else PEOPLE
    batches = [
        people(
            *((n, f"p{n}", n // 2 if n else None) if own else (n, f"p{n}") for n in range(first, first + 50)),
            schema=schema,
        )
        for first in range(0, 200, 50)
    ]
    async with scene.session(writers=2, lock_timeout=2) as session:
        done = await scan(session, batches, spec(pre_action="truncate"), schema=schema, unique_key=True)
    assert done.rows == 200
    assert scene.rows("people", "id, name") == sorted(((n, f"p{n}") for n in range(200)), key=repr)
    if not own:
        assert scene.rows("counter") == [(200,)]


async def test_a_source_that_somebody_has_locked_is_waited_for_no_longer_than_allowed(scene: Scene) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY)", "INSERT INTO people VALUES (1)")
    source = scene.options(lock_timeout=1).source()
    connection = scene.server.connect(scene.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLES people WRITE")
        with anyio.fail_after(30), pytest.raises(ConnectionFailed, match="was not released in time"):
            await collect(source, table_spec("people"))
    finally:
        connection.close()
    found = await collect(source, table_spec("people"))
    assert found.to_pylist() == [{"id": 1}]
    await source.aclose()


async def test_a_binary_log_of_statements_is_refused_before_anything_is_written() -> None:
    with mariadb.started("--log-bin", "--binlog-format=STATEMENT") as server, server.fresh_database() as database:
        scene = Scene(server, database)
        target = scene.options().target()
        load = WriteSpec(pipeline="p", table=spec(), schema=PEOPLE, key=("id",), scan_id="s")
        with pytest.raises(ConfigError, match="binary log") as refused:
            await target.preview(load)
        assert "binlog_format" in refused.value.remedy
        store = target.state_store()
        with pytest.raises(ConfigError, match="binary log") as refused:
            await store.take_lease(await store.read_lease("p"), "me", 15.0)
        assert "binlog_format" in refused.value.remedy and "drop" not in refused.value.remedy
        await target.aclose()
        server.query("SET GLOBAL binlog_format = 'MIXED'")
        await target.preview(load)
        async with scene.session() as session:
            done = await scan(session, [people((1, "a"))])
        assert done.rows == 1
        await target.aclose()


@WAYS
async def test_a_server_that_is_read_only_is_seen_beforehand(scene: Scene, local_infile: bool | None) -> None:
    scene.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    async with scene.session(local_infile=local_infile) as session:
        load = session.load(spec(), schema=PEOPLE)
        with setting(scene.server, "read_only", 1):
            if local_infile is None:  # a LOAD DATA was tried
                with pytest.raises(ConnectionFailed, match="does not allow writing"):
                    await session.target.preview(load)
            else:
                assert "read only now" in (await session.target.preview(load)).warnings[0]
        assert (await scan(session, [people((1, "a"))])).rows == 1
    assert scene.rows("people") == [(1, "a")]
