"""A DuckDB file with the engine's side of a scan, for tests that look at what a target did."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from retl.connectors import DuckDB
from retl.connectors.base import CommitResult, TableWriter
from retl.model.checkpoint import Fence, FencedCheckpoint
from retl.model.plan import WriteSpec
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.testing import table_spec
from retl.testing.target_base import Session
from tests.support import Row, Warehouse

PEOPLE = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])


class Scene(Warehouse):
    """A target file; ``session`` plays one owner of the pipeline."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.pipelines = 0

    @asynccontextmanager
    async def session(self, **options: Any) -> AsyncIterator[Session]:
        async with Session.of(DuckDB(str(self.path), **options).target()) as session:
            yield session

    def rows(self, table: str, columns: str = "*") -> list[Row]:
        """All rows, sorted."""
        return sorted(self.run(f"SELECT {columns} FROM {table}"), key=repr)

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        found = self.run("SELECT table_name FROM duckdb_tables() ORDER BY table_name")
        return [name for (name,) in found if not name.startswith("retl_")]


@contextmanager
def another_process(path: Path, *, read_only: bool = False) -> Iterator[None]:
    """Another process that has the file open."""
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}, read_only={read_only}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        try:
            yield
        finally:
            other.kill()


def people(*rows: tuple[Any, ...], schema: pa.Schema = PEOPLE) -> pa.RecordBatch:
    """Rows of ``schema``, given as tuples."""
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    arrays = [pa.array(values, column.type) for values, column in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def spec(to: str = "people", **words: Any) -> TableSpec:
    return table_spec("people", to=to, **{"key": "id", **words})


async def scan(
    session: Session,
    batches: Sequence[pa.RecordBatch],
    table: TableSpec | None = None,
    *,
    rejects_left: int = 0,
    **words: Any,
) -> CommitResult:
    """A whole scan of one slice, with the batches as they are."""
    load = session.load(table or spec(), **{"schema": batches[0].schema, **words})
    writer = await session.prepare(load)
    try:
        done = await commit(session, writer, batches, rejects_left=rejects_left)
        await session.finish(writer)
    except BaseException:
        await session.abort(writer)
        raise
    return done


async def commit(
    session: Session,
    writer: TableWriter,
    batches: Sequence[pa.RecordBatch],
    *,
    rejects_left: int = 0,
    slice_: Slice | None = None,
) -> CommitResult:
    for batch in batches:
        await writer.write(batch)
    return await session.commit(writer, rejects_left=rejects_left, slice_=slice_)


def old_mark(session: Session) -> FencedCheckpoint:
    """A checkpoint whose fence is of an earlier owner."""
    fenced = session.fenced("never")
    assert fenced is not None
    return FencedCheckpoint(
        Fence(fenced.fence.pipeline, "someone else", fenced.fence.epoch - 1), fenced.table, fenced.checkpoint
    )


def loading(session: Session, table: TableSpec, schema: pa.Schema = PEOPLE, **words: Any) -> WriteSpec:
    return session.load(table, schema=schema, **words)
