"""The DDL of a refresh: before the first row, at the switch, and to undo a switch.

DDL commits by itself here. So the checkpoint records a refresh before its first statement,
single RENAME statements exchange tables, and the names of what a crash leaves behind tell
how far it had got.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from retl.connectors.mysql.catalog import MySQLTable
from retl.connectors.sql.refresh import RefreshPlan, RefreshState, TableDefinition
from retl.connectors.sql.tables import TableChange, TableName, is_shadow
from retl.model.actions import Action
from retl.model.plan import WriteSpec

OLD, _NEW = "_retl_old_", "_retl_new_"


def define(table: MySQLTable, spec: WriteSpec) -> TableDefinition:
    """What another table needs to replace this one.

    A shadow is filled without its secondary indexes: to build them from all rows at once takes
    a fraction of the time.
    """
    assert table.name is not None
    like = partial(_like, table.name)
    indexes = table.secondary if Action.ALTER not in spec.blacklist and spec.table.pre_action.has_shadow else ()
    if not indexes:
        return TableDefinition(like)
    dropped = ", ".join(f"DROP INDEX {index.name}" for index in indexes)
    added = ", ".join(f"ADD {index.definition}" for index in indexes)
    return TableDefinition(
        create=lambda new: [*like(new), f"ALTER TABLE {new.sql} {dropped}"],
        complete=lambda new: [f"ALTER TABLE {new.sql} {added}"],
    )


def _like(table: TableName, new: TableName) -> list[str]:
    return [f"CREATE TABLE {new.sql} LIKE {table.sql}"]


@dataclass(frozen=True)
class MySQLRefresh(RefreshState):
    """The tables as they are when a refresh is planned. Statements that may fail come before those that cannot be undone."""

    @property
    def exchanges(self) -> bool:
        """Whether a shadow will take the place of a table."""
        return self.existing is not None and self.loaded != self.name and not self.mirrors

    def plan(self, change: TableChange, mirror: Callable[[TableName], list[str]]) -> RefreshPlan:
        before = [*(f"DROP TABLE {self.name.beside(name).sql}" for name in self.leftovers()), *self._begin(change)]
        after = [*self.complete(), *self.after(mirror, self.archive if self._archives else None)]
        return RefreshPlan(before, self.loaded, after)

    def _begin(self, change: TableChange) -> list[str]:
        if self.spec.table.pre_action.has_shadow:
            made = self.definition.create(self.loaded) if self.definition is not None else []
            own = change.ddl(self.name.sql) if self.mirrors else []
            return [*made, *change.ddl(self.loaded.sql), *own]
        if self.definition is None or not (self._archives or Action.TRUNCATE in self.spec.blacklist):
            empties = self.definition is not None
            return [*change.ddl(self.loaded.sql), *([self.dialect.empty(self.name.sql)] if empties else [])]
        away = self.name.beside(self.archive) if self._archives else self.replaced
        made = [*self.definition.create(self.shadow), *change.ddl(self.shadow.sql), self._exchange(away)]
        return made if self._archives else [*made, f"DROP TABLE {away.sql}"]

    def _switch(self, mirror: Callable[[TableName], list[str]]) -> list[str]:
        if self.mirrors:
            return [*mirror(self.loaded), f"DROP TABLE {self.loaded.sql}"]
        return [self.switch(), *([f"DROP TABLE {self.replaced.sql}"] if self.existing is not None else [])]

    def switch(self) -> str:
        """Puts the shadow in the table's place; the old table must still be dropped."""
        if self.existing is None:
            return f"RENAME TABLE {self.shadow.sql} TO {self.name.sql}"
        return self._exchange(self.replaced)

    def _exchange(self, away: TableName) -> str:
        return f"RENAME TABLE {self.name.sql} TO {away.sql}, {self.shadow.sql} TO {self.name.sql}"

    def put_back(self, old: str) -> list[str]:
        """Undoes a switch whose old table cannot be dropped."""
        shadow, there = self.shadow.sql, self.name.name in self.names
        away = f"{self.name.sql} TO {shadow}, " if there else ""
        back = f"RENAME TABLE {away}{self.name.beside(old).sql} TO {self.name.sql}"
        return [back, *([f"DROP TABLE {shadow}"] if there else [])]

    @property
    def replaced(self) -> TableName:
        """The replaced table until it is dropped."""
        return self.name.beside(OLD + self.shadow.name.removeprefix(_NEW))

    def leftovers(self) -> list[str]:
        return [name for name in self.names if self.is_leftover(name)]

    def is_leftover(self, name: str) -> bool:
        """Whether a table was left by a crashed refresh of this one by the pipeline."""
        as_shadow = name.replace(OLD, _NEW, 1) if name.startswith(OLD) else name
        return is_shadow(as_shadow, self.name.name, self.spec.pipeline, longest=self.dialect.longest_name)
