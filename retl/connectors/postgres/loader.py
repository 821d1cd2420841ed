"""Stage the rows of a slice in an unlogged table beside the target, by COPY.

Its columns have the target's types, so that the server's own casts say what is wrong with a
value. It is an ordinary table: temporary ones would bloat the catalog, and are lost behind a
pooler. It is made once for a load, when that first stages rows, and dropped at its end; one
that a crash left, the next scan of its table drops.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio.to_thread
import pyarrow as pa

from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.encode import CopyData, Encoder
from retl.connectors.postgres.existing import PostgresTable
from retl.connectors.postgres.in_flight import InFlight, encoded
from retl.connectors.postgres.merge import ROW
from retl.connectors.postgres.partial_copy import copy_partly
from retl.connectors.postgres.session import PostgresSession
from retl.connectors.postgres.types import logical_field
from retl.connectors.rows.rejects import MOST_SHOWN, RejectCollector, bisect, plain_rows
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import RowError, Statement, Step, execute, query
from retl.connectors.sql.tables import stage_name
from retl.model.errors import TargetError

ANALYZED_ROWS = 50_000
"""So many rows are worth statistics: staged ones, before they are joined, and those of a table that they were written to."""
_OF_COLUMN = re.compile(r"column c(\d+)\b")


class PostgresLoader(BulkLoader):
    """The staging table of one load. Its columns are ``c0``, ``c1`` ..., which clash with no column of a target."""

    typed: bool = True
    row: str = ROW

    def __init__(self, load: PreparedLoad, worker: int = 0) -> None:
        """``worker``: which of the staging tables of the load, 0 to 9."""
        self._load = load
        self._columns = list(load.columns)
        self.names = {name: f"c{number}" for number, name in enumerate(load.columns)}
        fields = {name: _stored(load, own) for name, own in load.columns.items()}
        strict = [name for name, there in fields.items() if not there.nullable]
        self.encoder = Encoder(load.spec.schema, fields, key=_strict_key(load), strict=strict)
        existing = load.existing
        blank = isinstance(existing, PostgresTable) and existing.is_blank
        self._joined = [self.names[name] for name in load.spec.key if load.keyed and not blank]
        """Its columns by which it is joined with the target."""
        number = load.spec.epoch * 10 + worker
        name = stage_name(load.target.name, load.spec.pipeline, number, longest=DIALECT.longest_name)
        self._name = load.target.beside(name)
        self._next = 0
        """The number of the next row."""
        self._staged = 0
        self._made = False
        self._maybe_made = False
        self._dirty = False
        """Whether the table holds rows that were cleared."""
        self.in_flight = InFlight()

    @property
    def table(self) -> str:
        return self._name.sql

    def create(self) -> Step[None]:
        """Nothing yet: a load may copy all of its rows straight into their table."""
        return
        yield  # a step

    def _create(self) -> str:
        columns = ", ".join(
            f"{DIALECT.identifier(own)} AS {self.names[name]}" for name, own in self._load.columns.items()
        )
        rows = f"SELECT CAST(NULL AS bigint) AS {ROW}, {columns} FROM {self._load.loaded.sql} WITH NO DATA"
        create = f"CREATE UNLOGGED TABLE {self.table} WITH (autovacuum_enabled = false) AS {rows}"
        return f"DROP TABLE IF EXISTS {self.table}; {create}"

    def clear(self) -> Step[None]:
        """The rows go when the next ones come: the last of a load go with the table."""
        self._dirty = self._dirty or self._staged > 0
        self._staged = 0
        return
        yield  # a step

    def drop(self) -> Step[None]:
        if self._maybe_made:
            yield Statement(f"DROP TABLE IF EXISTS {self.table}")

    def rows(self, where: str) -> Step[list[dict[str, Any]]]:
        shown = ", ".join(f"{DIALECT.as_text(name)} AS {name}" for name in self.names.values())
        found = yield query(f"SELECT {shown} FROM {self.table} WHERE {where}")
        return [dict(zip(self._columns, row, strict=True)) for row in found]

    async def gather(self, session: Session) -> None:
        await self.in_flight.settle()
        if not self._staged:
            await self._make(session)
        if self._staged >= ANALYZED_ROWS and self._joined:
            await session.run(self._analyze)

    def _first(self) -> list[str]:
        """The statements after which the table is there, without the rows that were cleared."""
        if not self._made:
            self._maybe_made = True
            return [self._create()]
        return [f"TRUNCATE TABLE {self.table}"] if self._dirty else []

    async def _make(self, session: Session) -> None:
        await session.run(partial(execute, self._first()))
        self._is_ready()

    def _is_ready(self) -> None:
        """Note that they have run."""
        self._made, self._dirty = True, False

    def _analyze(self) -> Step[None]:
        yield Statement(f"ANALYZE {self.table} ({', '.join(self._joined)})")

    # Staging ----------------------------------------------------------------

    async def stage(self, session: Session, batch: pa.RecordBatch, rejects: RejectCollector) -> pa.RecordBatch:
        """See ``BulkLoader``. The batch is encoded while the one before it is on its way; ``settle`` waits for the last."""
        assert isinstance(session, PostgresSession)
        await self.meet(session)
        kept, data = await encoded(partial(self._encoded, batch, rejects), batch.nbytes)
        if kept.num_rows:
            await self.in_flight.send(partial(self._load_batch, session, kept, data, rejects), batch.nbytes)
        return kept

    async def meet(self, session: PostgresSession) -> None:
        """Let the encoder know the server, before anything is on its way there."""
        if self.encoder.sends_binary is None:
            self.encoder.meet((await session.connection()).server.text)

    def _encoded(self, batch: pa.RecordBatch, rejects: RejectCollector) -> tuple[pa.RecordBatch, CopyData]:
        kept = rejects.leave_out(batch, self.encoder.invalid_values(batch))
        return kept, self.encoder.encode(kept, self._numbered(kept))

    def _csv(self, batch: pa.RecordBatch) -> CopyData:
        return self.encoder.csv(batch, self._numbered(batch))

    def _numbered(self, batch: pa.RecordBatch) -> int:
        """The number of the first row."""
        first, self._next = self._next, self._next + batch.num_rows
        return first

    async def _load_batch(
        self, session: PostgresSession, batch: pa.RecordBatch, data: CopyData, rejects: RejectCollector
    ) -> None:
        if await self._copy(session, batch, data) is None:
            return
        rejected = await self._search(session, batch, rejects)
        if data.is_binary and not rejected:
            self.encoder.sends_binary = False  # it takes the same rows as CSV

    async def _copy(self, session: PostgresSession, batch: pa.RecordBatch, data: CopyData) -> str | None:
        """Stage all rows or none, with what the table needs first, in one transaction; returns why not."""
        columns = [ROW, *self.names.values()]
        try:
            arrived = await session.copy_in(self._name, columns, data.data, before=self._first(), **data.options)
        except RowError as refused:
            return refused.reason
        self._is_ready()
        if arrived != batch.num_rows:
            raise TargetError(f"{arrived:,} of {batch.num_rows:,} rows arrived in the stage.", system=DIALECT.name)
        self._staged += batch.num_rows
        return None

    async def _search(self, session: PostgresSession, batch: pa.RecordBatch, rejects: RejectCollector) -> int:
        """Stage a batch but for its rejected rows, of which no more are sought than a scan may have; how many they are.

        As CSV: of that the server says which value it does not take, and why.
        """
        await self._make(session)
        most = max(0, self._load.spec.table.max_rejects + MOST_SHOWN - len(rejects.rows))
        left_out = await self._copy_partly(session, batch)
        if left_out is None:
            rejected = await self._halved(session, batch, most)
        else:
            rejected = {
                number: await self._reject_reason(session, batch.slice(number, 1)) for number in left_out[: most + 1]
            }
        for number, row in zip(rejected, plain_rows(batch.take(pa.array(list(rejected), pa.int64()))), strict=True):
            rejects.add(row, *self._told(rejected[number]))
        return len(rejected)

    async def _halved(self, session: PostgresSession, batch: pa.RecordBatch, most: int) -> dict[int, str]:
        """Stage a batch in parts, down to the single rejected rows; returns these, each with the reason."""
        search, rejected = bisect(0, batch.num_rows - 1, most), dict[int, str]()
        low, high = next(search, (0, batch.num_rows - 1))
        with suppress(StopIteration):
            while True:
                reason = await self._try(session, batch.slice(low, high - low + 1))
                if reason is not None and low == high:
                    rejected[low] = reason
                low, high = search.send(reason)
        return rejected

    async def _reject_reason(self, session: PostgresSession, row: pa.RecordBatch) -> str:
        """Why the server leaves a row out."""
        reason = await self._try(session, row)
        if reason is None:
            raise TargetError("the server takes a row that it has just left out.", system=DIALECT.name)
        return reason

    async def _try(self, session: PostgresSession, part: pa.RecordBatch) -> str | None:
        return await self._copy(session, part, await anyio.to_thread.run_sync(self._csv, part))

    async def _copy_partly(self, session: PostgresSession, batch: pa.RecordBatch) -> list[int] | None:
        """Stage the rows that the server takes; the numbers of the others, if it tells."""
        into = f"{self.table} ({', '.join([ROW, *self.names.values()])})"
        data = await anyio.to_thread.run_sync(self._csv, batch)
        left_out = await copy_partly(await session.connection(), into, batch, data.data)
        if left_out is not None:
            self._staged += batch.num_rows - len(left_out)
        return left_out

    def _told(self, place: str) -> tuple[str, str]:
        """The server's reason without the line of COPY, and the column, by its name in batches, that it names."""
        reason, _, line = place.partition("; COPY ")
        found = _OF_COLUMN.search(line)
        return reason, self._columns[int(found[1])] if found else ""


def _stored(load: PreparedLoad, own: str) -> pa.Field:
    """A column with the type that a domain is made of."""
    there = load.existing.columns.field(own)
    known = load.existing.column(own) if isinstance(load.existing, PostgresTable) else None
    return logical_field(own, known.base, there.nullable) if known else there


def _strict_key(load: PreparedLoad) -> Sequence[str]:
    """The columns of the key, unless NULL in them identifies a row as any value does."""
    table = load.existing
    index = table.arbiter(load.key) if isinstance(table, PostgresTable) else None
    return () if index is not None and index.nulls_not_distinct else load.spec.key
