"""Files of a server into PostgreSQL, by a job file and the command line."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from tests.routes.fixtures import make_end
from tests.routes.route import End
from tests.servers.process import short_folder
from tests.servers.sshd import SSHServer
from tests.support import Command

JOB = """
[pipelines.files]
source = {{ type = "ssh", url = "{url}", known_hosts = "known_hosts", key = "{key}" }}
target = {{ type = "postgres", url = "{target}", password = "${{PG_PASSWORD}}" }}

[[pipelines.files.tables]]
name = "sales/*.csv.gz"
to = "sales"
format = {{ type = "csv", delimiter = ";", encoding = "gb18030" }}
pre_action = "truncate"                   # the rows of that file only
vanished = "{vanished}"
"""


class Exports:
    """A folder of the server; each write is in a second of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sales").mkdir()
        self._clock = 1_700_000_000

    def write(self, name: str, *lines: str) -> Path:
        path = self.root / "sales" / name
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode("gb18030")))
        self._clock += 1
        os.utime(path, (self._clock, self._clock))
        return path


@pytest.fixture
def exports() -> Iterator[Exports]:
    with short_folder("exports") as folder:
        folder.chmod(0o755)
        yield Exports(folder)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[End]:
    with ExitStack() as stack:
        yield make_end("postgres", "app", request, tmp_path, stack)


@pytest.fixture
def job(
    ssh_server: SSHServer, exports: Exports, target: End, command: Command, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Writes the job file."""
    server = target.server  # type: ignore[attr-defined]
    monkeypatch.setenv("PG_PASSWORD", server.password)
    url = f"postgres://{server.user}@{server.host}:{server.port}/{target.database}"  # type: ignore[attr-defined]
    Path("known_hosts").write_text(ssh_server.known_hosts())

    def write(vanished: str = "keep") -> None:
        words = {"url": ssh_server.url(exports.root), "key": ssh_server.key, "target": url, "vanished": vanished}
        Path("jobs.toml").write_text(JOB.format(**words))

    write()
    return write


def rows(target: End) -> list[tuple[object, ...]]:
    return sorted(target.rows("sales", "id", "city", "_file", "_row"))


def entries(target: End) -> list[tuple[str, int]]:
    found = target.rows("retl_manifest", "name", "body")
    return sorted((name, msgspec.json.decode(body).get("rows", 0)) for name, body in found)


def test_each_file_of_a_server_replaces_its_own_rows(
    job: Callable[[str], None], exports: Exports, target: End, command: Command
) -> None:
    first = exports.write("北京 1.csv.gz", "id;city", "1;北京", "2;上海")
    exports.write("b.csv.gz", "id;city", '3;"a;b"')
    exports.write("c.txt.gz", "id;city", "9;none of it")
    assert "ok" in command("check", "jobs.toml")
    command("run", "--once", "jobs.toml")
    kept = (3, "a;b", "sales/b.csv.gz", 1)
    name = "sales/北京 1.csv.gz"
    assert rows(target) == [(1, "北京", name, 1), (2, "上海", name, 2), kept]
    assert entries(target) == [("sales/b.csv.gz", 1), (name, 2)]
    exports.write("北京 1.csv.gz", "id;city", "2;南京")
    command("run", "--once", "jobs.toml")
    assert rows(target) == [(2, "南京", name, 1), kept]
    first.unlink()
    command("run", "--once", "jobs.toml")
    assert rows(target) == [(2, "南京", name, 1), kept]
    job("delete")
    command("run", "--once", "jobs.toml")
    assert rows(target) == [kept]
    assert entries(target) == [("sales/b.csv.gz", 1)]


def test_a_server_that_is_not_the_known_one_changes_nothing(
    job: Callable[[str], None], exports: Exports, target: End, command: Command
) -> None:
    exports.write("a.csv.gz", "id;city", "1;北京")
    command("run", "--once", "jobs.toml")
    exports.write("a.csv.gz", "id;city", "2;北京")
    Path("known_hosts").write_text("")
    told = " ".join(command("run", "--once", "jobs.toml", code=1).split())
    assert "is not known" in told and "SHA256:" in told
    assert rows(target) == [(1, "北京", "sales/a.csv.gz", 1)]
