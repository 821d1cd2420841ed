"""A cluster with the engine's side of a scan, for tests that look at what the target did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from retl.connectors import Elasticsearch
from retl.connectors.elasticsearch.types import document_schema
from retl.model.plan import WriteSpec
from retl.model.schema import field
from retl.model.table import TableSpec
from retl.testing import table_spec
from retl.testing.target_base import Session
from tests.integration import scene
from tests.servers.search import SearchServer

NANOS = field("at", pa.timestamp("ns", "UTC"), native="date_nanos")


class Scene(scene.Scene):
    """A part of a cluster: everything whose name begins with ``prefix``. ``session`` plays one owner of the pipeline."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.ask = server.ask

    def options(self, **words: Any) -> Elasticsearch:
        where = {"url": self.server.url, "tls_ca": self.server.ca}
        return Elasticsearch(**{**where, "state_index": f".{self.prefix}-state", **words})

    def indices(self) -> list[str]:
        """The indices there are, those of the state store not."""
        found = self.ask("GET", f"/{self.prefix}*,retl-{self.prefix}*?expand_wildcards=all", allow=(404,))
        return sorted(found) if "error" not in found else []

    def about(self, name: str) -> dict[str, Any]:
        """Mapping, settings and aliases of the one index that a name leads to."""
        (found,) = self.ask("GET", f"/{name}").values()
        return dict(found)


def whole(name: str, **words: Any) -> TableSpec:
    """A table whose documents come whole."""
    return dataclasses.replace(table_spec(name, **words), documents=True)


def load_of(
    session: Session,
    table: TableSpec,
    *,
    cursor: pa.Field | None = None,
    index: Mapping[str, Any] | None = None,
    **words: Any,
) -> WriteSpec:
    """A scan of whole documents."""
    schema = document_schema(cursor, index)
    return session.load(table, schema=schema, **{"key": ("_id",), "unique_key": True, **words})


def batch_of(load: WriteSpec, rows: Iterable[tuple[Any, ...]]) -> pa.RecordBatch:
    """Documents: ``_id``, routing, content (a value, or its bytes), and the cursor where there is one."""
    columns: list[list[Any]] = [[] for _ in load.schema]
    for row in rows:
        name, routing, content, *cursor = row
        source = content if isinstance(content, bytes) else json.dumps(content).encode()
        for column, value in zip(columns, [name, routing, source, *cursor], strict=True):
            column.append(value)
    arrays = [
        pa.array(values, pa.int64()).view(column.type)
        if pa.types.is_timestamp(column.type)
        else pa.array(values, column.type)
        for values, column in zip(columns, load.schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=load.schema)


async def scan(session: Session, load: WriteSpec, rows: Iterable[tuple[Any, ...]], *, rejects_left: int = 0) -> Any:
    """A whole scan of one slice; what its commit said."""
    writer = await session.prepare(load)
    try:
        await writer.write(batch_of(load, rows))
        done = await session.commit(writer, rejects_left=rejects_left)
        await session.finish(writer)
    except BaseException:
        await writer.abort()
        raise
    return done
