"""A running MySQL or MariaDB, as tests see it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql

from tests.servers.cache import made_once
from tests.servers.process import Process, free_port, give, short_folder
from tests.servers.sql import USER, Row, SqlServer, named

RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, TRIGGER, CREATE TEMPORARY TABLES"
"""What the docs ask for on the database of a target."""

# Both products know these.
COMMON_FLAGS = (
    "--character-set-server=utf8mb4",
    "--local-infile=ON",
    "--performance-schema=OFF",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=128M",
    # A commit reaches the system, so that a killed server keeps it; it need not reach the disk.
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
)

# What a data folder is made with can't be changed afterwards.
LASTING_FLAGS = ("--lower-case-table-names",)

_SECURE_TRANSPORT_REQUIRED = 3159


class Server(SqlServer):
    """A MySQL or MariaDB. Its SQL goes through PyMySQL."""

    scheme = "mysql"
    driver_error = pymysql.Error
    lock_waits = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    version = ""

    def __repr__(self) -> str:
        return f"<{self.product} {self.version} on {self.host}:{self.port}>"

    def as_documented(self, database: str, rights: str = RIGHTS) -> Server:
        """The same server as a user who may do in one database what the docs ask for, and nothing elsewhere."""
        user, password = f"least_{database[-24:]}", "least"
        self.query(f"CREATE USER IF NOT EXISTS `{user}`@'%' IDENTIFIED BY '{password}'")
        self.query(f"GRANT {rights} ON `{database}`.* TO `{user}`@'%'")
        return self.as_user(user, password)

    def connect(self, database: str | None = None, **options: Any) -> pymysql.Connection:
        limits = {"connect_timeout": 10, "read_timeout": 120, "write_timeout": 120}
        words = {"autocommit": True, "charset": "utf8mb4", **limits, **options}
        where = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        try:
            # The context of TLS alone takes 20 ms of a connection.
            return pymysql.connect(database=database, ssl_disabled=True, **where, **words)
        except pymysql.OperationalError as error:
            if error.args[0] != _SECURE_TRANSPORT_REQUIRED:
                raise
        return pymysql.connect(database=database, **where, **words)

    def query(self, sql: str, *args: Any, database: str | None = None) -> list[Row]:
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The name of an empty database, which is dropped afterwards."""
        name = f"retl_{secrets.token_hex(6)}"
        self.query(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        try:
            yield name
        finally:
            # A test that failed may have left a connection that holds a lock: nobody waits a year for it.
            for (number,) in self.query("SELECT id FROM information_schema.processlist WHERE db = %s", name):
                with suppress(pymysql.Error):  # it has ended meanwhile
                    self.query(f"KILL {number}")
            self.query(f"DROP DATABASE IF EXISTS `{name}`")
            self.query(f"DROP USER IF EXISTS `least_{name[-24:]}`@'%'")

    def look(self) -> None:
        with closing(self.connect(read_timeout=10)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT VERSION()")
            ((self.version,),) = cursor.fetchall()


def given(product: str, variable: str) -> Server | None:
    """The server that an environment variable names instead of one of our own."""
    where = named(variable, Server.scheme, 3306)
    if where is None:
        return None
    server = Server(product, *where)
    server.look()
    return server


Initialise = Callable[[Path, Sequence[str]], None]


@contextmanager
def running(
    product: str, root: Path, command: Sequence[str], flags: Sequence[str], folder: Path | None, initialise: Initialise
) -> Iterator[Server]:
    """A server with data of its own, in ``folder`` if one is given; both are gone afterwards.

    ``command`` runs the server that lies below ``root``, where the data that ``initialise`` makes are kept for the
    next time. Later ``flags`` win over earlier ones. Everybody must be able to enter ``folder``.
    """
    with ExitStack() as stack:
        own = stack.enter_context(short_folder(product.lower()))
        data = (folder or own) / "data"
        if folder:
            stack.callback(shutil.rmtree, data, ignore_errors=True)
        shutil.copytree(_fresh_data(root, flags, initialise), data)
        port, password = free_port(), secrets.token_hex(8)
        (own / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"
            # MariaDB makes these, without a password; others may be on this machine.
            "DROP USER IF EXISTS root@'127.0.0.1', root@'::1';\n"
        )
        (own / "tmp").mkdir()
        give(own)
        give(data)
        process = Process(
            [
                *command,
                f"--datadir={data}",
                # A MariaDB that starts removes whatever temporary tables lie where its own will.
                f"--tmpdir={own}/tmp",
                f"--port={port}",
                "--bind-address=127.0.0.1",
                f"--socket={own}/socket",
                f"--pid-file={own}/pid",
                f"--init-file={own}/init.sql",
                *COMMON_FLAGS,
                *flags,
            ],
            own,
        )
        # Its data are thrown away: nothing would be gained by an end in order.
        stack.callback(process.kill)
        server = Server(product, "127.0.0.1", port, USER, password, process)
        server.start()
        yield server


def _fresh_data(root: Path, flags: Sequence[str], initialise: Initialise) -> Path:
    """A data folder that no server has run on yet; kept for each set of flags that it depends on."""
    lasting = [flag for flag in flags if flag.startswith(LASTING_FLAGS)]

    def make(folder: Path) -> None:
        give(folder)
        initialise(folder, lasting)

    return made_once(root / "".join(["data", *lasting]), make)
