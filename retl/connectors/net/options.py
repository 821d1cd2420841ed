"""The options that database servers with a host, a user and pooled connections share."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec

from retl.connectors.base import Connector
from retl.connectors.net.pool import KEEP_IDLE, MAX_CONNECTIONS, ConnectionPool
from retl.connectors.net.server import Pooled, PoolKey
from retl.connectors.net.tls import context
from retl.model.duration import parse_duration
from retl.model.errors import ConfigError
from retl.model.secret import Secret, without_password

Tls = Literal["verify", "insecure", "off"]
ConnectionT = TypeVar("ConnectionT", bound=Pooled)


@dataclass(frozen=True)
class Unshown:
    """A value that may hold a password."""

    value: Hashable = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Itself:
    """A value that has no hash: it equals nothing but itself."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class DatabaseOptions(Connector, kw_only=True, forbid_unknown_fields=True):
    """Address and login; options of their own override ``url``.

    Each system declares ``url`` itself, so that it may be given without its name.
    """

    schemes: ClassVar[tuple[str, ...]] = ()
    default_port: ClassVar[int]
    beside_session: ClassVar[frozenset[str]] = frozenset({"max_connections", "keep_idle", "timezone"})
    """Options that no session depends on."""

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
    connect_timeout: Annotated[
        float | str, msgspec.Meta(description="How long connecting and logging in may take.")
    ] = 10
    max_connections: Annotated[
        int,
        msgspec.Meta(
            description="How many connections this process may have to the server, under this user; the smallest one counts where several connectors name the same. One of them is kept free for questions.",
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

    def address(self) -> str | None:
        """The URL as it was given."""
        found = getattr(self, "url", None)
        return None if found is None else str(found)

    def pool(
        self, connect: Callable[[], Awaitable[ConnectionT]], *, server: Hashable, writes: bool = False
    ) -> ConnectionPool[ConnectionT]:
        """The connections of a source, or of a target (``writes``). Others with the same ``server`` share the limit.

        Connections are shared with those of the same options, too, but for those that no session depends on.
        """
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name not in self.beside_session}
        session = type(self).type_name, writes, Unshown(tuple(map(_identity, given.items())))
        return ConnectionPool(
            connect,
            max_connections=self.max_connections,
            keep_idle=parse_duration(self.keep_idle, what="keep_idle").total_seconds(),
            writes=writes,
            key=PoolKey(server, session),
        )

    def needs_address(self) -> ConfigError:
        """The error where neither the URL nor an option names a host."""
        return ConfigError(
            f"{self.type_name} needs an address.",
            remedy=f'name it: url = "{self.schemes[0]}://user@host:{self.default_port}/database".',
            system=self.type_name,
        )

    def not_an_address(self) -> ConfigError:
        """The error of a URL that nobody can read."""
        return ConfigError(f"the url of {self.type_name} is not an address.", remedy=self._how())

    def not_ours(self, address: str) -> ConfigError:
        """The error of a URL that is another system's."""
        shown = without_password(address)
        return ConfigError(f"the url {shown!r} is not one of {self.type_name}.", remedy=self._how())

    def tls_context(self) -> ssl.SSLContext | None:
        """What verifies the server; ``None`` where TLS is off, or used where the server offers it. Blocks.

        Raises ``ConfigError`` for options that contradict each other.
        """
        if self.tls == "off" and self.tls_ca is not None:
            raise ConfigError('tls_ca and tls = "off" contradict each other.', remedy="leave one of them out.")
        if self.tls == "off" or (self.tls is None and self.tls_ca is None):
            return None
        made = context(self.tls_ca, verify=self.tls != "insecure")
        if not self.tls_check_hostname:
            made.check_hostname = False
        return made

    def _how(self) -> str:
        return f"write {self.schemes[0]}://user@host:{self.default_port}/database; signs such as @ and / in a name as %40 and %2F."


def _identity(value: object) -> Hashable:
    """What is equal for the same value: of a secret, whence it comes."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    if isinstance(value, Secret):
        return value.identity
    return value if isinstance(value, Hashable) else _Itself(value)
