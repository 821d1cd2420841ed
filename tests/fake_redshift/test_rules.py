"""What a cluster refuses or does in its own way, and how ``asyncpg`` meets it. Most of it holds for a real cluster too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.fake_redshift import Cluster, FakeRedshift, Fault, Refusal, insert

ASYNCPG = "asyncpg.Connection[asyncpg.Record]"


async def connect(cluster: Cluster) -> asyncpg.Connection[asyncpg.Record]:
    user, password = cluster.reader
    return await asyncpg.connect(
        host=cluster.host,
        port=cluster.port,
        user=user,
        password=password,
        database=cluster.database,
        ssl=cluster.options.get("ssl", True),
        statement_cache_size=0,
    )


@pytest.fixture
async def session(cluster: Cluster) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(cluster)
    yield connection
    await connection.close()


@pytest.fixture
def numbers(cluster: Cluster, schema: str) -> str:
    """A table of 3,000 rows."""
    cluster.query(f"CREATE TABLE {schema}.numbers (id INTEGER, v VARCHAR(20))")
    insert(cluster, f"{schema}.numbers", [(n, f"v{n}") for n in range(3_000)])
    return f"{schema}.numbers"


async def test_start_up_shows_what_a_cluster_shows(session: asyncpg.Connection) -> None:
    assert session.get_server_version()[:3] == (8, 0, 2)
    assert hasattr(session.get_settings(), "padb_revision")


async def test_a_wrong_password_is_refused(cluster: Cluster) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(
            host=cluster.host, port=cluster.port, user="etl", password="wrong", database="dev", ssl=False
        )


async def test_a_type_that_asyncpg_does_not_know_ends_in_the_introspection_that_is_refused(
    cluster: Cluster, schema: str, session: asyncpg.Connection
) -> None:
    cluster.query(f"CREATE TABLE {schema}.docs (doc SUPER)")
    with pytest.raises(asyncpg.PostgresSyntaxError, match='at or near "ORDER"'):
        await session.fetch(f"SELECT doc FROM {schema}.docs")


async def test_array_parameters_are_refused(numbers: str, session: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await session.fetch(f"SELECT id FROM {numbers} WHERE v = ANY ($1::text[])", ["v1"])


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT now(), id FROM {}", "not supported on Redshift tables"),
        ("SELECT string_agg(v, ',') FROM {}", "does not exist"),
        ("SELECT sum(id) OVER (ORDER BY id) FROM {}", "frame clause"),
        ("SELECT id FROM {} WHERE v IS DISTINCT FROM 'x'", "syntax error"),
        ("SELECT id::jsonb FROM {}", 'type "jsonb" does not exist'),
        ("SHOW server_version", "must be superuser"),
        ("SHOW no_such_setting", "unrecognized configuration parameter"),
        ("SET no_such_setting = 1", "unrecognized configuration parameter"),
    ],
)
async def test_what_a_cluster_does_not_know_is_refused(
    numbers: str, session: asyncpg.Connection, sql: str, said: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=said):
        await session.fetch(sql.format(numbers))


async def test_a_refusal_aborts_its_transaction(numbers: str, session: asyncpg.Connection) -> None:
    await session.execute("BEGIN")
    with pytest.raises(asyncpg.PostgresError):
        await session.fetch(f"SELECT now() FROM {numbers}")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await session.fetch(f"SELECT count(*) FROM {numbers}")


async def test_a_cast_of_super_is_null_for_arrays_and_objects(cluster: Cluster, schema: str) -> None:
    cluster.query(f"CREATE TABLE {schema}.docs (id INTEGER, doc SUPER)")
    for number, text in enumerate(('{"a":1}', "[1]", '"text"', "1.5", "null")):
        cluster.query(f"INSERT INTO {schema}.docs SELECT {number}, JSON_PARSE('{text}')")
    rows = cluster.query(f"SELECT doc::varchar, JSON_SERIALIZE(doc) FROM {schema}.docs ORDER BY id")
    assert rows[:4] == [(None, '{"a":1}'), (None, "[1]"), ("text", '"text"'), ("1.5", "1.5")]


async def test_quoted_names_are_folded_unless_a_setting_says_otherwise(
    cluster: Cluster, schema: str, session: asyncpg.Connection
) -> None:
    cluster.query(f'CREATE TABLE {schema}."Mixed" ("Id" INTEGER)')
    assert await session.fetch(f'SELECT "ID" FROM {schema}."MIXED"') == []
    await session.execute("SET enable_case_sensitive_identifier = true")
    with pytest.raises(asyncpg.UndefinedTableError):
        await session.fetch(f'SELECT "ID" FROM {schema}."MIXED"')


async def test_a_varchar_without_a_length_has_256(session: asyncpg.Connection) -> None:
    assert len(await session.fetchval(f"SELECT CAST('{'x' * 300}' AS varchar)")) == 256


async def test_a_backslash_escapes_in_a_string(session: asyncpg.Connection) -> None:
    assert await session.fetchval(r"SELECT 'a\\b\'c'") == r"a\b'c"


async def test_keys_are_informational(cluster: Cluster, schema: str) -> None:
    cluster.query(f"CREATE TABLE {schema}.keyed (id INTEGER PRIMARY KEY)")
    insert(cluster, f"{schema}.keyed", [(1,), (1,)])
    assert cluster.query(f"SELECT count(*) FROM {schema}.keyed") == [(2,)]


async def test_the_snapshot_is_taken_when_a_user_table_is_first_touched(
    cluster: Cluster, numbers: str, session: asyncpg.Connection
) -> None:
    await session.execute("BEGIN")
    await session.fetch("SELECT table_name FROM svv_all_tables")
    await cluster.run(f"DELETE FROM {numbers} WHERE id = 0")
    assert await session.fetchval(f"SELECT count(*) FROM {numbers}") == 2_999
    await cluster.run(f"DELETE FROM {numbers} WHERE id = 1")
    assert await session.fetchval(f"SELECT count(*) FROM {numbers}") == 2_999
    await session.execute("ROLLBACK")


async def test_truncate_commits(cluster: Cluster, numbers: str) -> None:
    user, password = cluster.admin
    session = await asyncpg.connect(
        host=cluster.host,
        port=cluster.port,
        user=user,
        password=password,
        database=cluster.database,
        ssl=cluster.options.get("ssl", True),
    )
    await session.execute("BEGIN")
    await session.execute(f"TRUNCATE {numbers}")
    assert not session.is_in_transaction()
    await session.close()


async def test_a_cursor_hands_out_a_thousand_rows(numbers: str, session: asyncpg.Connection) -> None:
    await session.execute("BEGIN")
    await session.execute(f"DECLARE c CURSOR FOR SELECT id FROM {numbers}")
    assert len(await session.fetch("FETCH FORWARD 1000 FROM c")) == 1_000
    await session.execute("CLOSE c")
    await session.execute("ROLLBACK")


@pytest.mark.parametrize("many", ["1001", "ALL"])
async def test_a_single_node_refuses_a_large_fetch(fake: FakeRedshift, numbers: str, many: str) -> None:
    session = await connect(fake)
    await session.execute("BEGIN")
    await session.execute(f"DECLARE c CURSOR FOR SELECT id FROM {numbers}")
    with pytest.raises(asyncpg.PostgresError, match="single-node"):
        await session.fetch(f"FETCH {many} FROM c")
    await session.close()


async def test_a_second_cursor_is_refused(numbers: str, session: asyncpg.Connection) -> None:
    await session.execute("BEGIN")
    await session.execute(f"DECLARE c CURSOR FOR SELECT id FROM {numbers}")
    with pytest.raises(asyncpg.PostgresError, match="only one cursor"):
        await session.execute(f"DECLARE d CURSOR FOR SELECT id FROM {numbers}")


async def test_a_cursor_over_more_than_the_leader_holds_is_refused(fake: FakeRedshift, numbers: str) -> None:
    fake.cursor_cap = 10_000
    session = await connect(fake)
    await session.execute("BEGIN")
    await session.execute(f"DECLARE c CURSOR FOR SELECT id, v FROM {numbers}")
    with pytest.raises(
        asyncpg.PostgresError, match="exceeded the maximum size allowed for the total set of cursor data"
    ):
        await session.fetch("FETCH FORWARD 1000 FROM c")
    await session.close()


async def test_the_catalog_tells_nodes_and_late_binding_views(fake: FakeRedshift, numbers: str, schema: str) -> None:
    fake.nodes = 3
    fake.query(f"CREATE VIEW {schema}.late AS SELECT id FROM {numbers} WITH NO SCHEMA BINDING")
    assert fake.query("SELECT COUNT(DISTINCT node) FROM stv_slices") == [(3,)]
    assert (
        fake.query(f"SELECT column_name FROM svv_all_columns WHERE table_name = 'late' AND schema_name = '{schema}'")
        == []
    )
    columns = "view_schema name, view_name name, col_name name, col_type varchar, col_num int"
    found = fake.query(
        f"SELECT col_name, col_type FROM pg_get_late_binding_view_cols() cols({columns}) WHERE view_schema = '{schema}'"
    )
    assert found == [("id", "integer")]


async def test_a_fault_fails_cuts_or_shortens_an_answer(fake: FakeRedshift, numbers: str) -> None:
    session = await connect(fake)
    fake.inject(Fault("numbers", error=Refusal("1023", "XX000", "Serializable isolation violation on table")))
    with pytest.raises(asyncpg.PostgresError, match="1023"):
        await session.fetch(f"SELECT id FROM {numbers}")
    fake.inject(Fault("numbers", after_rows=7))
    assert len(await session.fetch(f"SELECT id FROM {numbers}")) == 7
    fake.inject(Fault("numbers", cut=True, after_rows=7))
    with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
        await session.fetch(f"SELECT id FROM {numbers}")
    session.terminate()


async def test_a_cancel_ends_a_statement(numbers: str, session: asyncpg.Connection) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await session.fetch(f"SELECT count(*) FROM {numbers} a, {numbers} b, {numbers} c", timeout=0.2)
    assert await session.fetchval(f"SELECT count(*) FROM {numbers}") == 3_000
