"""Checks before anything is written: what a name, an index or this system cannot do."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from retl.connectors.elasticsearch.catalog import Definition, ExistingIndex
from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.settings import blocks
from retl.connectors.elasticsearch.source.catalog import stands_for
from retl.connectors.elasticsearch.target import refresh
from retl.connectors.elasticsearch.types import ID, field_type, holds_documents, index_of
from retl.connectors.sql.tables import check_key
from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError, ConnectionFailed, SchemaDrift, TargetError, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.schema import is_json, native_type
from retl.threads import shielded

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


def check_open(existing: ExistingIndex) -> None:
    """Raise ``ConfigError`` for a closed index."""
    if existing.closed:
        (name,) = existing.closed
        raise ConfigError(
            f"the index {name!r} of the target is closed.",
            remedy=f"open it (POST /{name}/_open), or name another with to.",
        )


def check_blocks(spec: WriteSpec, existing: ExistingIndex) -> None:
    """Raise where the blocks of an index forbid the load."""
    swap = spec.table.pre_action is PreAction.SWAP
    found = blocks(existing.definition.settings)
    passes = found & {"read_only_allow_delete", *(() if spec.table.replaces else ("write",))}
    forbid = found & (_LOCKS if swap else _LOCKS | {"write"}) - passes
    if forbid:
        names = ", ".join(f"index.blocks.{name}" for name in sorted(forbid))
        raise ConfigError(
            f"the index {existing.written!r} of the target must not be written: {names} is set.",
            remedy=f"take it off (PUT /{existing.written}/_settings), or name another index with to.",
        )
    if passes and not swap:
        names = ", ".join(f"index.blocks.{name}" for name in sorted(passes))
        raise ConnectionFailed(
            f"the index {existing.written!r} of the target does not allow this now: {names} is set"
            f"{', as the server does where a disk is nearly full' if 'read_only_allow_delete' in passes else ''}.",
            remedy="make room on the disks, or take the block off the index; the scan is tried again.",
        )


def check_apart(spec: WriteSpec, existing: ExistingIndex | None, shadow: str | None, cluster: str) -> None:
    """Raise ``ConfigError`` where a scan would write what it reads, or the next one would read the copy."""
    source, name = index_of(spec.schema) or {}, spec.table.to
    if not cluster or source.get("cluster") != cluster:
        return
    read: str = source.get("name") or ""
    there = {*(source.get("indices") or ())} & {*(existing.indices if existing else ())}
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


def check(spec: WriteSpec, existing: ExistingIndex | None, *, by_query: bool) -> None:
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
    if existing is None:
        if Action.CREATE in spec.blacklist:
            raise ConfigError(
                f"the target has no index {name!r}, and the blacklist forbids CREATE.",
                remedy="create the index yourself, or take CREATE off the blacklist.",
            )
        return
    check_open(existing)
    check_blocks(spec, existing)
    _check_kind(spec, existing)
    if existing.kind == "data_stream":
        _check_data_stream(spec)
    if table.replaces and not by_query and len(existing.indices) > 1:
        raise ConfigError(
            f"the alias {name!r} stands for {len(existing.indices)} indices, so it cannot be replaced by one.",
            remedy='name an alias of one index with to, or use truncate = "delete_by_query".',
        )
    unwritten = (existing.definition.aliases.get(name) or {}).get("is_write_index") is False
    if not existing.written or (unwritten and table.pre_action is not PreAction.SWAP):
        number = f"{len(existing.indices)} indices" if len(existing.indices) > 1 else "one index"
        raise ConfigError(
            f"the alias {name!r} stands for {number}, and none is the one to write.",
            remedy="set is_write_index for one of them.",
        )


def _check_kind(spec: WriteSpec, existing: ExistingIndex) -> None:
    """Raise for an index that would refuse every document, whatever is in it."""
    if existing.definition.settings.get("mode") == "time_series":
        raise UnsupportedError(
            f"{existing.written!r} has index.mode time_series: the server makes every _id itself, so no row could be written twice.",
            remedy="write an index of another mode.",
        )
    routed = (existing.definition.mappings.get("_routing") or {}).get("required")
    if routed and not holds_documents(spec.schema):
        raise ConfigError(
            f"the mapping of {existing.written!r} says _routing.required, and a row has no routing.",
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
    if not _holds(column, field_type(mapped)):
        raise SchemaDrift(
            f"column {column.name!r} of the source is {native_type(column)}, but the target has mapped it as {field_type(mapped)}.",
            remedy='map it otherwise in a new index (pre_action = "swap" with another name), leave it out with columns, or convert it with expressions.',
        )


def _holds(column: pa.Field, there: str) -> bool:
    """Whether a field of a type takes all values of a column."""
    kind = column.type
    if is_json(column) or there in _TEXTS:
        return True  # only its values tell what JSON holds
    if pa.types.is_integer(kind):
        return there in _NUMBERS and (there not in _WHOLE or kind.bit_width <= _WHOLE[there])
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return there in _NUMBERS and there not in _WHOLE
    if pa.types.is_boolean(kind):
        return there == "boolean"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return there in ("date", "date_nanos")
    # Addresses, places and ranges are written as text; numbers are not.
    return there not in (*_NUMBERS, "boolean", "date", "date_nanos", "object", "nested")


_AT_ONCE = {"wait_for_active_shards": "0"}


async def try_out(client: Client, spec: WriteSpec, definition: Definition, columns: tuple[str, ...] = ()) -> None:
    """Raise ``ConfigError`` where an index cannot be created like this, or cannot have ``columns`` as fields.

    Nothing is left. Without the right to create an index beside the table's, nothing is tried.
    """
    name = refresh.shadow_name(spec, trial=True)
    mappings = dict(definition.mappings)
    # The name of an unmapped column, such as JSON, must be valid too.
    unmapped = {
        column: {"type": "object", "enabled": False} for column in columns if column not in definition.properties
    }
    mappings["properties"] = {**unmapped, **definition.properties}
    tried = refresh.unwatched(Definition(mappings, definition.settings, {}))
    try:
        await refresh.create(client, name, tried, shown_as=spec.table.to, params=_AT_ONCE, allow=(403,))
    finally:
        await shielded(client.request("DELETE", f"/{quoted(name)}", allow=(403, 404)))


async def check_creatable(client: Client, name: str, *, again: bool) -> None:
    """Raise ``ConfigError`` where an index of this name cannot be created, as far as the server tells.

    ``again`` is for one that would be deleted first.
    """
    answer = await client.request("GET", "/_index_template", allow=(403,))
    if answer.status == 200:
        found = [one for one in answer.json()["index_templates"] if _is_for(one["index_template"], name)]
        winner = max(found, key=lambda one: one["index_template"].get("priority") or 0, default=None)
        if winner is not None and "data_stream" in winner["index_template"]:
            ways = 'use truncate = "delete_by_query" or pre_action = "swap"' if again else refresh.CREATE_STREAM
            raise ConfigError(
                f"no index {name!r} can be created{' again once it is deleted' if again else ''}: the index template "
                f"{winner['name']!r} makes a data stream of every new name like it.",
                remedy=f"{ways}, or change the pattern of the template.",
            )
    await client.request("POST", f"/_index_template/_simulate_index/{quoted(name)}", allow=(403, 404))
    await check_privileges(client, name, "create_index", "index")


async def check_pipelines(client: Client, name: str, pipelines: tuple[str, ...]) -> None:
    """Raise ``TargetError`` for a missing ingest pipeline: every document would be refused."""
    for pipeline in pipelines:
        if (await client.request("GET", f"/_ingest/pipeline/{quoted(pipeline)}", allow=(403, 404))).status == 404:
            raise TargetError(
                f"the index {name!r} sends its documents through the pipeline with id [{pipeline}], which does not exist.",
                remedy="create the ingest pipeline, or take it off the index (index.default_pipeline, index.final_pipeline).",
            )


async def check_privileges(client: Client, name: str, *wanted: str) -> None:
    """Raise ``ConfigError`` for a user who may empty an index, but not fill it again."""
    body = {"index": [{"names": [name], "privileges": wanted}]}
    answer = await client.request("POST", "/_security/user/_has_privileges", body=body, allow=range(400, 600))
    if answer.status != 200 or (found := answer.json())["has_all_requested"]:
        return
    lacking = [privilege for privilege in wanted if not found["index"][name][privilege]]
    raise ConfigError(
        f"the target at {client.place} lacks a privilege: the user {found['username']!r} could empty the index {name!r} "
        f"and not fill it again, which needs {' and '.join(lacking)} (write is index and delete).",
        remedy="give the user's role, or the api_key, the privilege that is named.",
    )


def _is_for(template: dict[str, Any], name: str) -> bool:
    patterns = template.get("index_patterns") or ()
    return any(fnmatch.fnmatchcase(name, re.sub(r"([\[?])", r"[\1]", pattern)) for pattern in patterns)


# Aliases that a swap uses itself.
_OF_A_SWAP = re.compile(r"^retl-.+-(replaced|\d+-\d+-(loading|dropped))$")
_REMEDY = "set aliases = false and give the index its aliases yourself, or free the name in the target."


async def missing_aliases(client: Client, spec: WriteSpec, existing: ExistingIndex | None) -> dict[str, Any]:
    """Aliases of the source that the index lacks.

    Raises ``ConfigError`` where one would change what is read or written under its name.
    """
    source = index_of(spec.schema) or {}
    own = existing.definition.aliases if existing is not None else {}
    found: dict[str, Any] = {}
    for alias, about in (source.get("aliases") or {}).items():
        if alias == spec.table.to or alias in own or _OF_A_SWAP.match(alias):
            continue
        await _check(client, alias, about, source.get("cluster"))
        found[alias] = about
    return found


async def _check(client: Client, alias: str, about: Mapping[str, Any], cluster: str | None) -> None:
    params = {"expand_wildcards": "all"}
    answer = await client.request("GET", f"/_resolve/index/{quoted(alias)}", params=params, allow=(404,))
    if answer.status == 404:
        return
    there = answer.json()
    for kind, what in (("indices", "an index"), ("data_streams", "a data stream")):
        if any(one["name"] == alias for one in there.get(kind) or ()):
            raise ConfigError(
                f"the source's index has the alias {alias!r}, and the target has {what} of that name.", remedy=_REMEDY
            )
    if not any(one["name"] == alias for one in there.get("aliases") or ()):
        return
    holders: dict[str, Any] = await client.call("GET", f"/{quoted(alias)}")
    names = ", ".join(holders)
    if cluster and cluster == client.server.cluster:
        raise ConfigError(
            f"the source's index has the alias {alias!r}, and the target is the same cluster: what is read there from "
            f"{names} would be there twice.",
            remedy="set aliases = false and give the index aliases of its own.",
        )
    if not all(Definition(one.get("mappings") or {}).meta for one in holders.values()):
        raise ConfigError(
            f"the source's index has the alias {alias!r}, which in the target stands for {names}, not created by retl.",
            remedy=_REMEDY,
        )
    if about.get("is_write_index") and any(one["aliases"][alias].get("is_write_index") for one in holders.values()):
        raise ConfigError(
            f"the source's index is written through the alias {alias!r}, which in the target writes {names}.",
            remedy=_REMEDY,
        )
