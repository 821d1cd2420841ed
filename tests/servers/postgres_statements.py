"""What a PostgreSQL was sent, from its log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.postgres import PostgresServer

_LOGGED = re.compile(r"^(\d+) LOG:  (?:statement|execute [^:]*): (.*)$", re.MULTILINE)


@dataclass
class Sent:
    """Filled when the block is left."""

    statements: list[str] = field(default_factory=list)
    """Their first lines, over all connections."""
    processes: set[str] = field(default_factory=set)
    """One for each connection."""


@contextmanager
def sent(server: PostgresServer) -> Iterator[Sent]:
    """What users send inside this block whose statements are logged: see ``log_statements``."""
    found = Sent()
    before = len(server.log())
    yield found
    for process, statement in _LOGGED.findall(server.log()[before:]):
        found.statements.append(statement)
        found.processes.add(process)


def log_statements(server: PostgresServer, user: str) -> None:
    """Have the server log every statement of a user from his next session on."""
    server.query(f"ALTER ROLE \"{user}\" SET log_statement = 'all'")
