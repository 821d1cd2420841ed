"""The DDL of a refresh as one list of statements, which ``plan`` shows and a scan runs. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.tables import (
    ExistingTable,
    TableChange,
    TableName,
    archive_name,
    is_archive,
    is_shadow,
    is_stage,
    shadow_name,
)
from retl.model.actions import Action, PreAction
from retl.model.plan import WriteSpec


def nothing(*tables: TableName) -> list[str]:
    """The statements of a definition that needs none."""
    return []


@dataclass(frozen=True)
class TableDefinition:
    """The statements that another table needs to replace this one, from the system's catalog."""

    create: Callable[[TableName], list[str]]
    """Creates an empty table with the columns, defaults, keys and checks of this one."""
    take_off: Callable[[TableName], list[str]] = nothing
    """Drops what only one table can have under its name, or what prevents a rename: indexes, triggers."""
    put_on: Callable[[TableName], list[str]] = nothing
    """Creates that again, when a table that was created under the given name has this table's name."""
    carry: Callable[[TableName, TableName], list[str]] = nothing
    """Lets a new table continue the numbers of the old one, which is replaced or is an archive by now."""
    watched: bool = False
    """Whether triggers must see what changes, so that not even a swap replaces the table."""
    create_for_mirror: Callable[[TableName], list[str]] | None = None
    """Creates a cheaper table for rows that only a mirror reads."""
    complete: Callable[[TableName], list[str]] = nothing
    """What is quicker when all rows of a table are there, before anybody sees it: to build its indexes."""
    lock: tuple[str, ...] = ()
    """Keeps everybody from the table until the transaction ends, or fails soon."""

    def creates_same(self, other: TableDefinition | None, table: TableName) -> bool:
        """Whether ``other`` would have created ``table`` alike."""
        return other is not None and self.create(table) == other.create(table)

    def same(self, other: TableDefinition | None, table: TableName) -> bool:
        """Whether ``other`` would have created and completed ``table`` alike."""
        return other is not None and self.creates_same(other, table) and self.complete(table) == other.complete(table)


class RefreshPlan(NamedTuple):
    """The statements of one scan besides those that write rows."""

    before: list[str]
    table: TableName
    """The table to load."""
    after: list[str]


