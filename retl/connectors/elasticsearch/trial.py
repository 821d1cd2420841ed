"""A definition is tried before anything depends on it: an index is created with it under another name, and dropped."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from retl.connectors.elasticsearch import index
from retl.connectors.elasticsearch.client import Client, quoted
from retl.connectors.elasticsearch.definition import Definition, unwatched
from retl.model.errors import ConfigError, TargetError
from retl.model.plan import WriteSpec
from retl.threads import shielded

_AT_ONCE = {"wait_for_active_shards": "0"}


async def try_out(client: Client, spec: WriteSpec, definition: Definition, columns: tuple[str, ...] = ()) -> None:
    """Raise ``ConfigError`` where no index can be created so, or where ``columns`` cannot be fields of it.

    Nothing is left. Whoever may not create an index beside the table's tries nothing.
    """
    name = index.shadow_name(spec, trial=True)
    mappings = dict(definition.mappings)
    # A column that is not mapped, such as JSON, has a name that a document must be able to hold.
    unmapped = {
        column: {"type": "object", "enabled": False} for column in columns if column not in definition.properties
    }
    mappings["properties"] = {**unmapped, **definition.properties}
    tried = unwatched(Definition(mappings, definition.settings, {}))
    try:
        await index.create(client, name, tried, known_as=spec.table.to, params=_AT_ONCE, allow=(403,))
    finally:
        await shielded(client.request("DELETE", f"/{quoted(name)}", allow=(403, 404)))


async def check_name(client: Client, name: str, *, again: bool) -> None:
    """Raise ``ConfigError`` where no index can be created under this name, as far as that can be asked.

    ``again`` is for one that would be deleted first.
    """
    answer = await client.request("GET", "/_index_template", allow=(403,))
    if answer.status == 200:
        found = [one for one in answer.json()["index_templates"] if _is_for(one["index_template"], name)]
        winner = max(found, key=lambda one: one["index_template"].get("priority") or 0, default=None)
        if winner is not None and "data_stream" in winner["index_template"]:
            ways = 'use truncate = "delete_by_query" or pre_action = "swap"' if again else index.CREATE_STREAM
            raise ConfigError(
                f"no index {name!r} can be created{' again once it is deleted' if again else ''}: the index template "
                f"{winner['name']!r} makes a data stream of every new name like it.",
                remedy=f"{ways}, or change the pattern of the template.",
            )
    await client.request("POST", f"/_index_template/_simulate_index/{quoted(name)}", allow=(403, 404))
    await check_privileges(client, name, "create_index", "index")


async def check_pipelines(client: Client, name: str, pipelines: tuple[str, ...]) -> None:
    """Raise ``TargetError`` where an ingest pipeline of an index is not there: every document would be refused."""
    for pipeline in pipelines:
        if (await client.request("GET", f"/_ingest/pipeline/{quoted(pipeline)}", allow=(403, 404))).status == 404:
            raise TargetError(
                f"the index {name!r} sends its documents through the pipeline with id [{pipeline}], which does not exist.",
                remedy="create the ingest pipeline, or take it off the index (index.default_pipeline, index.final_pipeline).",
            )


async def check_privileges(client: Client, name: str, *wanted: str) -> None:
    """Who may empty an index, but not fill it again, is told before. Where nobody logs in all is allowed."""
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
