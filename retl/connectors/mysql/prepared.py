"""One prepared load of one table, and what follows for how it is done."""

from __future__ import annotations

from dataclasses import dataclass

from retl.connectors.mysql.catalog import MySQLTable
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.encode import Encoder
from retl.connectors.mysql.loader import Infile, Loader
from retl.connectors.mysql.refresh import MySQLRefresh
from retl.connectors.net.pool import ConnectionPool
from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.sql.merge import PreparedLoad
from retl.model.actions import Action
from retl.model.plan import WriteSpec
from retl.model.schema import collation

_ROW_ACTIONS = frozenset({Action.INSERT, Action.UPDATE, Action.DELETE})


@dataclass(frozen=True)
class MySQLLoad(PreparedLoad):
    """A table that is ready to be loaded."""

    existing: MySQLTable
    refresh: MySQLRefresh
    local: bool
    """Whether the server takes LOAD DATA LOCAL."""
    infile: Infile
    packet: int
    """The largest packet that the server takes."""
    pool: ConnectionPool[MySQLConnection]
    lock_timeout: float
    definition: str | None = None
    """The definition of the user's table before its shadow was made like it, if the shadow will take its place."""

    @property
    def encoder(self) -> Encoder:
        columns = {name: self.existing.column(own) for name, own in self.columns.items()}
        # If explicit_defaults_for_timestamp is off, NULL would silently become the present time.
        never_null = {name for name, column in columns.items() if column.is_timestamp and not column.nullable}
        return Encoder(self.spec, {name: column.stored for name, column in columns.items()}, never_null)

    def rejects(self) -> RejectCollector:
        """The collector for one slice. It names the user's table in place of the shadow."""
        return RejectCollector(self.spec, called=(self.loaded.name, self.target.name))

    def loader(
        self,
        connection: MySQLConnection,
        encoder: Encoder,
        rejects: RejectCollector,
        *,
        stage: tuple[str, str] | None = None,
    ) -> Loader:
        """Loads the rows of one slice into the table, or into a stage: its name, and the column that numbers its rows."""
        return Loader(
            connection,
            encoder,
            rejects,
            stage[0] if stage else self.loaded.sql,
            most=self.spec.table.max_rejects,
            local=self.local,
            infile=self.infile,
            packet=self.packet,
            replace=not stage and not self.spec.table.replaces,
            row_number=stage[1] if stage else None,
        )

    @property
    def loose_key(self) -> bool:
        """Whether different keys may be equal to the target."""
        return not all(self.existing.column(name).exact for name in self.key)

    @property
    def parallel(self) -> bool:
        """Whether no row of one connection can wait for one of another: for its duplicate, or for what a trigger or a
        foreign key to the same table looks at. They would wait for ever."""
        if self.existing.may_have_triggers or self.existing.own_parents:
            return False
        if not self.existing.unique:
            return True
        return self._only_key and self.spec.unique_key and not self.loose_key

    @property
    def _only_key(self) -> bool:
        return len(self.existing.unique) == 1 and set(self.existing.unique[0].columns) == set(self.key)

    @property
    def loads_empty(self) -> bool:
        """Whether the slices of an upsert could be loaded into the table itself, if it were empty.

        A key may still come twice, if its row changed while it was read: the later row then replaces
        the earlier one, which only this load has written. Not where slices replace the rows of their scope.
        """
        table, known = self.spec.table, self.existing
        upserts = self.keyed and table.scope is None and not self.spec.blacklist & _ROW_ACTIONS
        watched = known.may_have_triggers or known.children
        whole = len(self.columns) == sum(not column.generated for column in known.described)
        return upserts and whole and not watched and self.local and self._only_key and self.parallel


def respells(spec: WriteSpec, known: MySQLTable) -> bool:
    """Whether the source compares keys as the target does."""
    loose = [name for name in spec.key if not known.column(name).exact]
    return all(collation(spec.schema.field(name)) == known.column(name).collation for name in loose)
