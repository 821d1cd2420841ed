"""The state store inside a DuckDB file, beside the data that its checkpoints speak of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from retl.connectors.duckdb.dependents import has_triggers
from retl.connectors.duckdb.file import DuckDBFile, first_line, in_transaction
from retl.model.errors import StateError, TargetBusy
from retl.state import sql

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

DIALECT = sql.StateDialect(key_type="VARCHAR", text_type="VARCHAR", real_type="DOUBLE")

_creating = threading.Lock()
"""Pipelines of one process that share a file must not create its tables at the same moment."""


def run_step(connection: duckdb.DuckDBPyConnection, step: Generator[sql.Statement, Any, T]) -> T:
    """Run one step of ``state.sql`` on a connection, inside whatever transaction it is in."""
    answer: Any = None
    while True:
        try:
            statement = step.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        rows = connection.execute(statement.sql, statement.values).fetchall()
        answer = rows if statement.rows else rows[0][0]


class DuckDBStore(sql.SqlStore):
    """Checkpoints in tables of the file that the target writes, through the target's own connection.

    So a heartbeat never meets a commit half-way. Between two runs the file is opened for
    each step, and other processes may have it in the meantime.
    """

    def __init__(self, file: DuckDBFile) -> None:
        self._file = file
        self._ready = False

    async def _step(self, make: Callable[[], sql.Step[T]], *, write: bool = True, single: bool = False) -> T:
        return await self._file.visit(self._run, make, write)

    def _run(
        self, connection: duckdb.DuckDBPyConnection, make: Callable[[], Generator[sql.Statement, Any, T]], write: bool
    ) -> T:
        import duckdb

        try:
            if not self._ready and not write:
                return _peek(connection, make)
            if not self._ready:
                with _creating:
                    in_transaction(connection, _ensure_tables)
                self._ready = True
            result: T = in_transaction(connection, run_step, make())
            return result
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            self._ready = False
            raise StateError(
                f"the state tables in {self._file.name} cannot be used ({first_line(error)}).",
                remedy="restore the file from a backup, or drop the tables retl_* in it to start over.",
            ) from error
        except duckdb.IntegrityError as error:
            raise TargetBusy(
                f"another connection has written the same state ({first_line(error)}).", system="duckdb"
            ) from error
        except BaseException:
            self._ready = False
            raise

    async def aclose(self) -> None:
        await self._file.close()


def _peek(connection: duckdb.DuckDBPyConnection, make: Callable[[], Generator[sql.Statement, Any, T]]) -> T:
    """A read before the first write: tables that are not there are not made by asking for them."""
    there = connection.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema() "
        f"AND table_name IN ({', '.join('?' * len(sql.STATE_TABLES))})",
        sql.STATE_TABLES,
    ).fetchall()
    if not there:
        return sql.of_nothing(make())
    run_step(connection, sql.check_version())
    result: T = in_transaction(connection, run_step, make())
    return result


def _refuse_others(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise ``StateError`` for what only has the name of one of the store's tables, or acts on it."""
    others = "SELECT 'view', view_name, schema_name, view_name FROM duckdb_views()"
    if has_triggers():
        others += " UNION ALL SELECT 'trigger', trigger_name, schema_name, table_name FROM duckdb_triggers()"
    names = ", ".join("?" * len(sql.STATE_TABLES))
    found = connection.execute(
        f"SELECT * FROM ({others}) AS t(kind, name, schema, table_name) "
        f"WHERE schema = current_schema() AND table_name IN ({names})",
        sql.STATE_TABLES,
    ).fetchall()
    for kind, name, _, table in found:
        raise StateError(
            f"{name!r} is a {kind} where only retl's own table {table!r} may be.",
            remedy="find out who made it, and drop it.",
        )


def _ensure_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the store's tables where they are missing; refuse those of a newer version."""
    _refuse_others(connection)
    for statement in DIALECT.create():
        connection.execute(statement)
    run_step(connection, sql.check_version())
