"""Steps on a SQLite connection, in its thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import RowError, Statement, Step, drive
from retl.connectors.sqlite.file import SQLiteFile
from retl.model.errors import TargetError

T = TypeVar("T")

_OF_A_ROW = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_CHECK,
        sqlite3.SQLITE_CONSTRAINT_NOTNULL,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
        sqlite3.SQLITE_CONSTRAINT_TRIGGER,
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT | 12 << 8,  # DATATYPE: a value that a STRICT table does not take
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)
"""The errors that a row's values can cause. All others are about the statement or the file."""
CHECK_ROWS = "PRAGMA ignore_check_constraints = 0"


class SQLiteSession(Session):
    """One connection. A question about a missing file finds it empty; the first transaction creates it."""

    def __init__(self, file: SQLiteFile) -> None:
        self.file = file

    async def run(self, make: Callable[[], Step[T]]) -> T:
        return await self.file.look(run_step, make)

    async def transaction(self, make: Callable[[], Step[T]]) -> T:
        return await self.file.transaction(run_step, make)

    async def close(self) -> None:
        await self.file.close()


def run_step(connection: sqlite3.Connection, make: Callable[[], Step[T]]) -> T:
    """Run a step on a connection, in the open transaction, if any."""
    return drive(make(), partial(_answer, connection))


def _answer(connection: sqlite3.Connection, statement: Statement) -> Any:
    begun = connection.in_transaction
    if statement.sql == "ROLLBACK" and not begun:
        return 0  # an error has ended it
    try:
        cursor = connection.execute(statement.sql, statement.values)
    except sqlite3.Error as error:
        if not statement.rejectable:
            raise
        connection.execute(CHECK_ROWS)  # a merge may have turned it on
        if begun and not connection.in_transaction:
            raise _rolled_back(error) from error
        raise _of_a_row(error) from error
    return cursor.fetchall() if statement.rows else max(cursor.rowcount, 0)


def _of_a_row(error: sqlite3.Error) -> Exception:
    if not isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
        return error
    if error.sqlite_errorcode not in _OF_A_ROW:
        return TargetError(f"{error}.", system="sqlite")
    return RowError(str(error))


def _rolled_back(error: sqlite3.Error) -> TargetError:
    return TargetError(
        f"a trigger rolled the whole transaction back ({error}).",
        remedy="write RAISE(ABORT, ...) in the trigger: then only the row that it does not want is rejected.",
        system="sqlite",
    )
