"""SQLite as a target: a connection for each load, in WAL mode, where one writes at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, cast

from retl.connectors.base import SystemInfo
from retl.connectors.rows.text import json_text
from retl.connectors.sql.dialect import split_name
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad
from retl.connectors.sql.refresh import TableDefinition
from retl.connectors.sql.session import Session
from retl.connectors.sql.statement import Statement, Step, query
from retl.connectors.sql.tables import ExistingTable, TableName, TypeMap
from retl.connectors.sql.target import SqlTarget
from retl.connectors.sqlite.catalog import SQLiteTable, define, inspect, table_names
from retl.connectors.sqlite.dialect import STRICT_TYPES, TARGET_DIALECT, TYPES
from retl.connectors.sqlite.file import SQLiteFile, use_wal
from retl.connectors.sqlite.loader import SQLiteLoader
from retl.connectors.sqlite.merge import SQLiteMerge
from retl.connectors.sqlite.session import SQLiteSession
from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import BatchSize, WriteSpec
from retl.state.base import StateStore
from retl.state.sqlite import SqliteStore
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.sqlite import SQLite

_MOST_COLUMNS = 2_000
"""Most columns of a table in a default build of SQLite."""


class SQLiteTarget(SqlTarget):
    """Writes a SQLite file. See ``retl.connectors.SQLite``."""

    system: ClassVar[str] = "sqlite"
    batch_size = BatchSize(rows=16_384, bytes=2 * 1024 * 1024)
    one_writer: ClassVar[bool] = True
    dialect = TARGET_DIALECT
    merges = SQLiteMerge

    def __init__(self, options: SQLite) -> None:
        self._options = options
        self._store = SqliteStore(SQLiteFile(options, read_only=False).path, busy_timeout=options.busy_timeout)
        self._loads: set[Session] = set()

    def _file(self) -> SQLiteFile:
        return SQLiteFile(self._options, read_only=False)

    @asynccontextmanager
    async def questions(self) -> AsyncGenerator[Session, None]:
        session = SQLiteSession(self._file())
        try:
            yield session
        finally:
            await shielded(session.close())

    async def connect(self) -> Session:
        session = SQLiteSession(self._file())
        self._loads.add(session)
        try:
            await session.file.run(use_wal)
        except BaseException:
            await shielded(self.give_back(session))
            raise
        return session

    async def give_back(self, session: Session) -> None:
        self._loads.discard(session)
        await session.close()

    async def ping(self) -> SystemInfo:
        file = self._file()
        try:
            return await file.ping()
        finally:
            await shielded(file.close())

    async def location(self, table: str) -> str | None:
        file, name = self._file(), self.locate(table).name
        try:
            return await file.location(name)
        finally:
            await shielded(file.close())

    def state_store(self) -> StateStore:
        return self._store

    async def aclose(self) -> None:
        for session in list(self._loads):
            await self.give_back(session)
        await self._store.aclose()

    # Tables -----------------------------------------------------------------

    def locate(self, table: str) -> TableName:
        *schema, name = split_name(table)
        if schema:
            raise ConfigError(
                f"the SQLite target takes a table's plain name, not {table!r}.",
                remedy=f"write only the name: to = {json_text(name)}. A name that has dots is quoted: "
                f"to = '{TARGET_DIALECT.identifier(table)}'.",
            )
        # In an upsert `excluded` means the new row, even if a table has that name.
        if name.lower().startswith(("sqlite_", "retl_", "_retl_")) or name.lower() == "excluded":
            raise ConfigError(f"{name!r} is a reserved name.", remedy="choose another name with to.")
        return TableName(name, None, TARGET_DIALECT)

    def find(self, name: TableName) -> Step[ExistingTable | None]:
        return (yield from inspect(name.name))

    def table_names(self, name: TableName) -> Step[list[str]]:
        return (yield from table_names(("table",)))

    def define(self, existing: ExistingTable) -> Step[TableDefinition]:
        return (yield from define(cast(SQLiteTable, existing)))

    def check(self, spec: WriteSpec, name: TableName, existing: ExistingTable | None) -> Step[Sequence[str]]:
        if len(spec.schema.names) > _MOST_COLUMNS:
            raise UnsupportedError(
                f"{len(spec.schema.names):,} columns are more than the {_MOST_COLUMNS:,} that SQLite gives a table.",
                remedy="choose fewer with columns or exclude.",
            )
        if existing is None:
            return []
        table = cast(SQLiteTable, existing)
        _check_kind(spec, table, name.name)
        _check_swap(spec, table, name.name)
        parents = yield query('SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)', name.name)
        if not parents:
            return []
        listed = ", ".join(repr(parent) for (parent,) in parents)
        unchecked = f"the foreign key of {name.name!r} to {listed} is not checked, since tables come in any order"
        return [f"{unchecked}: PRAGMA foreign_key_check finds orphans."]

    def check_insert(self, name: TableName, columns: Sequence[str]) -> Step[None]:
        """Everything that a write to the table uses: collations, functions, the tables of its triggers."""
        values = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {name.sql} ({TARGET_DIALECT.identifiers(columns)}) VALUES ({values})"
        yield Statement(f"EXPLAIN {insert}", (None,) * len(columns))

    def types(self, existing: ExistingTable | None) -> TypeMap:
        return STRICT_TYPES if existing is not None and cast(SQLiteTable, existing).strict else TYPES

    def loader(self, load: PreparedLoad) -> BulkLoader:
        return SQLiteLoader(load)


def _check_kind(spec: WriteSpec, table: SQLiteTable, name: str) -> None:
    if table.kind == "view":
        raise UnsupportedError(f"{name!r} is a view, which cannot be written.", remedy="name a table with to.")
    if table.kind == "shadow":
        raise UnsupportedError(
            f"{name!r} is a part of a virtual table, which only SQLite itself may write.",
            remedy="name another table with to.",
        )
    if table.kind == "virtual" and spec.table.pre_action is not PreAction.NONE:
        raise UnsupportedError(
            f"{name!r} is a virtual table, which cannot be refreshed as a whole.", remedy='use pre_action = "none".'
        )


def _check_swap(spec: WriteSpec, table: SQLiteTable, name: str) -> None:
    """A table with triggers is not replaced: only differing rows are written, so that they fire."""
    forbidden = sorted({Action.INSERT, Action.UPDATE, Action.DELETE} & spec.blacklist)
    if spec.table.pre_action is PreAction.SWAP and forbidden and table.triggers:
        raise UnsupportedError(
            f"{name!r} has triggers, which a swap fires by writing what differs, but the blacklist forbids {forbidden[0]}.",
            remedy=f"take {forbidden[0]} off the blacklist, or drop the triggers.",
        )
