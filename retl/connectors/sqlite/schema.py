"""The DDL of a refresh in SQLite: tables made like another, shadows switched in, archives. Inside the caller's transaction."""

from __future__ import annotations

import re
import sqlite3

from retl.connectors.sql.tables import archive_name, is_archive, is_shadow, shadow_name
from retl.connectors.sqlite.dialect import DIALECT
from retl.connectors.sqlite.file import table_names
from retl.model.actions import PreAction
from retl.model.errors import UnsupportedError
from retl.model.plan import Load

_HEAD = re.compile(
    r"""CREATE\s+TABLE\s+(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[^\s("\[`']+)\s*(?=\()""",
    re.IGNORECASE,
)


def check_plain_table(connection: sqlite3.Connection, table: str) -> None:
    """Refuse what cannot be made again by its own CREATE TABLE: views and virtual tables."""
    kind, sql = connection.execute(
        "SELECT type, sql FROM sqlite_master WHERE name = ? AND type IN ('table', 'view')", (table,)
    ).fetchone()
    if kind == "view":
        raise UnsupportedError(f"{table!r} is a view, which cannot be written.", remedy="name a table with to.")
    if _HEAD.match(sql) is None:
        raise UnsupportedError(
            f"{table!r} is a virtual table, which cannot be refreshed as a whole.", remedy='use pre_action = "none".'
        )


def create_like(connection: sqlite3.Connection, old: str, new: str) -> None:
    """A new, empty table with the columns, defaults, key and checks of another."""
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (old,)).fetchone()
    connection.execute(_HEAD.sub(lambda _: f"CREATE TABLE {DIALECT.identifier(new)} ", sql, count=1))


def belongings(connection: sqlite3.Connection, table: str) -> list[tuple[str, str, str]]:
    """``(type, name, sql)`` of a table's own indexes and triggers."""
    return connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        (table,),
    ).fetchall()


def drop(connection: sqlite3.Connection, table: str) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {DIALECT.identifier(table)}")


def rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    connection.execute(f"ALTER TABLE {DIALECT.identifier(old)} RENAME TO {DIALECT.identifier(new)}")


def remove_leftovers(connection: sqlite3.Connection, load: Load) -> None:
    """Drop the shadows that a crash or another owner of the pipeline left behind."""
    for name in table_names(connection):
        if is_shadow(name, load.table.to, load.pipeline):
            drop(connection, name)


def begin_refresh(connection: sqlite3.Connection, load: Load, *, existed: bool) -> str:
    """Do the pre-action; returns the name of the table to load, which is still to be made where ``existed`` is false."""
    table = load.table.to
    if not existed:
        # Also a first load is seen as a whole or not at all.
        return shadow_name(table, load.pipeline, load.epoch) if load.table.pre_action is PreAction.SWAP else table
    check_plain_table(connection, table)
    if load.table.pre_action is PreAction.TRUNCATE:
        connection.execute(f"DELETE FROM {DIALECT.identifier(table)}")
    elif load.table.pre_action is PreAction.RENAME_AND_CREATE:
        _archive(connection, load)
    elif load.table.pre_action is PreAction.SWAP:
        shadow = shadow_name(table, load.pipeline, load.epoch)
        create_like(connection, table, shadow)
        return shadow
    return table


def _archive(connection: sqlite3.Connection, load: Load) -> None:
    """Rename the table away and create it anew; a refresh that is carried on only empties it again."""
    table = load.table.to
    assert load.refresh is not None
    archive = archive_name(table, load.refresh.scan_id)
    if not load.refresh.archives or archive in table_names(connection):
        connection.execute(f"DELETE FROM {DIALECT.identifier(table)}")
        return
    rename(connection, table, archive)
    create_like(connection, archive, table)
    for kind, name, sql in belongings(connection, archive):
        # Index and trigger names are unique in a SQLite file: they go with the table that is in use.
        connection.execute(f"DROP {kind} {DIALECT.identifier(name)}")
        connection.execute(_for_table(sql, archive, table))


def _for_table(sql: str, old: str, new: str) -> str:
    """A CREATE INDEX or TRIGGER statement, turned from one table to another after SQLite has renamed it."""
    quoted = re.escape(DIALECT.identifier(old))
    return re.sub(
        rf"(\bON\s+){quoted}", lambda found: found[1] + DIALECT.identifier(new), sql, count=1, flags=re.IGNORECASE
    )


def switch(connection: sqlite3.Connection, table: str, shadow: str) -> None:
    """Put the shadow in the table's place, with the table's indexes and triggers."""
    owned = belongings(connection, table)
    drop(connection, table)
    rename(connection, shadow, table)
    for _, _, sql in owned:
        connection.execute(sql)


def prune_archives(connection: sqlite3.Connection, load: Load) -> None:
    """Drop the oldest archives beyond ``keep_archives``; all stay where it is ``None``."""
    table, keep = load.table.to, load.table.keep_archives
    if keep is None:
        return
    # The archive of this scan is the newest one, also where the wall clock was set back.
    newest = archive_name(table, load.refresh.scan_id) if load.refresh else ""
    found = [name for name in table_names(connection) if is_archive(name, table)]
    for name in sorted(found, key=lambda name: (name == newest, name))[:-keep]:
        drop(connection, name)
