"""DDL of a target: fenced, never for long in the way of those who read the table, and taken back where it cannot be ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import anyio

from retl.connectors.mysql import preflight, refresh, schema
from retl.connectors.mysql.connection import Login, MySQLConnection
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.rights import REFERRED_TO
from retl.connectors.mysql.schema import Place
from retl.connectors.mysql.session import under_fence
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetBusy
from retl.model.plan import WriteSpec

_ASKED_SECONDS = 1
"""A statement that waits for one old reader makes all new ones wait: no longer than this at a time."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0


class Ddl:
    """The DDL of one scan on one connection. ``patience`` is how many seconds a statement may wait for readers in all."""

    def __init__(
        self, login: Login, spec: WriteSpec, place: Place, connection: MySQLConnection, patience: float
    ) -> None:
        self._login = login
        self._spec = spec
        self._place = place
        self._connection = connection
        self._patience = patience

    async def run(self, statements: Sequence[str], *, fenced: FencedCheckpoint | None = None) -> None:
        """Run statements in their order, each once, under the fence. Raises ``TargetBusy`` where readers do not end."""
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
            await self._connection.execute(
                f"DROP TABLE {self._place.beside(self._place.replaced(self._spec))}",
            )
        except TargetRefused as error:
            await self._put_back()
            raise preflight.referred_to(self._spec, error) from error

    async def _patiently(self, left: list[str], fenced: FencedCheckpoint | None) -> None:
        """A statement that has to wait is tried again after a pause, in which readers go on."""
        connection = self._connection
        deadline, pause = time.monotonic() + self._patience, _FIRST_PAUSE
        ((usual,),) = await connection.query("SELECT @@SESSION.lock_wait_timeout")
        await connection.execute(f"SET SESSION lock_wait_timeout = {_ASKED_SECONDS}")
        while True:
            try:
                async with under_fence(self._login, self._spec, connection, fenced) as execute:
                    while left:
                        await execute(left[0])
                        del left[0]
                break
            except TargetBusy:
                if connection.closed or time.monotonic() + pause > deadline:
                    raise
            await anyio.sleep(pause)  # without the fence: its lock is on the row that a heartbeat writes
            pause = min(2 * pause, _LONGEST_PAUSE)
        with suppress(RetlError):
            await connection.execute(f"SET SESSION lock_wait_timeout = {int(usual)}")

    async def _put_back(self) -> None:
        """Give the user's table its name again, where a table that cannot be dropped lies beside it."""
        names = await schema.table_names(self._connection, self._place.database)
        for old in names:
            if old.startswith(schema.OLD) and self._place.is_leftover(old, self._spec.pipeline):
                await self._patiently(refresh.put_back(self._place, self._spec, old, names), None)
