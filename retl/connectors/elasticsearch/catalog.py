"""What a name stands for: an index, a pattern, an alias or a data stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.client import Client, quoted

_MOST_HITS = 10_000


@dataclass(frozen=True)
class Found:
    """The indices behind a name, as one."""

    path: str
    """The name, as a part of a path."""
    indices: tuple[str, ...]
    properties: Mapping[str, Any]
    index: Mapping[str, Any]
    """What an index like it is created with: mappings, settings and aliases; and the cluster that it lies in."""
    most_hits: int
    """How many hits one answer may have."""
    hides: bool
    """Whether documents may hold fields that the mapping does not know."""
    sources: bool
    """Whether every index keeps its documents."""


async def look(client: Client, name: str) -> Found | None:
    """What a name stands for; ``None`` where that is nothing."""
    answer = await client.request("GET", f"/{quoted(name)}", allow=(404,))
    left_out: tuple[str, ...]
    """The fields that a document may have had when it came, and that are not kept in it."""
    if answer.status == 404:
        return None
    found: dict[str, Any] = answer.json()
    if not found:
        return None
    described = list(found.values())
    mappings = [one.get("mappings") or {} for one in described]
    settings = [(one.get("settings") or {}).get("index") or {} for one in described]
    by_name = dict(zip(found, mappings, strict=True))
    properties = mapping.blamed(mapping.merged(mappings), by_name)
    # Of several indices the last one counts, where another has no wider type: it is the newest of a data stream or of a
    # rollover, and the settings that its mapping may speak of are taken too.
    newest = {**mappings[-1], "properties": mapping.blamed(mapping.merged(mappings[::-1]), by_name)}
    return Found(
        path=quoted(name),
        indices=tuple(found),
        properties=properties,
        index={
            "mappings": newest if properties else mappings[-1],
            "settings": {"index": mapping.copyable(settings[-1])},
            "aliases": _shared([one.get("aliases") or {} for one in described]),
            "cluster": client.product.cluster,
        },
        most_hits=min(int(one.get("max_result_window", _MOST_HITS)) for one in settings),
        hides=any(str(one.get("dynamic", "true")).lower() in ("false", "runtime") for one in mappings),
        sources=all((one.get("_source") or {}).get("enabled", True) is not False for one in mappings),
    )


def _shared(aliases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The aliases that all indices have alike: one that stands for some of them would stand for all in a copy."""

    def what(about: Mapping[str, Any]) -> dict[str, Any]:
        return {word: value for word, value in about.items() if word != "is_write_index"}

    return {
        name: about
        left_out=tuple(sorted({name for one in mappings for name in _left_out(one.get("_source") or {})})),
        for name, about in aliases[-1].items()
        if all(name in one and what(one[name]) == what(about) for one in aliases)
    }

def _left_out(about: Mapping[str, Any]) -> list[str]:
    kept = about.get("includes")
    return [*(about.get("excludes") or ()), *([f"all but {', '.join(kept)}"] if kept else [])]



async def names(client: Client) -> list[str]:
    """Indices, aliases and data streams, without hidden ones."""
    answer = await client.call("GET", "/_resolve/index/*")
    indices = [one["name"] for one in answer.get("indices", ()) if "hidden" not in one.get("attributes", ())]
    others = [one["name"] for kind in ("aliases", "data_streams") for one in answer.get(kind, ())]
    return sorted({name for name in (*indices, *others) if not name.startswith(".")})


async def document_bytes(client: Client, path: str) -> float | None:
    """How much room one document takes on disk, on average; ``None`` where that is not told."""
    answer = await client.request("GET", f"/{path}/_stats/docs,store", allow=range(400, 600))
    if answer.status >= 300:
        return None
    primaries = (answer.json().get("_all") or {}).get("primaries") or {}
    documents = (primaries.get("docs") or {}).get("count") or 0
    size = (primaries.get("store") or {}).get("size_in_bytes") or 0
    return size / documents if documents and size else None
