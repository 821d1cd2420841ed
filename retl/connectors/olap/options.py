"""The options that StarRocks and Doris share."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult

import msgspec

from retl.connectors.mysql.login import Login
from retl.connectors.mysql.options import ServerOptions
from retl.connectors.olap.cluster import addresses
from retl.connectors.olap.errors import olap_error


class OlapOptions(ServerOptions, kw_only=True, forbid_unknown_fields=True):
    """Address, login and how long a query may take."""

    default_port: ClassVar[int] = 9030

    query_timeout: Annotated[
        int,
        msgspec.Meta(
            description="Seconds that one query may take, the time in which the target takes the rows included.",
            ge=1,
            le=259_200,
        ),
    ] = 14_400
    timezone: Annotated[
        str | None,
        msgspec.Meta(
            description="The zone in which DATETIME columns were written, such as `Asia/Shanghai`; UTC when unset. Only `settle` looks at it."
        ),
    ] = None
    skip_unchanged_partitions: Annotated[
        bool,
        msgspec.Meta(
            description='Full scans with `pre_action = "none"`: leave out partitions whose visible version is that of the last scan.'
        ),
    ] = False
    protocol: Annotated[
        Literal["mysql", "flight"],
        msgspec.Meta(
            description="How rows are read: over MySQL's protocol, or over Arrow Flight SQL (`pip install 'retl[flight]'`)."
        ),
    ] = "mysql"
    flight_port: Annotated[
        int | None,
        msgspec.Meta(description="The FE's port of Arrow Flight SQL, as its configuration names it.", ge=1, le=65535),
    ] = None

    def logins(self) -> list[Login]:
        """Address and login for each FE that ``url`` or ``host`` names. Raises ``ConfigError`` for invalid ones."""
        first = self.login("source", ())
        named = addresses(self.host, first.port) if self.host else addresses(self._parts()[1], self.default_port)
        # An option overrides the URL.
        first = dataclasses.replace(first, explain=olap_error, proof="SELECT 1")
        return [dataclasses.replace(first, host=host, port=self.port or port) for host, port in named]

    def _parts(self) -> tuple[str, str, str]:
        """The URL before its FEs, them, and what follows."""
        scheme, slashes, rest = (self.address() or "").partition("://")
        place, slash, path = rest.partition("/")
        login, at, named = place.rpartition("@")
        return f"{scheme}{slashes}{login}{at}", named, f"{slash}{path}"

    def _split(self) -> SplitResult:
        """The URL as if it named its first FE alone."""
        before, named, after = self._parts()
        one, comma, _ = named.partition(",")
        return ServerOptions._split(msgspec.structs.replace(self, url=f"{before}{one}{after}") if comma else self)
