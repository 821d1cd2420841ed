"""DDL of a target: fenced, never blocking readers for long, and undone if it cannot be finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import anyio

from retl.connectors.mysql import preflight
from retl.connectors.mysql.catalog import table_names
from retl.connectors.mysql.connection import MySQLConnection, rolling_back
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.refresh import OLD, MySQLRefresh
from retl.connectors.mysql.rights import REFERRED_TO
from retl.connectors.mysql.session import MySQLSession, save
from retl.connectors.mysql.settings import FENCE_SECONDS, SIGN_OF_LIFE
from retl.connectors.net.pool import ConnectionPool
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetBusy
from retl.state import sql as state
from retl.threads import shielded

_ASKED_SECONDS = 1
"""Seconds that a statement waits for old readers at a time, since all new readers wait for it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0

Execute = Callable[[str], Awaitable[object]]


class Ddl:
    """The DDL of one load on one connection. ``patience``: how many seconds a statement may wait for readers in all."""

    def __init__(
        self,
        pool: ConnectionPool[MySQLConnection],
        refresh: MySQLRefresh,
        connection: MySQLConnection,
        patience: float,
    ) -> None:
        self._pool = pool
        self._refresh = refresh
        self._spec = refresh.spec
        self._connection = connection
        self._patience = patience

    async def run(self, statements: Sequence[str], *, fenced: FencedCheckpoint | None = None) -> None:
        """Run statements in their order, each once, under the fence. Raises ``TargetBusy`` if readers do not end."""
        try:
            await self._patiently(list(statements), fenced)
        except TargetRefused as error:
            if error.code in REFERRED_TO:
                await self._put_back()
                raise preflight.referred_to(self._spec, error) from error
            raise

    async def drop_replaced(self) -> None:
        """Drop the table that was switched out. Not under the fence, since it may take long: nobody else knows its name."""
        try:
            await self._connection.execute(f"DROP TABLE {self._refresh.replaced.sql}")
        except TargetRefused as error:
            await self._put_back()
            raise preflight.referred_to(self._spec, error) from error

    async def _patiently(self, left: list[str], fenced: FencedCheckpoint | None) -> None:
        """Try again after a pause if a statement has to wait, so that readers go on in between."""
        connection = self._connection
        deadline, pause = time.monotonic() + self._patience, _FIRST_PAUSE
        ((usual,),) = await connection.query("SELECT @@SESSION.lock_wait_timeout")
        await connection.execute(f"SET SESSION lock_wait_timeout = {_ASKED_SECONDS}")
        while True:
            try:
                async with self._under_fence(fenced) as execute:
                    while left:
                        await execute(left[0])
                        del left[0]
                break
            except TargetBusy:
                if connection.closed or time.monotonic() + pause > deadline:
                    raise
            await anyio.sleep(pause)  # without the fence, whose lock would block the heartbeat
            pause = min(2 * pause, _LONGEST_PAUSE)
        with suppress(RetlError):
            await connection.execute(f"SET SESSION lock_wait_timeout = {int(usual)}")

    async def _put_back(self) -> None:
        """Give the user's table its name back if the table beside it cannot be dropped."""
        now = replace(self._refresh, names=await table_names(self._connection, self._refresh.name))
        for old in now.leftovers():
            if old.startswith(OLD):
                await self._patiently(now.put_back(old), None)

    @asynccontextmanager
    async def _under_fence(self, fenced: FencedCheckpoint | None) -> AsyncIterator[Execute]:
        """DDL under the fence: a second session locks the lease's row until the block ends.

        DDL commits by itself, so it cannot share the fence's transaction. ``fenced`` is saved at
        the end of the block, together with the release of the fence.
        """
        fence, ddl = self._spec.fence, self._connection
        if fence is None or not self._spec.state_in_target:
            yield ddl.execute
            return
        async with self._pool.control() as guard, rolling_back(guard):
            session = MySQLSession(guard)
            await guard.begin()
            await session.run(partial(state.prove, fence))

            async def execute(statement: str) -> None:
                await _alive_while(guard, ddl.execute(statement))
                await guard.execute(SIGN_OF_LIFE)

            yield execute
            if fenced is not None:
                await session.run(partial(save, fenced))
            await guard.execute("COMMIT")


async def _alive_while(guard: MySQLConnection, statement: Coroutine[object, object, object]) -> None:
    """Wait for a statement that may take long, while its owner gives signs of life."""
    running = asyncio.ensure_future(statement)
    try:
        while not (await asyncio.wait([running], timeout=FENCE_SECONDS / 3))[0]:
            await guard.execute(SIGN_OF_LIFE)
        await running
    finally:
        if not running.done():
            running.cancel()
            await shielded(asyncio.wait([running]))
