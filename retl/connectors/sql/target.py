"""A SQL system as a target: its questions, how it prepares a table, and what ``plan`` shows of that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, TypeVar

import pyarrow as pa

from retl.connectors.base import TableWriter, Target, TargetTable, loading
from retl.connectors.sql import columns
from retl.connectors.sql.columns import new_stamps
from retl.connectors.sql.door import RunStatement, SqlDoor
from retl.connectors.sql.ending import Ending
from retl.connectors.sql.loader import BulkLoader
from retl.connectors.sql.merge import PreparedLoad, TableMerge
from retl.connectors.sql.own_sql import OwnSql
from retl.connectors.sql.refresh import RefreshPlan, RefreshState, TableDefinition
from retl.connectors.sql.scope import unindexed
from retl.connectors.sql.session import Session, each_alone
from retl.connectors.sql.statement import Step, execute, query
from retl.connectors.sql.tables import ExistingTable, Recent, TableChange, TableName, TypeMap, fit, real_key
from retl.connectors.sql.writer import StagedWriter
from retl.model.actions import PreAction
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import RetlError, TargetError
from retl.model.plan import TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state import sql as state
from retl.threads import shielded

T = TypeVar("T")
_Question = Callable[[TableName, ExistingTable | None], Step[T]]
"""Asks something of a table, which may be missing."""


@dataclass(frozen=True)
class Inspection:
    """What was found before anything is written, and what will be done."""

    state: RefreshState
    change: TableChange
    plan: RefreshPlan
    load: PreparedLoad
    warnings: tuple[str, ...]


class SqlTarget(SqlDoor, Target):
    """A target whose tables are written by steps. A system adds its catalog, its loader and its sessions."""

    merges: ClassVar[type[TableMerge]] = TableMerge
    mirrors: ClassVar[bool] = True
    far: ClassVar[bool] = False
    """Whether each question goes over a network: then the steps of a scan hand on what they have found of a table."""

    # What a system adds ----------------------------------------------------

    @abstractmethod
    def locate(self, table: str) -> TableName:
        """The table that a user means. Raises ``ConfigError`` for a name that cannot be one."""

    @abstractmethod
    def questions(self) -> AbstractAsyncContextManager[Session]:
        """A session for a question. It changes nothing, and creates no file or table."""

    @abstractmethod
    async def connect(self) -> Session:
        """A session for a load."""

    @abstractmethod
    async def give_back(self, session: Session) -> None:
        """End a load, whether it succeeded or not."""

    @abstractmethod
    def find(self, name: TableName) -> Step[ExistingTable | None]:
        """The catalog's description of a table; ``None`` if it does not exist."""

    @abstractmethod
    def table_names(self, name: TableName) -> Step[list[str]]:
        """All tables of the schema of ``name``."""

    @abstractmethod
    def define(self, existing: ExistingTable) -> Step[TableDefinition]:
        """The statements that another table needs to replace this one."""

    @abstractmethod
    def check(self, spec: WriteSpec, name: TableName, existing: ExistingTable | None) -> Step[Sequence[str]]:
        """Refuse what the system cannot do with this table. Returns warnings."""

    @abstractmethod
    def check_insert(self, name: TableName, columns: Sequence[str]) -> Step[None]:
        """Refuse a table that cannot be written, after its columns were added."""

    @abstractmethod
    def types(self, existing: ExistingTable | None) -> TypeMap:
        """The type map for this table."""

    @abstractmethod
    def loader(self, load: PreparedLoad) -> BulkLoader:
        """The loader that stages the rows of a load."""

    def row_statements(self, load: PreparedLoad, merge: TableMerge) -> Step[list[str]]:
        """The statements that bring the rows of a slice into the table."""
        return [*merge.statements(), *merge.follow_up()]
        yield  # a step

    # Questions --------------------------------------------------------------

    async def describe(self, table: str) -> TableSchema | None:
        name = self.locate(table)
        async with self.questions() as session:
            existing = await session.run(partial(self.find, name))
        return TableSchema(table, existing.columns, real_key(existing)) if existing else None

    async def count(self, table: str) -> int:
        name = self.locate(table)
        async with self.questions() as session:
            return await session.run(partial(self._count, name))

    def _count(self, name: TableName) -> Step[int]:
        existing = yield from self.find(name)
        if existing is None:
            return 0
        ((rows,),) = yield query(f"SELECT COUNT(*) FROM {name.sql}")
        return int(rows)

    async def inspect(self, table: str) -> TargetTable | None:
        return await self._ask(table, partial(self._standing, table, None))

    async def inspect_column(self, table: str, column: str) -> TargetTable | None:
        return await self._ask(table, partial(self._standing, table, column))

    def _standing(
        self, table: str, column: str | None, name: TableName, existing: ExistingTable | None
    ) -> Step[TargetTable]:
        if existing is not None:
            self._looked_at.put(table, existing)
        return (yield from _inspected(name, existing, column))

    @cached_property
    def _looked_at(self) -> Recent[ExistingTable]:
        return Recent()

    @cached_property
    def _examined(self) -> Recent[Inspection]:
        return Recent()

    async def lookup(self, table: str, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table:
        return await self._ask(table, lambda name, existing: columns.lookup(name, existing, column, values, wanted))

    async def extremes(self, table: str, column: str) -> tuple[str, str] | None:
        return await self._ask(table, lambda name, existing: columns.extremes(name, existing, column))

    async def drop_columns(self, table: str, names: Sequence[str]) -> None:
        self._looked_at.take(table)
        self._examined.take(table)
        session = await self.connect()
        try:
            step = partial(self._of_table, table, lambda name, existing: columns.drop(name, existing, names))
            await session.transaction(step)
        finally:
            await shielded(self.give_back(session))

    @asynccontextmanager
    async def open_sql(self) -> AsyncGenerator[RunStatement, None]:
        session = await self.connect()
        try:
            yield each_alone(session)
        finally:
            await shielded(self.give_back(session))

    async def _ask(self, table: str, make: _Question[T]) -> T:
        async with self.questions() as session:
            return await session.run(partial(self._of_table, table, make))

    def _of_table(self, table: str, make: _Question[T]) -> Step[T]:
        name = self.locate(table)
        existing = yield from self.find(name)
        return (yield from make((existing and existing.name) or name, existing))

    # Looking ----------------------------------------------------------------

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        async with self.questions() as session:
            return await session.run(partial(self._preview, spec))

    def _preview(self, spec: WriteSpec) -> Step[TargetPreview]:
        known = self._looked_at.take(spec.table.to) if self.far and spec.fence is not None else None
        found = yield from self._examine(spec, known)
        if spec.fence is not None:
            self._examined.put(spec.table.to, found)
        existing, change = found.state.existing, found.change
        if existing is not None and not change.added:
            yield from self.check_insert(found.state.name, change.columns)
        loader = self.loader(found.load)
        rows = yield from self.row_statements(found.load, self._merge(found.load, loader))
        warnings = (*change.warnings, *found.warnings, *_mirrored(spec, existing))
        before = OwnSql(spec.table, "before_sql", self.dialect).statements
        after = [*found.plan.after, *OwnSql(spec.table, "after_sql", self.dialect).statements]
        return TargetPreview((*before, *found.plan.before, *rows, *after), change.casts, warnings)

    def _just_examined(self, spec: WriteSpec) -> Inspection | None:
        """What a moment ago was found for this very load, where nothing of its own comes between."""
        found = self._examined.take(spec.table.to)
        if found is None or not self.far or found.load.spec.scan_id != spec.scan_id:
            return None
        return None if spec.table.replaces or spec.table.before_sql else found

    def _examine(self, spec: WriteSpec, existing: ExistingTable | None = None) -> Step[Inspection]:
        name = self.locate(spec.table.to)
        if existing is None:
            existing = yield from self.find(name)
        name = (existing and existing.name) or name
        warnings = yield from self.check(spec, name, existing)
        change = fit(spec, existing, self.dialect, self.types(existing))
        stamps = new_stamps(spec, existing, self.dialect) if self.dialect.has_indexes else ()
        indexed = (*unindexed(change, spec, name, existing, self.dialect), *stamps)
        change = replace(change, indexed=indexed, dialect=self.dialect)
        state = yield from self._refresh_state(spec, name, existing)
        load = self._prepared(spec, name, state.loaded, existing, change)
        plan = state.plan(change, lambda shadow: self._mirror(load, shadow).mirror())
        return Inspection(state, change, plan, load, tuple(warnings))

    def _refresh_state(self, spec: WriteSpec, name: TableName, existing: ExistingTable | None) -> Step[RefreshState]:
        replaces = existing is not None and spec.table.replaces
        definition = (yield from self.define(existing)) if replaces and existing else None
        names = yield from self.table_names(name)
        return RefreshState(self.dialect, spec, name, existing, definition, names)

    def _prepared(
        self,
        spec: WriteSpec,
        name: TableName,
        loaded: TableName,
        existing: ExistingTable | None,
        change: TableChange,
    ) -> PreparedLoad:
        """The load as it will be: with the columns that are still to be added."""
        fold = self.dialect.fold
        there = {fold(column.name): column for column in existing.columns} if existing else {}
        fields = list(existing.columns) if existing else []
        columns = {}
        for column, native in zip(change.columns, change.declared, strict=True):
            found = there.get(fold(column))
            if found is None:
                found = self.dialect.logical_field(column, native)
                fields.append(found)
            columns[column] = found.name
        ready = replace(existing or ExistingTable(pa.schema([]), ()), columns=pa.schema(fields))
        return PreparedLoad(spec, name, loaded, ready, columns)

    def _merge(self, load: PreparedLoad, loader: BulkLoader) -> TableMerge:
        return self.merges(
            self.dialect,
            load,
            table=load.loaded.sql,
            stage=lambda: loader.table,
            staged={own: loader.names[name] for name, own in load.columns.items()},
            keyed=load.keyed,
        )

    def _mirror(self, load: PreparedLoad, shadow: TableName) -> TableMerge:
        """The merge of the shadow into the user's table."""
        names = list(load.columns.values())
        if load.spec.table.pre_action is not PreAction.MIRROR:  # a swap gives every column the shadow's value
            names = [name for name in load.existing.columns.names if name not in load.existing.generated]
        keyed = bool(load.key) and frozenset(load.key) in load.existing.keys
        return self.merges(
            self.dialect,
            load,
            table=load.target.sql,
            stage=lambda: shadow.sql,
            staged={name: self.dialect.identifier(name) for name in names},
            keyed=keyed,
            exact=True,
        )

    # Loading ----------------------------------------------------------------

    @asynccontextmanager
    async def open_load(self, spec: WriteSpec, begun: FencedCheckpoint | None) -> AsyncGenerator[TableWriter, None]:
        async with loading(await self._open(spec, begun)) as writer:
            yield writer

    async def _open(self, spec: WriteSpec, fenced: FencedCheckpoint | None) -> StagedWriter:
        session = await self.connect()
        try:
            before = OwnSql(spec.table, "before_sql", self.dialect)
            with before.explained():
                load, mirror, begun = await session.transaction(partial(self._prepare, spec, fenced, before.step))
            loader = self.loader(load)
            await session.run(loader.create)
        except BaseException:
            with suppress(RetlError):
                await shielded(self.give_back(session))
            raise
        return self.writer(load)(
            session,
            load,
            loader,
            self._merge(load, loader),
            mirror=mirror,
            ending=Ending(load, begun, self._now, self._mirror),
            lookup=partial(self._lookup, load),
            end=self.give_back,
        )

    async def _lookup(
        self, load: PreparedLoad, column: str, values: Sequence[str], wanted: Sequence[str]
    ) -> pa.Table | None:
        if load.loaded != load.target:
            return None  # what the load knows is its shadow
        async with self.questions() as session:
            return await session.run(partial(columns.lookup, load.target, load.existing, column, values, wanted))

    def writer(self, load: PreparedLoad) -> Callable[..., StagedWriter]:
        """What makes the writer of a load."""
        return StagedWriter

    def _prepare(
        self, spec: WriteSpec, fenced: FencedCheckpoint | None, own: Callable[[], Step[None]]
    ) -> Step[tuple[PreparedLoad, TableMerge | None, TableDefinition | None]]:
        """Do everything before the first row, in one transaction."""
        yield from execute(self.dialect.give_up_soon)
        if fenced is not None:
            yield from state.save(fenced)
        elif spec.fence is not None and spec.state_in_target:
            yield from state.prove(spec.fence)
        yield from own()
        found = self._just_examined(spec) or (yield from self._examine(spec))
        if lock := found.state.lock_first():
            yield from execute(lock)
            found = yield from self._examine(spec)
        yield from execute(found.plan.before)
        if spec.table.replaces and found.state.existing is not None:
            yield from _check_empty(found.plan.table)
        ready = (yield from self.find(found.plan.table)) if found.plan.before else found.state.existing
        assert ready is not None
        stored = {self.dialect.fold(column.name): column.name for column in ready.columns}
        columns = {name: stored[self.dialect.fold(name)] for name in found.change.columns}
        load = replace(found.load, spec=spec, existing=ready, columns=columns)
        mirrors = found.state.existing is not None and spec.table.pre_action is PreAction.MIRROR
        return load, self._mirror(load, load.loaded) if mirrors else None, found.state.definition

    def _now(self, load: PreparedLoad) -> Step[RefreshState]:
        """The tables of a load as they are now."""
        existing = yield from self.find(load.target)
        return (yield from self._refresh_state(load.spec, load.target, existing))


def _inspected(name: TableName, existing: ExistingTable | None, column: str | None = None) -> Step[TargetTable]:
    if existing is None:
        return TargetTable(exists=False, empty=True)
    found = (yield from columns.extremes(name, existing, column)) if column is not None else None
    empty = found is None and not (yield query(f"SELECT 1 FROM {name.sql} LIMIT 1"))
    return TargetTable(exists=True, empty=empty, columns=existing.columns, extremes=found)


def _check_empty(table: TableName) -> Step[None]:
    if (yield query(f"SELECT 1 FROM {table.sql} LIMIT 1")):
        raise TargetError(
            f"rows of {table.name!r} stay although they were deleted: a trigger of the table keeps them.",
            remedy='use pre_action = "none", or drop the trigger.',
            system=table.dialect.name,
        )


def _mirrored(spec: WriteSpec, existing: ExistingTable | None) -> tuple[str, ...]:
    """Say when a mirror knows how many rows it deletes: not before the source is read."""
    if existing is None or spec.table.pre_action is not PreAction.MIRROR or spec.fence is not None:
        return ()  # a scan finds out
    return (
        "how many rows a mirror deletes is known when the source was read, and before any is deleted: max_shrink limits them.",
    )
