"""The words of StarRocks before a real MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import aiomysql
import pymysql
import pytest
from pymysql.constants import ER

from tests.fake_olap import VolumeServer, flavour
from tests.fake_olap.client import ask, client, streamed
from tests.servers.database import Server


@pytest.fixture
def volume(mariadb_server: Server) -> Iterator[VolumeServer]:
    with VolumeServer(mariadb_server, flavour.STARROCKS) as server:
        yield server


@pytest.fixture
def filled(volume: VolumeServer) -> Iterator[str]:
    """A table of 200,000 rows."""
    with volume.behind.fresh_database() as database:
        volume.query("CREATE TABLE n (id INT PRIMARY KEY, text VARCHAR(50), at DATETIME(6))", database=database)
        volume.query("INSERT INTO n SELECT seq, REPEAT('x', 50), '2024-01-01' FROM seq_0_to_199999", database=database)
        yield database


async def test_volume_speaks_as_starrocks(volume: VolumeServer, filled: str) -> None:
    async with client(volume, filled) as connection:
        assert connection.server_version == "8.0.33"
        await ask(connection, "SET query_timeout = 3600")
        await ask(connection, "SET query_timeout = 7200, time_zone = '+00:00'")
        assert await ask(
            connection, "SELECT @@version_comment AS c, current_version(), @@query_timeout, @@time_zone"
        ) == [("StarRocks version 3.5.2-8cfd2ad", "3.5.2-8cfd2ad", "7200", "+00:00")]
        assert [row[1] for row in await ask(connection, "SHOW PARTITIONS FROM n")] == ["n"]
        assert await ask(
            connection,
            "SELECT TABLE_NAME, TABLE_MODEL, PRIMARY_KEY FROM information_schema.tables_config "
            f"WHERE TABLE_SCHEMA = '{filled}'",
        ) == [("n", "PRI_KEYS", "`id`")]
        assert await ask(
            connection,
            f"SELECT m.PARTITION_NAME FROM information_schema.partitions_meta AS m WHERE m.DB_NAME = '{filled}'",
        ) == [("n",)]
        assert await ask(
            connection, "SELECT CAST(id AS VARCHAR) FROM n PARTITION (n) TABLET (1, 2) WHERE id IN (3, 5) ORDER BY id"
        ) == [("3",), ("5",)]


async def test_volume_relays_all_rows(volume: VolumeServer, filled: str) -> None:
    async with client(volume, filled) as connection:
        assert await streamed(connection, "SELECT id, text, at FROM n ORDER BY id") == (list(range(200_000)), None)


async def test_volume_cuts_the_line_once(volume: VolumeServer, filled: str) -> None:
    volume.cut_after(1_000_000)
    async with client(volume, filled) as connection:
        rows, error = await streamed(connection, "SELECT id, text FROM n ORDER BY id")
        assert isinstance(error, (pymysql.OperationalError, ConnectionError))
        assert 0 < len(rows) < 200_000 and rows == list(range(len(rows)))
    async with client(volume, filled) as connection:
        assert await streamed(connection, "SELECT id, text FROM n ORDER BY id") == (list(range(200_000)), None)


async def test_volume_kills_by_name(volume: VolumeServer, filled: str) -> None:
    async with client(volume, filled) as connection, client(volume, filled) as killer:
        await ask(connection, "SET custom_query_id = 'mine'")
        cursor = await connection.cursor(aiomysql.SSCursor)
        # More than the buffers on its way hold, so that it runs until somebody reads on.
        await cursor.execute("SELECT a.id, b.text FROM n a, n b")
        assert await cursor.fetchone() == ("0", "x" * 50)
        await ask(killer, "KILL QUERY 'mine'")
        with pytest.raises(pymysql.MySQLError) as caught:
            while await cursor.fetchone():
                pass
        assert caught.value.args[0] == ER.QUERY_INTERRUPTED
