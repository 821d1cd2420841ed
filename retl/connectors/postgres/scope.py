"""Slices that replace the rows of their scope: what their deletes must not do to others."""

from __future__ import annotations

from retl.connectors.postgres.catalog import CatalogTable
from retl.model.actions import Action, Write
from retl.model.errors import UnsupportedError
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
