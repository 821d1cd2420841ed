"""Who may enter a stand-in, and how it presents itself."""

from __future__ import annotations

import pymysql
import pytest
from pymysql.constants import ER

from tests.fake_olap import FakeDoris, FakeOlap, FakeStarRocks
from tests.fake_olap.client import ask, client, refused


async def test_each_says_who_it_is(starrocks: FakeStarRocks, doris: FakeDoris) -> None:
    async with client(starrocks) as connection:
        assert connection.server_version == "8.0.33"
        assert await ask(connection, "SELECT @@version_comment, current_version(), version()") == [
            ("StarRocks version 3.5.2-8cfd2ad", "3.5.2-8cfd2ad", "8.0.33")
        ]
        assert connection.server_language == 33
    async with client(doris) as connection:
        assert connection.server_version == "5.7.99"
        assert await ask(connection, "SELECT @@version_comment") == [("Doris version doris-3.0.6-rc01-5b4e0a5e7b",)]
        assert (await refused(connection, "SELECT current_version()"))[0] == 1105


async def test_an_old_version_and_a_clear_password() -> None:
    with FakeStarRocks(version="5.1.0", clear_password=True) as server:
        async with client(server) as connection:
            assert connection.server_version == "5.1.0"
            assert await ask(connection, "SELECT 1") == [("1",)]
        with pytest.raises(pymysql.MySQLError) as caught:
            async with client(server, password="wrong"):
                pass
        assert caught.value.args[0] == ER.ACCESS_DENIED_ERROR


@pytest.mark.parametrize("words", [{"password": "wrong"}, {"password": ""}, {"user": "nobody"}])
async def test_a_wrong_login_is_refused(olap: FakeOlap, words: dict[str, str]) -> None:
    with pytest.raises(pymysql.MySQLError) as caught:
        async with client(olap, **words):
            pass
    user = words.get("user", olap.user)
    assert caught.value.args == (1045, f"Access denied for user '{user}' (using password: YES)")


async def test_an_unknown_database_is_refused_at_login(olap: FakeOlap) -> None:
    with pytest.raises(pymysql.MySQLError, match="Unknown database 'nowhere'"):
        async with client(olap, "nowhere"):
            pass
