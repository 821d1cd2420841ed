"""SQLite: a database file, through the SQLite that Python itself carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from retl.connectors.base import Connector

if TYPE_CHECKING:
    from retl.connectors.sqlite.source import SQLiteSource
    from retl.connectors.sqlite.target import SQLiteTarget


class SQLite(Connector, kw_only=False, forbid_unknown_fields=True):
    """A SQLite database file, as source or target.

    As a target the file is kept in WAL mode, so readers never wait for a load. It is used
    through the standard library's ``sqlite3``: a second copy of SQLite in one process
    would break the locks of the first (https://www.sqlite.org/howtocorrupt.html).
    """

    type_name: ClassVar[str] = "sqlite"
    summary: ClassVar[str] = "A SQLite file."
    example: ClassVar[str] = 'target = { type = "sqlite", path = "app.db" }'

    path: Annotated[
        str,
        msgspec.Meta(
            description="The database file. As a target it is made where it is missing.", extra={"path": True}
        ),
    ]
    busy_timeout: Annotated[
        float, msgspec.Meta(description="Seconds to wait for a lock that another connection holds.", ge=0)
    ] = 30.0

    def source(self) -> SQLiteSource:
        from retl.connectors.sqlite.source import SQLiteSource

        return SQLiteSource(self)

    def target(self) -> SQLiteTarget:
        from retl.connectors.sqlite.target import SQLiteTarget

        return SQLiteTarget(self)
