"""A session: one connection of a SQL target, for as long as a load or a question lasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from retl.connectors.sql.statement import Statement, Step

T = TypeVar("T")


class Session(ABC):
    """Runs steps on one connection: in its thread, or on the event loop.

    A driver's errors are mapped. For a ``rejectable`` statement, an error that the values of
    a row cause is raised in the step as ``RowError``.
    """

    @abstractmethod
    async def run(self, make: Callable[[], Step[T]]) -> T:
        """Run a step in whatever transaction is open; it may be made and run again where the system is busy."""

    @abstractmethod
    async def transaction(self, make: Callable[[], Step[T]]) -> T:
        """Run a step as one transaction; any error rolls it back.

        Where it fails because of somebody else (a lock, a deadlock), it is made and run again as a whole.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give the connection back. Safe after any failure, and more than once."""


def drive(step: Step[T], run: Callable[[Statement], Any]) -> T:
    """Run a step on a blocking driver."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            statement = step.send(answer) if error is None else step.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer, error = None, None
        try:
            answer = run(statement)
        except BaseException as raised:
            error = raised
