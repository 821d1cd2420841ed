"""What an index, a name or this system cannot do, said before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from retl.connectors.elasticsearch import mapping
from retl.connectors.elasticsearch.catalog import stands_for
from retl.connectors.elasticsearch.definition import Known
from retl.connectors.elasticsearch.documents import ID, holds_documents, index_of
from retl.connectors.elasticsearch.settings import blocks
from retl.connectors.sql.tables import check_key
from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError, ConnectionFailed, SchemaDrift, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.schema import is_json, native_type

_BAD_NAME = re.compile(r'[\\/*?"<>| ,#:]|^[-_+]|^\.{1,2}$')
_SHADOW = re.compile(r"^(retl-.+-)\d+-\d+$")
_OF_THE_SERVER = frozenset(
    {
        *("_id", "_routing", "_source", "_index", "_field_names", "_ignored", "_doc_count", "_tier", "_nested_path"),
        *("_seq_no", "_version", "_feature", "_tsid", "_ignored_source"),
    }
)
_LOCKS = frozenset({"read_only", "metadata"})
_NUMBERS = ("byte", "short", "integer", "long", "unsigned_long", "half_float", "float", "double", "scaled_float")
_WHOLE = dict(zip(("byte", "short", "integer", "long", "unsigned_long"), (8, 16, 32, 64, 64), strict=True))
_TEXTS = ("keyword", "constant_keyword", "wildcard", "text", "match_only_text", "search_as_you_type", "annotated_text")


def check_name(name: str) -> None:
    """Raise ``ConfigError`` for what cannot be the name of an index."""
    if _BAD_NAME.search(name) or name != name.lower() or len(name.encode()) > 200:
        raise ConfigError(
            f"{name!r} cannot be the name of an index.",
            remedy="choose another with to: small letters, no signs such as * / : , # and no _ or - in front.",
        )


def check_open(known: Known) -> None:
    """Raise ``ConfigError`` where an index is closed: it takes no documents, and shows none."""
    if known.closed:
        (name,) = known.closed
        raise ConfigError(
            f"the index {name!r} of the target is closed.",
            remedy=f"open it (POST /{name}/_open), or name another with to.",
        )


def check_blocks(spec: WriteSpec, known: Known) -> None:
    """Raise where an index does not allow what is to be done to it."""
    swap = spec.table.pre_action is PreAction.SWAP
    found = blocks(known.definition.settings)
    passes = found & {"read_only_allow_delete", *(() if spec.table.replaces else ("write",))}
    forbid = found & (_LOCKS if swap else _LOCKS | {"write"}) - passes
    if forbid:
        names = ", ".join(f"index.blocks.{name}" for name in sorted(forbid))
        raise ConfigError(
            f"the index {known.written!r} of the target must not be written: {names} is set.",
            remedy=f"take it off (PUT /{known.written}/_settings), or name another index with to.",
        )
    if passes and not swap:
        names = ", ".join(f"index.blocks.{name}" for name in sorted(passes))
        raise ConnectionFailed(
            f"the index {known.written!r} of the target does not allow this now: {names} is set"
            f"{', as the server does where a disk is nearly full' if 'read_only_allow_delete' in passes else ''}.",
            remedy="make room on the disks, or take the block off the index; the scan is tried again.",
        )


def check_apart(spec: WriteSpec, known: Known | None, shadow: str | None, cluster: str) -> None:
    """Raise ``ConfigError`` where a scan would write, or even empty, what it reads, or the next one read its own copy."""
    source, name = index_of(spec.schema) or {}, spec.table.to
    if not cluster or source.get("cluster") != cluster:
        return
    read: str = source.get("name") or ""
    there = {*(source.get("indices") or ())} & {*(known.indices if known else ())}
    written = min(there, default=shadow or name)
    if there or stands_for(read, written, alias=name):
        remedy = "name another index with to"
        if "*" in read:
            # The next shadow has another number.
            out = _SHADOW.sub(r"\1*", written)
            remedy += f', or leave it out of what is read: name = "{read},-{out}"'
        raise ConfigError(
            f"source and target are one cluster, and {written!r} would be both read, as {read!r}, and written, as {name!r}.",
            remedy=f"{remedy}.",
        )


def check(spec: WriteSpec, known: Known | None, *, by_query: bool) -> None:
    """Raise ``ConfigError`` for what this system, or this index, cannot do."""
    name, table = spec.table.to, spec.table
    if table.pre_action is PreAction.RENAME_AND_CREATE:
        raise UnsupportedError(
            'pre_action = "rename_and_create" needs a table that can be renamed, and an index cannot be.',
            remedy='use pre_action = "swap" with an alias; with keep_replaced the target keeps the index that was replaced.',
        )
    check_key(spec)
    own = sorted(_OF_THE_SERVER & set(spec.schema.names) - (set(spec.key) & {ID}))
    if own and not holds_documents(spec.schema):
        raise ConfigError(
            f"the server keeps the field name {', '.join(own)} for itself.",
            remedy="give the column another name in rename.",
        )
    if known is None:
        if Action.CREATE in spec.blacklist:
            raise ConfigError(
                f"the target has no index {name!r}, and the blacklist forbids CREATE.",
                remedy="create the index yourself, or take CREATE off the blacklist.",
            )
        return
    check_open(known)
    check_blocks(spec, known)
    _check_kind(spec, known)
    if known.kind == "data_stream":
        _check_data_stream(spec)
    if table.replaces and not by_query and len(known.indices) > 1:
        raise ConfigError(
            f"the alias {name!r} stands for {len(known.indices)} indices, so it cannot be replaced by one.",
            remedy='name an alias of one index with to, or use truncate = "delete_by_query".',
        )
    unwritten = (known.definition.aliases.get(name) or {}).get("is_write_index") is False
    if not known.written or (unwritten and table.pre_action is not PreAction.SWAP):
        number = f"{len(known.indices)} indices" if len(known.indices) > 1 else "one index"
        raise ConfigError(
            f"the alias {name!r} stands for {number}, and none is the one to write.",
            remedy="set is_write_index for one of them.",
        )


def _check_kind(spec: WriteSpec, known: Known) -> None:
    """Raise for an index that would refuse every document, whatever is in it."""
    if known.definition.settings.get("mode") == "time_series":
        raise UnsupportedError(
            f"{known.written!r} has index.mode time_series: the server makes every _id itself, so no row could be written twice.",
            remedy="write an index of another mode.",
        )
    routed = (known.definition.mappings.get("_routing") or {}).get("required")
    if routed and not holds_documents(spec.schema):
        raise ConfigError(
            f"the mapping of {known.written!r} says _routing.required, and a row has no routing.",
            remedy="write an index whose mapping does not ask for it.",
        )


def _check_data_stream(spec: WriteSpec) -> None:
    if spec.table.pre_action is PreAction.SWAP:
        raise UnsupportedError(
            f"{spec.table.to!r} is a data stream, which cannot be switched for another.",
            remedy='use pre_action = "truncate", which deletes its documents, or an index behind an alias.',
        )
    if Action.INSERT in spec.blacklist:
        raise UnsupportedError(
            f"{spec.table.to!r} is a data stream, which only takes new documents, and the blacklist forbids INSERT."
        )


def check_type(spec: WriteSpec, column: pa.Field, mapped: Mapping[str, Any]) -> None:
    if not _holds(column, mapping.kind(mapped)):
        raise SchemaDrift(
            f"column {column.name!r} of the source is {native_type(column)}, but the target has mapped it as {mapping.kind(mapped)}.",
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
