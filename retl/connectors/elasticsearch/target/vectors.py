"""Vectors in an index: their mapping, and how they are found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from retl.connectors.elasticsearch.catalog import at, find_index, refresh
from retl.connectors.elasticsearch.connection import Client, quoted
from retl.model.errors import SchemaDrift, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.schema import vector_size

_AT_ONCE = 500
_SIMILARITY = {"cosine": "cosine", "l2": "l2_norm", "inner_product": "max_inner_product"}


class _Hit(msgspec.Struct):
    fields: dict[str, msgspec.Raw] = {}


class _Hits(msgspec.Struct):
    hits: list[_Hit]


class _Found(msgspec.Struct):
    hits: _Hits


def mappings_of(spec: WriteSpec, *, opensearch: bool) -> dict[str, Any]:
    """The mappings of vectors and of what stands beside them; none where the table has none."""
    words = spec.table.embeddings
    if words is None or all(vector_size(column) is None for column in spec.schema):
        return {}
    if opensearch:
        raise UnsupportedError(
            "OpenSearch has no dense_vector, and its own knn_vector is not supported.",
            remedy="leave embeddings out, and let an ingest pipeline of OpenSearch (its processor text_embedding) give the "
            "texts vectors; or write them into Elasticsearch, PostgreSQL or another target.",
        )
    distance = words.index.distance if words.index is not None else "cosine"
    return {
        words.into: {"type": "dense_vector", "dims": words.dimensions, "similarity": _SIMILARITY[distance]},
        words.made_of: {"type": "keyword"},
    }


def check_vectors(spec: WriteSpec, column: pa.Field, mapped: Mapping[str, Any]) -> None:
    """Refuse a field that holds vectors of other dimensions, or none."""
    dimensions = vector_size(column)
    if dimensions is None or (mapped.get("type") == "dense_vector" and mapped.get("dims") in (None, dimensions)):
        return
    there = f"{mapped.get('type', 'object')} of {mapped['dims']} dimensions" if "dims" in mapped else mapped.get("type")
    raise SchemaDrift(
        f"the field {column.name!r} of {spec.table.to!r} is mapped as {there}, and vectors of {dimensions} dimensions are to be "
        "written. A field of an index can be neither changed nor dropped.",
        remedy="write them into another field with embeddings.into, or into another index.",
    )


async def lookup(client: Client, table: str, column: str, values: Sequence[str], wanted: Sequence[str]) -> pa.Table:
    """One document for each value of a keyword that some have: see ``Target.lookup``."""
    asked = [column, *wanted]
    rows: list[list[str | None]] = []
    if await _has(client, table, column):
        # A search does not find the vectors of a moment ago, and they would be paid for again.
        await refresh(client, table)
        for start in range(0, len(values), _AT_ONCE):
            body = {
                "size": _AT_ONCE,
                "query": {"terms": {column: list(values[start : start + _AT_ONCE])}},
                "collapse": {"field": column},
            }
            rows += [[_text(hit, name) for name in asked] for hit in await _search(client, table, body, asked)]
    columns = list(zip(*rows, strict=True)) or [()] * len(asked)
    return pa.table({name: pa.array(some, pa.string()) for name, some in zip(asked, columns, strict=True)})


async def extremes(client: Client, table: str, column: str) -> tuple[str, str] | None:
    """The lowest and the highest value of a keyword: see ``Target.extremes``."""
    if not await _has(client, table, column):
        return None
    found = []
    for order in ("asc", "desc"):
        body = {"size": 1, "query": {"exists": {"field": column}}, "sort": [{column: {"order": order}}]}
        found += [_text(hit, column) for hit in await _search(client, table, body, [column])]
    low, high = (*found, None, None)[:2]
    return None if low is None or high is None else (low, high)


async def _has(client: Client, table: str, column: str) -> bool:
    existing = await find_index(client, table)
    mapped = at(existing.definition.properties, column) if existing is not None else None
    return mapped is not None and mapped.get("type") == "keyword"


async def _search(client: Client, table: str, body: Mapping[str, Any], fields: Sequence[str]) -> list[_Hit]:
    asked = {**body, "fields": list(fields), "_source": False, "track_total_hits": False}
    answer = await client.request("POST", f"/{quoted(table)}/_search", body=asked)
    return msgspec.json.decode(answer.body, type=_Found).hits.hits


def _text(hit: _Hit, name: str) -> str | None:
    """The only value of a field, or its vector as JSON."""
    raw = hit.fields.get(name)
    if raw is None:
        return None
    values = msgspec.json.decode(raw, type=list[msgspec.Raw])
    first = bytes(values[0])
    if first[:1] == b'"':
        return str(msgspec.json.decode(first))
    return bytes(raw).decode() if first[:1] != b"[" else first.decode()
