"""One prepared load of one table, and what follows for how it is done."""

from __future__ import annotations

from dataclasses import dataclass

from retl.connectors.mysql.catalog import CatalogTable, TableName
from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.encode import Encoder
from retl.connectors.mysql.loader import Infile, Loader
from retl.connectors.net.pool import ConnectionPool
from retl.connectors.rows.rejects import RejectCollector
from retl.model.actions import Action, Write
from retl.model.plan import WriteSpec

_ROW_ACTIONS = frozenset({Action.INSERT, Action.UPDATE, Action.DELETE})


@dataclass(frozen=True)
class PreparedLoad:
    """One prepared load of one table."""

    pool: ConnectionPool[MySQLConnection]
    spec: WriteSpec
    known: CatalogTable
    """The table to load, as it is now."""
    name: TableName
    """The table that the user named."""
    existed: bool
    columns: tuple[str, ...]
    completion: tuple[str, ...]
    """The statements after the last row, before the table is switched in."""
    local: bool
    infile: Infile
    packet: int
    lock_timeout: float

    @property
    def encoder(self) -> Encoder:
        columns = {name: self.known.column(name) for name in self.columns}
        # If explicit_defaults_for_timestamp is off, NULL would silently become the present time.
        never_null = {name for name, column in columns.items() if column.is_timestamp and not column.nullable}
        return Encoder(self.spec, {name: column.stored for name, column in columns.items()}, never_null)

    def rejects(self) -> RejectCollector:
        """The collector for one slice. It names the user's table in place of the shadow."""
        return RejectCollector(self.spec, called=(self.known.name.name, self.name.name))

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
            stage[0] if stage else self.known.name.sql,
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
        return not all(self.known.column(name).exact for name in self.spec.key)

    @property
    def parallel(self) -> bool:
        """Whether no row of one connection can wait for one of another: for its duplicate, or for what a trigger or a
        foreign key to the same table looks at. They would wait for ever."""
        if self.known.may_have_triggers or self.known.refers_to_itself:
            return False
        if not self.known.unique:
            return True
        return self._only_key and self.spec.unique_key and not self.loose_key

    @property
    def _only_key(self) -> bool:
        return len(self.known.unique) == 1 and set(self.known.unique[0].columns) == set(self.spec.key)

    @property
    def loads_empty(self) -> bool:
        """Whether the slices of an upsert could be loaded into the table itself, if it were empty.

        A key may still come twice, if its row changed while it was read: the later row then replaces
        the earlier one, which only this load has written.
        """
        table, known = self.spec.table, self.known
        upserts = table.write is Write.UPSERT and not self.spec.blacklist & _ROW_ACTIONS
        watched = known.may_have_triggers or known.children
        whole = len(self.columns) == sum(not column.generated for column in known.columns)
        return upserts and whole and not watched and self.local and self._only_key and self.parallel
