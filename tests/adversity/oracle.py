"""A source that anybody can foretell, a target that can crash, and what each mode promises of the two."""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from retl.connectors.base import SystemInfo
from retl.connectors.sql.reader import SqlReader
from retl.connectors.sql.scan import SqlScan
from retl.connectors.sql.source import SqlSource
from retl.connectors.sql.tables import real_key
from retl.connectors.sqlite.catalog import inspect
from retl.connectors.sqlite.dialect import DIALECT
from retl.connectors.sqlite.session import run_step
from retl.engine.lease import process_identity
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConnectionFailed, SourceError
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.base import Manifest

NO_PROCESS = 2**22 + 1
"""Larger than the number of any process can be."""

BEGINNING = datetime(2024, 2, 28, 23, 59, 50)  # noqa: DTZ001  # as a database keeps it


class Row(NamedTuple):
    """A row; ``at`` is the cursor."""

    id: int
    at: int | None
    text: str


class Fault(NamedTuple):
    """A failure of the source: so many batches from now, and whether it passes."""

    batches: int
    transient: bool


class MemorySource(SqlSource):
    """A table in memory, asked in SQL like any other. Every batch has at most two rows."""

    system: ClassVar[str] = "memory"

    def __init__(self, *, times: bool) -> None:
        """With ``times`` the cursor is a time, else a whole number."""
        self._times = times
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.create_function("retl_hash", -1, hash_of, deterministic=True)
        kind = "DATETIME" if times else "INTEGER"
        self._connection.execute(f'CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, at {kind}, "text" TEXT NOT NULL)')
        self.fault: Fault | None = None
        self.upper: int | None = None
        """The highest cursor value that a plan has seen."""
        self.shown: list[list[Row]] = []
        """The table at each moment when a result was made of it."""
        self.cut = 0
        """Plans in which rows of one cursor value are more than one slice."""

    def close(self) -> None:
        self._connection.close()

    def put(self, row: Row) -> None:
        at = str(BEGINNING + timedelta(seconds=row.at)) if self._times and row.at is not None else row.at
        self._connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", (row.id, at, row.text))

    def delete(self, id: int) -> None:
        self._connection.execute("DELETE FROM t WHERE id = ?", (id,))

    def content(self) -> list[Row]:
        return [Row(id, second(at), text) for id, at, text in self._connection.execute("SELECT * FROM t ORDER BY id")]

    # What a source must do --------------------------------------------------

    async def ping(self) -> SystemInfo:
        return SystemInfo("memory", "1")

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[SqlReader, None]:
        yield MemoryReader(self, self._connection)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SqlScan[Any], None]:
        async with super().open_scan(table, checkpoint, manifest) as scan:
            self.shown.append(self.content())
            self.cut += any(slice_.modulus > 1 for slice_ in scan.plan.slices)
            seen = [row.at for row in self.content() if row.at is not None]
            self.upper = max(seen, default=-1) if self.upper is None else max(self.upper, *seen, -1)
            yield scan

    def fail(self) -> None:
        if self.fault is None:
            return
        if self.fault.batches:
            self.fault = self.fault._replace(batches=self.fault.batches - 1)
            return
        fault, self.fault = self.fault, None
        if fault.transient:
            raise ConnectionFailed("the line was cut.")
        raise SourceError("the table was dropped.")

    async def aclose(self) -> None:
        return None


