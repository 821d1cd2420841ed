"""How whole documents lie in Arrow: ``_id``, ``_routing`` and ``_source``, and the cursor where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pyarrow as pa

from retl.model.schema import field

ID = "_id"
ROUTING = "_routing"
SOURCE = "_source"
KEY = (ID,)
_INDEX = b"retl.index"


def document_schema(cursor: pa.Field | None = None, index: Mapping[str, Any] | None = None) -> pa.Schema:
    """The columns of document batches: ``_id``, ``_routing``, ``_source`` (its JSON, byte for byte), the cursor.

    ``index`` is what the source says of itself: ``{"mappings": ..., "settings": ..., "aliases": ..., "cluster": ...,
    "name": ..., "indices": ...}``, settings only those that another cluster can take, the name as it was declared, the
    indices that it stands for. It travels with the schema, for ``index_of``.
    """
    columns = [
        field(ID, pa.string(), native="_id", nullable=False),
        field(ROUTING, pa.string(), native="_routing"),
        field(SOURCE, pa.binary(), native="_source", nullable=False, json=True),
    ]
    if cursor is not None:
        columns.append(cursor)
    return pa.schema(columns, metadata={_INDEX: msgspec.json.encode(index)} if index is not None else None)


def holds_documents(schema: pa.Schema) -> bool:
    """Whether batches of this schema hold whole documents."""
    return bool(schema.names[:3] == [ID, ROUTING, SOURCE])


def index_of(schema: pa.Schema) -> dict[str, Any] | None:
    """What the source says of its index, where it has told it."""
    found = (schema.metadata or {}).get(_INDEX)
    return None if found is None else msgspec.json.decode(found)
