"""The plan of an index for a load: what to create, and what to add to the mapping. No I/O."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from retl.connectors.elasticsearch.catalog import Definition, ExistingIndex, Identity, at
from retl.connectors.elasticsearch.server import Server
from retl.connectors.elasticsearch.settings import of_documents
from retl.connectors.elasticsearch.target import refresh
from retl.connectors.elasticsearch.target.encode import MARK, Operation, gives_versions
from retl.connectors.elasticsearch.target.preflight import check_type
from retl.connectors.elasticsearch.target.vectors import check_vectors, mappings_of
from retl.connectors.elasticsearch.types import (
    CONFLICT,
    ID,
    ROUTING,
    field_type,
    from_arrow,
    holds_documents,
    index_of,
    leaf_fields,
)
from retl.model.actions import Action, Write
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError, SchemaDrift
from retl.model.plan import WriteSpec
from retl.model.schema import native_type


@dataclass(frozen=True)
class LoadAddress:
    """The names by which a load is written."""

    name: str
    """The shadow, or the name of the table: what is counted and refreshed."""
    send_to: str
    """The name that documents are sent to."""
    delete_from: str
    """The name to delete documents by: a data stream allows that in its indices only."""
    index: str
    """The one index that is written, by its own name."""
    indices: tuple[str, ...]
    """The indices that documents may be written to under the name that they are sent to."""

    @classmethod
    def of(cls, name: str, existing: ExistingIndex | None, shadow: str | None) -> LoadAddress:
        if shadow is not None:
            alias = refresh.loading_alias(shadow)
            return cls(shadow, alias, alias, shadow, (shadow,))
        if existing is None:
            return cls(name, name, name, name, (name,))
        delete_from = existing.written if existing.kind == "data_stream" else name
        return cls(name, name, delete_from, existing.written, existing.indices)


@dataclass(frozen=True)
class PreparedLoad:
    """One scan of one table, as it was prepared."""

    spec: WriteSpec
    plan: IndexPlan
    address: LoadAddress
    existing: ExistingIndex | None
    """What stood under the table's name before."""
    shadow: str | None
    written: Identity
    """Of the index that is written."""
    writers: int
    keep_replaced: bool

    @property
    def operation(self) -> Operation:
        """``create`` leaves what is there as it is."""
        if self.by_file:
            # A key of the user's may be that of a row in another file, which stays.
            return "create" if self.spec.table.key and self.spec.table.write is Write.APPEND else "index"
        adds = self.spec.table.write is Write.APPEND or Action.UPDATE in self.spec.blacklist
        stream = self.existing is not None and self.existing.kind == "data_stream"
        return "create" if stream or (adds and not self.spec.table.replaces) else "index"

    @property
    def by_file(self) -> bool:
        """Whether documents replace those of their file."""
        return self.spec.table.scope is not None

    @property
    def from_nothing(self) -> bool:
        """Whether no scan has read the whole table yet: existing documents are then somebody else's."""
        return self.spec.checkpoint.columns is None

    @property
    def only_existing(self) -> bool:
        return Action.INSERT in self.spec.blacklist

    @property
    def rolls_over(self) -> bool:
        """Whether the name is an alias or a data stream, which may lead to another index any time."""
        return self.shadow is None and self.existing is not None and self.existing.kind != "index"

    @property
    def behind_alias(self) -> bool:
        """Whether documents are sent to an alias: when it is gone they are refused, and create no index."""
        return self.shadow is not None or (self.existing is not None and self.existing.kind == "alias")


@dataclass(frozen=True)
class IndexPlan:
    """What must be done before documents are written, and what goes into them."""

    columns: tuple[str, ...]
    definition: Definition
    """The index as it will be, where it is created."""
    added: dict[str, Any]
    """What is added to the mapping of an existing index."""
    versions: bool
    """Whether the cursor is the version of the documents."""
    casts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    aliases: Mapping[str, Any] = field(default_factory=dict)
    """Aliases of the source's index that a created index gets; part of the definition."""

    def with_aliases(self, aliases: Mapping[str, Any]) -> IndexPlan:
        """The same with aliases of the source's index; existing ones stay."""
        both = {**aliases, **self.definition.aliases}
        return replace(self, aliases=aliases, definition=replace(self.definition, aliases=both))


