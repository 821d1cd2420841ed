"""MySQL and MariaDB: the wire, source and target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from retl.connectors.mysql.options import ServerOptions
from retl.model.duration import parse_duration

if TYPE_CHECKING:
    from retl.connectors.mysql.source import MySQLSource
    from retl.connectors.mysql.target import MySQLTarget


class MySQL(ServerOptions, kw_only=False, forbid_unknown_fields=True):
    """A MySQL (8.0 or newer) or MariaDB (10.6 or newer) server, as source or target."""

    type_name: ClassVar[str] = "mysql"
    summary: ClassVar[str] = "MySQL and MariaDB, read and written at the speed of the server."
    example: ClassVar[str] = (
        'target = { type = "mysql", url = "mysql://app@db:3306/shop", password = "${DB_PASSWORD}" }'
    )
    schemes: ClassVar[tuple[str, ...]] = ("mysql", "mariadb")
    beside_session: ClassVar[frozenset[str]] = ServerOptions.beside_session | {"writers", "local_infile"}

    url: Annotated[str | None, msgspec.Meta(description="`mysql://user@host:3306/database`.")] = None
    timezone: Annotated[
        str | None,
        msgspec.Meta(
            description="Source: the zone in which DATETIME columns were written, such as `Asia/Shanghai`; UTC when unset. Only `settle` looks at it."
        ),
    ] = None
    lock_timeout: Annotated[
        float | str, msgspec.Meta(description="How long a lock of somebody else is waited for.")
    ] = 30
    writers: Annotated[
        int,
        msgspec.Meta(description="Target: how many connections load a table that is replaced as a whole.", ge=1, le=8),
    ] = 2
    local_infile: Annotated[
        bool | None,
        msgspec.Meta(
            description="Target: whether rows are sent by LOAD DATA LOCAL; unset: where the server allows it. Otherwise by INSERT, which is slower."
        ),
    ] = None

    @property
    def lock_seconds(self) -> float:
        """``lock_timeout`` as a number."""
        return parse_duration(self.lock_timeout, what="lock_timeout").total_seconds()

    def source(self) -> MySQLSource:
        from retl.connectors.mysql.source import MySQLSource

        return MySQLSource(self)

    def target(self) -> MySQLTarget:
        from retl.connectors.mysql.connection import MySQLConnection
        from retl.connectors.mysql.settings import writing
        from retl.connectors.mysql.target import MySQLTarget

        login = writing(self.login("target", ()), self.lock_seconds)
        return MySQLTarget(
            login,
            self.pool(lambda: MySQLConnection.open(login), server=self.server(login), writes=True),
            lock_timeout=self.lock_seconds,
            writers=self.writers,
            local_infile=self.local_infile,
        )
