"""The DDL of a refresh: before the first row, at the switch, and to undo a switch.

DDL commits by itself here. So the checkpoint records a refresh before its first statement,
single RENAME statements exchange tables, and the names of what a crash leaves behind tell
how far it had got.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retl.connectors.mysql.catalog import DIALECT, TABLE_OPTIONS, Inspection, TableName
from retl.connectors.sql.tables import TableChange
from retl.model.actions import Action, PreAction
from retl.model.plan import WriteSpec


@dataclass(frozen=True)
class RefreshPlan:
    """The statements before the first row, and the table that the rows then go into."""

    statements: tuple[str, ...]
    table: str
    """The name of the table to load."""
    after: tuple[str, ...] = ()
    """The statements after the last row, before the table becomes visible."""


def prepare(spec: WriteSpec, found: Inspection, change: TableChange) -> RefreshPlan:
    """Decide the DDL of a load.

    A shadow is filled without its secondary indexes: to build them from all rows at once
    takes a fraction of the time.
    """
    place, names = found.name, found.neighbours
    indexes = found.table.secondary if found.table else ()
    statements = [f"DROP TABLE {place.beside(name)}" for name in names if place.is_leftover(name, spec.pipeline)]
    pre_action = spec.table.pre_action
    shadow = place.shadow(spec)
    if found.table is None:
        # A first load, too, becomes visible as a whole.
        table = shadow if pre_action.has_shadow else place.name
        return RefreshPlan((*statements, *changes(place, change, table)), table)
    if pre_action.has_shadow:
        mirrors = pre_action is PreAction.MIRROR
        statements.append(_like(place, shadow))
        after: list[str] = []
        if indexes and Action.ALTER not in spec.blacklist:
            dropped = ", ".join(f"DROP INDEX {index.name}" for index in indexes)
            added = ", ".join(f"ADD {index.definition}" for index in indexes)
            statements.append(f"ALTER TABLE {place.beside(shadow)} {dropped}")
            after += [] if mirrors else [f"ALTER TABLE {place.beside(shadow)} {added}"]
        statements += changes(place, change, shadow)
        statements += changes(place, change, place.name) if mirrors else []
        return RefreshPlan(tuple(statements), shadow, tuple(after))
    archive = _archive(place, spec, names)
    if archive is not None:
        statements += [_like(place, shadow), *changes(place, change, shadow)]
        statements.append(f"RENAME TABLE {place.sql} TO {place.beside(archive)}, {place.beside(shadow)} TO {place.sql}")
        return RefreshPlan(tuple(statements), place.name)
    # Statements that may fail come before those that cannot be undone.
    if spec.table.replaces and Action.TRUNCATE not in spec.blacklist:
        return RefreshPlan(
            (*statements, *changes(place, change, place.name), f"TRUNCATE TABLE {place.sql}"), place.name
        )
    if spec.table.replaces:
        old = place.beside(place.replaced(spec))
        statements += [_like(place, shadow), *changes(place, change, shadow)]
        statements.append(f"RENAME TABLE {place.sql} TO {old}, {place.beside(shadow)} TO {place.sql}")
        return RefreshPlan((*statements, f"DROP TABLE {old}"), place.name)
    return RefreshPlan((*statements, *changes(place, change, place.name)), place.name)


def _archive(place: TableName, spec: WriteSpec, names: Sequence[str]) -> str | None:
    """The archive's name; ``None`` if a refresh that continues has made it already, or there is nothing to archive."""
    if spec.table.pre_action is not PreAction.RENAME_AND_CREATE:
        return None
    if spec.refresh is None:
        return place.archive(spec.scan_id)
    archive = place.archive(spec.refresh.scan_id)
    return archive if spec.refresh.archives and archive not in names else None


def _like(place: TableName, name: str) -> str:
    return f"CREATE TABLE {place.beside(name)} LIKE {place.sql}"


def changes(place: TableName, change: TableChange, name: str) -> list[str]:
    statements = change.statements(DIALECT, place.beside(name))
    return [f"{statement} {TABLE_OPTIONS}" for statement in statements] if change.create else statements


def switch(place: TableName, spec: WriteSpec, *, existed: bool) -> str:
    """Puts the shadow in the table's place; the old table must still be dropped."""
    shadow = place.beside(place.shadow(spec))
    if existed:
        old = place.beside(place.replaced(spec))
        return f"RENAME TABLE {place.sql} TO {old}, {shadow} TO {place.sql}"
    return f"RENAME TABLE {shadow} TO {place.sql}"


def put_back(place: TableName, spec: WriteSpec, old: str, names: Sequence[str]) -> list[str]:
    """Undoes a switch whose old table cannot be dropped. ``names`` are the existing tables."""
    shadow, there = place.beside(place.shadow(spec)), place.name in names
    away = f"{place.sql} TO {shadow}, " if there else ""
    return [f"RENAME TABLE {away}{place.beside(old)} TO {place.sql}", *([f"DROP TABLE {shadow}"] if there else [])]


def archives_to_drop(place: TableName, spec: WriteSpec, names: Sequence[str]) -> list[str]:
    """The oldest archives beyond ``keep_archives``; empty if it is ``None``."""
    keep = spec.table.keep_archives
    if keep is None:
        return []
    # The archive of this scan is the newest one, even if the wall clock was set back.
    newest = place.archive(spec.refresh.scan_id) if spec.refresh else ""
    found = [name for name in names if place.is_archive(name)]
    return sorted(found, key=lambda name: (name == newest, name))[:-keep]
