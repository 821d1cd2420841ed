"""The options of a server that speaks PostgreSQL's protocol, and the login that they make."""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import anyio.to_thread
import msgspec

from retl.connectors.base import Connector
from retl.connectors.net.pool import KEEP_IDLE, MAX_CONNECTIONS, ConnectionPool
from retl.connectors.net.tls import context, is_here
from retl.connectors.postgres.connection import Login, PostgresConnection, Settings
from retl.connectors.postgres.errors import Role
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.hidden import hide
from retl.model.secret import Secret, reveal, without_password

Tls = Literal["verify", "insecure", "off"]
Attributes = Literal["any", "primary", "standby", "prefer-standby", "read-write", "read-only"]
PasswordCall = Callable[[], str | Awaitable[str]]
_DRIVERS = frozenset(
    {"host", "port", "dbname", "user", "passfile", "service", "target_session_attrs"}
    | {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation"}
    | {"ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"}
)
"""Parameters of a URL that the driver understands as libpq does."""
_HARMLESS = frozenset(
    {"application_name", "connect_timeout", "channel_binding", "pgbouncer", "keepalives", "gssencmode"}
)
"""Parameters that are not needed: what they ask for is an option, or is done anyway."""
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")
_LONGEST_TIMEOUT = 2_147_483


ConnectionT = TypeVar("ConnectionT", bound=PostgresConnection)


class ServerOptions(Connector, kw_only=True, forbid_unknown_fields=True):
    """Address and login; options of their own override ``url``."""

    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    default_port: ClassVar[int] = 5432

    # Each system declares ``url`` itself, so that it may be given without its name.
    password: Annotated[
        Secret | str | None,
        msgspec.Meta(
            description="Better than in the URL: `${NAME}` or `retl.env(...)`. It is read again for each connection; in Python it may also be a function, which gives a token that soon expires."
        ),
    ] = None
    host: Annotated[
        str | None, msgspec.Meta(description="In place of the URL's; `/run/postgresql` is the folder of a socket.")
    ] = None
    port: Annotated[int | None, msgspec.Meta(description="In place of the URL's.", ge=1, le=65535)] = None
    user: Annotated[str | None, msgspec.Meta(description="In place of the URL's.")] = None
    database: Annotated[str | None, msgspec.Meta(description="In place of the URL's.")] = None
    tls: Annotated[
        Tls | None,
        msgspec.Meta(
            description="`verify` encrypts and checks the server's certificate and name (verify-full), `insecure` encrypts only, `off` does not; "
            "unset: as `sslmode` in the URL says, else encrypted if the server offers it, without checking its certificate."
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
    connect_timeout: Annotated[
        float | str, msgspec.Meta(description="How long connecting and logging in may take.")
    ] = 10
    statement_timeout: Annotated[
        float | str, msgspec.Meta(description="How long a statement may take, whatever the server's own limit is.")
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

    def pool(self, connect: Callable[[], Awaitable[ConnectionT]], *, urgent: int = 0) -> ConnectionPool[ConnectionT]:
        """The connections of one door."""
        keep_idle = parse_duration(self.keep_idle, what="keep_idle").total_seconds()
        return ConnectionPool(connect, max_connections=self.max_connections, keep_idle=keep_idle, urgent=urgent)

    def address(self) -> str | None:
        """The URL as it was given."""
        found = getattr(self, "url", None)
        return None if found is None else str(found)

    def seconds(self, option: str) -> float:
        """A length of time among the options."""
        length = parse_duration(getattr(self, option), what=option).total_seconds()
        return min(length, _LONGEST_TIMEOUT)

    def login(self, role: Role, settings: Settings) -> Login:
        """The address and the login. Raises ``ConfigError`` for missing or invalid parts."""
        url = self._split()
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        self._check_parameters(query)
        parameters = {name: value for name, value in query.items() if name in _DRIVERS}
        if not (self.host or url.netloc.rpartition("@")[2] or parameters.keys() & {"host", "service"}):
            raise ConfigError(
                f"{self.type_name} needs an address.",
                remedy=f'name it: url = "{self.schemes[0]}://user@host:{self.default_port}/database".',
                system=self.type_name,
            )
        given: Any = self.password if self.password is not None else unquote(url.password or "") or None
        hosts = (
            self.host or url.netloc.rpartition("@")[2] or parameters.get("host") or f"service {parameters['service']}"
        )
        place = f"{hosts}:{self.port}" if self.port else hosts
        tls = self._tls_context()
        return Login(
            parameters={
                "dsn": url._replace(scheme="postgresql", query=urlencode(parameters)).geturl(),
                "host": self.host,
                "port": self.port,
                "user": self.user,
                "password": None if given is None else _fetch(given),
                "database": self.database,
                "ssl": tls,
                "target_session_attrs": getattr(self, "target_session_attrs", None),
            },
            place=place,
            settings=settings,
            warnings=_warnings(place, given, tls, parameters.get("sslmode", "")),
            connect_timeout=self.seconds("connect_timeout"),
            statement_timeout=self.seconds("statement_timeout"),
            role=role,
            system=self.type_name,
        )

    def _split(self) -> SplitResult:
        address = self.address() or f"{self.schemes[0]}://"
        try:
            url = urlsplit(address)
        except ValueError:
            raise ConfigError(f"the url of {self.type_name} is not an address.", remedy=self._how()) from None
        # An @ after the first / would end a login: a part of that would be read as host and database.
        hosts = url.netloc.rpartition("@")[2].split(",")
        odd = url.fragment or "@" in url.path or url.netloc.count("@") > 1 or not all(map(_HOST.fullmatch, hosts))
        if url.scheme not in self.schemes or odd:
            shown = without_password(address)
            raise ConfigError(f"the url {shown!r} is not one of {self.type_name}.", remedy=self._how())
        return url

    def _check_parameters(self, query: dict[str, str]) -> None:
        for name in query:
            if name not in _DRIVERS | _HARMLESS:
                raise ConfigError(
                    f"the url of {self.type_name} asks for {name!r}, which is not understood there.",
                    remedy="leave it out; settings of the server belong to the role: ALTER ROLE ... SET ....",
                )

    def _how(self) -> str:
        return f"write {self.schemes[0]}://user@host:{self.default_port}/database; signs such as @ and / in a name as %40 and %2F."

    def _tls_context(self) -> ssl.SSLContext | bool | None:
        """What the driver takes; ``None``: as the URL says."""
        if self.tls == "off" and self.tls_ca is not None:
            raise ConfigError('tls_ca and tls = "off" contradict each other.', remedy="leave one of them out.")
        if self.tls == "off":
            return False
        if self.tls is None and self.tls_ca is None:
            return None
        made = context(self.tls_ca, verify=self.tls != "insecure")
        if not self.tls_check_hostname:
            made.check_hostname = False
        return made


def search_path(schema: str) -> str:
    """The search path of an option: its schemas, then ``public``."""
    every = dict.fromkeys([*_names(schema), "public"])
    return ", ".join('"' + name.replace('"', '""') + '"' for name in every)


def home(schema: str) -> str:
    """The schema of tables that are named without one."""
    return _names(schema)[0]


def _names(schema: str) -> list[str]:
    names = [name.strip() for name in schema.split(",") if name.strip()]
    if not names:
        raise ConfigError("schema is empty.", remedy="name the schema of tables that are named without one.")
    return names


def _fetch(given: Secret | str | PasswordCall) -> Callable[[], Awaitable[str]]:
    """What the driver calls for each connection."""

    async def fetch() -> str:
        if isinstance(given, Secret | str):
            return await anyio.to_thread.run_sync(reveal, given) if isinstance(given, Secret) else reveal(given)
        if inspect.iscoroutinefunction(given):
            found = cast(str, await given())
        else:
            # A library that asks a cloud for a token blocks.
            found = cast(str, await anyio.to_thread.run_sync(given))
        hide(found)
        return found

    return fetch


def _warnings(place: str, password: Any, tls: ssl.SSLContext | bool | None, sslmode: str) -> tuple[str, ...]:
    """A warning if a password goes to another machine that is not verified."""
    verified = (isinstance(tls, ssl.SSLContext) and tls.verify_mode is not ssl.CERT_NONE) or (
        tls is None and sslmode.startswith("verify")
    )
    hosts = [re.sub(r":\d+$", "", host) for host in place.split(",")]
    if password is None or verified or all(is_here(host) or host.startswith(("/", "%2F")) for host in hosts):
        return ()
    return (
        f'the server at {place} is not verified: the password and all rows may be read on the way; use tls = "verify".',
    )
