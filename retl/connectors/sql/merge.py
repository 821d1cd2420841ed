"""The statements that move staged rows into a table. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from retl.connectors.sql.dialect import Dialect, any_of
from retl.connectors.sql.loader import Stage
from retl.connectors.sql.statement import Statement, Step
from retl.connectors.sql.tables import ExistingTable, TableName
from retl.model.actions import Action, Write
from retl.model.plan import WriteSpec

STAGED = "retl_staged"
"""The alias of the staging table."""


@dataclass(frozen=True)
class PreparedLoad:
    """A table that is ready to be loaded."""

    spec: WriteSpec
    target: TableName
    """The table that the user named."""
    loaded: TableName
    """The table that rows are loaded into: the same, or its shadow."""
    existing: ExistingTable
    """The catalog's description of ``loaded``."""
    columns: Mapping[str, str]
    """The table's spelling of each written column of a batch."""

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(self.columns[name] for name in self.spec.key if name in self.columns)

    @property
    def keyed(self) -> bool:
        """Whether staged rows change existing rows."""
        return self.spec.table.write is Write.UPSERT and not self.spec.table.replaces


class TableMerge:
    """Merges staged rows by ON CONFLICT. Does not write rows that are the same already, to the last byte.

    ``staged`` maps each written column of ``table`` to its column of ``stage``.
    """

    hashes: ClassVar[bool] = True
    """Whether NOT EXISTS builds a hash of the stage. Else it would read all of it for each row, and NOT IN does not."""
    delete = "DELETE"
    """How a statement begins that deletes the rows of ``gone``."""

    def __init__(
        self,
        dialect: Dialect,
        load: PreparedLoad,
        *,
        table: str,
        stage: Callable[[], str],
        staged: Mapping[str, str],
        keyed: bool,
        exact: bool = False,
    ) -> None:
        """``exact``: tell values apart even if the system would not overwrite one with the other."""
        self.dialect = dialect
        self.load = load
        self.table = table
        self.stage = stage
        self.staged = {name: f"{STAGED}.{column}" for name, column in staged.items()}
        self.keyed = keyed
        self.exact = exact
        self.blacklist = load.spec.blacklist
        self.key = [name for name in load.key if name in staged]
        self.rest = [name for name in staged if name not in self.key]
        self.fields = {column.name: column for column in load.existing.columns}

    # What a system may add --------------------------------------------------

    def identity(self, stage: Stage) -> list[str]:
        """Expressions over the stage that are equal in rows of one key."""
        return [stage.names[name] for name in self.load.spec.key]

    def clashes(self, exchanging: bool, most: int) -> Step[list[tuple[int, str]]]:
        """About ``most`` staged rows, with reasons, that must be rejected although the statements would merge them."""
        return []
        yield  # a step

    def may_exchange(self) -> Step[bool]:
        """Whether ``exchange`` can help, after the target has rejected a row."""
        return bool(self.exchange())
        yield  # a step

    def exchange(self) -> list[str]:
        """Statements that free the unique values which rows pass on to each other; empty if that cannot help."""
        return []

    def exchanged(self, counts: Sequence[int]) -> int:
        """How many rows the statements of ``exchange`` have changed, from the count of each."""
        return 0

    def is_clash(self, reason: str) -> bool:
        """Whether a row is rejected because of another one."""
        return False

    def rejected_column(self, reason: str) -> str:
        """The column of the table that a reason names, if it names one."""
        return ""

    def dropped(self, changed: int) -> Step[int]:
        """How many of the staged rows a trigger has silently left out."""
        return 0
        yield  # a step

    def follow_up(self) -> list[str]:
        """Statements after those that have written rows, whose counts mean nothing."""
        return []

    def set_apart(self) -> list[str]:
        """Statements for rows whose new value the system calls equal to the old one, and would not write."""
        return []

    # Statements -------------------------------------------------------------

    @property
    def source(self) -> str:
        """The staging table as FROM names it."""
        return f"{self.stage()} AS {STAGED}"

    @property
    def updates(self) -> bool:
        """Whether there is something that an existing row may be given."""
        return Action.UPDATE not in self.blacklist and bool(self.rest)

    def statements(self, condition: str = "TRUE") -> list[str]:
        """The statements that write the staged rows of a condition; their counts tell what changed."""
        if not self.keyed:
            return [self.insert(condition)]
        if Action.INSERT in self.blacklist:
            return [self.update(condition)] if self.updates else []
        return self.upsert(condition)

    def upsert(self, condition: str) -> list[str]:
        """The same for rows that are inserted where their key is new, and else update a row."""
        conflict = f"{self.insert(condition)} ON CONFLICT ({self.dialect.identifiers(self.key)})"
        if not self.updates:
            return [f"{conflict} DO NOTHING"]
        new = {name: f"excluded.{self.dialect.identifier(name)}" for name in self.rest}
        changed = any_of([self.differs(name, value) for name, value in new.items()])
        return [f"{conflict} DO UPDATE SET {self.sets(new)} WHERE {changed}"]

    def update_and_insert(self, condition: str = "TRUE") -> list[str]:
        """The same as two statements, where ON CONFLICT would not do."""
        updates = [self.update(condition)] if self.updates else []
        return [*updates, self.insert_new(condition)]

    def insert(self, condition: str, *, joined: str = "") -> str:
        """``joined``: what FROM names besides the stage."""
        names, values = self.dialect.identifiers(list(self.staged)), ", ".join(self.staged.values())
        return f"{self.dialect.insert} INTO {self.table} ({names}) SELECT {values} FROM {self.source}{joined} WHERE {condition}"

    def insert_new(self, condition: str) -> str:
        """Inserts the rows whose key the table lacks."""
        return self.insert(f"{condition} AND NOT EXISTS (SELECT 1 FROM {self.table} WHERE {self.same()})")

    def update(self, condition: str) -> str:
        """Updates the rows that differ from the staged ones of their key."""
        return (
            f"{self.dialect.update} {self.table} SET {self.sets(self.staged)} FROM {self.source} "
            f"WHERE {self.same()} AND ({self.differ(self.rest)}) AND {condition}"
        )

    def sets(self, values: Mapping[str, str]) -> str:
        """What SET gives to the columns besides the key."""
        return ", ".join(f"{self.dialect.identifier(name)} = {values[name]}" for name in self.rest)

    def mirror(self, *, exchange: bool = False) -> list[str]:
        """The statements after which the table holds the rows of the stage and no others."""
        moved = self.exchange() if exchange else []
        return [f"{self.delete} {self.gone()}", *self.set_apart(), *moved, *self.statements(), *self.follow_up()]

    def gone(self) -> str:
        """What follows DELETE or SELECT for the rows of the table whose key, to the last byte, is not staged."""
        if not self.keyed:
            return f"FROM {self.table}"
        exact = " AND ".join(
            f"{self.same([name])} AND NOT ({self.differs(name, self.staged[name])})" for name in self.key
        )
        return f"FROM {self.table} WHERE NOT EXISTS (SELECT 1 FROM {self.source} WHERE {exact})"

    def delete_scope(self, column: str, values: tuple[Any, ...]) -> Statement:
        """The statement that deletes the rows of a scope, but for those whose key is staged too.

        These are merged, so that what has not changed is not written. Where rows may not be updated, all are deleted.
        """
        within = f"{self.at(column)} IN ({', '.join('?' * len(values))})"
        return Statement(f"DELETE FROM {self.table} WHERE {within}{self._unstaged}", values)

    @property
    def keeps_scope(self) -> bool:
        """Whether the rows of a scope that are staged again stay."""
        return self.keyed and Action.UPDATE not in self.blacklist

    @property
    def _unstaged(self) -> str:
        """A further condition: the table's row has no staged one of its key."""
        if not self.keeps_scope:
            return ""
        if self.hashes:
            return f" AND NOT EXISTS (SELECT 1 FROM {self.source} WHERE {self.same()})"
        own, staged = ", ".join(map(self.at, self.key)), ", ".join(self.staged[name] for name in self.key)
        return f" AND ({own}) NOT IN (SELECT {staged} FROM {self.source})"

    def at(self, name: str) -> str:
        """A column of the table, qualified."""
        return f"{self.table}.{self.dialect.identifier(name)}"

    def same(self, names: Sequence[str] | None = None) -> str:
        """Whether a row of the table and a staged one have the same key, or the same values in other columns."""
        chosen = self.key if names is None else names
        return " AND ".join(self.dialect.equals(self.at(name), self.staged[name], self.fields[name]) for name in chosen)

    def differ(self, names: Sequence[str]) -> str:
        """Whether they differ in any of some columns."""
        return any_of([self.differs(name, self.staged[name]) for name in names])

    def differs(self, name: str, value: str) -> str:
        return self.dialect.differs(self.at(name), value, self.fields[name])
