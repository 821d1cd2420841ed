"""The state store inside a SQL target, beside the data that its checkpoints speak of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import ClassVar, TypeVar

from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Statement, Step
from retl.model.errors import StateError
from retl.state import sql

T = TypeVar("T")


class SqlStateStore(sql.SqlStore):
    """Checkpoints in tables of the target, which the first step that writes creates."""

    dialect: ClassVar[sql.StateDialect]
    runs_alone: ClassVar[bool] = False
    """Whether a step that writes by one statement at most runs without a transaction."""

    def __init__(self) -> None:
        self._ready = False

    @abstractmethod
    def session(self) -> AbstractAsyncContextManager[Session]:
        """A session for one step; it raises an error about the tables as ``StateError``."""

    @abstractmethod
    def objects(self) -> Step[list[tuple[str, str, str]]]:
        """Kind (``table`` or another), name and table of each object that has the name of a store's table or acts on one."""

    async def _step(self, make: Callable[[], Step[T]], *, write: bool = True, single: bool = False) -> T:
        try:
            async with self.session() as session:
                if not self._ready:
                    if not write:
                        return await session.transaction(partial(self._peek, make))
                    await session.transaction(self._ensure_tables)
                    self._ready = True
                alone = self.runs_alone and (single or not write)
                return await (session.run if alone else session.transaction)(make)
        except BaseException:
            self._ready = False
            raise

    def _peek(self, make: Callable[[], Step[T]]) -> Step[T]:
        """A read before the first write."""
        there = yield from self._tables()
        if sql.STATE_TABLES[-1] not in there:  # made last, where DDL commits by itself
            return sql.of_nothing(make())
        yield from sql.check_version()
        self._ready = there.issuperset(sql.STATE_TABLES)
        return (yield from make())

    def _ensure_tables(self) -> Step[None]:
        """Create the store's missing tables; refuse those of a newer version."""
        there = yield from self._tables()
        for statement in self.dialect.create() if not there.issuperset(sql.STATE_TABLES) else ():
            yield Statement(statement)
        yield from sql.check_version()

    def _tables(self) -> Step[set[str]]:
        """Which tables there are. Raises ``StateError`` for another object of their name, or a trigger on them."""
        found = yield from self.objects()
        for kind, name, table in found:
            if kind != "table":
                raise StateError(
                    f"{name!r} is a {kind} where only retl's own table {table!r} may be.",
                    remedy="find out who made it, and drop it.",
                )
        return {name for _, name, _ in found}
