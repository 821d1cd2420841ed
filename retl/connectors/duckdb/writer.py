"""Rows into DuckDB: batches pile up typed in a temporary table, and are merged in one transaction.

A refused row ends a DuckDB transaction as a whole. So where a merge fails, the rows that
are to blame are found by trying parts of it, each time undone, and taken out of the
temporary table; then the whole is done again, data and checkpoint together.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.connectors.duckdb import schema
from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.exchange import Exchange
from retl.connectors.duckdb.file import DuckDBFile, first_line, in_transaction, roll_back
from retl.connectors.duckdb.stage import ROWID, STAGE, Stage, fetch_plain
from retl.connectors.duckdb.store import run_step
from retl.connectors.rows.keys import repeated_key
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, bisect
from retl.connectors.rows.text import json_text
from retl.connectors.sql.keys import keep_newest
from retl.connectors.sql.tables import merge
from retl.model.actions import Action, PreAction, Write
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.state import sql as state

if TYPE_CHECKING:
    import duckdb

_FAILED_COLUMN = re.compile(r'Duplicate key "([^":]+): |NOT NULL constraint failed: (?:.*\.)?([^.]+)$')


class DuckDBWriter(TableWriter):
    """Writes one scan of one table. Made by ``DuckDBTarget.prepare``."""

    def __init__(
        self, file: DuckDBFile, spec: WriteSpec, *, table: str, columns: Sequence[pa.Field], spelled: Mapping[str, str]
    ) -> None:
        self._file = file
        self._spec = spec
        self._table = table
        self._stage = Stage(columns, spec.key)
        self._rejects = RejectCollector(spec)
        self._staged = 0
        self._older = 0
        """Staged rows that another one with their key has outdated."""
        # ON CONFLICT of DuckDB 1.4 finds a column only in the table's own spelling, and takes another one for absent.
        self._spelled = [spelled[column.name] for column in columns]
        self._spelled_load = replace(spec, key=tuple(spelled[name] for name in spec.key if name in spelled))
        self._texts = frozenset(spelled[name] for name in self._stage.texts)
        self._exchange: Exchange | None = None
        # Where the source guarantees its key, or every row is taken as it is, nothing has to be looked for.
        keyed = spec.table.write is Write.UPSERT and not spec.table.replaces
        self._may_repeat = keyed and not spec.unique_key

    async def open(self) -> None:
        await self._file.run(self._stage.create)

    async def write(self, batch: pa.RecordBatch) -> None:
        self._staged += await self._file.run(self._stage.add, batch, self._rejects)

    async def discard(self) -> None:
        await self._file.run(self._stage.create)
        self._forget()

    def _forget(self) -> None:
        self._exchange = None
        self._staged = self._older = 0
        self._rejects = RejectCollector(self._spec)

    # Committing -------------------------------------------------------------

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        changed = await self._file.run(self._commit, fenced, slice_, rejects_left)
        done = self._counted(changed)
        await self._file.run(self._stage.create)
        self._forget()
        return done

    def _counted(self, changed: int) -> CommitResult:
        """Every row that was given, in one of the counts; with a blacklist nobody knows why a row was not written."""
        partly = {Action.INSERT, Action.UPDATE} & self._spec.blacklist
        return CommitResult(
            rows=self._staged + self._older + len(self._rejects.rows),
            changed=changed,
            unchanged=None if partly else self._staged - changed,
            older=self._older,
            rejects=self._rejects.rows,
        )

    def _commit(
        self, connection: duckdb.DuckDBPyConnection, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int
    ) -> int:
        import duckdb

        if self._may_repeat:
            self._settle_repeats(connection)
        self._rejects.check(rejects_left)
        try:
            return in_transaction(connection, self._write_all, fenced, slice_)
        except duckdb.IntegrityError as error:
            refused = error
        self._exchange = self._exchanging(connection)
        if self._exchange is not None:
            self._settle_unique(connection, rejects_left)
            with suppress(duckdb.IntegrityError):
                return in_transaction(connection, self._write_all, fenced, slice_)
        before = len(self._rejects.rows)
        self._find_refused(connection, slice_, rejects_left)
        if len(self._rejects.rows) == before:
            raise refused
        self._settle_unique(connection, rejects_left)
        return in_transaction(connection, self._write_all, fenced, slice_)

    def _exchanging(self, connection: duckdb.DuckDBPyConnection) -> Exchange | None:
        """How unique values move from row to row; ``None`` where there are none, or not every row may be written."""
        table = self._spec.table
        if table.write is Write.APPEND or table.replaces or self._spec.blacklist & {Action.INSERT, Action.UPDATE}:
            return None
        existing = schema.inspect(connection, self._table)
        assert existing is not None
        staged = dict(zip(self._spelled, self._stage.names, strict=True))
        exchange = Exchange(self._table, existing, self._spelled_load.key, staged, self._texts)
        return exchange if exchange.unique else None

    def _settle_unique(self, connection: duckdb.DuckDBPyConnection, rejects_left: int) -> None:
        """Refuse the rows that would clash in the end, each of them, until none is left or there are too many."""
        found = self._exchange is not None
        while found:
            assert self._exchange is not None
            most = max(0, rejects_left - len(self._rejects.rows)) + MOST_SHOWN
            clashing = dict(itertools.islice(self._exchange.clashing(connection), most))
            for rowid, reason in clashing.items():
                self._note_refused(connection, rowid, reason)
            found = bool(clashing) and len(self._rejects.rows) <= rejects_left
        self._rejects.check(rejects_left)

    def _write_all(self, connection: duckdb.DuckDBPyConnection, fenced: FencedCheckpoint | None, slice_: Slice) -> int:
        """What is one transaction: the fence, the checkpoint, the rows, the rejects."""
        if fenced is not None:
            run_step(connection, state.save(fenced))
        changed = self._merge(connection, slice_, "true")
        if fenced is not None and self._rejects.rows:
            run_step(connection, state.add_rejects(fenced.fence.pipeline, self._rejects.rows))
        return changed

    def _merge(self, connection: duckdb.DuckDBPyConnection, slice_: Slice, condition: str) -> int:
        """Write the staged rows that a condition chooses; returns how many rows were changed."""
        if slice_.scope is not None:
            column = DIALECT.identifier(slice_.scope.column)
            connection.execute(f"DELETE FROM {self._table} WHERE {column} = ?", [slice_.scope.value])
        if not self._staged:
            return 0
        moved = self._exchange.move(connection) if self._exchange is not None and condition == "true" else 0
        return moved + sum(
            _number(connection.execute(statement)) for statement in self._statements(connection, condition)
        )

    def _statements(self, connection: duckdb.DuckDBPyConnection, condition: str) -> Iterator[str]:
        """What writes the staged rows that a condition chooses."""
        keyed = self._spec.table.write is Write.UPSERT and not self._spec.table.replaces
        if not keyed or not schema.has_collation(connection, self._table):
            yield from self._merged(self._spelled_load, condition)
            return
        # ON CONFLICT compares keys by their collation, and would change every row that this calls equal.
        if Action.UPDATE not in self._spec.blacklist:
            yield from self._merged(replace(self._spelled_load, blacklist=frozenset({Action.INSERT})), condition)
        if Action.INSERT not in self._spec.blacklist:
            staged = dict(zip(self._spelled, self._stage.names, strict=True))
            same = " AND ".join(
                DIALECT.equals(f"t.{DIALECT.identifier(name)}", staged[name], untyped=name in self._texts)
                for name in self._spelled_load.key
            )
            new = f"{condition} AND NOT EXISTS (SELECT 1 FROM {self._table} AS t WHERE {same})"
            yield from self._merged(
                replace(self._spelled_load, table=replace(self._spec.table, write=Write.APPEND)), new
            )

    def _merged(self, spec: WriteSpec, condition: str) -> list[str]:
        statements = merge(
            DIALECT,
            spec,
            self._spelled,
            table=self._table,
            stage=STAGE,
            staged=self._stage.names,
            condition=condition,
            untyped=self._texts,
        )
        return [statement for statement in (statements.insert, statements.update) if statement is not None]

    def _settle_repeats(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        by_name = dict(zip(self._stage.columns, self._stage.names, strict=True))
        key = ", ".join(by_name[name] for name in self._spec.key)
        if not connection.execute(f"SELECT 1 FROM {STAGE} GROUP BY {key} HAVING COUNT(*) > 1 LIMIT 1").fetchall():
            return
        doubtful, all_but_newest = keep_newest(self._spec, self._stage.columns, self._stage.names, STAGE)
        for found in fetch_plain(connection, doubtful):
            raise repeated_key(
                self._spec.key,
                json_text(dict(zip(self._spec.key, found.values(), strict=True))),
                self._spec.unread_cursor,
            )
        self._older = _number(connection.execute(all_but_newest))
        self._staged -= self._older

    # Refused rows -----------------------------------------------------------

    def _find_refused(self, connection: duckdb.DuckDBPyConnection, slice_: Slice, rejects_left: int) -> None:
        """Take the rows that the table refuses out of the stage: first each by itself, then those that clash with others."""
        self._search(connection, slice_, f"{ROWID} BETWEEN {{low}} AND {{high}}", rejects_left + MOST_SHOWN)
        if len(self._rejects.rows) <= rejects_left and self._trial(connection, slice_, "true") is not None:
            # Each try repeats all rows before the one in question, so no more are looked for than it takes to decide.
            self._search(connection, slice_, f"{ROWID} <= {{high}}", rejects_left - len(self._rejects.rows))

    def _search(self, connection: duckdb.DuckDBPyConnection, slice_: Slice, condition: str, most: int) -> None:
        first, last = connection.execute(f"SELECT MIN(rowid), MAX(rowid) FROM {STAGE}").fetchall()[0]
        if first is None:
            return
        search = bisect(first, last, most)
        low, high = next(search, (first, last))
        with suppress(StopIteration):
            while True:
                reason = self._trial(connection, slice_, condition.format(low=low, high=high))
                if reason is not None and low == high:
                    if self._exchange is not None and reason.startswith("Duplicate key"):
                        reason = None  # by itself it clashes with a row that moves on together with it
                    else:
                        self._note_refused(connection, low, reason)
                low, high = search.send(reason)

    def _trial(self, connection: duckdb.DuckDBPyConnection, slice_: Slice, condition: str) -> str | None:
        """Why a merge of some rows fails; ``None`` where it would not. Changes nothing."""
        import duckdb

        connection.execute("BEGIN")
        try:
            self._merge(connection, slice_, condition)
        except duckdb.IntegrityError as error:
            return first_line(error).removeprefix("Constraint Error: ")
        finally:
            roll_back(connection)
        return None

    def _note_refused(self, connection: duckdb.DuckDBPyConnection, rowid: int, reason: str) -> None:
        found = _FAILED_COLUMN.search(reason)
        column = (found[1] or found[2]) if found else ""
        for row in self._stage.rows(connection, f"rowid = {rowid}"):
            self._rejects.add(row, reason, column)
        self._staged -= _number(connection.execute(f"DELETE FROM {STAGE} WHERE rowid = {rowid}"))

    # The end ----------------------------------------------------------------

    async def count(self) -> int:
        return await self._file.run(_count, self._table)

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._file.run(in_transaction, self._finish, fenced)
        await self._file.run(self._stage.drop)

    def _finish(self, connection: duckdb.DuckDBPyConnection, fenced: FencedCheckpoint | None) -> None:
        if fenced is not None:
            run_step(connection, state.save(fenced))
        table = self._spec.table
        if table.pre_action is PreAction.SWAP and self._is_shadow():
            schema.switch(connection, table.to, self._table)
        if table.pre_action is PreAction.RENAME_AND_CREATE and Action.DROP not in self._spec.blacklist:
            schema.prune_archives(connection, self._spec)

    def _is_shadow(self) -> bool:
        return self._table != schema.full_name(*schema.locate(self._spec.table.to))

    async def abort(self) -> None:
        self._forget()
        with suppress(RetlError):
            await self._file.run(self._stage.drop)
        if self._is_shadow():
            with suppress(RetlError):  # the next scan drops it too
                await self._file.run(schema.drop, self._table)


def _number(answer: duckdb.DuckDBPyConnection) -> int:
    # All of it: a result that is not read to its end bars the connection.
    return int(answer.fetchall()[0][0])


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return _number(connection.execute(f"SELECT COUNT(*) FROM {table}"))
