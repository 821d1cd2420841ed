"""Connections that write: what their sessions are set to, and how a fence is held while DDL runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from retl.connectors.mysql.connection import Login, MySQLConnection, connected
from retl.connectors.mysql.store import run_step
from retl.model.checkpoint import Mark
from retl.model.errors import RetlError
from retl.model.plan import Load
from retl.state import sql as state

FENCE_SECONDS = 60
"""After so long a silence the server ends a session that holds the lease: a frozen owner blocks nobody for longer."""
_STRICT = (
    "STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,"
    "NO_AUTO_VALUE_ON_ZERO"  # a key of 0 is a key, not the wish for a new number
)

Execute = Callable[[str], Awaitable[object]]


def writing(login: Login, lock_timeout: float) -> Login:
    """The login with a session that changes no value in silence and waits for no lock for long."""
    seconds = max(1, round(lock_timeout))
    settings = (
        f"SET NAMES utf8mb4, SESSION sql_mode = '{_STRICT}', time_zone = '+00:00', autocommit = 1, "
        f"lock_wait_timeout = {seconds}, innodb_lock_wait_timeout = {seconds}, foreign_key_checks = 1, "
        "unique_checks = 1, sql_notes = 1, sql_safe_updates = 0"
    )
    isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    return replace(login, session=(*login.session, settings, isolation))


def holding_fence(login: Login) -> Login:
    """The login for a session that may hold the lease's row while nothing is heard of its owner."""
    return replace(login, session=(*login.session, f"SET SESSION wait_timeout = {FENCE_SECONDS}"))


@asynccontextmanager
async def fenced(login: Login, load: Load, ddl: MySQLConnection, mark: Mark | None = None) -> AsyncIterator[Execute]:
    """DDL that nobody runs who has lost the lease: its row stays locked by a second session until the block ends.

    DDL commits by itself, so it cannot share the fence's transaction. ``mark`` is saved at
    the end of the block, together with the release of the fence.
    """
    if load.fence is None or not load.state_in_target:
        yield ddl.execute
        return
    async with connected(holding_fence(login)) as guard:
        await guard.execute("START TRANSACTION")
        await run_step(guard, state.prove(load.fence))

        async def execute(statement: str) -> None:
            await ddl.execute(statement)
            await guard.execute("DO 0")  # a sign of life

        yield execute
        if mark is not None:
            await run_step(guard, state.save(mark))
        await guard.execute("COMMIT")


async def roll_back(connection: MySQLConnection) -> None:
    """Undo what is open, where the connection still stands."""
    if not connection.closed:
        with suppress(RetlError):
            await connection.execute("ROLLBACK")