class MemoryReader(SqlReader):
    """Asks the table in memory."""

    dialect = DIALECT

    def __init__(self, source: MemorySource, connection: sqlite3.Connection) -> None:
        self._source = source
        self._connection = connection

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    async def columns(self, sql: str) -> pa.Schema:
        found = await self.describe("t")
        assert found is not None
        return found.columns  # every statement of a scan selects all of them

    async def list_tables(self) -> list[str]:
        return ["t"]

    async def describe(self, table: str) -> TableSchema | None:
        found = run_step(self._connection, partial(inspect, table))
        return TableSchema(table, found.columns, real_key(found)) if found else None

    async def location(self, table: str) -> str | None:
        return None

    async def stream(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        self._source.shown.append(self._source.content())
        rows = self._connection.execute(sql).fetchall()
        for start in range(0, len(rows), 2):
            self._source.fail()
            types = [pa.string() if pa.types.is_timestamp(kind) else kind for kind in schema.types]
            columns = zip(zip(*rows[start : start + 2], strict=True), types, strict=True)
            yield pa.RecordBatch.from_arrays([pa.array(*column) for column in columns], names=schema.names)


def second(at: int | str | None) -> int | None:
    """A cursor value as the oracle counts it."""
    return round((datetime.fromisoformat(at) - BEGINNING).total_seconds()) if isinstance(at, str) else at


def hash_of(*values: Any) -> int:
    return hash(values) & 0xFFFF


class History:
    """The source's rows, now and ever, and how they change."""

    def __init__(self, random: random.Random, source: MemorySource, *, lookback: int, only_new: bool) -> None:
        self._random = random
        self._source = source
        self._lookback = lookback
        self._only_new = only_new
        self._texts = 0
        self.rows: dict[int, Row] = {}
        self.ever: dict[int, set[Row]] = defaultdict(set)

    def change(self) -> None:
        """One change, of those that the mode's promise allows."""
        choice = self._random.random()
        if self._only_new or choice < 0.35 or not self.rows:
            self._insert(self._random.choice((1, 2, 5, 12)))
        elif choice < 0.75:
            self._put(self._random.choice(list(self.rows)), self._cursor())
        elif choice < 0.85:
            self._put(self._random.choice(list(self.rows)), None)
        else:
            id = self._random.choice(list(self.rows))
            del self.rows[id]
            self._source.delete(id)

    def _insert(self, count: int) -> None:
        """Some rows; often all of them with one cursor value, more than fit into a slice."""
        same = self._random.random() < 0.5
        at = self._cursor()
        for _ in range(count):
            id = self._random.choice([id for id in range(60) if id not in self.rows] or [1000 + len(self.rows)])
            if self._only_new:
                id = 1 + max(self.rows, default=0)
            self._put(id, at)
            at = at if same else self._cursor()

    def _cursor(self) -> int:
        """A cursor value that must not be missed: above the watermark, equal to it, or less than ``lookback`` below."""
        top = max((row.at for row in self.rows.values() if row.at is not None), default=0)
        seen = self._source.upper
        if self._only_new:
            return max(top, -1 if seen is None else seen) + self._random.choice((1, 1, 3))
        lowest = 0 if seen is None else seen - self._lookback
        return self._random.randint(lowest, max(lowest, top + 3))

    def _put(self, id: int, at: int | None) -> None:
        self._texts += 1
        row = Row(id, at, f"v{self._texts}")
        self.rows[id] = row
        self.ever[id].add(row)
        self._source.put(row)


class Disk:
    """The files of a target, and what is left of them by a crash."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self._names = names
        self._held: list[sqlite3.Connection] = []
        self._hold()

    def _hold(self) -> None:
        """Keep the files open: making and removing a WAL with every connection would take most of the time."""
        self._held = [sqlite3.connect(self.folder / name) for name in self._names]
        for connection in self._held:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()

    def close(self) -> None:
        for connection in self._held:
            connection.close()

    def snapshot(self) -> dict[str, bytes]:
        """What the files hold at this instant; the shared memory beside a WAL does not outlive a crash."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if not path.name.endswith("-shm")}

    def crash(self, left: dict[str, bytes]) -> None:
        """Go back to a snapshot, its owner dead."""
        self.close()
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in left.items():
            (self.folder / name).write_bytes(content)
        for path in self.folder.glob("*.db"):
            with closing(sqlite3.connect(path)) as connection, connection:
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'retl_leases'").fetchone():
                    connection.execute("UPDATE retl_leases SET owner = ? WHERE owner IS NOT NULL", (dead_owner(),))
        self._hold()


def dead_owner() -> str:
    """The name of a process of this very machine that does not live."""
    host, _, kernel, started = process_identity().split("/")
    return f"{host}/{NO_PROCESS}/{kernel}/{started}/0"


def read(path: Path, table: str = "copy") -> list[Row] | None:
    """A table as a reader sees it; ``None`` where there is none."""
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return None
        rows = connection.execute(f'SELECT id, at, "text" FROM "{table}" ORDER BY id, "text"').fetchall()
    return [Row(id, second(at), text) for id, at, text in rows]


def tables(path: Path) -> list[str]:
    """The tables of a target but those of the store."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return [name for (name,) in found if not name.startswith("retl_")]
