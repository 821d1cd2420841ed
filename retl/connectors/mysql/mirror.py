"""``pre_action = "mirror"``: all rows into a shadow, then only what differs into the table, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from retl.connectors.mysql.catalog import CatalogTable
from retl.connectors.mysql.connection import MySQLConnection, rolling_back
from retl.connectors.mysql.direct import ReplacingWriter
from retl.connectors.mysql.errors import TargetRefused, of_rows
from retl.connectors.mysql.loader import server_message, until_free, warnings
from retl.connectors.mysql.merge import Mirror
from retl.connectors.mysql.prepared import PreparedLoad
from retl.connectors.mysql.rights import REFERRED_TO
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetError


class MirrorWriter(ReplacingWriter):
    """Makes a table hold the rows of its shadow. Readers see it before or after that, never in between."""

    def __init__(self, load: PreparedLoad, connections: Sequence[MySQLConnection], target: CatalogTable) -> None:
        super().__init__(load, connections)
        # The shadow was made like the table, with the columns that this load adds.
        known = replace(load.known, name=target.name, triggers=target.triggers, children=target.children)
        self._sql = Mirror(load.spec, known, load.known.name, load.columns)
        self._parks = bool(self._sql.parking(has_triggers=known.may_have_triggers))
        self._has_triggers = known.may_have_triggers

    async def deletes(self) -> int:
        """How many rows of the table the source lacks."""
        return await self._number(f"SELECT COUNT(*) {self._sql.gone}")

    async def _finish(self, fenced: FencedCheckpoint | None) -> None:
        await until_free(self._main, self._load.lock_timeout, lambda: self._mirror(fenced))
        with suppress(RetlError):  # the next scan would drop it too
            await self._main.execute(f"DROP TABLE {self._load.known.name.sql}")

    async def _mirror(self, fenced: FencedCheckpoint | None) -> None:
        try:
            await self._transaction(fenced, parked=False)
        except TargetRefused as error:
            if not of_rows(error.code, error.state) or not self._parks:
                raise self._explained(error) from error
            await self._transaction(fenced, parked=True)

    async def _transaction(self, fenced: FencedCheckpoint | None, *, parked: bool) -> None:
        parking = self._sql.parking(has_triggers=self._has_triggers) if parked else []
        async with rolling_back(self._main):
            await self._main.begin()
            for statement in self._sql.statements(parking):
                done = await self._main.execute(statement)
                for reason in await warnings(self._main, done):
                    raise TargetError(f"the table {self._spec.table.to!r} does not take the source's rows: {reason}.")
            await self._save(self._main, fenced)

    def _explained(self, error: TargetRefused) -> TargetError:
        table = self._spec.table.to
        if error.code in REFERRED_TO:
            return TargetError(
                f"a row of {table!r} that the source no longer has cannot be deleted: {server_message(error)}.",
                remedy="give the foreign key ON DELETE CASCADE or SET NULL, delete the rows that refer to it, or use "
                'pre_action = "none", which deletes nothing.',
            )
        if of_rows(error.code, error.state):
            return TargetError(
                f"{table!r} does not take a row of the source, and was left as it was: {server_message(error)}.",
                remedy="correct the row at the source, or the constraint of the target.",
            )
        return error
