"""Where a server is, and as whom to log in."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from retl.connectors.mysql.errors import Role, server_error
from retl.model.errors import RetlError
from retl.model.secret import Secret


@dataclass(frozen=True)
class Login:
    """Address and user. ``session`` holds the statements that prepare the session."""

    host: str
    port: int
    user: str
    password: str | Secret = field(repr=False)
    """Asked for at each login: it may change while a service runs."""
    database: str | None = None
    tls: ssl.SSLContext | None = None
    """How to verify the server, if TLS is required."""
    tls_where_offered: bool = True
    """Whether a connection is encrypted if the server offers it, without being asked to."""
    public_key: str | None = None
    """A file with the server's RSA key, under which a password may be sent without TLS."""
    connect_timeout: float = 10.0
    read_timeout: float = 86_400.0
    """How long a statement may take, or a large result be silent."""
    session: tuple[str, ...] = ()
    proof: str = ""
    """A query that only a prepared session answers by 1."""
    role: Role = "source"
    system: str = "mysql"
    explain: Callable[[int, str, Role, str], RetlError] = server_error
    """Maps an error of this server."""

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"
