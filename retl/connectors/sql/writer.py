"""Commit staged slices to a SQL table, each in one transaction with its scope, rejects, checkpoint and fence."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.rows.keys import KeyWatch, repeated_key
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, bisect
from retl.connectors.rows.text import json_text
from retl.connectors.sql.ending import Ending
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import STAGED, PreparedLoad, TableMerge, keep_newest
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import RowError, Statement, Step, attempt, execute, of_one, query, trial
from retl.model.actions import Action
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetError
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.state import sql as state
from retl.threads import shielded

Find = Callable[[int], Step[list[tuple[int, str]]]]
"""Finds staged rows to reject, with reasons; about as many as asked for."""


class StagedWriter(TableWriter):
    """Writes one scan of one table. Made by ``SqlTarget``, whose ``end`` takes the session back.

    A rejected row may end the whole transaction. So when a commit fails because of rows, the
    writer finds them by trying parts of the slice, all of which it undoes, removes them from
    the stage, and commits again.
    """

    def __init__(
        self,
        session: Session,
        load: PreparedLoad,
        loader: BulkLoader,
        merge: TableMerge,
        *,
        mirror: TableMerge | None,
        ending: Ending,
        end: Callable[[Session], Coroutine[Any, Any, None]],
    ) -> None:
        self._session = session
        self._load = load
        self._spec: WriteSpec = load.spec
        self._loader = loader
        self._merge = merge
        self._ending = ending
        self._mirror = mirror
        self._end = end
        self._rejects = self._no_rejects()
        self._keys = KeyWatch(load.spec)
        self._may_repeat = load.keyed and not load.spec.unique_key
        self._given = 0
        """Rows of this slice, including those that staging has rejected."""
        self._exchanges = False
        self.finished = False

    def _no_rejects(self) -> RejectCollector:
        # People know a shadow by the name of its table.
        return RejectCollector(self._spec, called=(self._load.loaded.name, self._load.target.name))

    async def write(self, batch: pa.RecordBatch) -> None:
        staged = await self._loader.stage(self._session, batch, self._rejects)
        self._given += batch.num_rows
        if staged.num_rows and not self._loader.typed:
            self._keys.add(staged)

    async def discard(self) -> None:
        await self._session.run(self._loader.clear)
        self._forget()

    def _forget(self) -> None:
        self._keys.clear()
        self._rejects = self._no_rejects()
        self._given = 0
        self._exchanges = False

    # Committing -------------------------------------------------------------

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        await self._loader.gather(self._session)
        self._rejects.check(rejects_left)
        older = await self._session.run(self._keep_newest)
        await self._reject(partial(self._merge.clashes, self._exchanges), rejects_left)
        done = await self._commit_rows(fenced, slice_, older, rejects_left)
        await self._session.run(self._loader.clear)
        self._forget()
        return done

    async def _commit_rows(
        self, fenced: FencedCheckpoint | None, slice_: Slice, older: int, rejects_left: int
    ) -> CommitResult:
        """Commit the whole slice at once; if the table rejects rows of it, again without them."""
        while True:
            try:
                return await self._session.transaction(partial(self._write, fenced, slice_, older))
            except RowError as refused:
                error = refused
            if not self._exchanges and self._merge.exchange():
                self._exchanges = True
                await self._reject(partial(self._merge.clashes, self._exchanges), rejects_left)
                continue
            before = len(self._rejects.rows)
            await self._reject(partial(self._find_rejects, slice_), rejects_left, once=True)
            if len(self._rejects.rows) == before:
                raise TargetError(f"{error.reason}.", system=self._merge.dialect.name) from error
            await self._reject(partial(self._merge.clashes, self._exchanges), rejects_left)

    def _write(self, fenced: FencedCheckpoint | None, slice_: Slice, older: int) -> Step[CommitResult]:
        """The steps of one transaction."""
        changed = yield from self._write_rows(slice_)
        dropped = yield from self._merge.dropped(changed)
        if fenced is not None:
            yield from state.save(fenced)
            yield from state.add_rejects(fenced.fence.pipeline, self._rejects.rows)
        rejects = list(self._rejects.rows)
        # With a blacklist it is unknown why a row was not written.
        partly = {Action.INSERT, Action.UPDATE} & self._spec.blacklist
        unchanged = None if partly else self._given - len(rejects) - older - changed - dropped
        return CommitResult(self._given, changed, rejects, unchanged, older, dropped)

    def _write_rows(self, slice_: Slice, condition: str = "TRUE") -> Step[int]:
        yield from self._delete_scope(slice_)
        moved = (yield from self._exchange()) if condition == "TRUE" else 0
        return moved + sum((yield from execute(self._merge.statements(condition), rejectable=True)))

    def _delete_scope(self, slice_: Slice) -> Step[None]:
        if slice_.scope is not None:
            column = self._merge.dialect.identifier(slice_.scope.column)
            yield Statement(f"DELETE FROM {self._merge.table} WHERE {column} = ?", (slice_.scope.value,))

    def _exchange(self) -> Step[int]:
        if not self._exchanges:
            return 0
        return self._merge.exchanged((yield from execute(self._merge.exchange(), rejectable=True)))

    def _keep_newest(self) -> Step[int]:
        """Of rows with one key keep the one with the highest cursor. Raises ``RepeatedKey`` if nothing tells which that is."""
        if not self._may_repeat or not (self._loader.typed or self._keys.has_duplicates()):
            return 0
        names, table = self._loader.names, self._loader.table
        doubtful, all_but_newest = keep_newest(self._spec, list(names), list(names.values()), table)
        for row in (yield query(doubtful)):
            (key,) = yield from self._loader.rows(f"rowid = {row[0]}")
            shown = {name: key[name] for name in self._spec.key}
            raise repeated_key(self._spec.key, json_text(shown), self._spec.unread_cursor)
        return int((yield Statement(all_but_newest)))

    # Rejects -----------------------------------------------------------

    async def _reject(self, find: Find, rejects_left: int, *, once: bool = False) -> None:
        """Remove the rows that ``find`` gives from the stage, until it gives none or there are too many."""
        found = True
        while found:
            most = max(0, rejects_left - len(self._rejects.rows)) + MOST_SHOWN
            rows = await self._session.run(partial(find, most))
            await self._session.run(partial(self._take_off, rows))
            self._rejects.check(rejects_left)
            found = bool(rows) and not once

    def _take_off(self, found: Iterable[tuple[int, str]]) -> Step[None]:
        for row, reason in found:
            for values in (yield from self._loader.rows(f"rowid = {row}")):
                self._rejects.add(values, reason, self._column(reason))
            yield Statement(f"DELETE FROM {self._loader.table} WHERE rowid = {row}")

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

        return (yield from self._search(each, f"{STAGED}.rowid BETWEEN {{low}} AND {{high}}", most))

    def _search_undone(self, slice_: Slice, most: int) -> Step[list[tuple[int, str]]]:
        """Search if a rejected row ends the transaction: first each row by itself, then with all before it."""

        def each(condition: str) -> Step[Any]:
            return trial(self._write_rows(slice_, condition), self._merge.dialect.begin)

        # By itself, a row may clash with one that would pass its value on.
        spare = self._merge.is_clash if self._exchanges else None
        found = yield from self._search(each, f"{STAGED}.rowid BETWEEN {{low}} AND {{high}}", most, spare=spare)
        if not found:
            # Later tries must not meet a found row: remove it from the stage at once.
            yield from self._search(each, f"{STAGED}.rowid <= {{high}}", most - MOST_SHOWN, take_off=True)
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
        ((first, last),) = yield query(f"SELECT MIN(rowid), MAX(rowid) FROM {self._loader.table}")
        if first is None:
            return []
        search = bisect(int(first), int(last), most)
        low, high = next(search, (first, last))
        while True:
            tried = yield from each(condition.format(low=low, high=high))
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

    # The end ----------------------------------------------------------------

    async def count(self) -> int:
        return await self._count(f"SELECT COUNT(*) FROM {self._load.loaded.sql}")

    async def deletes(self) -> int:
        if self._mirror is None:
            return 0
        return await self._count(f"SELECT COUNT(*) FROM {self._mirror.table} WHERE {self._mirror.gone()}")

    async def _count(self, sql: str) -> int:
        ((rows,),) = await self._session.run(partial(of_one, query(sql)))
        return int(rows)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._session.run(self._loader.drop)
        if self._ending.completes:
            await self._complete()
        try:
            await self._session.transaction(partial(self._finish, fenced, exchange=False))
        except RowError:
            await self._finish_exchanging(fenced)
        self.finished = True
        await shielded(self._end(self._session))

    async def _complete(self) -> None:
        try:
            await self._session.transaction(self._ending.complete)
        except RowError as error:
            raise self._left(error, "look for the rows that an index or a foreign key rejects.") from error

    async def _finish_exchanging(self, fenced: FencedCheckpoint | None) -> None:
        """Free the unique values that rows of a mirror pass on to each other."""
        try:
            await self._session.transaction(partial(self._finish, fenced, exchange=True))
        except RowError as error:
            raise self._left(error, "look for what rejects the row: a foreign key, a trigger, a check.") from error

    def _left(self, error: RowError, remedy: str) -> TargetError:
        message = f"{error.reason}; {self._load.target.name!r} was left as it was."
        return TargetError(message, remedy=remedy, system=self._merge.dialect.name)

    def _finish(self, fenced: FencedCheckpoint | None, *, exchange: bool) -> Step[None]:
        yield from execute((yield from self._ending.finish(exchange)), rejectable=True)
        if fenced is not None:
            yield from state.save(fenced)

    async def abort(self) -> None:
        self._forget()
        with suppress(RetlError):
            await self._session.run(self._loader.drop)
        if self._load.loaded != self._load.target:
            with suppress(RetlError):  # the next scan drops it too
                drop = [f"DROP TABLE IF EXISTS {self._load.loaded.sql}"]
                await self._session.transaction(partial(execute, drop))
        await shielded(self._end(self._session))
