"""A real pgbouncer of Debian 12 before a PostgreSQL: each transaction may get another session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.servers import debian
from tests.servers.postgres import PostgresServer
from tests.servers.process import Process, free_port, give, short_folder
from tests.servers.sql import START_SECONDS


def unpack() -> Path:
    """The folder that it lies in. The test is skipped where it can't be had."""
    return debian.unpacked("bookworm", "pgbouncer", instead="no variable")


@contextmanager
def pooled(server: PostgresServer, *settings: str, sessions: int = 2) -> Iterator[PostgresServer]:
    """The server, reached through a pooler with so many ``sessions`` of it for each user and database."""
    root = unpack()
    port = free_port()
    with short_folder("pgbouncer") as folder:
        (folder / "users").write_text(f'"{server.user}" "{server.password}"\n')
        (folder / "conf").write_text(
            "\n".join(
                [
                    "[databases]",
                    f"* = host={server.host} port={server.port}",
                    "[pgbouncer]",
                    "listen_addr = 127.0.0.1",
                    f"listen_port = {port}",
                    "unix_socket_dir =",
                    "auth_type = scram-sha-256",
                    f"auth_file = {folder}/users",
                    "pool_mode = transaction",
                    f"default_pool_size = {sessions}",
                    *settings,
                    "",
                ]
            )
        )
        give(folder)
        process = Process([*debian.command(root, "usr/sbin/pgbouncer"), str(folder / "conf")], folder)
        process.start()
        try:
            front = server.at("127.0.0.1", port)
            _wait(front, process)
            yield front
        finally:
            process.kill()


def _wait(front: PostgresServer, process: Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(psycopg.Error):
            front.look()
            return
        if not process.running or time.monotonic() > deadline:
            raise RuntimeError(f"pgbouncer does not start:\n{process.log()}")
        time.sleep(0.02)
