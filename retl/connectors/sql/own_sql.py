"""Run ``before_sql`` and ``after_sql`` as a part of a transaction of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.query import query_text
from retl.connectors.sql.statement import Step, execute
from retl.model.errors import ConfigError, LeaseLost, PermanentError, TargetError
from retl.model.table import TableSpec


class OwnSql:
    """The statements of one option of a table. Where one fails, the error says which."""

    def __init__(self, table: TableSpec, word: Literal["before_sql", "after_sql"], dialect: Dialect) -> None:
        given = table.before_sql if word == "before_sql" else table.after_sql
        self._word = word
        self._dialect = dialect
        self.statements = [query_text(sql, None, dialect) for sql in given]
        self._running = ""

    def __bool__(self) -> bool:
        return bool(self.statements)

    def step(self) -> Step[None]:
        """Run them, in the open transaction. It may run again, as the transaction does."""
        for number, sql in enumerate(self.statements):
            self._running = f"{self._word}[{number}]"
            yield from execute([sql])
        self._running = ""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A block that runs the transaction: an error out of one of the statements names it."""
        try:
            yield
        except (PermanentError, ConfigError) as error:
            if not self._running or isinstance(error, LeaseLost):
                raise
            raise TargetError(
                f"{self._running} failed: {error.message}",
                remedy="correct the statement; the scan runs it again.",
                system=self._dialect.name,
            ) from error
