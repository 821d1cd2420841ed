"""The words that StarRocks and Doris share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from retl.connectors.mysql.options import ServerOptions


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
