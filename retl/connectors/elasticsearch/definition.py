"""An index of the target as it is, or as it is to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.documents import ID, ROUTING, SOURCE
from retl.connectors.elasticsearch.settings import BLOCKS, blocks, copyable

Kind = Literal["index", "alias", "data_stream"]


@dataclass(frozen=True)
class Definition:
    """What an index is created with: its mapping, its settings (those below ``index``), its aliases."""

    mappings: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> dict[str, Any]:
        """What retl has written down in the mapping: ``key``, ``columns`` and the cursor that gives the ``versions``."""
        found = (self.mappings.get("_meta") or {}).get("retl")
        return found if isinstance(found, dict) else {}

    @property
    def properties(self) -> dict[str, Any]:
        return self.mappings.get("properties") or {}

    def body(self) -> dict[str, Any]:
        """Of the request that creates such an index."""
        return {"mappings": self.mappings, "settings": {"index": copyable(self.settings)}, "aliases": self.aliases}


@dataclass(frozen=True)
class Known:
    """What a name of the target stands for."""

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


def at(properties: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The mapping of a field, by its dotted path."""
    if path in properties:
        found: Mapping[str, Any] = properties[path]
        return found
    head, dot, rest = path.partition(".")
    inner = (properties.get(head) or {}).get("properties")
    return at(inner, rest) if dot and inner else None


def unwatched(definition: Definition) -> Definition:
    """The definition of an index that is loaded while nobody looks: no copies, no refresh, hidden from patterns."""
    settings = {name: value for name, value in definition.settings.items() if name != "auto_expand_replicas"}
    return Definition(
        definition.mappings, {**settings, "number_of_replicas": 0, "refresh_interval": "-1", "hidden": True}
    )


def restored(definition: Definition) -> dict[str, Any]:
    """The settings that such an index is to have in the end; ``None`` is the server's own default."""
    names = ("number_of_replicas", "refresh_interval", "hidden", "auto_expand_replicas")
    found = {name: definition.settings.get(name) for name in names}
    return {**found, BLOCKS: {"write": True}} if "write" in blocks(definition.settings) else found


def pipelines(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The ingest pipelines that the documents of an index go through, from its settings."""
    given = (settings.get(name) for name in ("default_pipeline", "final_pipeline"))
    return tuple(str(name) for name in given if name not in (None, "_none"))


def key_of(known: Known) -> tuple[str, ...]:
    return tuple(known.definition.note.get("key") or (ID,))


def columns_of(known: Known) -> Iterator[pa.Field]:
    """The fields as columns, in the order in which they were created where that is known."""
    found = dict(mapping.leaves(known.definition.properties))
    noted = [name for name in known.definition.note.get("columns") or () if name not in (ID, ROUTING, SOURCE)]
    for name in [*noted, *(path for path in found if not any(_within(path, one) for one in noted))]:
        spec = at(known.definition.properties, name)
        yield mapping.column(name, spec if spec is not None else {"type": "object"})


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")
