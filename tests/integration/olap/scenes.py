"""A database on StarRocks or Doris, stand-in or real, for tests that look at what a source makes of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import pyarrow as pa
import pytest

from retl.model.checkpoint import Checkpoint
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.testing import Scans, collect
from tests.fake_olap import FakeOlap, Fault, fresh_database, insert
from tests.servers import olap
from tests.servers.database import Server

KINDS = ("starrocks", "doris")
STARROCKS = pytest.mark.parametrize("system", ["starrocks"], indirect=True)
DORIS = pytest.mark.parametrize("system", ["doris"], indirect=True)


class Scene:
    """One database of one system. Its SQL is that of an administrator."""

    def __init__(self, kind: str, server: Server, database: str) -> None:
        self.kind = kind
        self.server = server
        self.database = database

    @property
    def doris(self) -> bool:
        return self.kind == "doris"

    @property
    def fake(self) -> FakeOlap:
        """The stand-in, for what only it can do."""
        if not isinstance(self.server, FakeOlap):
            pytest.skip("only a stand-in does this on demand")
        return self.server

    @property
    def moment(self) -> str:
        """The type of a time with microseconds."""
        return "DATETIME(6)" if self.doris else "DATETIME"

    def connector(self, **words: Any) -> Any:
        return olap.CONNECTORS[self.kind](olap.url(self.server, self.kind, self.database), **words)

    @asynccontextmanager
    async def source(self, **words: Any) -> AsyncIterator[Scans]:
        async with Scans(self.connector(**words).source()) as source:
            yield source

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.server.query(sql, database=self.database)

    def create(self, table: str, columns: str, *, model: str = "", key: str = "id", partition: str = "") -> None:
        """A table with a real key unless told otherwise."""
        model = model or ("UNIQUE" if self.doris else "PRIMARY")
        self.run(
            f"CREATE TABLE {table} ({columns}) {model} KEY ({key}) {partition} DISTRIBUTED BY HASH({key.split(',')[0]}) "
            'BUCKETS 2 PROPERTIES ("replication_num" = "1")'
        )

    def insert(self, table: str, *rows: Sequence[Any]) -> None:
        if isinstance(self.server, FakeOlap):
            self.server.insert(table, rows, self.database)
        else:
            insert(self.server, table, rows, self.database, doris=self.doris)

    async def collect(self, table: str | TableSpec, checkpoint: Checkpoint | None = None, **words: Any) -> pa.Table:
        return await collect(self.connector(**words), table, checkpoint)

    def statements(self) -> list[str]:
        """What the source has sent since the last call."""
        sent = self.fake.statements
        self.fake.forget()
        return sent

    def inject(self, **words: Any) -> Fault:
        return self.fake.inject(Fault(**words))


@contextmanager
def opened(kind: str, server: Server) -> Iterator[Scene]:
    with fresh_database(server) as database:
        yield Scene(kind, server, database)


async def sent(source: Scans, plan: SourcePlan, slice_: Slice | None = None) -> list[pa.RecordBatch]:
    """The batches of one slice, or of all, as they come: columns may be canonical text."""
    batches: list[pa.RecordBatch] = []
    for chosen in [slice_] if slice_ is not None else plan.slices:
        async with aclosing(source.read(plan, chosen)) as stream:
            batches.extend([batch async for batch in stream])
    return batches


def by_id(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: row["id"])


def ids(table: pa.Table) -> list[int]:
    return sorted(table.column("id").to_pylist())


def reads(statements: Sequence[str], table: str) -> list[str]:
    """The statements that read rows of a table, not only numbers about them."""
    return [
        sql
        for sql in statements
        if re.search(rf"FROM (`\w+`\.)?`?{table}`?\b", sql) and "COUNT(*)" not in sql and not sql.endswith("LIMIT 0")
    ]
