"""Statements of the user's own, each committed by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from retl.connectors.net.pool import ConnectionPool
from retl.connectors.postgres.connection import PostgresConnection
from retl.connectors.postgres.line import state_of
from retl.connectors.sql.door import RunStatement
from retl.model.errors import RetlError

_NOT_INSIDE = ("25001", "2D000")
"""SQLSTATEs of what no transaction may hold: VACUUM, a procedure that commits."""


@asynccontextmanager
async def open_statements(pool: ConnectionPool[PostgresConnection]) -> AsyncGenerator[RunStatement, None]:
    """A session for such statements."""
    async with pool.alone() as connection:
        yield partial(_run, connection)


async def _run(connection: PostgresConnection, sql: str) -> None:
    """In a transaction of its own, which has the settings; alone, with those of the role, where it takes none."""
    try:
        async with connection.transaction():
            await connection.execute(sql)
    except RetlError as error:
        if state_of(error) not in _NOT_INSIDE:
            raise
        await connection.execute(sql)
