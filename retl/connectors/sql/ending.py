"""How a refresh ends, by the tables as they are then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retl.connectors.sql.merge import PreparedLoad, TableMerge
from retl.connectors.sql.refresh import RefreshState, TableDefinition
from retl.connectors.sql.statement import Step, execute
from retl.connectors.sql.tables import TableName
from retl.model.actions import PreAction
from retl.model.errors import TransientError


class Ending:
    """The end of the refresh of one load: two steps, each of which runs as a transaction.

    ``look`` finds the tables as they are now. ``begun`` defines the table that the shadow was
    made like: if it changes before the shadow replaces it, the change would be lost.
    """

    def __init__(
        self,
        load: PreparedLoad,
        begun: TableDefinition | None,
        look: Callable[[PreparedLoad], Step[RefreshState]],
        mirror: Callable[[PreparedLoad, TableName], TableMerge],
    ) -> None:
        self._load = load
        self._definition = begun
        self._look = look
        self._mirror = mirror

    @property
    def ends(self) -> bool:
        """Whether ``finish`` has anything to do: a shadow to switch in, or archives to drop."""
        archives = self._load.spec.table.pre_action is PreAction.RENAME_AND_CREATE
        return archives or self._load.loaded != self._load.target

    @property
    def completes(self) -> bool:
        """Whether ``complete`` has anything to do."""
        definition, loaded = self._definition, self._load.loaded
        return definition is not None and loaded != self._load.target and bool(definition.complete(loaded))

    def complete(self) -> Step[None]:
        """Make a shadow whole that will replace its table."""
        now = yield from self._look(self._load)
        statements = now.complete()
        if statements and (now.definition is None or not now.definition.creates_same(self._definition, now.loaded)):
            raise changed_meanwhile(self._load.target)
        yield from execute(statements, rejectable=True)
        self._definition = now.definition

    def finish(self, exchange: bool) -> Step[list[str]]:
        """Lock the table if it is replaced. Returns the statements that end the refresh."""
        now = yield from self._look(self._load)
        if lock := now.lock():
            yield from execute(lock)
            now = yield from self._look(self._load)
            if now.definition is None or not now.definition.same(self._definition, now.loaded):
                raise changed_meanwhile(self._load.target)
        load = replace(self._load, existing=now.existing or self._load.existing)
        return now.after(lambda shadow: self._mirror(load, shadow).mirror(exchange=exchange))


def changed_meanwhile(name: TableName) -> TransientError:
    """The error of a table that was altered while its successor was loaded."""
    return TransientError(
        f"the definition of {name.name!r} was changed while rows were loaded to replace it; it was left as it is.",
        remedy="nothing: the next attempt begins with the new definition.",
        system=name.dialect.name,
    )
