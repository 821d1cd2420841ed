"""Slices that replace the rows of their scope: what their deletes need, and what they must not do to others."""

from __future__ import annotations

from retl.connectors.postgres.catalog import CatalogTable
from retl.connectors.postgres.dialect import DIALECT
from retl.model.actions import Action, Write
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.plan import WriteSpec

CHANGED_CHILDREN = {"c": "deletes", "n": "sets to NULL", "d": "sets to the default"}
"""What a foreign key does to the rows that refer to one that is deleted."""


def check_children(spec: WriteSpec, known: CatalogTable) -> None:
    """Refuse foreign keys that would change rows that refer to a row of the scope, even where it comes back at once."""
    if spec.table.scope is None or (spec.table.write is Write.UPSERT and Action.UPDATE not in spec.blacklist):
        return  # rows that come back are not deleted
    child = next((child for child in known.children if child.on_delete in CHANGED_CHILDREN), None)
    if child is not None:
        raise UnsupportedError(
            f"each slice deletes its rows of {spec.table.to!r} before it writes them again, and the foreign key {child.name!r} then "
            f"{CHANGED_CHILDREN[child.on_delete]} what refers to them in {child.table!r}.",
            remedy='make it ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED, drop it, or use pre_action = "none" with a key.',
        )


def unindexed(spec: WriteSpec, known: CatalogTable | None) -> tuple[str, ...]:
    """The column of the scope, unless an index finds its rows: else each slice would read the whole table."""
    column = spec.table.scope
    if column is None or _begins_an_index(spec, known, column):
        return ()
    name = DIALECT.identifier(column)
    if known is None or (known.owned and Action.CREATE not in spec.blacklist):
        return (name,)
    why = f"only its owner, {known.owner!r}, may create one" if not known.owned else "the blacklist forbids CREATE"
    raise ConfigError(
        f"{spec.table.to!r} has no index that begins with {column!r}, by which each slice finds its rows, and {why}.",
        remedy=f"create it yourself: CREATE INDEX CONCURRENTLY ON {known.name.sql} ({name}).",
    )


def _begins_an_index(spec: WriteSpec, known: CatalogTable | None, column: str) -> bool:
    if known is None:
        return spec.key[:1] == (column,)
    return any(index.columns[:1] == [column] and index.valid and not index.partial for index in known.indexes)
