"""DuckDB as a target: staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable
from retl.connectors.duckdb import schema
from retl.connectors.duckdb.dialect import DIALECT
from retl.connectors.duckdb.file import DuckDBFile, in_transaction
from retl.connectors.duckdb.schema import inspect
from retl.connectors.duckdb.store import DuckDBStore, run_step
from retl.connectors.duckdb.types import TYPES
from retl.connectors.duckdb.writer import DuckDBWriter
from retl.connectors.sql.tables import ExistingTable, describe_refresh, fit, real_key
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError, RetlError
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state import sql as state
from retl.state.base import StateStore
from retl.threads import shielded

if TYPE_CHECKING:
    import duckdb

    from retl.connectors.duckdb import DuckDB


class DuckDBTarget(Target):
    """Writes a DuckDB file. See ``retl.connectors.DuckDB``."""

    system: ClassVar[str] = "duckdb"
    one_writer: ClassVar[bool] = True
    batch_size = BatchSize(rows=122_880, bytes=8 * 1024 * 1024)  # as many rows as DuckDB keeps in a group

    def __init__(self, options: DuckDB) -> None:
        if options.path is None:
            raise ConfigError(
                "a DuckDB target needs a path: what is written to memory would be gone after the run.",
                remedy='name the file, such as path = "warehouse.duckdb".',
                system="duckdb",
            )
        self._file = DuckDBFile(options, read_only=False)
        self._store = DuckDBStore(self._file)

    async def ping(self) -> SystemInfo:
        return await self._file.ping()

    async def describe(self, table: str) -> TableSchema | None:
        existing = await self._file.run(inspect, table)
        return TableSchema(table, existing.columns, real_key(existing)) if existing else None

    async def count(self, table: str) -> int:
        return await self._file.run(_count, table)

    async def inspect(self, table: str) -> TargetTable | None:
        return await self._file.run(_inspect, table)

    async def location(self, table: str) -> str | None:
        return await self._file.location(*schema.locate(table))

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        existing = await self._file.run(_look, spec)
        return describe_refresh(spec, existing, fit(spec, existing, DIALECT, TYPES), DIALECT)

    async def prepare(self, spec: WriteSpec, fenced: FencedCheckpoint | None) -> TableWriter:
        table, columns, spelled = await self._file.run(in_transaction, _prepare, spec, fenced)
        writer = DuckDBWriter(self._file, spec, table=table, columns=columns, spelled=spelled)
        try:
            await writer.open()
        except BaseException:
            with suppress(RetlError):
                await shielded(writer.abort())
            raise
        return writer

    def state_store(self) -> StateStore:
        return self._store

    async def release(self) -> None:
        await self._file.close()

    async def aclose(self) -> None:
        await self._file.close()


def _look(connection: duckdb.DuckDBPyConnection, spec: WriteSpec) -> ExistingTable | None:
    schema.check_table(connection, spec)
    return inspect(connection, spec.table.to, spec.schema.names)


def _prepare(
    connection: duckdb.DuckDBPyConnection, spec: WriteSpec, fenced: FencedCheckpoint | None
) -> tuple[str, list[pa.Field], dict[str, str]]:
    """Everything that must happen before the first row, in one transaction.

    Returns the table to load, the columns to write, and how the table itself spells them.
    """
    if fenced is not None:
        run_step(connection, state.save(fenced))
    elif spec.fence is not None and spec.state_in_target:
        run_step(connection, state.prove(spec.fence))
    existing = _look(connection, spec)
    schema.remove_leftovers(connection, spec)
    change = fit(spec, existing, DIALECT, TYPES)
    table = schema.begin_refresh(connection, spec, existed=existing is not None)
    for statement in change.statements(DIALECT, table):
        connection.execute(statement)
    ready = inspect(connection, table)
    assert ready is not None
    stored = {DIALECT.fold(column.name): column for column in ready.columns}
    columns = [stored[DIALECT.fold(name)].with_name(name) for name in change.columns]
    return table, columns, {name: stored[DIALECT.fold(name)].name for name in change.columns}


def _inspect(connection: duckdb.DuckDBPyConnection, table: str) -> TargetTable:
    if inspect(connection, table) is None:
        return TargetTable(exists=False, empty=True)
    rows = connection.execute(f"SELECT 1 FROM {schema.full_name(*schema.locate(table))} LIMIT 1").fetchall()
    return TargetTable(exists=True, empty=not rows)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    if inspect(connection, table) is None:
        return 0
    return int(connection.execute(f"SELECT COUNT(*) FROM {schema.full_name(*schema.locate(table))}").fetchall()[0][0])
