"""The options of a server that speaks MySQL's protocol, and the login that they make."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from retl.connectors.mysql.errors import Role
from retl.connectors.mysql.login import Login
from retl.connectors.net.options import DatabaseOptions
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError

_HARMLESS = {
    "charset": ("utf8mb4", "utf8", "utf-8"),
    "characterencoding": ("utf8mb4", "utf8", "utf-8"),
    "useunicode": ("true", "1"),
    "autocommit": ("true", "1"),
    "parsetime": ("true", "1"),
    "binary_prefix": ("true", "1"),
}


class ServerOptions(DatabaseOptions, kw_only=True, forbid_unknown_fields=True):
    """Address and login of a server; options of their own override ``url``."""

    default_port: ClassVar[int] = 3306

    server_public_key: Annotated[
        str | None,
        msgspec.Meta(
            description="A PEM file with the server's RSA key, under which it may get the password without TLS.",
            extra={"path": True},
        ),
    ] = None
    read_timeout: Annotated[
        float | str,
        msgspec.Meta(
            description="How long a statement may take, or a large result be silent. If nobody can connect in that time, the scan gives up after minutes."
        ),
    ] = "24h"

    def login(self, role: Role, session: tuple[str, ...]) -> Login:
        """The address and the login. Raises ``ConfigError`` for missing or invalid parts."""
        url = self._split()
        host = self.host or url.hostname
        if not host:
            raise self.needs_address()
        timeout = parse_duration(self.connect_timeout, what="connect_timeout").total_seconds()
        return Login(
            host=host,
            port=self.port or url.port or self.default_port,
            user=self.user or unquote(url.username or "") or "root",
            password=unquote(url.password or "") if self.password is None else self.password,
            database=self.database or unquote(url.path.lstrip("/")) or None,
            tls=self.tls_context(),
            tls_where_offered=self.tls != "off",
            public_key=self.server_public_key,
            connect_timeout=timeout,
            read_timeout=parse_duration(self.read_timeout, what="read_timeout").total_seconds(),
            session=session,
            role=role,
            system=self.type_name,
        )

    def server(self, *logins: Login) -> Hashable:
        """What is equal for logins of the same user at the same server, or at the same servers of a cluster."""
        return self.type_name, tuple((login.host.lower(), login.port) for login in logins), logins[0].user

    def _split(self) -> SplitResult:
        address = self.address() or ""
        try:
            url = urlsplit(address)
            _ = url.port
        except ValueError:
            raise self.not_an_address() from None
        # An @ after the first / would end a login: a part of that would be read as host and database.
        if address and (url.scheme not in self.schemes or url.fragment or "@" in url.path):
            raise self.not_ours(address)
        self._check_words(url.query)
        return url

    def _check_words(self, query: str) -> None:
        """Check the parameters after the ?: those that ask for what is done anyway are accepted."""
        for name, value in parse_qsl(query, keep_blank_values=True):
            if value.lower() not in _HARMLESS.get(name.lower(), ()):
                raise ConfigError(
                    f"the url of {self.type_name} asks for {name!r}, which is not understood there.",
                    remedy="leave out what stands behind the ?; TLS, time limits and the like are options of their own.",
                )
