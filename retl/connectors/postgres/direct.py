"""Rows that go straight into their table by COPY: no stage, no merge.

A slice is one open transaction: the deletion of its scope, its rows, and then checkpoint, fence and rejects.
What makes a COPY fail is found out by the stage, as ever: the transaction is rolled back, and the
slice is staged from what was kept of it. So a key that repeats, or that another row has, is settled there too:
the unique index of the key is what tells.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.encode import BINARY_WORDS, CSV_WORDS, CopyData
from retl.connectors.postgres.existing import PostgresTable
from retl.connectors.postgres.in_flight import InFlight, encoded
from retl.connectors.postgres.loader import PostgresLoader
from retl.connectors.postgres.merge import PostgresMerge
from retl.connectors.postgres.references import references
from retl.connectors.postgres.session import OpenTransaction, PostgresSession
from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.spool import BatchSpool
from retl.connectors.sql.staged import pieces_of
from retl.connectors.sql.statement import RowError, Statement, Step, execute, query
from retl.model.actions import Action
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import LeaseLost, RetlError, TransientError
from retl.model.window import Slice
from retl.state import sql as state
from retl.threads import shielded

_MOST_FAILURES = 2


class NotDirect(Exception):
    """A slice cannot go straight into its table: nothing of it is there, and it must be staged."""


# Which slices -----------------------------------------------------------------


class DirectPath:
    """Which slices of one load are copied straight into its table. After a few that could not be, none is."""

    def __init__(self, load: PreparedLoad, staged: set[str]) -> None:
        """``staged``: tables of which a slice was lost that was too large to be staged from what was kept of it."""
        self._load = load
        self._staged = staged
        self._left = 0 if load.target.sql in staged else _MOST_FAILURES
        self._copies: bool | None = None

    def may_take(self, slice_: Slice | None) -> bool:
        """Whether it may go that way, as far as is known before ``learn``."""
        return slice_ is not None and self._left > 0 and self._copies is not False

    async def learn(self, session: PostgresSession, merge: PostgresMerge) -> None:
        """Ask, once for a load, what decides. Nothing else must use the session."""
        if self._copies is None:
            self._copies = await session.run(partial(copies, self._load, merge))

    def failed(self, spool: BatchSpool, why: NotDirect) -> None:
        """Remember that a slice did not go that way. Raises ``TransientError`` if it cannot be staged from its spool."""
        self._left -= 1
        if not spool.complete:
            self._staged.add(self._load.target.sql)
            raise TransientError(
                f"rows of a large slice could not be copied straight into {self._load.target.name!r}, and all of it was "
                f"undone: {why}",
                remedy="nothing: the next attempt stages them, which tells good rows from bad ones.",
            ) from why


def copies(load: PreparedLoad, merge: PostgresMerge) -> Step[bool]:
    """Whether the slices of this load can be copied straight into its table.

    Not those of an upsert into a table with rows, not even of a scope: rows that have not changed are not written.
    """
    if load.keyed and not _is_blank(load):
        return False
    if load.spec.blacklist & {Action.INSERT, Action.UPDATE} or not _numbers_are_ours(load, merge):
        return False
    if load.loaded != load.target:  # nobody but this load has anything to do with a shadow
        return not (yield from references(load.target)) and not _deferrable_indexes(load.existing)
    return _takes_copies(load.existing)


def shown(load: PreparedLoad, merge: PostgresMerge) -> Step[list[str]]:
    """The statements of a slice, besides those of its scope and its checkpoint."""
    encoder = PostgresLoader(load).encoder
    ((version,),) = yield query("SELECT version()")
    encoder.meet(version)
    words = BINARY_WORDS if encoder.sends_binary and encoder.has_binary_form else CSV_WORDS
    columns = ", ".join(map(DIALECT.identifier, load.columns.values()))
    return [f"COPY {load.loaded.sql}({columns}) {words}", *merge.follow_up_of_table()]


def _is_blank(load: PreparedLoad) -> bool:
    return not isinstance(load.existing, PostgresTable) or load.existing.is_blank


def _takes_copies(table: object) -> bool:
    """Whether COPY writes a table as INSERT does, and says by an error which slice it does not take."""
    catalog = table.catalog if isinstance(table, PostgresTable) else None
    if catalog is None:
        return True
    assert isinstance(table, PostgresTable)
    rewritten = catalog.row_security or catalog.triggers or catalog.rules
    return catalog.kind in ("r", "p") and not rewritten and not table.defers


def _deferrable_indexes(table: object) -> bool:
    catalog = table.catalog if isinstance(table, PostgresTable) else None
    return catalog is not None and not all(index.immediate for index in catalog.indexes)


def _numbers_are_ours(load: PreparedLoad, merge: PostgresMerge) -> bool:
    """Whether the sequences of written columns can be moved by what the table holds, found by an index."""
    if not merge.numbered or not isinstance(load.existing, PostgresTable):
        return True
    led = {index.columns[0] for index in load.existing.indexes}
    ours = load.spec.table.replaces or load.existing.is_blank
    return ours and led.issuperset(merge.numbered)


# One slice --------------------------------------------------------------------


class DirectSlice:
    """The rows of one slice in an open transaction. ``NotDirect`` says that it must be staged, from ``spool``."""

    def __init__(
        self, session: PostgresSession, load: PreparedLoad, loader: PostgresLoader, merge: PostgresMerge, slice_: Slice
    ) -> None:
        self._session = session
        self._load = load
        self._loader = loader
        self._encoder = loader.encoder
        self._merge = merge
        self._slice = slice_
        self._transaction: OpenTransaction | None = None
        self._in_flight = InFlight()
        self._given = self._copied = 0
        self._rejects = RejectCollector(load.spec, called=(load.loaded.name, load.target.name))
        self.spool = BatchSpool()

    async def write(self, batch: pa.RecordBatch) -> None:
        """Send a batch. It is encoded while the one before it is on its way."""
        self._given += batch.num_rows
        await self._loader.meet(self._session)
        rows, data = await encoded(partial(self._encoded, batch), batch.nbytes)
        await self.spool.add(batch)
        async with _or_staged():
            transaction = self._transaction = self._transaction or await self._begin()
            if rows:
                await self._in_flight.send(partial(self._copy, transaction, rows, data), batch.nbytes)

    def _encoded(self, batch: pa.RecordBatch) -> tuple[int, CopyData]:
        kept = self._rejects.leave_out(batch, self._encoder.invalid_values(batch))
        return kept.num_rows, self._encoder.encode(kept)

    async def _begin(self) -> OpenTransaction:
        transaction = await self._session.begin()
        try:
            await transaction.run(self._delete_scope)
        except BaseException:
            await shielded(transaction.rollback())
            raise
        return transaction

    def _delete_scope(self) -> Step[None]:
        scope = self._slice.scope
        if scope is None:
            return
        column = DIALECT.identifier(scope.column)
        for values in pieces_of(scope, self._load.spec.schema):
            marks = ", ".join("?" * len(values))
            yield Statement(f"DELETE FROM {self._load.loaded.sql} WHERE {column} IN ({marks})", values)

    async def _copy(self, transaction: OpenTransaction, rows: int, data: CopyData) -> None:
        columns = list(self._load.columns.values())
        arrived = await transaction.copy_in(self._load.loaded, columns, data.data, **data.options)
        if arrived != rows:
            raise NotDirect(f"the table took {arrived:,} of {rows:,} rows")
        self._copied += rows

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        """Commit all of it, with its checkpoint. Whatever fails is undone, before anything else uses the connection."""
        try:
            transaction = await self._finished(fenced, slice_, rejects_left)
        except BaseException:
            await self.abort()
            raise
        self._transaction = None
        await transaction.commit()
        return CommitResult(self._given, self._copied, list(self._rejects.rows), unchanged=0)

    async def _finished(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> OpenTransaction:
        async with _or_staged():
            await self._in_flight.settle()
            if slice_.scope != self._slice.scope:
                raise NotDirect("less of it was delivered than its scope says")
            self._rejects.check(rejects_left)
            transaction = self._transaction = self._transaction or await self._begin()
            await transaction.run(partial(self._finish, fenced))
            return transaction

    def _finish(self, fenced: FencedCheckpoint | None) -> Step[None]:
        yield from execute(self._merge.follow_up_of_table())
        if fenced is not None:
            yield from self._session.save(fenced)
            yield from state.add_rejects(fenced.fence.pipeline, self._rejects.rows)

    async def undo(self) -> None:
        """Roll back what was sent. The spool keeps it."""
        with suppress(RetlError, RowError, NotDirect):
            await self._in_flight.settle()
        await self.abort()

    async def abort(self) -> None:
        """The same, at once."""
        await self._in_flight.cancel()
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await shielded(transaction.rollback())


@asynccontextmanager
async def _or_staged() -> AsyncGenerator[None, None]:
    """Whatever fails before the commit: the stage finds out why. But who does not own the pipeline any more, is told so."""
    try:
        yield
    except LeaseLost:
        raise
    except (RetlError, RowError) as error:
        raise NotDirect(str(error)) from error
