"""How tests read a table of a real server: by the source itself, without a pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import pyarrow as pa

import retl
from retl.connectors import PostgreSQL
from retl.model.checkpoint import Checkpoint
from retl.model.options import TableOptions
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec, resolve
from retl.testing import Scans
from tests.servers.postgres import PostgresServer, rows
from tests.servers.sql import Row


def spec(table: retl.Table | str) -> TableSpec:
    table = retl.Table(table) if isinstance(table, str) else table
    return resolve(table, table.name or "", TableOptions(), frozenset(), inherited_cursor=None)


def run(server: PostgresServer, database: str, *statements: str) -> list[Row]:
    """Run statements one after another as a superuser; the rows of the last one."""
    found: list[Row] = []
    with closing(server.connect(database)) as connection:
        for statement in statements:
            found = rows(connection, statement)
    return found


@asynccontextmanager
async def opened(server: PostgresServer, database: str, **words: Any) -> AsyncIterator[Scans]:
    """The source as a user who may only read."""
    async with Scans(PostgreSQL(server.as_reader(database).url(database), **words).source()) as source:
        yield source


async def rows_of(source: Scans, plan: SourcePlan) -> list[Row]:
    """All rows of a plan, slice after slice; what the contract says of a batch is checked."""
    found: list[Row] = []
    for slice_ in plan.slices:
        async for batch in source.read(plan, slice_):
            batch.validate(full=True)
            assert batch.schema.names == plan.schema.names
            for came, promised in zip(batch.schema.types, plan.schema.types, strict=True):
                assert came == promised or pa.types.is_string(came)
            found.extend(zip(*map(values, batch.columns), strict=True))
    return found


def values(column: pa.Array) -> Sequence[Any]:
    """Its values; times as canonical text."""
    typed = pa.types.is_temporal(column.type)
    found: Sequence[Any] = (column.cast(pa.string()) if typed else column).to_pylist()
    return found


async def read(
    server: PostgresServer, database: str, table: retl.Table | str, **words: Any
) -> tuple[pa.Schema, list[Row]]:
    """The columns and the rows of a table, as the source gives them."""
    async with opened(server, database, **words) as source:
        plan = await source.plan(spec(table))
        return plan.schema, await rows_of(source, plan)


async def planned(
    server: PostgresServer, database: str, table: retl.Table, checkpoint: Checkpoint | None = None, **words: Any
) -> SourcePlan:
    async with opened(server, database, **words) as source:
        return await source.plan(spec(table), checkpoint or Checkpoint())
