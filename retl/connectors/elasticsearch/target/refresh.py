"""Indices of the target: found, created, and switched for others.

A load of a whole new index goes into a shadow, ``retl-<name>-<epoch>-<time>``, whose only
alias says that it is being loaded. Documents are sent to that alias, and the switch takes it
off: so does the scan that drops what another one has left behind, and only one of them can. retl
may not drop an index without it, whatever its name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from time import monotonic_ns
from typing import Any

import msgspec

from retl.connectors.elasticsearch import catalog
from retl.connectors.elasticsearch.catalog import Definition, ExistingIndex
from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.errors import refusal
from retl.connectors.elasticsearch.settings import BLOCKS, blocks
from retl.model.errors import ConfigError
from retl.model.plan import WriteSpec


def unwatched(definition: Definition) -> Definition:
    """The definition of an index that is loaded before anybody sees it: no copies, no refresh, hidden from patterns."""
    settings = {name: value for name, value in definition.settings.items() if name != "auto_expand_replicas"}
    return Definition(
        definition.mappings, {**settings, "number_of_replicas": 0, "refresh_interval": "-1", "hidden": True}
    )


def restored(definition: Definition) -> dict[str, Any]:
    """The settings that such an index gets in the end; ``None`` means the server's default."""
    names = ("number_of_replicas", "refresh_interval", "hidden", "auto_expand_replicas")
    found = {name: definition.settings.get(name) for name in names}
    return {**found, BLOCKS: {"write": True}} if "write" in blocks(definition.settings) else found


_GRACE_SECONDS = 10.0
CREATE_STREAM = "create the data stream yourself (PUT /_data_stream/NAME), name another index with to"
# What the server says of a field name that conflicts with others.
_OF_NAMES = (
    "defined more than once",
    "both as an object and a field",
    "cannot be changed from type",
    "merge",
    "empty",
    "only whitespace",
)


async def create(
    client: Client,
    index: str,
    definition: Definition,
    *,
    shown_as: str | None = None,
    params: Mapping[str, Any] | None = None,
    allow: tuple[int, ...] = (),
) -> None:
    """Create an index. Raises ``ConfigError`` for an impossible definition; messages call it ``shown_as``."""
    answer = await client.request(
        "PUT", f"/{quoted(index)}", params=params, body=definition.body(), allow=(400, *allow)
    )
    if answer.status == 400:
        raise rejected_definition(
            f"the target cannot have an index {shown_as or index!r} as it would be created", answer.body
        )


async def extend(client: Client, index: str, added: Mapping[str, Any]) -> None:
    """Add to the mapping of an index."""
    if added:
        answer = await client.request("PUT", f"/{quoted(index)}/_mapping", body=dict(added), allow=(400,))
        if answer.status == 400:
            raise rejected_definition(f"the mapping of {index!r} in the target cannot be extended", answer.body)


def rejected_definition(what: str, body: bytes) -> ConfigError:
    """The error for a mapping or settings that the server rejects."""
    reason = refusal(body).reason
    remedy = (
        "leave the field out with exclude or columns, or create the index yourself: its mapping is then left alone."
    )
    if "Limit of total fields" in reason:
        remedy = (
            "read fewer fields with exclude or columns, or create the index yourself with a higher "
            "index.mapping.total_fields.limit: it is then left as it is."
        )
    elif "creates data streams only" in reason:
        remedy = f"{CREATE_STREAM}, or change the pattern of the template."
    elif any(words in reason for words in _OF_NAMES):
        remedy = f"give the column another name with rename, or {remedy}"
    return ConfigError(f"{what}: {reason}.", remedy=remedy)


async def make_alike(client: Client, index: str, definition: Definition) -> None:
    """Remove from a new index what templates have added: aliases and ingest pipelines."""
    (found,) = (await client.call("GET", f"/{quoted(index)}")).values()
    foreign = found["aliases"].keys() - definition.aliases.keys()
    if foreign:
        actions = [{"remove": {"index": index, "alias": alias}} for alias in sorted(foreign)]
        await client.request("POST", "/_aliases", body={"actions": actions})
    wanted = {name: definition.settings.get(name) for name in ("default_pipeline", "final_pipeline")}
    given = found["settings"]["index"]
    if any(given.get(name, "_none") != (value or "_none") for name, value in wanted.items()):
        await client.request("PUT", f"/{quoted(index)}/_settings", body={"index": wanted})


async def drop(client: Client, index: str) -> None:
    await client.request("DELETE", f"/{quoted(index)}", allow=(404,))


# Shadows ------------------------------------------------------------------------


def beside(name: str, what: str) -> str:
    """The name of an index or alias that serves another index.

    It does not begin as that of the index, or a template for such names would decide what becomes of it: that of many
    clusters for ``logs-*-*`` makes data streams.
    """
    return f"retl-{name}-{what}"


def shadow_name(spec: WriteSpec, *, trial: bool = False) -> str:
    """The index that a swap loads: the epoch separates owners, the time the scans of one owner.

    Behind the digits of the time stand those of the pipeline, which keep two pipelines apart. No scan has the epoch of a
    ``trial``.
    """
    time = f"{monotonic_ns():020}" if trial else re.sub(r"\D", "", spec.scan_id.split("-")[0])
    return beside(spec.table.to, f"{0 if trial else spec.epoch}-{time}{_digits(spec.pipeline)}")


