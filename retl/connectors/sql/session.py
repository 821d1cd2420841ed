"""A session: one connection of a SQL target, for the length of a load or a question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from retl.connectors.sql.door import RunStatement
from retl.connectors.sql.statement import Statement, Step, of_one
from retl.model.checkpoint import FencedCheckpoint
from retl.state import sql as state

T = TypeVar("T")


class Session(ABC):
    """Runs steps on one connection: in its thread, or on the event loop.

    A driver's errors are mapped. In a ``rejectable`` statement, an error caused by the values
    of a row is raised in the step as ``RowError``.
    """

    @abstractmethod
    async def run(self, make: Callable[[], Step[T]]) -> T:
        """Run a step in the open transaction, if any; it may run again if the system is busy."""

    @abstractmethod
    async def transaction(self, make: Callable[[], Step[T]]) -> T:
        """Run a step as one transaction; any error rolls it back.

        If another connection makes it fail (a lock, a deadlock), the whole step runs again.
        """

    def save(self, fenced: FencedCheckpoint) -> Step[None]:
        """Prove the fence and save a checkpoint, in the open transaction."""
        return state.save(fenced)

    @abstractmethod
    async def close(self) -> None:
        """Give the connection back. Safe after any failure, and more than once."""


def each_alone(session: Session) -> RunStatement:
    """Runs statements in a session, each by itself."""

    async def run(sql: str) -> None:
        await session.run(partial(of_one, Statement(sql)))

    return run


async def drive_async(step: Step[T], run: Callable[[Statement], Awaitable[Any]]) -> T:
    """Run a step on an asyncio driver."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            statement = step.send(answer) if error is None else step.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer, error = None, None
        try:
            answer = await run(statement)
        except BaseException as raised:
            error = raised
