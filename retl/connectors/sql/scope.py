"""The index by which slices find the rows of their scope: without it each of them would read the whole table. No I/O."""

from __future__ import annotations

from retl.connectors.sql.dialect import Dialect
from retl.connectors.sql.tables import ExistingTable, TableChange, TableName
from retl.model.actions import Action
from retl.model.errors import ConfigError
from retl.model.plan import WriteSpec


def unindexed(
    change: TableChange, spec: WriteSpec, name: TableName, existing: ExistingTable | None, dialect: Dialect
) -> tuple[str, ...]:
    """The column of the scope, as it stands in SQL, unless an index finds its rows.

    Raises ``ConfigError`` with the statement where none must be created.
    """
    column = spec.table.scope
    if column is None or not dialect.has_indexes or _has_index(spec, existing, column, dialect):
        return ()
    declared = dict(zip(change.columns, change.declared, strict=True)).get(column, "")
    indexed = dialect.indexed(column, declared)
    forbidden = _why_not(spec, existing)
    if forbidden:
        statement = dialect.create_index(name.sql, indexed).replace("INDEX", f"INDEX{dialect.without_locks}", 1)
        raise ConfigError(
            f"{spec.table.to!r} has no index that begins with {column!r}, by which each slice finds its rows, and {forbidden}.",
            remedy=f"create it yourself: {statement}.",
        )
    return (indexed,)


def _has_index(spec: WriteSpec, existing: ExistingTable | None, column: str, dialect: Dialect) -> bool:
    if existing is None:
        return spec.key[:1] == (column,)
    return dialect.fold(column) in map(dialect.fold, existing.indexed)


def _why_not(spec: WriteSpec, existing: ExistingTable | None) -> str:
    """Why no index may be created; a new table is created with what it needs."""
    if existing is not None and existing.owner is not None:
        return f"only its owner, {existing.owner!r}, may create one"
    return "the blacklist forbids CREATE" if existing is not None and Action.CREATE in spec.blacklist else ""
