"""DuckDB: a database file, or any query, so also Parquet, CSV and JSON files by path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from retl.connectors.base import Connector

if TYPE_CHECKING:
    from retl.connectors.duckdb.source import DuckDBSource
    from retl.connectors.duckdb.target import DuckDBTarget


class DuckDB(Connector, kw_only=False, forbid_unknown_fields=True):
    """A DuckDB database file, as source or target.

    The file is open only while a run needs it, since DuckDB lets one process write at a
    time: between two runs other processes may use it.
    """

    type_name: ClassVar[str] = "duckdb"
    summary: ClassVar[str] = "A DuckDB file, or Parquet, CSV and JSON files read through DuckDB."
    example: ClassVar[str] = 'source = { type = "duckdb", path = "warehouse.duckdb" }'

    path: Annotated[
        str | None,
        msgspec.Meta(
            description="The database file. Leave it out to read only files (tables named by path, or queries).",
            extra={"path": True},
        ),
    ] = None
    memory_limit: Annotated[
        str | None, msgspec.Meta(description='What DuckDB may use, such as "512MB"; DuckDB\'s own default when unset.')
    ] = None
    threads: Annotated[
        int | None, msgspec.Meta(description="How many threads DuckDB may use; all cores when unset.", ge=1)
    ] = None
    files: Annotated[
        str | None,
        msgspec.Meta(description="The folder that file names of tables are relative to.", extra={"path": True}),
    ] = None

    def source(self) -> DuckDBSource:
        from retl.connectors.duckdb.source import DuckDBSource

        return DuckDBSource(self)

    def target(self) -> DuckDBTarget:
        from retl.connectors.duckdb.target import DuckDBTarget

        return DuckDBTarget(self)
