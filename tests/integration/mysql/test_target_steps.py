"""Steps on a connection: values in SQL, rows that the server rejects or changes, and what a failure leaves behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

import pytest

from retl.connectors import MySQL
from retl.connectors.mysql.connection import connected
from retl.connectors.mysql.session import CHECK_KEYS, SKIP_KEYS, MySQLSession, filled_in
from retl.connectors.mysql.settings import writing
from retl.connectors.sql.statement import RowError, Statement, Step, attempt, execute, query
from retl.model.errors import ConfigError, TargetError
from tests.servers.database import Server


@pytest.fixture
async def session(server: Server, database: str) -> AsyncGenerator[MySQLSession, None]:
    server.query("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(3))", database=database)
    server.query("INSERT INTO t VALUES (1, 'a')", database=database)
    login = writing(MySQL(server.url(database)).login("target", ()), 5)
    async with connected(login) as connection:
        yield MySQLSession(connection, patience=5)


def test_a_question_mark_in_a_name_or_a_text_is_no_place() -> None:
    statement = Statement("UPDATE `a?``b` SET x = ?, y = 'it''s \\' ?' WHERE z = ?", ("w?", None))
    assert filled_in(statement) == "UPDATE `a?``b` SET x = 'w?', y = 'it''s \\' ?' WHERE z = NULL"
    assert filled_in(Statement("SELECT '?'")) == "SELECT '?'"
    with pytest.raises(AssertionError, match="without a place"):
        filled_in(Statement("SELECT ?", (1, 2)))


async def rows(session: MySQLSession) -> list[tuple[object, ...]]:
    return await session.connection.query("SELECT id, name FROM t ORDER BY id")


async def test_a_rejected_row_undoes_its_part_of_a_transaction_alone(session: MySQLSession) -> None:
    def steps() -> Step[list[object]]:
        results: list[object] = []
        for number, name in ((2, "b"), (1, "x"), (3, "longer"), (4, "d")):
            insert = execute([f"INSERT INTO t VALUES ({number}, '{name}')"], rejectable=True)
            results.append((yield from attempt(insert)))
        return results

    first, repeated, long, last = await session.transaction(steps)
    assert (first, last) == ([1], [1])
    assert isinstance(repeated, RowError) and "Duplicate entry '1'" in repeated.reason
    assert isinstance(long, RowError) and "Data too long" in long.reason
    assert await rows(session) == [(1, "a"), (2, "b"), (4, "d")]


async def test_a_value_that_the_server_changes_is_rejected(session: MySQLSession) -> None:
    await session.connection.execute("SET SESSION sql_mode = ''")
    with pytest.raises(RowError, match="Data truncated"):
        await session.transaction(partial(execute, ["INSERT INTO t VALUES (2, 'longer')"], rejectable=True))
    assert await rows(session) == [(1, "a")]


async def test_an_upsert_counts_each_row_once(session: MySQLSession) -> None:
    upsert = "INSERT INTO t VALUES (1, 'A'), (2, 'b') ON DUPLICATE KEY UPDATE name = VALUES(name)"
    assert await session.run(partial(execute, [upsert])) == [2]


@pytest.mark.parametrize(
    "wrong", ["INSERT INTO t VALUES (1, 'x')", "DELETE FROM nowhere", "SET SESSION sql_mode = 'no'"]
)
async def test_foreign_keys_are_checked_again_whatever_fails(session: MySQLSession, wrong: str) -> None:
    statements = [SKIP_KEYS, wrong, CHECK_KEYS]
    with pytest.raises((RowError, TargetError)):
        await session.transaction(partial(execute, statements, rejectable=True))
    assert await session.connection.query("SELECT @@foreign_key_checks") == [(1,)]
    assert not session.connection.in_transaction


async def test_a_session_that_was_handed_on_commits_nothing(session: MySQLSession) -> None:
    def steps() -> Step[int]:
        yield Statement("INSERT INTO t VALUES (2, 'b')")
        yield Statement("SET @retl_session = NULL")  # as a pooler leaves it
        return len((yield query("SELECT id FROM t")))

    with pytest.raises(ConfigError, match="a pooler has reset it"):
        await session.transaction(steps)
    assert session.connection.closed
