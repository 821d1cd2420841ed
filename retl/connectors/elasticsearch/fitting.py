"""Making an index fit what is to be written: what to create, what to add to the mapping, what to refuse. No I/O."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.documents import ID, ROUTING, holds_documents, index_of
from retl.connectors.elasticsearch.encode import gives_versions
from retl.connectors.sql.tables import check_key
from retl.model.actions import Action, PreAction
from retl.model.cursor import cursor_family
from retl.model.errors import ConfigError, SchemaDrift, UnsupportedError
from retl.model.plan import Load
from retl.model.schema import is_json, native_type

Kind = Literal["index", "alias", "data_stream"]

_BAD_NAME = re.compile(r'[\\/*?"<>| ,#:]|^[-_+]|^\.{1,2}$')
_OF_THE_SERVER = frozenset(
    {*("_id", "_routing", "_source", "_index", "_field_names", "_ignored", "_doc_count", "_tier", "_nested_path")}
)
_NUMBERS = ("byte", "short", "integer", "long", "unsigned_long", "half_float", "float", "double", "scaled_float")
_WHOLE = dict(zip(("byte", "short", "integer", "long", "unsigned_long"), (8, 16, 32, 64, 64), strict=True))
_TEXTS = ("keyword", "constant_keyword", "wildcard", "text", "match_only_text", "search_as_you_type", "annotated_text")
# What the server gives an index itself.
_GIVEN = ("uuid", "creation_date", "creation_date_string", "provided_name", "version", "history_uuid", "resize")


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
        settings = {name: value for name, value in self.settings.items() if name not in _GIVEN}
        settings.pop("verified_before_close", None)
        return {"mappings": self.mappings, "settings": {"index": settings}, "aliases": self.aliases}


@dataclass(frozen=True)
class Known:
    """What a name of the target stands for."""

    name: str
    kind: Kind
    indices: tuple[str, ...]
    written: str
    """The index that is written under that name."""
    definition: Definition

    @property
    def uuid(self) -> str:
        return str(self.definition.settings.get("uuid", ""))


@dataclass(frozen=True)
class Fit:
    """What has to be done before documents can be written, and what then goes into them."""

    columns: tuple[str, ...]
    definition: Definition
    """Of the index as it will be: for one that is created, or created anew."""
    added: dict[str, Any]
    """What the mapping of an index that is there lacks, as a request adds it."""
    versions: bool
    """Whether the cursor is the version of the documents."""
    casts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check(load: Load, known: Known | None, *, by_query: bool) -> None:
    """Raise ``ConfigError`` for what this system, or this name, cannot do."""
    name, table = load.table.to, load.table
    if _BAD_NAME.search(name) or name != name.lower() or len(name.encode()) > 200:
        raise ConfigError(
            f"{name!r} cannot be the name of an index.",
            remedy="choose another with to: small letters, no signs such as * / : , # and no _ or - in front.",
        )
    if table.pre_action is PreAction.RENAME_AND_CREATE:
        raise UnsupportedError(
            'pre_action = "rename_and_create" needs a table that can be renamed, and an index cannot be.',
            remedy='use pre_action = "swap" with an alias; with keep_replaced the target keeps the index that was replaced.',
        )
    check_key(load)
    own = sorted(_OF_THE_SERVER & set(load.schema.names) - (set(load.key) & {ID}))
    if own and not holds_documents(load.schema):
        raise ConfigError(
            f"the server keeps the field name {', '.join(own)} for itself.",
            remedy="give the column another name in rename.",
        )
    if known is None:
        if Action.CREATE in load.blacklist:
            raise ConfigError(
                f"the target has no index {name!r}, and the blacklist forbids CREATE.",
                remedy="create the index yourself, or take CREATE off the blacklist.",
            )
        return
    if known.kind == "data_stream":
        _check_data_stream(load)
    if table.replaces and not by_query and len(known.indices) > 1:
        raise ConfigError(
            f"the alias {name!r} stands for {len(known.indices)} indices, so it cannot be replaced by one.",
            remedy='name an alias of one index with to, or use truncate = "delete_by_query".',
        )
    if not known.written:
        raise ConfigError(
            f"the alias {name!r} stands for {len(known.indices)} indices, and none is the one to write.",
            remedy="set is_write_index for one of them.",
        )


def _check_data_stream(load: Load) -> None:
    if load.table.pre_action is PreAction.SWAP:
        raise UnsupportedError(
            f"{load.table.to!r} is a data stream, which cannot be switched for another.",
            remedy='use pre_action = "truncate", which deletes its documents, or an index behind an alias.',
        )
    if Action.INSERT in load.blacklist:
        raise UnsupportedError(
            f"{load.table.to!r} is a data stream, which only takes new documents, and the blacklist forbids INSERT."
        )


def fit(load: Load, known: Known | None, *, filled: bool = True) -> Fit:
    """Decide how the index is made to fit; ``filled`` is whether it holds documents.

    Raises ``SchemaDrift`` with the reason and what to do.
    """
    warnings: list[str] = []
    there = known.definition if known else None
    wanted = _wanted(load)
    if holds_documents(load.schema):
        columns, added = tuple(load.schema.names), _more_documents(load, there, wanted, warnings)
    else:
        columns, added = _more_columns(load, there, wanted, warnings)
    versions = _versions(load, known, warnings, filled=filled)
    note = {"key": list(load.key), "columns": list(columns), "versions": _version_note(load) if versions else None}
    mappings = _with(_with(there.mappings if there else wanted.mappings, added), {"_meta": {"retl": note}})
    definition = Definition(mappings, (there or wanted).settings, (there or wanted).aliases)
    if there is not None:
        added = {**added, **_new_note(load, there, columns, versions)}
    casts = tuple(
        f"{name}: {native_type(load.schema.field(name))} -> {mapping.kind(spec)}"
        for name, spec in wanted.properties.items()
        if not holds_documents(load.schema)
    )
    return Fit(columns, definition, added, versions, casts, tuple(warnings))


def _wanted(load: Load) -> Definition:
    """The index as the source would have it."""
    if not holds_documents(load.schema):
        return Definition(mapping.from_arrow(load.schema, load.key))
    source = index_of(load.schema) or {}
    mappings = copy.deepcopy(source.get("mappings") or {})
    (mappings.get("_meta") or {}).pop("retl", None)
    settings = source.get("settings") or {}
    return Definition(mappings, mapping.copyable(settings.get("index") or settings))


def _version_note(load: Load) -> str | None:
    """What the versions of documents are made of; they compare only with those that are made of the same."""
    if load.cursor is None or not gives_versions(load.schema.field(load.cursor).type):
        return None
    return f"{load.cursor} ({cursor_family(load.schema.field(load.cursor).type)})"


def _versions(load: Load, known: Known | None, warnings: list[str], *, filled: bool) -> bool:
    """Whether the cursor can be the version of the documents.

    Versions that something else has given may be higher than any cursor; the server would then take
    every document for an old one. A moment in nanoseconds is higher than any count of changes.
    """
    wanted = _version_note(load)
    if wanted is None or (known is not None and known.kind == "data_stream"):
        return False
    noted = known.definition.note.get("versions") if known else None
    counts = _counts(load)
    if noted == wanted or (noted is None and not (counts and filled)):
        return not (counts and load.table.null_cursor == "include")  # a NULL would count, not compare
    warnings.append(
        f"the versions of the documents in {load.table.to!r} are made of {noted or 'the number of their changes'}, and {wanted} "
        'cannot be compared with them: documents are written without. A scan with pre_action = "swap" begins anew.'
    )
    return False


def _counts(load: Load) -> bool:
    """Whether the cursor is a number, which is no higher than what counts changes."""
    return load.cursor is not None and pa.types.is_integer(load.schema.field(load.cursor).type)


def _new_note(load: Load, there: Definition, columns: tuple[str, ...], versions: bool) -> dict[str, Any]:
    """The note in the mapping, where it changes. What others have noted there stays."""
    if Action.ALTER in load.blacklist:
        return {}
    note = dict(there.note)
    if versions:
        note["versions"] = _version_note(load)
    elif str(note.get("versions", "")).endswith("(integer)"):
        note["versions"] = "something else"  # what is written now counts the versions on
    if "columns" in note:
        note["columns"] = [*note["columns"], *(name for name in columns if name not in note["columns"])]
    return {} if note == there.note else {"_meta": {**(there.mappings.get("_meta") or {}), "retl": note}}


def _with(mappings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one."""
    both = dict(mappings)
    for name, value in more.items():
        mine = both.get(name)
        both[name] = _with(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def _more_documents(load: Load, there: Definition | None, wanted: Definition, warnings: list[str]) -> dict[str, Any]:
    """What of the source's mapping the target lacks."""
    if there is None:
        return {}
    lacking = _lacking(there.properties, wanted.properties)
    if not lacking or not _takes_new(load, [path for path, _ in mapping.leaves(lacking)], warnings, whole=True):
        return {}
    return {"properties": lacking}


def _lacking(have: Mapping[str, Any], want: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, spec in want.items():
        mine = have.get(name)
        if mine is None:
            found[name] = spec
        elif "properties" in spec and "properties" in mine:
            inner = _lacking(mine["properties"], spec["properties"])
            if inner:
                # A nested field must say so again, or it would be told to become an object.
                found[name] = {**({"type": spec["type"]} if "type" in spec else {}), "properties": inner}
    return found


def _more_columns(
    load: Load, there: Definition | None, wanted: Definition, warnings: list[str]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The columns that are written, and what the mapping lacks for them."""
    names = [name for name in load.schema.names if name not in (ID, ROUTING)]
    if there is None:
        return tuple(names), {}
    noted = set(there.note.get("columns") or ())
    new: list[str] = []
    for name in names:
        spec = at(there.properties, name)
        if spec is not None:
            _check_type(load, load.schema.field(name), spec)
        elif name not in noted:
            new.append(name)
    if new and not _takes_new(load, new, warnings, whole=False):
        return tuple(name for name in names if name not in new), {}
    added = {name: wanted.properties[name] for name in new if name in wanted.properties}
    return tuple(names), {"properties": added} if added else {}


def at(properties: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The mapping of a field, by its dotted path."""
    if path in properties:
        found: Mapping[str, Any] = properties[path]
        return found
    head, dot, rest = path.partition(".")
    inner = (properties.get(head) or {}).get("properties")
    return at(inner, rest) if dot and inner else None


def _takes_new(load: Load, names: list[str], warnings: list[str], *, whole: bool) -> bool:
    """Whether fields that the mapping of the target lacks are added to it."""
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    policy = load.table.new_columns
    if policy == "fail":
        raise SchemaDrift(
            f'the source has {shown}, which the mapping of {load.table.to!r} lacks, and new_columns is "fail".',
            remedy='add it to the mapping yourself, or choose new_columns = "add" or "ignore".',
        )
    if policy == "add" and Action.ALTER not in load.blacklist:
        return True
    reason = 'new_columns is "ignore"' if policy == "ignore" else "the blacklist forbids ALTER"
    what = "its mapping stays as it is, though documents that hold it come whole" if whole else "it is left out"
    warnings.append(f"the target's mapping lacks {shown}; {what}, since {reason}.")
    return False


def _check_type(load: Load, column: pa.Field, spec: Mapping[str, Any]) -> None:
    if not _holds(column, mapping.kind(spec)):
        raise SchemaDrift(
            f"column {column.name!r} of the source is {native_type(column)}, but the target has mapped it as {mapping.kind(spec)}.",
            remedy='map it otherwise in a new index (pre_action = "swap" with another name), leave it out with columns, or convert it with expressions.',
        )


def _holds(column: pa.Field, there: str) -> bool:
    """Whether a field of some type takes all values of a column."""
    kind = column.type
    if is_json(column) or there in _TEXTS:
        return True  # what JSON holds is known by its values alone
    if pa.types.is_integer(kind):
        return there in _NUMBERS and (there not in _WHOLE or kind.bit_width <= _WHOLE[there])
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return there in _NUMBERS and there not in _WHOLE
    if pa.types.is_boolean(kind):
        return there == "boolean"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return there in ("date", "date_nanos")
    # Text may be what an address, a place or a range is written as; a number is a number.
    return there not in (*_NUMBERS, "boolean", "date", "date_nanos", "object", "nested")


def unwatched(definition: Definition) -> Definition:
    """The definition of an index that is loaded while nobody looks: no copies, no refresh, hidden from patterns."""
    settings = {name: value for name, value in definition.settings.items() if name != "auto_expand_replicas"}
    return Definition(
        definition.mappings, {**settings, "number_of_replicas": 0, "refresh_interval": "-1", "hidden": True}
    )


def restored(definition: Definition) -> dict[str, Any]:
    """The settings that such an index is to have in the end; ``None`` is the server's own default."""
    names = ("number_of_replicas", "refresh_interval", "hidden", "auto_expand_replicas")
    return {name: definition.settings.get(name) for name in names}


def key_of(known: Known) -> tuple[str, ...]:
    return tuple(known.definition.note.get("key") or (ID,))


def columns_of(known: Known) -> Iterator[pa.Field]:
    """The fields as columns, in the order in which they were created where that is known."""
    found = dict(mapping.leaves(known.definition.properties))
    noted = [name for name in known.definition.note.get("columns") or () if name not in (ID, ROUTING, "_source")]
    for name in [*noted, *(path for path in found if not any(_within(path, one) for one in noted))]:
        spec = at(known.definition.properties, name)
        yield mapping.column(name, spec if spec is not None else {"type": "object"})


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")
