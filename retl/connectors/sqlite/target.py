"""SQLite as a target: staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable
from retl.connectors.rows.text import json_text
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.tables import TableChange, describe_refresh, fit, real_key
from retl.connectors.sqlite import schema
from retl.connectors.sqlite.catalog import Table, count, find, inspect
from retl.connectors.sqlite.dialect import DIALECT, STRICT_TYPES, TARGET_DIALECT, TYPES
from retl.connectors.sqlite.file import SQLiteFile, use_wal
from retl.connectors.sqlite.writer import SQLiteWriter
from retl.model.actions import PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError, RetlError, UnsupportedError
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state import sql as state
from retl.state.base import StateStore
from retl.state.sqlite import SqliteStore, run_step

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite


class SQLiteTarget(Target):
    """Writes a SQLite file. See ``retl.connectors.SQLite``."""

    system: ClassVar[str] = "sqlite"
    one_writer: ClassVar[bool] = True
    batch_size = BatchSize(rows=16_384, bytes=2 * 1024 * 1024)

    def __init__(self, options: SQLite) -> None:
        self._file = SQLiteFile(options, read_only=False)
        self._store = SqliteStore(self._file.path, busy_timeout=options.busy_timeout)

    async def ping(self) -> SystemInfo:
        return await self._file.ping()

    async def describe(self, table: str) -> TableSchema | None:
        existing = await self._file.look(inspect, _plain_name(table))
        return TableSchema(table, existing.columns, real_key(existing)) if existing else None

    async def count(self, table: str) -> int:
        return await self._file.look(_count, _plain_name(table))

    async def inspect(self, table: str) -> TargetTable | None:
        return await self._file.look(_inspect, _plain_name(table))

    async def location(self, table: str) -> str | None:
        return await self._file.location(_plain_name(table))

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        return await self._file.look(_preview, _named(spec))

    async def prepare(self, spec: WriteSpec, fenced: FencedCheckpoint | None) -> TableWriter:
        spec = _named(spec)
        await self._file.run(use_wal)
        table, columns = await self._file.transaction(_prepare, spec, fenced)
        writer = SQLiteWriter(self._file, spec, table=table, columns=columns)
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


def _named(spec: WriteSpec) -> WriteSpec:
    """The load with the plain name of its table."""
    return replace(spec, table=replace(spec.table, to=_plain_name(spec.table.to)))


def _plain_name(table: str) -> str:
    """A table's own name. Raises ``ConfigError`` for what is none, or is kept for others."""
    *schema_name, name = split_name(table)
    if schema_name:
        raise ConfigError(
            f"the SQLite target takes a table's plain name, not {table!r}.",
            remedy=f"write only the name: to = {json_text(name)}. A name that has dots is quoted: to = '{DIALECT.identifier(table)}'.",
        )
    # In an upsert `excluded` is what could not be inserted, whatever table has that name.
    if name.lower().startswith(("sqlite_", "retl_", "_retl_")) or name.lower() == "excluded":
        raise ConfigError(f"{name!r} is a reserved name.", remedy="choose another name with to.")
    return name


def _look(connection: sqlite3.Connection, spec: WriteSpec) -> tuple[Table | None, TableChange]:
    """The table that is there, and what has to be done to it. Raises ``ConfigError`` for what cannot be done."""
    table = schema.check_table(connection, spec)
    columns, limit = len(spec.schema.names), connection.getlimit(sqlite3.SQLITE_LIMIT_COLUMN)
    if columns > limit:
        raise UnsupportedError(
            f"{columns:,} columns are more than the {limit:,} that this SQLite gives a table.",
            remedy="choose fewer with columns or exclude.",
        )
    if table and spec.table.pre_action is PreAction.SWAP:
        schema.check_swap(connection, spec, table.name)
    types = STRICT_TYPES if table and table.strict else TYPES
    existing = inspect(connection, spec.table.to) if table else None
    return table, fit(spec, existing, TARGET_DIALECT, types)


def _preview(connection: sqlite3.Connection, spec: WriteSpec) -> TargetPreview:
    table, change = _look(connection, spec)
    existing = inspect(connection, spec.table.to) if table else None
    plan = describe_refresh(spec, existing, change, TARGET_DIALECT)
    if table is None:
        return plan
    if not change.added:
        # Whatever the table calls on when it is written: collations, functions, the tables of its triggers.
        values = ", ".join("?" * len(change.columns))
        insert = (
            f"INSERT INTO {DIALECT.identifier(table.name)} ({DIALECT.identifiers(change.columns)}) VALUES ({values})"
        )
        connection.execute(f"EXPLAIN {insert}", [None] * len(change.columns))
    return replace(plan, warnings=(*plan.warnings, *_warnings(connection, table.name)))


def _warnings(connection: sqlite3.Connection, table: str) -> list[str]:
    parents = connection.execute('SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)', (table,)).fetchall()
    if not parents:
        return []
    listed = ", ".join(repr(name) for (name,) in parents)
    return [
        f"the foreign key of {table!r} to {listed} is not checked, since tables come in any order: PRAGMA foreign_key_check finds orphans."
    ]


def _prepare(
    connection: sqlite3.Connection, spec: WriteSpec, fenced: FencedCheckpoint | None
) -> tuple[str, tuple[str, ...]]:
    """Everything that must happen before the first row, in one transaction."""
    if fenced is not None:
        run_step(connection, state.save(fenced))
    elif spec.fence is not None and spec.state_in_target:
        run_step(connection, state.prove(spec.fence))
    schema.remove_leftovers(connection, spec)
    existing, change = _look(connection, spec)
    table = schema.begin_refresh(connection, spec, existing)
    for statement in change.statements(TARGET_DIALECT, table):
        connection.execute(statement)
    return table, change.columns


def _count(connection: sqlite3.Connection, table: str) -> int:
    return count(connection, table) if find(connection, table) else 0


def _inspect(connection: sqlite3.Connection, table: str) -> TargetTable:
    if find(connection, table) is None:
        return TargetTable(exists=False, empty=True)
    row = connection.execute(f"SELECT 1 FROM {DIALECT.identifier(table)} LIMIT 1").fetchone()
    return TargetTable(exists=True, empty=row is None)
