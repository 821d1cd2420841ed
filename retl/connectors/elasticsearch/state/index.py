"""The hidden index of the state store: how its documents are put, found and deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import anyio
import msgspec

from retl.connectors.elasticsearch.connection import Answer, Client, SharedClient, quoted
from retl.connectors.elasticsearch.errors import understood
from retl.model.errors import StateError, TargetBusy

T = TypeVar("T")
Query = dict[str, Any]
MOST_HITS = 10_000
"""Maximum hits of one answer."""
_MOST_BYTES = 512 * 1024
"""Size of one request, unless one document is larger."""
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_KEYWORDS = ("kind", "pipeline", "table", "scan_id", "at", "target", "name")
_KEYWORD = {"type": "keyword", "ignore_above": 8191}
# Overrides what templates may say of such a name: documents are kept as they are written.
_INDEX = {
    "settings": {
        "index": {
            "number_of_shards": 1,
            "auto_expand_replicas": "0-1",
            "hidden": True,
            "default_pipeline": "_none",
            "final_pipeline": "_none",
        }
    },
    "mappings": {
        "dynamic": False,
        "_source": {"enabled": True},
        "properties": dict.fromkeys(_KEYWORDS, _KEYWORD),
    },
}
_IF_THERE = {"ignore_unavailable": "true"}


class StateIndex:
    """The index, created or completed with the first document."""

    def __init__(self, shared: SharedClient, name: str) -> None:
        self.shared = shared
        self.name = name
        self.path = f"/{quoted(name)}"
        self._ready = False

    async def create(self) -> None:
        if self._ready:
            return
        client = await self.shared.client()
        # Asked first: a user who may not create indices may still use one that is there. By GET: to HEAD no reason is given.
        there = await client.request("GET", self.path, allow=(404,))
        if there.status == 404:
            await self._put_index(client)
        else:
            await self._add_fields(client, there)
        self._ready = True

    async def _put_index(self, client: Client) -> None:
        answer = await client.request("PUT", self.path, body=_INDEX, allow=(400,))
        if answer.status == 400 and b"resource_already_exists_exception" not in answer.body:
            raise StateError(
                f"the state index {self.name!r} cannot be created: {answer.body[:300].decode('utf-8', 'replace')}.",
                remedy="name another one with state_index.",
            )

    async def _add_fields(self, client: Client, there: Answer) -> None:
        """Map what an index of an older version lacks: a field that is not mapped is never found."""
        with understood(client.place):
            known = [index["mappings"].get("properties", {}) for index in there.json().values()]
        lacking = {name: _KEYWORD for name in _KEYWORDS if not all(name in fields for fields in known)}
        if lacking:
            await client.call("PUT", f"{self.path}/_mapping", body={"properties": lacking})

    async def get(self, document: str) -> Answer:
        """One document as of this moment; status 404 where it is not there."""
        client = await self.shared.client()
        # An index that was created a moment ago cannot answer at once.
        for pause in _PAUSES:
            answer = await client.request("GET", f"{self.path}/_doc/{document}", allow=(404, 503))
            if answer.status != 503:
                return answer
            await anyio.sleep(pause)
        return await client.request("GET", f"{self.path}/_doc/{document}", allow=(404,))

    async def put(self, document: str, body: Any, params: Mapping[str, Any]) -> bool:
        """Put one document; returns whether it was still as ``params`` require."""
        await self.create()
        client = await self.shared.client()
        path = f"{self.path}/_doc/{document}"
        answer = await client.request("PUT", path, params=params, body=msgspec.json.encode(body), allow=(409,))
        if answer.status != 409:
            self._check_kept(answer.json())
        return answer.status != 409

    async def put_all(self, documents: Mapping[str, Any]) -> None:
        """Put documents by their ids, all of them visible."""
        if documents:
            await self.create()
            await self.bulk([[{"index": {"_id": name}}, body] for name, body in documents.items()])

    async def remove(self, documents: Sequence[str]) -> int:
        """Delete documents by their ids; how many there were."""
        items = await self.bulk([[{"delete": {"_id": name}}] for name in documents])
        return sum(item["delete"]["status"] == 200 for item in items)

    async def get_bodies(self, documents: Sequence[str]) -> list[str]:
        """The field ``body`` of documents."""
        client = await self.shared.client()
        answer = await client.call("POST", f"{self.path}/_mget", body={"ids": documents})
        return [one["_source"]["body"] for one in answer["docs"] if one.get("found")]

    async def search(self, query: Query, sort: Sequence[Any], limit: int, **words: Any) -> list[dict[str, Any]]:
        """The hits of a query; ``words`` are further ones of the request."""
        client = await self.shared.client()
        body = {"query": query, "sort": sort, "size": min(limit, MOST_HITS - words.get("from", 0)), **words}
        answer = await client.call("POST", f"{self.path}/_search", params=_IF_THERE, body=body)
        found: list[dict[str, Any]] = answer["hits"]["hits"]
        return found

    async def count_by(self, query: Query, field: str) -> dict[str, int]:
        """How many documents there are of each value of a field."""
        client = await self.shared.client()
        terms = {"t": {"terms": {"field": field, "size": MOST_HITS}}}
        body = {"size": 0, "query": query, "aggs": terms}
        answer = await client.call("POST", f"{self.path}/_search", params=_IF_THERE, body=body)
        buckets = answer.get("aggregations", {}).get("t", {}).get("buckets", ())
        return {bucket["key"]: int(bucket["doc_count"]) for bucket in buckets}

    async def delete(self, query: Query) -> int:
        """Delete what is found, by ids: ``_delete_by_query`` could not show that it is gone without a privilege more."""
        gone = 0
        while found := await self.search(query, [], MOST_HITS, _source=False):
            gone += await self.remove([hit["_id"] for hit in found])
        return gone

    async def bulk(self, actions: Sequence[Sequence[Any]]) -> list[Any]:
        """The outcome of each action, which has one or two lines. All become visible."""
        client = await self.shared.client()
        encoded = [msgspec.json.Encoder().encode_lines(lines) for lines in actions]
        items: list[Any] = []
        for body in _requests(encoded):
            path, params = f"{self.path}/_bulk", {"refresh": "true"}
            answer = await client.call("POST", path, params=params, body=body, ndjson=True)
            if answer["errors"]:
                reasons = (about["error"] for item in answer["items"] for about in item.values() if "error" in about)
                reason = next(reasons, "it gives no reason")
                raise TargetBusy(f"the state index {self.name!r} does not take what is written: {reason}.")
            for item in answer["items"]:
                self._check_kept(*item.values())
            items += answer["items"]
        return items

    def _check_kept(self, answer: dict[str, Any]) -> None:
        """Raise ``StateError`` where a document was taken, and not kept: an ingest pipeline may drop it."""
        if answer.get("result") not in ("created", "updated", "deleted", "not_found"):
            raise StateError(
                f"the state index {self.name!r} took what was written and did not keep it ({answer.get('result')}).",
                remedy="take the ingest pipeline off it (index.default_pipeline, index.final_pipeline), or name another "
                "index with state_index.",
            )

    def decode(self, body: bytes | str, kind: type[T], what: str, remedy: str) -> T:
        """Decode JSON. Raises ``StateError`` where it is something else."""
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StateError(f"{what} in {self.name!r} cannot be read ({error}).", remedy=remedy) from None


def _requests(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Parts as bodies of requests that every server takes: http.max_content_length may be as low as 1 MB."""
    held: list[bytes] = []
    for part in parts:
        if held and sum(map(len, held)) + len(part) > _MOST_BYTES:
            yield b"".join(held)
            held = []
        held.append(part)
    if held:
        yield b"".join(held)


def query_of(kind: str, *further: Query, **fields: str | None) -> Query:
    """The query for the documents of a kind; a field that is ``None`` may have any value."""
    terms = [{"term": {name: value}} for name, value in {"kind": kind, **fields}.items() if value is not None]
    return {"bool": {"filter": [*terms, *further]}}


def identity(kind: str, *names: str) -> str:
    """The ``_id`` of a document: the same names, the same document, however long they are."""
    return f"{kind}-{hashlib.sha256(msgspec.json.encode(names)).hexdigest()}"
