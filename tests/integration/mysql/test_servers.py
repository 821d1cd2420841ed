"""The servers of these tests: they answer, keep what they committed, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import psutil
import pymysql
import pytest

from tests.servers import mariadb, mysql
from tests.servers.database import Server
from tests.servers.disk import small_disk


@pytest.fixture(params=[mysql, mariadb], ids=["mysql", "mariadb"])
def product(request: pytest.FixtureRequest) -> ModuleType:
    """A module that starts servers."""
    module: ModuleType = request.param
    module.unpack()
    return module


def processes(marker: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if marker in " ".join(_command_line(process))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _ended(process: psutil.Process) -> bool:
    try:
        # Where nobody takes care of orphans they stay as zombies.
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_answers(server: Server, database: str) -> None:
    assert await server.run("SELECT %s + 1, DATABASE()", 41, database=database) == [(42, database)]
    ((version,),) = server.query("SELECT VERSION()")
    assert version == server.version
    assert ("MariaDB" in version) == (server.product == "MariaDB")
    assert server.url(database).startswith("mysql://") and server.url(database).endswith(f"/{database}")


def test_each_test_has_a_database_of_its_own(server: Server) -> None:
    with server.fresh_database() as one, server.fresh_database() as other:
        for name in (one, other):
            server.query("CREATE TABLE t (a INT)", database=name)
    left = server.query("SELECT schema_name FROM information_schema.schemata WHERE schema_name IN (%s, %s)", one, other)
    assert left == []


def test_it_takes_data_from_the_client(server: Server, database: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,one\n2,two\n")
    server.query("CREATE TABLE t (id INT PRIMARY KEY, name TEXT)", database=database)
    with closing(server.connect(database, local_infile=True)) as connection, connection.cursor() as cursor:
        cursor.execute(f"LOAD DATA LOCAL INFILE '{tmp_path}/rows.csv' INTO TABLE t FIELDS TERMINATED BY ','")
    assert server.query("SELECT * FROM t ORDER BY id", database=database) == [(1, "one"), (2, "two")]


@pytest.mark.large
def test_a_killed_server_keeps_what_was_committed_and_nothing_else(product: ModuleType) -> None:
    with product.started() as server:
        server.query("CREATE DATABASE d")
        server.query("CREATE TABLE t (id INT PRIMARY KEY)", database="d")
        server.query("INSERT INTO t VALUES (1), (2)", database="d")
        with closing(server.connect("d", autocommit=False)) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (3)")
            server.kill()
            with pytest.raises(pymysql.Error):
                cursor.execute("SELECT 1")
        with pytest.raises(pymysql.OperationalError):
            server.query("SELECT 1")
        server.start()
        assert server.query("SELECT id FROM t ORDER BY id", database="d") == [(1,), (2,)]
        server.restart()
        assert server.query("SELECT id FROM t ORDER BY id", database="d") == [(1,), (2,)]


@pytest.mark.large
def test_flags_are_taken_and_nothing_is_left(product: ModuleType) -> None:
    folder = Path(tempfile.mkdtemp(prefix="retl-data-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with product.started(
            "--local-infile=OFF", "--lower-case-table-names=1", "--read-only", folder=folder
        ) as server:
            assert server.query("SELECT @@local_infile, @@lower_case_table_names, @@read_only") == [(0, 1, 1)]
            # Another server that starts would remove its temporary tables from a common folder.
            assert server.query("SELECT @@tmpdir") != [("/tmp",)]
            (user,) = {process.username() for process in processes(f"--port={server.port}")}
            assert user != "root"
            assert len(processes(str(folder))) == 1
        assert processes(str(folder)) == []
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


@pytest.mark.large
def test_a_server_that_does_not_start_shows_its_log(product: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="no-such-flag"), product.started("--no-such-flag"):
        pass


def test_a_disk_is_full_until_there_is_room() -> None:
    # MariaDB 10.11 dies of a full disk, so it has no such test.
    with small_disk(256) as disk, mysql.started(folder=disk) as server:
        server.query("CREATE DATABASE d")
        server.query("CREATE TABLE t (id INT PRIMARY KEY, name LONGTEXT)", database="d")
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            # Bit by bit: the server may still be taking room of its own.
            while shutil.disk_usage(disk).free > 8_000_000:
                file.write(bytes(500_000))
                file.flush()
        inserted: list[int] = []
        with pytest.raises(pymysql.OperationalError) as failed:
            for number in range(50):
                server.query("INSERT INTO t VALUES (%s, REPEAT('x', 1000000))", number, database="d")
                inserted.append(number)
        assert failed.value.args[0] == 1114
        ballast.unlink()
        server.query("INSERT INTO t VALUES (99, REPEAT('x', 1000000))", database="d")
        assert server.query("SELECT id, LENGTH(name) FROM t ORDER BY id", database="d") == [
            (number, 1_000_000) for number in (*inserted, 99)
        ]


@pytest.fixture
def victim(product: ModuleType) -> Iterator[subprocess.Popen[str]]:
    """Another process that has started a server and told where; it lasts until it is killed."""
    code = (
        f"from {product.__name__} import started\n"
        "with started() as server:\n"
        "    (folder,), = server.query('SELECT @@datadir')\n"
        "    print(server.port, folder, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        yield process
        process.kill()


@pytest.mark.large
def test_a_server_ends_with_tests_that_are_killed(victim: subprocess.Popen[str]) -> None:
    assert victim.stdout is not None
    port, folder = victim.stdout.readline().split()
    (server,) = processes(f"--port={port}")
    guards = processes(f"guard {server.pid} ")
    assert len(guards) == 1
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not all(map(_ended, (server, *guards))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(_ended, (server, *guards)))
    assert not Path(folder).exists()
