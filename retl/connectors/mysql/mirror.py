"""``pre_action = "mirror"``: all rows into a shadow, then only what differs into the table, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from retl.connectors.mysql.catalog import DIALECT, MySQLTable
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.direct import ReplacingWriter
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.mysql.merge import MySQLMerge
from retl.connectors.mysql.prepared import MySQLLoad
from retl.connectors.mysql.rights import REFERRED_TO
from retl.connectors.sql.statement import RowError, Step, execute
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetError


class MirrorWriter(ReplacingWriter):
    """Makes a table hold the rows of its shadow. Readers see it before or after that, never in between."""

    def __init__(self, load: MySQLLoad, connections: Sequence[MySQLConnection], target: MySQLTable) -> None:
        super().__init__(load, connections)
        self._merge = mirror_of(load, target)

    async def deletes(self) -> int:
        """How many rows of the table the source lacks."""
        return await self._number(f"SELECT COUNT(*) {self._merge.gone()}")

    async def _finish(self, fenced: FencedCheckpoint | None) -> None:
        session = self._session(self._main)
        try:
            await session.transaction(partial(self._mirror, fenced, exchange=False))
        except RowError as error:
            if not await session.run(self._merge.may_exchange):
                raise self._explained(error) from error
            await self._finish_exchanging(fenced)
        with suppress(RetlError):  # the next scan would drop it too
            await self._main.execute(f"DROP TABLE {self._load.loaded.sql}")

    async def _finish_exchanging(self, fenced: FencedCheckpoint | None) -> None:
        try:
            await self._session(self._main).transaction(partial(self._mirror, fenced, exchange=True))
        except RowError as error:
            raise self._explained(error) from error

    def _mirror(self, fenced: FencedCheckpoint | None, *, exchange: bool) -> Step[None]:
        yield from execute(self._merge.mirror(exchange=exchange), rejectable=True)
        yield from self._after.step()
        if fenced is not None:
            yield from self._session(self._main).save(fenced)

    def _explained(self, error: RowError) -> TargetError:
        table, cause = self._spec.table.to, error.__cause__
        if isinstance(cause, TargetRefused) and cause.code in REFERRED_TO:
            return TargetError(
                f"a row of {table!r} that the source no longer has cannot be deleted: {error.reason}.",
                remedy="give the foreign key ON DELETE CASCADE or SET NULL, delete the rows that refer to it, or use "
                'pre_action = "none", which deletes nothing.',
            )
        return TargetError(
            f"{table!r} does not take a row of the source, and was left as it was: {error.reason}.",
            remedy="correct the row at the source, or the constraint of the target.",
        )


def mirror_of(load: MySQLLoad, target: MySQLTable) -> MySQLMerge:
    """The merge of the shadow into the table. The shadow is made like it, with the columns that the load adds."""
    known = replace(load.existing, triggers=target.triggers, children=target.children, own_parents=target.own_parents)
    return MySQLMerge(
        DIALECT,
        replace(load, existing=known),
        table=load.target.sql,
        stage=lambda: load.loaded.sql,
        staged={own: DIALECT.identifier(own) for own in load.columns.values()},
        keyed=True,
        exact=True,
    )
