"""A client that several tasks share: opened when something is asked, let go of between two runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from retl.connectors.elasticsearch.client import Client
from retl.connectors.elasticsearch.errors import Role
from retl.connectors.elasticsearch.options import ServerOptions
from retl.threads import shielded


class Line:
    """Opens the client with the first who uses it. ``close`` waits for nobody: the last one who uses it closes it."""

    def __init__(self, options: ServerOptions, role: Role) -> None:
        self._options = options
        self._role = role
        self._client: Client | None = None
        self._users = 0
        self._leaving = False
        self._lock = anyio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Client]:
        """The client, for as long as the block lasts."""
        async with self._lock:
            if self._client is None:
                self._client = await Client.open(self._options, self._role)
            client = self._client
            self._users += 1
        try:
            yield client
        finally:
            self._users -= 1
            if self._leaving and not self._users:
                await shielded(self._leave())

    async def close(self) -> None:
        """Let go of the client, at once or when the last one has done with it. The next use opens it again."""
        if self._users:
            self._leaving = True
        else:
            await self._leave()

    async def _leave(self) -> None:
        self._leaving = False
        client, self._client = self._client, None
        if client is not None:
            await client.close()
