"""Steps on a DuckDB connection, in the thread of its file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from retl.connectors.duckdb.errors import first_line
from retl.connectors.duckdb.file import DuckDBFile, in_transaction, roll_back
from retl.connectors.rows.rejects import plain_rows
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import RowError, Statement, Step, drive
from retl.model.errors import TargetBusy

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

_PAUSES = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Seconds before a transaction runs again that met one of another connection of this process."""


class DuckDBSession(Session):
    """A connection of its own for a load, which needs a temporary table; for a question the file's first one.

    ``visits``: the file is not kept open afterwards.
    """

    def __init__(
        self, file: DuckDBFile, cursor: duckdb.DuckDBPyConnection | None = None, *, visits: bool = False
    ) -> None:
        self.file = file
        self._cursor = cursor
        self._visits = visits

    async def call(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(connection, *arguments)`` in the thread."""
        if self._cursor is None:
            return await (self.file.visit if self._visits else self.file.run)(call, *arguments)
        return await self.file.run_on(self._cursor, call, *arguments)

    async def run(self, make: Callable[[], Step[T]]) -> T:
        return await self.call(run_step, make)

    async def transaction(self, make: Callable[[], Step[T]]) -> T:
        import duckdb

        for pause in _PAUSES:
            try:
                return await self._transaction(make)
            except TargetBusy as error:
                if not isinstance(error.__cause__, duckdb.TransactionException):
                    raise
            await anyio.sleep(pause)
        return await self._transaction(make)

    async def _transaction(self, make: Callable[[], Step[T]]) -> T:
        # One call in the thread, so that no other transaction of this target comes in between.
        return await self.call(in_transaction, run_step, make)

    async def close(self) -> None:
        if self._cursor is not None:
            await self.file.close_cursor(self._cursor)


class OwnSession(DuckDBSession):
    """A session that has the file for itself, and closes it."""

    async def close(self) -> None:
        await self.file.close()


def run_step(connection: duckdb.DuckDBPyConnection, make: Callable[[], Step[T]]) -> T:
    """Run a step on a connection, in the open transaction, if any."""
    return drive(make(), partial(_answer, connection))


def _answer(connection: duckdb.DuckDBPyConnection, statement: Statement) -> Any:
    import duckdb

    if statement.sql == "ROLLBACK":
        return roll_back(connection)
    try:
        if statement.rows:
            return _rows(connection.sql(statement.sql, params=list(statement.values)))
        rows = connection.execute(statement.sql, statement.values).fetchall()
    except duckdb.IntegrityError as error:
        if not statement.rejectable:
            raise
        raise RowError(first_line(error).removeprefix("Constraint Error: ")) from error
    return rows[0][0] if rows and isinstance(rows[0][0], int) else 0


def _rows(relation: duckdb.DuckDBPyRelation) -> list[tuple[Any, ...]]:
    if not any(str(kind).startswith(("TIME", "DATE")) for kind in relation.types):
        return relation.fetchall()
    # DuckDB needs another package to return times with a zone as Python objects.
    found: Any = relation
    table = (getattr(found, "to_arrow_table", None) or found.fetch_arrow_table)()
    return [tuple(row.values()) for batch in table.to_batches() for row in plain_rows(batch)]