def plan_index(
    spec: WriteSpec, existing: ExistingIndex | None, server: Server, *, filled: bool, times: str
) -> IndexPlan:
    """Decide how the index is made to fit; ``filled`` is whether it holds documents, ``times`` what fine times become.

    Raises ``SchemaDrift`` with the reason and what to do.
    """
    warnings: list[str] = []
    there = existing.definition if existing else None
    wanted = _with_vectors(_wanted(spec, times, server.flattened), spec, server)
    if server.opensearch and holds_documents(spec.schema):
        wanted = _without_hints(wanted, warnings)
    if holds_documents(spec.schema):
        columns, added = tuple(spec.schema.names), _more_documents(spec, there, wanted, warnings)
    else:
        columns, added = _more_columns(spec, there, wanted, warnings)
    versions = _versions(spec, existing, warnings, filled=filled)
    note = {"key": list(spec.key), "columns": list(columns), "versions": _version_note(spec) if versions else None}
    mapped = _with(_with(there.mappings if there else wanted.mappings, added), {"_meta": {"retl": note}})
    definition = Definition(mapped, (there or wanted).settings, (there or wanted).aliases)
    if there is not None:
        added = {**added, **_new_note(spec, there, columns, versions)}
    casts = tuple(
        f"{name}: {native_type(spec.schema.field(name))} -> {field_type(mapped)}"
        for name, mapped in wanted.properties.items()
        if not holds_documents(spec.schema) and name != MARK
    )
    return IndexPlan(columns, definition, added, versions, casts, tuple(warnings))


def _wanted(spec: WriteSpec, times: str, flattened: str) -> Definition:
    """The index as the source would have it."""
    if not holds_documents(spec.schema):
        return Definition(_with_marks(spec, from_arrow(spec.schema, spec.key, times=times)))
    source = index_of(spec.schema) or {}
    mappings = copy.deepcopy(source.get("mappings") or {})
    (mappings.get("_meta") or {}).pop("retl", None)
    if "properties" in mappings:
        mappings["properties"] = translated(mappings["properties"], flattened)
    settings = source.get("settings") or {}
    return Definition(mappings, of_documents(settings.get("index") or settings))


def _with_vectors(wanted: Definition, spec: WriteSpec, server: Server) -> Definition:
    more = mappings_of(spec, opensearch=server.opensearch)
    return replace(wanted, mappings=_with(wanted.mappings, {"properties": more})) if more else wanted


def _with_marks(spec: WriteSpec, mappings: dict[str, Any]) -> dict[str, Any]:
    """A mapping by which the documents of a file, and of a scan, are found."""
    if spec.table.scope is None:
        return mappings
    found = {spec.table.scope: {"type": "keyword"}, MARK: {"type": "keyword"}}
    return {**mappings, "properties": {**mappings.get("properties", {}), **found}}


def _without_hints(wanted: Definition, warnings: list[str]) -> Definition:
    """The index without storage hints that this target does not know."""
    found: list[str] = []
    mappings, settings = copy.deepcopy(wanted.mappings), copy.deepcopy(wanted.settings)
    drop_hints(mappings.get("properties") or {}, found)
    for name, outer, word in (("_source", mappings, "mode"), ("mapping", settings, "source")):
        if word in (outer.get(name) or {}):
            del outer[name][word]
            found.append(f"{name}.{word}")
    if found:
        warnings.append(
            f"the target does not know {', '.join(sorted(set(found)))}; what they say of how to store is left out."
        )
    return replace(wanted, mappings=mappings, settings=settings)


def _version_note(spec: WriteSpec) -> str | None:
    """What the versions of documents are made of; only versions of the same kind can be compared."""
    if spec.cursor is None or not gives_versions(spec.schema.field(spec.cursor).type):
        return None
    return f"{spec.cursor} ({cursor_family(spec.schema.field(spec.cursor).type)})"


def _versions(spec: WriteSpec, existing: ExistingIndex | None, warnings: list[str], *, filled: bool) -> bool:
    """Whether the cursor can be the version of the documents.

    Versions that something else has given may be higher than any cursor; the server would then take
    every document for an old one. A moment in nanoseconds is higher than any count of changes.
    """
    wanted = _version_note(spec)
    if wanted is None or (existing is not None and existing.kind == "data_stream"):
        return False
    noted = existing.definition.meta.get("versions") if existing else None
    counts = _counts(spec)
    if noted == wanted or (noted is None and not (counts and filled)):
        return not (counts and spec.table.null_cursor == "include")  # a NULL would increment the version
    warnings.append(
        f"the versions of the documents in {spec.table.to!r} are made of {noted or 'the number of their changes'}, and {wanted} "
        'cannot be compared with them: documents are written without. A scan with pre_action = "swap" begins anew.'
    )
    return False


def may_clash(spec: WriteSpec, existing: ExistingIndex | None) -> bool:
    """Whether documents that exist may have versions that compare with the cursor, and come from something else."""
    return existing is not None and _counts(spec) and existing.definition.meta.get("versions") is None


def _counts(spec: WriteSpec) -> bool:
    """Whether the cursor is a number, which may be lower than a version that counts changes."""
    return spec.cursor is not None and pa.types.is_integer(spec.schema.field(spec.cursor).type)


def _new_note(spec: WriteSpec, there: Definition, columns: tuple[str, ...], versions: bool) -> dict[str, Any]:
    """The note in the mapping, where it changes. Notes of others stay."""
    if Action.ALTER in spec.blacklist:
        return {}
    note = dict(there.meta)
    if versions:
        note["versions"] = _version_note(spec)
    elif str(note.get("versions", "")).endswith("(integer)"):
        note["versions"] = "something else"  # writes from now on increment the versions
    if "columns" in note:
        note["columns"] = [*note["columns"], *(name for name in columns if name not in note["columns"])]
    return {} if note == there.meta else {"_meta": {**(there.mappings.get("_meta") or {}), "retl": note}}


