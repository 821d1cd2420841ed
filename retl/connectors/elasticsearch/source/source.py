"""Elasticsearch as a source: indices, aliases and data streams."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, NoReturn

from retl.connectors.base import Source, SourceScan, SystemInfo
from retl.connectors.elasticsearch.catalog import find_index, location_of
from retl.connectors.elasticsearch.connection import Client, SharedClient
from retl.connectors.elasticsearch.source import catalog
from retl.connectors.elasticsearch.source.scan import ElasticsearchScan
from retl.connectors.elasticsearch.source.selection import schema_of, select
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, RetlError
from retl.model.schema import TableSchema
from retl.model.table import TableSpec
from retl.state.base import Manifest
from retl.threads import shielded

if TYPE_CHECKING:
    from retl.connectors.elasticsearch import Elasticsearch


class ElasticsearchSource(Source):
    """Reads indices, aliases and data streams. See ``retl.connectors.Elasticsearch``."""

    system: ClassVar[str] = "elasticsearch"
    schemas: ClassVar[bool] = False

    def __init__(self, options: Elasticsearch) -> None:
        self._slices = options.read_slices
        self._shared = SharedClient(options, "source")

    async def ping(self) -> SystemInfo:
        return await self._shared.ping()

    async def list_tables(self) -> list[str]:
        return await catalog.tables(await self._shared.client())

    async def describe(self, table: str) -> TableSchema | None:
        index = await catalog.find_indices(await self._shared.client(), table)
        return None if index is None else schema_of(table, index)

    async def location(self, table: str) -> str | None:
        client = await self._shared.client()
        if any(sign in table for sign in "*,") or await find_index(client, table) is None:
            return None  # the plan raises it, with the names that exist
        return await location_of(client, table)

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        client = await self._shared.client()
        index = await catalog.find_indices(client, table.name)
        if index is None:
            await self._no_such_table(client, table.name)
        scan = ElasticsearchScan(client, table, index, select(table, index, client.server), slices=self._slices)
        await scan.prepare(checkpoint)
        try:
            yield scan
        finally:
            await shielded(scan.close())

    async def _no_such_table(self, client: Client, name: str) -> NoReturn:
        try:
            offered = await catalog.names(client)
        except RetlError:
            offered = []
        close = difflib.get_close_matches(name, offered, n=1)
        some = ", ".join(offered[:10]) + (" ..." if len(offered) > 10 else "")
        raise ConfigError(
            f"the source has no index, alias or data stream {name!r}.",
            remedy=f"did you mean {close[0]!r}?" if close else f"it has {some}." if offered else "the source is empty.",
        )

    async def aclose(self) -> None:
        await self._shared.close()
