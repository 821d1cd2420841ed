"""Emptying an index: it is deleted and created anew, or its documents are deleted.

In between there is only a note of it, an empty hidden index ``retl-<name>-note`` that holds
the definition: a crash loses nothing.
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from retl.connectors.elasticsearch import catalog
from retl.connectors.elasticsearch.catalog import Definition, ExistingIndex
from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.errors import refusal, server_error
from retl.connectors.elasticsearch.target import preflight, refresh
from retl.model.errors import ConnectionFailed, RetlError, TargetError
from retl.model.plan import WriteSpec

_POLL_SECONDS = 0.2


def _note_name(name: str) -> str:
    return refresh.beside(name, "note")


async def recreate(
    client: Client, spec: WriteSpec, existing: ExistingIndex, definition: Definition, columns: tuple[str, ...]
) -> None:
    """Delete an index and create it anew as it was; a note of its definition comes first.

    Before it is deleted such an index was created once under another name, and nothing forbids it under its own.
    """
    await preflight.try_out(client, spec, definition, columns)
    await preflight.check_creatable(client, existing.written, again=True)
    note = _note_name(existing.name)
    # A user who cannot see the note could not go on by it after a crash.
    await client.request("GET", f"/{quoted(note)}/_mapping", allow=(404,))
    await refresh.drop(client, note)
    about = {"index": existing.written, "body": msgspec.json.encode(definition.body()).decode()}
    settings = {"index": {"number_of_shards": 1, "number_of_replicas": 0, "hidden": True}}
    await client.request("PUT", f"/{quoted(note)}", body={"settings": settings, "mappings": {"_meta": {"retl": about}}})
    await refresh.drop(client, existing.written)
    await _create_again(client, existing.name, existing.written, definition)
    await refresh.drop(client, note)


async def recover(client: Client, name: str) -> None:
    """Create again what a crash has left deleted."""
    note = _note_name(name)
    # A user who may not see such a note has not made one.
    answer = await client.request("GET", f"/{quoted(note)}/_mapping", allow=(403, 404))
    if answer.status != 200:
        return
    about = msgspec.json.decode(answer.body)[note]["mappings"]["_meta"]["retl"]
    if await catalog.find_index(client, name) is None:
        body = msgspec.json.decode(about["body"])
        definition = Definition(body["mappings"], body["settings"]["index"], body["aliases"])
        await _create_again(client, name, about["index"], definition)
    await refresh.drop(client, note)


async def _create_again(client: Client, name: str, written: str, definition: Definition) -> None:
    """Create a deleted index again; under another name, behind an alias, where its own name is taken."""
    try:
        await refresh.create(client, written, definition)
    except ConnectionFailed as error:
        raise ConnectionFailed(f"{error.message} {_gone(written, name)}", remedy=error.remedy) from None
    except RetlError as error:
        await _restore_beside(client, name, written, definition, error)
    else:
        await refresh.make_alike(client, written, definition)


async def _restore_beside(client: Client, name: str, written: str, definition: Definition, error: RetlError) -> None:
    other = refresh.beside(name, "again")
    aliases = {**definition.aliases, name: definition.aliases.get(name, {})}
    try:
        await refresh.create(client, other, Definition(definition.mappings, definition.settings, aliases))
    except RetlError:
        raise TargetError(f"{error.message} {_gone(written, name)}", remedy=error.remedy) from None
    raise TargetError(
        f"{error.message} So {written!r}, which was deleted to empty it, is now the index {other!r}, empty, behind the "
        f"alias {name!r}.",
        remedy="the next scan loads it; free its name for an index where it is to have that again.",
    )


def _gone(written: str, name: str) -> str:
    note = _note_name(name)
    return (
        f"The index {written!r} was deleted to empty it and is not there now. Its mapping, settings and aliases lie in "
        f"the index {note!r} (GET /{note}/_mapping, below _meta.retl.body), and the next scan creates it from there."
    )


_ALL: dict[str, Any] = {"match_all": {}}


async def count_matching(client: Client, name: str, query: dict[str, Any]) -> int:
    """How many documents match, the newest included."""
    # Searches would miss those that no refresh has shown: they would stay, or look like another writer's.
    await client.request("POST", f"/{quoted(name)}/_refresh")
    return await catalog.counted(client, name, query=query)


async def delete_documents(client: Client, name: str, query: dict[str, Any] = _ALL) -> None:
    """Delete every document that matches, also those that somebody changes in between."""
    params = {"conflicts": "proceed", "wait_for_completion": "false", "slices": "auto"}
    for _ in range(5):
        if not await count_matching(client, name, query):
            return
        task = await client.call("POST", f"/{quoted(name)}/_delete_by_query", params=params, body={"query": query})
        await _finished(client, task["task"])
    raise TargetError(
        f"the documents of {name!r} could not all be deleted: somebody else writes it.",
        remedy="let one writer write it.",
    )


async def _finished(client: Client, task: str) -> None:
    while True:
        answer = await client.call("GET", f"/_tasks/{quoted(task)}")
        if answer["completed"]:
            break
        await anyio.sleep(_POLL_SECONDS)
    failures = answer.get("error") or (answer.get("response") or {}).get("failures")
    if "security_exception" in refusal(answer).kinds:
        raise server_error(403, msgspec.json.encode(answer), "target", client.place)
    if failures:
        raise TargetError(
            f"the documents could not be deleted: {msgspec.json.encode(failures)[:300].decode('utf-8', 'replace')}."
        )
