"""What a MySQL or MariaDB was sent: its statements and its logins, from its general log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from tests.servers.database import Server

# Command types of the log that cost the client a round trip. ``Quit`` gets no answer.
ASKING = ("Query", "Execute", "Prepare", "Ping", "Init DB", "Field List")


@dataclass
class Sent:
    """Filled when the block that counts is left."""

    statements: list[str] = field(default_factory=list)
    """Over all connections."""
    logins: int = 0

    def __len__(self) -> int:
        return len(self.statements)


@contextmanager
def globally(server: Server, name: str, value: object) -> Iterator[None]:
    """A global variable of the server, set for a while."""
    ((before,),) = server.query(f"SELECT @@GLOBAL.{name}")
    server.query(f"SET GLOBAL {name} = %s", value)
    try:
        yield
    finally:
        server.query(f"SET GLOBAL {name} = %s", before)


@contextmanager
def counted(server: Server) -> Iterator[Sent]:
    """What the server is sent inside this block by everybody but this function."""
    sent = Sent()
    with (
        globally(server, "log_output", "TABLE"),
        globally(server, "general_log", 1),
        closing(server.connect()) as own,
        own.cursor() as cursor,
    ):
        cursor.execute("TRUNCATE TABLE mysql.general_log")
        yield sent
        cursor.execute("SELECT command_type, argument FROM mysql.general_log WHERE thread_id != CONNECTION_ID()")
        log = cursor.fetchall()
    sent.logins = sum(kind == "Connect" for kind, _ in log)
    sent.statements = [_text(argument) for kind, argument in log if kind in ASKING]


def _text(argument: str | bytes) -> str:
    return argument.decode(errors="replace") if isinstance(argument, bytes) else argument
