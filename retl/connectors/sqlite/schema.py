"""The DDL of a refresh in SQLite: tables made like another, shadows switched in, archives. Inside the caller's transaction."""

from __future__ import annotations

import re
import sqlite3

from retl.connectors.sql.tables import archive_name, is_archive, is_shadow, shadow_name
from retl.connectors.sqlite.catalog import Table, find, table_names
from retl.connectors.sqlite.dialect import DIALECT
from retl.model.actions import Action, PreAction
from retl.model.errors import TargetError, UnsupportedError
from retl.model.plan import WriteSpec

_NAME = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[A-Za-z0-9_$\x80-\U0010ffff]+)"""
_HEAD = re.compile(rf"CREATE TABLE {_NAME}")
"""How SQLite itself begins the text that it keeps of every table, whatever was written there."""
_CONTENT = re.compile(rf"\bcontent\s*=\s*({_NAME})", re.IGNORECASE)


def check_table(connection: sqlite3.Connection, spec: WriteSpec) -> Table | None:
    """The target's table by its own spelling. Raises ``UnsupportedError`` for one that cannot be written."""
    table = find(connection, spec.table.to)
    if table is None or table.kind == "table":
        return table
    if table.kind == "view":
        raise UnsupportedError(f"{table.name!r} is a view, which cannot be written.", remedy="name a table with to.")
    if table.kind == "shadow":
        raise UnsupportedError(
            f"{table.name!r} is a part of a virtual table, which nothing else may write.",
            remedy="name another table with to.",
        )
    if spec.table.pre_action is not PreAction.NONE:
        raise UnsupportedError(
            f"{table.name!r} is a virtual table, which cannot be refreshed as a whole.",
            remedy='use pre_action = "none".',
        )
    return table


def _sql_of(connection: sqlite3.Connection, table: str) -> str:
    (sql,) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)
    ).fetchone()
    return str(sql)


def create_like(connection: sqlite3.Connection, sql: str, new: str) -> None:
    """A new, empty table with the columns, defaults, key and checks of the one that ``sql`` made."""
    head = _HEAD.match(sql)
    assert head is not None
    connection.execute(f"CREATE TABLE {DIALECT.identifier(new)}{sql[head.end() :]}")


def belongings(connection: sqlite3.Connection, table: str) -> list[tuple[str, str, str]]:
    """``(type, name, sql)`` of a table's own indexes and triggers."""
    return connection.execute(
        "SELECT type, name, sql FROM sqlite_master "
        "WHERE tbl_name = ? COLLATE NOCASE AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        (table,),
    ).fetchall()


def has_triggers(connection: sqlite3.Connection, table: str) -> bool:
    return any(kind == "trigger" for kind, _, _ in belongings(connection, table))


def check_swap(connection: sqlite3.Connection, spec: WriteSpec, table: str) -> None:
    """A table with triggers is not replaced: what differs is written, so that they fire."""
    forbidden = sorted({Action.INSERT, Action.UPDATE, Action.DELETE} & spec.blacklist)
    if forbidden and has_triggers(connection, table):
        raise UnsupportedError(
            f"{table!r} has triggers, which a swap fires by writing what differs, but the blacklist forbids {forbidden[0]}.",
            remedy=f"take {forbidden[0]} off the blacklist, or drop the triggers.",
        )


def drop(connection: sqlite3.Connection, table: str) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {DIALECT.identifier(table)}")


def rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    connection.execute(f"ALTER TABLE {DIALECT.identifier(old)} RENAME TO {DIALECT.identifier(new)}")


def remove_leftovers(connection: sqlite3.Connection, spec: WriteSpec) -> None:
    """Drop the shadows that a crash or another owner of the pipeline left behind."""
    for name in table_names(connection, ("table",)):
        if is_shadow(DIALECT.fold(name), DIALECT.fold(spec.table.to), spec.pipeline):
            drop(connection, name)


