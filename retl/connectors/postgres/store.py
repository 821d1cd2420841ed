"""The state store inside a PostgreSQL database, beside the data that its checkpoints speak of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import ClassVar, TypeVar

from retl.connectors.postgres.errors import TargetRefused
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.store import SqlStateStore
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.errors import RetlError, StateError, TargetBusy
from retl.model.steering import Steering
from retl.state import sql
from retl.state.base import LeaseRow

T = TypeVar("T")

_EXACT = 'text COLLATE "C"'
_REPEATED = frozenset({"23505", "42P07", "42710"})
_DAMAGED = ("42", "22", "23")
"""Classes of SQLSTATE for a state table that is missing, changed, or none of ours."""


class StateRepeated(TargetBusy):
    """Another connection has written the same row of the state, or creates its tables, at this very moment."""


class PostgresStore(SqlStateStore):
    """Checkpoints in tables of the schema that is first in the search path."""

    dialect: ClassVar[sql.StateDialect] = sql.StateDialect(key_type=_EXACT, text_type="text")

    def __init__(
        self,
        sessions: Callable[[bool], AbstractAsyncContextManager[Session]],
        release: Callable[[], Awaitable[None]],
    ) -> None:
        """``sessions`` gives a session for a step; told ``True``, one that waits for nobody. ``release`` closes idle ones."""
        super().__init__()
        self._sessions = sessions
        self._release = release

    @asynccontextmanager
    async def session(self, *, urgent: bool = False) -> AsyncGenerator[Session, None]:
        try:
            async with self._sessions(urgent) as session:
                yield session
        except TargetRefused as error:
            raise _of_state(error) from error

    def objects(self) -> Step[list[tuple[str, str, str]]]:
        names = ", ".join("?" * len(sql.STATE_TABLES))
        kind = "CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' "
        kind += "WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' ELSE 'relation' END"
        rows: list[tuple[str, str, str]] = yield query(
            f"SELECT {kind}, CAST(c.relname AS text), CAST(c.relname AS text) FROM pg_class AS c "
            "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = current_schema() AND CAST(c.relname AS text) IN ({names})",
            *sql.STATE_TABLES,
        )
        return rows

    async def load(self, pipeline: str) -> dict[str, Checkpoint]:
        return await self._step(partial(_load, pipeline), write=False)

    async def take_lease(self, seen: LeaseRow, owner: str, ttl: float) -> Fence | None:
        try:
            return await super().take_lease(seen, owner, ttl)
        except StateRepeated:
            return None

    async def beat(self, fence: Fence) -> bool:
        return await self._urgent(partial(sql.beat, fence))

    async def hear(self, fence: Fence, known: Steering) -> Steering | None:
        return await self._urgent(partial(sql.hear, fence, known))

    async def _urgent(self, make: Callable[[], Step[T]]) -> T:
        async with self.session(urgent=True) as session:  # a heartbeat must not wait for a question
            return await session.transaction(make)

    async def save_steering(self, pipeline: str, steering: Steering) -> bool:
        try:
            return await super().save_steering(pipeline, steering)
        except StateRepeated:
            return False

    async def aclose(self) -> None:
        await self._release()


def _load(pipeline: str) -> Step[dict[str, Checkpoint]]:
    """The checkpoints, after the end of a commit whose connection was lost: it may still be under way.

    Such a commit holds the row of the lease, and this waits for it; what is read then is what it has saved, if it has.
    """
    yield query("SELECT 1 FROM retl_leases WHERE pipeline = ? FOR SHARE", pipeline)
    return (yield from sql.load(pipeline))


def _of_state(error: TargetRefused) -> RetlError:
    """What an error of the server means where it is about the store's own tables."""
    if error.state in _REPEATED:
        return StateRepeated(f"another connection has written the same state ({error.reason}).", system="postgres")
    if error.state[:2] in _DAMAGED:
        return StateError(
            f"the state tables in the target cannot be used ({error.reason}).",
            remedy="restore them from a backup, or drop the tables retl_* to start over.",
        )
    return error
