"""Pipelines as plain data, so that they can be handed to another process."""

from __future__ import annotations

from typing import Any

import msgspec

import retl
from retl.connectors import Elasticsearch, LocalFiles, MySQL, PostgreSQL, Redshift, Yuque
from retl.connectors.base import Connector
from retl.connectors.duckdb import DuckDB
from retl.connectors.sqlite import SQLite


class Job(msgspec.Struct, kw_only=True):
    """One pipeline of one table, from database to database; or from a folder, or from Yuque."""

    source: str
    target: str
    table: dict[str, Any]
    state: str | None = None
    """A state file beside the target; inside the target where unset."""
    source_options: dict[str, Any] = msgspec.field(default_factory=dict)
    target_options: dict[str, Any] = msgspec.field(default_factory=dict)
    lease_ttl: float = 30.0
    interval: str = "manual"

    def pipeline(self) -> retl.Pipeline:
        """A new object, as after a restart."""
        return retl.Pipeline(
            "p",
            source=connector(self.source, **self.source_options),
            target=connector(self.target, **self.target_options),
            tables=[table(self.table)],
            state=retl.SqliteStore(self.state) if self.state else None,
            lease_ttl=self.lease_ttl,
            interval=self.interval,
        )


def table(words: dict[str, Any]) -> retl.Table:
    """A table by its words, those within words too."""
    kinds = {"chunks": retl.Chunks, "embeddings": retl.Embeddings}
    return retl.Table(**{word: kinds[word](**value) if word in kinds else value for word, value in words.items()})


def connector(address: str, **options: Any) -> Connector:
    """What reads or writes a server's database, by its URL, or a file, by its ending; a folder ends with a slash."""
    if address.startswith("yuque:"):
        return Yuque(address.removeprefix("yuque:"), **options)
    if address.endswith("/"):
        return LocalFiles(path=address, **options)
    if address.startswith("mysql://"):
        return MySQL(address, **options)
    if address.startswith("postgresql://"):
        return PostgreSQL(address, **options)
    if address.startswith("redshift://"):
        return Redshift(address, **options)
    if address.startswith("http://"):
        return Elasticsearch(address, **options)
    return DuckDB(address, threads=1) if address.endswith(".duckdb") else SQLite(address)
