"""An index as it is, or as it will be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
import pyarrow as pa

from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.settings import copyable
from retl.connectors.elasticsearch.types import ID, ROUTING, SOURCE, arrow_column, leaf_fields
from retl.model.errors import ConnectionFailed

Kind = Literal["index", "alias", "data_stream"]


@dataclass(frozen=True)
class Definition:
    """What an index is created with: its mapping, its settings (those below ``index``), its aliases."""

    mappings: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, Any] = field(default_factory=dict)

    @property
    def meta(self) -> dict[str, Any]:
        """The note of retl in the mapping: ``key``, ``columns`` and the cursor that gives the ``versions``."""
        found = (self.mappings.get("_meta") or {}).get("retl")
        return found if isinstance(found, dict) else {}

    @property
    def properties(self) -> dict[str, Any]:
        return self.mappings.get("properties") or {}

    def body(self) -> dict[str, Any]:
        """The body of the request that creates such an index."""
        return {"mappings": self.mappings, "settings": {"index": copyable(self.settings)}, "aliases": self.aliases}


@dataclass(frozen=True)
class ExistingIndex:
    """What a name stands for in the target."""

    name: str
    kind: Kind
    indices: tuple[str, ...]
    written: str
    """The index that is written under that name."""
    definition: Definition
    closed: tuple[str, ...] = ()
    """The written index, where it is closed."""

    @property
    def uuid(self) -> str:
        return str(self.definition.settings.get("uuid", ""))

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The ingest pipelines that its documents go through."""
        return pipelines(self.definition.settings)


def at(properties: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The mapping of a field, by its dotted path."""
    if path in properties:
        found: Mapping[str, Any] = properties[path]
        return found
    head, dot, rest = path.partition(".")
    inner = (properties.get(head) or {}).get("properties")
    return at(inner, rest) if dot and inner else None


def pipelines(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The ingest pipelines that the documents of an index go through, from its settings."""
    given = (settings.get(name) for name in ("default_pipeline", "final_pipeline"))
    return tuple(str(name) for name in given if name not in (None, "_none"))


def key_of(existing: ExistingIndex) -> tuple[str, ...]:
    return tuple(existing.definition.meta.get("key") or (ID,))


def columns_of(existing: ExistingIndex) -> Iterator[pa.Field]:
    """The fields as columns, in the order in which they were created where that is known."""
    found = dict(leaf_fields(existing.definition.properties))
    noted = [name for name in existing.definition.meta.get("columns") or () if name not in (ID, ROUTING, SOURCE)]
    for name in [*noted, *(path for path in found if not any(_within(path, one) for one in noted))]:
        spec = at(existing.definition.properties, name)
        yield arrow_column(name, spec if spec is not None else {"type": "object"})


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


EVERYTHING = {"expand_wildcards": "all"}
_LOADED = re.compile(r"retl-(.+)-\d+-\d{28}")


async def find_index(client: Client, name: str) -> ExistingIndex | None:
    """What stands under a name, or ``None``."""
    answer = await client.request("GET", f"/_resolve/index/{quoted(name)}", params=EVERYTHING, allow=(404,))
    if answer.status == 404:
        return None
    found = msgspec.json.decode(answer.body)
    for stream in found.get("data_streams") or ():
        if stream["name"] == name:
            indices = tuple(stream["backing_indices"])
            return await _known(client, name, "data_stream", indices, indices[-1])
    for alias in found.get("aliases") or ():
        if alias["name"] == name:
            indices = tuple(alias["indices"])
            return await _known(client, name, "alias", indices, await _written(client, name, indices))
    if any(index["name"] == name for index in found.get("indices") or ()):
        return await _known(client, name, "index", (name,), name)
    return None


async def _known(client: Client, name: str, kind: Kind, indices: tuple[str, ...], written: str) -> ExistingIndex:
    definition = await _definition(client, written or indices[0])
    # The server keeps this setting for as long as the index is closed.
    closed = (written,) if str(definition.settings.get("verified_before_close")) == "true" else ()
    return ExistingIndex(name, kind, indices, written, definition, closed)


async def _written(client: Client, alias: str, indices: tuple[str, ...]) -> str:
    """The index that an alias writes to; empty without one."""
    if len(indices) == 1:
        return indices[0]
    found = await client.call("GET", f"/_alias/{quoted(alias)}")
    return next((name for name, about in found.items() if about["aliases"][alias].get("is_write_index")), "")


async def _definition(client: Client, index: str) -> Definition:
    (found,) = (await client.call("GET", f"/{quoted(index)}")).values()
    return Definition(found["mappings"], found["settings"]["index"], found["aliases"])


class Identity(NamedTuple):
    """What tells an index from another one of its name, and the ingest pipelines that its documents go through."""

    uuid: str = ""
    pipelines: tuple[str, ...] = ()


async def identity(client: Client, index: str) -> Identity:
    """The identity of an index; empty without such an index."""
    names = "index.uuid,index.default_pipeline,index.final_pipeline"
    answer = await client.request("GET", f"/{quoted(index)}/_settings/{names}", allow=(404,))
    if answer.status == 404:
        return Identity()
    (found,) = msgspec.json.decode(answer.body).values()
    settings = found["settings"]["index"]
    return Identity(str(settings["uuid"]), pipelines(settings))


async def uuid(client: Client, index: str) -> str:
    """What tells an index from another one of its name; empty without such an index."""
    return (await identity(client, index)).uuid


async def location_of(client: Client, name: str) -> str | None:
    """One text for one index, however it is reached; ``None`` for a name that stands for several, or may lead to another."""
    if any(sign in name for sign in "*,"):
        return None
    existing = await find_index(client, name)
    if existing is None:
        return f"elasticsearch:{client.server.cluster}/{name}"
    if existing.kind == "data_stream" or len(existing.indices) > 1:
        return None
    # Each swap makes another index of the same table.
    shadow = _LOADED.fullmatch(existing.written)
    own = shadow[1] if shadow and shadow[1] in existing.definition.aliases else existing.written
    return f"elasticsearch:{client.server.cluster}/{own}"


async def is_empty(client: Client, names: Sequence[str]) -> bool:
    """Whether these indices hold no document, the newest included. A refresh is expensive, so it is done only in doubt."""
    name = ",".join(names)
    if await counted(client, name, {"terminate_after": 1}):
        return False
    await refresh(client, name)
    return not await counted(client, name, {"terminate_after": 1})


async def count(client: Client, name: str) -> int:
    """How many documents there are, the newest included."""
    await refresh(client, name)
    return await counted(client, name)


async def counted(
    client: Client, name: str, params: Mapping[str, Any] | None = None, *, query: Mapping[str, Any] | None = None
) -> int:
    """How many documents there are, or how many match, of those that searches see."""
    body = None if query is None else {"query": dict(query)}
    answer = await client.call("GET" if body is None else "POST", f"/{quoted(name)}/_count", params=params, body=body)
    if failed := answer["_shards"].get("failed"):
        raise ConnectionFailed(
            f"{failed} shards of {name!r} at {client.place} did not count their documents.",
            remedy="look at the health of the cluster; the scan is tried again.",
        )
    return int(answer["count"])


async def refresh(client: Client, name: str) -> bool:
    """Make everything visible; returns whether that is allowed."""
    return (await client.request("POST", f"/{quoted(name)}/_refresh", allow=(403, 405))).status == 200
