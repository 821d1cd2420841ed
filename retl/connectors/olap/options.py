"""The words that StarRocks and Doris share."""

from __future__ import annotations

import re
from datetime import timedelta, timezone, tzinfo
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo

import msgspec

from retl.connectors.mysql.options import ServerOptions
from retl.model.errors import ConfigError

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


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

    def zone(self) -> tzinfo | None:
        """``timezone``, a name or a distance from UTC such as ``+08:00``. Raises ``ConfigError`` for what is neither."""
        if self.timezone is None:
            return None
        try:
            if found := _OFFSET.fullmatch(self.timezone):
                away = timedelta(hours=int(found[2]), minutes=int(found[3]))
                return timezone(away if found[1] == "+" else -away)
            return ZoneInfo(self.timezone)
        except (LookupError, ValueError, OSError):
            raise ConfigError(
                f"timezone is {self.timezone!r}, which is no zone that is known here.",
                remedy="write a name such as Asia/Shanghai, or +08:00.",
                system=self.type_name,
            ) from None
