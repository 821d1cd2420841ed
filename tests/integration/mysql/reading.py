"""How tests read a table of a real server: by the source itself, without a pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa

import retl
from retl.connectors import MySQL
from retl.connectors.mysql.source import MySQLSource
from retl.model.options import TableOptions
from retl.model.plan import SourcePlan
from retl.model.table import TableSpec, resolve
from retl.testing import Scans
from tests.servers.database import Server
from tests.servers.sql import Row


def spec(table: retl.Table | str) -> TableSpec:
    table = retl.Table(table) if isinstance(table, str) else table
    return resolve(table, table.name or "", TableOptions(), frozenset(), inherited_cursor=None)


@asynccontextmanager
async def opened(server: Server, database: str, **words: Any) -> AsyncIterator[Scans]:
    async with Scans(MySQL(server.url(database), **words).source()) as source:
        yield source


async def query(source: MySQLSource, sql: str) -> list[Row]:
    """The rows of a question that the source asks."""
    async with source.connect() as reader:
        return await reader.query(sql)


async def rows_of(source: Scans, plan: SourcePlan) -> list[Row]:
    """All rows of a plan, slice after slice; what the contract says of a batch is checked."""
    rows: list[Row] = []
    for slice_ in plan.slices:
        async for batch in source.read(plan, slice_):
            batch.validate(full=True)
            assert batch.schema.names == plan.schema.names
            for found, promised in zip(batch.schema.types, plan.schema.types, strict=True):
                assert found == promised or pa.types.is_string(found)
            rows.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return rows


async def read(server: Server, database: str, table: retl.Table | str, **words: Any) -> tuple[pa.Schema, list[Row]]:
    """The columns and the rows of a table, as the source gives them."""
    async with opened(server, database, **words) as source:
        plan = await source.plan(spec(table))
        return plan.schema, await rows_of(source, plan)
