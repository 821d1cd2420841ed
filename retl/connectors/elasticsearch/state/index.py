"""What the state store keeps of the past: rejects and reports, each a document of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from retl.connectors.elasticsearch.connection import Client, Line, quoted
from retl.model.checkpoint import Reject
from retl.model.errors import StateError, TargetBusy
from retl.model.report import ScanReport
from retl.state.base import Claim, StateStore, unreadable_report

T = TypeVar("T")
_KEPT_REPORTS = 1000
_MOST_FOUND = 10_000
"""Hits that the server gives at once."""
_MOST_BYTES = 512 * 1024
"""Of one request, unless one reject takes more: each character of it may become several bytes."""
_READ_AT_ONCE = 100
_KEYWORDS = ("kind", "pipeline", "table", "scan_id", "at", "target")
# What templates would say otherwise of such a name is said here: what is written is kept as it is.
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
        "properties": {name: {"type": "keyword", "ignore_above": 8191} for name in _KEYWORDS},
    },
}
_IF_THERE = {"ignore_unavailable": "true"}
_NEWEST = [{"scan_id": "desc"}]


class History(StateStore):
    """The index, created by the first who writes it, and what is appended to it."""

    def __init__(self, line: Line, index: str) -> None:
        self._line = line
        self._index = index
        self._path = f"/{quoted(index)}"
        self._ready = False

    async def _create(self, client: Client) -> None:
        if self._ready:
            return
        # Asked first: whoever may not create indices may still use one that is there. By GET: to HEAD no reason is given.
        if (await client.request("GET", self._path, allow=(404,))).status == 404:
            answer = await client.request("PUT", self._path, body=_INDEX, allow=(400,))
            if answer.status == 400 and b"resource_already_exists_exception" not in answer.body:
                raise StateError(
                    f"the state index {self._index!r} cannot be created: {answer.body[:300].decode('utf-8', 'replace')}.",
                    remedy="name another one with state_index.",
                )
        self._ready = True

    async def claims(self, target: str) -> list[Claim]:
        found = await self._search("claim", None, None, _MOST_FOUND, [], target=target)
        return [Claim(hit["pipeline"], hit["table"], target, bool(hit["replaces"])) for hit in found]

    async def _put_claim(self, claim: Claim) -> None:
        path = f"{self._path}/_doc/{identity('claim', claim.pipeline, claim.table)}"
        async with self._line.use() as client:
            await self._create(client)
            body = {"kind": "claim", **asdict(claim)}
            self._check_kept(await client.call("PUT", path, params={"refresh": "true"}, body=body))

    async def release_claims(self, pipeline: str, table: str | None = None) -> int:
        return await self._delete(_query("claim", pipeline, table))

    async def add_rejects(self, pipeline: str, rejects: Sequence[Reject]) -> None:
        if not rejects:
            return
        actions = [
            [
                {"index": {"_id": identity("reject", pipeline, reject.table, reject.key)}},
                {
                    "kind": "reject",
                    "pipeline": pipeline,
                    "table": reject.table,
                    "at": reject.at,
                    "body": text(reject),
                },
            ]
            for reject in rejects
        ]
        async with self._line.use() as client:
            await self._create(client)
            await self._bulk(client, actions)

    async def rejects(self, pipeline: str, table: str | None = None, limit: int = 1000) -> list[Reject]:
        newest = await self._search("reject", pipeline, table, limit, [{"at": "desc"}], source=False)
        remedy = "run `retl rejects --clear` to forget the rejects."
        found: list[Reject] = []
        # A thousand of them may be more than one answer holds.
        for first in range(0, len(newest), _READ_AT_ONCE):
            ids = [hit["_id"] for hit in newest[first : first + _READ_AT_ONCE]]
            async with self._line.use() as client:
                answer = await client.call("POST", f"{self._path}/_mget", body={"ids": ids})
            bodies = [one["_source"]["body"] for one in answer["docs"] if one.get("found")]
            found += [self._decode(body.encode(), Reject, "a reject", remedy) for body in bodies]
        return found

    async def count_rejects(self, pipeline: str) -> dict[str, int]:
        body = {
            "size": 0,
            "query": _query("reject", pipeline, None),
            "aggs": {"t": {"terms": {"field": "table", "size": 10_000}}},
        }
        async with self._line.use() as client:
            answer = await client.call("POST", f"{self._path}/_search", params=_IF_THERE, body=body)
        buckets = answer.get("aggregations", {}).get("t", {}).get("buckets", ())
        return {bucket["key"]: int(bucket["doc_count"]) for bucket in buckets}

    async def clear_rejects(self, pipeline: str, table: str | None = None) -> int:
        return await self._delete(_query("reject", pipeline, table))

    async def prune_rejects(self, pipeline: str, before: str, most: int) -> None:
        query = _query("reject", pipeline, None)
        await self._delete({"bool": {"filter": [query, {"range": {"at": {"lt": before}}}]}})
        for table, count in (await self.count_rejects(pipeline)).items():
            if count > most:
                oldest = await self._search("reject", pipeline, table, 1, [{"at": "desc"}], skip=most)
                about = [_query("reject", pipeline, table), {"range": {"at": {"lte": oldest[0]["at"]}}}]
                await self._delete({"bool": {"filter": about}})

    async def add_report(self, report: ScanReport) -> None:
        document = {
            "kind": "report",
            "pipeline": report.pipeline,
            "table": report.table,
            "scan_id": report.scan_id,
            "body": text(report),
        }
        path = f"{self._path}/_doc/{identity('report', report.pipeline, report.table, report.scan_id)}"
        async with self._line.use() as client:
            await self._create(client)
            self._check_kept(await client.call("PUT", path, params={"refresh": "true"}, body=document))
        query = _query("report", report.pipeline, report.table)
        oldest = await self._search("report", report.pipeline, report.table, 1, _NEWEST, skip=_KEPT_REPORTS)
        if oldest:
            await self._delete({"bool": {"filter": [query, {"range": {"scan_id": {"lte": oldest[0]["scan_id"]}}}]}})

    async def reports(self, pipeline: str | None = None, table: str | None = None, limit: int = 20) -> list[ScanReport]:
        found = await self._search("report", pipeline, table, limit, _NEWEST)
        return [self._report(hit) for hit in found]

    async def last_reports(self, pipeline: str) -> dict[str, ScanReport]:
        found = await self._search("report", pipeline, None, _MOST_FOUND, _NEWEST, one_of_each="table")
        return {hit["table"]: self._report(hit) for hit in reversed(found)}

    def _report(self, hit: dict[str, Any]) -> ScanReport:
        try:
            return self._decode(hit["body"].encode(), ScanReport, "a scan report", "")
        except StateError as error:
            scan = hit["scan_id"]
            return unreadable_report(hit["pipeline"], hit["table"], scan, _began(scan), "failed", error.message)

    async def _search(
        self,
        kind: str,
        pipeline: str | None,
        table: str | None,
        limit: int,
        sort: list[Any],
        *,
        skip: int = 0,
        one_of_each: str | None = None,
        target: str | None = None,
        source: bool = True,
    ) -> list[dict[str, Any]]:
        """What the documents hold, or without their ``source`` which they are."""
        body: dict[str, Any] = {
            "query": _query(kind, pipeline, table, target),
            "sort": sort,
            "size": min(limit, _MOST_FOUND - skip),
            "from": skip,
            "_source": source,
        }
        if one_of_each is not None:
            body["collapse"] = {"field": one_of_each}
        async with self._line.use() as client:
            answer = await client.call("POST", f"{self._path}/_search", params=_IF_THERE, body=body)
        return [hit["_source"] if source else hit for hit in answer["hits"]["hits"]]

    async def _delete(self, query: dict[str, Any]) -> int:
        """Delete what is found, by ids: ``_delete_by_query`` could not show that it is gone without a privilege more."""
        gone, search = 0, {"query": query, "size": _MOST_FOUND, "_source": False}
        async with self._line.use() as client:
            while True:
                answer = await client.call("POST", f"{self._path}/_search", params=_IF_THERE, body=search)
                if not answer["hits"]["hits"]:
                    return gone
                actions = [[{"delete": {"_id": hit["_id"]}}] for hit in answer["hits"]["hits"]]
                gone += sum(item["delete"]["status"] == 200 for item in await self._bulk(client, actions))

    async def _bulk(self, client: Client, actions: Sequence[Sequence[Any]]) -> list[Any]:
        """What has become of each action, which is one line or two. All of them are visible."""
        encoded = [msgspec.json.Encoder().encode_lines(lines) for lines in actions]
        items: list[Any] = []
        for body in _requests(encoded):
            path, params = f"{self._path}/_bulk", {"refresh": "true"}
            answer = await client.call("POST", path, params=params, body=body, ndjson=True)
            if answer["errors"]:
                reasons = (about["error"] for item in answer["items"] for about in item.values() if "error" in about)
                reason = next(reasons, "it gives no reason")
                raise TargetBusy(f"the state index {self._index!r} does not take what is written: {reason}.")
            for item in answer["items"]:
                self._check_kept(*item.values())
            items += answer["items"]
        return items

    def _check_kept(self, answer: dict[str, Any]) -> None:
        """Raise ``StateError`` where a document was taken, and not kept: an ingest pipeline may drop it."""
        if answer.get("result") not in ("created", "updated", "deleted", "not_found"):
            raise StateError(
                f"the state index {self._index!r} took what was written and did not keep it ({answer.get('result')}).",
                remedy="take the ingest pipeline off it (index.default_pipeline, index.final_pipeline), or name another "
                "index with state_index.",
            )

    async def aclose(self) -> None:
        await self._line.close()

    def _decode(self, body: bytes, kind: type[T], what: str, remedy: str) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StateError(f"{what} in {self._index!r} cannot be read ({error}).", remedy=remedy) from None


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


def _query(kind: str, pipeline: str | None, table: str | None, target: str | None = None) -> dict[str, Any]:
    wanted = {"kind": kind, "pipeline": pipeline, "table": table, "target": target}
    return {"bool": {"filter": [{"term": {name: value}} for name, value in wanted.items() if value is not None]}}


def _began(scan_id: str) -> str:
    """When a scan began, as its identifier says."""
    try:
        began = datetime.strptime(f"{scan_id.split('-')[0]}+0000", "%Y%m%dT%H%M%S.%f%z")
    except ValueError:
        began = datetime.fromtimestamp(0, UTC)
    return began.isoformat(timespec="milliseconds")


def identity(kind: str, *names: str) -> str:
    """The ``_id`` of a document: the same names, the same document, however long they are."""
    return f"{kind}-{hashlib.sha256(msgspec.json.encode(names)).hexdigest()}"


def text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
