"""The engine's side of a scan, for tests that look at what a target did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.testing import table_spec
from retl.testing.target_base import Session

PEOPLE = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])


class Scene(ABC):
    """A system that holds tables; ``session`` plays one owner of the pipeline."""

    @abstractmethod
    def options(self, **words: Any) -> Any:
        """What a pipeline takes."""

    @asynccontextmanager
    async def session(self, **options: Any) -> AsyncIterator[Session]:
        async with Session.of(self.options(**options).target()) as session:
            yield session


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
    await writer.begin(slice_ or Slice(index=0))
    for batch in batches:
        await writer.write(batch)
    return await session.commit(writer, rejects_left=rejects_left, slice_=slice_)
