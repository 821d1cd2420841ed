"""The state store inside a DuckDB file."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar

import duckdb

from retl.connectors.duckdb.catalog import has_triggers
from retl.connectors.duckdb.errors import first_line
from retl.connectors.duckdb.file import DuckDBFile
from retl.connectors.duckdb.session import DuckDBSession
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.store import SqlStateStore
from retl.model.errors import RetlError, StateError, TargetBusy
from retl.state import sql


class DuckDBStore(SqlStateStore):
    """Checkpoints in tables of the file that the target writes, through the target's own thread.

    So a heartbeat never meets a commit half-way. Between two runs the file is opened for
    what is asked, and other processes may have it in between.
    """

    dialect: ClassVar[sql.StateDialect] = sql.StateDialect(key_type="VARCHAR", text_type="VARCHAR", real_type="DOUBLE")

    def __init__(self, file: DuckDBFile) -> None:
        super().__init__()
        self._file = file

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        try:
            yield DuckDBSession(self._file, visits=True)
        except RetlError as error:
            raise _of_state(error, self._file.name) from error.__cause__

    def objects(self) -> Step[list[tuple[str, str, str]]]:
        kinds = "SELECT 'table', table_name, schema_name, table_name FROM duckdb_tables() UNION ALL "
        kinds += "SELECT 'view', view_name, schema_name, view_name FROM duckdb_views()"
        if has_triggers():
            kinds += " UNION ALL SELECT 'trigger', trigger_name, schema_name, table_name FROM duckdb_triggers()"
        names = ", ".join("?" * len(sql.STATE_TABLES))
        rows: list[tuple[str, str, str]] = yield query(
            f"SELECT kind, name, table_name FROM ({kinds}) AS t(kind, name, schema, table_name) "
            f"WHERE schema = current_schema() AND table_name IN ({names})",
            *sql.STATE_TABLES,
        )
        return rows

    async def aclose(self) -> None:
        await self._file.close()


def _of_state(error: RetlError, file: str) -> RetlError:
    """What an error of DuckDB's means where it is about the store's own tables."""
    cause = error.__cause__
    if isinstance(cause, duckdb.IntegrityError):
        return TargetBusy(f"another connection has written the same state ({first_line(cause)}).", system="duckdb")
    if isinstance(cause, duckdb.ProgrammingError | duckdb.DataError):
        return StateError(
            f"the state tables in {file} cannot be used ({first_line(cause)}).",
            remedy="restore the file from a backup, or drop the tables retl_* in it to start over.",
        )
    return error
