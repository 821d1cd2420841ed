"""Read one snapshot over several connections: parts of a table side by side, slices before their turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import pyarrow as pa

from retl.connectors.net.fan_in import FanIn, Producer, Put, fan_in
from retl.connectors.net.pool import ConnectionPool, Reservation
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.errors import SourceRefused
from retl.connectors.postgres.rows import copied
from retl.connectors.postgres.snapshot import Snapshot
from retl.model.errors import ConnectionFailed, RetlError

LARGE_ROWS = 100_000
"""Fewer rows are read over one connection."""
LEAST_BLOCKS = 1024
"""A part is no smaller, which is 8 MB as a rule: each costs a round trip."""
_PARTS = 8
"""For each connection, so that all of them end at about the same time."""
_AHEAD = 32
"""Maximum number of batches that a slice is read before its turn, of about 1 MB each."""
_JOIN_SECONDS = 2.0
"""A pooler may have no session left for a further connection, until this very scan ends."""
_TID_RANGES_SINCE = 140_000
_EXPORT = """
SELECT pg_export_snapshot(), (SELECT pg_relation_size(c.oid) / current_setting('block_size')::int
  FROM pg_class AS c JOIN pg_am AS a ON a.oid = c.relam
  WHERE c.oid = {oid} AND a.amname = 'heap' AND NOT EXISTS (SELECT 1 FROM pg_inherits AS i WHERE i.inhparent = c.oid))"""


@dataclass
class Readers:
    """How many connections of a door one scan may read with; 1 once the server has refused to share a snapshot."""

    most: int


class SharedSnapshot:
    """The snapshot of a scan, and further connections in it, while the pool has room for them.

    The connection that has exported it never reads before its turn: it answers questions in between, and without it
    the snapshot is gone.
    """

    def __init__(
        self,
        pool: ConnectionPool[PostgresConnection],
        snapshot: Snapshot[PostgresConnection],
        mode: str,
        readers: Readers,
    ) -> None:
        self._pool = pool
        self._snapshot = snapshot
        self._mode = mode
        self._readers = readers
        self._helpers: list[tuple[Reservation[PostgresConnection], PostgresConnection]] | None = None
        self.ahead: Ahead | None = None
        """What is read before its turn."""
        self.blocks = 0
        """The size of the table, where it can be cut by it."""

    @property
    def may_be_shared(self) -> bool:
        return self._readers.most > 1

    @property
    def helpers(self) -> Sequence[PostgresConnection]:
        """The connections besides the first one."""
        return [connection for _, connection in self._helpers or () if connection.is_healthy]

    async def share(self, oid: int) -> None:
        """Export the snapshot, once, and have others join it. Raises ``ConnectionFailed`` where that ends it.

        ``oid``: of the table that is read; 0 if there is none.
        """
        if self._helpers is not None:
            return
        self._helpers = []
        first = await self._snapshot.connection()
        server = first.server
        if server.product != "PostgreSQL" or "-YB-" in server.text or server.number < _TID_RANGES_SINCE:
            return
        try:
            ((name, blocks),) = await first.query(_EXPORT.format(oid=oid))
        except SourceRefused as error:
            self._readers.most = 1
            raise ConnectionFailed(
                f"the snapshot at {first.place} cannot be shared: {error.reason}.",
                remedy="nothing: the scan is tried again over one connection.",
            ) from error
        self.blocks = int(blocks or 0)
        while len(self._helpers) < self._readers.most - 1 and await self._join(name):
            pass

    async def _join(self, name: str) -> bool:
        """One more connection in the snapshot; not where there is no room for it, here or at the server."""
        reservation = self._pool.reserve_now()
        if reservation is None:
            return False
        joined = False
        try:
            with anyio.move_on_after(_JOIN_SECONDS):
                connection = await reservation.connection()
                await connection.begin(f"{self._mode}; SET TRANSACTION SNAPSHOT '{name}'")
                self._helpers = [*(self._helpers or ()), (reservation, connection)]
                joined = True
        except RetlError:  # another server of several, or one that allows no more connections
            pass
        finally:
            if not joined:
                reservation.abort()
                reservation.leave()
        return joined

    async def leave(self) -> None:
        """Give the connections back; one that still reads is cut."""
        if self.ahead is not None:
            await self.ahead.close()
        helpers, self._helpers = self._helpers, None
        for reservation, connection in helpers or ():
            try:
                if connection.is_healthy:
                    await connection.rollback()
            except RetlError:
                connection.abort()
            finally:
                reservation.leave()


def parts(blocks: int, readers: int) -> list[str]:
    """Conditions that cut a table of so many blocks; the last one has no end, since a table grows."""
    size = max(LEAST_BLOCKS, -(-blocks // (readers * _PARTS)))
    starts = range(0, max(1, blocks), size)
    below = [f" AND ctid < '({start},0)'" for start in starts[1:]]
    return [f"ctid >= '({start},0)'{end}" for start, end in zip(starts, [*below, ""], strict=True)]


async def side_by_side(
    connections: Sequence[PostgresConnection], statements: Sequence[str], schema: pa.Schema
) -> AsyncGenerator[pa.RecordBatch, None]:
    """The rows of all statements, in no order."""
    left = iter(statements)
    every = [_reads(connection, left, schema) for connection in connections]
    async with aclosing(fan_in(every, ahead=len(every))) as batches:
        async for batch in batches:
            yield batch


def _reads(connection: PostgresConnection, left: Iterator[str], schema: pa.Schema) -> Producer[pa.RecordBatch]:
    async def read(put: Put[pa.RecordBatch]) -> None:
        for statement in left:
            async with aclosing(copied(connection, statement, schema)) as batches:
                async for batch in batches:
                    await put(batch)

    return read


class Ahead:
    """Slices that helpers read before their turn, within bounds of memory; each connection one at a time."""

    def __init__(self, helpers: Sequence[PostgresConnection], statements: Sequence[str], schema: pa.Schema) -> None:
        """``statements``: of all slices, in their order."""
        self._helpers = helpers
        self._statements = statements
        self._schema = schema
        self._begun: dict[int, FanIn[pa.RecordBatch]] = {}

    def begin(self, turn: int) -> None:
        """Where it is the turn of a slice that nobody reads ahead, begin those that follow it, one for each helper."""
        following = range(turn + 1, len(self._statements))
        if self._begun:
            return
        for number, helper in zip(following, self._helpers, strict=False):
            if helper.is_healthy:
                read = _reads(helper, iter([self._statements[number]]), self._schema)
                self._begun[number] = FanIn([read], ahead=_AHEAD)

    def taken(self, turn: int) -> AsyncGenerator[pa.RecordBatch, None] | None:
        """The rows of a slice that is read ahead."""
        begun = self._begun.pop(turn, None)
        return None if begun is None else _items(begun)

    async def close(self) -> None:
        """End what is still read."""
        for begun in self._begun.values():
            await begun.close()


async def _items(begun: FanIn[pa.RecordBatch]) -> AsyncGenerator[pa.RecordBatch, None]:
    try:
        async for batch in begun.items():
            yield batch
    finally:
        await begun.close()
