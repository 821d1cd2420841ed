"""Try a definition on a temporary table, to learn before any change whether the server accepts it."""

from __future__ import annotations

import secrets
from contextlib import suppress

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.sql.tables import TableChange, TableName
from retl.model.errors import ConfigError, RetlError
from retl.model.plan import WriteSpec

_TABLE = "retl_try"
_ROOM = (
    "leave columns out with exclude, or give fewer of them more room: create the table yourself, with narrower ones."
)
_NAME = "give the column another name with rename."
_KEY = "name a shorter key, or create the table yourself."
_REMEDIES = {1117: _ROOM, 1118: _ROOM, 1005: _ROOM, 1071: _KEY, 1059: _NAME, 1060: _NAME, 1166: _NAME, 1300: _NAME}


async def check(connection: MySQLConnection, place: TableName, spec: WriteSpec, change: TableChange) -> None:
    """Create the table, or its new columns, for a moment. Raises ``ConfigError`` if the server refuses it."""
    table = place.beside(_TABLE).sql
    statements = change.ddl(table)
    if not statements:
        return
    try:
        if not change.create and not await _made_like(connection, place, table):
            return
        for statement in statements:
            await connection.execute(statement.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1))
        if not spec.table.replaces:
            # Rows are staged in such a table, with a number each.
            await connection.execute(f"ALTER TABLE {table} ADD COLUMN retl_{secrets.token_hex(8)} BIGINT NOT NULL")
    except ConfigError:
        return  # the user may make no temporary tables; an upsert, which needs one, says so itself
    except TargetRefused as error:
        raise ConfigError(
            f"the target cannot have the table {spec.table.to!r} with these {len(spec.schema)} columns: {error.message}",
            remedy=_REMEDIES.get(error.code, "create the table yourself: its definition is then left alone."),
        ) from error
    finally:
        if not connection.closed:
            with suppress(RetlError):
                await connection.execute(f"DROP TEMPORARY TABLE IF EXISTS {table}")


async def _made_like(connection: MySQLConnection, place: TableName, table: str) -> bool:
    """Not every table can have a temporary twin: not one with partitions or a FULLTEXT index."""
    try:
        await connection.execute(f"CREATE TEMPORARY TABLE {table} LIKE {place.sql}")
    except (TargetRefused, ConfigError):
        return False
    return True
