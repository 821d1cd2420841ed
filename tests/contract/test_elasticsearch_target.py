"""Elasticsearch, held to the contract of a target that has no transactions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar

import pytest

from retl.connectors import Elasticsearch
from retl.connectors.base import Target
from retl.model.actions import PreAction
from retl.testing import TargetContract
from tests.servers.process import free_port
from tests.servers.search import SearchServer


class TestElasticsearchTarget(TargetContract):
    stages: ClassVar[bool] = False
    pre_actions: ClassVar[frozenset[PreAction]] = frozenset({PreAction.NONE, PreAction.TRUNCATE, PreAction.SWAP})

    @pytest.fixture(autouse=True)
    def _cluster(self, elasticsearch_server: SearchServer) -> Iterator[None]:
        # The suite names its tables itself, so what is left of them is removed by their beginning.
        self.server = elasticsearch_server
        with elasticsearch_server.fresh_names() as prefix:
            self.prefix = prefix
            yield
            elasticsearch_server.ask("DELETE", "/contract_orders*,retl-contract_orders*?expand_wildcards=all")

    def target(self) -> Target:
        return Elasticsearch(self.server.url, state_index=f".{self.prefix}").target()

    async def contents(self, table: str) -> list[dict[str, Any]]:
        if table not in await self.tables():
            return []
        # A document that was written before there was such a column does not hold it.
        absent = {"note": None} if "note" in self.columns(table) else {}
        rows = [{**absent, **document} for document in self.server.documents(table).values()]
        for row in rows:
            row["updated_at"] = row["updated_at"] and datetime.fromisoformat(row["updated_at"])
        return rows

    def columns(self, table: str) -> set[str]:
        (found,) = self.server.ask("GET", f"/{table}/_mapping").values()
        return set(found["mappings"].get("properties", {}))

    async def tables(self) -> list[str]:
        """Indices by the name that they are known by; one without an alias is known by its own."""
        found = self.server.ask("GET", "/_all/_alias?expand_wildcards=all")
        names = {alias for about in found.values() for alias in about["aliases"]}
        names |= {index for index, about in found.items() if not about["aliases"]}
        return sorted(name for name in names if "contract_orders" in name)

    def unreachable(self) -> Target:
        return Elasticsearch(f"http://127.0.0.1:{free_port()}").target()