@dataclass(frozen=True)
class RefreshState:
    """The tables as they are when a refresh is planned."""

    dialect: Dialect
    spec: WriteSpec
    name: TableName
    """The table that the user named, by its own spelling if it exists."""
    existing: ExistingTable | None
    definition: TableDefinition | None
    names: Sequence[str]
    """All tables of the schema."""

    def plan(self, change: TableChange, mirror: Callable[[TableName], list[str]]) -> RefreshPlan:
        """The statements before the rows and after them."""
        loaded = self.loaded
        before = [self._drop_leftover(self.name.beside(name)) for name in self.leftovers()]
        before += self._pre_action()
        before += change.ddl(loaded.sql)
        if loaded != self.name and self.mirrors:
            before += change.ddl(self.name.sql)
        after = [*self.complete(), *self.lock(), *self.after(mirror, self.archive if self._archives else None)]
        return RefreshPlan(before, loaded, after)

    def _drop_leftover(self, table: TableName) -> str:
        """A former owner that is frozen may hold what it has made. Only this owner's own must be gone."""
        return _drop(table) if table == self.loaded else self.dialect.drop_unused(table.sql)

    def _pre_action(self) -> list[str]:
        if self.definition is None:
            return []
        if self.spec.table.pre_action.has_shadow:
            for_mirror = self.definition.create_for_mirror if self.mirrors else None
            return (for_mirror or self.definition.create)(self.loaded)
        if self._archives:
            archive = self.name.beside(self.archive)
            return [
                *self.lock_first(),
                *self.definition.take_off(self.name),
                _rename(self.name, archive),
                *self.definition.create(self.name),
                *self.definition.complete(self.name),
                *self.definition.carry(archive, self.name),
                *self.definition.put_on(self.name),
            ]
        return [self.dialect.empty(self.name.sql)] if self.spec.table.replaces else []

    @property
    def _replaced_by(self) -> TableDefinition | None:
        """The definition of a table that its shadow replaces at the end."""
        return None if self.loaded == self.name or self.mirrors else self.definition

    def complete(self) -> list[str]:
        """The statements that make a shadow whole, in a transaction before that of ``lock`` and ``after``."""
        return self._replaced_by.complete(self.loaded) if self._replaced_by else []

    def lock_first(self) -> list[str]:
        """The statements after which nobody changes the table that becomes an archive."""
        return list(self.definition.lock) if self.definition is not None and self._archives else []

    def lock(self) -> list[str]:
        """The statements after which nobody changes the table that the shadow replaces."""
        return list(self._replaced_by.lock) if self._replaced_by else []

    def after(self, mirror: Callable[[TableName], list[str]], archived: str | None = None) -> list[str]:
        """The statements that end the refresh; ``archived`` is an archive that does not exist yet."""
        statements: list[str] = []
        if self.loaded != self.name:
            statements += self._switch(mirror)
        return [*statements, *self.prune(archived)]

    def prune(self, archived: str | None = None) -> list[str]:
        """Drops the oldest archives beyond ``keep_archives``."""
        if self.spec.table.pre_action is not PreAction.RENAME_AND_CREATE or Action.DROP in self.spec.blacklist:
            return []
        return [_drop(self.name.beside(name)) for name in self._old_archives(archived)]

    def _switch(self, mirror: Callable[[TableName], list[str]]) -> list[str]:
        loaded, definition = self.loaded, self.definition
        if self.mirrors:
            return [*mirror(loaded), _drop(loaded)]
        if definition is None:
            return [_rename(loaded, self.name), *self.dialect.settle(self.name.sql, self.name.name)]
        return [
            *definition.carry(self.name, loaded),
            *definition.take_off(self.name),
            _drop(self.name),
            _rename(loaded, self.name),
            *definition.put_on(loaded),
        ]

    @property
    def mirrors(self) -> bool:
        """Whether the table stays and takes the shadow's rows. A missing table becomes the shadow itself, if the blacklist allows."""
        if self.spec.table.pre_action is PreAction.MIRROR:
            return self.existing is not None or Action.RENAME in self.spec.blacklist
        return self.definition is not None and self.definition.watched

    @property
    def loaded(self) -> TableName:
        """The table to load. A first load, too, becomes visible as a whole."""
        return self.shadow if self.spec.table.pre_action.has_shadow else self.name

    @property
    def shadow(self) -> TableName:
        """The table that takes the place of the user's, or gives it its rows."""
        fold, longest = self.dialect.fold_table, self.dialect.longest_name
        return self.name.beside(shadow_name(fold(self.name.name), self.spec.pipeline, self.spec.epoch, longest=longest))

    def leftovers(self) -> list[str]:
        """The shadows and staging tables that a crash or a former owner of the pipeline left behind."""
        fold, longest = self.dialect.fold_table, self.dialect.longest_name
        own, pipeline = fold(self.name.name), self.spec.pipeline
        tests = (is_shadow, is_stage)
        return [name for name in self.names if any(test(fold(name), own, pipeline, longest=longest) for test in tests)]

    @property
    def archive(self) -> str:
        """The archive of this refresh."""
        scan_id = self.spec.refresh.scan_id if self.spec.refresh else self.spec.scan_id
        if "-" not in scan_id:  # a preview
            return f"{self.name.name}_arc_<timestamp>"
        return archive_name(self.name.name, scan_id, longest=self.dialect.longest_name)

    @property
    def _archives(self) -> bool:
        """Whether the table is archived; a refresh that continues after a crash only empties it again."""
        if self.existing is None or self.spec.table.pre_action is not PreAction.RENAME_AND_CREATE:
            return False
        wanted = self.spec.refresh is None or self.spec.refresh.archives
        return wanted and self.dialect.fold_table(self.archive) not in map(self.dialect.fold_table, self.names)

    def _old_archives(self, archived: str | None) -> list[str]:
        """The oldest archives beyond ``keep_archives``; empty if all are kept."""
        keep, fold = self.spec.table.keep_archives, self.dialect.fold_table
        if keep is None:
            return []
        own, longest = fold(self.name.name), self.dialect.longest_name
        names = [*self.names, *([archived] if archived else [])]
        found = [name for name in names if is_archive(fold(name), own, longest=longest)]
        # The archive of this scan is the newest one, even if the wall clock was set back.
        return sorted(found, key=lambda name: (fold(name) == fold(self.archive), fold(name)))[:-keep]


def _drop(table: TableName) -> str:
    return f"DROP TABLE {table.sql}"


def _rename(table: TableName, new: TableName) -> str:
    return f"ALTER TABLE {table.sql} RENAME TO {new.dialect.identifier(new.name)}"
