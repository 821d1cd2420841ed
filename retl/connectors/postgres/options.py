"""The options of a server that speaks PostgreSQL's protocol, and the login that they make."""

from __future__ import annotations

import inspect
import re
import ssl
from collections.abc import Awaitable, Callable, Hashable
from typing import Annotated, Any, ClassVar, Literal, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import anyio.to_thread
import msgspec

from retl.connectors.net.options import DatabaseOptions, Tls
from retl.connectors.net.tls import is_here
from retl.connectors.postgres.errors import Role
from retl.connectors.postgres.login import Login, Settings
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.hidden import hide
from retl.model.secret import Secret, revealed

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


class ServerOptions(DatabaseOptions, kw_only=True, forbid_unknown_fields=True):
    """Address and login of a server; options of their own override ``url``."""

    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    default_port: ClassVar[int] = 5432

    password: Annotated[
        Secret | str | None,
        msgspec.Meta(
            description="Better than in the URL: `${NAME}` or `retl.env(...)`. It is read again for each connection; in Python it may also be a function, which gives a token that soon expires."
        ),
    ] = None
    host: Annotated[
        str | None, msgspec.Meta(description="In place of the URL's; `/run/postgresql` is the folder of a socket.")
    ] = None
    tls: Annotated[
        Tls | None,
        msgspec.Meta(
            description="`verify` encrypts and checks the server's certificate and name (verify-full), `insecure` encrypts only, `off` does not; "
            "unset: as `sslmode` in the URL says, else encrypted if the server offers it, without checking its certificate."
        ),
    ] = None
    statement_timeout: Annotated[
        float | str, msgspec.Meta(description="How long a statement may take, whatever the server's own limit is.")
    ] = "24h"

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
            raise self.needs_address()
        given: Any = self.password if self.password is not None else unquote(url.password or "") or None
        hosts = (
            self.host or url.netloc.rpartition("@")[2] or parameters.get("host") or f"service {parameters['service']}"
        )
        place = f"{hosts}:{self.port}" if self.port else hosts
        verified = self.tls_context()
        tls = False if self.tls == "off" else verified
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

    def server(self) -> Hashable:
        """What is equal for logins of the same user at the same server, or at the same servers."""
        url = self._split()
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        hosts = self.host or url.netloc.rpartition("@")[2] or query.get("host") or query.get("service", "")
        port = f":{self.port or query.get('port') or self.default_port}"
        named = (host if re.search(r"[^:\]]:\d+$|\]:\d+$", host) else host + port for host in hosts.lower().split(","))
        return self.type_name, tuple(named), self.user or unquote(url.username or "") or query.get("user")

    def _split(self) -> SplitResult:
        address = self.address() or f"{self.schemes[0]}://"
        try:
            url = urlsplit(address)
        except ValueError:
            raise self.not_an_address() from None
        # An @ after the first / would end a login: a part of that would be read as host and database.
        hosts = url.netloc.rpartition("@")[2].split(",")
        odd = url.fragment or "@" in url.path or url.netloc.count("@") > 1 or not all(map(_HOST.fullmatch, hosts))
        if url.scheme not in self.schemes or odd:
            raise self.not_ours(address)
        return url

    def _check_parameters(self, query: dict[str, str]) -> None:
        for name in query:
            if name not in _DRIVERS | _HARMLESS:
                raise ConfigError(
                    f"the url of {self.type_name} asks for {name!r}, which is not understood there.",
                    remedy="leave it out; settings of the server belong to the role: ALTER ROLE ... SET ....",
                )


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
            return await revealed(given)
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
