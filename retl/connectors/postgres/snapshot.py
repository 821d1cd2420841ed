"""The snapshot that a scan reads: one transaction, which never becomes another one."""

from __future__ import annotations

from typing import Generic, TypeVar

from retl.connectors.net.pool import Reservation
from retl.connectors.postgres.connection import PostgresConnection
from retl.model.errors import ConnectionFailed, RetlError

ConnectionT = TypeVar("ConnectionT", bound=PostgresConnection)


class Snapshot(Generic[ConnectionT]):
    """The transaction of a scan, begun as ``mode`` says when its first statement comes."""

    def __init__(self, reservation: Reservation[ConnectionT], mode: str) -> None:
        self._reservation = reservation
        self._mode = mode
        self._connection: ConnectionT | None = None

    async def connection(self) -> ConnectionT:
        """The connection, in that transaction. Raises ``ConnectionFailed`` once it is gone."""
        connection = self._connection
        if connection is None:
            connection = self._connection = await self._reservation.connection(lambda kept: kept.begin(self._mode))
        elif not connection.is_healthy:
            raise ConnectionFailed(
                f"the snapshot at {connection.place} that this scan reads is gone: its connection was lost, or a statement failed.",
                remedy="nothing, if it passes: the scan is tried again from its last checkpoint.",
            )
        return connection

    async def end(self) -> None:
        """End the transaction, and leave the connection for others."""
        if self._connection is not None and self._connection.is_healthy:
            try:
                await self._connection.rollback()
            except RetlError:
                self._connection.abort()
