"""What a name stands for: an index, a pattern, an alias or a data stream."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.client import Client, quoted
from retl.model.errors import ConfigError

_MOST_HITS = 10_000
# What the server answers otherwise: its own words, and a path that leads elsewhere.
_OF_THE_SERVER = re.compile(r"_(?!all\Z)|\.{0,2}\Z")


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
    left_out: tuple[str, ...]
    """The fields that a document may have had when it came, and that are not kept in it."""


async def look(client: Client, name: str) -> Found | None:
    """What a name stands for; ``None`` where that is nothing. Raises ``ConfigError`` for what would ask for something else."""
    if any(_OF_THE_SERVER.match(part) for part in name.split(",")):
        raise ConfigError(
            f"{name!r} is no name of an index, an alias or a data stream.",
            remedy="write one, several with commas, or a pattern such as logs-*; _all stands for every index.",
        )
    answer = await client.request("GET", f"/{quoted(name)}", allow=(404,))
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
            "name": name,
            "indices": list(found),
        },
        most_hits=min(int(one.get("max_result_window", _MOST_HITS)) for one in settings),
        hides=any(str(one.get("dynamic", "true")).lower() in ("false", "runtime") for one in mappings),
        left_out=tuple(sorted({name for one in mappings for name in _left_out(one.get("_source") or {})})),
        sources=all((one.get("_source") or {}).get("enabled", True) is not False for one in mappings),
    )


def _left_out(about: Mapping[str, Any]) -> list[str]:
    kept = about.get("includes")
    return [*(about.get("excludes") or ()), *([f"all but {', '.join(kept)}"] if kept else [])]


def _shared(aliases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The aliases that all indices have alike: one that stands for some of them would stand for all in a copy."""

    def what(about: Mapping[str, Any]) -> dict[str, Any]:
        return {word: value for word, value in about.items() if word != "is_write_index"}

    return {
        name: about
        for name, about in aliases[-1].items()
        if all(name in one and what(one[name]) == what(about) for one in aliases)
    }


def stands_for(expression: str, index: str, *, alias: str) -> bool:
    """Whether a list of names and patterns stands for an index, which may have an alias, as the server reads it.

    ``logs-*,-logs-copy`` does not stand for an index ``logs-copy``, but for one that has this alias: only a pattern
    leaves out by an alias.
    """
    found = patterns = False
    for part in expression.split(","):
        if patterns and part.startswith("-"):
            left_out = fnmatch.fnmatchcase(index, part[1:]) or ("*" in part and fnmatch.fnmatchcase(alias, part[1:]))
            found = found and not left_out
        else:
            found = found or part == "_all" or any(fnmatch.fnmatchcase(name, part) for name in (index, alias))
            patterns = patterns or "*" in part
    return found


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
