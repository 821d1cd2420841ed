"""PostgreSQL, as source and target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from retl.connectors.postgres.options import Attributes, ServerOptions

if TYPE_CHECKING:
    from retl.connectors.postgres.source import PostgresSource
    from retl.connectors.postgres.target import PostgresTarget


class PostgreSQL(ServerOptions, kw_only=False, forbid_unknown_fields=True):
    """A PostgreSQL (14 or newer) server, as source or target."""

    type_name: ClassVar[str] = "postgres"
    summary: ClassVar[str] = "PostgreSQL, read and written by COPY."
    example: ClassVar[str] = (
        'target = { type = "postgres", url = "postgresql://app@db:5432/shop", password = "${DB_PASSWORD}" }'
    )

    beside_session: ClassVar[frozenset[str]] = ServerOptions.beside_session | {"parallel_reads"}

    url: Annotated[
        str | None,
        msgspec.Meta(
            description="`postgresql://user@host:5432/database`, with several hosts between commas, or `?host=/run/postgresql` or `?service=name`."
        ),
    ] = None
    schema: Annotated[
        str,
        msgspec.Meta(
            description="Where tables are that are named without a schema. More of them, after commas, are searched for functions and types."
        ),
    ] = "public"
    target_session_attrs: Annotated[
        Attributes | None,
        msgspec.Meta(description="Of several hosts, which one is taken: `read-write` for the primary of a target."),
    ] = None
    timezone: Annotated[
        str | None,
        msgspec.Meta(
            description="Source: the zone in which `timestamp` columns were written, such as `Asia/Shanghai`; UTC when unset. Only `settle` looks at it."
        ),
    ] = None
    parallel_reads: Annotated[
        int,
        msgspec.Meta(
            description="Source: how many connections read a large table of one scan, all in one snapshot; fewer where `max_connections` has no room.",
            ge=1,
        ),
    ] = 2
    lock_timeout: Annotated[
        float | str, msgspec.Meta(description="How long a lock of somebody else is waited for.")
    ] = 30

    def source(self) -> PostgresSource:
        from retl.connectors.postgres.source import PostgresSource

        return PostgresSource(self)

    def target(self) -> PostgresTarget:
        from retl.connectors.postgres.connection import PostgresConnection
        from retl.connectors.postgres.options import search_path
        from retl.connectors.postgres.settings import writing
        from retl.connectors.postgres.target import PostgresTarget

        patience = self.seconds("lock_timeout")
        settings = writing(search_path(self.schema), patience, self.seconds("statement_timeout"))
        login = self.login("target", settings)
        pool = self.pool(lambda: PostgresConnection.open(login), server=self.server(), writes=True)
        return PostgresTarget(pool, lock_timeout=patience)
