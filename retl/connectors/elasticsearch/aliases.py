"""The aliases of the source's index, for an index that is created in the target, where that is asked for.

A name that has a meaning in the target keeps it. An alias is shared only with indices that
retl has created, as several indices of a source share it, and never with the source itself:
whoever reads it there would find every document twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from retl.connectors.elasticsearch.client import Client, quoted
from retl.connectors.elasticsearch.definition import Definition, Known
from retl.connectors.elasticsearch.documents import index_of
from retl.model.errors import ConfigError
from retl.model.plan import WriteSpec

# Aliases by which a swap tells indices apart.
_OF_A_SWAP = re.compile(r"^retl-.+-(replaced|\d+-\d+-(loading|dropped))$")
_REMEDY = "set aliases = false and give the index its aliases yourself, or free the name in the target."


async def lacking(client: Client, spec: WriteSpec, known: Known | None) -> dict[str, Any]:
    """Those of the source's aliases that the index does not have.

    Raises ``ConfigError`` where one would change what is read or written under its name.
    """
    source = index_of(spec.schema) or {}
    own = known.definition.aliases if known is not None else {}
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
    if cluster and cluster == client.product.cluster:
        raise ConfigError(
            f"the source's index has the alias {alias!r}, and the target is the same cluster: what is read there from "
            f"{names} would be there twice.",
            remedy="set aliases = false and give the index aliases of its own.",
        )
    if not all(Definition(one.get("mappings") or {}).note for one in holders.values()):
        raise ConfigError(
            f"the source's index has the alias {alias!r}, which in the target stands for {names}, not created by retl.",
            remedy=_REMEDY,
        )
    if about.get("is_write_index") and any(one["aliases"][alias].get("is_write_index") for one in holders.values()):
        raise ConfigError(
            f"the source's index is written through the alias {alias!r}, which in the target writes {names}.",
            remedy=_REMEDY,
        )
