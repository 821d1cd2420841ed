"""What a name stands for: an index, a pattern, an alias or a data stream."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retl.connectors.elasticsearch.connection import Client, is_text, quoted
from retl.connectors.elasticsearch.errors import understood
from retl.connectors.elasticsearch.settings import of_documents
from retl.connectors.elasticsearch.source import merging
from retl.model.errors import ConfigError, ConnectionFailed

_MOST_HITS = 10_000
# ``retl-<name>-<epoch>-<time>``: the index that a swap has loaded, which is read by its alias.
_SHADOW = re.compile(r"retl-.+-\d+-\d+")
_ALIAS_OF_SHADOWS = re.compile(r"retl-.+-(replaced|loading|dropped)")
_OF_THE_SERVER = re.compile(r"_(?!all\Z)|\.{0,2}\Z")


@dataclass(frozen=True)
class SourceIndex:
    """The indices behind a name, as one."""

    path: str
    """The name as a part of a URL path."""
    indices: tuple[str, ...]
    properties: Mapping[str, Any]
    index: Mapping[str, Any]
    """What creates an index like it: mappings, settings and aliases; and its cluster."""
    most_hits: int
    """Maximum hits of one answer."""
    hides: bool
    """Whether documents may hold fields that the mapping does not know."""
    sources: bool
    """Whether every index keeps its documents."""
    kept: tuple[Mapping[str, Any], ...]
    """What the mappings say of ``_source``: the fields that they keep out of their documents."""
    runtime: tuple[str, ...]
    """The fields that a search computes."""
    closed: tuple[str, ...]
    """Indices of the name that are closed and cannot be read."""
    shards: int
    synthetic: bool
    """Whether an index keeps only the values of its documents (synthetic ``_source``)."""
    unnamed: tuple[str, ...]
    """Fields whose name is not valid text."""

    def keeps(self, path: str) -> bool:
        """Whether the mapping keeps a field in ``_source``."""
        return all(
            (not about.get("includes") or any(covers(one, path) for one in about["includes"]))
            and not any(covers(one, path) for one in about.get("excludes") or ())
            for about in self.kept
        )

    @property
    def several(self) -> bool:
        return len(self.indices) > 1

    @property
    def left_out(self) -> list[str]:
        """The fields that the mapping keeps out of ``_source``."""
        return sorted({name for about in self.kept for name in _left_out(about)})


def covers(pattern: str, path: str) -> bool:
    """Whether a field lies at a path, or below it; ``*`` stands for anything."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*") + r"(\..*)?", path, re.DOTALL) is not None


async def find_indices(client: Client, name: str) -> SourceIndex | None:
    """What a name stands for, or ``None``. Raises ``ConfigError`` for a name that the server reads as something else."""
    if any(_OF_THE_SERVER.match(part) for part in name.split(",")):
        raise ConfigError(
            f"{name!r} cannot be the name of an index, an alias or a data stream.",
            remedy="write one, several with commas, or a pattern such as logs-*; _all stands for every index.",
        )
    params = {"expand_wildcards": "open,closed"}
    answer = await client.request("GET", f"/{quoted(name)}", params=params, allow=(404,))
    if answer.status == 404:
        return None
    with understood(client.place):
        everything: dict[str, Any] = answer.json()
        closed = [index for index, about in everything.items() if _is_closed(about)]
        _check_open(name, closed)
        found = {index: about for index, about in everything.items() if index not in closed}
        return _found(client, name, found, closed) if found else None


def _is_closed(about: Mapping[str, Any]) -> bool:
    settings = (about.get("settings") or {}).get("index") or {}
    return str(settings.get("verified_before_close", "false")) == "true"


def _check_open(name: str, closed: Sequence[str]) -> None:
    """A pattern passes over closed indices, with a warning; a closed index that is named by itself is an error."""
    if closed and (closed_by_name := [index for index in closed if not _by_pattern(name, index)]):
        raise ConfigError(
            f"{', '.join(map(repr, closed_by_name[:3]))} of {name!r} is closed, so nobody can read it.",
            remedy=f"open it: POST /{closed_by_name[0]}/_open; or leave it out.",
        )


def _by_pattern(name: str, index: str) -> bool:
    return any("*" in part and fnmatch.fnmatchcase(index, part) for part in name.split(","))


def _found(client: Client, name: str, found: Mapping[str, Any], closed: Sequence[str]) -> SourceIndex:
    described = list(found.values())
    mappings = [one.get("mappings") or {} for one in described]
    settings = [(one.get("settings") or {}).get("index") or {} for one in described]
    by_name = dict(zip(found, mappings, strict=True))
    unnamed: list[str] = []
    properties = _named(merging.with_index_names(merging.merged(mappings), by_name), unnamed)
    # Of several indices the last one counts, where another has no wider type: it is the newest of a data stream or of a
    # rollover, and the settings that its mapping may speak of are taken too.
    newest = {
        **mappings[-1],
        "properties": _named(merging.with_index_names(merging.merged(mappings[::-1]), by_name), []),
    }
    return SourceIndex(
        path=quoted(name),
        indices=tuple(found),
        properties=properties,
        index={
            "mappings": newest if properties else mappings[-1],
            "settings": {"index": of_documents(settings[-1])},
            "aliases": _shared([one.get("aliases") or {} for one in described]),
            "cluster": client.server.cluster,
            "name": name,
            "indices": list(found),
        },
        most_hits=min(int(one.get("max_result_window", _MOST_HITS)) for one in settings),
        hides=any(str(one.get("dynamic", "true")).lower() in ("false", "runtime") for one in mappings),
        kept=tuple(one.get("_source") or {} for one in mappings),
        sources=all((one.get("_source") or {}).get("enabled", True) is not False for one in mappings),
        runtime=tuple(
            sorted({field for one in mappings for word in ("runtime", "derived") for field in one.get(word) or ()})
        ),
        closed=tuple(closed),
        shards=max(int(one.get("number_of_shards", 1)) for one in settings),
        synthetic=any(_synthetic(about, index) for about, index in zip(mappings, settings, strict=True)),
        unnamed=tuple(unnamed),
    )


