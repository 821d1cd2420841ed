"""A hot standby of a PostgreSQL: a replica that may be read."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.postgres import PostgresServer, Version, commands, unpack
from tests.servers.process import Process, free_port, give, run_as_nobody, short_folder

_ALWAYS = ("hot_standby=on", "fsync=off", "wal_retrieve_retry_interval=100ms", "log_line_prefix=%p ")


@contextmanager
def following(primary: PostgresServer, version: Version, *flags: str) -> Iterator[PostgresServer]:
    """A standby of ``primary``, which is of a version of the tests' own; more ``flags`` are settings."""
    postgres, _, basebackup = commands(version, unpack(version))
    with short_folder("standby") as folder:
        give(folder)
        source = f"postgresql://{primary.user}:{primary.password}@{primary.host}:{primary.port}/postgres"
        data = folder / "data"
        run_as_nobody([*basebackup, "-d", source, "-D", str(data), "-R", "--checkpoint=fast", "--no-sync"])
        data.chmod(0o700)
        port = free_port()
        settings = [*_ALWAYS, f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1", *flags]
        told = [word for setting in settings for word in ("-c", setting)]
        process = Process([*postgres, "-D", str(data), "-p", str(port), *told], folder, ended_by=signal.SIGINT)
        standby = PostgresServer("127.0.0.1", port, primary.user, primary.password, process, folder=folder)
        try:
            standby.start()
            yield standby
        finally:
            standby.kill()
