"""Rows into DuckDB: batches pile up typed in a temporary table, and are merged in one transaction.

A refused row ends a DuckDB transaction as a whole. So where a merge fails, the rows that
are to blame are found by trying parts of it, each time undone, and taken out of the
temporary table; then the whole is done again, data and checkpoint together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from retl.connectors.base import Commit, TableWriter
from retl.connectors.duckdb import schema
from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.file import DuckDBFile, first_line, in_transaction, roll_back
from retl.connectors.duckdb.store import run_step
from retl.connectors.duckdb.types import take, unfit, wire
from retl.connectors.sql.keys import repeated_key
from retl.connectors.sql.rejects import MOST_SHOWN, Refusals, bisect
from retl.connectors.sql.tables import Merge, merge
from retl.connectors.sql.text import json_text
from retl.model.actions import Action, PreAction, Write
from retl.model.checkpoint import Mark
from retl.model.errors import RetlError
from retl.model.plan import Load
from retl.model.schema import native_type
from retl.model.window import Slice
from retl.state import sql as state

if TYPE_CHECKING:
    import duckdb

_STAGE = "temp.retl_stage"
_ROWID = "retl_stage.rowid"
_BATCH = "retl_batch"
_FAILED_COLUMN = re.compile(r'Duplicate key "([^":]+): |NOT NULL constraint failed: (?:.*\.)?([^.]+)$')


class DuckDBWriter(TableWriter):
    """Writes one scan of one table. Made by ``DuckDBTarget.prepare``."""

    def __init__(
        self, file: DuckDBFile, load: Load, *, table: str, columns: Sequence[pa.Field], spelled: Mapping[str, str]
    ) -> None:
        self._file = file
        self._load = load
        self._table = table
        # ON CONFLICT of DuckDB 1.4 finds a column only in the table's own spelling, and takes another one for absent.
        self._spelled = [spelled[column.name] for column in columns]
        self._spelled_load = replace(load, key=tuple(spelled[name] for name in load.key if name in spelled))
        self._columns = [column.name for column in columns]
        self._natives = [native_type(column) for column in columns]
        self._strict = {column.name for column in columns if not column.nullable}
        self._refusals = Refusals(load)
        self._staged = 0
        self._names = [f"c{number}" for number in range(len(self._columns))]
        # Where the source guarantees its key, or every row is taken as it is, nothing has to be looked for.
        keyed = load.table.write is Write.UPSERT and not load.table.replaces
        self._may_repeat = keyed and not load.unique_key

    async def open(self) -> None:
        """Make the temporary table that rows are staged in. It vanishes with the connection, so a crash leaves nothing."""
        await self._file.run(self._new_stage)

    def _new_stage(self, connection: duckdb.DuckDBPyConnection) -> None:
        # A new table instead of a DELETE, which would give no memory back.
        columns = ", ".join(f"{name} {native}" for name, native in zip(self._names, self._natives, strict=True))
        connection.execute(f"CREATE OR REPLACE TEMP TABLE retl_stage ({columns})")

    # Staging ----------------------------------------------------------------

    async def write(self, batch: pa.RecordBatch) -> None:
        self._staged += await self._file.run(self._write, batch)

    def _write(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> int:
        batch = self._refuse(batch, self._unfit(batch))
        try:
            return self._stage(connection, batch)
        except Exception as error:
            if not _is_about_values(error):
                raise
            kept = self._refuse(batch, self._uncastable(connection, batch))
            if kept.num_rows == batch.num_rows:
                raise
        return self._stage(connection, kept)

    def _refuse(self, batch: pa.RecordBatch, found: list[tuple[pa.Array, str, str]]) -> pa.RecordBatch:
        """Put aside the rows that masks name, each row once; returns the others."""
        keep = np.ones(batch.num_rows, dtype=bool)
        for mask, reason, column in found:
            bad = keep & mask.fill_null(False).to_numpy(zero_copy_only=False)
            if bad.any():
                self._refusals.add_masked(batch, pa.array(bad), reason, column)
                keep &= ~bad
        return batch if keep.all() else batch.filter(pa.array(keep))

    def _unfit(self, batch: pa.RecordBatch) -> list[tuple[pa.Array, str, str]]:
        """Rows without a value that the table demands, and those with a time that DuckDB cannot hold."""
        found: list[tuple[pa.Array, str, str]] = []
        for name, native in zip(self._columns, self._natives, strict=True):
            column = batch.column(name)
            if column.null_count and name in self._load.key:
                found.append((column.is_null(), "the key is NULL", name))
            elif column.null_count and name in self._strict:
                found.append((column.is_null(), "the target's column is NOT NULL", name))
            found.extend((mask, reason, name) for mask, reason in unfit(column, native))
        return found

    def _stage(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> int:
        wired = self._wired(batch)
        values = ", ".join(self._values(wired, attempt=False))
        with _registered(connection, wired):
            connection.execute(f"INSERT INTO {_STAGE} SELECT {values} FROM {_BATCH}")
        return int(batch.num_rows)

    def _wired(self, batch: pa.RecordBatch) -> pa.Table:
        arrays = [wire(batch.column(name), native) for name, native in zip(self._columns, self._natives, strict=True)]
        return pa.Table.from_arrays(arrays, names=self._names)

    def _values(self, wired: pa.Table, *, attempt: bool) -> list[str]:
        return [
            take(column.type, native, column.name, attempt=attempt)
            for column, native in zip(wired.schema, self._natives, strict=True)
        ]

    def _uncastable(
        self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch
    ) -> list[tuple[pa.Array, str, str]]:
        """The rows with a value that cannot become one of the target's type unchanged."""
        wired = self._wired(batch)
        tests = ", ".join(
            f"{name} IS NOT NULL AND ({value}) IS NULL AS {name}"
            for name, value in zip(self._names, self._values(wired, attempt=True), strict=True)
        )
        with _registered(connection, wired):
            bad: dict[str, Any] = connection.execute(f"SELECT {tests} FROM {_BATCH}").fetchnumpy()
        return [
            (pa.array(np.asarray(bad[name], dtype=bool)), f"the value does not fit exactly into {native}", column)
            for name, native, column in zip(self._names, self._natives, self._columns, strict=True)
        ]

    async def discard(self) -> None:
        await self._file.run(self._new_stage)
        self._forget()

    def _forget(self) -> None:
        self._staged = 0
        self._refusals = Refusals(self._load)

    # Committing -------------------------------------------------------------

    async def commit(self, mark: Mark | None, part: Slice, rejects_left: int) -> Commit:
        changed = await self._file.run(self._commit, mark, part, rejects_left)
        done = Commit(rows=self._staged, changed=changed, rejects=self._refusals.rows)
        await self._file.run(self._new_stage)
        self._forget()
        return done

    def _commit(self, connection: duckdb.DuckDBPyConnection, mark: Mark | None, part: Slice, rejects_left: int) -> int:
        import duckdb

        if self._may_repeat:
            self._settle_repeats(connection)
        self._refusals.check(rejects_left)
        try:
            return in_transaction(connection, self._write_all, mark, part)
        except duckdb.IntegrityError:
            before = len(self._refusals.rows)
            self._find_refused(connection, part, rejects_left)
            if len(self._refusals.rows) == before:
                raise
        self._refusals.check(rejects_left)
        return in_transaction(connection, self._write_all, mark, part)

    def _write_all(self, connection: duckdb.DuckDBPyConnection, mark: Mark | None, part: Slice) -> int:
        """What is one transaction: the fence, the checkpoint, the rows, the rejects."""
        if mark is not None:
            run_step(connection, state.save(mark))
        changed = self._merge(connection, part, "true")
        if mark is not None and self._refusals.rows:
            run_step(connection, state.add_rejects(mark.fence.pipeline, self._refusals.rows))
        return changed

    def _merge(self, connection: duckdb.DuckDBPyConnection, part: Slice, condition: str) -> int:
        if part.scope is not None:
            column = DIALECT.identifier(part.scope.column)
            connection.execute(f"DELETE FROM {self._table} WHERE {column} = ?", [part.scope.value])
        statements = self._statements(condition)
        changed = 0
        for statement in (statements.insert, statements.update):
            if statement is not None and self._staged:
                changed += _number(connection.execute(statement))
        return changed

    def _statements(self, condition: str) -> Merge:
        return merge(
            DIALECT,
            self._spelled_load,
            self._spelled,
            table=self._table,
            stage=_STAGE,
            staged=self._names,
            distinct="IS DISTINCT FROM",
            condition=condition,
        )

    def _settle_repeats(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Of rows with one key keep that with the highest cursor; refuse where nothing tells which that is."""
        by_name = dict(zip(self._columns, self._names, strict=True))
        key = ", ".join(by_name[name] for name in self._load.key)
        if not connection.execute(f"SELECT 1 FROM {_STAGE} GROUP BY {key} HAVING COUNT(*) > 1 LIMIT 1").fetchone():
            return
        order = f"ORDER BY {by_name[self._load.cursor]} DESC NULLS LAST" if self._load.cursor else ""
        ranked = f"SELECT rowid AS r, *, RANK() OVER (PARTITION BY {key} {order}) AS place FROM {_STAGE}"
        doubtful = connection.execute(
            f"SELECT {key} FROM (SELECT DISTINCT {', '.join(self._names)} FROM ({ranked}) WHERE place = 1) "
            f"GROUP BY {key} HAVING COUNT(*) > 1 LIMIT 1"
        ).fetchone()
        if doubtful is not None:
            raise repeated_key(self._load.key, json_text(dict(zip(self._load.key, doubtful, strict=True))))
        connection.execute(
            f"DELETE FROM {_STAGE} WHERE rowid NOT IN (SELECT MIN(r) FROM ({ranked}) WHERE place = 1 GROUP BY {key})"
        )

    # Refused rows -----------------------------------------------------------

    def _find_refused(self, connection: duckdb.DuckDBPyConnection, part: Slice, rejects_left: int) -> None:
        """Take the rows that the table refuses out of the stage: first each by itself, then those that clash with others."""
        self._search(connection, part, f"{_ROWID} BETWEEN {{low}} AND {{high}}", rejects_left + MOST_SHOWN)
        if len(self._refusals.rows) <= rejects_left and self._trial(connection, part, "true") is not None:
            # Each try repeats all rows before the one in question, so no more are looked for than it takes to decide.
            self._search(connection, part, f"{_ROWID} <= {{high}}", rejects_left - len(self._refusals.rows))

    def _search(self, connection: duckdb.DuckDBPyConnection, part: Slice, condition: str, most: int) -> None:
        first, last = connection.execute(f"SELECT MIN(rowid), MAX(rowid) FROM {_STAGE}").fetchall()[0]
        if first is None:
            return
        search = bisect(first, last, most)
        low, high = next(search)
        with suppress(StopIteration):
            while True:
                reason = self._trial(connection, part, condition.format(low=low, high=high))
                if reason is not None and low == high:
                    self._note_refused(connection, low, reason)
                low, high = search.send(reason)

    def _trial(self, connection: duckdb.DuckDBPyConnection, part: Slice, condition: str) -> str | None:
        """Why a merge of some rows fails; ``None`` where it would not. Changes nothing."""
        import duckdb

        connection.execute("BEGIN")
        try:
            self._merge(connection, part, condition)
        except duckdb.IntegrityError as error:
            return first_line(error).removeprefix("Constraint Error: ")
        finally:
            roll_back(connection)
        return None

    def _note_refused(self, connection: duckdb.DuckDBPyConnection, rowid: int, reason: str) -> None:
        rows = connection.execute(f"SELECT {', '.join(self._names)} FROM {_STAGE} WHERE rowid = {rowid}").fetchall()
        found = _FAILED_COLUMN.search(reason)
        column = (found[1] or found[2]) if found else ""
        for values in rows:
            self._refusals.add(dict(zip(self._columns, values, strict=True)), reason, column)
        self._staged -= _number(connection.execute(f"DELETE FROM {_STAGE} WHERE rowid = {rowid}"))

    # The end ----------------------------------------------------------------

    async def count(self) -> int:
        return await self._file.run(_count, self._table)

    async def finish(self, mark: Mark | None) -> None:
        await self._file.run(in_transaction, self._finish, mark)
        await self._file.run(_drop_stage)

    def _finish(self, connection: duckdb.DuckDBPyConnection, mark: Mark | None) -> None:
        if mark is not None:
            run_step(connection, state.save(mark))
        table = self._load.table
        if table.pre_action is PreAction.SWAP and self._is_shadow():
            schema.switch(connection, table.to, self._table)
        if table.pre_action is PreAction.RENAME_AND_CREATE and Action.DROP not in self._load.blacklist:
            schema.prune_archives(connection, self._load)

    def _is_shadow(self) -> bool:
        return self._table != schema.full_name(*schema.locate(self._load.table.to))

    async def abort(self) -> None:
        self._forget()
        with suppress(RetlError):
            await self._file.run(_drop_stage)
        if self._is_shadow():
            with suppress(RetlError):  # the next scan drops it too
                await self._file.run(schema.drop, self._table)


class _registered:
    """A table of Arrow's, seen by SQL as ``retl_batch`` meanwhile."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
        self._connection = connection
        self._table = table

    def __enter__(self) -> None:
        self._connection.register(_BATCH, self._table)

    def __exit__(self, *exception: object) -> None:
        self._connection.unregister(_BATCH)


def _is_about_values(error: Exception) -> bool:
    """Whether a value could not be converted. What our own SQL raises by ``error()`` is an invalid input."""
    import duckdb

    return isinstance(error, (duckdb.DataError, duckdb.InvalidInputException))


def _number(answer: duckdb.DuckDBPyConnection) -> int:
    row = answer.fetchone()
    return int(row[0]) if row else 0


def _drop_stage(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {_STAGE}")


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return _number(connection.execute(f"SELECT COUNT(*) FROM {DIALECT.table(table)}"))
