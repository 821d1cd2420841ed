"""SQLite as a target: staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from retl.connectors.base import SystemInfo, TableWriter, Target
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import TableChange, describe_refresh, fit
from retl.connectors.sqlite import schema
from retl.connectors.sqlite.dialect import DIALECT, TYPES
from retl.connectors.sqlite.file import SQLiteFile, inspect, real_key, use_wal
from retl.connectors.sqlite.writer import SQLiteWriter
from retl.model.checkpoint import Mark
from retl.model.errors import ConfigError, RetlError
from retl.model.plan import BatchSize, Load, TargetPlan
from retl.model.schema import TableSchema
from retl.state import sql as state
from retl.state.base import StateStore
from retl.state.sqlite import SqliteStore, run_step

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite


class SQLiteTarget(Target):
    """Writes a SQLite file. See ``retl.connectors.SQLite``."""

    system: ClassVar[str] = "sqlite"
    batch_size = BatchSize(rows=16_384, bytes=2 * 1024 * 1024)

    def __init__(self, options: SQLite) -> None:
        self._file = SQLiteFile(options, read_only=False)
        self._store = SqliteStore(options.path, busy_timeout=options.busy_timeout)

    async def ping(self) -> SystemInfo:
        return await self._file.ping()

    async def describe(self, table: str) -> TableSchema | None:
        existing = await self._file.look(inspect, table)
        return TableSchema(table, existing.columns, real_key(existing)) if existing else None

    async def count(self, table: str) -> int:
        return await self._file.look(_count, table)

    async def preview(self, load: Load) -> TargetPlan:
        _check_name(load.table.to)
        existing = await self._file.look(inspect, load.table.to)
        if existing is not None and load.table.replaces:
            await self._file.look(schema.check_plain_table, load.table.to)
        return describe_refresh(load, existing, fit(load, existing, DIALECT, TYPES), DIALECT)

    async def prepare(self, load: Load, mark: Mark | None) -> TableWriter:
        _check_name(load.table.to)
        await self._file.run(use_wal)
        table, columns = await self._file.transaction(_prepare, load, mark)
        writer = SQLiteWriter(self._file, load, table=table, columns=columns)
        try:
            await writer.open()
        except BaseException:
            with suppress(RetlError):
                await writer.abort()
            raise
        return writer

    def state_store(self) -> StateStore:
        return self._store

    async def release(self) -> None:
        await self._file.close()

    async def aclose(self) -> None:
        await self._file.close()
        await self._store.aclose()


def _check_name(table: str) -> None:
    if table.lower().startswith(("sqlite_", "retl_", "_retl_")):
        raise ConfigError(f"{table!r} is a reserved name.", remedy="choose another name with to.")
    *schema_name, name = split_name(table)
    if schema_name or name != table:
        # A refresh looks its tables up by their plain names, and a file has no schema but its own.
        plain = not set(name) & set('"`.')
        raise ConfigError(
            f"the SQLite target takes a table's plain name, not {table!r}.",
            remedy=f'write only the name: to = "{name}".'
            if plain
            else "choose a name without dots and quotes with to.",
        )


def _prepare(connection: sqlite3.Connection, load: Load, mark: Mark | None) -> tuple[str, tuple[str, ...]]:
    """Everything that must happen before the first row, in one transaction."""
    if mark is not None:
        run_step(connection, state.save(mark))
    elif load.fence is not None and load.state_in_target:
        run_step(connection, state.prove(load.fence))
    schema.remove_leftovers(connection, load)
    existing = inspect(connection, load.table.to)
    change = fit(load, existing, DIALECT, TYPES)
    table = schema.begin_refresh(connection, load, existed=existing is not None)
    _apply(connection, change, table)
    return table, change.columns


def _apply(connection: sqlite3.Connection, change: TableChange, table: str) -> None:
    for statement in change.statements(DIALECT, table):
        connection.execute(statement)


def _count(connection: sqlite3.Connection, table: str) -> int:
    if inspect(connection, table) is None:
        return 0
    (rows,) = connection.execute(f"SELECT COUNT(*) FROM {DIALECT.table(table)}").fetchone()
    return int(rows)
