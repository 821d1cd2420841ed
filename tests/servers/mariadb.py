"""A real MariaDB 10.11, the server of Debian 12."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.database import Server, given, running
from tests.servers.debian import command, unpacked
from tests.servers.process import run_as_nobody

VARIABLE = "RETL_TEST_MARIADB_URL"

# What mariadb-install-db runs, in its order, but for the texts of HELP.
SCRIPTS = (
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "mysql_sys_schema.sql",
)


def unpack() -> Path:
    """The folder that the server lies in. The test is skipped where it can't be had."""
    return unpacked("bookworm", "mariadb-server-core", instead=VARIABLE)


@contextmanager
def started(*flags: str, folder: Path | None = None) -> Iterator[Server]:
    """A MariaDB of the test's own, with more ``flags`` for mariadbd; its data are in ``folder`` if one is given."""
    root = unpack()
    share = root / "usr/share/mysql"
    mariadbd = [
        *command(root, "usr/sbin/mariadbd"),
        "--no-defaults",
        f"--basedir={root}/usr",
        f"--lc-messages-dir={share}",
        f"--character-sets-dir={share}/charsets",
        "--innodb-log-file-size=64M",
    ]

    def initialise(data: Path, lasting: Sequence[str]) -> None:
        scripts = [(share / name).read_text() for name in SCRIPTS]
        # Without it root would log in by a plugin that is not there.
        begin = ("CREATE DATABASE mysql;", "USE mysql;", "SET @auth_root_socket = NULL;")
        bootstrap = [*mariadbd, "--bootstrap", f"--datadir={data}", f"--tmpdir={data}", *lasting]
        run_as_nobody(bootstrap, "\n".join([*begin, *scripts]))

    with running("MariaDB", root, mariadbd, flags, folder, initialise) as server:
        yield server


@contextmanager
def any_server() -> Iterator[Server]:
    """The server that the environment names, or one of the tests' own."""
    if server := given("MariaDB", VARIABLE):
        yield server
    else:
        with started() as server:
            yield server