def begin_refresh(connection: sqlite3.Connection, spec: WriteSpec, existing: Table | None) -> str:
    """Do the pre-action; returns the name of the table to load, which is still to be made where there was none."""
    if existing is None:
        # Also a first load is seen as a whole or not at all.
        swaps = spec.table.pre_action is PreAction.SWAP
        return _shadow(spec) if swaps else spec.table.to
    if spec.table.pre_action is PreAction.TRUNCATE:
        _empty(connection, existing.name)
    elif spec.table.pre_action is PreAction.RENAME_AND_CREATE:
        _archive(connection, spec, existing.name)
    elif spec.table.pre_action is PreAction.SWAP:
        create_like(connection, _sql_of(connection, existing.name), _shadow(spec))
        return _shadow(spec)
    return existing.name


def _shadow(spec: WriteSpec) -> str:
    return shadow_name(DIALECT.fold(spec.table.to), spec.pipeline, spec.epoch)


def _empty(connection: sqlite3.Connection, table: str) -> None:
    connection.execute(f"DELETE FROM {DIALECT.identifier(table)}")
    if connection.execute(f"SELECT 1 FROM {DIALECT.identifier(table)} LIMIT 1").fetchone():
        raise TargetError(
            f"rows of {table!r} stay although they were deleted: a trigger of the table keeps them.",
            remedy='use pre_action = "none", or drop the trigger.',
        )


def _archive(connection: sqlite3.Connection, spec: WriteSpec, table: str) -> None:
    """Rename the table away and create it anew; a refresh that is carried on only empties it again."""
    assert spec.refresh is not None
    archive = archive_name(table, spec.refresh.scan_id)
    if not spec.refresh.archives or find(connection, archive) is not None:
        _empty(connection, table)
        return
    sql, owned, numbered = _sql_of(connection, table), belongings(connection, table), _sequence(connection, table)
    rename(connection, table, archive)
    for kind, name, _ in owned:
        # Names of indexes and triggers are unique in a SQLite file: they go with the table that is in use.
        connection.execute(f"DROP {kind} {DIALECT.identifier(name)}")
    create_like(connection, sql, table)
    _add(connection, table, owned, numbered)


def switch(connection: sqlite3.Connection, table: str, shadow: str) -> None:
    """Put the shadow in the table's place, with the table's indexes and triggers."""
    existing = find(connection, table)
    name = existing.name if existing else table
    owned, numbered = belongings(connection, name), _sequence(connection, name)
    drop(connection, name)
    rename(connection, shadow, name)
    _add(connection, name, owned, numbered)


def _add(connection: sqlite3.Connection, table: str, owned: list[tuple[str, str, str]], numbered: int | None) -> None:
    """Give a table what another one of its name had: indexes, triggers, and the numbers that it has used up."""
    for _, _, sql in owned:
        connection.execute(sql)
    if numbered is not None:
        reached = max(numbered, _sequence(connection, table) or 0)
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, reached))
    for index in _indexes_of_text(connection, table):
        connection.execute(f"INSERT INTO {DIALECT.identifier(index)} ({DIALECT.identifier(index)}) VALUES ('rebuild')")


def _sequence(connection: sqlite3.Connection, table: str) -> int | None:
    """The highest number that AUTOINCREMENT has given; ``None`` where it never did."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        return None
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return int(row[0]) if row else None


def _indexes_of_text(connection: sqlite3.Connection, table: str) -> list[str]:
    """The full-text tables whose content is this table: they hold what its rows were, and are told to read them again."""
    found = []
    for name in table_names(connection, ("virtual",)):
        content = _CONTENT.search(_sql_of(connection, name))
        if content and DIALECT.fold(content[1].strip("\"'`[]")) == DIALECT.fold(table):
            found.append(name)
    return found


def prune_archives(connection: sqlite3.Connection, spec: WriteSpec) -> None:
    """Drop the oldest archives beyond ``keep_archives``; all stay where it is ``None``."""
    table, keep = DIALECT.fold(spec.table.to), spec.table.keep_archives
    if keep is None:
        return
    # The archive of this scan is the newest one, also where the wall clock was set back.
    newest = archive_name(table, spec.refresh.scan_id) if spec.refresh else ""
    found = [name for name in table_names(connection, ("table",)) if is_archive(DIALECT.fold(name), table)]
    for name in sorted(found, key=lambda name: (DIALECT.fold(name) == newest, DIALECT.fold(name)))[:-keep]:
        drop(connection, name)
