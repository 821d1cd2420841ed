"""One staged slice on its way into a SQL table: one transaction with its scope, rejects, checkpoint and fence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from retl.connectors.base import CommitResult
from retl.connectors.rows.keys import KeyWatch
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, bisect
from retl.connectors.sql.duplicates import Duplicates
from retl.connectors.sql.loader import Stage
from retl.connectors.sql.merge import STAGED, PreparedLoad, TableMerge
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import RowError, Statement, Step, attempt, execute, query, trial
from retl.model.actions import Action
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import TargetError
from retl.model.window import Scope, Slice
from retl.state import sql as state

_SCOPE_VALUES = 500
"""Values of a scope in one statement: no system takes fewer."""

Find = Callable[[int], Step[list[tuple[int, str]]]]
"""Finds staged rows to reject, with reasons; about as many as asked for."""


def pieces_of(scope: Scope, schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
    """The values of a scope, as many at once as a statement may have: numbers, where its column holds those."""
    numbers = scope.column in schema.names and pa.types.is_integer(schema.field(scope.column).type)
    values: tuple[Any, ...] = tuple(map(int, scope.values)) if numbers else scope.values
    for start in range(0, len(values), _SCOPE_VALUES):
        yield values[start : start + _SCOPE_VALUES]


class StagedSlice:
    """The rows of one slice in a stage, and how they become part of the table.

    A rejected row may end the whole transaction. So when a commit fails because of rows, they
    are found by trying parts of the slice, all of which is undone, and removed from the stage;
    then everything is committed again.
    """

    def __init__(self, session: Session, load: PreparedLoad, stage: Stage, merge: TableMerge) -> None:
        self._session = session
        self._spec = load.spec
        self._load = load
        self._stage = stage
        self._merge = merge
        # People know a shadow by the name of its table.
        self.rejects = RejectCollector(load.spec, called=(load.loaded.name, load.target.name))
        self._keys = KeyWatch(load.spec)
        self.given = 0
        """Rows of this slice, including those that staging has rejected."""
        self._exchanges = False

    def add(self, given: int, staged: pa.RecordBatch) -> None:
        """Count the rows of a batch, and take note of those that are staged."""
        self.given += given
        if staged.num_rows and not self._stage.typed:
            self._keys.add(staged)

    # Committing -------------------------------------------------------------

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        """Commit the whole slice at once; if the table rejects rows of it, again without them."""
        self.rejects.check(rejects_left)
        older = await self._session.run(self._keep_newest)
        await self._reject(partial(self._merge.clashes, self._exchanges), rejects_left)
        while True:
            try:
                return await self._session.transaction(partial(self._write, fenced, slice_, older))
            except RowError as error:
                await self._leave_out(error, slice_, rejects_left)

    def _keep_newest(self) -> Step[int]:
        may_repeat = self._load.keyed and not self._spec.unique_key
        if not may_repeat or not (self._stage.typed or self._keys.has_duplicates()):
            return 0
        identity = self._merge.identity(self._stage)
        return (yield from Duplicates(self._merge.dialect, self._spec, self._stage, identity).keep_newest())

    async def _leave_out(self, error: RowError, slice_: Slice, rejects_left: int) -> None:
        """Find what made a commit fail: values that rows pass on to each other, or rows to reject."""
        if not self._exchanges and await self._session.run(self._merge.may_exchange):
            self._exchanges = True
        else:
            before = len(self.rejects.rows)
            await self._reject(partial(self._find_rejects, slice_), rejects_left, once=True)
            if len(self.rejects.rows) == before:
                raise TargetError(f"{error.reason}.", system=self._merge.dialect.name) from error
        await self._reject(partial(self._merge.clashes, self._exchanges), rejects_left)

    def _write(self, fenced: FencedCheckpoint | None, slice_: Slice, older: int) -> Step[CommitResult]:
        """The steps of one transaction."""
        changed = yield from self._write_rows(slice_)
        dropped = yield from self._merge.dropped(changed)
        yield from execute(self._merge.follow_up())
        if fenced is not None:
            yield from self._session.save(fenced)
            yield from state.add_rejects(fenced.fence.pipeline, self.rejects.rows)
        rejects = list(self.rejects.rows)
        # With a blacklist it is unknown why a row was not written.
        partly = {Action.INSERT, Action.UPDATE} & self._spec.blacklist
        unchanged = None if partly else self.given - len(rejects) - older - changed - dropped
        return CommitResult(self.given, changed, rejects, unchanged, older, dropped)

    def _write_rows(self, slice_: Slice, condition: str = "TRUE") -> Step[int]:
        yield from self._delete_scope(slice_)
        moved = (yield from self._exchange()) if condition == "TRUE" else 0
        return moved + sum((yield from execute(self._merge.statements(condition), rejectable=True)))

    def _delete_scope(self, slice_: Slice) -> Step[None]:
        if slice_.scope is not None:
            for values in pieces_of(slice_.scope, self._spec.schema):
                yield self._merge.delete_scope(slice_.scope.column, values)

    def _exchange(self) -> Step[int]:
        if not self._exchanges:
            return 0
        return self._merge.exchanged((yield from execute(self._merge.exchange(), rejectable=True)))

    # Rejects ----------------------------------------------------------------

    async def _reject(self, find: Find, rejects_left: int, *, once: bool = False) -> None:
        """Remove the rows that ``find`` gives from the stage, until it gives none or there are too many."""
        found = True
        while found:
            most = max(0, rejects_left - len(self.rejects.rows)) + MOST_SHOWN
            rows = await self._session.run(partial(find, most))
            await self._session.run(partial(self._take_off, rows))
            self.rejects.check(rejects_left)
            found = bool(rows) and not once

    def _take_off(self, found: Iterable[tuple[int, str]]) -> Step[None]:
        for row, reason in found:
            here = f"{self._stage.row} = {row}"
            for values in (yield from self._stage.rows(here)):
                self.rejects.add(values, reason, self._column(reason))
            yield Statement(f"DELETE FROM {self._stage.table} WHERE {here}")

    def _column(self, reason: str) -> str:
        """The column, by its name in batches, that a reason is about."""
        fold = self._merge.dialect.fold
        column = fold(self._merge.rejected_column(reason))
        return next((name for name, own in self._load.columns.items() if fold(own) == column), "")

    def _find_rejects(self, slice_: Slice, most: int) -> Step[list[tuple[int, str]]]:
        """The rows that the table rejects. Of rows that clash with each other it accepts the first."""
        if self._merge.dialect.savepoints:
            found = yield from trial(self._search_kept(slice_, most), self._merge.dialect.begin)
        else:
            found = yield from self._search_undone(slice_, most)
        return [] if isinstance(found, RowError) else found

    def _search_kept(self, slice_: Slice, most: int) -> Step[list[tuple[int, str]]]:
        """Search with savepoints: accepted rows stay while the rest is tried."""
        yield from self._delete_scope(slice_)
        yield from attempt(self._exchange())

        def each(condition: str) -> Step[Any]:
            return attempt(execute(self._merge.statements(condition), rejectable=True))

        return (yield from self._search(each, "{row} BETWEEN {low} AND {high}", most))

    def _search_undone(self, slice_: Slice, most: int) -> Step[list[tuple[int, str]]]:
        """Search if a rejected row ends the transaction: first each row by itself, then with all before it."""

        def each(condition: str) -> Step[Any]:
            return trial(self._write_rows(slice_, condition), self._merge.dialect.begin)

        # By itself, a row may clash with one that would pass its value on.
        spare = self._merge.is_clash if self._exchanges else None
        found = yield from self._search(each, "{row} BETWEEN {low} AND {high}", most, spare=spare)
        if not found:
            # Later tries must not meet a found row: remove it from the stage at once.
            yield from self._search(each, "{row} <= {high}", most - MOST_SHOWN, take_off=True)
        return found

    def _search(
        self,
        each: Callable[[str], Step[Any]],
        condition: str,
        most: int,
        *,
        spare: Callable[[str], bool] | None = None,
        take_off: bool = False,
    ) -> Step[list[tuple[int, str]]]:
        row = self._stage.row
        ((first, last),) = yield query(f"SELECT MIN({row}), MAX({row}) FROM {self._stage.table}")
        if first is None:
            return []
        search = bisect(int(first), int(last), most)
        low, high = next(search, (first, last))
        while True:
            tried = yield from each(condition.format(row=f"{STAGED}.{row}", low=low, high=high))
            reason = tried.reason if isinstance(tried, RowError) else None
            if reason is not None and low == high:
                if take_off:
                    yield from self._take_off([(low, reason)])
                elif spare is not None and spare(reason):
                    reason = None
            try:
                low, high = search.send(reason)
            except StopIteration as end:
                found: list[tuple[int, str]] = end.value
                return found