def _synthetic(about: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    modes = (
        (about.get("_source") or {}).get("mode"),
        ((settings.get("mapping") or {}).get("source") or {}).get("mode"),
    )
    return "synthetic" in modes or (modes == (None, None) and settings.get("mode") in ("logsdb", "time_series"))


def _named(properties: Mapping[str, Any], unnamed: list[str], prefix: str = "") -> dict[str, Any]:
    """The fields whose name is valid text: a name with half of a sign cannot be sent."""
    found: dict[str, Any] = {}
    for name, spec in properties.items():
        if not is_text(name):
            unnamed.append(ascii(prefix + name))
            continue
        inner = spec.get("properties")
        found[name] = {**spec, "properties": _named(inner, unnamed, f"{prefix}{name}.")} if inner else spec
    return found


def _left_out(about: Mapping[str, Any]) -> list[str]:
    kept = about.get("includes")
    return [*(about.get("excludes") or ()), *([f"all but {', '.join(kept)}"] if kept else [])]


def _shared(aliases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The aliases that all indices share: any other one would stand for more in a copy."""

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


async def check_whole(client: Client, found: SourceIndex) -> None:
    """Raise ``ConnectionFailed`` where shards are missing, at once: such an index answers each search after a minute."""
    params = {"level": "indices"}
    answer = await client.request("GET", f"/_cluster/health/{found.path}", params=params, allow=range(400, 600))
    if answer.status >= 300:
        return  # a user who may not ask finds out by waiting
    with understood(client.place):
        indices = answer.json().get("indices") or {}
        red = sorted(name for name, about in indices.items() if about.get("status") == "red" and name in found.indices)
    if red:
        reason = await _missing_shards(client, red)
        raise ConnectionFailed(
            f"{client.place} cannot give all of {', '.join(map(repr, red[:3]))}: {reason}.",
            remedy="nothing, if a node comes back: the scan is tried again. Otherwise see GET /_cluster/allocation/explain.",
        )


async def _missing_shards(client: Client, red: Sequence[str]) -> str:
    words = {"format": "json", "h": "index,shard,prirep,state,unassigned.reason"}
    answer = await client.request(
        "GET", f"/_cat/shards/{quoted(','.join(red[:3]))}", params=words, allow=range(400, 600)
    )
    found = []
    with understood(client.place):
        for one in answer.json() if answer.status < 300 else ():
            if one["prirep"] == "p" and one["state"] != "STARTED":
                why = f" ({one['unassigned.reason']})" if one.get("unassigned.reason") else ""
                found.append(f"the primary of shard {one['shard']} of {one['index']} is {one['state'].lower()}{why}")
    return "; ".join(found[:3]) or "a primary shard is missing"


async def names(client: Client) -> list[str]:
    """Everything that has a name: indices, aliases and data streams, without hidden ones."""
    indices, others, _ = await _resolved(client)
    return sorted({*indices, *others})


async def tables(client: Client) -> list[str]:
    """Everything that can be read, each once: no shadow beside its table, and no alias beside its index."""
    indices, others, behind = await _resolved(client)
    own = {name for name in indices if _SHADOW.fullmatch(name)}
    offered = indices - own
    apart = {
        name for name in others if not offered.intersection(behind[name]) and not _ALIAS_OF_SHADOWS.fullmatch(name)
    }
    return sorted(offered | apart)


async def _resolved(client: Client) -> tuple[set[str], set[str], dict[str, list[str]]]:
    """Indices; aliases and data streams; and the indices that lie behind those."""
    answer = await client.call("GET", "/_resolve/index/*")
    with understood(client.place):
        indices = {one["name"] for one in answer.get("indices", ()) if "hidden" not in one.get("attributes", ())}
        behind = {one["name"]: list(one.get("indices") or ()) for one in answer.get("aliases", ())}
        behind |= {one["name"]: list(one.get("backing_indices") or ()) for one in answer.get("data_streams", ())}
    visible = {name for name in (*indices, *behind) if not name.startswith(".")}
    return indices & visible, visible - indices, behind


async def document_bytes(client: Client, path: str) -> float | None:
    """Average bytes of a document on disk; ``None`` where the server does not tell."""
    answer = await client.request("GET", f"/{path}/_stats/docs,store", allow=range(400, 600))
    if answer.status >= 300:
        return None
    with understood(client.place):
        primaries = (answer.json().get("_all") or {}).get("primaries") or {}
        documents = int((primaries.get("docs") or {}).get("count") or 0)
        size = int((primaries.get("store") or {}).get("size_in_bytes") or 0)
    return size / documents if documents and size else None