def _with(mappings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings merged."""
    both = dict(mappings)
    for name, value in more.items():
        mine = both.get(name)
        both[name] = _with(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def _more_documents(
    spec: WriteSpec, there: Definition | None, wanted: Definition, warnings: list[str]
) -> dict[str, Any]:
    """What of the source's mapping the target lacks."""
    if there is None:
        _check_agreed(spec, wanted.properties)
        return {}
    lacking = _lacking(there.properties, wanted.properties)
    if not lacking or not _takes_new(spec, [path for path, _ in leaf_fields(lacking)], warnings, whole=True):
        return {}
    _check_agreed(spec, lacking)
    return {"properties": lacking}


def _check_agreed(spec: WriteSpec, properties: Mapping[str, Any]) -> None:
    """Raise for fields with several types: a mapping takes one."""
    for path, types in conflicts(properties):
        raise ConfigError(
            f"the indices of the source disagree on the field {path!r}: it is {types}.",
            remedy=f"map it in {spec.table.to!r} yourself, or read the indices as tables of their own.",
        )


def _lacking(have: Mapping[str, Any], want: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, mapped in want.items():
        mine = have.get(name)
        if mine is None:
            found[name] = mapped
        elif "properties" in mapped and "properties" in mine:
            inner = _lacking(mine["properties"], mapped["properties"])
            if inner:
                # Without its type a nested field would be asked to become an object.
                found[name] = {**({"type": mapped["type"]} if "type" in mapped else {}), "properties": inner}
    return found


def _more_columns(
    spec: WriteSpec, there: Definition | None, wanted: Definition, warnings: list[str]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The columns that are written, and what the mapping lacks for them."""
    names = [name for name in spec.schema.names if name not in (ID, ROUTING)]
    if there is None:
        return tuple(names), {}
    noted = set(there.meta.get("columns") or ())
    new: list[str] = []
    for name in names:
        mapped = at(there.properties, name)
        if mapped is not None:
            check_type(spec, spec.schema.field(name), mapped)
            check_vectors(spec, spec.schema.field(name), mapped)
        elif name not in noted:
            new.append(name)
    marks = {} if spec.table.scope is None or MARK in there.properties else {MARK: wanted.properties[MARK]}
    if new and not _takes_new(spec, new, warnings, whole=False):
        return tuple(name for name in names if name not in new), {"properties": marks} if marks else {}
    added = {name: wanted.properties[name] for name in new if name in wanted.properties} | marks
    return tuple(names), {"properties": added} if added else {}


def _takes_new(spec: WriteSpec, names: list[str], warnings: list[str], *, whole: bool) -> bool:
    """Whether fields that the mapping of the target lacks are added to it."""
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    policy = spec.table.new_columns
    if policy == "fail":
        raise SchemaDrift(
            f'the source has {shown}, which the mapping of {spec.table.to!r} lacks, and new_columns is "fail".',
            remedy='add it to the mapping yourself, or choose new_columns = "add" or "ignore".',
        )
    if policy == "add" and Action.ALTER not in spec.blacklist:
        return True
    reason = 'new_columns is "ignore"' if policy == "ignore" else "the blacklist forbids ALTER"
    what = "its mapping stays as it is, though documents that hold it come whole" if whole else "it is left out"
    warnings.append(f"the target's mapping lacks {shown}; {what}, since {reason}.")
    return False


def conflicts(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The fields on which the indices disagree, with their types."""
    for name, spec in properties.items():
        if field_type(spec) == CONFLICT:
            yield prefix + name, " and ".join(spec["types"])
        else:
            yield from conflicts(spec.get("properties") or {}, f"{prefix}{name}.")


def translated(properties: Mapping[str, Any], flattened: str) -> dict[str, Any]:
    """The same fields for another product: objects that are not mapped leaf by leaf are ``flattened``."""
    found: dict[str, Any] = {}
    for name, spec in properties.items():
        if field_type(spec) in ("flattened", "flat_object") and field_type(spec) != flattened:
            spec = {"type": flattened}
        elif "properties" in spec:
            spec = {**spec, "properties": translated(spec["properties"], flattened)}
        found[name] = spec
    return found


# Hints on how to store values, without an effect on the values.
_HINTS = ("time_series_dimension", "time_series_metric", "synthetic_source_keep")


def drop_hints(properties: dict[str, Any], found: list[str]) -> None:
    """Remove the hints from fields and multi-fields; their names are added to ``found``."""
    for spec in properties.values():
        found += [name for name in _HINTS if spec.pop(name, None) is not None]
        for inner in ("properties", "fields"):
            drop_hints(spec.get(inner) or {}, found)
