"""LOAD DATA LOCAL from memory, on real servers: no file is opened, and half a load is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retl.connectors import MySQL
from retl.connectors.mysql.connection import connected
from retl.model.errors import ConnectionFailed, TargetError
from tests.servers.database import Server
from tests.servers.proxy import Proxy

LOAD = (
    "LOAD DATA LOCAL INFILE '{name}' INTO TABLE t CHARACTER SET utf8mb4 "
    "FIELDS TERMINATED BY ',' ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n'"
)


@pytest.fixture
def table(server: Server, database: str) -> str:
    server.query("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(300))", database=database)
    return database


def lines(first: int, last: int) -> bytes:
    return "".join(f'{number},"漢🗼 ""{number}"" {"x" * 200}"\n' for number in range(first, last)).encode()


def rows(first: int, last: int) -> list[tuple[int, str]]:
    return [(number, f'漢🗼 "{number}" {"x" * 200}') for number in range(first, last)]


async def test_what_is_in_memory_arrives(server: Server, table: str) -> None:
    login = MySQL(server.url(table)).login("target", ())
    pieces = lines(0, 5000)
    async with connected(login) as connection:
        chunks: list[bytes | memoryview] = [pieces[:7], memoryview(pieces)[7:600_000], pieces[600_000:], b""]
        done = await connection.load(LOAD.format(name="rows"), chunks)
        assert (done.affected, done.warnings) == (5000, 0) and "Records: 5000" in done.info
        assert (await connection.load(LOAD.format(name="rows"), [])).affected == 0
        done = await connection.load(LOAD.format(name="rows"), [b"1,again\n5000,new\n"])
        assert (done.affected, done.warnings) == (1, 1)
        ((_, code, _),) = await connection.query("SHOW WARNINGS")
        assert code == 1062
        assert await connection.query("SELECT COUNT(*) FROM t") == [(5001,)]
    assert server.query("SELECT * FROM t WHERE id < 5000 ORDER BY id", database=table) == rows(0, 5000)


async def test_a_file_of_that_name_is_not_looked_at(server: Server, table: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("1,from the file\n")
    login = MySQL(server.url(table)).login("target", ())
    async with connected(login) as connection:
        await connection.load(LOAD.format(name=file), [b"2,from memory\n"])
    with pytest.raises(ConnectionFailed, match="local_infile"):
        async with connected(login) as connection:
            await connection.execute(LOAD.format(name=file))
    assert server.query("SELECT * FROM t", database=table) == [(2, "from memory")]


async def test_an_error_of_what_is_sent_leaves_nothing(server: Server, table: str) -> None:
    def breaking() -> Iterator[bytes]:
        yield lines(0, 2000)
        raise LookupError("the encoder failed")

    async with connected(MySQL(server.url(table)).login("target", ())) as connection:
        await connection.execute("START TRANSACTION")
        with pytest.raises(LookupError, match="the encoder failed"):
            await connection.load(LOAD.format(name="rows"), breaking())
        assert connection.closed
    assert server.query("SELECT * FROM t", database=table) == []


async def test_a_refused_load_leaves_the_connection_as_it_was(server: Server, table: str) -> None:
    async with connected(MySQL(server.url(table)).login("target", ())) as connection:
        with pytest.raises(TargetError, match="nowhere"):
            await connection.load(LOAD.format(name="rows").replace("TABLE t", "TABLE nowhere"), [lines(0, 10)])
        assert (await connection.load(LOAD.format(name="rows"), [lines(0, 10)])).affected == 10
    assert server.query("SELECT * FROM t ORDER BY id", database=table) == rows(0, 10)


@pytest.mark.parametrize("after", [1, 1000, 100_000, 900_000])
async def test_cut_in_the_middle(server: Server, table: str, after: int) -> None:
    async with Proxy(server.host, server.port) as proxy:
        login = MySQL(server.at(proxy.host, proxy.port).url(table)).login("target", ())
        async with connected(login) as connection:
            await connection.execute("START TRANSACTION")
            proxy.break_after(after, "to_server")
            with pytest.raises(ConnectionFailed):
                await connection.load(LOAD.format(name="rows"), [lines(0, 5000)])
            assert connection.closed
    assert server.query("SELECT * FROM t", database=table) == []