def _digits(pipeline: str) -> str:
    return f"{int(hashlib.sha256(pipeline.encode()).hexdigest(), 16) % 10**8:08}"


def loading_alias(shadow: str) -> str:
    """The alias of a shadow during its load. Late documents, and a late switch, fail without it."""
    return f"{shadow}-loading"


def dropped_alias(shadow: str) -> str:
    """The alias of an abandoned shadow."""
    return f"{shadow}-dropped"


def replaced_alias(name: str) -> str:
    """The alias of the indices that were replaced and kept."""
    return beside(name, "replaced")


async def drop_leftovers(client: Client, name: str, pipeline: str) -> None:
    """Drop the unfinished shadows of this pipeline. Shadows that were switched in belong to the user."""
    answer = await client.call(
        "GET", f"/{quoted(beside(name, ''))}*/_alias", params={**catalog.EVERYTHING, "ignore_unavailable": "true"}
    )
    shadow = re.compile(re.escape(beside(name, "")) + rf"(\d+)-\d+{_digits(pipeline)}")
    for index, about in answer.items():
        found = shadow.fullmatch(index)
        if found and found[1] == "0":  # of a trial
            await drop(client, index)
        elif found and {loading_alias(index), dropped_alias(index)} & set(about["aliases"]):
            await drop_shadow(client, index)


async def create_shadow(client: Client, name: str, shadow: str, definition: Definition) -> None:
    own = Definition(definition.mappings, definition.settings, {loading_alias(shadow): {"is_hidden": True}})
    await create(client, shadow, own, shown_as=name)
    # Aliases of a template go: readers must not see the shadow, which is still empty.
    await make_alike(client, shadow, own)


async def drop_shadow(client: Client, shadow: str) -> None:
    """Drop a shadow, unless it has been switched in: the answer may have been lost."""
    # First the alias that a switch needs: a switch under way then fails, or has succeeded already. In the same step
    # the shadow is marked, so that after a crash before the next line the next scan knows the shadow.
    actions = [
        {"remove": {"index": shadow, "alias": loading_alias(shadow), "must_exist": True}},
        {"add": {"index": shadow, "alias": dropped_alias(shadow), "is_hidden": True}},
    ]
    # OpenSearch answers 400 for a missing alias.
    await client.request("POST", "/_aliases", body={"actions": actions}, allow=(400, 404))
    answer = await client.request("GET", f"/{quoted(shadow)}/_alias", allow=(404,))
    if answer.status == 200 and dropped_alias(shadow) in msgspec.json.decode(answer.body)[shadow]["aliases"]:
        await drop(client, shadow)


async def settle(client: Client, shadow: str, definition: Definition) -> None:
    """Give a loaded shadow its final copies and refreshes."""
    await client.request("PUT", f"/{quoted(shadow)}/_settings", body={"index": restored(definition)})
    await client.request("POST", f"/{quoted(shadow)}/_refresh")
    await _copied(client, shadow)


async def _copied(client: Client, index: str) -> None:
    """Wait for the copies that the cluster has nodes for, but no longer than an answer may take.

    Readers of the old index were safe from the loss of a node, and stay so.
    """
    path = f"/_cluster/health/{quoted(index)}"
    answer = await client.request("GET", path, allow=(403,))
    if answer.status == 403:
        return  # a user without the right to ask does not wait
    health = answer.json()
    primaries = health["active_primary_shards"]
    shards = health["active_shards"] + health["initializing_shards"] + health["unassigned_shards"]
    # No node holds the same shard twice: on a cluster of one node there is nothing to wait for.
    wanted = min(shards, primaries * health["number_of_data_nodes"])
    if health["active_shards"] < wanted:
        seconds = client.timeout
        params = {"wait_for_active_shards": wanted, "timeout": f"{round(seconds * 1000)}ms"}
        await client.request("GET", path, params=params, allow=(408,), timeout=seconds + _GRACE_SECONDS)


async def switch(
    client: Client, name: str, shadow: str, existing: ExistingIndex | None, *, more: Mapping[str, Any], keep: bool
) -> None:
    """Put a shadow in the place of what stands under a name, in one atomic step.

    It takes over the aliases of the old index, and gets ``more`` besides. One that stands in the way, since its name is the
    alias's, is dropped in the same step; so is one behind the alias, unless it is to be kept. Where the
    old index is no longer there, or the shadow, nothing is changed: somebody else was here.
    """
    loading = {"index": shadow, "alias": loading_alias(shadow), "must_exist": True}
    actions: list[dict[str, Any]] = [{"remove": loading}]
    own: Mapping[str, Any] = existing.definition.aliases if existing is not None else {}
    if existing is not None:
        if keep and existing.kind == "alias":
            actions += [{"remove": {"index": existing.written, "alias": alias, "must_exist": True}} for alias in own]
            actions.append({"add": {"index": existing.written, "alias": replaced_alias(name), "is_hidden": True}})
        else:
            actions.append({"remove_index": {"index": existing.written}})
    aliases = {**more, **own, name: own.get(name, {})}
    actions += [{"add": {"index": shadow, "alias": alias, **_words(about)}} for alias, about in aliases.items()]
    await client.request("POST", "/_aliases", body={"actions": actions})


def _words(about: Mapping[str, Any]) -> dict[str, Any]:
    existing = ("filter", "routing", "index_routing", "search_routing", "is_write_index", "is_hidden")
    return {word: about[word] for word in existing if word in about}
