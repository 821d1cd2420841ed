"""A database with the engine's side of a scan, for tests that look at what a target did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa

from retl.connectors import MySQL
from retl.connectors.base import CommitResult, TableWriter
from retl.model.table import TableSpec
from retl.model.window import Slice
from retl.testing import table_spec
from retl.testing.target_base import Session
from tests.servers.database import Row, Server

PEOPLE = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])


class Scene:
    """One database of a server; ``session`` plays one owner of the pipeline."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database
        self.mariadb = server.product == "MariaDB"

    def run(self, *statements: str) -> list[Row]:
        """Run statements one after another; the rows of the last one."""
        rows: list[Row] = []
        connection = self.server.connect(self.database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                    rows = list(cursor.fetchall())
        finally:
            connection.close()
        return rows

    def rows(self, table: str, columns: str = "*") -> list[Row]:
        """All rows, sorted."""
        return sorted(self.run(f"SELECT {columns} FROM {table}"), key=repr)

    async def many(self, table: str) -> list[Row]:
        """All rows, sorted, read in a thread: what watches for blocking calls makes each of a test's own slow."""
        return sorted(await self.server.run(f"SELECT * FROM {table}", database=self.database))

    def tables(self) -> list[str]:
        """The tables but those of the state store."""
        return sorted(name for (name,) in self.run("SHOW TABLES") if not name.startswith("retl_"))

    def types(self, table: str) -> dict[str, str]:
        """The columns' types as the server spells them."""
        return {name: kind for name, kind, *_ in self.run(f"SHOW COLUMNS FROM {table}")}

    def options(self, **words: Any) -> MySQL:
        """As a user with the rights that the docs ask for, and no others."""
        server = self.server.as_documented(self.database) if self.database else self.server
        return MySQL(server.url(self.database), **words)

    @asynccontextmanager
    async def session(self, **options: Any) -> AsyncIterator[Session]:
        async with Session.of(self.options(**options).target()) as session:
            yield session


def people(*rows: tuple[Any, ...], schema: pa.Schema = PEOPLE) -> pa.RecordBatch:
    """Rows of ``schema``, given as tuples."""
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    arrays = [pa.array(values, column.type) for values, column in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def texts(schema: pa.Schema, *rows: tuple[str | None, ...]) -> pa.RecordBatch:
    """Rows of a schema as canonical text."""
    return pa.RecordBatch.from_arrays(
        [pa.array(values, pa.string()) for values in zip(*rows, strict=True)], schema.names
    )


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
