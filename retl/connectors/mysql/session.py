"""Connections that write: what their sessions are set to, and how a fence is held while DDL runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from retl.connectors.mysql.connection import Login, MySQLConnection, connected
from retl.connectors.mysql.store import run_step
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError
from retl.model.plan import WriteSpec
from retl.state import sql as state
from retl.threads import shielded

FENCE_SECONDS = 60
"""After so long a silence the server ends a session that holds the lease: a frozen owner blocks nobody for longer."""
_SIGN_OF_LIFE = "DO 0"

Execute = Callable[[str], Awaitable[object]]


def holding_fence(login: Login) -> Login:
    """The login for a session that may hold the lease's row while nothing is heard of its owner."""
    return replace(login, session=(*login.session, f"SET SESSION wait_timeout = {FENCE_SECONDS}"))


@asynccontextmanager
async def under_fence(
    login: Login, spec: WriteSpec, ddl: MySQLConnection, fenced: FencedCheckpoint | None = None
) -> AsyncIterator[Execute]:
    """DDL that nobody runs who has lost the lease: its row stays locked by a second session until the block ends.

    DDL commits by itself, so it cannot share the fence's transaction. ``fenced`` is saved at
    the end of the block, together with the release of the fence.
    """
    if spec.fence is None or not spec.state_in_target:
        yield ddl.execute
        return
    async with connected(holding_fence(login)) as guard:
        await guard.begin()
        await run_step(guard, state.prove(spec.fence))

        async def execute(statement: str) -> None:
            await _meanwhile(guard, ddl.execute(statement))
            await guard.execute(_SIGN_OF_LIFE)

        yield execute
        if fenced is not None:
            await run_step(guard, state.save(fenced))
        await guard.execute("COMMIT")


async def _meanwhile(guard: MySQLConnection, statement: Coroutine[object, object, object]) -> None:
    """Wait for a statement that may take long. The fence holds while its owner gives signs of life."""
    running = asyncio.ensure_future(statement)
    try:
        while not (await asyncio.wait([running], timeout=FENCE_SECONDS / 3))[0]:
            await guard.execute(_SIGN_OF_LIFE)
        await running
    finally:
        if not running.done():
            running.cancel()
            await shielded(asyncio.wait([running]))


async def roll_back(connection: MySQLConnection) -> None:
    """Undo what is open, where the connection still stands."""
    if not connection.closed:
        with suppress(RetlError):
            await connection.execute("ROLLBACK")
