"""What goes wrong on demand."""

from __future__ import annotations

import asyncio
import re

import pymysql
import pytest

from tests.fake_olap import FakeOlap, Fault
from tests.fake_olap.client import ask, client, refused, streamed


@pytest.fixture
def numbers(olap: FakeOlap, database: str) -> str:
    """A table of 5,000 numbers."""
    olap.query("CREATE TABLE n (id INT) DUPLICATE KEY (id) DISTRIBUTED BY HASH(id)", database=database)
    source = "numbers('number' = '5000')" if olap.flavour.doris else "TABLE(generate_series(0, 4999))"
    column = "number" if olap.flavour.doris else "generate_series"
    olap.query(f"INSERT INTO n SELECT {column} FROM {source}", database=database)
    return database


async def test_a_backend_is_lost_in_the_middle_of_a_result(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(error=olap.errors.backend_lost(), after_rows=1234, on="FROM n"))
    async with client(olap, numbers) as connection:
        assert await ask(connection, "SELECT 1") == [("1",)]
        rows, error = await streamed(connection, "SELECT id FROM n")
        assert rows == list(range(1234))
        assert error and error.args[0] == (1105 if olap.flavour.doris else 5077)
        # Once; and the connection is as good as before.
        assert await streamed(connection, "SELECT id FROM n") == (list(range(5000)), None)


async def test_the_line_is_cut_in_the_middle_of_a_result(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(cut=True, after_rows=100))
    async with client(olap, numbers) as connection:
        rows, error = await streamed(connection, "SELECT id FROM n")
        assert rows == list(range(100))
        assert isinstance(error, (pymysql.OperationalError, ConnectionError))


async def test_a_query_waits_too_long_in_the_queue(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(error=olap.errors.queue_timeout(300)))
    async with client(olap, numbers) as connection:
        code, message = await refused(connection, "SELECT id FROM n")
        assert code == (1105 if olap.flavour.doris else 1064)
        assert "queue timeout" in message or "pending timeout [300]" in message


async def test_query_timeout_counts_until_the_last_row(olap: FakeOlap, numbers: str) -> None:
    olap.inject(Fault(hold=True, after_rows=10))
    async with client(olap, numbers) as connection:
        await ask(connection, "SET query_timeout = 1")
        rows, error = await streamed(connection, "SELECT id FROM n")
        assert rows == list(range(10))
        assert error and error.args[0] == (1105 if olap.flavour.doris else 5024)
        assert re.search("(?i)timeout", error.args[1])


async def test_a_table_may_not_be_read(olap: FakeOlap, numbers: str) -> None:
    olap.denied.add("n")
    try:
        async with client(olap, numbers) as connection:
            code, message = await refused(connection, "SELECT id FROM n")
            assert code == (1142 if olap.flavour.doris else 5203) and "denied" in message
    finally:
        olap.denied.clear()


@pytest.mark.parametrize("by", ["number", "name"])
async def test_kill_query_ends_a_running_result(olap: FakeOlap, numbers: str, by: str) -> None:
    fault = olap.inject(Fault(hold=True, after_rows=10, on="FROM n"))
    async with client(olap, numbers) as connection, client(olap) as killer:
        await ask(
            connection,
            "SET session_context = 'trace_id:mine'" if olap.flavour.doris else "SET custom_query_id = 'mine'",
        )
        running = asyncio.create_task(streamed(connection, "SELECT id FROM n"))
        assert await asyncio.to_thread(fault.reached.wait, 10)
        await ask(killer, f"KILL QUERY {connection.thread_id()}" if by == "number" else "KILL QUERY 'mine'")
        rows, error = await asyncio.wait_for(running, 10)
        assert rows == list(range(10))
        assert error and re.search("(?i)cancel", error.args[1])
        assert await streamed(connection, "SELECT id FROM n") == (list(range(5000)), None)
        # What does not run can't be killed.
        assert (await refused(killer, "KILL QUERY 'mine'"))[0] == (1097 if olap.flavour.doris else 1365)
        assert (await refused(killer, "KILL QUERY 999999"))[0] == 1094


async def test_a_server_goes_and_comes_again(numbers: str, olap: FakeOlap) -> None:
    port = olap.port
    async with client(olap, numbers) as connection:
        olap.kill()
        with pytest.raises((pymysql.MySQLError, OSError)):
            await ask(connection, "SELECT 1")
        with pytest.raises(pymysql.MySQLError):
            async with client(olap, numbers):
                pass
    olap.start()
    assert olap.port == port
    async with client(olap, numbers) as connection:
        assert await ask(connection, "SELECT COUNT(*) FROM n") == [("5000",)]


async def test_statements_are_remembered_but_the_administrator_s(olap: FakeOlap, numbers: str) -> None:
    olap.forget()
    olap.query("SELECT 2")
    async with client(olap, numbers) as connection:
        await ask(connection, "SELECT 1")
        await refused(connection, "SELEC 1")
    assert olap.statements == ["SELECT 1", "SELEC 1"]
