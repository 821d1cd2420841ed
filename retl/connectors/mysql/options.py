"""The options of a server that speaks MySQL's protocol, and the login that they make."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from retl.connectors.base import Connector
from retl.connectors.mysql.connection import Login, MySQLConnection
from retl.connectors.mysql.errors import Role
from retl.connectors.net.pool import KEEP_IDLE, MAX_CONNECTIONS, ConnectionPool
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.secret import Secret, reveal, without_password

Tls = Literal["verify", "insecure", "off"]
_HARMLESS = {
    "charset": ("utf8mb4", "utf8", "utf-8"),
    "characterencoding": ("utf8mb4", "utf8", "utf-8"),
    "useunicode": ("true", "1"),
    "autocommit": ("true", "1"),
    "parsetime": ("true", "1"),
    "binary_prefix": ("true", "1"),
}


class ServerOptions(Connector, kw_only=True, forbid_unknown_fields=True):
    """Address and login; options of their own override ``url``."""

    schemes: ClassVar[tuple[str, ...]] = ()
    default_port: ClassVar[int] = 3306

    # Each system declares ``url`` itself, so that it may be given without its name.
    password: Annotated[
        Secret | str | None, msgspec.Meta(description="Better than in the URL: `${NAME}` or `retl.env(...)`.")
    ] = None
    host: Annotated[str | None, msgspec.Meta(description="In place of the URL's.")] = None
    port: Annotated[int | None, msgspec.Meta(description="In place of the URL's.", ge=1, le=65535)] = None
    user: Annotated[str | None, msgspec.Meta(description="In place of the URL's.")] = None
    database: Annotated[str | None, msgspec.Meta(description="In place of the URL's.")] = None
    tls: Annotated[
        Tls | None,
        msgspec.Meta(
            description="`verify` encrypts and checks the server's certificate, `insecure` encrypts only, `off` does not; "
            "unset: encrypted if the server offers it, without checking its certificate."
        ),
    ] = None
    tls_ca: Annotated[
        str | None,
        msgspec.Meta(
            description='A PEM file with the authorities to trust; those of the system when unset. Means `tls = "verify"`.',
            extra={"path": True},
        ),
    ] = None
    tls_check_hostname: Annotated[
        bool, msgspec.Meta(description="Whether the certificate must carry the host's name.")
    ] = True
    server_public_key: Annotated[
        str | None,
        msgspec.Meta(
            description="A PEM file with the server's RSA key, under which it may get the password without TLS.",
            extra={"path": True},
        ),
    ] = None
    connect_timeout: Annotated[
        float | str, msgspec.Meta(description="How long connecting and logging in may take.")
    ] = 10
    read_timeout: Annotated[
        float | str,
        msgspec.Meta(
            description="How long a statement may take, or a large result be silent. If nobody can connect in that time, the scan gives up after minutes."
        ),
    ] = "24h"
    max_connections: Annotated[
        int,
        msgspec.Meta(
            description="How many connections all scans together may have; one of them is kept free for questions.",
            ge=2,
        ),
    ] = MAX_CONNECTIONS
    keep_idle: Annotated[
        float | str,
        msgspec.Meta(description="How long an idle connection is kept for the next scan; 0 closes it at once."),
    ] = KEEP_IDLE

    def __repr__(self) -> str:
        shown = without_password(self.address() or "")
        return f"{type(self).__name__}({shown!r})"

    def pool(
        self, connect: Callable[[], Awaitable[MySQLConnection]], *, urgent: int = 0
    ) -> ConnectionPool[MySQLConnection]:
        """The connections of one door."""
        keep_idle = parse_duration(self.keep_idle, what="keep_idle").total_seconds()
        return ConnectionPool(connect, max_connections=self.max_connections, keep_idle=keep_idle, urgent=urgent)

    def address(self) -> str | None:
        """The URL as it was given."""
        found = getattr(self, "url", None)
        return None if found is None else str(found)

    def login(self, role: Role, session: tuple[str, ...]) -> Login:
        """The address and the login. Raises ``ConfigError`` for missing or invalid parts."""
        url = self._split()
        host = self.host or url.hostname
        if not host:
            raise ConfigError(
                f"{self.type_name} needs an address.",
                remedy=f'name it: url = "{self.schemes[0]}://user@host:{self.default_port}/database".',
                system=self.type_name,
            )
        given = reveal(self.password) if self.password is not None else unquote(url.password or "")
        timeout = parse_duration(self.connect_timeout, what="connect_timeout").total_seconds()
        return Login(
            host=host,
            port=self.port or url.port or self.default_port,
            user=self.user or unquote(url.username or "") or "root",
            password=given,
            database=self.database or unquote(url.path.lstrip("/")) or None,
            tls=self._tls_context(),
            tls_where_offered=self.tls != "off",
            public_key=self.server_public_key,
            connect_timeout=timeout,
            read_timeout=parse_duration(self.read_timeout, what="read_timeout").total_seconds(),
            session=session,
            role=role,
            system=self.type_name,
        )

    def _split(self) -> SplitResult:
        address = self.address() or ""
        try:
            url = urlsplit(address)
            _ = url.port
        except ValueError:
            raise ConfigError(f"the url of {self.type_name} is not an address.", remedy=self._how()) from None
        # An @ after the first / would end a login: a part of that would be read as host and database.
        if address and (url.scheme not in self.schemes or url.fragment or "@" in url.path):
            shown = without_password(address)
            raise ConfigError(f"the url {shown!r} is not one of {self.type_name}.", remedy=self._how())
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

    def _how(self) -> str:
        return f"write {self.schemes[0]}://user@host:{self.default_port}/database; signs such as @ and / in a name as %40 and %2F."

    def _tls_context(self) -> ssl.SSLContext | None:
        if self.tls == "off" and self.tls_ca is not None:
            raise ConfigError('tls_ca and tls = "off" contradict each other.', remedy="leave one of them out.")
        if self.tls == "off" or (self.tls is None and self.tls_ca is None):
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the authorities in {self.tls_ca!r} cannot be read ({error.strerror or error}).",
                remedy="name a PEM file in tls_ca.",
            ) from None
        if self.tls == "insecure" or not self.tls_check_hostname:
            context.check_hostname = False
        if self.tls == "insecure":
            context.verify_mode = ssl.CERT_NONE
        return context
