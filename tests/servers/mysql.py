"""A real MySQL 9, the server of Debian sid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.database import Server, given, running
from tests.servers.debian import command, unpacked
from tests.servers.process import run_as_nobody

VARIABLE = "RETL_TEST_MYSQL_URL"


def unpack() -> Path:
    """The folder that the server lies in. The test is skipped where it can't be had."""
    return unpacked("sid", "mysql-server-core", instead=VARIABLE)


@contextmanager
def started(*flags: str, folder: Path | None = None) -> Iterator[Server]:
    """A MySQL of the test's own, with more ``flags`` for mysqld; its data are in ``folder`` if one is given."""
    root = unpack()
    mysqld = [
        *command(root, "usr/sbin/mysqld"),
        "--no-defaults",
        f"--basedir={root}/usr",
        f"--lc-messages-dir={root}/usr/share/mysql",
        f"--character-sets-dir={root}/usr/share/mysql/charsets",
        f"--plugin-dir={root}/usr/lib/mysql/plugin",
        "--innodb-redo-log-capacity=64M",
        "--secure-file-priv=NULL",
    ]

    def initialise(data: Path, lasting: Sequence[str]) -> None:
        run_as_nobody([*mysqld, "--initialize-insecure", f"--datadir={data}", *lasting])

    with running("MySQL", root, [*mysqld, "--mysqlx=OFF"], flags, folder, initialise) as server:
        yield server


@contextmanager
def any_server() -> Iterator[Server]:
    """The server that the environment names, or one of the tests' own."""
    if server := given("MySQL", VARIABLE):
        yield server
    else:
        with started() as server:
            yield server
