"""A source or a target that may run SQL of the user's own. A part of the contract: ``Source`` and ``Target`` inherit it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.query import statement_text
from retl.model.errors import UnsupportedError

RunStatement = Callable[[str], Awaitable[object]]
"""Runs one statement, and commits it by itself; what it answers is dropped."""


class RunsSql:
    """The part of ``Source`` and ``Target`` that is about statements of the user's own, as hooks have them."""

    system: ClassVar[str]
    runs_sql: ClassVar[bool] = False
    """Whether it runs SQL of the user's own: that of hooks and, of a target, ``before_sql`` and ``after_sql``."""

    def statement(self, sql: str, facts: Mapping[str, str | int]) -> str:
        """One statement as it will be sent: each ``:name`` is replaced by the fact of that name, as a literal.

        Raises ``ConfigError`` for more than one statement, and for a name without a fact. No I/O. It is asked for each
        statement once when the pipeline is made; so a system knows early that it will be written in this way.
        """
        raise self._runs_none()

    def open_sql(self) -> AbstractAsyncContextManager[RunStatement]:
        """A session for statements of the user's own, which may change it: nobody gets it afterwards.

        What the block is given runs one statement, outside of every transaction of retl's, and commits it. A
        cancellation ends it in the system too. Raises ``ConnectionFailed`` or ``TargetBusy`` where another attempt may succeed.
        """
        raise self._runs_none()

    def _runs_none(self) -> UnsupportedError:
        return UnsupportedError(f"{self.system} runs no SQL.", system=self.system)


class SqlDoor(RunsSql):
    """The same for what is asked in SQL: it has a ``dialect``, and adds ``open_sql``."""

    runs_sql: ClassVar[bool] = True
    dialect: ClassVar[Dialect]

    def statement(self, sql: str, facts: Mapping[str, str | int]) -> str:
        return statement_text(sql, facts, self.dialect)
